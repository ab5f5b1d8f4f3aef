//! Istio's resources as structs, one file per kind. Field names are the API's in snake_case.
//!
//! Ports are `u16`, other numbers as in the protos; a proto wrapper or an optional field is an `Option`.
//! What the protos allow but Istio's validation refuses is refused in [`crate::validate`].

pub mod authorization_policy;
pub mod destination_rule;
pub mod envoy_filter;
pub mod gateway;
pub mod istio_operator;
pub mod peer_authentication;
pub mod proxy_config;
pub mod request_authentication;
pub mod selector;
pub mod service_entry;
pub mod sidecar;
pub mod string_match;
pub mod telemetry;
pub mod virtual_service;
pub mod wasm_plugin;
pub mod workload_entry;
pub mod workload_group;

pub use authorization_policy::AuthorizationPolicy;
pub use destination_rule::DestinationRule;
pub use envoy_filter::EnvoyFilter;
pub use gateway::Gateway;
pub use istio_operator::IstioOperator;
pub use peer_authentication::PeerAuthentication;
pub use proxy_config::ProxyConfig;
pub use request_authentication::RequestAuthentication;
pub use selector::{LabelSelector, TargetRef, WorkloadSelector};
pub use service_entry::ServiceEntry;
pub use sidecar::Sidecar;
pub use string_match::StringMatch;
pub use telemetry::Telemetry;
pub use virtual_service::VirtualService;
pub use wasm_plugin::WasmPlugin;
pub use workload_entry::WorkloadEntry;
pub use workload_group::WorkloadGroup;
