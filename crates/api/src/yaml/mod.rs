//! YAML text to a tree of nodes that know their lines.
//!
//! It reads what `kubectl` reads: several documents, anchors, aliases, merge keys, JSON, and YAML 1.1's
//! `yes`/`on` booleans. It does not know kinds or fields. Size, depth and alias expansion are bounded
//! ([`Limits`]), and a document that is malformed does not take its neighbours down.
//!
//! ```text
//!   text ─ split (at `---`) ─> chunks ─ compose (events, anchors, merges) ─> Node, or Malformed with its line
//! ```

mod compose;
mod scalar;
mod split;
#[cfg(test)]
mod tests;

use std::fmt;

/// A value and the line on which it stands.
#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    /// Line in the file, from 1; 0 when the value did not come from text.
    pub line: u32,
    /// What stands there.
    pub value: Value,
}

/// What a node holds.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// Text, number, boolean or nothing.
    Scalar(Scalar),
    /// A list.
    Sequence(Vec<Node>),
    /// A mapping, in the order written, without duplicate keys.
    Mapping(Vec<(Key, Node)>),
}

/// The key of a mapping entry.
#[derive(Debug, Clone, PartialEq)]
pub struct Key {
    /// The key as text.
    pub text: Box<str>,
    /// Line in the file, from 1.
    pub line: u32,
}

/// A scalar as written and as YAML understands it.
#[derive(Debug, Clone, PartialEq)]
pub struct Scalar {
    /// The text after unquoting.
    pub text: Box<str>,
    /// Its type under YAML's rules for plain scalars.
    pub kind: ScalarKind,
}

/// Type of a scalar.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum ScalarKind {
    /// `null`, `~` or nothing at all.
    Null,
    /// `true`, `yes`, `on` and their opposites, unquoted.
    Bool(bool),
    /// A whole number that fits.
    Int(i64),
    /// Any other number.
    Float(f64),
    /// Anything else, and everything quoted.
    Text,
}

/// Bounds on what one document may make us do.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Bytes of one file.
    pub file_bytes: usize,
    /// Nodes of one document, counting what aliases stand for.
    pub nodes: usize,
    /// Bytes of scalars of one document, counting what aliases stand for.
    pub scalar_bytes: usize,
    /// Nesting of lists and mappings.
    pub depth: usize,
}

impl Default for Limits {
    fn default() -> Self {
        // An object in etcd is at most 1.5 MiB; a file holds many.
        Self {
            file_bytes: 32 << 20,
            nodes: 200_000,
            scalar_bytes: 8 << 20,
            depth: 96,
        }
    }
}

/// Why a document could not be read as YAML.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {message}; {remedy}")]
pub struct Malformed {
    /// Line in the file, from 1.
    pub line: u32,
    /// What is wrong.
    pub message: String,
    /// What to do about it.
    pub remedy: &'static str,
}

/// Reads every document of a text. Documents that hold nothing are left out.
pub fn documents(text: &str, limits: &Limits) -> Vec<Result<Node, Malformed>> {
    if text.len() > limits.file_bytes {
        return vec![Err(Malformed {
            line: 1,
            message: format!(
                "the file has {} bytes, more than {}",
                text.len(),
                limits.file_bytes
            ),
            remedy: "split it into several files",
        })];
    }
    let mut found = Vec::new();
    for chunk in split::chunks(text) {
        compose::compose(chunk, limits, &mut found);
    }
    found
}

impl Node {
    /// The value of a mapping's key.
    pub fn field(&self, name: &str) -> Option<&Node> {
        match &self.value {
            Value::Mapping(entries) => entries.iter().find(|(k, _)| &*k.text == name).map(|(_, v)| v),
            _ => None,
        }
    }

    /// The text of a scalar that is not null.
    pub fn text(&self) -> Option<&str> {
        match &self.value {
            Value::Scalar(s) if s.kind != ScalarKind::Null => Some(&s.text),
            _ => None,
        }
    }

    /// Whether this is null.
    pub fn is_null(&self) -> bool {
        matches!(
            &self.value,
            Value::Scalar(Scalar {
                kind: ScalarKind::Null,
                ..
            })
        )
    }

    /// A tree from JSON that came over an API and has no lines.
    pub fn from_json(json: &serde_json::Value) -> Self {
        let scalar = |text: String, kind| {
            Value::Scalar(Scalar {
                text: text.into_boxed_str(),
                kind,
            })
        };
        let value = match json {
            serde_json::Value::Null => scalar(String::new(), ScalarKind::Null),
            serde_json::Value::Bool(b) => scalar(b.to_string(), ScalarKind::Bool(*b)),
            serde_json::Value::Number(n) => scalar(
                n.to_string(),
                match n.as_i64() {
                    Some(i) => ScalarKind::Int(i),
                    None => ScalarKind::Float(n.as_f64().unwrap_or_default()),
                },
            ),
            serde_json::Value::String(s) => scalar(s.clone(), ScalarKind::Text),
            serde_json::Value::Array(items) => Value::Sequence(items.iter().map(Node::from_json).collect()),
            serde_json::Value::Object(fields) => Value::Mapping(
                fields
                    .iter()
                    .map(|(k, v)| {
                        let text = k.clone().into_boxed_str();
                        (Key { text, line: 0 }, Node::from_json(v))
                    })
                    .collect(),
            ),
        };
        Node { line: 0, value }
    }
}

impl fmt::Display for Node {
    /// Says what the node is, for messages: `the number 5`, `a list`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.value {
            Value::Sequence(_) => f.write_str("a list"),
            Value::Mapping(_) => f.write_str("a mapping"),
            Value::Scalar(s) => {
                let shown: String = s.text.chars().take(64).collect();
                match s.kind {
                    ScalarKind::Null => f.write_str("nothing"),
                    ScalarKind::Bool(_) => write!(f, "the boolean {shown}"),
                    ScalarKind::Int(_) | ScalarKind::Float(_) => write!(f, "the number {shown}"),
                    ScalarKind::Text => write!(f, "the text {shown:?}"),
                }
            }
        }
    }
}
