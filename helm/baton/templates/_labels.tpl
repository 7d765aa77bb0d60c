{{- /* Selectors are these three and nothing else, ever: they cannot be changed in a live release. */ -}}
{{- define "baton.selector" -}}
app.kubernetes.io/name: {{ include "baton.name" .root }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end }}

{{- /* Of pods: nothing that another chart version would change, or every pod would restart for it. */ -}}
{{- define "baton.podLabels" -}}
{{ include "baton.selector" . }}
app.kubernetes.io/part-of: baton
{{- end }}

{{- define "baton.labels" -}}
{{- with .root.Values.commonLabels }}{{ toYaml . }}
{{ end -}}
{{ include "baton.podLabels" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" }}
{{- end }}

{{- /* Every pod of this release, whatever its component. */ -}}
{{- define "baton.everyPod" -}}
app.kubernetes.io/name: {{ include "baton.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}
{{- /* (dict "root" $ "component" "decode"), and "name" where it is not the component's, "labels", "annotations". */ -}}
{{- define "baton.metadata" -}}
name: {{ include "baton.fullname" .root }}-{{ default .component .name }}
labels:
  {{- include "baton.labels" . | nindent 2 }}
  {{- with .labels }}{{ toYaml . | nindent 2 }}{{ end }}
{{- with .annotations }}
annotations: {{- toYaml . | nindent 2 }}
{{- end }}{{ end }}
