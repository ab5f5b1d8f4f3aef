//! The control plane of one member cluster.
//!
//! It reads the cluster's own configuration and what its peers tell of theirs, keeps an immutable
//! [`snapshot::Snapshot`] of the whole mesh as seen from here, and derives from it what every connected
//! proxy has to be told. It knows nothing of Kubernetes' API server (that is another `Source`) and opens
//! no connection to a workload.
//!
//! ```text
//!   ingest ── Change ──┐
//!                      ├─► registry ─► snapshot ─► push ─► generate ─► serve ──► proxies (ADS)
//!   peering ─ PeerState┘                  │
//!                      ◄── MemberState ───┘  what this cluster tells its peers
//!   webhook: what Kubernetes' API server asks before it keeps a pod or an object of the mesh
//! ```

pub mod authority;
pub mod generate;
pub mod ingest;
pub mod member;
pub mod mesh;
pub mod names;
pub mod peering;
pub mod proxy;
pub mod push;
pub mod registry;
pub mod remote;
pub mod role;
pub mod serve;
pub mod snapshot;
pub mod status;
#[cfg(test)]
mod test_told;
pub mod webhook;

#[cfg(test)]
mod test_mesh;
