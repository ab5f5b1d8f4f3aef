//! JSON schemas of what users write, from the structs that read it: types, names and descriptions, in the
//! subset that a CustomResourceDefinition takes (structural schemas).
//!
//! The macros of [`crate::message`] implement it, so that no schema can forget a field that is read.

use std::collections::BTreeMap;

use isthmus_model::Labels;
use serde_json::{Map, Value, json};

use crate::duration::Duration;
use crate::istio::string_match::StringMatch;
use crate::kubernetes::{IntOrString, Secret};

/// A type that is written in YAML.
pub trait Describe {
    /// Its schema.
    fn describe() -> Value;
}

/// The schema of a struct: name as written, description and schema of each field, in the order declared.
pub(crate) fn object(fields: Vec<(&str, &[&str], Value)>) -> Value {
    let properties: Map<String, Value> = fields
        .into_iter()
        .map(|(name, attributes, mut schema)| {
            let text = description(attributes);
            if let (false, Some(schema)) = (text.is_empty(), schema.as_object_mut()) {
                schema.insert("description".to_owned(), Value::from(text));
            }
            (renamed(attributes).unwrap_or_else(|| camel(name)), schema)
        })
        .collect();
    json!({ "type": "object", "properties": properties })
}

/// The schema of an enum, by the names of its variants.
pub(crate) fn choice(variants: &[(&str, &[&str])]) -> Value {
    let names: Vec<String> = variants
        .iter()
        .map(|(name, attributes)| renamed(attributes).unwrap_or_else(|| capitals(name)))
        .collect();
    json!({ "type": "string", "enum": names })
}

/// What `///` says, from the tokens of `doc = "..."`.
fn description(attributes: &[&str]) -> String {
    let lines: Vec<String> = attributes
        .iter()
        .filter_map(|a| a.trim_start().strip_prefix("doc")?.trim_start().strip_prefix('='))
        .map(|text| unquoted(text).trim().to_owned())
        .collect();
    lines.join(" ")
}

/// The name that serde is told, from the tokens of `serde(rename = "...")`.
fn renamed(attributes: &[&str]) -> Option<String> {
    attributes.iter().find_map(|a| {
        let inner = a.trim_start().strip_prefix("serde")?;
        let (_, after) = inner.split_once("rename")?;
        Some(unquoted(
            after.trim_start().strip_prefix('=')?.trim_end_matches(')'),
        ))
    })
}

/// The content of a string literal, raw or not.
fn unquoted(literal: &str) -> String {
    let literal = literal.trim();
    if let Some(raw) = literal.strip_prefix('r') {
        return raw.trim_matches('#').trim_matches('"').to_owned();
    }
    serde_json::from_str(literal).unwrap_or_else(|_| literal.trim_matches('"').to_owned())
}

/// `snake_case` as serde's camelCase has it.
fn camel(name: &str) -> String {
    let mut out = String::new();
    let mut upper = false;
    for c in name.trim_start_matches("r#").chars() {
        match c {
            '_' => upper = true,
            c if std::mem::take(&mut upper) => out.push(c.to_ascii_uppercase()),
            c => out.push(c),
        }
    }
    out
}

/// `CamelCase` as serde's SCREAMING_SNAKE_CASE has it.
fn capitals(name: &str) -> String {
    let mut out = String::new();
    for (i, c) in name.char_indices() {
        if i > 0 && c.is_ascii_uppercase() {
            out.push('_');
        }
        out.push(c.to_ascii_uppercase());
    }
    out
}

macro_rules! schemas {
    ($($ty:ty => $schema:tt;)*) => {$(
        impl Describe for $ty {
            fn describe() -> Value {
                json!($schema)
            }
        }
    )*};
}

schemas! {
    bool => { "type": "boolean" };
    String => { "type": "string" };
    u16 => { "type": "integer", "minimum": 0, "maximum": 65535 };
    i32 => { "type": "integer", "format": "int32" };
    u32 => { "type": "integer", "minimum": 0, "maximum": 4294967295_u32 };
    i64 => { "type": "integer", "format": "int64" };
    u64 => { "type": "integer", "minimum": 0 };
    f64 => { "type": "number" };
    Duration => { "type": "string" };
    Value => { "x-kubernetes-preserve-unknown-fields": true };
    Map<String, Value> => { "type": "object", "x-kubernetes-preserve-unknown-fields": true };
    IntOrString => { "x-kubernetes-int-or-string": true };
    // Its data is turned into bytes while it is read.
    Secret => { "type": "object", "x-kubernetes-preserve-unknown-fields": true };
    Labels => { "type": "object", "additionalProperties": { "type": "string" } };
    StringMatch => { "type": "object", "properties": {
        "exact": { "type": "string", "description": "Equal." },
        "prefix": { "type": "string", "description": "Begins with." },
        "regex": { "type": "string", "description": "Matches as a whole (RE2)." },
    } };
}

impl<T: Describe> Describe for Option<T> {
    fn describe() -> Value {
        T::describe()
    }
}

impl<T: Describe> Describe for Box<T> {
    fn describe() -> Value {
        T::describe()
    }
}

impl<T: Describe> Describe for Vec<T> {
    fn describe() -> Value {
        json!({ "type": "array", "items": T::describe() })
    }
}

impl<K, T: Describe> Describe for BTreeMap<K, T> {
    fn describe() -> Value {
        json!({ "type": "object", "additionalProperties": T::describe() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::istio::{DestinationRule, VirtualService};
    use crate::message::{choice, message};

    message! {
        /// Something.
        pub struct Thing {
            /// How many
            /// there are.
            how_many: Option<u32>,
            /// Its "kind".
            #[serde(rename = "type")]
            kind: Mood,
            /// By port.
            ports: BTreeMap<u16, Vec<String>>,
        }
    }

    choice! {
        /// A mood.
        pub enum Mood {
            /// None.
            NotSaid,
            /// Good.
            #[serde(rename = "GOOD_1")]
            Good,
        }
    }

    #[test]
    fn a_struct_is_described_as_it_is_read() {
        assert_eq!(
            Thing::describe(),
            json!({ "type": "object", "properties": {
                "howMany": { "type": "integer", "minimum": 0, "maximum": 4294967295_u32, "description": "How many there are." },
                "type": { "type": "string", "enum": ["NOT_SAID", "GOOD_1"], "description": "Its \"kind\"." },
                "ports": { "type": "object", "additionalProperties": { "type": "array", "items": { "type": "string" } }, "description": "By port." },
            }})
        );
    }

    #[test]
    fn names_are_those_that_serde_writes() {
        fn same_names(schema: &Value, written: &Value, path: &str) {
            if let (Some(properties), Some(fields)) = (schema["properties"].as_object(), written.as_object())
            {
                let (known, there): (Vec<_>, Vec<_>) = (properties.keys().collect(), fields.keys().collect());
                let mut sorted = (known.clone(), there.clone());
                sorted.0.sort();
                sorted.1.sort();
                assert_eq!(sorted.0, sorted.1, "{path}");
                for (name, value) in fields {
                    same_names(&properties[name], value, &format!("{path}.{name}"));
                }
            }
        }
        let written = serde_json::to_value(VirtualService::default()).unwrap();
        same_names(&VirtualService::describe(), &written, "VirtualService");
        let written = serde_json::to_value(DestinationRule::default()).unwrap();
        same_names(&DestinationRule::describe(), &written, "DestinationRule");
    }
}
