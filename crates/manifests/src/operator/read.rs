//! Files and `--set` to one specification.

use std::sync::Arc;

use isthmus_api::codes;
use isthmus_api::finding::{Finding, Level};
use isthmus_api::suggest::nearest;
use isthmus_api::yaml::{Limits, Node, Value as Tree, documents};
use isthmus_api::{Kind, ObjectKey, mesh_config};
use serde_json::{Map, Value};

use super::k8s;
use super::set::{Set, Step};
use super::values;
use crate::merge::merge;
use crate::profile::Profile;
use crate::yaml::to_json;

/// What the user said.
#[derive(Debug, Clone, Default)]
pub struct Input {
    /// Names and texts of the files, in order.
    pub files: Vec<(String, String)>,
    /// `--set`, in order; they count after the files.
    pub sets: Vec<String>,
}

/// What is to be installed, merged.
#[derive(Debug, Clone)]
pub struct Spec {
    /// `metadata.name` of the last file that has one: the owner of what is installed.
    pub name: String,
    /// The profile that it starts from.
    pub profile: &'static Profile,
    /// `spec` of an IstioOperator.
    pub tree: Value,
    /// What is worth telling, by file and line.
    pub findings: Vec<Finding>,
}

impl Spec {
    /// Namespace of the control plane.
    pub fn namespace(&self) -> &str {
        let said = ["/values/global/istioNamespace", "/namespace"];
        said.iter()
            .filter_map(|pointer| self.tree.pointer(pointer).and_then(Value::as_str))
            .find(|namespace| !namespace.is_empty())
            .unwrap_or(mesh_config::ROOT_NAMESPACE)
    }

    /// Revision of the control plane.
    pub fn revision(&self) -> &str {
        let said = ["/revision", "/values/revision"];
        said.iter()
            .filter_map(|pointer| self.tree.pointer(pointer).and_then(Value::as_str))
            .find(|revision| !revision.is_empty())
            .unwrap_or("default")
    }
}

/// Owner of what is installed without a file that has a name.
const UNNAMED: &str = "installed-state";

/// Fields of an IstioOperator's `spec`.
const FIELDS: &[&str] = &[
    "profile",
    "hub",
    "tag",
    "revision",
    "namespace",
    "meshConfig",
    "components",
    "values",
    "unvalidatedValues",
    "installPackagePath",
    "compatibilityVersion",
];

/// Merges the profile, the files and the `--set`s.
///
/// # Errors
/// A file or a `--set` cannot be read or says what does not exist: the findings, at least one of them an error.
pub fn read(input: &Input) -> Result<Spec, Vec<Finding>> {
    let mut findings = Vec::new();
    let mut layers: Vec<Value> = Vec::new();
    let mut name = String::new();
    for (file, text) in &input.files {
        read_file(file, text, &mut layers, &mut name, &mut findings);
    }
    let mut sets = Vec::new();
    for text in &input.sets {
        match Set::parse(text)
            .map_err(|e| e.to_string())
            .and_then(|set| in_spec(&set).map(|()| set))
        {
            Ok(set) => sets.push(set),
            Err(message) => findings.push(Finding::new(&codes::SCHEMA, message, "")),
        }
    }
    let said = sets
        .iter()
        .rev()
        .filter(|set| set.path == [Step::Key("profile".to_owned())])
        .find_map(|set| set.value.as_str())
        .or_else(|| layers.iter().rev().find_map(|layer| layer["profile"].as_str()))
        .filter(|profile| !profile.is_empty());
    let profile = match Profile::named(said.unwrap_or("default")) {
        Ok(profile) => profile,
        Err(message) => {
            findings.push(Finding::new(&codes::SCHEMA, message, ""));
            return Err(findings);
        }
    };
    let mut tree = profile.spec();
    for layer in layers {
        overlay(&mut tree, layer);
    }
    for set in &sets {
        if let Err(error) = set.apply(&mut tree) {
            findings.push(Finding::new(&codes::SCHEMA, error.to_string(), ""));
        }
        check_set(set, &mut findings);
    }
    let duplicates =
        |a: &Finding, b: &Finding| a.line == b.line && a.file == b.file && a.message == b.message;
    findings.dedup_by(|a, b| duplicates(a, b));
    if findings.iter().any(Finding::is_error) {
        return Err(findings);
    }
    tree["profile"] = Value::from(profile.name);
    if name.is_empty() {
        name = UNNAMED.to_owned();
    }
    Ok(Spec {
        name,
        profile,
        tree,
        findings,
    })
}

