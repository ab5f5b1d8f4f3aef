//! From text to settings, with the lines of the file that the text stands in.

use std::sync::Arc;

use super::{CONFIG_MAP, MeshConfig, MeshNetworks, ROOT_NAMESPACE};
use crate::codes;
use crate::decode::{Strictness, Unknown, decode};
use crate::effect;
use crate::finding::Finding;
use crate::kinds::Kind;
use crate::kubernetes::ConfigMap;
use crate::object::{Meta, ObjectKey, Origin};
use crate::position::Positions;
use crate::validate::{Context, Validate};
use crate::yaml::{Key, Limits, Node, Value, documents};

/// What the ConfigMap holds.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Mesh {
    /// Key `mesh`.
    pub config: MeshConfig,
    /// Key `meshNetworks`.
    pub networks: MeshNetworks,
}

/// Reads ConfigMap `istio`. What is wrong yields findings and defaults, or the rest of the text.
///
/// `first_line` says on which line of `file` the text under each key begins, for exact lines.
pub fn from_config_map(
    map: &ConfigMap,
    file: &Arc<str>,
    first_line: impl Fn(&str) -> u32,
) -> (Mesh, Vec<Finding>) {
    let mut findings = Vec::new();
    let text = |key: &str| map.data.get(key).map_or("", String::as_str);
    let mesh = Mesh {
        config: Text {
            key: "mesh",
            text: text("mesh"),
            file,
            first_line: first_line("mesh"),
        }
        .read(&mut findings),
        networks: Text {
            key: "meshNetworks",
            text: text("meshNetworks"),
            file,
            first_line: first_line("meshNetworks"),
        }
        .read(&mut findings),
    };
    (mesh, findings)
}

/// Reads a MeshConfig from a file of its own (`--mesh-config-file`).
pub fn from_text(text: &str, file: &str) -> (MeshConfig, Vec<Finding>) {
    let mut findings = Vec::new();
    let config = Text {
        key: "mesh",
        text,
        file: &Arc::from(file),
        first_line: 1,
    }
    .read(&mut findings);
    (config, findings)
}

/// Reads a MeshConfig that stands within a document of another kind, with that file's lines.
pub fn from_node(node: &Node, file: &Arc<str>) -> (MeshConfig, Vec<Finding>) {
    let mut findings = Vec::new();
    let within = Text {
        key: "mesh",
        text: "",
        file,
        first_line: 1,
    };
    let config = within.read_node(node.clone(), &mut findings);
    (config.unwrap_or_default(), findings)
}

/// A text within a file.
struct Text<'a> {
    key: &'a str,
    text: &'a str,
    file: &'a Arc<str>,
    first_line: u32,
}

impl Text<'_> {
    fn read<T: serde::de::DeserializeOwned + Default + Validate>(&self, findings: &mut Vec<Finding>) -> T {
        for document in documents(self.text, &Limits::default()) {
            match document {
                Ok(node) => {
                    if let Some(value) = self.read_node(node, findings) {
                        return value;
                    }
                }
                Err(malformed) => {
                    let finding = Finding::new(&codes::MALFORMED, malformed.message, malformed.remedy);
                    findings.push(finding.at(self.file, self.line(malformed.line)).about(about()));
                }
            }
        }
        T::default()
    }

    fn line(&self, within: u32) -> u32 {
        self.first_line.saturating_add(within.saturating_sub(1))
    }

    fn read_node<T: serde::de::DeserializeOwned + Default + Validate>(
        &self,
        node: Node,
        findings: &mut Vec<Finding>,
    ) -> Option<T> {
        let strictness = Strictness {
            unknown: Unknown::Warn,
            numbers_as_text: true,
        };
        let key = about();
        let mut add =
            |finding: Finding, within| findings.push(finding.at(self.file, self.line(within)).about(&key));
        let mut unknown = Vec::new();
        let result: Result<T, _> = decode(&node, self.key, &[], strictness, &mut unknown);
        for field in unknown {
            let message = format!("{}: unknown field {:?}", field.path, field.name);
            let remedy = field
                .meant
                .map_or_else(|| "remove it".to_owned(), |m| format!("did you mean {m}?"));
            add(Finding::new(&codes::SCHEMA_WARNING, message, remedy), field.line);
        }
        for idle in effect::written(Kind::ConfigMap, &node, self.key) {
            add(idle.finding(), idle.line);
        }
        match result {
            Ok(value) => {
                let within = Node {
                    line: 1,
                    value: Value::Mapping(vec![(key_of(self.key), node)]),
                };
                let positions = Positions::of(&within).shifted(self.first_line.saturating_sub(1));
                let origin = Origin {
                    file: Arc::clone(self.file),
                    line: self.first_line,
                };
                let meta = Meta::default();
                let context = Context::new(&key, &meta, &positions, &origin);
                value.validate(&context);
                findings.extend(context.into_findings());
                Some(value)
            }
            Err(misfit) => {
                let message = format!("{}: {}", misfit.path, misfit.message);
                add(
                    Finding::new(&codes::SCHEMA, message, "defaults are used instead"),
                    misfit.line,
                );
                None
            }
        }
    }
}

fn about() -> ObjectKey {
    ObjectKey {
        kind: Kind::ConfigMap,
        namespace: ROOT_NAMESPACE.to_owned(),
        name: CONFIG_MAP.to_owned(),
    }
}

fn key_of(name: &str) -> Key {
    Key {
        text: name.into(),
        line: 1,
    }
}
