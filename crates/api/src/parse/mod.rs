//! Text to objects and findings.
//!
//! A document that is wrong yields findings and no object; its neighbours are unaffected. Every object
//! that is handed out has passed the validation of its kind.
//!
//! ```text
//!   text ─ yaml::documents ─> Node ─ kinds (group, version) ─> decode ─> Spec ─ validate ─> Object
//!                  └ Malformed ──────────┴──────────┴─────────────┴───────────────┴────────> Finding
//! ```

use std::collections::HashMap;
use std::sync::Arc;

use crate::codes;
use crate::decode::{Strictness, Unknown, UnknownField, decode};
use crate::effect;
use crate::finding::{Finding, Level};
use crate::kinds::Kind;
use crate::object::{Meta, Object, ObjectKey, Origin};
use crate::position::Positions;
use crate::suggest::nearest;
use crate::validate::{Context, metadata};
use crate::yaml::{Limits, Node, Value, documents};

/// What a text holds.
#[derive(Debug, Clone, Default)]
pub struct Parsed {
    /// The objects that are in order, as written.
    pub objects: Vec<Arc<Object>>,
    /// What is wrong or surprising, by line.
    pub findings: Vec<Finding>,
    /// Objects that were named but refused, so that a last good version can stay in force.
    pub refused: Vec<ObjectKey>,
    /// Whether some document could not even be attributed to an object (broken YAML).
    pub unattributed: bool,
}

impl Parsed {
    /// Whether something is wrong, and not merely surprising.
    pub fn has_errors(&self) -> bool {
        self.findings.iter().any(Finding::is_error)
    }

    /// Takes over what another text holds; objects already there win, with a finding.
    pub fn absorb(&mut self, other: Parsed) {
        self.objects.extend(other.objects);
        self.findings.extend(other.findings);
        self.refused.extend(other.refused);
        self.unattributed |= other.unattributed;
    }

    /// Drops all but the first of objects with one key, and says so.
    pub fn drop_duplicates(&mut self) {
        let mut first: HashMap<ObjectKey, Origin> = HashMap::with_capacity(self.objects.len());
        let findings = &mut self.findings;
        self.objects.retain(|object| {
            let key = object.key();
            match first.get(&key) {
                None => {
                    first.insert(key, object.origin.clone());
                    true
                }
                Some(origin) => {
                    findings.push(duplicate(object, &key, origin));
                    false
                }
            }
        });
    }
}

/// The finding about an object whose key `first` has taken already.
pub fn duplicate(object: &Object, key: &ObjectKey, first: &Origin) -> Finding {
    Finding::new(
        &codes::DUPLICATE_OBJECT,
        format!(
            "the same {} {:?} is already written at {first}, which counts",
            key.kind, key.name
        ),
        "remove or rename one of the two",
    )
    .at(
        &object.origin.file,
        object.positions.line("metadata.name").max(object.origin.line),
    )
    .about(key)
}

/// Reads every document of `text`. `file` is how findings call it.
pub fn parse(text: &str, file: &str) -> Parsed {
    let file: Arc<str> = Arc::from(file);
    let mut parsed = Parsed::default();
    for document in documents(text, &Limits::default()) {
        match document {
            Ok(node) => read(&node, &file, &mut parsed, 0),
            Err(malformed) => {
                parsed.unattributed = true;
                parsed.findings.push(
                    Finding::new(&codes::MALFORMED, malformed.message, malformed.remedy)
                        .at(&file, malformed.line),
                );
            }
        }
    }
    parsed.drop_duplicates();
    parsed.findings.sort_by_key(|f| f.line);
    parsed
}

/// Reads one object that came over an API as JSON and has no lines. `origin` names where it came from.
pub fn parse_json(json: &serde_json::Value, origin: &str) -> Parsed {
    let mut parsed = Parsed::default();
    read(&Node::from_json(json), &Arc::from(origin), &mut parsed, 0);
    parsed
}

/// Reads one document that was taken apart already; `file` and the node's own lines say where it stands.
pub fn parse_node(node: &Node, file: &Arc<str>) -> Parsed {
    let mut parsed = Parsed::default();
    read(node, file, &mut parsed, 0);
    parsed
}

/// Fields of a resource besides its content.
#[derive(serde::Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[derive(Default)]
struct Envelope {
    #[serde(rename = "apiVersion")]
    _api_version: String,
    #[serde(rename = "kind")]
    _kind: String,
    #[serde(rename = "metadata")]
    _metadata: serde::de::IgnoredAny,
    #[serde(rename = "spec")]
    _spec: serde::de::IgnoredAny,
    status: Option<Box<serde_json::Value>>,
}

