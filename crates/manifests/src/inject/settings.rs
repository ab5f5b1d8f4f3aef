//! What injection goes by: the effective Helm values (ConfigMap `istio-sidecar-injector`, key `values`, in
//! Istio's shape) and the MeshConfig. Absent values have Istio's defaults.

use std::collections::BTreeMap;

use isthmus_api::MeshConfig;
use isthmus_model::TrustDomain;
use serde_json::{Map, Value, json};

use super::decide::Rules;
use super::proxy_config::ProxyConfig;
use super::selector::Selector;

/// Name of the ConfigMap; revisions other than the default add theirs, as in `istio-sidecar-injector-canary`.
pub const CONFIG_MAP: &str = "istio-sidecar-injector";
/// Its key.
pub const KEY: &str = "values";
/// Where images are unless the values say otherwise.
pub const HUB: &str = "ghcr.io/isthmus-mesh";
/// The one image.
pub const IMAGE: &str = "isthmus";

/// Values that cannot be meant.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SettingsError {
    /// Not JSON.
    #[error("the injection values are not JSON: {0}")]
    Json(String),
    /// A value of the wrong type.
    #[error("injection values: {path}: {found} is found where {expected} is expected")]
    Type {
        /// Where.
        path: String,
        /// What stands there.
        found: String,
        /// What should.
        expected: &'static str,
    },
}

/// Settings of injection.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// Who is injected.
    pub rules: Rules,
    /// Image of the proxy and of the redirection.
    pub image: String,
    /// Image of the redirection.
    pub init_image: String,
    /// `imagePullPolicy` of both; the cluster's default when empty.
    pub pull_policy: String,
    /// Secrets with which images are pulled.
    pub pull_secrets: Vec<String>,
    /// Revision of the control plane; empty for the default one.
    revision: String,
    /// Address of the control plane.
    pub discovery: String,
    /// Address of the CSR service.
    pub authority: String,
    /// Member cluster.
    pub cluster: String,
    /// Network of workloads that say nothing else.
    pub network: String,
    /// Mesh.
    pub mesh_id: String,
    /// Trust domain.
    pub trust_domain: TrustDomain,
    /// DNS domain of the cluster.
    pub cluster_domain: String,
    /// Levels of the proxy's log.
    pub log_level: String,
    /// Whether it is JSON.
    pub log_as_json: bool,
    /// `resources` of the proxy.
    pub resources: Value,
    /// `resources` of the redirection.
    pub init_resources: Value,
    /// `lifecycle` of the proxy, where the values say one.
    pub lifecycle: Option<Value>,
    /// `securityContext.seccompProfile`.
    pub seccomp: Value,
    /// Pod-level `securityContext` of gateways that say none.
    pub gateway_security: Value,
    /// Probe of a classic sidecar's start; `None`: readiness alone.
    pub startup_failures: Option<i64>,
    /// Failures after which a proxy is not ready.
    pub readiness_failures: i64,
    /// Seconds between looks at readiness.
    pub readiness_period: i64,
    /// Seconds before the first.
    pub readiness_delay: i64,
    /// What is captured, by the last part of the annotation that says so for one pod.
    pub capture: BTreeMap<&'static str, String>,
    /// Whether probes of applications are asked through the agent.
    pub rewrite_probes: bool,
    /// Whether applications' metrics are added to the proxy's.
    pub merge_metrics: bool,
    /// Whether a sidecar is an init container that stays (Kubernetes 1.29).
    pub native: bool,
    /// Annotations of every injected pod.
    pub injected_annotations: BTreeMap<String, String>,
    /// `meshConfig.defaultConfig`.
    pub proxy_config: ProxyConfig,
}

impl Settings {
    /// Settings by values as JSON text, and the MeshConfig.
    ///
    /// # Errors
    /// When the text is no JSON, or a value has the wrong type.
    pub fn from_text(values: &str, mesh: &MeshConfig) -> Result<Self, SettingsError> {
        let values = match values.trim() {
            "" => json!({}),
            text => serde_json::from_str(text).map_err(|e| SettingsError::Json(e.to_string()))?,
        };
        Self::new(&values, mesh)
    }

