{{- /* Who decides how many pods there are: a PodDisruptionBudget, and an HPA or KEDA on demand, never on GPU use. */ -}}
{{- define "baton.pdb" -}}
{{- $least := .values.autoscaling.enabled | ternary .values.autoscaling.minReplicas .values.replicas -}}
{{- if and .values.pdb.enabled (gt (int $least) 1) -}}
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata: {{- include "baton.metadata" . | nindent 2 }}
spec:
  maxUnavailable: {{ .values.pdb.maxUnavailable }}
  unhealthyPodEvictionPolicy: AlwaysAllow
  selector:
    matchLabels: {{- include "baton.selector" . | nindent 6 }}
{{- end }}
{{- end }}

{{- define "baton.scaler" -}}
{{- $scale := .values.autoscaling -}}
{{- $target := dict "apiVersion" "apps/v1" "kind" "Deployment" "name" (printf "%s-%s" (include "baton.fullname" .root) .component) -}}
{{- $pods := printf "namespace=%q,pod=~%q" .root.Release.Namespace (printf "%s-.*" $target.name) -}}
{{- if and $scale.enabled (eq $scale.kind "hpa") -}}
apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata: {{- include "baton.metadata" . | nindent 2 }}
spec:
  scaleTargetRef: {{- toYaml $target | nindent 4 }}
  minReplicas: {{ $scale.minReplicas }}
  maxReplicas: {{ $scale.maxReplicas }}
  metrics: {{- default (include "baton.hpaMetrics" . | fromYamlArray) $scale.metrics | toYaml | nindent 4 }}
  {{- with $scale.behavior }}
  behavior: {{- toYaml . | nindent 4 }}
  {{- else }}
  behavior: {scaleDown: {stabilizationWindowSeconds: {{ max 300 (int .values.drainSeconds) }}}}
  {{- end }}
{{- else if $scale.enabled -}}
apiVersion: keda.sh/v1alpha1
kind: ScaledObject
metadata: {{- include "baton.metadata" . | nindent 2 }}
spec:
  scaleTargetRef: {{- toYaml $target | nindent 4 }}
  minReplicaCount: {{ $scale.minReplicas }}
  maxReplicaCount: {{ $scale.maxReplicas }}
  pollingInterval: {{ $scale.keda.pollingSeconds }}
  cooldownPeriod: {{ $scale.keda.cooldownSeconds }}
  advanced:
    horizontalPodAutoscalerConfig:
      behavior: {{- default (dict "scaleDown" (dict "stabilizationWindowSeconds" (max 300 (int .values.drainSeconds)))) $scale.behavior | toYaml | nindent 8 }}
  triggers:
    - type: prometheus
      metadata:
        serverAddress: {{ $scale.keda.serverAddress }}
        {{- $demand := include "baton.demand" (dict "component" .component "pods" $pods) | fromYaml }}
        query: {{ default $demand.query $scale.keda.query | quote }}
        threshold: {{ default $demand.threshold $scale.keda.threshold | quote }}
{{- end }}
{{- end }}

{{- /* Per replica: prompt tokens that wait for a prefill pod; tenths of a decode pod's pages in use; a router's requests. */ -}}
{{- define "baton.demand" -}}
{{- if eq .component "prefill" -}}
query: {{ printf "sum(baton_prefill_tokens_queued{%s})" .pods | quote }}
threshold: "4096"
{{- else if eq .component "decode" -}}
query: {{ printf "10 * (sum(baton_pages{%s,state=\"used\"}) / scalar(avg(sum by (pod) (baton_pages{%s})))) + sum(baton_waiting{%s})" .pods .pods .pods | quote }}
threshold: "7"
{{- else -}}
query: {{ printf "sum(rate(baton_router_requests_total{%s}[1m]))" .pods | quote }}
threshold: "200"
{{- end }}
{{- end }}

{{- define "baton.hpaMetrics" -}}
{{- if eq .component "router" -}}
- {type: Resource, resource: {name: cpu, target: {type: Utilization, averageUtilization: 70}}}
{{- else if eq .component "prefill" -}}
- {type: Pods, pods: {metric: {name: baton_prefill_tokens_queued}, target: {type: AverageValue, averageValue: "4096"}}}
{{- else -}}
- {type: Pods, pods: {metric: {name: "vllm:kv_cache_usage_perc"}, target: {type: AverageValue, averageValue: 700m}}}
{{- end }}{{ end }}