fn read_file(
    file: &str,
    text: &str,
    layers: &mut Vec<Value>,
    name: &mut String,
    findings: &mut Vec<Finding>,
) {
    let path: Arc<str> = Arc::from(file);
    for document in documents(text, &Limits::default()) {
        let node = match document {
            Ok(node) => node,
            Err(malformed) => {
                let finding = Finding::new(&codes::MALFORMED, malformed.message, malformed.remedy);
                findings.push(finding.at(&path, malformed.line));
                continue;
            }
        };
        let text = |field: &str| node.field(field).and_then(Node::text);
        match (text("apiVersion"), text("kind")) {
            (None, None) => {
                findings.extend(values::check(&node, "", &path));
                check_mesh_config(node.field("meshConfig"), &path, findings);
                let mut layer = Map::new();
                layer.insert("values".to_owned(), to_json(&node));
                layers.push(Value::Object(layer));
            }
            (Some(version), Some("IstioOperator")) if version.starts_with("install.istio.io/") => {
                operator(&node, &path, findings);
                let metadata = |field: &str| {
                    node.field("metadata")
                        .and_then(|m| m.field(field))
                        .and_then(Node::text)
                };
                if let Some(said) = metadata("name") {
                    said.clone_into(name);
                }
                let mut layer = node.field("spec").map(to_json).unwrap_or_default();
                if !layer.is_object() {
                    layer = Value::Object(Map::new());
                }
                if let (Some(namespace), true) = (metadata("namespace"), layer["namespace"].is_null()) {
                    layer["namespace"] = Value::from(namespace);
                }
                layers.push(layer);
            }
            (_, kind) => {
                let finding = Finding::new(
                    &codes::UNKNOWN_KIND,
                    format!("{} is no installation", kind.unwrap_or("an object without kind")),
                    "write a file of kind IstioOperator or Helm values here, and apply other objects with kubectl",
                );
                findings.push(finding.level(Level::Error).at(&path, node.line));
            }
        }
    }
}

/// Checks an IstioOperator: its own fields, and the trees in it that its struct leaves free.
fn operator(node: &Node, file: &Arc<str>, findings: &mut Vec<Finding>) {
    let named = with_name(node);
    let parsed = isthmus_api::parse::parse_node(&named, file);
    findings.extend(parsed.findings);
    let Some(spec) = node.field("spec") else { return };
    if let Some(tree) = spec.field("values") {
        // This one is among the rules of the kind already.
        let already = |finding: &Finding| finding.message.contains("PILOT_ENABLE_MULTINETWORK");
        let found = values::check(tree, "spec.values", file);
        findings.extend(found.into_iter().filter(|f| !already(f)));
        check_mesh_config(tree.field("meshConfig"), file, findings);
    }
    check_mesh_config(spec.field("meshConfig"), file, findings);
    let components = spec.field("components");
    let Some(Node {
        value: Tree::Mapping(components),
        ..
    }) = components
    else {
        return;
    };
    for (name, component) in components {
        let path = format!("spec.components.{}", name.text);
        match &component.value {
            Tree::Sequence(items) => {
                for (i, item) in items.iter().enumerate() {
                    settings(item, &format!("{path}[{i}]"), file, findings);
                }
            }
            _ => settings(component, &path, file, findings),
        }
        let enabled = component.field("enabled").map(to_json) == Some(Value::Bool(true));
        if enabled && matches!(&*name.text, "cni" | "ztunnel" | "istiodRemote") {
            let why = match &*name.text {
                "cni" => "traffic is redirected by an init container",
                "ztunnel" => "there is no ambient mode",
                _ => "every cluster has a control plane of its own",
            };
            let finding = Finding::new(
                &codes::NO_EFFECT,
                format!("{path}: has no effect: {why}"),
                "remove it",
            );
            findings.push(finding.at(file, name.line));
        }
    }
}

/// The file need not name the installation; the rules of the kind want a name.
fn with_name(node: &Node) -> Node {
    let mut node = node.clone();
    let named = node.field("metadata").and_then(|m| m.field("name")).is_some();
    if let (false, Tree::Mapping(entries)) = (named, &mut node.value) {
        let name = Node::from_json(&serde_json::json!({ "name": UNNAMED }));
        match entries.iter_mut().find(|(key, _)| &*key.text == "metadata") {
            Some((
                _,
                Node {
                    value: Tree::Mapping(metadata),
                    ..
                },
            )) => {
                if let Tree::Mapping(mut name) = name.value {
                    metadata.append(&mut name);
                }
            }
            Some((_, metadata)) => *metadata = name,
            None => {
                if let Tree::Mapping(mut metadata) =
                    Node::from_json(&serde_json::json!({ "metadata": { "name": UNNAMED } })).value
                {
                    entries.append(&mut metadata);
                }
            }
        }
    }
    node
}

