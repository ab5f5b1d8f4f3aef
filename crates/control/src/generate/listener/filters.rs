//! Network and HTTP filters that listeners share.

use std::time::Duration;

use isthmus_xds::envoy::access_loggers::file;
use isthmus_xds::envoy::hcm::http_connection_manager::{
    ForwardClientCertDetails, RouteSpecifier, ServerHeaderTransformation, SetCurrentClientCertDetails,
    UpgradeConfig,
};
use isthmus_xds::envoy::hcm::{HttpConnectionManager, HttpFilter, Rds, http_filter};
use isthmus_xds::envoy::http_filters::{cors, fault, grpc_stats, router};
use isthmus_xds::envoy::listener::Filter;
use isthmus_xds::envoy::route::RouteConfiguration;
use isthmus_xds::envoy::tcp_proxy::TcpProxy;
use isthmus_xds::envoy::tcp_proxy::tcp_proxy::{
    ClusterSpecifier, WeightedCluster, weighted_cluster::ClusterWeight,
};
use isthmus_xds::envoy::{Any, accesslog, core};

use crate::generate::context::Context;
use crate::generate::wire;
use crate::mesh::Mesh;

/// Istio's default line.
const TEXT_LOG: &str = "[%START_TIME%] \"%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %PROTOCOL%\" %RESPONSE_CODE% \
%RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS% %CONNECTION_TERMINATION_DETAILS% \"%UPSTREAM_TRANSPORT_FAILURE_REASON%\" \
%BYTES_RECEIVED% %BYTES_SENT% %DURATION% %RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)% \"%REQ(X-FORWARDED-FOR)%\" \
\"%REQ(USER-AGENT)%\" \"%REQ(X-REQUEST-ID)%\" \"%REQ(:AUTHORITY)%\" \"%UPSTREAM_HOST%\" %UPSTREAM_CLUSTER_RAW% \
%UPSTREAM_LOCAL_ADDRESS% %DOWNSTREAM_LOCAL_ADDRESS% %DOWNSTREAM_REMOTE_ADDRESS% %REQUESTED_SERVER_NAME% %ROUTE_NAME%\n";

/// Istio's default fields.
const JSON_LOG: [(&str, &str); 26] = [
    ("start_time", "%START_TIME%"),
    ("route_name", "%ROUTE_NAME%"),
    ("method", "%REQ(:METHOD)%"),
    ("path", "%REQ(X-ENVOY-ORIGINAL-PATH?:PATH)%"),
    ("protocol", "%PROTOCOL%"),
    ("response_code", "%RESPONSE_CODE%"),
    ("response_flags", "%RESPONSE_FLAGS%"),
    ("response_code_details", "%RESPONSE_CODE_DETAILS%"),
    (
        "connection_termination_details",
        "%CONNECTION_TERMINATION_DETAILS%",
    ),
    ("bytes_received", "%BYTES_RECEIVED%"),
    ("bytes_sent", "%BYTES_SENT%"),
    ("duration", "%DURATION%"),
    ("upstream_service_time", "%RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)%"),
    ("x_forwarded_for", "%REQ(X-FORWARDED-FOR)%"),
    ("user_agent", "%REQ(USER-AGENT)%"),
    ("request_id", "%REQ(X-REQUEST-ID)%"),
    ("authority", "%REQ(:AUTHORITY)%"),
    ("upstream_host", "%UPSTREAM_HOST%"),
    ("upstream_cluster", "%UPSTREAM_CLUSTER_RAW%"),
    ("upstream_local_address", "%UPSTREAM_LOCAL_ADDRESS%"),
    ("downstream_local_address", "%DOWNSTREAM_LOCAL_ADDRESS%"),
    ("downstream_remote_address", "%DOWNSTREAM_REMOTE_ADDRESS%"),
    ("requested_server_name", "%REQUESTED_SERVER_NAME%"),
    (
        "upstream_transport_failure_reason",
        "%UPSTREAM_TRANSPORT_FAILURE_REASON%",
    ),
    ("trace_id", "%TRACE_ID%"),
    ("hostname", "%HOSTNAME%"),
];

/// Which way an HTTP connection manager faces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Facing {
    /// From the workload.
    Outbound,
    /// To the workload.
    Inbound,
    /// A gateway, to the world.
    Gateway,
}

/// Where the routes come from.
#[derive(Debug)]
pub enum Routes {
    /// RDS by name.
    Named(String),
    /// In the filter.
    Inline(Box<RouteConfiguration>),
}

