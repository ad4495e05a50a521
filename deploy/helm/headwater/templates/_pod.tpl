{{/*
The pod of a component. Takes a dict:
  root, component; name: of the pods, where it is another; args of `headwater`; ports by name;
  probes, env, volumes, mounts: as YAML; drains: whether requests have to find another pod first;
  restartPolicy: of a Job.
*/}}
{{- define "headwater.pod" -}}
{{- $root := .root }}
{{- $values := get $root.Values .component }}
{{- $name := default .component .name }}
{{- $config := include "headwater.config" $root | fromJson }}
{{- $isKeyed := and (has .component (list "api" "console")) $root.Values.apiKeys.existingSecret }}
{{- $readsWindows := has .component (list "trainer" "console") -}}
metadata:
  labels:
    {{- include "headwater.labels" (list $root $name) | nindent 4 }}
    {{- with $values.podLabels }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  annotations:
    # Whoever runs it gets its settings anew where they change.
    checksum/config: {{ include "headwater.toml" $root | sha256sum }}
    {{- with $values.podAnnotations }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
spec:
  serviceAccountName: {{ include "headwater.serviceAccountName" $root }}
  automountServiceAccountToken: false
  enableServiceLinks: false
  {{- with .restartPolicy }}
  restartPolicy: {{ . }}
  {{- end }}
  # Every process ends within 25 s of a SIGTERM.
  terminationGracePeriodSeconds: {{ ternary 40 30 (default false .drains) }}
  {{- with $root.Values.image.pullSecrets }}
  imagePullSecrets:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with $values.priorityClassName }}
  priorityClassName: {{ . }}
  {{- end }}
  securityContext:
    {{- toYaml $root.Values.podSecurityContext | nindent 4 }}
  {{- with $values.nodeSelector }}
  nodeSelector:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with $values.tolerations }}
  tolerations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with $values.affinity }}
  affinity:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  topologySpreadConstraints:
    {{- $selector := dict "matchLabels" (include "headwater.selectorLabels" (list $root $name) | fromYaml) }}
    {{- $spread := dict "maxSkew" 1 "whenUnsatisfiable" "ScheduleAnyway" }}
    {{- $usual := list (merge (dict "topologyKey" "topology.kubernetes.io/zone") $spread) (merge (dict "topologyKey" "kubernetes.io/hostname") $spread) }}
    {{- range default $usual $values.topologySpreadConstraints }}
    - {{- toYaml (merge (dict) . (dict "labelSelector" $selector)) | nindent 6 }}
    {{- end }}
  containers:
    - name: {{ $name }}
      image: {{ include "headwater.image" (list $root .component) | quote }}
      imagePullPolicy: {{ $root.Values.image.pullPolicy }}
      command: [headwater]
      args: {{ toJson .args }}
      workingDir: {{ $config.local.state_dir }}
      env:
        - {name: HEADWATER_CONFIG, value: /etc/headwater/headwater.toml}
        - {name: HOME, value: {{ $config.local.state_dir | quote }}}
        {{- with .env }}
        {{- . | nindent 8 }}
        {{- end }}
        {{- include "headwater.secretEnv" (list $root .component) | nindent 8 }}
        {{- with concat $root.Values.extraEnv $values.extraEnv }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
      {{- with $root.Values.extraEnvFrom }}
      envFrom:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      {{- with .ports }}
      ports:
        {{- range $name, $port := . }}
        - {name: {{ $name }}, containerPort: {{ int $port }}}
        {{- end }}
      {{- end }}
      {{- with .probes }}
      {{- . | nindent 6 }}
      {{- end }}
      {{- if .drains }}
      # Endpoints learn late that a pod goes: until then it takes requests.
      lifecycle: {preStop: {sleep: {seconds: 10}}}
      {{- end }}
      resources:
        {{- toYaml $values.resources | nindent 8 }}
      securityContext:
        {{- toYaml $root.Values.containerSecurityContext | nindent 8 }}
      volumeMounts:
        - {name: config, mountPath: /etc/headwater, readOnly: true}
        - {name: state, mountPath: {{ $config.local.state_dir | quote }}}
        - {name: tmp, mountPath: /tmp}
        {{- if $isKeyed }}
        - {name: api-keys, mountPath: /etc/headwater-keys, readOnly: true}
        {{- end }}
        {{- if $root.Values.modelRepository.existingClaim }}
        - {name: models, mountPath: {{ $root.Values.modelRepository.mountPath | quote }}, readOnly: {{ ne .component "trainer" }}}
        {{- end }}
        {{- if and $readsWindows $root.Values.windows.existingClaim }}
        - {name: windows, mountPath: {{ $root.Values.windows.mountPath | quote }}, readOnly: {{ ne .component "trainer" }}}
        {{- end }}
        {{- with .mounts }}
        {{- . | nindent 8 }}
        {{- end }}
        {{- with concat $root.Values.extraVolumeMounts (default list $values.extraVolumeMounts) }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
  volumes:
    - {name: config, configMap: {name: {{ include "headwater.fullname" $root }}}}
    - {name: state, emptyDir: {sizeLimit: {{ $root.Values.stateSize }}}}
    - {name: tmp, emptyDir: {sizeLimit: {{ $root.Values.tmpSize }}}}
    {{- if $isKeyed }}
    - {name: api-keys, secret: {secretName: {{ $root.Values.apiKeys.existingSecret }}}}
    {{- end }}
    {{- with $root.Values.modelRepository.existingClaim }}
    - {name: models, persistentVolumeClaim: {claimName: {{ . }}}}
    {{- end }}
    {{- if and $readsWindows $root.Values.windows.existingClaim }}
    - {name: windows, persistentVolumeClaim: {claimName: {{ $root.Values.windows.existingClaim }}}}
    {{- end }}
    {{- with .volumes }}
    {{- . | nindent 4 }}
    {{- end }}
    {{- with concat $root.Values.extraVolumes (default list $values.extraVolumes) }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
{{- end }}

{{/* Probes of a process that answers on its metrics port. /readyz asks servers: it may take seconds. */}}
{{- define "headwater.probes" -}}
startupProbe:
  httpGet: {path: /livez, port: metrics}
  periodSeconds: 2
  failureThreshold: 60
livenessProbe:
  httpGet: {path: /livez, port: metrics}
  periodSeconds: 10
  timeoutSeconds: 5
readinessProbe:
  httpGet: {path: /readyz, port: metrics}
  periodSeconds: 10
  timeoutSeconds: 5
{{- end }}

{{/* Probes of the API and the console. */}}
{{- define "headwater.httpProbes" -}}
startupProbe:
  httpGet: {path: /startupz, port: http}
  periodSeconds: 2
  failureThreshold: 150
livenessProbe:
  httpGet: {path: /livez, port: http}
  periodSeconds: 10
  timeoutSeconds: 5
readinessProbe:
  httpGet: {path: /readyz, port: http}
  periodSeconds: 5
  timeoutSeconds: 2
{{- end }}
