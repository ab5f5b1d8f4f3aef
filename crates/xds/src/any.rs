//! Packing messages into `google.protobuf.Any` and back, by type URL.

use prost::{Message, Name};

use crate::envoy::Any;

/// Why an `Any` could not be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AnyError {
    /// It holds another message.
    #[error("expected a message of type {expected}, found {found:?}")]
    WrongType {
        /// Full name of the message that was asked for.
        expected: String,
        /// Type URL that was found.
        found: String,
    },
    /// The bytes are not the message that the type URL names.
    #[error("the bytes are not a {type_url}: {reason}")]
    Malformed {
        /// Type URL that was found.
        type_url: String,
        /// Where the bytes stop making sense.
        reason: String,
    },
    /// A field that must be set holds no `Any`.
    #[error("expected a message of type {expected}, found nothing")]
    Missing {
        /// Full name of the message that was asked for.
        expected: String,
    },
}

/// Wraps a message, `type.googleapis.com/` before its full name.
pub fn pack<M: Message + Name>(message: &M) -> Any {
    Any {
        type_url: type_url::<M>(),
        value: message.encode_to_vec(),
    }
}

/// Unwraps a message; the part of the type URL before the last `/` does not matter (protobuf `Any`).
pub fn unpack<M: Message + Name + Default>(any: &Any) -> Result<M, AnyError> {
    if full_name(&any.type_url) != M::full_name() {
        return Err(AnyError::WrongType {
            expected: M::full_name(),
            found: any.type_url.clone(),
        });
    }
    M::decode(any.value.as_slice()).map_err(|e| AnyError::Malformed {
        type_url: any.type_url.clone(),
        reason: e.to_string(),
    })
}

/// Unwraps a message from an optional field that has to be set.
pub fn unpack_required<M: Message + Name + Default>(any: Option<&Any>) -> Result<M, AnyError> {
    unpack(any.ok_or_else(|| AnyError::Missing {
        expected: M::full_name(),
    })?)
}

/// Whether the `Any` says that it holds an `M`.
pub fn is<M: Name>(any: &Any) -> bool {
    full_name(&any.type_url) == M::full_name()
}

/// The type URL of `M`.
pub fn type_url<M: Name>() -> String {
    format!("type.googleapis.com/{}", M::full_name())
}

/// The part of a type URL behind the last `/`.
pub fn full_name(type_url: &str) -> &str {
    type_url.rsplit('/').next().unwrap_or(type_url)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::envoy::{cluster::Cluster, listener::Listener};

    #[test]
    fn messages_travel_under_their_own_name_only() {
        let cluster = Cluster {
            name: "c".into(),
            ..Default::default()
        };
        let any = pack(&cluster);
        assert_eq!(
            any.type_url,
            "type.googleapis.com/envoy.config.cluster.v3.Cluster"
        );
        assert!(is::<Cluster>(&any));
        assert_eq!(unpack::<Cluster>(&any), Ok(cluster));

        let wrong = unpack::<Listener>(&any).unwrap_err();
        assert!(
            wrong.to_string().contains("envoy.config.listener.v3.Listener"),
            "{wrong}"
        );

        let cut = Any {
            value: vec![0x0a, 0x7f],
            ..any
        };
        assert!(matches!(unpack::<Cluster>(&cut), Err(AnyError::Malformed { .. })));
        assert!(matches!(
            unpack_required::<Cluster>(None),
            Err(AnyError::Missing { .. })
        ));
    }
}
