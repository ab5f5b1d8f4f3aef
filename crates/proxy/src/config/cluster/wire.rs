//! From Envoy's cluster message.

use std::sync::Arc;
use std::time::Duration;

use isthmus_xds::any;
use isthmus_xds::envoy::cluster as e;
use isthmus_xds::envoy::core;
use isthmus_xds::envoy::google::protobuf::Struct;
use isthmus_xds::envoy::upstream_http as uh;

use super::{
    AddressFamily, Balancer, Cluster, Discovery, IsthmusCluster, Limits, OutlierDetection, ServiceMetadata,
    TransportMatch, TransportSocket, UpstreamHttp, UpstreamVersion, balancer,
};
use crate::config::endpoint::{Address, Endpoints};
use crate::config::field::{
    metadata, name, number_or, port, positive_or, required, struct_bool, struct_labels, struct_number,
    struct_struct, struct_text, timeout, variant,
};
use crate::config::refusal::{At, Refusal, refuse_set};
use crate::config::tls::{UpstreamTls, wire as tls};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const DNS_REFRESH: Duration = Duration::from_secs(5);
const IDLE: Duration = Duration::from_secs(3600);

impl TryFrom<&e::Cluster> for Cluster {
    type Error = Refusal;

    fn try_from(c: &e::Cluster) -> Result<Self, Refusal> {
        refuse_set!(c; transport_socket_matcher, health_checks, lb_subset_config, dns_resolvers,
            upstream_config, connection_pool_per_downstream_connection);
        let name = name("name", &c.name)?;
        for (i, f) in c.filters.iter().enumerate() {
            upstream_filter(f).nth("filters", i)?;
        }
        let http = protocol(c)?;
        let common_lb = c.common_lb_config.as_ref();
        let (balancer, policy_weighted) = balancer::wire(c)?;
        let discovery = discovery(c, &name)?;
        if matches!(discovery, Discovery::OriginalDst { .. }) != (balancer == Balancer::Provided) {
            return Err(Refusal::new(
                "lb_policy",
                "CLUSTER_PROVIDED and the type ORIGINAL_DST belong together",
            ));
        }
        Ok(Self {
            discovery,
            balancer,
            connect_timeout: positive_or("connect_timeout", c.connect_timeout.as_ref(), CONNECT_TIMEOUT)?,
            transport: transport(c, &http)?,
            limits: limits(c.circuit_breakers.as_ref()).at("circuit_breakers")?,
            outlier: c
                .outlier_detection
                .as_ref()
                .map(outlier)
                .transpose()
                .at("outlier_detection")?,
            source_address: source(c.upstream_bind_config.as_ref()).at("upstream_bind_config")?,
            panic_threshold: panic_threshold(common_lb).at("common_lb_config")?,
            locality_weighted: policy_weighted || locality_weighted(common_lb).at("common_lb_config")?,
            service: metadata(&c.metadata, "istio").and_then(service),
            isthmus: metadata(&c.metadata, "isthmus")
                .map(isthmus)
                .transpose()
                .at("metadata.filter_metadata[\"isthmus\"]")?
                .unwrap_or_default(),
            keepalive: keepalive(c),
            http: http.upstream,
            name,
        })
    }
}

/// Istio puts its metadata exchange among the upstream filters.
fn upstream_filter(f: &e::Filter) -> Result<(), Refusal> {
    if f.name.starts_with("istio.") {
        return Ok(());
    }
    Err(Refusal::new(
        "",
        format!("the upstream filter {:?} is not known here", f.name),
    ))
}

