{{- /* What a component reads at its start, under the application's own names. `config` of the values goes over it. */ -}}

{{- /* All that decides what a page of KV holds. Pods of two generations never hand over to each other. */ -}}
{{- define "baton.generation" -}}
{{- $image := .Values.image -}}
{{- $engine := list (omit $image.digests "router" "loadtest") (default .Chart.AppVersion $image.tag) .Values.prefill.image .Values.decode.image -}}
{{ list .Values.model .Values.kv .Values.device $engine | toJson | sha256sum | trunc 10 }}
{{- end }}

{{- define "baton.redisUrl" -}}
{{- if .Values.redis.url -}}
{{ .Values.redis.url }}
{{- else if and .Values.redis.embedded.enabled (not .Values.redis.existingSecret) -}}
redis://{{ include "baton.fullname" . }}-redis:6379/0
{{- end -}}
{{- end }}

{{- define "baton.config.common" -}}
logs: {level: {{ .Values.logging.level }}, format: {{ .Values.logging.format }}}
state:
  prefix: {{ printf "baton:%s:%s" .Release.Namespace .Release.Name }}
  {{- with include "baton.redisUrl" . }}
  url: {{ . }}
  {{- end }}
{{- if .Values.tracing.otlpEndpoint }}
trace: {endpoint: {{ .Values.tracing.otlpEndpoint | quote }}, sample: {{ .Values.tracing.sample }}}
{{- end }}
{{- end }}

{{- define "baton.config.router" -}}
{{- $v := .root.Values -}}
{{ include "baton.config.common" .root }}
http: {port: 8000, metrics_port: 9000}
discovery:
  source: {{ $v.discovery }}
  {{- if eq $v.discovery "kubernetes" }}
  namespace: {{ .root.Release.Namespace }}
  selector: {{ printf "app.kubernetes.io/name=%s,app.kubernetes.io/instance=%s,app.kubernetes.io/component in (prefill,decode)" (include "baton.name" .root) .root.Release.Name | quote }}
  {{- end }}
model:
  tokenizer: {{ include "baton.tokenizer" .root }}
  names: {{ default (list $v.model.id) $v.model.names | toJson }}
limits: {deadline_s: {{ .values.deadlineSeconds }}, drain_s: {{ .values.drainSeconds }}}
ui: {enabled: {{ .values.ui }}}
{{- if .values.apiKeys.existingSecret }}
keys: {file: {{ printf "/run/baton/keys/%s" .values.apiKeys.key }}}
{{- end }}
{{- end }}

{{- define "baton.config.worker" -}}
{{- $v := .root.Values -}}
{{ include "baton.config.common" .root }}
pod: {generation: {{ include "baton.generation" .root | quote }}}
engine:
  model: {{ include "baton.model" .root }}
  tokenizer: {{ include "baton.tokenizer" .root }}
  device: {{ $v.device }}
  dtype: {{ $v.model.dtype }}
  kv_cache_dtype: {{ $v.kv.dtype }}
  quantization: {{ $v.model.quantization }}
  load_format: {{ $v.model.loadFormat }}
  seed: {{ $v.model.seed }}
  max_model_len: {{ $v.model.maxLength }}
  page_size: {{ $v.kv.pageSize }}
  tensor_parallel: {{ .values.tensorParallel }}
{{- end }}

{{- define "baton.config.prefill" -}}
{{ include "baton.config.worker" . }}
  prefill_budget: 2048
listen: tcp://0.0.0.0:5600
http: {port: 8001}
drain_s: {{ .values.drainSeconds }}
{{- end }}

{{- define "baton.config.decode" -}}
{{ include "baton.config.worker" . }}
role: decode
names: {{ default (list .root.Values.model.id) .root.Values.model.names | toJson }}
http: {port: 8000, metrics_port: 9000}
limits: {deadline_s: {{ .root.Values.router.deadlineSeconds }}, drain_s: {{ .values.drainSeconds }}}
{{- if eq .root.Values.model.id "tiny" }}
handoff: {local_below: 8}
{{- end }}
{{- end }}

{{- define "baton.config" -}}
{{- $own := include (printf "baton.config.%s" .component) . | fromYaml -}}{{- with $own.Error }}{{ fail . }}{{ end -}}
{{ mergeOverwrite $own (deepCopy .values.config) | toJson }}
{{- end }}

{{- define "baton.configmap" -}}
apiVersion: v1
kind: ConfigMap
metadata: {{- include "baton.metadata" . | nindent 2 }}
data:
  config.json: {{ include "baton.config" . | quote }}
{{- end }}
