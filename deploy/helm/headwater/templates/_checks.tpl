{{/* Values that the schema lets through and that cannot be: each ends in one line that says what to set. */}}
{{- define "headwater.check" -}}
{{- $config := .Values.config }}
{{- $_ := required "config.kafka.bootstrap_servers: is not set: name your Kafka brokers, host:port,host:port" $config.kafka.bootstrap_servers }}
{{- $_ := required "config.store.address: is not set: name your Redis or Valkey, host:port" $config.store.address }}
{{- $_ := required "config.triton.url: is not set: name your Triton's gRPC address, host:port" $config.triton.url }}
{{- if or .Values.api.enabled .Values.console.enabled }}
{{- if not $config.api.keys_file }}
{{- $_ := required "apiKeys.existingSecret: is not set: make a file of keys with `headwater keys add`, put it into a Secret, and name that" .Values.apiKeys.existingSecret }}
{{- end }}
{{- end }}
{{- $trains := or .Values.trainer.enabled .Values.trainer.cronJob.enabled }}
{{- if or $trains (not $config.worker.model_addresses) }}
{{- $_ := required "modelRepository.existingClaim: is not set: name the PersistentVolumeClaim that Triton serves versions from" .Values.modelRepository.existingClaim }}
{{- end }}
{{- if and .Values.modelRepository.existingClaim (not (hasPrefix (printf "%s/" .Values.modelRepository.mountPath) $config.model_repository)) }}
{{- fail (printf "config.model_repository: %s is not below modelRepository.mountPath, %s: what is trained would be lost with the pod" $config.model_repository .Values.modelRepository.mountPath) }}
{{- end }}
{{- if and $trains (not .Values.windows.existingClaim) }}
{{- $_ := required "windows.existingClaim: is not set: name a PersistentVolumeClaim for the windows of events, or an object store in config.windows.address" (dig "windows" "address" "" $config) }}
{{- end }}
{{- if and .Values.trainer.enabled .Values.trainer.cronJob.enabled (not .Values.trainer.cronJob.suspend) }}
{{- fail "trainer.cronJob.suspend: is false beside trainer.enabled: of two that train, one ends: set one of them to the opposite" }}
{{- end }}
{{- if and (eq (dig "trainer" "release" "everyone" $config) "canary") (not .Values.controller.enabled) }}
{{- fail "controller.enabled: is false, and config.trainer.release is canary: nobody would watch a canary: set one of them to the opposite" }}
{{- end }}
{{- if and .Values.console.enabled (gt (int .Values.console.replicas) 1) (not (dig "console" "secret" "" .Values.secretConfig)) }}
{{- fail "secretConfig.console.secret: is not set, and console.replicas is more than 1: a session would hold at one of them only: name a Secret with 32 characters or more" }}
{{- end }}
{{- $partitions := int $config.kafka.partitions }}
{{- if .Values.keda.enabled }}
{{- include "headwater.checkKeda" . }}
{{- else if gt (int .Values.worker.replicas) $partitions }}
{{- fail (printf "worker.replicas: %d workers share %d partitions: set at most config.kafka.partitions" (int .Values.worker.replicas) $partitions) }}
{{- end }}
{{- if and .Values.monitoring.serviceMonitor.enabled (or .Values.api.enabled .Values.console.enabled) }}
{{- $_ := required "monitoring.serviceMonitor.apiKey.name: is not set: the API and the console tell their metrics to keys only: name the Secret that has one" .Values.monitoring.serviceMonitor.apiKey.name }}
{{- end }}
{{- end }}

{{- define "headwater.checkKeda" -}}
{{- $partitions := int .Values.config.kafka.partitions }}
{{- $most := int (default $partitions .Values.keda.maxReplicas) }}
{{- if gt $most $partitions }}
{{- fail (printf "keda.maxReplicas: %d workers share %d partitions: set at most config.kafka.partitions" $most $partitions) }}
{{- end }}
{{- if gt (int .Values.keda.minReplicas) $most }}
{{- fail (printf "keda.minReplicas: %d is more than keda.maxReplicas, %d" (int .Values.keda.minReplicas) $most) }}
{{- end }}
{{- if ne (dig "security_protocol" "PLAINTEXT" .Values.config.kafka) "PLAINTEXT" }}
{{- $_ := required "keda.authenticationRef: is not set, and Kafka asks for a login or TLS: name a TriggerAuthentication" .Values.keda.authenticationRef }}
{{- end }}
{{- end }}
