//! The client's side of ADS.
//!
//! [`DeltaClient`] and [`SotwClient`] are the protocol without I/O: they outlive a stream, and at the start
//! of the next one say what is held already. [`Client`] drives one of them over connections that the caller
//! [dials](Dial), for as long as it lives: it reconnects with a jittered back-off and keeps what was
//! learned while the server is away.
//!
//! ```text
//!   caller ── subscribe, ack, nack ──> Client task ── requests ──> server
//!   caller <── Update, Connected, Disconnected ──┘ <── responses ──┘
//! ```
//!
//! What the client does not do: it neither reads nor checks a resource; the caller accepts or refuses it.

mod backoff;
mod book;
mod delta;
mod driver;
mod sotw;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use crate::envoy::Any;
use crate::resource::TypeUrl;

pub use backoff::Backoff;
pub use delta::DeltaClient;
pub use driver::{Client, Config, Dial, DialError, Event, Handle, Io, Protocol};
pub use sotw::SotwClient;

/// Resources that a server sent.
#[derive(Debug, Clone, PartialEq)]
pub struct Update {
    /// Their type.
    pub ty: TypeUrl,
    /// New and changed resources. Empty when the server says that there is nothing.
    pub added: Vec<Received>,
    /// Names of resources that are no more, or that do not exist though they were asked for.
    pub removed: Vec<Arc<str>>,
    /// Names the response when it is accepted or refused.
    pub nonce: Nonce,
    /// The server's version of the whole type, for people.
    pub version: String,
}

/// A resource as it arrived.
#[derive(Debug, Clone, PartialEq)]
pub struct Received {
    /// Its name; empty where the server gives none.
    pub name: Arc<str>,
    /// Its version, meaningful to the server alone.
    pub version: Arc<str>,
    /// The packed message.
    pub body: Any,
}

/// Names a response across streams: an answer to a response of a stream that is gone is not sent.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Nonce {
    stream: u64,
    nonce: Arc<str>,
}

/// What is wanted of a type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wanted {
    /// Everything that the server has for this client.
    All,
    /// Resources by name.
    Names(Vec<Arc<str>>),
}

/// The server broke the protocol or a bound; the stream has to end.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ResponseError {
    /// A response for a type that was never asked for.
    #[error("the server sent resources of type {0}, which was not subscribed to")]
    Unsubscribed(TypeUrl),
    /// Too many resources.
    #[error("the server sent more than {limit} resources of type {ty}")]
    TooMany {
        /// Their type.
        ty: TypeUrl,
        /// The bound.
        limit: usize,
    },
    /// The same name twice in one response.
    #[error("the server sent {name:?} of type {ty} twice in one response")]
    Twice {
        /// Its type.
        ty: TypeUrl,
        /// Its name.
        name: String,
    },
}
