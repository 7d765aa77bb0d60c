{{- /*
What router, prefill and decode have in common: one Deployment template for the three, called with
(dict "root" $ "component" "decode" "values" .Values.decode).
*/ -}}

{{- /* Every duration of a pod's end follows from its drain. */ -}}
{{- define "baton.grace" -}}
{{ add .values.preStopSeconds .values.drainSeconds 10 }}
{{- end }}

{{- define "baton.deployment" -}}
{{- $worker := ne .component "router" -}}
{{- $pod := include "baton.podSpec" . | fromYaml -}}
{{- with $pod.Error }}{{ fail . }}{{ end -}}
apiVersion: apps/v1
kind: Deployment
metadata: {{- include "baton.metadata" . | nindent 2 }}
spec:
  {{- if not .values.autoscaling.enabled }}
  replicas: {{ .values.replicas }}
  {{- end }}
  progressDeadlineSeconds: {{ add (include "baton.grace" .) .values.startupSeconds 120 }}
  strategy:
    {{- if .values.strategy }}
    {{- toYaml .values.strategy | nindent 4 }}
    {{- else if and $worker (eq .root.Values.device "cuda") }}
    rollingUpdate: {maxSurge: 0, maxUnavailable: 1}
    {{- else }}
    rollingUpdate: {maxSurge: 1, maxUnavailable: 0}
    {{- end }}
  selector:
    matchLabels: {{- include "baton.selector" . | nindent 6 }}
  template:
    metadata:
      annotations:
        baton.dev/config: {{ include "baton.config" . | sha256sum }}
        {{- with .values.podAnnotations }}{{ toYaml . | nindent 8 }}{{ end }}
      labels:
        {{- include "baton.podLabels" . | nindent 8 }}
        {{- if $worker }}
        baton.dev/kv-generation: {{ include "baton.generation" .root | quote }}
        llm-d.ai/role: {{ .component }}
        llm-d.ai/inference-serving: "true"
        {{- end }}
        {{- with .values.podLabels }}{{ toYaml . | nindent 8 }}{{ end }}
    spec: {{- mergeOverwrite $pod (deepCopy .values.podOverrides) | toYaml | nindent 6 }}
{{- end }}

{{- /* Of every pod, Redis's and the tests' too. Routers alone have a token, where they watch pods. */ -}}
{{- define "baton.podBase" -}}
automountServiceAccountToken: {{ and (eq .component "router") (eq .root.Values.discovery "kubernetes") }}
enableServiceLinks: false
securityContext: {{- include "baton.podSecurity" . | nindent 2 }}
{{- with .root.Values.imagePullSecrets }}
imagePullSecrets: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{- define "baton.podSpec" -}}
{{- $v := .root.Values -}}
{{- $worker := ne .component "router" -}}
{{ include "baton.podBase" . }}
serviceAccountName: {{ include "baton.serviceAccount" . }}
terminationGracePeriodSeconds: {{ include "baton.grace" . }}
{{- if and $worker $v.transfer.nvlink.enabled $v.transfer.nvlink.hostPID }}
hostPID: true
{{- end }}
{{- include "baton.placing" . }}
containers:
  - name: {{ .component }}
    {{- $suffix := $worker | ternary (eq $v.device "cuda" | ternary "engine" "engine-cpu") "router" }}
    image: {{ include "baton.image" (dict "root" .root "suffix" $suffix "given" .values.image) }}
    imagePullPolicy: {{ $v.image.pullPolicy }}
    command: {{- include "baton.command" . | nindent 6 }}
    env: {{- include "baton.env" . | nindent 6 }}
    ports: {{- include "baton.ports" . | nindent 6 }}
    {{- include "baton.probes" . | nindent 4 }}
    {{- if .values.preStopSeconds }}
    lifecycle: {preStop: {sleep: {seconds: {{ .values.preStopSeconds }}}}}
    {{- end }}
    resources: {{- include "baton.resources" . | nindent 6 }}
    securityContext: {{- include "baton.containerSecurity" . | nindent 6 }}
    volumeMounts: {{- include "baton.volumeMounts" . | nindent 6 }}
volumes: {{- include "baton.volumes" . | nindent 2 }}
{{- end }}