    /// Settings by values and the MeshConfig.
    ///
    /// # Errors
    /// When a value has the wrong type.
    pub fn new(values: &Value, mesh: &MeshConfig) -> Result<Self, SettingsError> {
        let v = Values(values);
        let namespace = v.text("global.istioNamespace", "istio-system")?;
        let revision = match v.text("revision", "")? {
            r if r == "default" => String::new(),
            r => r,
        };
        let service = match revision.as_str() {
            "" => format!("istiod.{namespace}.svc:15012"),
            revision => format!("istiod-{revision}.{namespace}.svc:15012"),
        };
        let discovery = match v.text("global.remotePilotAddress", "")? {
            remote if remote.is_empty() => service,
            // A remote control plane is reached by its own name, under which its certificate is checked.
            _ if v.flag("istiodRemote.enabled", false)? => service,
            remote if remote.contains(':') => remote,
            remote => format!("{remote}:15012"),
        };
        let resources = v.object("global.proxy.resources")?.unwrap_or_else(|| {
            json!({"requests": {"cpu": "100m", "memory": "128Mi"}, "limits": {"cpu": "2000m", "memory": "1024Mi"}})
        });
        Ok(Self {
            rules: Rules {
                revision: None,
                never: v.selectors("sidecarInjectorWebhook.neverInjectSelector")?,
                always: v.selectors("sidecarInjectorWebhook.alwaysInjectSelector")?,
                namespaces_by_default: v.flag("sidecarInjectorWebhook.enableNamespacesByDefault", false)?,
            },
            image: v.image("global.proxy.image")?,
            init_image: v.image("global.proxy_init.image")?,
            pull_policy: v.text("global.imagePullPolicy", "")?,
            pull_secrets: v.texts("global.imagePullSecrets")?,
            authority: match v.text("global.caAddress", "")? {
                said if said.is_empty() => discovery.clone(),
                said => said,
            },
            discovery,
            revision,
            cluster: match v.text("global.multiCluster.clusterName", "")? {
                said if said.is_empty() => "Kubernetes".to_owned(),
                said => said,
            },
            network: v.text("global.network", "")?,
            mesh_id: match v.text("global.meshID", "")? {
                said if said.is_empty() => mesh.trust_domain().to_string(),
                said => said,
            },
            trust_domain: mesh.trust_domain(),
            cluster_domain: v.text("global.proxy.clusterDomain", "cluster.local")?,
            log_level: v.text("global.proxy.logLevel", "")?,
            log_as_json: v.flag("global.logAsJson", false)?,
            init_resources: v
                .object("global.proxy_init.resources")?
                .unwrap_or_else(|| resources.clone()),
            resources,
            lifecycle: v.object("global.proxy.lifecycle")?,
            seccomp: v
                .object("global.proxy.seccompProfile")?
                .unwrap_or_else(|| json!({"type": "RuntimeDefault"})),
            gateway_security: v.object("gateways.securityContext")?.unwrap_or_else(
                || json!({"sysctls": [{"name": "net.ipv4.ip_unprivileged_port_start", "value": "0"}]}),
            ),
            startup_failures: match v.flag("global.proxy.startupProbe.enabled", true)? {
                true => Some(v.number("global.proxy.startupProbe.failureThreshold", 600)?),
                false => None,
            },
            readiness_failures: v.number("global.proxy.readinessFailureThreshold", 4)?,
            readiness_period: v.number("global.proxy.readinessPeriodSeconds", 15)?,
            readiness_delay: v.number("global.proxy.readinessInitialDelaySeconds", 0)?,
            capture: v.capture()?,
            rewrite_probes: v.flag("sidecarInjectorWebhook.rewriteAppHTTPProbe", true)?,
            merge_metrics: mesh.enable_prometheus_merge.unwrap_or(true),
            native: v.flag("pilot.env.ENABLE_NATIVE_SIDECARS", true)?,
            injected_annotations: v.map("sidecarInjectorWebhook.injectedAnnotations")?,
            proxy_config: ProxyConfig::of(mesh.default_config.clone().unwrap_or_default()),
        })
    }

    /// The revision as labels name it.
    pub fn revision(&self) -> &str {
        match self.revision.as_str() {
            "" => "default",
            revision => revision,
        }
    }
}

/// Values by dotted path, type checked.
struct Values<'a>(&'a Value);