fn discovery(c: &e::Cluster, name: &Arc<str>) -> Result<Discovery, Refusal> {
    use e::cluster::{ClusterDiscoveryType, DiscoveryType as T};
    let kind = match c.cluster_discovery_type.as_ref() {
        None => T::Static,
        Some(ClusterDiscoveryType::Type(t)) => variant::<T>("type", *t)?,
        Some(ClusterDiscoveryType::ClusterType(custom)) => {
            return Err(Refusal::new(
                "cluster_type",
                format!("{:?} is not known here", custom.name),
            ));
        }
    };
    let dns = || -> Result<(Arc<Endpoints>, Duration, bool, AddressFamily), Refusal> {
        use e::cluster::DnsLookupFamily as F;
        let family = match variant::<F>("dns_lookup_family", c.dns_lookup_family)? {
            F::Auto => AddressFamily::PreferV6,
            F::V4Only => AddressFamily::V4,
            F::V6Only => AddressFamily::V6,
            F::V4Preferred => AddressFamily::PreferV4,
            F::All => AddressFamily::All,
        };
        let refresh = positive_or("dns_refresh_rate", c.dns_refresh_rate.as_ref(), DNS_REFRESH)?;
        Ok((
            endpoints(c, name)?,
            refresh.max(Duration::from_millis(1)),
            c.respect_dns_ttl,
            family,
        ))
    };
    Ok(match kind {
        T::Static => {
            let endpoints = match c.load_assignment {
                Some(_) => endpoints(c, name)?,
                // Istio's BlackHoleCluster has none: nothing is reached through it.
                None => Arc::new(Endpoints {
                    cluster: name.clone(),
                    ..Endpoints::default()
                }),
            };
            if let Some(host) = named(&endpoints) {
                return Err(Refusal::new(
                    "load_assignment",
                    format!("{host:?} must be an IP address in a cluster of type STATIC"),
                ));
            }
            Discovery::Static(endpoints)
        }
        T::Eds => Discovery::Eds(eds_name(c, name)?),
        T::StrictDns => {
            let (endpoints, refresh, respect_ttl, family) = dns()?;
            Discovery::StrictDns {
                endpoints,
                refresh,
                respect_ttl,
                family,
            }
        }
        T::LogicalDns => {
            let (endpoints, refresh, respect_ttl, family) = dns()?;
            if endpoints
                .localities
                .iter()
                .map(|l| l.endpoints.len())
                .sum::<usize>()
                != 1
            {
                return Err(Refusal::new(
                    "load_assignment",
                    "a cluster of type LOGICAL_DNS has exactly one endpoint",
                ));
            }
            Discovery::LogicalDns {
                endpoints,
                refresh,
                respect_ttl,
                family,
            }
        }
        T::OriginalDst => Discovery::OriginalDst {
            port_override: original_dst(c)?,
        },
    })
}

fn endpoints(c: &e::Cluster, name: &Arc<str>) -> Result<Arc<Endpoints>, Refusal> {
    let mut assignment = required("load_assignment", &c.load_assignment)?.clone();
    if assignment.cluster_name.is_empty() {
        assignment.cluster_name = name.to_string();
    }
    Ok(Arc::new(Endpoints::try_from(&assignment).at("load_assignment")?))
}

fn named(endpoints: &Endpoints) -> Option<&str> {
    endpoints
        .localities
        .iter()
        .flat_map(|l| &l.endpoints)
        .find_map(|e| match &e.address {
            Address::Name(n, _) => Some(&**n),
            _ => None,
        })
}

fn eds_name(c: &e::Cluster, name: &Arc<str>) -> Result<Arc<str>, Refusal> {
    let Some(eds) = c.eds_cluster_config.as_ref() else {
        return Err(Refusal::new(
            "eds_cluster_config",
            "is required by a cluster of type EDS",
        ));
    };
    Ok(if eds.service_name.is_empty() {
        name.clone()
    } else {
        eds.service_name.as_str().into()
    })
}

fn original_dst(c: &e::Cluster) -> Result<Option<u16>, Refusal> {
    match c.lb_config.as_ref() {
        Some(e::cluster::LbConfig::OriginalDstLbConfig(o)) => {
            // A header that chooses the destination would let a client choose it.
            refuse_set!(o; use_http_header, metadata_key);
            o.upstream_port_override
                .as_ref()
                .map(|v| port("original_dst_lb_config.upstream_port_override", v.value))
                .transpose()
        }
        _ => Ok(None),
    }
}

/// What `HttpProtocolOptions` says, with the two flags that belong to TLS.
struct Protocol {
    upstream: UpstreamHttp,
    auto_sni: bool,
    auto_san: bool,
}

fn protocol(c: &e::Cluster) -> Result<Protocol, Refusal> {
    let mut options = None;
    for (key, any) in &c.typed_extension_protocol_options {
        let at = format!("typed_extension_protocol_options[{key:?}]");
        if !any::is::<uh::HttpProtocolOptions>(any) {
            return Err(Refusal::new(
                at,
                format!("{} is not known here", any::full_name(&any.type_url)),
            ));
        }
        let o: uh::HttpProtocolOptions =
            any::unpack(any).map_err(|e| Refusal::new(at.clone(), e.to_string()))?;
        options = Some((at, o));
    }
    match options {
        Some((at, o)) => explicit_protocol(&o).at(&at),
        None => deprecated_protocol(c),
    }
}

