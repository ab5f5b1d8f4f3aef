//! Envoy's v3 messages under short names, one module for each package; [`pb`] is the whole tree.
//!
//! The names follow the field's usage: `core::Address`, `cluster::Cluster`, `hcm::HttpConnectionManager`,
//! `tls::DownstreamTlsContext`.

pub use envoy_types::pb;

pub use pb::envoy::config::accesslog::v3 as accesslog;
pub use pb::envoy::config::bootstrap::v3 as bootstrap;
pub use pb::envoy::config::cluster::v3 as cluster;
pub use pb::envoy::config::core::v3 as core;
pub use pb::envoy::config::endpoint::v3 as endpoint;
pub use pb::envoy::config::listener::v3 as listener;
pub use pb::envoy::config::metrics::v3 as metrics;
pub use pb::envoy::config::rbac::v3 as rbac;
pub use pb::envoy::config::route::v3 as route;
pub use pb::envoy::config::trace::v3 as trace;

pub use pb::envoy::extensions::filters::network::http_connection_manager::v3 as hcm;
pub use pb::envoy::extensions::filters::network::tcp_proxy::v3 as tcp_proxy;
pub use pb::envoy::extensions::transport_sockets::raw_buffer::v3 as raw_buffer;
pub use pb::envoy::extensions::transport_sockets::tls::v3 as tls;
pub use pb::envoy::extensions::upstreams::http::v3 as upstream_http;

/// `envoy.service.*`: the discovery service and the status service.
pub mod service {
    pub use super::pb::envoy::service::discovery::v3 as discovery;
    pub use super::pb::envoy::service::status::v3 as status;
}

/// `envoy.admin.v3`: the dumps of the admin interface.
pub use pb::envoy::admin::v3 as admin;

/// Access log sinks.
pub mod access_loggers {
    pub use super::pb::envoy::extensions::access_loggers::file::v3 as file;
    pub use super::pb::envoy::extensions::access_loggers::stream::v3 as stream;
}

/// Cluster extensions.
pub mod clusters {
    pub use super::pb::envoy::extensions::clusters::aggregate::v3 as aggregate;
    pub use super::pb::envoy::extensions::clusters::dynamic_forward_proxy::v3 as dynamic_forward_proxy;
}

/// HTTP filters.
pub mod http_filters {
    pub use super::pb::envoy::extensions::filters::http::buffer::v3 as buffer;
    pub use super::pb::envoy::extensions::filters::http::cors::v3 as cors;
    pub use super::pb::envoy::extensions::filters::http::dynamic_forward_proxy::v3 as dynamic_forward_proxy;
    pub use super::pb::envoy::extensions::filters::http::ext_authz::v3 as ext_authz;
    pub use super::pb::envoy::extensions::filters::http::fault::v3 as fault;
    pub use super::pb::envoy::extensions::filters::http::grpc_stats::v3 as grpc_stats;
    pub use super::pb::envoy::extensions::filters::http::grpc_web::v3 as grpc_web;
    pub use super::pb::envoy::extensions::filters::http::health_check::v3 as health_check;
    pub use super::pb::envoy::extensions::filters::http::jwt_authn::v3 as jwt_authn;
    pub use super::pb::envoy::extensions::filters::http::local_ratelimit::v3 as local_ratelimit;
    pub use super::pb::envoy::extensions::filters::http::rbac::v3 as rbac;
    pub use super::pb::envoy::extensions::filters::http::router::v3 as router;
}

/// Listener filters.
pub mod listener_filters {
    pub use super::pb::envoy::extensions::filters::listener::http_inspector::v3 as http_inspector;
    pub use super::pb::envoy::extensions::filters::listener::original_dst::v3 as original_dst;
    pub use super::pb::envoy::extensions::filters::listener::proxy_protocol::v3 as proxy_protocol;
    pub use super::pb::envoy::extensions::filters::listener::tls_inspector::v3 as tls_inspector;
}

/// Load balancing policies.
pub mod load_balancing {
    pub use super::pb::envoy::extensions::load_balancing_policies::least_request::v3 as least_request;
    pub use super::pb::envoy::extensions::load_balancing_policies::maglev::v3 as maglev;
    pub use super::pb::envoy::extensions::load_balancing_policies::random::v3 as random;
    pub use super::pb::envoy::extensions::load_balancing_policies::ring_hash::v3 as ring_hash;
    pub use super::pb::envoy::extensions::load_balancing_policies::round_robin::v3 as round_robin;
}

/// Network filters besides [`hcm`] and [`tcp_proxy`].
pub mod network_filters {
    pub use super::pb::envoy::extensions::filters::network::connection_limit::v3 as connection_limit;
    pub use super::pb::envoy::extensions::filters::network::local_ratelimit::v3 as local_ratelimit;
    pub use super::pb::envoy::extensions::filters::network::rbac::v3 as rbac;
    pub use super::pb::envoy::extensions::filters::network::sni_cluster::v3 as sni_cluster;
}

/// `envoy.type.*`: ranges, percents, matchers, metadata keys.
pub mod types {
    pub use super::pb::envoy::r#type::v3::*;

    pub use super::pb::envoy::r#type::matcher::v3 as matcher;
    pub use super::pb::envoy::r#type::metadata::v3 as metadata;
    pub use super::pb::envoy::r#type::tracing::v3 as tracing;
}
pub use types::matcher;

/// Google's well-known messages. They are `envoy-types`' own, not those of `prost-types`.
pub mod google {
    pub use super::pb::google::protobuf;
    pub use super::pb::google::rpc;
}
pub use google::protobuf::{Any, Duration, Struct, Timestamp, Value};

/// Messages of the `xds` package (generic matcher API).
pub use pb::xds;
