//! Which Helm values there are, which of Istio's do nothing here, and what to write instead.
//!
//! The values that have an effect are those of the charts' `values.yaml`; an empty mapping there takes any
//! content. The table below has Istio's others, so that a file written for Istio is understood.

use std::sync::Arc;

use isthmus_api::codes;
use isthmus_api::finding::{Finding, Level};
use isthmus_api::suggest::nearest;
use isthmus_api::yaml::{Node, ScalarKind, Value as Tree};
use serde_json::{Map, Value};

use crate::chart::Chart;
use crate::merge::merge;

/// A value of Istio's that does nothing here.
#[derive(Debug, Clone, Copy)]
pub struct Idle {
    /// Path below `values`; everything below it is idle as well.
    pub path: &'static str,
    /// Why.
    pub why: &'static str,
    /// What to write instead.
    pub instead: &'static str,
}

macro_rules! idle {
    ($($path:literal $why:literal $instead:literal;)*) => {
        /// Istio's values without effect.
        pub const IDLE: &[Idle] = &[$(Idle { path: $path, why: $why, instead: $instead }),*];
    };
}

idle! {
    "ambient" "there is no ambient mode" "remove it";
    "cni" "traffic is redirected by an init container" "remove it";
    "defaultRevision" "each control plane validates its own revision" "remove it";
    "base.validationURL" "the webhook is the control plane's Service" "remove it";
    "base.validationCABundle" "the control plane writes its own" "remove it";
    "base.enableIstioConfigCRDs" "the definitions are always needed" "set base.excludedCRDs";
    "compatibilityVersion" "there is one behaviour" "set meshConfig.compatibility: istio for upstream's failover";
    "experimental" "there is no such switch" "remove it";
    "istiodRemote" "every cluster has a control plane of its own" "install the profile default in this cluster";
    "istio_cni" "traffic is redirected by an init container" "remove it";
    "ownerName" "objects are labelled with the IstioOperator's name" "set metadata.name of the file";
    "platform" "the objects are the same on every platform" "remove it";
    "profile" "charts have no profiles" "write spec.profile in an IstioOperator";
    "resourceScope" "a chart's objects are installed together" "remove it";
    "revisionTags" "there are no revision tags" "label namespaces with istio.io/rev: REVISION";
    "telemetry" "metrics are built in" "write a Telemetry resource or meshConfig.accessLogFile";
    "ztunnel" "there is no ambient mode" "remove it";
    "global.autoscalingv2API" "autoscaling/v2 is used" "remove it";
    "global.caName" "the control plane signs" "write Secret cacerts";
    "global.certSigners" "the control plane signs" "write Secret cacerts";
    "global.configCluster" "every cluster has a control plane of its own" "remove it";
    "global.configRootNamespace" "mesh-wide policies live in the control plane's namespace" "set meshConfig.rootNamespace";
    "global.configValidation" "the validating webhook is part of the control plane" "remove it";
    "global.defaultNodeSelector" "components have their own" "set nodeSelector of the component";
    "global.defaultResources" "components have their own" "set resources of the component";
    "global.defaultTolerations" "components have their own" "set tolerations of the component";
    "global.enabled" "every chart is installed by name" "remove it";
    "global.externalIstiod" "every cluster has a control plane of its own" "remove it";
    "global.ipFamilies" "a Service has its own" "set pilot.ipFamilies or service.ipFamilies of the gateway";
    "global.ipFamilyPolicy" "a Service has its own" "set pilot.ipFamilyPolicy or service.ipFamilyPolicy of the gateway";
    "global.istiod" "there is no such switch" "run isthmus analyze";
    "global.jwtPolicy" "tokens are third-party-jwt, always" "remove it";
    "global.mountMtlsCerts" "certificates are made inside the proxy" "remove it";
    "global.multiCluster.enabled" "several clusters need no switch" "remove it";
    "global.multiCluster.globalDomainSuffix" "the suffix is .global" "remove it";
    "global.multiCluster.includeEnvoyFilter" "gateways need none" "remove it";
    "global.nativeNftables" "the redirection is programmed over netlink" "remove it";
    "global.networkPolicy" "no NetworkPolicy is written" "write your own";
    "global.omitSidecarInjectorConfigMap" "injection needs it" "remove it";
    "global.oneNamespace" "every namespace is read" "remove it";
    "global.operatorManageWebhooks" "the control plane writes its webhooks' certificates" "remove it";
    "global.pilotCertProvider" "the control plane signs its own certificate" "remove it";
    "global.platform" "the objects are the same on every platform" "remove it";
    "global.podDNSSearchNamespaces" "pods search as Kubernetes has it" "remove it";
    "global.proxy.autoInject" "whoever is selected is injected" "label namespaces or pods";
    "global.proxy.componentLogLevel" "there is one level" "set global.proxy.logLevel";
    "global.proxy.concurrency" "a proxy has one worker" "remove it";
    "global.proxy.holdApplicationUntilProxyStarts" "a native sidecar is always ready before the application" "set meshConfig.defaultConfig.holdApplicationUntilProxyStarts";
    "global.proxy.privileged" "no proxy needs privileges" "remove it";
    "global.proxy.statusPort" "it is 15020" "remove it";
    "global.proxy.enableCoreDump" "the proxy dumps no core" "remove it";
    "global.proxy.image_type" "there is one image" "set global.proxy.image";
    "global.proxy.outlierLogPath" "ejections are logged with everything else" "remove it";
    "global.proxy.tracer" "no spans are sent; tracing headers pass through" "remove it";
    "global.proxy.readinessSuccessThreshold" "one success is enough" "remove it";
    "global.proxy_init.forceApplyIptables" "the redirection is applied in whole, always" "remove it";
    "global.resourceScope" "a chart's objects are installed together" "remove it";
    "global.sds" "a proxy's token is for istio-ca, always" "remove it";
    "global.sts" "there is no exchange of tokens" "remove it";
    "global.tracer" "no spans are sent; tracing headers pass through" "remove it";
    "global.trustBundleName" "the ConfigMap is istio-ca-root-cert" "remove it";
    "global.useMCP" "configuration is read from the API server" "remove it";
    "global.variant" "there is one image" "set global.proxy.image";
    "global.waypoint" "there is no ambient mode" "remove it";
    "pilot.autoscaleBehavior" "the autoscaler has its defaults" "set components.pilot.k8s.hpaSpec.behavior";
    "pilot.crlConfigMapName" "revocation lists are read from ca-crl.pem of Secret cacerts" "write it there";
    "pilot.enabled" "components are chosen as components" "set components.pilot.enabled";
    "pilot.envVarFrom" "variables are given by value" "set components.pilot.k8s.env";
    "pilot.initContainers" "the control plane needs none" "set components.pilot.k8s.overlays";
    "pilot.istiodRemote" "every cluster has a control plane of its own" "remove it";
    "pilot.jwksResolverExtraRootCA" "keys of token issuers are not fetched" "write jwks in the RequestAuthentication";
    "pilot.keepaliveMaxServerConnectionAge" "streams live as long as both sides do" "remove it";
    "pilot.memory" "the autoscaler goes by CPU" "set components.pilot.k8s.hpaSpec.metrics";
    "pilot.seccompProfile" "it is RuntimeDefault" "remove it";
    "pilot.sidecarInjectorWebhookAnnotations" "the webhook has none" "set components.pilot.k8s.overlays";
    "pilot.taint" "nodes are not untainted" "remove it";
    "pilot.traceSampling" "no spans are sent; tracing headers pass through" "remove it";
    "pilot.trustedZtunnelName" "there is no ambient mode" "remove it";
    "pilot.trustedZtunnelNamespace" "there is no ambient mode" "remove it";
    "pilot.variant" "there is one image" "set pilot.image";
    "pilot.configNamespace" "configuration is read from all namespaces" "remove it";
    "sidecarInjectorWebhook.defaultTemplates" "there are the templates sidecar and gateway" "remove it";
    "sidecarInjectorWebhook.templates" "there are the templates sidecar and gateway" "remove it";
    "sidecarInjectorWebhook.objectSelector" "pods are selected by their labels" "remove it";
    "sidecarInjectorWebhook.useLegacySelectors" "the selectors are today's" "remove it";
}

