{{- /* Names. Cut at 52, so that the longest suffix and what Deployments and pods add still fit into 63. */ -}}
{{- define "baton.name" -}}
{{ default .Chart.Name .Values.nameOverride | trunc 52 | trimSuffix "-" }}
{{- end }}

{{- define "baton.fullname" -}}
{{- $name := include "baton.name" . -}}
{{- $full := contains $name .Release.Name | ternary .Release.Name (printf "%s-%s" .Release.Name $name) -}}
{{ default $full .Values.fullnameOverride | trunc 52 | trimSuffix "-" }}
{{- end }}

{{- /* An image by its suffix: (dict "root" $ "suffix" "router" "given" "a whole reference or nothing"). */ -}}
{{- define "baton.image" -}}
{{- $image := .root.Values.image -}}
{{- $name := printf "%s%s-%s" (empty $image.registry | ternary "" (printf "%s/" $image.registry)) $image.repository .suffix -}}
{{- $digest := get $image.digests .suffix -}}
{{- if .given -}}
{{ .given }}
{{- else if $digest -}}
{{ $name }}@{{ $digest }}
{{- else -}}
{{ $name }}:{{ default .root.Chart.AppVersion $image.tag }}
{{- end -}}
{{- end }}

{{- define "baton.serviceAccount" -}}
{{- $own := .root.Values.serviceAccount -}}
{{- $base := default (include "baton.fullname" .root) $own.name -}}
{{ $own.create | ternary (printf "%s-%s" $base (eq .component "router" | ternary "router" "worker")) (default "default" $own.name) }}
{{- end }}

{{- /* Where the model and its tokenizer are, as pods see them. */ -}}
{{- define "baton.model" -}}
{{ eq .Values.model.id "tiny" | ternary "/opt/baton/tiny" .Values.model.id }}
{{- end }}
{{- define "baton.tokenizer" -}}
{{ default (include "baton.model" .) .Values.model.tokenizer }}
{{- end }}