fn explicit_protocol(o: &uh::HttpProtocolOptions) -> Result<Protocol, Refusal> {
    refuse_set!(o; outlier_detection, request_mirror_policies, hash_policy, retry_policy);
    for (i, f) in o.http_filters.iter().enumerate() {
        if !f.name.starts_with("istio.") && f.name != "envoy.filters.http.upstream_codec" {
            return Err(Refusal::new(
                format!("http_filters[{i}]"),
                format!("the upstream filter {:?} is not known here", f.name),
            ));
        }
    }
    use uh::http_protocol_options::{
        UpstreamProtocolOptions as U, explicit_http_config::ProtocolConfig as P,
    };
    let streams = |h: &Option<core::Http2ProtocolOptions>| max_streams(h.as_ref());
    let (version, max_concurrent_streams) = match o.upstream_protocol_options.as_ref() {
        Some(U::ExplicitHttpConfig(c)) => match c.protocol_config.as_ref() {
            Some(P::HttpProtocolOptions(_)) | None => (UpstreamVersion::Http1, u32::MAX >> 1),
            Some(P::Http2ProtocolOptions(h)) => (UpstreamVersion::Http2, max_streams(Some(h))),
            Some(P::Http3ProtocolOptions(_)) => {
                return Err(Refusal::unsupported(
                    "explicit_http_config.http3_protocol_options",
                ));
            }
        },
        Some(U::UseDownstreamProtocolConfig(c)) => {
            refuse_set!(c; http3_protocol_options);
            (UpstreamVersion::Downstream, streams(&c.http2_protocol_options))
        }
        Some(U::AutoConfig(c)) => {
            refuse_set!(c; http3_protocol_options);
            (UpstreamVersion::Alpn, streams(&c.http2_protocol_options))
        }
        None => (UpstreamVersion::Http1, u32::MAX >> 1),
    };
    let upstream = o.upstream_http_protocol_options.as_ref();
    if let Some(u) = upstream {
        refuse_set!(u; override_auto_sni_header);
    }
    Ok(Protocol {
        upstream: upstream_http(
            version,
            max_concurrent_streams,
            o.common_http_protocol_options.as_ref(),
            None,
        )
        .at("common_http_protocol_options")?,
        auto_sni: upstream.is_some_and(|u| u.auto_sni),
        auto_san: upstream.is_some_and(|u| u.auto_san_validation),
    })
}

/// The fields of Envoy's earlier versions, which static bootstraps still hold.
fn deprecated_protocol(c: &e::Cluster) -> Result<Protocol, Refusal> {
    use e::cluster::ClusterProtocolSelection as S;
    let version = if variant::<S>("protocol_selection", c.protocol_selection)? == S::UseDownstreamProtocol {
        UpstreamVersion::Downstream
    } else if c.http2_protocol_options.is_some() {
        UpstreamVersion::Http2
    } else {
        UpstreamVersion::Http1
    };
    let upstream = c.upstream_http_protocol_options.as_ref();
    Ok(Protocol {
        upstream: upstream_http(
            version,
            max_streams(c.http2_protocol_options.as_ref()),
            c.common_http_protocol_options.as_ref(),
            c.max_requests_per_connection.as_ref().map(|v| v.value),
        )
        .at("common_http_protocol_options")?,
        auto_sni: upstream.is_some_and(|u| u.auto_sni),
        auto_san: upstream.is_some_and(|u| u.auto_san_validation),
    })
}

fn upstream_http(
    version: UpstreamVersion,
    max_concurrent_streams: u32,
    common: Option<&core::HttpProtocolOptions>,
    max_requests: Option<u32>,
) -> Result<UpstreamHttp, Refusal> {
    let empty = core::HttpProtocolOptions::default();
    let common = common.unwrap_or(&empty);
    refuse_set!(common; max_stream_duration);
    Ok(UpstreamHttp {
        version,
        idle_timeout: timeout("idle_timeout", common.idle_timeout.as_ref(), Some(IDLE))?,
        max_requests_per_connection: number_or(
            &common.max_requests_per_connection,
            max_requests.unwrap_or(0),
        ),
        max_concurrent_streams,
        max_connection_duration: timeout(
            "max_connection_duration",
            common.max_connection_duration.as_ref(),
            None,
        )?,
    })
}

fn max_streams(h: Option<&core::Http2ProtocolOptions>) -> u32 {
    h.map_or(u32::MAX >> 1, |h| {
        number_or(&h.max_concurrent_streams, u32::MAX >> 1).clamp(1, u32::MAX >> 1)
    })
}

