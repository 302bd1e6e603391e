{{/* The operator's environment: each FINETUNE_ variable is a field of finetune_operator.settings.Settings. */}}
{{- define "finetune.env" -}}
- name: POD_NAME
  valueFrom: {fieldRef: {fieldPath: metadata.name}}
- name: FINETUNE_NAMESPACE
  valueFrom: {fieldRef: {fieldPath: metadata.namespace}}
{{- with .Values.namespaces }}
- {name: FINETUNE_NAMESPACES, value: {{ join "," . | quote }}}
{{- end }}
- {name: FINETUNE_LEASE, value: {{ include "finetune.fullname" . | quote }}}
- {name: FINETUNE_LIVENESS_PORT, value: {{ .Values.livenessPort | quote }}}
- {name: FINETUNE_METRICS_PORT, value: {{ .Values.metricsPort | quote }}}
- {name: FINETUNE_TRAINER_IMAGE, value: {{ include "finetune.image" (list . .Values.trainer.image) | quote }}}
- {name: FINETUNE_LIGHT_IMAGE, value: {{ include "finetune.image" (list . .Values.trainer.lightImage) | quote }}}
- {name: FINETUNE_DEFAULT_CPU, value: {{ .Values.trainer.resources.cpu | quote }}}
- {name: FINETUNE_DEFAULT_MEMORY, value: {{ .Values.trainer.resources.memory | quote }}}
- {name: FINETUNE_LIGHT_CPU, value: {{ .Values.trainer.lightResources.cpu | quote }}}
- {name: FINETUNE_LIGHT_MEMORY, value: {{ .Values.trainer.lightResources.memory | quote }}}
- {name: FINETUNE_SCRATCH_SIZE, value: {{ .Values.trainer.scratchSize | quote }}}
- {name: FINETUNE_TERMINATION_GRACE, value: {{ .Values.trainer.terminationGraceSeconds | quote }}}
- {name: FINETUNE_LOG_FORMAT, value: {{ .Values.operator.logFormat | quote }}}
- {name: FINETUNE_LEASE_SECONDS, value: {{ .Values.operator.leaseSeconds | quote }}}
- {name: FINETUNE_STUCK_SECONDS, value: {{ .Values.operator.stuckSeconds | quote }}}
- {name: FINETUNE_FREE_RETRIES, value: {{ .Values.operator.freeRetries | quote }}}
- {name: FINETUNE_NODE_UNREACHABLE_AFTER, value: {{ .Values.operator.nodeUnreachableAfter | quote }}}
- {name: FINETUNE_RESYNC_SECONDS, value: {{ .Values.operator.resyncSeconds | quote }}}
- {name: FINETUNE_WORKERS, value: {{ .Values.operator.workers | quote }}}
- {name: FINETUNE_REQUEST_TIMEOUT, value: {{ .Values.operator.requestTimeout | quote }}}
- {name: FINETUNE_PROGRESS_INTERVAL, value: {{ .Values.operator.progressInterval | quote }}}
- {name: FINETUNE_PROGRESS_IN_FLIGHT, value: {{ .Values.operator.progressInFlight | quote }}}
- {name: FINETUNE_RETRY_BACKOFF, value: {{ .Values.operator.retryBackoff | quote }}}
- {name: FINETUNE_RETRY_BACKOFF_LIMIT, value: {{ .Values.operator.retryBackoffLimit | quote }}}
{{- with .Values.trainer.pullPolicy }}
- {name: FINETUNE_IMAGE_PULL_POLICY, value: {{ . | quote }}}
{{- end }}
{{- with .Values.operator.allowedHosts }}
- {name: FINETUNE_ALLOWED_HOSTS, value: {{ join "," . | quote }}}
{{- end }}
{{- with .Values.extraEnv }}
{{ toYaml . }}
{{- end }}
{{- end -}}
