//! CDS: what is behind a name, and how it is spoken to.

pub mod policy;

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use isthmus_api::istio::DestinationRule;
use isthmus_api::istio::destination_rule::{ClientTlsMode, ConnectionPoolSettings};
use isthmus_model::{ClusterName, Port, Protocol, Resolution, ServiceOrigin, SpiffeId};
use isthmus_xds::envoy::cluster::Cluster;
use isthmus_xds::envoy::cluster::UpstreamConnectionOptions;
use isthmus_xds::envoy::cluster::cluster::{
    self as inner, ClusterDiscoveryType, DiscoveryType, EdsClusterConfig, TransportSocketMatch,
};
use isthmus_xds::envoy::core;
use isthmus_xds::envoy::core::TransportSocket;
use isthmus_xds::envoy::upstream_http::http_protocol_options::{
    ExplicitHttpConfig, UpstreamProtocolOptions, UseDownstreamHttpConfig,
    explicit_http_config::ProtocolConfig,
};
use isthmus_xds::envoy::{raw_buffer, upstream_http};

use self::policy::Policy;
use super::endpoint;
use super::same::Same;
use super::tls::{self, Servers};
use super::wire;
use crate::mesh::Mesh;
use crate::proxy::ProxyKind;
use crate::registry::MeshService;

/// Goes where the caller addressed it.
pub const PASSTHROUGH: &str = "PassthroughCluster";
/// Goes nowhere.
pub const BLACK_HOLE: &str = "BlackHoleCluster";
/// Inbound traffic to ports that no service declares.
pub const INBOUND_PASSTHROUGH: &str = "InboundPassthroughCluster";

/// Source of traffic that a sidecar hands to its application; capture lets it pass.
const INBOUND_SOURCE: &str = "127.0.0.6";

/// All that an outbound cluster depends on.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Inputs {
    /// The mesh's settings.
    pub mesh: Same<Mesh>,
    /// The service.
    pub service: Same<MeshService>,
    /// Its port.
    pub port: u16,
    /// DestinationRule subset; empty for all endpoints.
    pub subset: String,
    /// DestinationRules of the host that the proxy sees, the first of which counts.
    pub rules: Vec<Same<DestinationRule>>,
    /// Names of these rules for people: `DestinationRule namespace/name file:line`.
    pub because: Vec<Arc<str>>,
    /// Identities behind the service.
    pub accounts: Option<Same<BTreeSet<SpiffeId>>>,
    /// For clusters that hold their endpoints.
    pub endpoints: Option<endpoint::Inputs>,
    /// Sidecar or gateway.
    pub kind: ProxyKind,
    /// A stock Envoy.
    pub stock_envoy: bool,
}

impl Inputs {
    fn port(&self) -> Option<&Port> {
        self.service.service.port(self.port)
    }

    /// The policy of the rules for this port and subset.
    pub fn policy(&self) -> Policy {
        Policy::of(self.rules.iter().map(|r| &**r), &self.subset, self.port)
    }

    /// `outbound|PORT|SUBSET|HOST`.
    pub fn name(&self) -> ClusterName {
        ClusterName::outbound(self.port, self.subset.as_str(), self.service.host().clone())
    }
}

/// An outbound cluster.
pub fn outbound(inputs: &Inputs) -> Option<Cluster> {
    let port = inputs.port()?;
    let policy = inputs.policy();
    let name = inputs.name().to_string();
    let mut cluster = Cluster {
        name: name.clone(),
        ..Default::default()
    };
    policy.apply(&mut cluster, &inputs.mesh);
    if !inputs.stock_envoy {
        policy::forget_slow_start(&mut cluster);
    }
    discovery(&mut cluster, inputs, &policy);
    if port.protocol.is_http() {
        notice_silence(&mut cluster, &inputs.mesh);
    }
    let (http2, downstream) = protocol(&mut cluster, port.protocol, &policy, &inputs.mesh);
    security(&mut cluster, inputs, port, &policy, http2, downstream);
    cluster.metadata = metadata(inputs, &policy);
    Some(cluster)
}

