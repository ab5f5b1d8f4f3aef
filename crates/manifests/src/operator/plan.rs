//! A specification to values, and values to objects.

use isthmus_api::codes;
use isthmus_api::finding::Finding;
use serde_json::{Map, Value, json};

use super::k8s;
use super::read::{Spec, about};
use super::values::GATEWAY_VALUES;
use crate::chart::{Chart, Release, RenderError, VERSION};
use crate::merge::merge;
use crate::order;

/// What is known of the cluster that is installed into.
#[derive(Debug, Clone, Default)]
pub struct Surroundings {
    /// Name of the kube context, for want of a better name of the cluster.
    pub context: Option<String>,
    /// Effective values of the control plane that runs there already (ConfigMap `istio-sidecar-injector`).
    pub installed: Option<Value>,
    /// The network that the control plane's namespace is labelled with.
    pub network: Option<String>,
}

/// What an installation consists of.
#[derive(Debug, Clone)]
pub struct Installation {
    /// `metadata.name` of the IstioOperator.
    pub name: String,
    /// Namespace of the control plane.
    pub namespace: String,
    /// Revision; `default` unless said otherwise.
    pub revision: String,
    /// The profile that it started from.
    pub profile: &'static str,
    /// The IstioOperator that it amounts to.
    pub spec: Value,
    /// Effective values of the control plane's chart.
    pub values: Value,
    /// Its components, in the order of installation.
    pub components: Vec<Component>,
    /// What is worth telling.
    pub findings: Vec<Finding>,
}

/// A part that is installed and waited for as one.
#[derive(Debug, Clone)]
pub struct Component {
    /// What it is.
    pub kind: ComponentKind,
    /// Name of its Deployment; `base` has none.
    pub name: String,
    /// Its objects, in the order of installation.
    pub objects: Vec<Value>,
}

/// The parts of an installation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ComponentKind {
    /// Namespace, custom resource definitions, account for readers.
    Base,
    /// Control plane.
    Pilot,
    /// Gateway for traffic into the mesh.
    IngressGateway,
    /// Gateway for traffic out of the mesh.
    EgressGateway,
}

impl ComponentKind {
    /// As label `operator.istio.io/component` has it.
    pub fn label(self) -> &'static str {
        match self {
            Self::Base => "Base",
            Self::Pilot => "Pilot",
            Self::IngressGateway => "IngressGateways",
            Self::EgressGateway => "EgressGateways",
        }
    }

    /// As a user reads it.
    pub fn title(self) -> &'static str {
        match self {
            Self::Base => "Base (custom resource definitions, accounts)",
            Self::Pilot => "Control plane",
            Self::IngressGateway => "Ingress gateway",
            Self::EgressGateway => "Egress gateway",
        }
    }
}

/// Label that names the installation that an object belongs to.
pub const OWNER_LABEL: &str = "install.operator.istio.io/owning-resource";
/// Label that says who installed an object, and its value for what comes from here.
pub const INSTALLER_LABEL: &str = "app.kubernetes.io/managed-by";
/// See [`INSTALLER_LABEL`].
pub const INSTALLER: &str = "isthmus";
/// Label by which Istio's own tools know objects of an installation.
const MANAGED_LABEL: &str = "operator.istio.io/managed";
/// Owner of what several revisions share.
pub const SHARED_OWNER: &str = "shared";
/// Label with the version of the installer.
pub const VERSION_LABEL: &str = "operator.istio.io/version";
/// Label with the component.
pub const COMPONENT_LABEL: &str = "operator.istio.io/component";

