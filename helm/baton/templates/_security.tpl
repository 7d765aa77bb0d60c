{{- /* Restricted, for every pod of default values. What leaves it is opted into by name, and NOTES says so. */ -}}
{{- define "baton.podSecurity" -}}
{{- if eq (include "baton.asRoot" .) "yes" -}}
runAsUser: 0
{{- else -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
fsGroup: 10001
fsGroupChangePolicy: OnRootMismatch
{{- end }}
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- define "baton.containerSecurity" -}}
{{- $transfer := .root.Values.transfer -}}
{{- $own := dict "allowPrivilegeEscalation" false "readOnlyRootFilesystem" true "capabilities" (dict "drop" (list "ALL")) -}}
{{- if eq (include "baton.asRoot" .) "yes" -}}
{{- if and $transfer.nvlink.enabled (eq $transfer.nvlink.devices "privileged") -}}
{{- $own = dict "privileged" true "readOnlyRootFilesystem" true -}}
{{- else -}}
{{- $_ := set $own "capabilities" (dict "drop" (list "ALL") "add" (list "IPC_LOCK")) -}}
{{- end }}{{ end -}}
{{ mergeOverwrite $own (deepCopy (.values.securityContext | default dict)) | toYaml }}
{{- end }}

{{- define "baton.asRoot" -}}
{{- $transfer := .root.Values.transfer -}}
{{- $privileged := and $transfer.nvlink.enabled (eq $transfer.nvlink.devices "privileged") -}}
{{- $locks := and $transfer.rdma.enabled (eq $transfer.rdma.memlock "capability") -}}
{{- if and (has .component (list "prefill" "decode")) (or $privileged $locks) -}}yes{{- end -}}
{{- end }}