/// Variables that `isthmus control-plane` reads; any other in `pilot.env` does nothing.
pub const CONTROL_PLANE_ENV: &[&str] = &[
    "CLUSTER_ID",
    "ENABLE_NATIVE_SIDECARS",
    "ISTHMUS_STATE_DIR",
    "MESH_ID",
    "NETWORK",
    "PEERS",
    "POD_NAME",
    "POD_NAMESPACE",
    "REVISION",
    "TRUST_DOMAIN",
];

/// Settings of all ingress (or egress) gateways below `gateways.istio-ingressgateway`, and where the chart has them.
pub const GATEWAY_VALUES: &[(&str, &str)] = &[
    ("affinity", "affinity"),
    ("autoscaleEnabled", "autoscaling.enabled"),
    ("autoscaleMax", "autoscaling.maxReplicas"),
    ("autoscaleMin", "autoscaling.minReplicas"),
    ("env", "env"),
    ("externalTrafficPolicy", "service.externalTrafficPolicy"),
    ("loadBalancerIP", "service.loadBalancerIP"),
    ("loadBalancerSourceRanges", "service.loadBalancerSourceRanges"),
    ("nodeSelector", "nodeSelector"),
    ("podAnnotations", "podAnnotations"),
    ("ports", "service.ports"),
    ("resources", "resources"),
    ("serviceAnnotations", "service.annotations"),
    ("tolerations", "tolerations"),
    ("type", "service.type"),
];