fn read(node: &Node, file: &Arc<str>, parsed: &mut Parsed, depth: usize) {
    let finding =
        |code, line, message: String, remedy: &str| Finding::new(code, message, remedy).at(file, line);
    if !matches!(node.value, Value::Mapping(_)) {
        parsed.unattributed = true;
        parsed.findings.push(finding(
            &codes::NOT_AN_OBJECT,
            node.line,
            format!("expected a resource, found {node}"),
            "a resource begins with apiVersion and kind",
        ));
        return;
    }
    let text = |name: &str| node.field(name).and_then(Node::text).unwrap_or_default();
    let (api_version, kind) = (text("apiVersion"), text("kind"));
    if api_version.is_empty() || kind.is_empty() {
        parsed.unattributed = true;
        let missing = if kind.is_empty() { "kind" } else { "apiVersion" };
        parsed.findings.push(finding(
            &codes::NOT_AN_OBJECT,
            node.line,
            format!("the document has no {missing}"),
            "a resource begins with apiVersion and kind",
        ));
        return;
    }
    let (group, version) = api_version.rsplit_once('/').unwrap_or(("", api_version));
    if group.is_empty() && (kind == "List" || kind.ends_with("List")) {
        return read_list(node, file, parsed, depth);
    }
    let Some(known) = Kind::find(group, kind) else {
        parsed
            .findings
            .push(not_read(node, group, kind).at(file, line_of(node, "kind")));
        return;
    };
    let info = known.info();
    if !info.versions.contains(&version) {
        parsed.unattributed = true;
        let remedy = format!("write apiVersion: {}", info.api_version());
        parsed.findings.push(finding(
            &codes::UNKNOWN_VERSION,
            line_of(node, "apiVersion"),
            format!("{known} is not served in version {version:?}"),
            &remedy,
        ));
        return;
    }
    read_object(node, known, file, parsed);
}

fn read_list(node: &Node, file: &Arc<str>, parsed: &mut Parsed, depth: usize) {
    let items = match node.field("items").map(|n| &n.value) {
        Some(Value::Sequence(items)) if depth == 0 => items.as_slice(),
        Some(Value::Sequence(_)) => {
            let remedy = "write the inner list's items into the outer list";
            let message = "a List stands inside a List".to_owned();
            parsed
                .findings
                .push(Finding::new(&codes::NOT_AN_OBJECT, message, remedy).at(file, node.line));
            return;
        }
        _ => &[],
    };
    for item in items {
        read(item, file, parsed, depth + 1);
    }
}

fn not_read(node: &Node, group: &str, kind: &str) -> Finding {
    let ours = group.ends_with(".istio.io") || group == "istio.io";
    let same_kind = Kind::ALL
        .iter()
        .find(|k| k.info().kind == kind && (ours || k.info().group == group));
    let in_group = Kind::ALL
        .iter()
        .map(|k| k.info())
        .filter(|i| i.group == group)
        .map(|i| i.kind);
    let meant = nearest(kind, in_group);
    let name = node
        .field("metadata")
        .and_then(|m| m.field("name"))
        .and_then(Node::text)
        .unwrap_or_default();
    let finding = match (same_kind, meant) {
        (Some(k), _) => Finding::new(
            &codes::UNKNOWN_KIND,
            format!("there is no kind {kind} in group {group:?}"),
            format!("write apiVersion: {}", k.info().api_version()),
        )
        .level(Level::Error),
        (None, Some(meant)) => Finding::new(
            &codes::UNKNOWN_KIND,
            format!("there is no kind {kind} in group {group:?}"),
            format!("did you mean {meant}?"),
        )
        .level(if ours { Level::Error } else { Level::Warning }),
        (None, None) if ours => Finding::new(
            &codes::UNKNOWN_KIND,
            format!("there is no kind {kind} in group {group:?}"),
            "see the list of Istio's kinds",
        )
        .level(Level::Error),
        (None, None) => Finding::new(
            &codes::UNKNOWN_KIND,
            format!("{kind} of group {group:?} is not read by the mesh"),
            "nothing needs to be done",
        ),
    };
    finding.about(format!("{kind} {name}"))
}

