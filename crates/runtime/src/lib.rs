//! What every long-running role of Isthmus needs, whatever it does.
//!
//! It knows nothing of the mesh: no names, no certificates, no configuration. A role takes the pieces
//! it needs and wires them like this:
//!
//! ```text
//!   signals ──SIGTERM──> drain::Trigger ──watch──> every task's drain::Watcher
//!   start-up ──guards──> readiness ──────────────> /ready
//!   tracing ──> logging (level per scope, changed by /logging)
//!   workers ──snapshots──> metrics ──────────────> /stats/prometheus
//!                                     server (bare HTTP/1.1, bounded in every direction)
//! ```

pub mod bind;
pub mod drain;
pub mod logging;
pub mod metrics;
pub mod readiness;
pub mod server;
pub mod signals;
