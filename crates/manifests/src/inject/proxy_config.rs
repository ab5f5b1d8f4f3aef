//! Istio's ProxyConfig as it is for one pod: the mesh's `defaultConfig` with the pod's annotation
//! `proxy.istio.io/config` over it.

use isthmus_api::finding::Level;
use isthmus_api::mesh_config::{self, MeshProxyConfig};
use serde_json::{Value, json};

use super::InjectError;

/// The annotation.
pub const ANNOTATION: &str = "proxy.istio.io/config";

/// Settings of one proxy.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ProxyConfig(MeshProxyConfig);

impl ProxyConfig {
    /// The settings of every proxy.
    pub fn of(config: MeshProxyConfig) -> Self {
        Self(config)
    }

    /// With a pod's annotation over it, and what is to be said of that annotation.
    ///
    /// # Errors
    /// When the annotation is no ProxyConfig.
    pub fn with_annotation(&self, text: &str) -> Result<(Self, Vec<String>), InjectError> {
        let wrong = |reason: String| InjectError::Annotation {
            name: ANNOTATION.to_owned(),
            value: text.to_owned(),
            reason,
        };
        // Below its key of the MeshConfig it is checked as that is, in block and in flow style alike.
        let below: String = text.lines().map(|line| format!("  {line}\n")).collect();
        let (mesh, findings) = mesh_config::from_text(&format!("defaultConfig:\n{below}"), "");
        let mut warnings = Vec::new();
        for finding in findings {
            let message = finding
                .message
                .replace("mesh.defaultConfig", "")
                .trim_start_matches(['.', ':', ' '])
                .to_owned();
            match finding.level {
                Level::Error => return Err(wrong(format!("{message}: {}", finding.remedy))),
                _ => warnings.push(format!("annotation {ANNOTATION}: {message}: {}", finding.remedy)),
            }
        }
        let over = mesh.default_config.unwrap_or_default();
        if over.gateway_topology.is_some() {
            warnings.push(format!(
                "annotation {ANNOTATION}: gatewayTopology: has no effect for one pod: write it in defaultConfig of the MeshConfig"
            ));
        }
        let (Ok(mut merged), Ok(over)) = (serde_json::to_value(&self.0), serde_json::to_value(over)) else {
            return Err(wrong("it cannot be read".to_owned()));
        };
        lay_over(&mut merged, over);
        let merged = serde_json::from_value(merged).map_err(|e| wrong(e.to_string()))?;
        Ok((Self(merged), warnings))
    }

    /// Where the control plane is, where the user says one.
    pub fn discovery(&self) -> Option<&str> {
        Some(self.0.discovery_address.as_str()).filter(|a| !a.is_empty())
    }

    /// Worker threads; `None`: by the processor time that the container may take.
    pub fn concurrency(&self) -> Option<u32> {
        self.0
            .concurrency
            .and_then(|n| u32::try_from(n).ok())
            .filter(|n| *n > 0)
    }

    /// Further variables of the proxy's environment.
    pub fn environment(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0
            .proxy_metadata
            .iter()
            .map(|(k, v)| (k.as_str(), v.as_str()))
    }

    /// Seconds between SIGTERM and the end.
    pub fn drain_seconds(&self) -> Option<u64> {
        self.0.termination_drain_duration.map(|d| d.as_secs())
    }

    /// Whether the application waits for the proxy.
    pub fn hold_application(&self) -> bool {
        self.0.hold_application_until_proxy_starts.unwrap_or(false)
    }

    /// The port of the admin interface.
    pub fn admin_port(&self) -> Option<u16> {
        Some(self.0.proxy_admin_port).filter(|p| *p != 0)
    }
}

/// Messages are merged field by field, everything else is replaced, as Istio merges the two.
fn lay_over(under: &mut Value, over: Value) {
    match (under, over) {
        (_, Value::Null) => {}
        (Value::Object(under), Value::Object(over)) => {
            for (key, value) in over {
                lay_over(under.entry(key).or_insert(json!(null)), value);
            }
        }
        (under, over) => *under = over,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mesh() -> ProxyConfig {
        let text =
            "defaultConfig:\n  proxyMetadata: {A: mesh, B: mesh}\n  holdApplicationUntilProxyStarts: true\n";
        ProxyConfig::of(mesh_config::from_text(text, "").0.default_config.unwrap())
    }

    #[test]
    fn the_annotation_is_laid_over_the_mesh_field_by_field() {
        for text in [
            "proxyMetadata:\n  B: pod\nconcurrency: 3\n",
            r#"{"proxyMetadata": {"B": "pod"}, "concurrency": 3}"#,
        ] {
            let (config, warnings) = mesh().with_annotation(text).unwrap();
            assert_eq!(warnings, [""; 0]);
            let environment: Vec<_> = config.environment().collect();
            assert_eq!(environment, [("A", "mesh"), ("B", "pod")]);
            assert_eq!(config.concurrency(), Some(3));
            assert!(config.hold_application());
        }
    }

    #[test]
    fn what_it_says_without_effect_is_a_warning_and_what_cannot_be_meant_an_error() {
        let (_, warnings) = mesh()
            .with_annotation("concurency: 3\nstatNameLength: 4\ngatewayTopology: {numTrustedProxies: 1}\n")
            .unwrap();
        assert_eq!(warnings.len(), 3, "{warnings:?}");
        assert!(
            warnings.iter().any(|w| w.ends_with("did you mean concurrency?")),
            "{warnings:?}"
        );
        for bad in ["concurrency: many", "[]", "{", "text"] {
            let error = mesh().with_annotation(bad).unwrap_err().to_string();
            assert!(error.starts_with("annotation proxy.istio.io/config: "), "{error}");
        }
    }
}
