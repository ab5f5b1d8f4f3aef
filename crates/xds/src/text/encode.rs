//! A message as JSON, in the form of Envoy's `/config_dump`.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use prost_reflect::{
    DescriptorPool, DynamicMessage, FieldDescriptor, Kind, MapKey, ReflectMessage, SerializeOptions, Value,
};
use serde_json::Value as Json;

use super::decode::has_own_json;
use crate::any;
use crate::envoy::Any;
use crate::reflect::pool;

/// What stands for a secret, as Envoy writes it.
const REDACTED: &str = "[redacted]";
/// Messages packed in messages packed in messages: deeper ones are shown as bytes.
const DEPTH: u32 = 16;

/// Full names of the fields that Envoy marks `udpa.annotations.sensitive`: keys, passwords, tokens. Sorted.
mod sensitive {
    include!(concat!(env!("OUT_DIR"), "/sensitive.rs"));
}

/// Shows messages as Envoy's admin interface does: names as in the `.proto` files, defaults left out,
/// `@type` first, secrets as `[redacted]`.
///
/// A message that is not known, at whatever depth, is shown by its type and its bytes in base64.
/// Whoever shows many keeps one printer for all: it holds the descriptors (see [`pool`]).
pub struct Printer {
    pool: Arc<DescriptorPool>,
}

impl Default for Printer {
    fn default() -> Self {
        Self { pool: pool() }
    }
}

/// Shows one message; see [`Printer`].
pub fn to_json(any: &Any) -> Json {
    Printer::default().json(any)
}

impl Printer {
    /// The message in `any`.
    pub fn json(&self, any: &Any) -> Json {
        self.packed(&any.type_url, &any.value, DEPTH)
    }

    fn packed(&self, type_url: &str, bytes: &[u8], depth: u32) -> Json {
        let known = self.pool.get_message_by_name(any::full_name(type_url));
        let message = known
            .filter(|_| depth > 0)
            .and_then(|descriptor| DynamicMessage::decode(descriptor, bytes).ok());
        let mut object = serde_json::Map::from_iter([("@type".to_owned(), Json::from(type_url))]);
        match message.map(|m| self.message_json(&m, depth)) {
            Some(Json::Object(fields)) => object.extend(fields),
            Some(other) => {
                object.insert("value".to_owned(), other);
            }
            None => {
                object.insert("value".to_owned(), STANDARD.encode(bytes).into());
            }
        }
        Json::Object(object)
    }

    fn message_json(&self, message: &DynamicMessage, depth: u32) -> Json {
        let descriptor = message.descriptor();
        let name = descriptor.full_name();
        if name == "google.protobuf.Any" {
            let type_url = message.get_field_by_number(1);
            let value = message.get_field_by_number(2);
            return match (type_url.as_deref(), value.as_deref()) {
                (Some(Value::String(type_url)), Some(Value::Bytes(bytes))) => {
                    self.packed(type_url, bytes, depth - 1)
                }
                _ => Json::Null,
            };
        }
        if has_own_json(name) {
            // Out of range, as a Duration of a million years is: then it is shown by its fields.
            if let Ok(value) =
                message.serialize_with_options(serde_json::value::Serializer, &SerializeOptions::new())
            {
                return value;
            }
        }
        let fields = message.fields().map(|(field, value)| {
            let shown = if sensitive::FIELDS.binary_search(&field.full_name()).is_ok() {
                redacted(value)
            } else {
                self.value_json(&field.kind(), Some(&field), value, depth)
            };
            (field.name().to_owned(), shown)
        });
        Json::Object(fields.collect())
    }

    fn value_json(&self, kind: &Kind, field: Option<&FieldDescriptor>, value: &Value, depth: u32) -> Json {
        match value {
            Value::Bool(b) => (*b).into(),
            Value::I32(n) => (*n).into(),
            Value::U32(n) => (*n).into(),
            // 64 bits do not fit into JavaScript's numbers: proto3's JSON has them as strings.
            Value::I64(n) => n.to_string().into(),
            Value::U64(n) => n.to_string().into(),
            Value::F32(n) => float((*n).into()),
            Value::F64(n) => float(*n),
            Value::String(text) => text.as_str().into(),
            Value::Bytes(bytes) => STANDARD.encode(bytes).into(),
            Value::EnumNumber(n) => match kind {
                Kind::Enum(values) => values
                    .get_value(*n)
                    .map_or_else(|| (*n).into(), |v| v.name().into()),
                _ => (*n).into(),
            },
            Value::Message(message) => self.message_json(message, depth),
            Value::List(items) => items
                .iter()
                .map(|item| self.value_json(kind, None, item, depth))
                .collect(),
            Value::Map(entries) => {
                let value_kind = match (field.map(FieldDescriptor::kind), kind) {
                    (Some(Kind::Message(entry)), _) if entry.is_map_entry() => {
                        entry.map_entry_value_field().kind()
                    }
                    _ => kind.clone(),
                };
                // Sorted: serde_json's maps keep the order of their keys.
                let entries: std::collections::BTreeMap<String, Json> = entries
                    .iter()
                    .map(|(key, value)| (key_text(key), self.value_json(&value_kind, None, value, depth)))
                    .collect();
                Json::Object(entries.into_iter().collect())
            }
        }
    }
}

/// Text and bytes as [`REDACTED`], whatever else is left out.
fn redacted(value: &Value) -> Json {
    match value {
        Value::String(_) => REDACTED.into(),
        Value::Bytes(_) => STANDARD.encode(REDACTED).into(),
        Value::List(items) => items.iter().map(redacted).collect(),
        Value::Message(message) => {
            let fields = message.fields().map(|(f, v)| (f.name().to_owned(), redacted(v)));
            Json::Object(fields.collect())
        }
        Value::Map(entries) => {
            let entries = entries
                .iter()
                .map(|(key, value)| (key_text(key), redacted(value)));
            Json::Object(entries.collect())
        }
        _ => Json::Null,
    }
}

fn float(n: f64) -> Json {
    if n.is_nan() {
        "NaN".into()
    } else if n.is_infinite() {
        if n > 0.0 { "Infinity" } else { "-Infinity" }.into()
    } else {
        n.into()
    }
}

fn key_text(key: &MapKey) -> String {
    match key {
        MapKey::Bool(b) => b.to_string(),
        MapKey::I32(n) => n.to_string(),
        MapKey::I64(n) => n.to_string(),
        MapKey::U32(n) => n.to_string(),
        MapKey::U64(n) => n.to_string(),
        MapKey::String(text) => text.clone(),
    }
}