fn transport(c: &e::Cluster, http: &Protocol) -> Result<TransportSocket, Refusal> {
    let finish = |mut t: UpstreamTls| {
        t.auto_sni |= http.auto_sni;
        t.auto_san |= http.auto_san && t.validation.trusted.is_some() && t.validation.sans.is_empty();
        Arc::new(t)
    };
    let fallback = c
        .transport_socket
        .as_ref()
        .map(tls::upstream)
        .transpose()
        .at("transport_socket")?;
    if c.transport_socket_matches.is_empty() {
        return Ok(match fallback.flatten() {
            Some(t) => TransportSocket::Tls(finish(t)),
            None => TransportSocket::Raw,
        });
    }
    let mut matches = Vec::with_capacity(c.transport_socket_matches.len() + 1);
    for (i, m) in c.transport_socket_matches.iter().enumerate() {
        matches.push(transport_match(m, &finish).nth("transport_socket_matches", i)?);
    }
    if let Some(fallback) = fallback {
        matches.push(TransportMatch {
            name: "default".into(),
            labels: Vec::new(),
            tls: fallback.map(finish),
        });
    }
    Ok(TransportSocket::Matches(matches))
}

fn transport_match(
    m: &e::cluster::TransportSocketMatch,
    finish: &impl Fn(UpstreamTls) -> Arc<UpstreamTls>,
) -> Result<TransportMatch, Refusal> {
    Ok(TransportMatch {
        name: name("name", &m.name)?,
        labels: m
            .r#match
            .as_ref()
            .map(|s| struct_labels("match", s))
            .transpose()?
            .unwrap_or_default(),
        tls: m
            .transport_socket
            .as_ref()
            .map(tls::upstream)
            .transpose()
            .at("transport_socket")?
            .flatten()
            .map(finish),
    })
}

fn limits(c: Option<&e::CircuitBreakers>) -> Result<Limits, Refusal> {
    let mut limits = Limits {
        connections: 1024,
        pending: 1024,
        requests: 1024,
        retries: 3,
    };
    let Some(c) = c else { return Ok(limits) };
    refuse_set!(c; per_host_thresholds);
    for (i, t) in c.thresholds.iter().enumerate() {
        let priority = variant::<core::RoutingPriority>("priority", t.priority).nth("thresholds", i)?;
        if priority == core::RoutingPriority::High {
            continue; // no route of this proxy has that priority
        }
        if t.retry_budget.is_some() {
            return Err(Refusal::unsupported("retry_budget")).nth("thresholds", i);
        }
        limits = Limits {
            connections: number_or(&t.max_connections, 1024),
            pending: number_or(&t.max_pending_requests, 1024),
            requests: number_or(&t.max_requests, 1024),
            retries: number_or(&t.max_retries, 3),
        };
    }
    Ok(limits)
}

fn outlier(o: &e::OutlierDetection) -> Result<OutlierDetection, Refusal> {
    refuse_set!(o; monitors);
    // Only what is asked for explicitly: Envoy's default of the success rate needs five hosts and a hundred
    // requests in an interval, and Istio always switches it off.
    for (field, enforcing) in [
        ("enforcing_success_rate", &o.enforcing_success_rate),
        (
            "enforcing_local_origin_success_rate",
            &o.enforcing_local_origin_success_rate,
        ),
        ("enforcing_failure_percentage", &o.enforcing_failure_percentage),
        (
            "enforcing_failure_percentage_local_origin",
            &o.enforcing_failure_percentage_local_origin,
        ),
    ] {
        if number_or(enforcing, 0) > 0 {
            return Err(Refusal::unsupported(field));
        }
    }
    type Number = Option<isthmus_xds::envoy::google::protobuf::UInt32Value>;
    let criterion = |field: &str, count: &Number, enforcing: &Number, by_default: u32| match number_or(
        enforcing, by_default,
    ) {
        0 => Ok(0),
        100 => Ok(number_or(count, 5)),
        share => Err(Refusal::new(
            field,
            format!("{share} percent: a share other than 0 and 100 is not known here"),
        )),
    };
    let base = positive_or(
        "base_ejection_time",
        o.base_ejection_time.as_ref(),
        Duration::from_secs(30),
    )?;
    let max = positive_or(
        "max_ejection_time",
        o.max_ejection_time.as_ref(),
        Duration::from_secs(300),
    )?;
    let percent = number_or(&o.max_ejection_percent, 10);
    if percent > 100 {
        return Err(Refusal::new(
            "max_ejection_percent",
            format!("{percent} is more than 100"),
        ));
    }
    Ok(OutlierDetection {
        consecutive_5xx: criterion(
            "enforcing_consecutive_5xx",
            &o.consecutive_5xx,
            &o.enforcing_consecutive_5xx,
            100,
        )?,
        consecutive_gateway_failure: criterion(
            "enforcing_consecutive_gateway_failure",
            &o.consecutive_gateway_failure,
            &o.enforcing_consecutive_gateway_failure,
            0,
        )?,
        consecutive_local_origin_failure: criterion(
            "enforcing_consecutive_local_origin_failure",
            &o.consecutive_local_origin_failure,
            &o.enforcing_consecutive_local_origin_failure,
            100,
        )?,
        split_local_origin: o.split_external_local_origin_errors,
        interval: positive_or("interval", o.interval.as_ref(), Duration::from_secs(10))?,
        base_ejection: base,
        max_ejection: max.max(base),
        max_ejection_percent: percent,
    })
}