#[allow(deprecated, reason = "Istio's proxies of every version read these fields")]
fn discovery(cluster: &mut Cluster, inputs: &Inputs, policy: &Policy) {
    let service = &inputs.service.service;
    let kind = match service.resolution {
        _ if policy.is_passthrough() => DiscoveryType::OriginalDst,
        Resolution::Static => DiscoveryType::Eds,
        Resolution::Dns => DiscoveryType::StrictDns,
        Resolution::DnsRoundRobin => DiscoveryType::LogicalDns,
        Resolution::Passthrough | Resolution::DynamicDns => DiscoveryType::OriginalDst,
    };
    cluster.cluster_discovery_type = Some(ClusterDiscoveryType::Type(kind as i32));
    match kind {
        DiscoveryType::Eds => {
            cluster.eds_cluster_config = Some(EdsClusterConfig {
                eds_config: wire::ads(),
                service_name: cluster.name.clone(),
            });
        }
        DiscoveryType::OriginalDst => {
            cluster.lb_policy = inner::LbPolicy::ClusterProvided as i32;
            cluster.lb_config = None;
        }
        DiscoveryType::StrictDns | DiscoveryType::LogicalDns => {
            cluster.load_assignment = inputs
                .endpoints
                .as_ref()
                .map(|e| endpoint::assignment(e).assignment);
            cluster.dns_refresh_rate = wire::duration(inputs.mesh.dns_refresh);
            cluster.respect_dns_ttl = true;
            cluster.dns_lookup_family = inner::DnsLookupFamily::V4Preferred as i32;
        }
        DiscoveryType::Static => {}
    }
}

/// Sets the HTTP version; whether it is HTTP/2, and whether it is the caller's.
fn protocol(cluster: &mut Cluster, protocol: Protocol, policy: &Policy, mesh: &Mesh) -> (bool, bool) {
    let http2 = protocol.is_http2() || (protocol == Protocol::Http && policy.upgrades(mesh));
    let downstream = protocol == Protocol::Auto || (protocol.is_http() && policy.keeps_protocol());
    if !protocol.is_http() && protocol != Protocol::Auto {
        return (false, false);
    }
    let settings = policy.http();
    let streams = settings
        .and_then(|h| h.max_concurrent_streams)
        .and_then(|n| u32::try_from(n).ok());
    let ping = settings.and_then(|h| h.http2_keep_alive.as_ref());
    let h2 = core::Http2ProtocolOptions {
        max_concurrent_streams: streams.and_then(wire::uint),
        connection_keepalive: ping.map(|k| core::KeepaliveSettings {
            interval: k.interval.and_then(|d| wire::duration(*d)),
            timeout: k.timeout.and_then(|d| wire::duration(*d)),
            ..Default::default()
        }),
        ..Default::default()
    };
    let options = if downstream {
        UpstreamProtocolOptions::UseDownstreamProtocolConfig(UseDownstreamHttpConfig {
            http_protocol_options: Some(core::Http1ProtocolOptions::default()),
            http2_protocol_options: Some(h2),
            ..Default::default()
        })
    } else {
        UpstreamProtocolOptions::ExplicitHttpConfig(ExplicitHttpConfig {
            protocol_config: Some(if http2 {
                ProtocolConfig::Http2ProtocolOptions(h2)
            } else {
                ProtocolConfig::HttpProtocolOptions(core::Http1ProtocolOptions::default())
            }),
        })
    };
    let per_connection = settings
        .and_then(|h| h.max_requests_per_connection)
        .and_then(|n| u32::try_from(n).ok());
    let idle = settings.and_then(|h| h.idle_timeout);
    let lifetime = policy.tcp().and_then(|t| t.max_connection_duration);
    set_http_options(
        cluster,
        options,
        core::HttpProtocolOptions {
            idle_timeout: idle.and_then(|d| wire::duration(*d)),
            max_connection_duration: lifetime.and_then(|d| wire::duration(*d)),
            max_requests_per_connection: per_connection.filter(|n| *n > 0).and_then(wire::uint),
            ..Default::default()
        },
    );
    (http2, downstream)
}

