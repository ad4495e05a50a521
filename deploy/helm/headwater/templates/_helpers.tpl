{{- define "headwater.fullname" -}}
{{- $name := default .Chart.Name .Values.nameOverride }}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" }}
{{- else if contains $name .Release.Name }}
{{- .Release.Name | trunc 40 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name $name | trunc 40 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{- define "headwater.serviceAccountName" -}}
{{- if .Values.serviceAccount.create }}
{{- default (include "headwater.fullname" .) .Values.serviceAccount.name }}
{{- else }}
{{- default "default" .Values.serviceAccount.name }}
{{- end }}
{{- end }}

{{/* What never changes of a component's pods. Takes a list of the root and the component. */}}
{{- define "headwater.selectorLabels" -}}
{{- $root := first . -}}
app.kubernetes.io/name: {{ default $root.Chart.Name $root.Values.nameOverride }}
app.kubernetes.io/instance: {{ $root.Release.Name }}
app.kubernetes.io/component: {{ last . }}
{{- end }}

{{- define "headwater.labels" -}}
{{- $root := first . -}}
{{ include "headwater.selectorLabels" . }}
app.kubernetes.io/version: {{ $root.Chart.AppVersion | quote }}
app.kubernetes.io/part-of: headwater
app.kubernetes.io/managed-by: {{ $root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" $root.Chart.Name $root.Chart.Version | replace "+" "_" }}
{{- end }}

{{/* Name and labels of a component's object. Takes a list of the root and the component. */}}
{{- define "headwater.metadata" -}}
name: {{ include "headwater.fullname" (first .) }}-{{ last . }}
labels:
  {{- include "headwater.labels" . | nindent 2 }}
{{- end }}

{{/* The settings as they count: those of the values, and what follows from the claims. As JSON. */}}
{{- define "headwater.config" -}}
{{- $config := deepCopy .Values.config }}
{{- if not (dig "api" "keys_file" "" $config) }}
{{- $_ := set $config.api "keys_file" (printf "/etc/headwater-keys/%s" .Values.apiKeys.key) }}
{{- end }}
{{- if and .Values.windows.existingClaim (not (dig "windows" "address" "" $config)) }}
{{- $_ := set $config "windows" (set (default dict $config.windows) "address" .Values.windows.mountPath) }}
{{- end }}
{{- toJson $config }}
{{- end }}

{{/* headwater.toml: what stands outside of the sections, then each section. */}}
{{- define "headwater.toml" -}}
{{- $config := include "headwater.config" . | fromJson }}
{{- range $name := keys $config | sortAlpha }}
{{- $value := get $config $name }}
{{- if not (or (kindIs "map" $value) (kindIs "invalid" $value)) }}
{{ $name }} = {{ include "headwater.tomlValue" $value }}
{{- end }}
{{- end }}
{{- range $name := keys $config | sortAlpha }}
{{- $section := get $config $name }}
{{- if kindIs "map" $section }}

[{{ $name }}]
{{- range $setting := keys $section | sortAlpha }}
{{- $value := get $section $setting }}
{{- if not (kindIs "invalid" $value) }}
{{ $setting }} = {{ include "headwater.tomlValue" $value }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}

{{/* A value as TOML has it. Helm's own toToml writes whole numbers, which it reads as floats, as 4.0. */}}
{{- define "headwater.tomlValue" -}}
{{- if kindIs "slice" . -}}
{{- $items := list }}
{{- range . }}{{ $items = append $items (include "headwater.tomlValue" .) }}{{ end }}
{{- printf "[%s]" (join ", " $items) }}
{{- else if kindIs "map" . -}}
{{- $items := list }}
{{- range $name, $value := . }}
{{- if not (kindIs "invalid" $value) }}
{{- $items = append $items (printf "%s = %s" $name (include "headwater.tomlValue" $value)) }}
{{- end }}
{{- end }}
{{- printf "{ %s }" (join ", " $items) }}
{{- else if and (kindIs "float64" .) (eq (floor .) .) -}}
{{- printf "%.0f" . }}
{{- else -}}
{{- toJson . }}
{{- end -}}
{{- end }}

{{/* Environment variables of the secret settings. Takes a list of the root and the component. */}}
{{- define "headwater.secretEnv" -}}
{{- $withheld := dict
  "worker" (list "console" "oidc" "rollout.admin_token")
  "api" (list "console" "oidc")
  "controller" (list "console" "oidc")
  "trainer" (list "console" "oidc" "store")
  "console" list }}
{{- $mine := get $withheld (last .) }}
{{- range $section, $settings := (first .).Values.secretConfig }}
{{- range $setting, $source := $settings }}
{{- if not (or (has $section $mine) (has (printf "%s.%s" $section $setting) $mine)) }}
- name: HEADWATER_{{ upper $section }}__{{ upper $setting }}
  valueFrom:
    secretKeyRef: {name: {{ $source.name | quote }}, key: {{ $source.key | quote }}}
{{- end }}
{{- end }}
{{- end }}
{{- end }}

{{/* Image of a component. Takes a list of the root and the component. */}}
{{- define "headwater.image" -}}
{{- $root := first . }}
{{- $image := get $root.Values.image (ternary "trainer" "serving" (eq (last .) "trainer")) }}
{{- $name := $image.repository }}
{{- if $root.Values.image.registry }}{{ $name = printf "%s/%s" $root.Values.image.registry $name }}{{ end }}
{{- if $image.digest }}
{{- printf "%s@%s" $name $image.digest }}
{{- else }}
{{- printf "%s:%s" $name (default $root.Chart.AppVersion $image.tag) }}
{{- end }}
{{- end }}

{{/* Components that run, as JSON: where each tells its metrics. */}}
{{- define "headwater.components" -}}
{{- $found := dict "worker" (dict "port" "metrics" "asksForKey" false) }}
{{- if .Values.api.enabled }}{{ $_ := set $found "api" (dict "port" "http" "asksForKey" true) }}{{ end }}
{{- if .Values.console.enabled }}{{ $_ := set $found "console" (dict "port" "http" "asksForKey" true) }}{{ end }}
{{- if .Values.controller.enabled }}{{ $_ := set $found "controller" (dict "port" "metrics" "asksForKey" false) }}{{ end }}
{{- if .Values.trainer.enabled }}{{ $_ := set $found "trainer" (dict "port" "metrics" "asksForKey" false) }}{{ end }}
{{- toJson $found }}
{{- end }}
