{{- define "gateway.name" -}}
{{ .Values.name | default .Release.Name }}
{{- end }}

{{- define "gateway.serviceAccountName" -}}
{{- $own := ternary (include "gateway.name" .) "default" .Values.serviceAccount.create -}}
{{ .Values.serviceAccount.name | default $own }}
{{- end }}

{{- /* As Istio's chart has it, since a Deployment's selector can never change and Gateway resources select by it. */}}
{{- define "gateway.selector" -}}
app: {{ .Values.labels.app | default (include "gateway.name" .) | quote }}
istio: {{ .Values.labels.istio | default (include "gateway.name" . | trimPrefix "istio-") | quote }}
{{- end }}

{{- define "gateway.labels" -}}
app.kubernetes.io/name: {{ include "gateway.name" . }}
app.kubernetes.io/instance: {{ include "gateway.name" . }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/part-of: istio
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{ include "gateway.selector" . }}
{{- with omit .Values.labels "app" "istio" }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- /* The ports, as a list of objects under `ports`. */}}
{{- define "gateway.ports" -}}
{{- $ports := .Values.service.ports }}
{{- if .Values.networkGateway }}
{{- $ports = list }}
{{- range $name := list "status-port" "tls" "tls-istiod" "tls-webhook" }}
{{- $port := get $.Values.networkGatewayPorts $name }}
{{- $ports = append $ports (merge (dict "name" $name) (deepCopy $port) (dict "targetPort" $port.port "protocol" "TCP")) }}
{{- end }}
{{- end }}
{{- toYaml (dict "ports" $ports) }}
{{- end }}
