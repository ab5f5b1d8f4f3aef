//! Bounds, and what a session says of itself and its client.

use std::sync::Arc;

use crate::resource::{Resource, TypeUrl, Version};

/// Bounds on what a client may make the server remember.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Types on one stream.
    pub types: usize,
    /// Names subscribed to, per type.
    pub names: usize,
    /// Bytes of one name.
    pub name_length: usize,
    /// Bytes of resources after which a response is closed and the rest travels in the next one. State of
    /// the world responses that must be complete are not split.
    pub response_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            types: 32,
            names: 100_000,
            name_length: 2048,
            response_bytes: 2 << 20,
        }
    }
}

/// The client broke the protocol or a bound; the stream has to end.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProtocolError {
    /// A request without a type URL.
    #[error("a request on an aggregated stream has no type_url")]
    NoType,
    /// Too many types.
    #[error("the stream subscribes to more than {0} resource types")]
    TooManyTypes(usize),
    /// Too many names.
    #[error("the stream subscribes to more than {limit} resources of type {ty}")]
    TooManyNames {
        /// Type of the resources.
        ty: TypeUrl,
        /// The bound.
        limit: usize,
    },
    /// A name is too long.
    #[error("a resource name of type {ty} is longer than {limit} bytes")]
    NameTooLong {
        /// Type of the resource.
        ty: TypeUrl,
        /// The bound.
        limit: usize,
    },
}

/// What a request said about an earlier response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// Nothing: a subscription, or the nonce of a response that was superseded.
    None,
    /// The last response of this type was taken.
    Ack {
        /// Type of the response.
        ty: TypeUrl,
        /// Its version.
        version: Version,
        /// Its nonce.
        nonce: String,
    },
    /// The last response of this type was refused; the client stays with what it had.
    Nack {
        /// Type of the response.
        ty: TypeUrl,
        /// Its version.
        version: Version,
        /// Its nonce.
        nonce: String,
        /// What the client says is wrong, cut to 4 KiB.
        error: String,
    },
}

/// Where one type stands on one stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TypeStatus {
    /// The type.
    pub ty: TypeUrl,
    /// Whether everything is subscribed to.
    pub wildcard: bool,
    /// How many names are subscribed to.
    pub names: usize,
    /// How many resources the client has been sent and has not been told to drop.
    pub resources: usize,
    /// Version and nonce of the last response.
    pub sent: Option<(Version, String)>,
    /// Version and nonce of the last response that was taken.
    pub acked: Option<(Version, String)>,
    /// Why the last response was refused; `None` when it was not.
    pub error: Option<String>,
    /// Whether the client has taken the newest state.
    pub synced: bool,
}

/// A response, before it is a message of either protocol.
#[derive(Debug, Clone, PartialEq)]
pub struct Sent {
    /// Its type.
    pub ty: TypeUrl,
    /// Version of the state that the client has after taking it.
    pub version: Version,
    /// Unique on the stream.
    pub nonce: String,
    /// What is new or changed; in a complete state-of-the-world response, everything.
    pub resources: Vec<Arc<Resource>>,
    /// What is no more.
    pub removed: Vec<Arc<str>>,
}