fn read_object(node: &Node, kind: Kind, file: &Arc<str>, parsed: &mut Parsed) {
    let info = kind.info();
    let mut unknown: Vec<UnknownField> = Vec::new();
    let mut misfits = Vec::new();

    let lenient = Strictness {
        unknown: Unknown::Warn,
        numbers_as_text: false,
    };
    let mut meta: Meta = match node
        .field("metadata")
        .map(|m| decode(m, "metadata", &[], lenient, &mut unknown))
    {
        None => Meta::default(),
        Some(Ok(meta)) => meta,
        Some(Err(misfit)) => {
            misfits.push(misfit);
            Meta {
                name: raw_meta(node, "name"),
                namespace: raw_meta(node, "namespace"),
                ..Meta::default()
            }
        }
    };
    if !info.namespaced {
        meta.namespace = String::new();
    } else if meta.namespace.is_empty() {
        meta.namespace = "default".to_owned();
    }
    let key = ObjectKey {
        kind,
        namespace: meta.namespace.clone(),
        name: meta.name.clone(),
    };

    let metadata_fields = unknown.len();
    let mut status = None;
    let empty = Node {
        line: node.line,
        value: Value::Mapping(Vec::new()),
    };
    let content = if info.whole {
        kind.decode(node, "", &mut unknown)
    } else {
        let envelope = Strictness {
            unknown: Unknown::Error,
            numbers_as_text: false,
        };
        match decode::<Envelope>(node, "", &[], envelope, &mut unknown) {
            Ok(envelope) => status = envelope.status,
            Err(misfit) => misfits.push(misfit),
        }
        kind.decode(node.field("spec").unwrap_or(&empty), "spec", &mut unknown)
    };

    let mut findings = Vec::new();
    for (i, field) in unknown.iter().enumerate() {
        // A stray field of metadata harms nobody; Kubernetes adds new ones.
        let strict = i >= metadata_fields && info.unknown == Unknown::Error;
        findings.push(unknown_field(field, strict).at(file, field.line).about(&key));
    }
    let spec = match content {
        Ok(spec) => Some(spec),
        Err(misfit) => {
            misfits.push(misfit);
            None
        }
    };
    let content_at = if info.whole { "" } else { "spec" };
    let content = if info.whole {
        Some(node)
    } else {
        node.field("spec")
    };
    for idle in content
        .map(|c| effect::written(kind, c, content_at))
        .unwrap_or_default()
    {
        findings.push(idle.finding().at(file, idle.line).about(&key));
    }
    for misfit in misfits {
        let place = if misfit.path.is_empty() {
            String::new()
        } else {
            format!("{}: ", misfit.path)
        };
        findings.push(
            Finding::new(&codes::SCHEMA, format!("{place}{}", misfit.message), "")
                .at(file, misfit.line)
                .about(&key),
        );
    }

    let positions = Positions::of(node);
    let origin = Origin {
        file: Arc::clone(file),
        line: node.line,
    };
    let context = Context::new(&key, &meta, &positions, &origin);
    metadata::validate(&meta, &context);
    if let Some(spec) = &spec {
        spec.validate(&context);
    }
    findings.extend(context.into_findings());

    let refused = findings.iter().any(Finding::is_error);
    parsed.findings.extend(findings);
    match spec {
        Some(spec) if !refused => {
            parsed.objects.push(Arc::new(Object {
                kind,
                meta,
                spec,
                status,
                origin,
                positions,
            }));
        }
        _ => parsed.refused.push(key),
    }
}

fn unknown_field(field: &UnknownField, strict: bool) -> Finding {
    let code = if strict {
        &codes::SCHEMA
    } else {
        &codes::SCHEMA_WARNING
    };
    let remedy = match field.meant {
        Some(meant) => format!("did you mean {meant}?"),
        None if field.known.is_empty() => "remove it".to_owned(),
        None => {
            let mut known: Vec<&str> = field.known.to_vec();
            known.sort_unstable();
            format!("remove it, or use one of {}", known.join(", "))
        }
    };
    Finding::new(
        code,
        format!("{}: unknown field {:?}", field.path, field.name),
        remedy,
    )
}

fn raw_meta(node: &Node, name: &str) -> String {
    let text = node
        .field("metadata")
        .and_then(|m| m.field(name))
        .and_then(Node::text);
    text.unwrap_or_default().to_owned()
}

fn line_of(node: &Node, name: &str) -> u32 {
    match &node.value {
        Value::Mapping(fields) => fields
            .iter()
            .find(|(k, _)| &*k.text == name)
            .map_or(node.line, |(k, _)| k.line),
        _ => node.line,
    }
}

#[cfg(test)]
mod tests;