/// What makes the objects.
///
/// # Errors
/// A chart does not take the values.
pub fn plan(spec: Spec, surroundings: &Surroundings) -> Result<Installation, RenderError> {
    let namespace = spec.namespace().to_owned();
    let mut planner = Planner {
        findings: spec.findings,
        tree: spec.tree,
        name: spec.name,
        namespace,
    };
    let values = planner.values(surroundings);
    let components = planner.components(&values)?;
    let mut spec = planner.tree;
    if let Some(values) = spec.get_mut("values").and_then(Value::as_object_mut) {
        values.retain(|_, v| v.as_object().is_none_or(|v| !v.is_empty()));
    }
    Ok(Installation {
        revision: match values["revision"].as_str() {
            None | Some("") => "default".to_owned(),
            Some(revision) => revision.to_owned(),
        },
        name: planner.name,
        namespace: planner.namespace,
        profile: spec["profile"].as_str().map_or("default", |name| {
            crate::profile::Profile::named(name).map_or("default", |p| p.name)
        }),
        spec,
        values,
        components,
        findings: planner.findings,
    })
}

impl Installation {
    /// Owner of its objects, as [`OWNER_LABEL`] says it: two revisions are two owners.
    pub fn owner(&self) -> String {
        owner(&self.name, &self.revision)
    }

    /// Every object, in the order of installation.
    pub fn objects(&self) -> impl Iterator<Item = &Value> {
        self.components.iter().flat_map(|component| &component.objects)
    }
}

struct Planner {
    findings: Vec<Finding>,
    tree: Value,
    name: String,
    namespace: String,
}

impl Planner {
    fn say(&mut self, code: &'static isthmus_api::codes::Code, message: String, remedy: &str) {
        let finding = Finding::new(code, message, remedy).about(about(&self.name, &self.namespace));
        self.findings.push(finding);
    }

    fn text(&self, pointer: &str) -> Option<String> {
        match self.tree.pointer(pointer) {
            Some(Value::String(text)) if !text.is_empty() => Some(text.clone()),
            Some(Value::Number(number)) => Some(number.to_string()),
            _ => None,
        }
    }

    /// Values of the control plane's chart: what the user says, over what runs already where this installation
    /// brings no control plane of its own.
    fn values(&mut self, surroundings: &Surroundings) -> Value {
        let mut values = json!({});
        let pilot = self.enabled("/components/pilot");
        if let (false, Some(installed)) = (pilot, &surroundings.installed) {
            let mut installed = installed.clone();
            if let Some(fields) = installed.as_object_mut() {
                fields.retain(|name, _| matches!(name.as_str(), "global" | "revision"));
            }
            merge(&mut values, &installed);
        }
        for tree in ["values", "unvalidatedValues"] {
            if let Some(said) = self.tree.get(tree).filter(|v| v.is_object()) {
                merge(&mut values, said);
            }
        }
        if let Some(mesh) = self.tree.get("meshConfig").filter(|v| v.is_object()) {
            merge(&mut values["meshConfig"], mesh);
        }
        let said = [("hub", "/hub"), ("tag", "/tag")];
        for (name, pointer) in said {
            if let Some(text) = self.text(pointer) {
                values["global"][name] = Value::from(text);
            }
        }
        if let Some(revision) = self.text("/revision") {
            values["revision"] = Value::from(revision);
        }
        values["global"]["istioNamespace"] = Value::from(self.namespace.clone());
        let component = [("hub", "/components/pilot/hub"), ("tag", "/components/pilot/tag")];
        for (name, pointer) in component {
            if let Some(text) = self.text(pointer) {
                values["pilot"][name] = Value::from(text);
            }
        }
        let mut effective = Chart::Istiod.defaults();
        merge(&mut effective, &values);
        if effective["global"]["tag"].as_str().is_none_or(str::is_empty) {
            effective["global"]["tag"] = Value::from(VERSION);
        }
        self.trust_domain(&effective);
        self.cluster(&mut effective, surroundings, pilot);
        effective
    }

