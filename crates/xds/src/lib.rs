//! The ADS protocol of Envoy v3, ignorant of what the resources mean.
//!
//! The protocol lives in state machines that do no I/O ([`server::SotwSession`], [`server::DeltaSession`],
//! [`client::DeltaClient`], [`client::SotwClient`]); a thin tonic service and a thin client task move their
//! messages. Nothing here knows what a cluster or a listener is, beyond the order in which they must travel.
//! This crate is the only door to `envoy-types`: everybody else names Envoy's messages through [`envoy`].
//!
//! ```text
//!   control ── Arc<Resources> ──> server session ──> responses ──> stream
//!                                      ^  subscriptions, ACK, NACK      │
//!                                      └──────── requests <─────────────┤
//!   proxy <── Update ── client session <─────── responses ──────────────┘
//!     └─ Ack / Nack / Subscribe ──> requests
//! ```
//!
//! Source of the rules: Envoy, "xDS REST and gRPC protocol" (docs/root/api-docs/xds_protocol.rst).

pub mod any;
mod canonical;
pub mod client;
pub mod envoy;
pub mod nds;
pub mod reflect;
pub mod resource;
pub mod server;
pub mod text;

pub use any::{AnyError, pack, unpack};
pub use nds::{NameInfo, NameTable};
pub use resource::{Resource, ResourceSet, Resources, TypeUrl, Version};