/// Everything that has an effect, with its defaults.
pub fn known() -> Value {
    let mut known = Chart::Base.defaults();
    merge(&mut known, &Chart::Istiod.defaults());
    let gateway: Map<String, Value> = GATEWAY_VALUES
        .iter()
        .map(|(name, path)| {
            let pointer = format!("/{}", path.replace('.', "/"));
            (
                (*name).to_owned(),
                Chart::Gateway
                    .defaults()
                    .pointer(&pointer)
                    .cloned()
                    .unwrap_or_default(),
            )
        })
        .collect();
    for name in ["istio-ingressgateway", "istio-egressgateway"] {
        known["gateways"][name] = Value::Object(gateway.clone());
    }
    known
}

/// Whether a mapping takes any content: it is empty by default, or its default is only an example.
pub fn is_free(name: &str, default: &Value) -> bool {
    name == "resources" || default.as_object().is_some_and(Map::is_empty)
}

/// Looks for unknown, ineffective and mistyped values in a tree that stands at `path` (`spec.values`, or
/// nothing for a values file).
pub fn check(node: &Node, path: &str, file: &Arc<str>) -> Vec<Finding> {
    let mut check = Check {
        file,
        root: path,
        findings: Vec::new(),
    };
    check.mapping(node, "", &known());
    check.findings
}

struct Check<'a> {
    file: &'a Arc<str>,
    root: &'a str,
    findings: Vec<Finding>,
}

impl Check<'_> {
    fn mapping(&mut self, node: &Node, path: &str, known: &Value) {
        let (Tree::Mapping(entries), Some(known)) = (&node.value, known.as_object()) else {
            return self.expect(node, path, "a mapping");
        };
        for (key, value) in entries {
            let path = join(path, &key.text);
            if let Some(idle) = IDLE.iter().find(|idle| idle.path == path) {
                self.add(
                    key.line,
                    &path,
                    Finding::new(
                        &codes::NO_EFFECT,
                        format!("has no effect: {}", idle.why),
                        idle.instead,
                    ),
                );
                continue;
            }
            match known.get(&*key.text) {
                None if IDLE.iter().any(|idle| idle.path.starts_with(&format!("{path}."))) => {
                    self.mapping(value, &path, &Value::Object(Map::new()));
                }
                None => self.unknown(key.line, &path, &key.text, known),
                Some(_) if path == "pilot.env" => self.environment(value, &path),
                // The mesh's settings have a reader of their own.
                Some(_) if path == "meshConfig" || value.is_null() => {}
                Some(default) if is_free(&key.text, default) => {
                    if !matches!(value.value, Tree::Mapping(_)) {
                        self.expect(value, &path, "a mapping");
                    }
                }
                Some(Value::Object(_)) => self.mapping(value, &path, &known[&*key.text]),
                Some(default) => self.typed(value, &path, default),
            }
        }
    }

    fn typed(&mut self, node: &Node, path: &str, default: &Value) {
        let fits = |kinds: &[fn(&ScalarKind) -> bool]| match &node.value {
            Tree::Scalar(scalar) => kinds.iter().any(|is| is(&scalar.kind)),
            _ => false,
        };
        let number: fn(&ScalarKind) -> bool = |k| matches!(k, ScalarKind::Int(_) | ScalarKind::Float(_));
        let text: fn(&ScalarKind) -> bool = |k| *k == ScalarKind::Text;
        let boolean: fn(&ScalarKind) -> bool = |k| matches!(k, ScalarKind::Bool(_));
        match default {
            Value::Bool(_) if !fits(&[boolean]) => self.expect(node, path, "true or false"),
            Value::Number(_) if !fits(&[number]) => self.expect(node, path, "a number"),
            // Tags and percentages may look like numbers.
            Value::String(_) if !fits(&[text, number]) => self.expect(node, path, "text"),
            Value::Array(_) if !matches!(node.value, Tree::Sequence(_)) => self.expect(node, path, "a list"),
            _ => {}
        }
    }

    fn environment(&mut self, node: &Node, path: &str) {
        let Tree::Mapping(entries) = &node.value else {
            return self.expect(node, path, "a mapping");
        };
        for (key, value) in entries {
            let path = join(path, &key.text);
            if !matches!(value.value, Tree::Scalar(_)) {
                self.expect(value, &path, "text");
            } else if !CONTROL_PLANE_ENV.contains(&&*key.text) {
                let why = match &*key.text {
                    "PILOT_ENABLE_MULTINETWORK" => "has no effect: several networks need no switch",
                    _ => "has no effect: the control plane reads no variable of this name",
                };
                self.add(key.line, &path, Finding::new(&codes::NO_EFFECT, why, "remove it"));
            }
        }
    }

    fn unknown(&mut self, line: u32, path: &str, name: &str, known: &Map<String, Value>) {
        let parent = path.strip_suffix(name).unwrap_or_default();
        let idle = IDLE
            .iter()
            .filter_map(|idle| idle.path.strip_prefix(parent))
            .filter(|rest| !rest.contains('.'));
        let names = known.keys().map(String::as_str).chain(idle);
        let remedy = match (nearest(name, names), elsewhere(name)) {
            (Some(meant), _) => format!("did you mean {meant}?"),
            (None, Some(place)) => format!("write it at {}", join(self.root, &place)),
            (None, None) => "remove it".to_owned(),
        };
        let finding = Finding::new(&codes::SCHEMA, format!("there is no value {name:?}"), remedy);
        self.add(line, path, finding.level(Level::Error));
    }

    fn expect(&mut self, node: &Node, path: &str, what: &str) {
        let finding = Finding::new(
            &codes::SCHEMA,
            format!("expected {what}, found {node}"),
            "correct it",
        );
        self.add(node.line, path, finding);
    }

    fn add(&mut self, line: u32, path: &str, mut finding: Finding) {
        finding.message = format!("{}: {}", join(self.root, path), finding.message);
        self.findings.push(finding.at(self.file, line));
    }
}

