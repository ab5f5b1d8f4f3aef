//! The data plane: one proxy for sidecars and for ingress, egress and east-west gateways.
//!
//! It consumes Envoy v3 resources and nothing else; it knows no YAML and no Kubernetes.
//!
//! ```text
//!   xds::client / static bootstrap
//!        │ messages
//!        ▼
//!   config ──▶ state (cascade, warming, live) ──▶ worker 0..n   (one thread each, nothing shared)
//!   validated types      Arc<Live>, swapped once        │
//!                                                       ▼
//!                       listener ▶ tls ▶ http | tcp ▶ upstream
//! ```

pub mod admin;
pub mod agent;
pub mod config;
pub mod http;
pub mod listener;
pub mod node;
pub mod orders;
pub mod rbac;
pub mod state;
pub mod tcp;
pub mod telemetry;
pub mod tls;
pub mod upstream;
pub mod worker;