fn set_http_options(
    cluster: &mut Cluster,
    options: UpstreamProtocolOptions,
    common: core::HttpProtocolOptions,
) {
    cluster.typed_extension_protocol_options = HashMap::from([(
        "envoy.extensions.upstreams.http.v3.HttpProtocolOptions".to_owned(),
        wire::any(&upstream_http::HttpProtocolOptions {
            common_http_protocol_options: Some(common),
            upstream_protocol_options: Some(options),
            ..Default::default()
        }),
    )]);
}

/// TLS: the user's, else what each endpoint takes.
fn security(
    cluster: &mut Cluster,
    inputs: &Inputs,
    port: &Port,
    policy: &Policy,
    http2: bool,
    downstream: bool,
) {
    let service = &inputs.service;
    let mesh = &inputs.mesh;
    let alpn = tls::mesh_alpn(port.protocol, http2, downstream, inputs.stock_envoy);
    let aliases = &mesh.trust_domain_aliases;
    let hop = service.hop(inputs.port);
    let sni = match hop {
        Some(hop) => ClusterName::outbound(hop.port, inputs.subset.as_str(), hop.host.clone()).sni(),
        None => inputs.name().sni(),
    };
    let servers = || match hop {
        _ if !service.subject_alt_names.is_empty() => Servers::Names(service.subject_alt_names.clone()),
        Some(hop) if hop.accounts.is_empty() => {
            Servers::Namespace(mesh.trust_domain.clone(), hop.namespace.clone())
        }
        Some(hop) => Servers::Accounts(hop.accounts.clone()),
        None => Servers::Accounts(inputs.accounts.as_deref().cloned().unwrap_or_default()),
    };
    if let Some(settings) = &policy.tls {
        cluster.transport_socket = match settings.mode {
            ClientTlsMode::Disable => None,
            ClientTlsMode::IstioMutual => {
                let sni = if settings.sni.is_empty() {
                    sni
                } else {
                    settings.sni.clone()
                };
                let servers = match settings.subject_alt_names.as_slice() {
                    [] => servers(),
                    names => Servers::Names(names.to_vec()),
                };
                Some(tls::mesh_client(sni, alpn, &servers, aliases))
            }
            ClientTlsMode::Simple | ClientTlsMode::Mutual => {
                let host = service.host();
                let host = if host.is_wildcard() { "" } else { host.as_str() };
                Some(tls::user_client(
                    settings,
                    host,
                    http2,
                    inputs.kind == ProxyKind::Router,
                ))
            }
        };
        return;
    }
    let in_mesh = service.service.origin != ServiceOrigin::MeshExternal && mesh.auto_mtls;
    if hop.is_some() || in_mesh {
        cluster.transport_socket_matches = vec![
            TransportSocketMatch {
                name: "tlsMode-istio".to_owned(),
                r#match: Some(wire::structure([("tlsMode", wire::text("istio"))])),
                transport_socket: Some(tls::mesh_client(sni, alpn, &servers(), aliases)),
            },
            TransportSocketMatch {
                name: "tlsMode-disabled".to_owned(),
                r#match: Some(wire::structure::<String>([])),
                transport_socket: Some(plaintext()),
            },
        ];
    }
}

fn plaintext() -> TransportSocket {
    wire::transport_socket(
        "envoy.transport_sockets.raw_buffer",
        wire::any(&raw_buffer::RawBuffer {}),
    )
}