/// An HTTP connection manager.
pub fn http(
    context: &Context<'_>,
    facing: Facing,
    stat_prefix: &str,
    routes: Routes,
    rbac: Vec<Any>,
) -> Filter {
    let forward = match facing {
        Facing::Outbound => ForwardClientCertDetails::Sanitize,
        Facing::Inbound => ForwardClientCertDetails::AppendForward,
        Facing::Gateway => ForwardClientCertDetails::SanitizeSet,
    };
    let manager = HttpConnectionManager {
        stat_prefix: stat_prefix.to_owned(),
        route_specifier: Some(match routes {
            Routes::Named(name) => RouteSpecifier::Rds(Rds {
                config_source: wire::ads(),
                route_config_name: name,
            }),
            Routes::Inline(table) => RouteSpecifier::RouteConfig(*table),
        }),
        http_filters: http_filters(context, facing, rbac),
        use_remote_address: wire::boolean(facing == Facing::Gateway),
        xff_num_trusted_hops: match facing {
            Facing::Gateway => context.mesh().trusted_proxies,
            Facing::Outbound | Facing::Inbound => 0,
        },
        forward_client_cert_details: forward as i32,
        set_current_client_cert_details: (facing != Facing::Outbound).then(|| SetCurrentClientCertDetails {
            subject: wire::boolean(true),
            dns: true,
            uri: true,
            ..Default::default()
        }),
        server_name: "istio-envoy".to_owned(),
        server_header_transformation: match facing {
            Facing::Gateway => ServerHeaderTransformation::Overwrite,
            Facing::Outbound | Facing::Inbound => ServerHeaderTransformation::PassThrough,
        } as i32,
        upgrade_configs: vec![UpgradeConfig {
            upgrade_type: "websocket".to_owned(),
            ..Default::default()
        }],
        stream_idle_timeout: wire::duration(Duration::ZERO),
        normalize_path: wire::boolean(true),
        access_log: access_log(context.mesh()),
        ..Default::default()
    };
    wire::network_filter(
        "envoy.filters.network.http_connection_manager",
        wire::any(&manager),
    )
}

fn http_filters(context: &Context<'_>, facing: Facing, rbac: Vec<Any>) -> Vec<HttpFilter> {
    let filter = |name: &str, config: Any| HttpFilter {
        name: name.to_owned(),
        config_type: Some(http_filter::ConfigType::TypedConfig(config)),
        ..Default::default()
    };
    let istio = !context.proxy.stock_envoy;
    let mut out = Vec::new();
    if istio {
        out.push(filter(
            "istio.metadata_exchange",
            wire::any_empty("io.istio.http.peer_metadata.Config"),
        ));
    }
    out.extend(rbac.into_iter().map(|r| filter("envoy.filters.http.rbac", r)));
    out.push(filter(
        "envoy.filters.http.grpc_stats",
        wire::any(&grpc_stats::FilterConfig::default()),
    ));
    if facing != Facing::Inbound {
        out.push(filter(
            "envoy.filters.http.fault",
            wire::any(&fault::HttpFault::default()),
        ));
        out.push(filter(
            "envoy.filters.http.cors",
            wire::any(&cors::Cors::default()),
        ));
    }
    if istio {
        out.push(filter("istio.stats", wire::any_empty("stats.PluginConfig")));
    }
    out.push(filter(
        "envoy.filters.http.router",
        wire::any(&router::Router::default()),
    ));
    out
}

/// Clusters of a TCP proxy with their weights; weights of zero are left out.
pub fn tcp(
    context: &Context<'_>,
    stat_prefix: &str,
    clusters: &[(String, u32)],
    idle: Option<Duration>,
) -> Filter {
    let specifier = match clusters {
        [(only, _)] => ClusterSpecifier::Cluster(only.clone()),
        several => ClusterSpecifier::WeightedClusters(WeightedCluster {
            clusters: several
                .iter()
                .filter(|(_, weight)| *weight > 0)
                .map(|(name, weight)| ClusterWeight {
                    name: name.clone(),
                    weight: *weight,
                    ..Default::default()
                })
                .collect(),
        }),
    };
    let proxy = TcpProxy {
        stat_prefix: stat_prefix.to_owned(),
        cluster_specifier: Some(specifier),
        idle_timeout: idle.and_then(wire::duration),
        // A dead endpoint costs a connection nothing while there are others.
        max_connect_attempts: if context.mesh().istio_compatible {
            None
        } else {
            wire::uint(3)
        },
        access_log: access_log(context.mesh()),
        ..Default::default()
    };
    wire::network_filter("envoy.filters.network.tcp_proxy", wire::any(&proxy))
}

/// The access log of the MeshConfig.
#[allow(deprecated, reason = "Istio sends `text_format`, and every proxy reads it")]
pub fn access_log(mesh: &Mesh) -> Vec<accesslog::AccessLog> {
    if mesh.access_log_file.is_empty() {
        return Vec::new();
    }
    use core::substitution_format_string::Format;
    let format = if mesh.access_log_json {
        let written: Option<serde_json::Map<String, serde_json::Value>> =
            serde_json::from_str(&mesh.access_log_format).ok();
        Format::JsonFormat(match written {
            Some(fields) => wire::structure(
                fields
                    .into_iter()
                    .map(|(k, v)| (k, wire::text(v.as_str().unwrap_or_default()))),
            ),
            None => wire::structure(JSON_LOG.map(|(key, value)| (key, wire::text(value)))),
        })
    } else if mesh.access_log_format.is_empty() {
        Format::TextFormat(TEXT_LOG.to_owned())
    } else {
        Format::TextFormat(mesh.access_log_format.clone())
    };
    let config = file::FileAccessLog {
        path: mesh.access_log_file.clone(),
        access_log_format: Some(file::file_access_log::AccessLogFormat::LogFormat(
            core::SubstitutionFormatString {
                format: Some(format),
                ..Default::default()
            },
        )),
    };
    vec![accesslog::AccessLog {
        name: "envoy.access_loggers.file".to_owned(),
        config_type: Some(accesslog::access_log::ConfigType::TypedConfig(wire::any(&config))),
        ..Default::default()
    }]
}