{{- /* Where a pod may run. */ -}}
{{- define "baton.placing" -}}
{{- $tolerations := .values.tolerations -}}
{{- if and (ne .component "router") (eq .root.Values.device "cuda") (.values.gpu | default dict).resourceName -}}
{{- $tolerations = append $tolerations (dict "key" .values.gpu.resourceName "operator" "Exists" "effect" "NoSchedule") -}}
{{- end }}
topologySpreadConstraints:
{{- if kindIs "invalid" .values.topologySpreadConstraints }}
  - maxSkew: 1
    topologyKey: kubernetes.io/hostname
    whenUnsatisfiable: ScheduleAnyway
    matchLabelKeys: [pod-template-hash]
    labelSelector:
      matchLabels: {{- include "baton.selector" . | nindent 8 }}
{{- else }}
{{- toYaml .values.topologySpreadConstraints | nindent 2 }}
{{- end }}
{{- range $key, $value := dict "nodeSelector" .values.nodeSelector "tolerations" $tolerations "affinity" .values.affinity "priorityClassName" .values.priorityClassName "runtimeClassName" .values.runtimeClassName }}
{{- if $value }}
{{ $key }}: {{ toJson $value }}
{{- end }}
{{- end }}
{{- end }}

{{- define "baton.command" -}}
{{- $command := default (list "python3" "-m" (printf "baton.%s" .component)) .values.command -}}
{{- $nvlink := .root.Values.transfer.nvlink -}}
{{- if and (ne .component "router") $nvlink.enabled (not .values.gpu.visibleDevices) -}}
{{- /* Every GPU's file is there; the one that the device plugin counted stands in its variable. */ -}}
{{- $command = concat (list "sh" "-c" "CUDA_VISIBLE_DEVICES=\"$NVIDIA_VISIBLE_DEVICES\" exec \"$@\"" "sh") $command -}}
{{- end -}}
{{ toYaml $command }}
{{- end }}

{{- /* Secrets, and what only the pod knows of itself. Everything else is in the config file. JSON keeps a number's digits. */ -}}
{{- define "baton.env" -}}
{{- $v := .root.Values -}}
- {name: BATON_CONFIG, value: /run/baton/config/config.json}
{{- if not (include "baton.redisUrl" .root) }}
- {name: BATON_STATE__URL, valueFrom: {secretKeyRef: {name: {{ $v.redis.existingSecret }}, key: {{ $v.redis.key }}}}}
{{- end }}
{{ include "baton.hub" . }}
{{- if ne .component "router" }}
- {name: BATON_POD__ID, valueFrom: {fieldRef: {fieldPath: metadata.name}}}
- {name: BATON_POD__HOST, valueFrom: {fieldRef: {fieldPath: status.podIP}}}
- {name: BATON_POD__NODE, valueFrom: {fieldRef: {fieldPath: spec.nodeName}}}
- {name: BATON_POD__ZONE, valueFrom: {fieldRef: {fieldPath: "metadata.labels['{{ $v.topology.zoneLabel }}']"}}}
{{- with $v.transfer.existingSecret }}
- {name: {{ eq $.component "decode" | ternary "BATON_HANDOFF__SECRET" "BATON_SECRET" }}, valueFrom: {secretKeyRef: {name: {{ . }}, key: {{ $v.transfer.key }}}}}
{{- end }}
{{- with .values.gpu.visibleDevices }}
- {name: CUDA_VISIBLE_DEVICES, value: {{ . | quote }}}
{{- end }}
{{- if and $v.transfer.nvlink.enabled (eq $v.transfer.nvlink.devices "runtime") }}
- {name: NVIDIA_VISIBLE_DEVICES, value: all}
- {name: NVIDIA_IMEX_CHANNELS, value: "0"}
{{- end }}
{{- range $name, $value := $v.transfer.env }}
- {name: {{ $name }}, value: {{ kindIs "string" $value | ternary $value (toJson $value) | quote }}}
{{- end }}
{{- end }}
{{- with .values.extraEnv }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- /* Of every pod that reads a model or its tokenizer. */ -}}
{{- define "baton.hub" -}}
{{- $v := .root.Values -}}
- {name: HF_HOME, value: {{ empty (include "baton.usesModels" .) | ternary "/tmp/huggingface" $v.modelCache.mountPath }}}
{{- if or $v.huggingface.offline (eq $v.model.id "tiny") }}
- {name: HF_HUB_OFFLINE, value: "1"}
{{- end }}
{{- with $v.huggingface.existingSecret }}
- {name: HF_TOKEN, valueFrom: {secretKeyRef: {name: {{ . }}, key: {{ $v.huggingface.key }}}}}
{{- end }}
{{- end }}