    fn trust_domain(&mut self, values: &Value) {
        let global = values["global"]["trustDomain"].as_str().unwrap_or_default();
        let mesh = values["meshConfig"]["trustDomain"].as_str().unwrap_or_default();
        if !global.is_empty() && !mesh.is_empty() && global != mesh {
            let message = format!(
                "values.global.trustDomain is {global:?} and meshConfig.trustDomain is {mesh:?}, which counts"
            );
            self.say(
                &codes::TRUST_DOMAINS_DIFFER,
                message,
                "write the same in both, or one of them",
            );
        }
    }

    /// The member cluster's name and network, and where they come from.
    fn cluster(&mut self, values: &mut Value, surroundings: &Surroundings, pilot: bool) {
        let global = &mut values["global"];
        let said = |field: &Value| field.as_str().filter(|s| !s.is_empty()).map(str::to_owned);
        if said(&global["network"]).is_none()
            && let Some(network) = surroundings.network.as_ref().filter(|n| !n.is_empty())
        {
            global["network"] = Value::from(network.clone());
            let message =
                format!("values.global.network is not said; the namespace's label says {network:?}");
            self.say(
                &codes::DERIVED,
                message,
                "set values.global.network to choose another",
            );
        }
        let global = &mut values["global"];
        if said(&global["multiCluster"]["clusterName"]).is_some() {
            return;
        }
        let network = said(&global["network"]);
        let derived = network
            .as_deref()
            .map(|n| {
                (
                    n.strip_suffix("-net").unwrap_or(n).to_owned(),
                    format!("network {n:?}"),
                )
            })
            .filter(|(name, _)| !name.is_empty())
            .or_else(|| {
                let context = surroundings.context.as_deref()?;
                Some((dns_label(context)?, format!("kube context {context:?}")))
            });
        let (name, from) = derived.unwrap_or_else(|| ("Kubernetes".to_owned(), "default".to_owned()));
        global["multiCluster"]["clusterName"] = Value::from(name.clone());
        if pilot {
            let message = format!("this cluster is called {name:?}, after the {from}");
            self.say(
                &codes::DERIVED,
                message,
                "set values.global.multiCluster.clusterName to choose another; every cluster of a mesh needs a name of its own",
            );
        }
    }

    fn enabled(&self, pointer: &str) -> bool {
        self.tree.pointer(pointer).and_then(|c| c.get("enabled")) == Some(&Value::Bool(true))
    }

    fn components(&mut self, values: &Value) -> Result<Vec<Component>, RenderError> {
        let mut components = Vec::new();
        let mut base = vec![self.system_namespace(values)];
        if self.enabled("/components/base") {
            let namespace = self.namespace.clone();
            base.extend(Chart::Base.render(
                Release {
                    name: "istio-base",
                    namespace: &namespace,
                },
                &only_known(values, Chart::Base),
            )?);
        }
        components.push(self.component(ComponentKind::Base, "base", base, None, values));
        if self.enabled("/components/pilot") {
            let namespace = self.namespace.clone();
            let release = Release {
                name: "istiod",
                namespace: &namespace,
            };
            let objects = Chart::Istiod.render(release, values)?;
            let revision = values["revision"].as_str().unwrap_or_default();
            let name = if revision.is_empty() {
                "istiod".to_owned()
            } else {
                format!("istiod-{revision}")
            };
            let k8s = self.tree.pointer("/components/pilot/k8s").cloned();
            components.push(self.component(ComponentKind::Pilot, &name, objects, k8s, values));
        }
        for (kind, list) in [
            (ComponentKind::IngressGateway, "ingressGateways"),
            (ComponentKind::EgressGateway, "egressGateways"),
        ] {
            let gateways = self.tree["components"][list]
                .as_array()
                .cloned()
                .unwrap_or_default();
            for gateway in gateways.iter().filter(|g| g["enabled"] == Value::Bool(true)) {
                components.push(self.gateway(kind, gateway, values)?);
            }
        }
        // A namespace alone is not an installation: of profile `empty` nothing but gateways remains.
        if !self.enabled("/components/base") && !self.enabled("/components/pilot") {
            components.retain(|c| c.kind != ComponentKind::Base);
        }
        Ok(components)
    }

