//! What injection goes by: ConfigMaps of the control plane's namespace, and what this control plane knows of
//! itself where they say nothing.

use std::sync::{Arc, Mutex, PoisonError};

use isthmus_api::MeshConfig;
use isthmus_manifests::inject::Settings;
use serde_json::{Value, json};

use crate::mesh::Identity;

/// Where settings come from.
pub trait Source: Send + Sync + 'static {
    /// Who the control plane is.
    fn identity(&self) -> &Identity;

    /// Its revision; empty for the default one.
    fn revision(&self) -> &str;

    /// The injection values as JSON (`istio-sidecar-injector`), where there are any.
    fn values(&self) -> Option<String>;

    /// The MeshConfig in force.
    fn mesh_config(&self) -> MeshConfig;

    /// Label `topology.istio.io/network` of a namespace.
    fn network(&self, namespace: &str) -> Option<String>;
}

/// The settings, read again when what they are made of has changed.
pub struct InjectionSettings<S> {
    pub(super) source: S,
    last: Mutex<Option<Last>>,
}

/// The last good settings with what they were made of.
struct Last {
    values: Option<String>,
    mesh: MeshConfig,
    settings: Option<Arc<Settings>>,
    /// What is wrong with newer values.
    broken: Option<String>,
}

impl<S: Source> InjectionSettings<S> {
    pub(super) fn new(source: S) -> Self {
        Self {
            source,
            last: Mutex::new(None),
        }
    }

    /// The present settings, and what is wrong with newer ones that could not be taken.
    pub(super) fn now(&self) -> (Option<Arc<Settings>>, Option<String>) {
        let (values, mesh) = (self.source.values(), self.source.mesh_config());
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(last) = last.as_ref().filter(|l| l.values == values && l.mesh == mesh) {
            return (last.settings.clone(), last.broken.clone());
        }
        let (settings, broken) = match self.read(values.as_deref().unwrap_or(""), &mesh) {
            Ok(settings) => (Some(Arc::new(settings)), None),
            Err(error) => {
                let kept = last.as_ref().and_then(|l| l.settings.clone());
                let what = if kept.is_some() {
                    "the last good ones"
                } else {
                    "the defaults"
                };
                let broken = format!("{error}; {what} are used: mend ConfigMap istio-sidecar-injector");
                tracing::error!("{broken}");
                (
                    kept.or_else(|| self.read("", &mesh).ok().map(Arc::new)),
                    Some(broken),
                )
            }
        };
        *last = Some(Last {
            values,
            mesh,
            settings: settings.clone(),
            broken: broken.clone(),
        });
        (settings, broken)
    }

    fn read(&self, values: &str, mesh: &MeshConfig) -> Result<Settings, String> {
        let mut values: Value = match values.trim() {
            "" => json!({}),
            text => {
                serde_json::from_str(text).map_err(|e| format!("the injection values are not JSON: {e}"))?
            }
        };
        let identity = self.source.identity();
        let own = json!({
            "revision": self.source.revision(),
            "global": {
                "istioNamespace": identity.root_namespace, "network": identity.network, "meshID": identity.mesh_id,
                "multiCluster": {"clusterName": identity.cluster},
            },
        });
        lay_under(&mut values, own);
        Settings::new(&values, mesh).map_err(|e| e.to_string())
    }
}

/// Puts values in the place of those that are absent or empty.
fn lay_under(over: &mut Value, under: Value) {
    match (over, under) {
        (Value::Object(over), Value::Object(under)) => {
            for (key, value) in under {
                lay_under(over.entry(key).or_insert(Value::Null), value);
            }
        }
        (over, under) if over.is_null() || over == "" => *over = under,
        _ => {}
    }
}
