//! What the proxy was told to do, as validated types.
//!
//! One file per xDS resource. A value of these types can be acted on without further checks: names are
//! resolved to enums, durations are in range, regular expressions are compiled. Conversion from the wire
//! lives beside each type; what cannot be converted is refused by resource name, and never arrives here.

#![allow(
    deprecated,
    reason = "Istio's control planes and static bootstraps send fields that Envoy has deprecated"
)]

pub mod cluster;
pub mod endpoint;
pub mod field;
pub mod http_filter;
pub mod listener;
pub mod matcher;
pub mod rbac;
pub mod refusal;
pub mod route;
mod secret;
#[cfg(test)]
mod tests;
pub mod tls;

pub use cluster::Cluster;
pub use endpoint::Endpoints;
pub use listener::Listener;
pub use refusal::Refusal;
pub use route::RouteTable;