    fn gateway(
        &mut self,
        kind: ComponentKind,
        gateway: &Value,
        values: &Value,
    ) -> Result<Component, RenderError> {
        let text = |field: &str| gateway[field].as_str().filter(|s| !s.is_empty());
        let class = match kind {
            ComponentKind::EgressGateway => "istio-egressgateway",
            _ => "istio-ingressgateway",
        };
        let name = text("name").unwrap_or(class).to_owned();
        let namespace = text("namespace").unwrap_or(&self.namespace).to_owned();
        let labels = gateway["label"].as_object().cloned().unwrap_or_default();
        let east_west = labels.get("istio").and_then(Value::as_str) == Some("eastwestgateway");
        let network = labels
            .get("topology.istio.io/network")
            .or_else(|| values.pointer("/global/network"))
            .and_then(Value::as_str)
            .unwrap_or_default();
        if east_west && network.is_empty() {
            let message = format!(
                "gateway {name}: it is the door to this cluster's network, which has no name: no other cluster can find it"
            );
            self.say(
                &codes::NO_NETWORK_GATEWAY,
                message,
                "set values.global.network, as in --set values.global.network=us-net",
            );
        }
        let mut chart = json!({
            "name": name,
            "revision": values["revision"],
            "labels": labels,
            "serviceAccount": { "name": format!("{name}-service-account") },
            "imagePullSecrets": pull_secrets(values),
            "imagePullPolicy": values["global"]["imagePullPolicy"],
            "priorityClassName": values["global"]["priorityClassName"],
        });
        if let Some(labels) = chart["labels"].as_object_mut() {
            labels.entry("app").or_insert_with(|| Value::from(name.clone()));
            let selector = class.trim_start_matches("istio-");
            labels.entry("istio").or_insert_with(|| Value::from(selector));
            labels.remove("topology.istio.io/network");
        }
        if east_west && !network.is_empty() {
            chart["networkGateway"] = Value::from(network);
            chart["autoscaling"]["enabled"] = Value::from(false);
        }
        // A door to other networks has its ports also where its network has no name yet.
        if east_west && network.is_empty() {
            chart["service"]["ports"] = east_west_ports();
        }
        if kind == ComponentKind::EgressGateway {
            chart["service"]["type"] = Value::from("ClusterIP");
            chart["service"]["ports"] = json!([
                { "name": "http2", "port": 80, "targetPort": 80, "protocol": "TCP" },
                { "name": "https", "port": 443, "targetPort": 443, "protocol": "TCP" },
            ]);
        }
        if let Some(said) = values
            .pointer(&format!("/gateways/{class}"))
            .and_then(Value::as_object)
        {
            merge(&mut chart, &from_helm(said));
        }
        let release = Release {
            name: &name,
            namespace: &namespace,
        };
        let objects = Chart::Gateway.render(release, &chart)?;
        let mut component = self.component(kind, &name, objects, gateway.get("k8s").cloned(), values);
        if namespace != self.namespace {
            let labels = json!({ "metadata": { "labels": {} } });
            let mut object =
                json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": namespace } });
            merge(&mut object, &labels);
            component.objects.insert(0, object);
        }
        Ok(component)
    }

    fn system_namespace(&self, values: &Value) -> Value {
        let mut namespace =
            json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": self.namespace } });
        let network = values["global"]["network"].as_str().unwrap_or_default();
        if !network.is_empty() {
            namespace["metadata"]["labels"] = json!({ "topology.istio.io/network": network });
        }
        namespace
    }

