{{- /* For people, probes of the whole and metrics: requests go to pods' own addresses. */ -}}
{{- define "baton.workerService" -}}
apiVersion: v1
kind: Service
metadata: {{- include "baton.metadata" . | nindent 2 }}
spec:
  clusterIP: None
  selector: {{- include "baton.selector" . | nindent 4 }}
  ports:
    {{- range include "baton.ports" . | fromYamlArray }}
    - {name: {{ .name }}, port: {{ .containerPort }}, targetPort: {{ .name }}}
    {{- end }}{{ end }}