impl Values<'_> {
    fn at(&self, path: &str) -> Option<&Value> {
        let mut here = self.0;
        for step in path.split('.') {
            here = here.get(step)?;
        }
        (!here.is_null()).then_some(here)
    }

    fn wrong(&self, path: &str, expected: &'static str) -> SettingsError {
        let mut found = self.at(path).map(Value::to_string).unwrap_or_default();
        if let Some((at, _)) = found.char_indices().nth(60) {
            found.truncate(at);
            found.push_str("...");
        }
        SettingsError::Type {
            path: path.to_owned(),
            found,
            expected,
        }
    }

    /// A text. Helm makes numbers and booleans of what looks like one, as a tag `1.30` does.
    fn text(&self, path: &str, default: &str) -> Result<String, SettingsError> {
        match self.at(path) {
            None => Ok(default.to_owned()),
            Some(Value::String(text)) => Ok(text.clone()),
            Some(found @ (Value::Number(_) | Value::Bool(_))) => Ok(found.to_string()),
            Some(_) => Err(self.wrong(path, "a text")),
        }
    }

    fn flag(&self, path: &str, default: bool) -> Result<bool, SettingsError> {
        match self.at(path) {
            None => Ok(default),
            Some(Value::Bool(flag)) => Ok(*flag),
            Some(Value::String(text)) => match text.as_str() {
                "true" => Ok(true),
                "false" => Ok(false),
                "" => Ok(default),
                _ => Err(self.wrong(path, "true or false")),
            },
            Some(_) => Err(self.wrong(path, "true or false")),
        }
    }

    fn number(&self, path: &str, default: i64) -> Result<i64, SettingsError> {
        let number = match self.at(path) {
            None => Some(default),
            Some(Value::String(text)) => text.parse().ok(),
            Some(found) => found.as_i64(),
        };
        number
            .filter(|n| (0..=i64::from(i32::MAX)).contains(n))
            .ok_or_else(|| self.wrong(path, "a number"))
    }

    /// An object; `None` for none and for an empty one.
    fn object(&self, path: &str) -> Result<Option<Value>, SettingsError> {
        match self.at(path) {
            None => Ok(None),
            Some(Value::Object(fields)) if fields.is_empty() => Ok(None),
            Some(found @ Value::Object(_)) => Ok(Some(found.clone())),
            Some(_) => Err(self.wrong(path, "an object")),
        }
    }

    fn map(&self, path: &str) -> Result<BTreeMap<String, String>, SettingsError> {
        let object = self.object(path)?.unwrap_or_else(|| json!({}));
        serde_json::from_value(object).map_err(|_| self.wrong(path, "a map of texts"))
    }

    /// A list of texts, or of objects with a `name`, as image pull secrets are written.
    fn texts(&self, path: &str) -> Result<Vec<String>, SettingsError> {
        let items = match self.at(path) {
            None => return Ok(Vec::new()),
            Some(Value::Array(items)) => items,
            Some(_) => return Err(self.wrong(path, "a list of names")),
        };
        let name = |item: &Value| match item {
            Value::String(text) => Some(text.clone()),
            Value::Object(fields) => fields.get("name")?.as_str().map(str::to_owned),
            _ => None,
        };
        let names: Option<Vec<String>> = items.iter().map(name).collect();
        names.ok_or_else(|| self.wrong(path, "a list of names"))
    }

    fn selectors(&self, path: &str) -> Result<Vec<Selector>, SettingsError> {
        match self.at(path) {
            None => Ok(Vec::new()),
            Some(found) => serde_json::from_value(found.clone())
                .map_err(|_| self.wrong(path, "a list of label selectors")),
        }
    }

    /// `HUB/NAME:TAG`, unless the name is a whole reference already.
    fn image(&self, path: &str) -> Result<String, SettingsError> {
        let name = match self.text(path, IMAGE)? {
            name if name.is_empty() => IMAGE.to_owned(),
            name => name,
        };
        let hub = self.text("global.hub", HUB)?;
        let tag = self.text("global.tag", env!("CARGO_PKG_VERSION"))?;
        Ok(image(&name, &hub, &tag))
    }

    fn capture(&self) -> Result<BTreeMap<&'static str, String>, SettingsError> {
        let mut capture = BTreeMap::new();
        for (field, annotation, default) in [
            ("includeIPRanges", "includeOutboundIPRanges", "*"),
            ("excludeIPRanges", "excludeOutboundIPRanges", ""),
            ("includeOutboundPorts", "includeOutboundPorts", ""),
            ("excludeOutboundPorts", "excludeOutboundPorts", ""),
            ("includeInboundPorts", "includeInboundPorts", "*"),
            ("excludeInboundPorts", "excludeInboundPorts", ""),
        ] {
            let value = self.text(&format!("global.proxy.{field}"), default)?;
            if value != default {
                capture.insert(annotation, value);
            }
        }
        Ok(capture)
    }
}