    /// Lays the Kubernetes settings over the objects, labels them and puts them in order.
    fn component(
        &mut self,
        kind: ComponentKind,
        name: &str,
        mut objects: Vec<Value>,
        k8s: Option<Value>,
        values: &Value,
    ) -> Component {
        if let Some(Value::Object(k8s)) = k8s {
            for problem in k8s::apply(&mut objects, name, &k8s) {
                let message = format!("{name}: k8s.{problem}");
                self.say(&codes::NO_EFFECT, message, "correct or remove it");
            }
        }
        let revision = match values["revision"].as_str() {
            None | Some("") => "default",
            Some(revision) => revision,
        };
        for object in &mut objects {
            // A namespace is not ours: it may have been there, and others live in it.
            if object["kind"] == "Namespace" {
                continue;
            }
            let labels = &mut object["metadata"]["labels"];
            if !labels.is_object() {
                *labels = Value::Object(Map::new());
            }
            let owner = match kind {
                ComponentKind::Base => SHARED_OWNER.to_owned(),
                _ => owner(&self.name, revision),
            };
            labels[OWNER_LABEL] = Value::from(owner);
            labels[INSTALLER_LABEL] = Value::from(INSTALLER);
            labels[MANAGED_LABEL] = Value::from("Reconcile");
            labels[COMPONENT_LABEL] = Value::from(kind.label());
            labels[VERSION_LABEL] = Value::from(VERSION);
            if labels.get("istio.io/rev").is_none() && kind != ComponentKind::Base {
                labels["istio.io/rev"] = Value::from(revision);
            }
        }
        order::sort(&mut objects);
        Component {
            kind,
            name: name.to_owned(),
            objects,
        }
    }
}

fn owner(name: &str, revision: &str) -> String {
    match revision {
        "default" => name.to_owned(),
        revision => format!("{name}-{revision}"),
    }
}

/// The values that a chart knows, of those of all charts.
fn only_known(values: &Value, chart: Chart) -> Value {
    let known = chart.defaults();
    let mut only = Map::new();
    for (name, default) in known.as_object().into_iter().flatten() {
        let Some(value) = values.get(name) else { continue };
        match (value.as_object(), default.as_object()) {
            (Some(fields), Some(known)) => {
                let fields = fields.iter().filter(|(k, _)| known.contains_key(*k));
                only.insert(
                    name.clone(),
                    fields.map(|(k, v)| (k.clone(), v.clone())).collect(),
                );
            }
            _ => {
                only.insert(name.clone(), value.clone());
            }
        }
    }
    Value::Object(only)
}

/// `gateways.istio-ingressgateway` in the names of the chart.
fn from_helm(said: &Map<String, Value>) -> Value {
    let mut chart = json!({});
    for (name, path) in GATEWAY_VALUES {
        let Some(value) = said.get(*name) else { continue };
        let mut slot = &mut chart;
        for step in path.split('.') {
            slot = &mut slot[step];
        }
        *slot = value.clone();
    }
    chart
}

fn pull_secrets(values: &Value) -> Value {
    let names = values["global"]["imagePullSecrets"].as_array();
    names
        .into_iter()
        .flatten()
        .map(|name| json!({ "name": name }))
        .collect()
}

fn east_west_ports() -> Value {
    let port =
        |name: &str, port: u16| json!({ "name": name, "port": port, "targetPort": port, "protocol": "TCP" });
    json!([
        port("status-port", 15021),
        port("tls", 15443),
        port("tls-istiod", 15012),
        port("tls-webhook", 15017),
    ])
}

/// The part of a context's name that can name a cluster: `kind-us` is that, `admin@us.example` is `us-example`.
fn dns_label(context: &str) -> Option<String> {
    let last = context.rsplit(['@', '/', ':']).next().unwrap_or(context);
    let label: String = last
        .chars()
        .map(|c| {
            if c.is_ascii_alphanumeric() {
                c.to_ascii_lowercase()
            } else {
                '-'
            }
        })
        .collect();
    let label = label.trim_matches('-');
    (!label.is_empty()).then(|| label.chars().take(63).collect())
}