fn metadata(inputs: &Inputs, policy: &Policy) -> Option<core::Metadata> {
    let service = &inputs.service;
    let short = service.host().as_str().split('.').next().unwrap_or_default();
    let mut istio = vec![
        (
            "services",
            wire::list([wire::nested(wire::structure([
                ("host", wire::text(service.host().as_str())),
                ("name", wire::text(short)),
                ("namespace", wire::text(service.namespace())),
            ]))]),
        ),
        ("default_original_port", wire::number(f64::from(inputs.port))),
    ];
    if let Some(rule) = inputs.because.first() {
        istio.push(("config", wire::text(&**rule)));
    }
    if !inputs.subset.is_empty() {
        istio.push(("subset", wire::text(inputs.subset.as_str())));
    }
    let mut ours = Vec::new();
    if !inputs.mesh.istio_compatible {
        ours.push(("failover", wire::nested(failover())));
        if policy.outlier.is_none() {
            ours.push((
                "outlier",
                wire::nested(wire::structure([("local_origin_only", wire::truth(true))])),
            ));
        }
    }
    let mut because: Vec<&str> = inputs.because.iter().map(|b| &**b).collect();
    let declared = service
        .hop(inputs.port)
        .map(|hop| format!("{}: {}", service.declared, hop.rule));
    because.extend(declared.as_deref());
    if !because.is_empty() {
        ours.push(("because", wire::text(because.join("; "))));
    }
    let mut namespaces = vec![("istio", wire::structure(istio))];
    if !ours.is_empty() {
        namespaces.push(("isthmus", wire::structure(ours)));
    }
    wire::metadata(namespaces)
}

/// How a dead endpoint is noticed long before `connect_timeout`.
fn failover() -> isthmus_xds::envoy::Struct {
    wire::structure([
        ("connect_hedge_ms", wire::number(250.0)),
        // On a link without delay; the proxy adds to both what it measures on each connection.
        ("unacked_timeout_ms", wire::number(500.0)),
    ])
}

/// A peer that vanishes after it acknowledged a request leaves nothing unacknowledged: only probes find
/// out. Plain TCP is left alone, since its connections may be idle across an outage and live on.
fn notice_silence(cluster: &mut Cluster, mesh: &Mesh) {
    if mesh.istio_compatible || cluster.upstream_connection_options.is_some() {
        return;
    }
    cluster.upstream_connection_options = Some(UpstreamConnectionOptions {
        tcp_keepalive: Some(core::TcpKeepalive {
            // Two of them may be lost.
            keepalive_probes: wire::uint(3),
            keepalive_time: wire::uint(1),
            keepalive_interval: wire::uint(1),
        }),
        ..Default::default()
    });
}

/// A gateway's cluster for sealed TLS: picks an endpoint and copies.
pub fn passthrough(name: &ClusterName, mesh: &Mesh, policy: &Policy) -> Cluster {
    let sni = name.sni();
    let mut cluster = Cluster {
        name: sni.clone(),
        cluster_discovery_type: Some(ClusterDiscoveryType::Type(DiscoveryType::Eds as i32)),
        eds_cluster_config: Some(EdsClusterConfig {
            eds_config: wire::ads(),
            service_name: sni,
        }),
        ..Default::default()
    };
    let policy = Policy {
        tls: None,
        outlier: None,
        // PASSTHROUGH is "where the caller addressed it", and here that is this gateway.
        balancer: policy.balancer.clone().filter(|_| !policy.is_passthrough()),
        ..policy.clone()
    };
    policy.apply(&mut cluster, mesh);
    policy::forget_slow_start(&mut cluster);
    notice_silence(&mut cluster, mesh);
    if !mesh.istio_compatible {
        cluster.metadata = wire::metadata([(
            "isthmus",
            wire::structure([
                ("failover", wire::nested(failover())),
                (
                    "outlier",
                    wire::nested(wire::structure([("local_origin_only", wire::truth(true))])),
                ),
            ]),
        )]);
    }
    cluster
}

