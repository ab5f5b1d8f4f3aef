//! What a proxy is told: pure functions from exactly their inputs to Envoy's resources.
//!
//! Every kind of resource has an `Inputs` struct that is the key under which the result is kept, so that
//! proxies that see the same get the same allocation, and a change makes again only what depends on it.

pub mod cluster;
pub mod endpoint;
pub mod same;
pub mod tls;
pub mod wire;