/// Checks the Kubernetes settings of one component.
fn settings(component: &Node, path: &str, file: &Arc<str>, findings: &mut Vec<Finding>) {
    let Some(Node {
        value: Tree::Mapping(entries),
        ..
    }) = component.field("k8s")
    else {
        return;
    };
    for (key, value) in entries {
        let path = format!("{path}.k8s.{}", key.text);
        match k8s::check(&key.text, &to_json(value)) {
            Ok(()) => {}
            Err(finding) => {
                let mut finding = *finding;
                finding.message = format!("{path}: {}", finding.message);
                findings.push(finding.at(file, key.line));
            }
        }
    }
}

/// Checks the mesh's settings; what no field knows is an error here, since the user is there to correct it.
fn check_mesh_config(node: Option<&Node>, file: &Arc<str>, findings: &mut Vec<Finding>) {
    let Some(node) = node else { return };
    let (_, found) = mesh_config::from_node(node, file);
    findings.extend(found.into_iter().map(|mut finding| {
        finding.origin.clear();
        if let Some(path) = finding.message.strip_prefix("mesh.") {
            finding.message = format!("meshConfig.{path}");
        }
        if finding.code == &codes::SCHEMA_WARNING {
            finding.level = Level::Error;
        }
        finding
    }));
}

/// Whether the path of a `--set` begins with a field of `spec`.
fn in_spec(set: &Set) -> Result<(), String> {
    let Some(Step::Key(first)) = set.path.first() else {
        return Err(format!(
            "--set {}: the path begins with a field, such as values",
            set.text
        ));
    };
    if FIELDS.contains(&first.as_str()) {
        return Ok(());
    }
    let remedy = if values::known().get(first).is_some() {
        format!("Helm values stand below values: --set values.{}", set.text)
    } else {
        match nearest(first, FIELDS.iter().copied()) {
            Some(meant) => format!("did you mean {meant}?"),
            None => format!("a path begins with one of {}", FIELDS.join(", ")),
        }
    };
    Err(format!(
        "--set {}: there is no field {first:?}; {remedy}",
        set.text
    ))
}

/// Checks what one `--set` says, as if it were a file.
fn check_set(set: &Set, findings: &mut Vec<Finding>) {
    let mut spec = Value::Null;
    // An index that refers to the profile's list stands at the front of a tree of its own.
    let path = set.path.iter().map(|step| match step {
        Step::Index(_) => Step::Index(0),
        key => key.clone(),
    });
    let alone = Set {
        path: path.collect(),
        ..set.clone()
    };
    if alone.apply(&mut spec).is_err() {
        return;
    }
    for list in ["ingressGateways", "egressGateways"] {
        let gateways = spec.get_mut("components").and_then(|c| c.get_mut(list));
        for gateway in gateways.and_then(Value::as_array_mut).into_iter().flatten() {
            if gateway.get("name").is_none() && gateway.is_object() {
                gateway["name"] = Value::from("gateway");
            }
        }
    }
    let node = Node::from_json(&serde_json::json!({
        "apiVersion": "install.istio.io/v1alpha1",
        "kind": "IstioOperator",
        "metadata": { "name": "set" },
        "spec": spec,
    }));
    let mut found = Vec::new();
    operator(&node, &Arc::from(""), &mut found);
    findings.extend(found.into_iter().map(|mut finding| {
        finding.origin.clear();
        finding.message = format!("--set {}: {}", set.text, finding.message);
        finding
    }));
}

/// Lays a layer over the tree. Gateways are told apart by their names.
fn overlay(tree: &mut Value, mut layer: Value) {
    for list in ["ingressGateways", "egressGateways"] {
        let components = layer.get_mut("components").and_then(Value::as_object_mut);
        let Some(Value::Array(gateways)) = components.and_then(|c| c.remove(list)) else {
            continue;
        };
        let slot = &mut tree["components"][list];
        if !slot.is_array() {
            *slot = Value::Array(Vec::new());
        }
        let Some(have) = slot.as_array_mut() else { continue };
        for gateway in gateways {
            let same =
                |g: &&mut Value| g["name"] == gateway["name"] && g["namespace"] == gateway["namespace"];
            match have.iter_mut().find(same) {
                Some(existing) => merge(existing, &gateway),
                None => have.push(gateway),
            }
        }
    }
    merge(tree, &layer);
}

/// The object that findings about an installation are about.
pub(super) fn about(name: &str, namespace: &str) -> ObjectKey {
    ObjectKey {
        kind: Kind::IstioOperator,
        namespace: namespace.to_owned(),
        name: name.to_owned(),
    }
}