/// An image by its parts; a name with a slash is a whole reference.
pub fn image(name: &str, hub: &str, tag: &str) -> String {
    match (name.contains('/'), tag) {
        (true, _) => name.to_owned(),
        (false, "") => format!("{hub}/{name}"),
        // A digest is joined by its own sign.
        (false, tag) if tag.starts_with("sha256:") => format!("{hub}/{name}@{tag}"),
        (false, tag) => format!("{hub}/{name}:{tag}"),
    }
}

/// An object of Kubernetes without the fields that are empty.
pub(super) fn without_empty(fields: Map<String, Value>) -> Map<String, Value> {
    let empty = |value: &Value| match value {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty(),
        Value::Bool(_) | Value::Number(_) => false,
    };
    fields.into_iter().filter(|(_, value)| !empty(value)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_values_there_are_istios_defaults() {
        let settings = Settings::from_text("", &MeshConfig::default()).unwrap();
        assert_eq!(settings.discovery, "istiod.istio-system.svc:15012");
        assert_eq!(
            settings.image,
            format!("ghcr.io/isthmus-mesh/isthmus:{}", env!("CARGO_PKG_VERSION"))
        );
        assert_eq!(
            (settings.cluster.as_str(), settings.revision()),
            ("Kubernetes", "default")
        );
        assert!(settings.native && settings.rewrite_probes && settings.merge_metrics);
        assert_eq!(settings.mesh_id, "cluster.local");
    }

    #[test]
    fn values_are_istios() {
        let values = json!({
            "revision": "canary",
            "global": {
                "hub": "registry.example/mesh", "tag": 1.5, "istioNamespace": "mesh-system", "meshID": "m",
                "network": "us-net", "multiCluster": {"clusterName": "us"}, "imagePullSecrets": ["a", {"name": "b"}],
                "proxy": {"excludeIPRanges": "10.0.0.0/8", "includeIPRanges": "*", "logLevel": "debug",
                          "startupProbe": {"enabled": false}},
                "proxy_init": {"image": "example.net/other:1"}
            },
            "pilot": {"env": {"ENABLE_NATIVE_SIDECARS": "false"}}
        });
        let settings = Settings::new(&values, &MeshConfig::default()).unwrap();
        assert_eq!(settings.image, "registry.example/mesh/isthmus:1.5");
        assert_eq!(settings.init_image, "example.net/other:1");
        assert_eq!(settings.discovery, "istiod-canary.mesh-system.svc:15012");
        assert_eq!(settings.pull_secrets, ["a", "b"]);
        assert_eq!(
            settings.capture,
            BTreeMap::from([("excludeOutboundIPRanges", "10.0.0.0/8".to_owned())])
        );
        assert!(!settings.native);
        assert_eq!(settings.startup_failures, None);
    }

    #[test]
    fn a_value_of_the_wrong_type_is_named() {
        for (values, path) in [
            (json!({"global": {"hub": []}}), "global.hub"),
            (
                json!({"global": {"proxy": {"readinessPeriodSeconds": -1}}}),
                "global.proxy.readinessPeriodSeconds",
            ),
            (
                json!({"sidecarInjectorWebhook": {"neverInjectSelector": [{"matchLabel": {}}]}}),
                "sidecarInjectorWebhook.neverInjectSelector",
            ),
            (
                json!({"sidecarInjectorWebhook": {"rewriteAppHTTPProbe": "perhaps"}}),
                "sidecarInjectorWebhook.rewriteAppHTTPProbe",
            ),
            (
                json!({"global": {"imagePullSecrets": [1]}}),
                "global.imagePullSecrets",
            ),
        ] {
            let error = Settings::new(&values, &MeshConfig::default())
                .unwrap_err()
                .to_string();
            assert!(
                error.starts_with(&format!("injection values: {path}: ")),
                "{error}"
            );
        }
        assert!(Settings::from_text("{", &MeshConfig::default()).is_err());
    }
}
