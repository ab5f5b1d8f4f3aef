//! A sidecar for a pod: whether it gets one, and the same pod with it. Istio's injection, as pure functions.
//!
//! ```text
//!   labels, annotations, namespace ─ decide ─┬─▶ Skip(reason)
//!                                            └─▶ template
//!   values + MeshConfig ─ Settings ──────────────┤
//!   annotations of the pod ─ annotations ────────┼─▶ sidecar | gateway ─▶ pod ─ patch ─▶ RFC 6902
//!   probes of the containers ─ probes ───────────┘
//! ```
//!
//! It speaks to nobody and reads no file. The webhook (`isthmus-control`) and `isthmus kube-inject` call it;
//! who serves the probes that are rewritten here is the proxy's agent.

mod annotations;
mod container;
pub mod decide;
pub mod environment;
mod gateway;
mod overlay;
pub mod patch;
mod probes;
pub mod proxy_config;
mod selector;
pub mod settings;
mod sidecar;
mod volumes;
pub mod workload;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use isthmus_model::Labels;
use serde_json::{Map, Value, json};

pub use self::decide::{Decision, Namespace, Reason, Rules, Subject, Template, decide};
pub use self::environment::{Facts, environment};
pub use self::patch::Operation;
pub use self::proxy_config::ProxyConfig;
pub use self::settings::{Settings, SettingsError};
pub use self::workload::Workload;

/// Name of the proxy's container.
pub const PROXY: &str = "istio-proxy";
/// Name of the container that redirects the pod's traffic.
pub const INIT: &str = "istio-init";
/// Says what was injected.
pub const STATUS: &str = "sidecar.istio.io/status";

/// A pod that may get a sidecar.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// The pod, or the pod template of a workload: `metadata` and `spec`.
    pub pod: &'a Value,
    /// Its namespace; a pod that is being created may not name it.
    pub namespace: &'a str,
    /// What is known of the namespace.
    pub by: Namespace<'a>,
    /// Label `topology.istio.io/network` of the namespace.
    pub network: Option<&'a str>,
    /// The workload, where it is not that of the pod's owner.
    pub workload: Option<&'a Workload>,
}

/// What became of a pod.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// Nothing was done.
    Skipped(Reason),
    /// It got a proxy.
    Injected(Box<Injected>),
}

/// A pod with its proxy.
#[derive(Debug, Clone, PartialEq)]
pub struct Injected {
    /// The whole pod.
    pub pod: Value,
    /// From the pod as it was to `pod`.
    pub patch: Vec<Operation>,
    /// What the pod asks for and does not get, with what to write instead.
    pub warnings: Vec<String>,
}

/// Why a pod cannot be injected although it should: what it says of itself cannot be meant.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InjectError {
    /// An annotation cannot be read.
    #[error("annotation {name}: {value:?}: {reason}")]
    Annotation {
        /// Its name.
        name: String,
        /// Its value.
        value: String,
        /// What is wrong, and what would be right.
        reason: String,
    },
    /// A template that there is not.
    #[error("annotation inject.istio.io/templates: there is no template {0:?}; write sidecar or gateway")]
    Template(String),
    /// Not a pod.
    #[error("{path}: {expected} is expected")]
    Shape {
        /// Where.
        path: String,
        /// What should stand there.
        expected: &'static str,
    },
    /// The gateway template fills in a container that is not there.
    #[error(
        "template gateway fills in the container {PROXY:?}, and the pod has none: add `- name: {PROXY}` with `image: auto`"
    )]
    NoGateway,
}

/// Gives a pod its proxy, or says why not.
///
/// # Errors
/// When the pod asks for injection and contradicts itself; nothing else is an error.
pub fn inject(request: &Request<'_>, settings: &Settings) -> Result<Outcome, InjectError> {
    let pod = Pod::read(request)?;
    let subject = Subject {
        namespace: request.namespace,
        by: request.by,
        labels: &pod.labels,
        annotations: &pod.annotations,
        host_network: pod.spec.get("hostNetwork") == Some(&Value::Bool(true)),
    };
    let template = match decide(&subject, &settings.rules)? {
        Decision::Skip(reason) => return Ok(Outcome::Skipped(reason)),
        Decision::Inject(template) => template,
    };
    if pod.annotations.contains_key(STATUS) && pod.has_proxy() {
        return Ok(Outcome::Skipped(Reason::Already));
    }
    let annotations = annotations::read(&pod.annotations, settings)?;
    let mut draft = Draft {
        settings,
        network: request.network.map(str::to_owned),
        workload: request
            .workload
            .cloned()
            .unwrap_or_else(|| workload::of(request.pod, request.namespace)),
        warnings: annotations.warnings.clone(),
        added: Added::default(),
        annotations,
        pod,
    };
    draft.labels(template);
    match template {
        Template::Sidecar => sidecar::add(&mut draft)?,
        Template::Gateway => gateway::fill(&mut draft)?,
    }
    draft.finish(request.pod)
}

/// The parts of a pod.
#[derive(Debug)]
struct Pod {
    labels: Labels,
    annotations: BTreeMap<String, String>,
    spec: Map<String, Value>,
}

