{{/* The revision as labels say it. */}}
{{- define "istiod.revision" -}}
{{ .Values.revision | default "default" }}
{{- end }}

{{/* istiod, or istiod-REVISION. */}}
{{- define "istiod.name" -}}
istiod{{ if .Values.revision }}-{{ .Values.revision }}{{ end }}
{{- end }}

{{/* What is appended to the names of cluster-wide objects. */}}
{{- define "istiod.suffix" -}}
{{ if .Values.revision }}-{{ .Values.revision }}{{ end }}-{{ .Release.Namespace }}
{{- end }}

{{/* Name of the member cluster. */}}
{{- define "istiod.cluster" -}}
{{ .Values.global.multiCluster.clusterName | default (trimSuffix "-net" .Values.global.network) | default "Kubernetes" }}
{{- end }}

{{- define "istiod.trustDomain" -}}
{{ .Values.meshConfig.trustDomain | default .Values.global.trustDomain | default "cluster.local" }}
{{- end }}

{{- define "istiod.labels" -}}
app: istiod
istio.io/rev: {{ include "istiod.revision" . }}
app.kubernetes.io/name: istiod
app.kubernetes.io/part-of: istio
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
{{- end }}

{{/* Name of the injector's ConfigMap and webhook configuration. */}}
{{- define "istiod.injector" -}}
istio-sidecar-injector{{ if .Values.revision }}-{{ .Values.revision }}{{ end }}
{{- end }}
