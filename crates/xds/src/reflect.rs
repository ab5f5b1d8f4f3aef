//! Envoy's messages as JSON and back, by their descriptors: for dumps, and for configuration files that
//! people write.

use std::sync::LazyLock;

use prost::Message;
use prost_reflect::{DescriptorPool, DynamicMessage, SerializeOptions};
use serde_json::Value;

use crate::any;
use crate::envoy::Any;

static DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

static POOL: LazyLock<DescriptorPool> = LazyLock::new(|| {
    // The set is made at compile time, and a test reads it; an empty pool knows no message.
    DescriptorPool::decode(DESCRIPTORS).unwrap_or_default()
});

/// Why a message could not be turned.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReflectError {
    /// No descriptor for this type.
    #[error("{0:?} is not a message that Isthmus knows")]
    Unknown(String),
    /// The message and its descriptor do not agree.
    #[error("{name}: {reason}")]
    Malformed {
        /// Full name of the message.
        name: String,
        /// What is wrong, and where.
        reason: String,
    },
}

/// Descriptors of every message that this build knows. Built on first use; it takes a few megabytes.
pub fn pool() -> &'static DescriptorPool {
    &POOL
}

/// A packed message as Envoy's admin interface shows it: names as in the `.proto` files, defaults left
/// out, `@type` first. A message that is not known is shown by its type and size.
pub fn to_json(any: &Any) -> Value {
    match json_of(any) {
        Ok(value) => value,
        Err(_) => serde_json::json!({ "@type": any.type_url, "bytes": any.value.len() }),
    }
}

fn json_of(any: &Any) -> Result<Value, ReflectError> {
    let name = any::full_name(&any.type_url);
    let descriptor = POOL
        .get_message_by_name(name)
        .ok_or_else(|| ReflectError::Unknown(name.to_owned()))?;
    let malformed = |reason: String| ReflectError::Malformed {
        name: name.to_owned(),
        reason,
    };
    let message =
        DynamicMessage::decode(descriptor, any.value.as_slice()).map_err(|e| malformed(e.to_string()))?;
    let options = SerializeOptions::new()
        .use_proto_field_name(true)
        .skip_default_fields(true);
    let value = message
        .serialize_with_options(serde_json::value::Serializer, &options)
        .map_err(|e| malformed(e.to_string()))?;
    let mut object = serde_json::Map::from_iter([("@type".to_owned(), any.type_url.clone().into())]);
    match value {
        Value::Object(fields) => object.extend(fields),
        other => {
            object.insert("value".to_owned(), other);
        }
    }
    Ok(Value::Object(object))
}

/// Reads a message from JSON (either spelling of field names; unknown fields are errors).
pub fn from_json<M: Message + prost::Name + Default>(json: &Value) -> Result<M, ReflectError> {
    let name = M::full_name();
    let descriptor = POOL
        .get_message_by_name(&name)
        .ok_or_else(|| ReflectError::Unknown(name.clone()))?;
    let malformed = |reason: String| ReflectError::Malformed {
        name: name.clone(),
        reason,
    };
    let message = DynamicMessage::deserialize(descriptor, json).map_err(|e| malformed(e.to_string()))?;
    M::decode(message.encode_to_vec().as_slice()).map_err(|e| malformed(e.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::envoy::bootstrap::Bootstrap;
    use crate::envoy::cluster::Cluster;
    use crate::{NameTable, pack};

    #[test]
    fn messages_are_shown_and_read() {
        let json = serde_json::json!({
            "name": "c",
            "connect_timeout": "1.500s",
            "typed_extension_protocol_options": {
                "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                    "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
                    "explicit_http_config": { "http2_protocol_options": {} }
                }
            }
        });
        let cluster: Cluster = from_json(&json).unwrap();
        assert_eq!(cluster.name, "c");
        let mut shown = to_json(&pack(&cluster));
        let ty = shown.as_object_mut().and_then(|o| o.remove("@type"));
        assert_eq!(
            ty,
            Some("type.googleapis.com/envoy.config.cluster.v3.Cluster".into())
        );
        assert_eq!(shown, json);

        let wrong = from_json::<Bootstrap>(&serde_json::json!({ "static_resource": {} })).unwrap_err();
        assert!(wrong.to_string().contains("static_resource"), "{wrong}");
    }

    #[test]
    fn the_unknown_is_shown_by_its_size() {
        let any = pack(&NameTable::default());
        assert_eq!(
            to_json(&any),
            serde_json::json!({ "@type": any.type_url, "bytes": 0 })
        );
    }
}
