//! Names of the mesh.
//!
//! One socket loop serves every kind of answer; what to answer is a pure decision of a [`Handler`].
//!
//! ```text
//!   datagram / TCP frame ──> wire::Question ──> Handler::decide ──> Answer(Reply) ──> wire ──> client
//!                                                  │
//!              mesh::MeshNames (sidecar's :15053)  └─> Forward(Forwarder) ──> upstreams ──> client
//!              cluster::ClusterNames (kube-dns)
//!              zone::Zones (static zones)
//!
//!   table::NameTable   what the mesh's names are, seen from one namespace
//!   resolve::Resolver  looks names up for the proxy itself
//!   vip::VipAllocator  gives hosts without an address one that stays
//! ```
//!
//! It does not know xDS: the proxy makes [`table::Entry`]s of the name table it receives.

pub mod cluster;
pub mod forward;
pub mod mesh;
pub mod metrics;
pub mod resolv_conf;
pub mod resolve;
pub mod server;
pub mod table;
#[cfg(test)]
mod testing;
pub mod vip;
pub mod wire;
pub mod zone;

pub use forward::{ForwardError, Forwarder};
pub use mesh::MeshNames;
pub use metrics::DnsMetrics;
pub use resolve::{ResolveError, Resolved, Resolver};
pub use server::{Decision, Denial, Handler, Server};
pub use table::{NameTable, Scope};
pub use vip::{Vip, VipAllocator, VipState};