/// The cluster of one port of the workload itself.
pub fn inbound(
    port: u16,
    endpoint: Option<core::Address>,
    mesh: &Mesh,
    service: Option<&MeshService>,
    pool: Option<&ConnectionPoolSettings>,
) -> Cluster {
    let mut cluster = to_application(ClusterName::inbound(port).to_string(), mesh);
    if let Some(pool) = pool {
        Policy {
            pool: Some(pool.clone()),
            ..Policy::default()
        }
        .apply_pool(&mut cluster, mesh);
    }
    if let Some(address) = endpoint {
        use isthmus_xds::envoy::endpoint as e;
        cluster.cluster_discovery_type = Some(ClusterDiscoveryType::Type(DiscoveryType::Static as i32));
        cluster.lb_policy = inner::LbPolicy::RoundRobin as i32;
        cluster.upstream_bind_config = None;
        cluster.load_assignment = Some(e::ClusterLoadAssignment {
            cluster_name: cluster.name.clone(),
            endpoints: vec![e::LocalityLbEndpoints {
                lb_endpoints: vec![e::LbEndpoint {
                    host_identifier: Some(e::lb_endpoint::HostIdentifier::Endpoint(e::Endpoint {
                        address: Some(address),
                        ..Default::default()
                    })),
                    ..Default::default()
                }],
                ..Default::default()
            }],
            ..Default::default()
        });
    }
    if let Some(service) = service {
        let short = service.host().as_str().split('.').next().unwrap_or_default();
        cluster.metadata = wire::metadata([(
            "istio",
            wire::structure([(
                "services",
                wire::list([wire::nested(wire::structure([
                    ("host", wire::text(service.host().as_str())),
                    ("name", wire::text(short)),
                    ("namespace", wire::text(service.namespace())),
                ]))]),
            )]),
        )]);
    }
    cluster
}

/// Inbound traffic to ports that no service declares.
pub fn inbound_passthrough(mesh: &Mesh) -> Cluster {
    to_application(INBOUND_PASSTHROUGH.to_owned(), mesh)
}

fn to_application(name: String, mesh: &Mesh) -> Cluster {
    let mut cluster = original_destination(name, mesh);
    cluster.upstream_bind_config = Some(core::BindConfig {
        source_address: Some(wire::socket_address(INBOUND_SOURCE, 0)),
        ..Default::default()
    });
    cluster
}

/// Outbound traffic to hosts that nobody declared.
pub fn outbound_passthrough(mesh: &Mesh) -> Cluster {
    original_destination(PASSTHROUGH.to_owned(), mesh)
}

fn original_destination(name: String, mesh: &Mesh) -> Cluster {
    let mut cluster = Cluster {
        name,
        cluster_discovery_type: Some(ClusterDiscoveryType::Type(DiscoveryType::OriginalDst as i32)),
        lb_policy: inner::LbPolicy::ClusterProvided as i32,
        connect_timeout: wire::duration(mesh.connect_timeout),
        ..Default::default()
    };
    cluster.circuit_breakers = unlimited();
    set_http_options(
        &mut cluster,
        UpstreamProtocolOptions::UseDownstreamProtocolConfig(UseDownstreamHttpConfig {
            http_protocol_options: Some(core::Http1ProtocolOptions::default()),
            http2_protocol_options: Some(core::Http2ProtocolOptions::default()),
            ..Default::default()
        }),
        core::HttpProtocolOptions {
            idle_timeout: wire::duration(Duration::from_secs(300)),
            ..Default::default()
        },
    );
    cluster
}

fn unlimited() -> Option<isthmus_xds::envoy::cluster::CircuitBreakers> {
    use isthmus_xds::envoy::cluster::{CircuitBreakers, circuit_breakers::Thresholds};
    let all = wire::uint(u32::MAX);
    Some(CircuitBreakers {
        thresholds: vec![Thresholds {
            max_connections: all,
            max_pending_requests: all,
            max_requests: all,
            max_retries: all,
            ..Default::default()
        }],
        ..Default::default()
    })
}

/// Goes nowhere.
pub fn black_hole(mesh: &Mesh) -> Cluster {
    Cluster {
        name: BLACK_HOLE.to_owned(),
        cluster_discovery_type: Some(ClusterDiscoveryType::Type(DiscoveryType::Static as i32)),
        connect_timeout: wire::duration(mesh.connect_timeout),
        ..Default::default()
    }
}
