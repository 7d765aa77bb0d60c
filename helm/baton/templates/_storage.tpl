{{- define "baton.embeddedRedis" -}}
{{- with .Values.redis }}{{ if and .embedded.enabled (not .url) (not .existingSecret) }}yes{{ end }}{{ end -}}
{{- end }}

{{- /* A null class is the cluster's default, an empty one is none. */ -}}
{{- define "baton.claim" -}}
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {{- include "baton.metadata" . | nindent 2 }}
spec:
  accessModes: {{ toJson .modes }}
  {{- if not (kindIs "invalid" .claim.storageClassName) }}
  storageClassName: {{ .claim.storageClassName | quote }}
  {{- end }}
  resources: {requests: {storage: {{ .claim.size }}}}
{{- end }}