{{- define "baton.ports" -}}
{{- if eq .component "prefill" -}}
- {name: http, containerPort: 8001}
- {name: legs, containerPort: 5600}
{{- else -}}
- {name: http, containerPort: 8000}
- {name: metrics, containerPort: 9000}
{{- end }}
{{- end }}

{{- /* Ready says whether to send work here; live only that the process turns: neither asks Redis.
A router that has lost its last decode pod stays in its Service for half a minute: its requests wait for another. */ -}}
{{- define "baton.probes" -}}
{{- $start := eq .component "router" | ternary "/livez" "/readyz" -}}
{{- $port := eq .component "prefill" | ternary "http" "metrics" -}}
startupProbe: {httpGet: {path: {{ $start }}, port: {{ $port }}}, periodSeconds: 1, timeoutSeconds: 5, failureThreshold: {{ .values.startupSeconds }}}
readinessProbe: {httpGet: {path: /readyz, port: {{ $port }}}, periodSeconds: 2, timeoutSeconds: 5, failureThreshold: {{ eq .component "router" | ternary 15 2 }}}
livenessProbe: {httpGet: {path: /livez, port: {{ $port }}}, periodSeconds: 10, timeoutSeconds: 10, failureThreshold: 6}
{{- end }}

{{- define "baton.resources" -}}
{{- $v := .root.Values -}}
{{- $devices := dict -}}
{{- if and (ne .component "router") (eq $v.device "cuda") -}}
{{- if and .values.gpu.resourceName (not .values.gpu.visibleDevices) -}}
{{- $_ := set $devices .values.gpu.resourceName .values.tensorParallel -}}
{{- end -}}
{{- if $v.transfer.rdma.enabled -}}
{{- $_ := set $devices $v.transfer.rdma.resourceName (mul $v.transfer.rdma.perGpu .values.tensorParallel) -}}
{{- end }}{{ end -}}
{{ mergeOverwrite (deepCopy .values.resources) (dict "limits" (merge (dict) $devices (.values.resources.limits | default dict))) | toYaml }}
{{- end }}

{{- define "baton.volumeMounts" -}}
{{- $v := .root.Values -}}
- {name: config, mountPath: /run/baton/config, readOnly: true}
- {name: scratch, mountPath: /tmp}
{{- if ne .component "router" }}
- {name: cache, mountPath: /cache}
- {name: shm, mountPath: /dev/shm}
{{- else if .values.apiKeys.existingSecret }}
- {name: keys, mountPath: /run/baton/keys, readOnly: true}
{{- end }}
{{- if include "baton.usesModels" . }}
- {name: models, mountPath: {{ $v.modelCache.mountPath }}, readOnly: {{ $v.modelCache.readOnly }}}
{{- end }}
{{- with .values.extraVolumeMounts }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- /* Routers need the volume only for a tokenizer that is in it: a directory, or what was kept of a hub that is not asked. */ -}}
{{- define "baton.usesModels" -}}
{{- $tokenizer := include "baton.tokenizer" .root -}}
{{- $kept := and .root.Values.huggingface.offline (not (hasPrefix "/" $tokenizer)) -}}
{{- if or (ne .component "router") $kept (hasPrefix .root.Values.modelCache.mountPath $tokenizer) -}}yes{{- end -}}
{{- end }}

{{- define "baton.volumes" -}}
{{- $cache := .root.Values.modelCache -}}
- name: config
  configMap: {name: {{ include "baton.fullname" .root }}-{{ .component }}}
- {name: scratch, emptyDir: {}}
{{- if ne .component "router" }}
- {name: cache, emptyDir: {}}
- {name: shm, emptyDir: {medium: Memory, sizeLimit: {{ .values.shmSize }}}}
{{- else if .values.apiKeys.existingSecret }}
- {name: keys, secret: {secretName: {{ .values.apiKeys.existingSecret }}}}
{{- end }}
{{- if include "baton.usesModels" . }}
- name: models
  {{- if eq $cache.type "pvc" }}
  persistentVolumeClaim: {claimName: {{ default (printf "%s-models" (include "baton.fullname" .root)) $cache.existingClaim }}}
  {{- else if eq $cache.type "hostPath" }}
  hostPath: {path: {{ $cache.hostPath }}, type: Directory}
  {{- else }}
  emptyDir: {sizeLimit: {{ $cache.size }}}
  {{- end }}
{{- end }}
{{- with .values.extraVolumes }}
{{ toYaml . }}
{{- end }}{{ end }}
