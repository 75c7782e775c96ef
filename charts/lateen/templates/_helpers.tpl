{{- /* Values under `pilot` are the same as those at the top, and win. Every template begins with this. */}}
{{- define "lateen.values" -}}
{{- $_ := mergeOverwrite .Values .Values.pilot }}
{{- end }}

{{- /* Name of the control plane's parts, and the host name that proxies know it by. */}}
{{- define "lateen.name" -}}
istiod{{ with .Values.revision }}-{{ . }}{{ end }}
{{- end }}

{{- define "lateen.revision" -}}
{{ .Values.revision | default "default" }}
{{- end }}

{{- /* `-<revision>-<namespace>`: cluster-wide names. */}}
{{- define "lateen.suffix" -}}
{{ with .Values.revision }}-{{ . }}{{ end }}-{{ .Release.Namespace }}
{{- end }}

{{- /* Name of a MutatingWebhookConfiguration from its stem. Only those outside istio-system name their namespace. */}}
{{- define "lateen.injector" -}}
{{ .stem }}{{ if ne .namespace "istio-system" }}-{{ .namespace }}{{ end }}
{{- end }}

{{- define "lateen.labels" -}}
app: istiod
{{ include "lateen.commonLabels" . }}
{{- end }}

{{- define "lateen.commonLabels" -}}
istio.io/rev: {{ include "lateen.revision" . }}
release: {{ .Release.Name }}
app.kubernetes.io/name: istiod
{{ include "lateen.releaseLabels" . }}
{{- end }}

{{- define "lateen.releaseLabels" -}}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/part-of: istio
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end }}

{{- /* A Deployment's selector can never change, so these are istiod's: a release that takes over from Istio's chart
       keeps its Deployment. Without a revision `istio: pilot` keeps the pods of revisions out. */}}
{{- define "lateen.selector" -}}
{{- if .Values.revision -}}
app: istiod
istio.io/rev: {{ .Values.revision }}
{{- else -}}
istio: pilot
{{- end }}
{{- end }}

{{- define "lateen.image" -}}
{{- if contains "/" .Values.image -}}
{{ .Values.image }}
{{- else -}}
{{ .Values.hub | default .Values.global.hub }}/{{ .Values.image }}:{{ .Values.tag | default .Values.global.tag | default .Chart.AppVersion }}
{{- end }}
{{- end }}

{{- define "lateen.gatewayController" -}}
{{- if ne (toString .Values.env.PILOT_ENABLE_GATEWAY_API_DEPLOYMENT_CONTROLLER) "false" }}on{{ end }}
{{- end }}

{{- /* Whether certificates come from the API server's certificate signers. */}}
{{- define "lateen.signsByCluster" -}}
{{- if or .Values.env.EXTERNAL_CA (hasPrefix "k8s.io/" .Values.global.pilotCertProvider) }}on{{ end }}
{{- end }}

{{- /* What all webhooks for injection have in common. */}}
{{- define "lateen.injection" -}}
clientConfig:
  service:
    name: {{ .name }}
    namespace: {{ .namespace }}
    path: /inject
    port: 443
rules:
  - apiGroups: [""]
    apiVersions: [v1]
    operations: [CREATE]
    resources: [pods]
failurePolicy: Fail
reinvocationPolicy: {{ .webhook.reinvocationPolicy }}
sideEffects: None
admissionReviewVersions: [v1]
{{- end }}

{{- /* Levels as lateend takes them: of Istio's `scope:level` the level for all scopes is kept, the rest has no meaning. */}}
{{- define "lateen.log" -}}
{{- $levels := list }}
{{- range splitList "," .Values.global.logging.level }}
{{- if regexMatch "^(default|all):" . }}
{{- $levels = append $levels (regexReplaceAll "^(default|all):" . "" | replace "none" "off" | replace "fatal" "error") }}
{{- else if or (contains "::" .) (not (contains ":" .)) }}
{{- $levels = append $levels . }}
{{- end }}
{{- end }}
{{- join "," $levels | default "info" }}
{{- end }}

{{- /* Validation is open until the control plane answers and sets Fail; an upgrade keeps what it has set. */}}
{{- define "lateen.failurePolicy" -}}
{{- $live := "" }}
{{- if .Release.IsUpgrade }}
{{- range (lookup "admissionregistration.k8s.io/v1" "ValidatingWebhookConfiguration" "" (printf "istio-validator%s" (include "lateen.suffix" .))).webhooks }}
{{- $live = .failurePolicy }}
{{- end }}
{{- end }}
{{- $bundled := ternary "" "Fail" (empty .Values.base.validationCABundle) }}
{{- coalesce .Values.base.validationFailurePolicy $bundled $live (ternary "" "Ignore" .Release.IsUpgrade) }}
{{- end }}
