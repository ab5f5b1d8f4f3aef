//! Envoy's messages as JSON and back, by their descriptors: for dumps, and for configuration files that
//! people write.

use std::sync::{Arc, Mutex, PoisonError, Weak};

use prost::Message;
use prost_reflect::{DescriptorPool, DynamicMessage};
use serde_json::Value;

pub use crate::text::to_json;

static DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

/// The pool, as long as somebody holds it.
static POOL: Mutex<Weak<DescriptorPool>> = Mutex::new(Weak::new());

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

/// Descriptors of every message that can be read or shown.
///
/// They take ten megabytes, half of what a sidecar may have, and are needed seldom: so they are built
/// when asked for (some milliseconds), shared by all who hold them, and gone with the last.
pub fn pool() -> Arc<DescriptorPool> {
    let mut shared = POOL.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(pool) = shared.upgrade() {
        return pool;
    }
    // The set is made at compile time, and a test reads it; an empty pool knows no message.
    let pool = Arc::new(DescriptorPool::decode(DESCRIPTORS).unwrap_or_default());
    *shared = Arc::downgrade(&pool);
    pool
}

/// Reads a message from JSON (either spelling of field names; unknown fields are errors).
pub fn from_json<M: Message + prost::Name + Default>(json: &Value) -> Result<M, ReflectError> {
    let name = M::full_name();
    let descriptor = pool()
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
    use crate::pack;

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
}
