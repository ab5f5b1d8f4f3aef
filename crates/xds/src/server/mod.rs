//! The server's side of ADS.
//!
//! [`SotwSession`] and [`DeltaSession`] are one stream each, without I/O: requests and published
//! [`Resources`](crate::Resources) go in, responses are taken out whenever the stream has room. Both
//! translate their messages for the same [`session`](self) core, which knows what the client was sent, what
//! it answered, and what may travel when. [`service`] moves the messages over tonic; whoever has the
//! resources implements [`service::Source`].
//!
//! What the core promises:
//! - responses in the order CDS, EDS, LDS, RDS, SDS, NDS; while a newer state of an earlier one of the first
//!   four types waits for an answer, the later ones wait as well, except for what the client needs to give
//!   that answer;
//! - clusters and endpoints that went away stay with the client until it has taken the listeners and
//!   routes that no longer name them;
//! - at most one unanswered response per type; newer states merge meanwhile;
//! - nothing is sent that the client has, nor again what it refused, until it changes.

mod delta;
mod report;
pub mod service;
mod session;
mod sotw;
#[cfg(test)]
mod tests;
mod watch;

pub use delta::DeltaSession;
pub use report::{Answer, Limits, ProtocolError, Sent, TypeStatus};
pub use sotw::SotwSession;
