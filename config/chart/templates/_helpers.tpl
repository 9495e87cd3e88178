{{- /* metallb.unfold $: puts values with flat names, such as "speaker.image.tag", in their places. A dot within a name
is written "\.". Each template with values begins with it. */ -}}
{{- define "metallb.unfold" -}}
{{- $flags := list "metallb.create" "networkpolicies.enabled" "speaker.ignoreExcludeLB"
  "prometheus.serviceMonitor.enabled" "prometheus.podMonitor.enabled" "prometheus.prometheusRule.enabled"
  "prometheus.rbacPrometheus" -}}
{{- range $name, $value := .Values -}}
{{- if contains "." $name -}}
{{- if has $name $flags }}{{- $value = eq (toString $value) "true" }}{{- end -}}
{{- if eq $name "networkpolicies.apiPort" }}{{- $value = int $value }}{{- end -}}
{{- $at := $.Values -}}
{{- $parts := list -}}
{{- range splitList "." (replace "\\." "\n" $name) }}{{- $parts = append $parts (replace "\n" "." .) }}{{- end -}}
{{- range initial $parts -}}
{{- if not (kindIs "map" (get $at .)) }}{{- $_ := set $at . dict }}{{- end -}}
{{- $at = get $at . -}}
{{- end -}}
{{- $_ := set $at (last $parts) $value -}}
{{- $_ := unset $.Values $name -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- /* metallb.image (list $ COMPONENT): the image that a component runs. */ -}}
{{- define "metallb.image" -}}
{{- $root := index . 0 -}}
{{- $component := index . 1 -}}
{{- $image := (index $root.Values $component).image -}}
{{- $repository := $image.repository -}}
{{- if and (eq $component "operator") (not $repository) -}}
{{- $beside := $root.Values.controller.image.repository | default "" -}}
{{- if not (hasSuffix "controller" $beside) -}}
{{- fail (printf "operator.image.repository: set it, since controller.image.repository %q does not end with controller" $beside) -}}
{{- end -}}
{{- $repository = printf "%soperator" (trimSuffix "controller" $beside) -}}
{{- end -}}
{{- if not $repository }}{{- fail (printf "%s.image.repository: is empty" $component) }}{{- end -}}
{{- if $image.digest -}}
{{ printf "%s@%s" $repository $image.digest | toJson }}
{{- else -}}
{{ printf "%s:%s" $repository (default $root.Chart.AppVersion $image.tag) | toJson }}
{{- end -}}
{{- end -}}

{{- /* metallb.config COMPONENT'S VALUES: the part of the MetalLB resource about its pods, as JSON. */ -}}
{{- define "metallb.config" -}}
{{- $config := dict -}}
{{- range $field, $value := dict "resources" .resources "affinity" .affinity "priorityClassName" .priorityClassName "runtimeClassName" .runtimeClassName "annotations" .podAnnotations -}}
{{- if $value }}{{- $_ := set $config $field $value }}{{- end -}}
{{- end -}}
{{- toJson $config -}}
{{- end -}}

{{- /* metallb.spec: the spec of the MetalLB resource, as JSON. */ -}}
{{- define "metallb.spec" -}}
{{- $values := .Values -}}
{{- $spec := dict -}}
{{- $prometheus := $values.prometheus | default dict -}}
{{- $monitoring := dict -}}
{{- if dig "serviceMonitor" "enabled" false $prometheus }}{{- $_ := set $monitoring "monitors" "ServiceMonitor" -}}
{{- else if dig "podMonitor" "enabled" false $prometheus }}{{- $_ := set $monitoring "monitors" "PodMonitor" -}}
{{- end -}}
{{- if hasKey ($prometheus.prometheusRule | default dict) "enabled" -}}
{{- $_ := set $monitoring "alerts" $prometheus.prometheusRule.enabled -}}
{{- end -}}
{{- $fields := dict
  "loadBalancerClass" $values.loadBalancerClass
  "imagePullSecrets" $values.imagePullSecrets
  "ignoreExcludeLB" $values.speaker.ignoreExcludeLB
  "networkPolicies" (pick $values.networkpolicies "enabled" "apiPort")
  "monitoring" $monitoring
  "logLevel" (coalesce $values.speaker.logLevel $values.controller.logLevel)
  "nodeSelector" $values.speaker.nodeSelector
  "speakerTolerations" $values.speaker.tolerations
  "speakerConfig" (include "metallb.config" $values.speaker | fromJson)
  "controllerNodeSelector" $values.controller.nodeSelector
  "controllerTolerations" $values.controller.tolerations
  "controllerConfig" (include "metallb.config" $values.controller | fromJson)
-}}
{{- range $field, $value := $fields -}}
{{- if $value }}{{- $_ := set $spec $field $value }}{{- end -}}
{{- end -}}
{{- mergeOverwrite $spec $values.metallb.spec | toJson -}}
{{- end -}}

{{- /* metallb.ignored: the given values of MetalLB's own chart that mean nothing here, joined by spaces. */ -}}
{{- define "metallb.ignored" -}}
{{- $found := list -}}
{{- $names := list "nameOverride" "fullnameOverride" "rbac" "crds" "frrk8s"
  "prometheus.scrapeAnnotations" "prometheus.metricsPort" "prometheus.controllerMetricsTLSSecret"
  "prometheus.speakerMetricsTLSSecret"
  "controller.enabled" "controller.strategy" "controller.serviceAccount" "controller.securityContext"
  "controller.labels" "controller.livenessProbe" "controller.readinessProbe" "controller.tlsMinVersion"
  "controller.tlsCipherSuites" "controller.extraContainers" "controller.webhookMode"
  "speaker.enabled" "speaker.tolerateMaster" "speaker.memberlist" "speaker.excludeInterfaces"
  "speaker.updateStrategy" "speaker.serviceAccount" "speaker.securityContext"
  "speaker.labels" "speaker.livenessProbe" "speaker.readinessProbe" "speaker.startupProbe" "speaker.frr"
  "speaker.reloader" "speaker.frrMetrics" "speaker.extraContainers" "speaker.volumeMounts" "speaker.volumes"
-}}
{{- range $name := $names -}}
{{- $parts := splitList "." $name -}}
{{- $parent := $.Values -}}
{{- if eq (len $parts) 2 }}{{- $parent = index $.Values (first $parts) | default dict }}{{- end -}}
{{- if hasKey $parent (last $parts) }}{{- $found = append $found $name }}{{- end -}}
{{- end -}}
{{- join " " $found -}}
{{- end -}}