impl Pod {
    fn read(request: &Request<'_>) -> Result<Self, InjectError> {
        let texts = |field: &str| -> Result<BTreeMap<String, String>, InjectError> {
            match request.pod.pointer(&format!("/metadata/{field}")) {
                None | Some(Value::Null) => Ok(BTreeMap::new()),
                Some(found) => serde_json::from_value(found.clone()).map_err(|_| InjectError::Shape {
                    path: format!("metadata.{field}"),
                    expected: "a map of texts",
                }),
            }
        };
        let spec = request.pod.get("spec").and_then(Value::as_object);
        let pod = Self {
            labels: Labels(texts("labels")?),
            annotations: texts("annotations")?,
            spec: spec.cloned().ok_or_else(|| InjectError::Shape {
                path: "spec".to_owned(),
                expected: "the spec of a pod",
            })?,
        };
        for field in ["containers", "initContainers", "volumes", "imagePullSecrets"] {
            let whole = match pod.spec.get(field) {
                None | Some(Value::Null) => field != "containers",
                Some(Value::Array(items)) => items.iter().all(Value::is_object),
                Some(_) => false,
            };
            if !whole {
                return Err(InjectError::Shape {
                    path: format!("spec.{field}"),
                    expected: "a list of objects",
                });
            }
        }
        Ok(pod)
    }

    /// A list of the spec; empty when it is not there.
    fn list(&self, field: &str) -> &[Value] {
        self.spec
            .get(field)
            .and_then(Value::as_array)
            .map_or(&[], Vec::as_slice)
    }

    /// A list of the spec to be changed.
    fn list_mut(&mut self, field: &str) -> &mut Vec<Value> {
        let list = self.spec.entry(field).or_insert_with(|| json!([]));
        if !list.is_array() {
            *list = json!([]);
        }
        match list {
            Value::Array(items) => items,
            // Made an array above.
            _ => unreachable!(),
        }
    }

    fn has_proxy(&self) -> bool {
        let mut all = self.list("containers").iter().chain(self.list("initContainers"));
        all.any(|c| named(c, PROXY))
    }

    /// Takes a container out, wherever it stands; where it stood among the containers.
    fn take(&mut self, name: &str) -> Option<(Map<String, Value>, usize)> {
        for field in ["containers", "initContainers"] {
            let Some(at) = self.list(field).iter().position(|c| named(c, name)) else {
                continue;
            };
            if let Value::Object(found) = self.list_mut(field).remove(at) {
                return Some((found, at));
            }
        }
        None
    }
}

/// A pod that is being filled in.
struct Draft<'a> {
    settings: &'a Settings,
    network: Option<String>,
    workload: Workload,
    annotations: annotations::Wishes,
    pod: Pod,
    warnings: Vec<String>,
    added: Added,
}

/// What was added, by name, for the status annotation.
#[derive(Debug, Default)]
struct Added {
    init_containers: Vec<String>,
    containers: Vec<String>,
    volumes: Vec<String>,
    secrets: Vec<String>,
}

impl Draft<'_> {
    /// Labels by which others know the workload. What the user says stays.
    fn labels(&mut self, template: Template) {
        let labels = &mut self.pod.labels.0;
        let first = |names: &[&str], labels: &BTreeMap<String, String>| {
            names
                .iter()
                .find_map(|n| labels.get(*n))
                .filter(|v| !v.is_empty())
                .cloned()
        };
        let name = first(
            &["service.istio.io/canonical-name", "app.kubernetes.io/name", "app"],
            labels,
        )
        .unwrap_or_else(|| self.workload.name.chars().take(63).collect());
        let revision = first(
            &[
                "service.istio.io/canonical-revision",
                "app.kubernetes.io/version",
                "version",
            ],
            labels,
        )
        .unwrap_or_else(|| "latest".to_owned());
        let name = name.trim_end_matches(['-', '.', '_']).to_owned();
        // What a gateway takes is what its servers say, not mTLS on every port.
        let takes_mtls = match template {
            Template::Sidecar => "istio",
            Template::Gateway => "",
        };
        for (label, value) in [
            ("security.istio.io/tlsMode", takes_mtls.to_owned()),
            ("service.istio.io/canonical-name", name),
            ("service.istio.io/canonical-revision", revision),
        ] {
            // A pod without any name of its own is known by what the agent finds at run time.
            if !value.is_empty() {
                labels.entry(label.to_owned()).or_insert(value);
            }
        }
    }

    fn finish(mut self, before: &Value) -> Result<Outcome, InjectError> {
        for name in &self.settings.pull_secrets {
            let secret = json!({ "name": name });
            let secrets = self.pod.list_mut("imagePullSecrets");
            if !secrets.contains(&secret) {
                secrets.push(secret);
                self.added.secrets.push(name.clone());
            }
        }
        for field in ["imagePullSecrets", "initContainers", "volumes"] {
            if self.pod.list(field).is_empty() {
                self.pod.spec.remove(field);
            }
        }
        let status = json!({
            "initContainers": self.added.init_containers,
            "containers": self.added.containers,
            "volumes": self.added.volumes,
            "imagePullSecrets": self.added.secrets,
            "revision": self.settings.revision(),
        });
        let annotations = &mut self.pod.annotations;
        for (name, value) in &self.settings.injected_annotations {
            annotations.entry(name.clone()).or_insert_with(|| value.clone());
        }
        annotations
            .entry("istio.io/rev".to_owned())
            .or_insert_with(|| self.settings.revision().to_owned());
        annotations.insert(STATUS.to_owned(), status.to_string());

        let mut after = before.clone();
        if !after.get("metadata").is_some_and(Value::is_object) {
            after["metadata"] = json!({});
        }
        after["metadata"]["labels"] = json!(self.pod.labels);
        after["metadata"]["annotations"] = json!(self.pod.annotations);
        after["spec"] = Value::Object(self.pod.spec);
        Ok(Outcome::Injected(Box::new(Injected {
            patch: patch::between(before, &after),
            pod: after,
            warnings: self.warnings,
        })))
    }
}

fn named(container: &Value, name: &str) -> bool {
    container.get("name").and_then(Value::as_str) == Some(name)
}
