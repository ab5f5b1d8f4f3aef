//! HTTP: from a connection's requests to their answers.
//!
//! ```text
//!   connection (engine: hyper) ─▶ stream::Downstream ─▶ request::serve ─▶ stream::Upstream ─▶ upstream::pool
//!                                                        │ route, filters, attempts, answer, record
//! ```
//!
//! [`request::serve`] is the request path, one function from top to bottom. It knows the stream types of
//! [`stream`] and no engine.

pub mod attempt;
pub mod body;
pub mod connection;
pub mod executor;
pub mod filters;
pub mod grpc;
pub mod head;
pub mod headers;
pub mod limits;
pub mod local_reply;
pub mod mirror;
pub mod outgoing;
mod own_answer;
pub mod request;
pub mod retry;
pub mod route;
pub mod stream;
#[cfg(test)]
mod tests;
pub mod upgrade;