/// Where a misplaced value belongs: a top-level mapping that has it.
fn elsewhere(name: &str) -> Option<String> {
    let known = known();
    let homes = known.as_object()?.iter();
    let mut homes = homes.filter(|(_, inner)| inner.get(name).is_some());
    match (homes.next(), homes.next()) {
        (Some((home, _)), None) => Some(format!("{home}.{name}")),
        _ => None,
    }
}

fn join(path: &str, name: &str) -> String {
    match (path.is_empty(), name.is_empty()) {
        (true, _) => name.to_owned(),
        (_, true) => path.to_owned(),
        _ => format!("{path}.{name}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use isthmus_api::yaml::{Limits, documents};

    fn lines(text: &str) -> Vec<String> {
        let node = documents(text, &Limits::default()).remove(0).unwrap();
        check(&node, "", &Arc::from("values.yaml"))
            .iter()
            .map(ToString::to_string)
            .collect()
    }

    #[test]
    fn values_with_an_effect_pass_and_the_seeds_switch_is_said_to_do_nothing() {
        let text = "global:\n  meshID: training-mesh\n  trustDomain: corp.local\n  network: us-net\npilot:\n  env:\n    PILOT_ENABLE_MULTINETWORK: \"true\"\n";
        assert_eq!(
            lines(text),
            [
                "values.yaml:7: warning [ISM0009] pilot.env.PILOT_ENABLE_MULTINETWORK: has no effect: several networks need no switch; remove it"
            ]
        );
    }

    #[test]
    fn misspelt_misplaced_and_mistyped_values_are_errors_with_a_suggestion() {
        let found = lines(
            "global:\n  meshid: x\n  proxy:\n    readinessPeriodSeconds: often\nnetwork: us\npilots: {}\n",
        );
        assert_eq!(
            found,
            [
                "values.yaml:2: error [IST0106] global.meshid: there is no value \"meshid\"; did you mean meshID?",
                "values.yaml:4: error [IST0106] global.proxy.readinessPeriodSeconds: expected a number, found the text \"often\"; correct it",
                "values.yaml:5: error [IST0106] network: there is no value \"network\"; write it at global.network",
                "values.yaml:6: error [IST0106] pilots: there is no value \"pilots\"; did you mean pilot?",
            ]
        );
    }

    #[test]
    fn no_idle_value_hides_one_that_works() {
        let known = known();
        for idle in IDLE {
            let pointer = format!("/{}", idle.path.replace('.', "/"));
            let there = known.pointer(&pointer);
            // The charts carry the switch of the CNI for injection's sake.
            assert!(there.is_none(), "{} is in values.yaml", idle.path);
        }
        assert!(IDLE.is_sorted_by_key(|_| 0));
    }
}
