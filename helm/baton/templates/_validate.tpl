{{- /* What the schema cannot say: rules between values, each with the path that breaks it. */ -}}
{{- define "baton.validate" -}}
{{- $v := .Values -}}
{{- if not (or $v.redis.url $v.redis.existingSecret $v.redis.embedded.enabled) }}{{ fail "redis: set redis.url, redis.existingSecret or redis.embedded.enabled" }}{{ end -}}
{{- if and $v.redis.url $v.redis.existingSecret }}{{ fail "redis: redis.url and redis.existingSecret exclude each other" }}{{ end -}}
{{- if contains "@" $v.redis.url }}{{ fail "redis.url: a URL with a password belongs in a secret: redis.existingSecret" }}{{ end -}}
{{- if lt (int $v.router.drainSeconds) (int $v.decode.drainSeconds) }}{{ fail (printf "router.drainSeconds: streams end in the router, so it must be at least decode.drainSeconds (%v), not %v" $v.decode.drainSeconds $v.router.drainSeconds) }}{{ end -}}
{{- if and (eq $v.model.id "tiny") (ne $v.model.loadFormat "auto") }}{{ fail "model.loadFormat: the tiny model brings its weights; dummy is for other shapes" }}{{ end -}}
{{- if and (hasPrefix "/" $v.model.id) (not (hasPrefix (printf "%s/" $v.modelCache.mountPath) $v.model.id)) (not (hasPrefix "/opt/baton/" $v.model.id)) (not (or $v.prefill.extraVolumeMounts $v.decode.extraVolumeMounts)) }}{{ fail (printf "model.id: %s is not below modelCache.mountPath (%s), and no extraVolumeMounts bring it" $v.model.id $v.modelCache.mountPath) }}{{ end -}}
{{- if and (eq $v.modelCache.type "hostPath") (not $v.modelCache.hostPath) }}{{ fail "modelCache.hostPath: which directory of the node?" }}{{ end -}}
{{- if and (ne $v.modelCache.type "pvc") $v.modelCache.existingClaim }}{{ fail "modelCache.existingClaim: needs modelCache.type pvc" }}{{ end -}}
{{- if and (eq $v.modelCache.type "pvc") (not $v.modelCache.existingClaim) $v.modelCache.readOnly }}{{ fail "modelCache.existingClaim: a claim that is only read must be there already" }}{{ end -}}
{{- if and (or $v.transfer.rdma.enabled $v.transfer.nvlink.enabled) (ne $v.device "cuda") }}{{ fail "transfer: rdma and nvlink need device cuda" }}{{ end -}}
{{- if and $v.transfer.rdma.enabled (not $v.transfer.rdma.resourceName) }}{{ fail "transfer.rdma.resourceName: what is the device called?" }}{{ end -}}
{{- if and $v.transfer.nvlink.enabled (eq $v.transfer.nvlink.devices "runtime") (not (and $v.prefill.gpu.visibleDevices $v.decode.gpu.visibleDevices)) }}{{ fail "transfer.nvlink.devices: with runtime every GPU is shown to every pod; prefill.gpu.visibleDevices and decode.gpu.visibleDevices say whose is whose" }}{{ end -}}
{{- if and (eq $v.discovery "kubernetes") (not $v.serviceAccount.create) (not $v.serviceAccount.name) }}{{ fail "serviceAccount.name: routers that watch pods need an account of their own" }}{{ end -}}
{{- range $name := list "router" "prefill" "decode" -}}
{{- $own := get $v $name -}}
{{- if gt (int $own.autoscaling.minReplicas) (int $own.autoscaling.maxReplicas) }}{{ fail (printf "%s.autoscaling.minReplicas: %v is above maxReplicas, %v" $name $own.autoscaling.minReplicas $own.autoscaling.maxReplicas) }}{{ end -}}
{{- if and $own.autoscaling.enabled (eq $own.autoscaling.kind "keda") (not $own.autoscaling.keda.serverAddress) }}{{ fail (printf "%s.autoscaling.keda.serverAddress: where is Prometheus?" $name) }}{{ end -}}
{{- with $own.config.http }}{{ if or (hasKey . "port") (hasKey . "metrics_port") }}{{ fail (printf "%s.config.http: leave out port and metrics_port, which probes, services and policies know as they are" $name) }}{{ end }}{{ end -}}
{{- if or (hasKey $own.config "drain_s") (hasKey ($own.config.limits | default dict) "drain_s") }}{{ fail (printf "%s.config: drain_s belongs under %s.drainSeconds, which the pods' grace follows" $name $name) }}{{ end -}}
{{- end -}}
{{- range $name := list "prefill" "decode" -}}
{{- $own := get $v $name -}}
{{- range $key := list "model" "device" "dtype" "kv_cache_dtype" "quantization" "load_format" "seed" "page_size" "max_model_len" "tensor_parallel" -}}
{{- if hasKey ($own.config.engine | default dict) $key }}{{ fail (printf "%s.config.engine.%s: both roles must agree on it: it stands under model, kv, device or tensorParallel" $name $key) }}{{ end -}}
{{- end -}}
{{- if and $own.gpu.visibleDevices (ne $v.device "cuda") }}{{ fail (printf "%s.gpu.visibleDevices: needs device cuda" $name) }}{{ end -}}
{{- if and $own.gpu.visibleDevices (ne (len (splitList "," $own.gpu.visibleDevices)) (int $own.tensorParallel)) }}{{ fail (printf "%s.gpu.visibleDevices: %s names another number of GPUs than tensorParallel, %v" $name $own.gpu.visibleDevices $own.tensorParallel) }}{{ end -}}
{{- end -}}
{{- end }}