fn source(b: Option<&core::BindConfig>) -> Result<Option<std::net::IpAddr>, Refusal> {
    let Some(s) = b.and_then(|b| b.source_address.as_ref()) else {
        return Ok(None);
    };
    let ip = s.address.parse().map_err(|_| {
        Refusal::new(
            "source_address.address",
            format!("{:?} is no IP address", s.address),
        )
    })?;
    if let Some(core::socket_address::PortSpecifier::PortValue(p)) = s.port_specifier
        && p != 0
    {
        return Err(Refusal::new(
            "source_address.port_value",
            "must be 0: each connection has a port of its own",
        ));
    }
    Ok(Some(ip))
}

fn panic_threshold(c: Option<&e::cluster::CommonLbConfig>) -> Result<f64, Refusal> {
    match c.and_then(|c| c.healthy_panic_threshold.as_ref()) {
        None => Ok(50.0),
        Some(p) if (0.0..=100.0).contains(&p.value) => Ok(p.value),
        Some(p) => Err(Refusal::new(
            "healthy_panic_threshold",
            format!("{} is no percentage", p.value),
        )),
    }
}

fn locality_weighted(c: Option<&e::cluster::CommonLbConfig>) -> Result<bool, Refusal> {
    use e::cluster::common_lb_config::LocalityConfigSpecifier as L;
    let Some(c) = c else { return Ok(false) };
    if let Some(h) = c.consistent_hashing_lb_config.as_ref() {
        refuse_set!(h; use_hostname_for_hashing, hash_balance_factor);
    }
    Ok(matches!(
        c.locality_config_specifier,
        Some(L::LocalityWeightedLbConfig(_))
    ))
}

fn service(istio: &Struct) -> Option<ServiceMetadata> {
    use isthmus_xds::envoy::google::protobuf::value::Kind;
    let Kind::ListValue(list) = istio.fields.get("services")?.kind.as_ref()? else {
        return None;
    };
    let Kind::StructValue(first) = list.values.first()?.kind.as_ref()? else {
        return None;
    };
    Some(ServiceMetadata {
        host: struct_text(first, "host")?.into(),
        name: struct_text(first, "name").unwrap_or_default().into(),
        namespace: struct_text(first, "namespace").unwrap_or_default().into(),
    })
}

fn isthmus(s: &Struct) -> Result<IsthmusCluster, Refusal> {
    let milliseconds = |key: &str| {
        let value = struct_struct(s, "failover").and_then(|f| struct_number(f, key));
        match value {
            None => Ok(None),
            Some(ms) if (1.0..=3_600_000.0).contains(&ms) => Ok(Some(Duration::from_millis(ms as u64))),
            Some(ms) => Err(Refusal::new(
                format!("failover.{key}"),
                format!("{ms} must be from 1 to 3600000 milliseconds"),
            )),
        }
    };
    Ok(IsthmusCluster {
        connect_hedge: milliseconds("connect_hedge_ms")?,
        unacked_timeout: milliseconds("unacked_timeout_ms")?,
        local_origin_only: struct_struct(s, "outlier")
            .and_then(|o| struct_bool(o, "local_origin_only"))
            .unwrap_or(false),
    })
}

fn keepalive(c: &e::Cluster) -> Option<(Duration, Duration, u32)> {
    let k = c.upstream_connection_options.as_ref()?.tcp_keepalive.as_ref()?;
    // The kernel's defaults, which Envoy leaves in place.
    Some((
        Duration::from_secs(u64::from(number_or(&k.keepalive_time, 7200).clamp(1, 32767))),
        Duration::from_secs(u64::from(number_or(&k.keepalive_interval, 75).clamp(1, 32767))),
        number_or(&k.keepalive_probes, 9).clamp(1, 127),
    ))
}
