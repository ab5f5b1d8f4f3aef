//! One resource: its kind, metadata, typed spec, and where it was written.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use isthmus_model::Labels;
use serde::{Deserialize, Serialize};

use crate::kinds::{Kind, Spec, Typed};
use crate::position::Positions;

/// A resource as a user or Kubernetes wrote it, parsed and immutable.
#[derive(Debug, Clone)]
pub struct Object {
    /// What it is.
    pub kind: Kind,
    /// Name, namespace, labels and the rest of `metadata`.
    pub meta: Meta,
    /// The typed content.
    pub spec: Spec,
    /// `status` of an Istio resource as found; Kubernetes kinds have theirs inside the typed content.
    pub status: Option<Box<serde_json::Value>>,
    /// File and first line.
    pub origin: Origin,
    /// Lines of the fields.
    pub positions: Positions,
}

/// Names an object within one cluster.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ObjectKey {
    /// What it is.
    pub kind: Kind,
    /// Empty for kinds that have no namespace.
    pub namespace: String,
    /// `metadata.name`.
    pub name: String,
}

/// Where an object was written.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Origin {
    /// Path as the user gave it; `-` for standard input; empty for an API server.
    pub file: Arc<str>,
    /// First line of the document, from 1; 0 when there is no text.
    pub line: u32,
}

/// `metadata` of a Kubernetes object.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Meta {
    /// Name, unique by kind and namespace.
    pub name: String,
    /// Namespace; `default` when a namespaced kind says none, empty for the others.
    pub namespace: String,
    /// Labels.
    pub labels: Labels,
    /// Annotations.
    pub annotations: BTreeMap<String, String>,
    /// Identity over time, given by the API server.
    pub uid: String,
    /// Counts changes of the spec.
    pub generation: i64,
    /// Version of the object in the API server; opaque.
    pub resource_version: String,
    /// RFC 3339; the older of two conflicting objects wins.
    pub creation_timestamp: String,
    /// RFC 3339; set while the object is being deleted.
    pub deletion_timestamp: String,
    /// Seconds the object has left once it is being deleted.
    pub deletion_grace_period_seconds: Option<i64>,
    /// Prefix from which the API server made the name.
    pub generate_name: String,
    /// Who owns this object (a pod's ReplicaSet).
    pub owner_references: Vec<OwnerReference>,
    /// Who must agree to the deletion.
    pub finalizers: Vec<String>,
    /// Which tool wrote which field; not used.
    pub managed_fields: Vec<serde_json::Value>,
    /// Retired by Kubernetes; not used.
    pub self_link: String,
}

/// An owner of an object.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct OwnerReference {
    /// Group and version.
    pub api_version: String,
    /// Kind, e.g. `ReplicaSet`.
    pub kind: String,
    /// Name in the same namespace.
    pub name: String,
    /// Uid.
    pub uid: String,
    /// Whether this owner manages the object.
    pub controller: Option<bool>,
    /// Whether the owner waits for the object's deletion.
    pub block_owner_deletion: Option<bool>,
}

impl Object {
    /// The object's name in its cluster.
    pub fn key(&self) -> ObjectKey {
        ObjectKey {
            kind: self.kind,
            namespace: self.meta.namespace.clone(),
            name: self.meta.name.clone(),
        }
    }

    /// The order in which objects of one kind are consulted, the first counting: by creation, then by name.
    pub fn age(&self) -> (&str, &str, &str) {
        let meta = &self.meta;
        (&meta.creation_timestamp, &meta.name, &meta.namespace)
    }

    /// Whether both say the same, wherever and on whichever lines they say it.
    pub fn same_content(&self, other: &Object) -> bool {
        self.kind == other.kind
            && self.meta == other.meta
            && self.spec == other.spec
            && self.status == other.status
    }

    /// Whether both ask for the same, whatever their `status` says; that of a Kubernetes kind is content.
    pub fn same_meaning(&self, other: &Object) -> bool {
        self.kind == other.kind && self.meta == other.meta && self.spec == other.spec
    }

    /// The typed content, if this is an object of that kind.
    pub fn typed<T: Typed>(&self) -> Option<&Arc<T>> {
        T::of(&self.spec)
    }

    /// `file:line` of a field by its full path (`spec.http[0].timeout`), or of the nearest enclosing
    /// field that is written.
    pub fn reference(&self, path: &str) -> String {
        match self.positions.line(path) {
            0 => self.origin.to_string(),
            line => format!("{}:{line}", self.origin.file),
        }
    }

    /// The object as Kubernetes JSON, without the fields that say nothing.
    ///
    /// # Errors
    /// None in practice; serde's signature has one.
    pub fn to_json(&self) -> Result<serde_json::Value, serde_json::Error> {
        let info = self.kind.info();
        let mut json = serde_json::json!({
            "apiVersion": info.api_version(),
            "kind": info.kind,
            "metadata": serde_json::to_value(&self.meta)?,
        });
        if let Some(json) = json.as_object_mut() {
            match (info.whole, self.spec.to_json()?) {
                (true, serde_json::Value::Object(fields)) => json.extend(fields),
                (_, spec) => {
                    json.insert("spec".to_owned(), spec);
                }
            }
            if let Some(status) = &self.status {
                json.insert("status".to_owned(), (**status).clone());
            }
            if let Some(serde_json::Value::Object(meta)) = json.get_mut("metadata")
                && meta.get("generation").and_then(serde_json::Value::as_i64) == Some(0)
            {
                meta.remove("generation");
            }
        }
        prune(&mut json);
        Ok(json)
    }
}

/// Removes fields that hold nothing. Items of lists stay, since `rules: [{}]` means something.
fn prune(json: &mut serde_json::Value) {
    use serde_json::Value;
    match json {
        Value::Object(fields) => {
            fields.retain(|_, value| {
                prune(value);
                match value {
                    Value::Null => false,
                    Value::String(s) => !s.is_empty(),
                    Value::Array(a) => !a.is_empty(),
                    Value::Object(o) => !o.is_empty(),
                    _ => true,
                }
            });
        }
        Value::Array(items) => items.iter_mut().for_each(prune),
        _ => {}
    }
}

impl fmt::Display for ObjectKey {
    /// `Kind namespace/name`, or `Kind name` for kinds without namespace.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() {
            write!(f, "{} {}", self.kind, self.name)
        } else {
            write!(f, "{} {}/{}", self.kind, self.namespace, self.name)
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => f.write_str(&self.file),
            line => write!(f, "{}:{line}", self.file),
        }
    }
}
