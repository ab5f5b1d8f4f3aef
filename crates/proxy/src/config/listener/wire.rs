//! From Envoy's listener message: listener filters, filter chains and their matches.

use std::sync::Arc;
use std::time::Duration;

use isthmus_xds::any;
use isthmus_xds::envoy::listener as e;
use isthmus_xds::envoy::listener_filters as lf;
use isthmus_xds::envoy::network_filters::rbac as network_rbac;
use isthmus_xds::envoy::{Any, core, hcm, tcp_proxy as tp};
use prost::{Message, Name};

use super::{
    ChainMatch, FilterChain, Listener, NetworkFilter, PortRanges, TcpProxy, TrafficDirection, Transport,
    access_log, http_manager,
};
use crate::config::field::{
    because, bool_or, cidrs, duration_or, name, number_or, port, required, socket_address, timeout, variant,
};
use crate::config::rbac::Rbac;
use crate::config::refusal::{At, Refusal, refuse_set};
use crate::config::tls::wire as tls;

const SNIFF_TIMEOUT: Duration = Duration::from_secs(15);
const TCP_IDLE: Duration = Duration::from_secs(3600);
/// Filter chains of one listener.
const MAX_CHAINS: usize = 100_000;

impl TryFrom<&e::Listener> for Listener {
    type Error = Refusal;

    fn try_from(l: &e::Listener) -> Result<Self, Refusal> {
        refuse_set!(l; additional_addresses, fcds_config, filter_chain_matcher, udp_listener_config, api_listener,
            listener_specifier);
        if bool_or(&l.transparent, false) {
            return Err(Refusal::unsupported("transparent"));
        }
        let name = name("name", &l.name)?;
        let address = socket_address(required("address", &l.address)?).at("address")?;
        let use_original_dst = bool_or(&l.use_original_dst, false);
        let mut inspection = Inspection::default();
        for (i, f) in l.listener_filters.iter().enumerate() {
            inspection.add(f).nth("listener_filters", i)?;
        }
        let direction = match variant::<core::TrafficDirection>("traffic_direction", l.traffic_direction)? {
            core::TrafficDirection::Unspecified => TrafficDirection::Unspecified,
            core::TrafficDirection::Inbound => TrafficDirection::Inbound,
            core::TrafficDirection::Outbound => TrafficDirection::Outbound,
        };
        let chains = chains(&l.filter_chains, &name)?;
        let default_chain = l
            .default_filter_chain
            .as_ref()
            .map(|c| chain(c, &name))
            .transpose()
            .at("default_filter_chain")?
            .map(Arc::new);
        if chains.is_empty() && default_chain.is_none() {
            return Err(Refusal::new("filter_chains", "may not be empty"));
        }
        let deprecated = l.deprecated_v1.as_ref().and_then(|d| d.bind_to_port.as_ref());
        let sniff = duration_or(
            "listener_filters_timeout",
            l.listener_filters_timeout.as_ref(),
            SNIFF_TIMEOUT,
        )?;
        Ok(Self {
            name,
            address,
            bind: l.bind_to_port.as_ref().or(deprecated).is_none_or(|b| b.value),
            use_original_dst,
            original_dst: use_original_dst || inspection.original_dst,
            direction,
            inspect_tls: inspection.tls.is_some(),
            inspect_tls_except: inspection.tls.unwrap_or_default(),
            inspect_http: inspection.http.is_some(),
            inspect_http_except: inspection.http.unwrap_or_default(),
            proxy_protocol: inspection.proxy_protocol,
            sniff_timeout: if sniff.is_zero() { Duration::MAX } else { sniff },
            continue_on_sniff_timeout: l.continue_on_listener_filters_timeout,
            chains,
            default_chain,
        })
    }
}

/// What the listener filters ask for.
#[derive(Default)]
struct Inspection {
    original_dst: bool,
    /// Ports excepted.
    tls: Option<PortRanges>,
    /// Ports excepted.
    http: Option<PortRanges>,
    proxy_protocol: bool,
}

impl Inspection {
    fn add(&mut self, f: &e::ListenerFilter) -> Result<(), Refusal> {
        let config = match f.config_type.as_ref() {
            Some(e::listener_filter::ConfigType::TypedConfig(any)) => any,
            Some(e::listener_filter::ConfigType::ConfigDiscovery(_)) => {
                return Err(Refusal::unsupported("config_discovery"));
            }
            None => return Err(Refusal::new("typed_config", "is required and not set")),
        };
        let except = f
            .filter_disabled
            .as_ref()
            .map(ports)
            .transpose()
            .at("filter_disabled")?
            .unwrap_or_default();
        if any::is::<lf::tls_inspector::TlsInspector>(config) {
            self.tls = Some(except);
        } else if any::is::<lf::http_inspector::HttpInspector>(config) {
            self.http = Some(except);
        } else if !except.0.is_empty() {
            return Err(Refusal::unsupported("filter_disabled"));
        } else if any::is::<lf::original_dst::OriginalDst>(config) {
            self.original_dst = true;
        } else if any::is::<lf::proxy_protocol::ProxyProtocol>(config) {
            let p: lf::proxy_protocol::ProxyProtocol = read(config)?;
            if p.allow_requests_without_proxy_protocol {
                return Err(Refusal::unsupported(
                    "typed_config.allow_requests_without_proxy_protocol",
                ));
            }
            self.proxy_protocol = true;
        } else {
            return Err(Refusal::new(
                "",
                format!(
                    "the listener filter {:?} of type {} is not known here",
                    f.name,
                    any::full_name(&config.type_url)
                ),
            ));
        }
        Ok(())
    }
}

fn read<M: Message + Name + Default>(config: &Any) -> Result<M, Refusal> {
    any::unpack(config).map_err(|e| Refusal::new("typed_config", e.to_string()))
}

/// The ports a predicate is true for.
fn ports(p: &e::ListenerFilterChainMatchPredicate) -> Result<PortRanges, Refusal> {
    use e::listener_filter_chain_match_predicate::Rule as R;
    Ok(match p.rule.as_ref() {
        Some(R::OrMatch(set)) => {
            let mut all = Vec::new();
            for (i, r) in set.rules.iter().enumerate() {
                all.extend(ports(r).nth("or_match.rules", i)?.0);
            }
            union(all)
        }
        Some(R::AndMatch(set)) => {
            let mut missing = Vec::new();
            for (i, r) in set.rules.iter().enumerate() {
                missing.extend(complement(&ports(r).nth("and_match.rules", i)?).0);
            }
            complement(&union(missing))
        }
        Some(R::NotMatch(inner)) => complement(&ports(inner).at("not_match")?),
        Some(R::AnyMatch(_)) => PortRanges(vec![(0, u16::MAX)]),
        Some(R::DestinationPortRange(r)) => {
            let range = (u16::try_from(r.start), u16::try_from(r.end.saturating_sub(1)));
            match range {
                (Ok(first), Ok(last)) if first <= last => PortRanges(vec![(first, last)]),
                _ => {
                    return Err(Refusal::new(
                        "destination_port_range",
                        format!("[{}, {}) is no range of ports", r.start, r.end),
                    ));
                }
            }
        }
        None => return Err(Refusal::new("rule", "is required and not set")),
    })
}

fn union(mut ranges: Vec<(u16, u16)>) -> PortRanges {
    ranges.sort_unstable();
    let mut out: Vec<(u16, u16)> = Vec::with_capacity(ranges.len());
    for (first, last) in ranges {
        match out.last_mut() {
            Some(previous) if u32::from(first) <= u32::from(previous.1) + 1 => {
                previous.1 = previous.1.max(last);
            }
            _ => out.push((first, last)),
        }
    }
    PortRanges(out)
}

fn complement(set: &PortRanges) -> PortRanges {
    let mut out = Vec::new();
    let mut next = 0u32;
    for &(first, last) in &set.0 {
        if next < u32::from(first) {
            out.push((next as u16, first - 1));
        }
        next = u32::from(last) + 1;
    }
    if next <= u32::from(u16::MAX) {
        out.push((next as u16, u16::MAX));
    }
    PortRanges(out)
}

fn chains(list: &[e::FilterChain], listener: &Arc<str>) -> Result<Vec<Arc<FilterChain>>, Refusal> {
    if list.len() > MAX_CHAINS {
        return Err(Refusal::new(
            "filter_chains",
            format!("{} are more than {MAX_CHAINS}", list.len()),
        ));
    }
    let mut seen = std::collections::HashMap::with_capacity(list.len());
    let mut out = Vec::with_capacity(list.len());
    for (i, c) in list.iter().enumerate() {
        let c = chain(c, listener).nth("filter_chains", i)?;
        if let Some(first) = seen.insert(format!("{:?}", c.matches), i) {
            return Err(Refusal::new(
                format!("filter_chains[{i}].filter_chain_match"),
                format!("is the same as that of filter_chains[{first}], so it could never be chosen"),
            ));
        }
        out.push(Arc::new(c));
    }
    Ok(out)
}

fn chain(c: &e::FilterChain, listener: &Arc<str>) -> Result<FilterChain, Refusal> {
    if bool_or(&c.use_proxy_proto, false) {
        return Err(Refusal::new(
            "use_proxy_proto",
            "use the listener filter envoy.filters.listener.proxy_protocol",
        ));
    }
    let because = because(&c.metadata);
    let (rbac, network) = network_filters(&c.filters, listener, because)?;
    Ok(FilterChain {
        name: c.name.as_str().into(),
        matches: c
            .filter_chain_match
            .as_ref()
            .map(chain_match)
            .transpose()
            .at("filter_chain_match")?
            .unwrap_or_default(),
        tls: c
            .transport_socket
            .as_ref()
            .map(tls::downstream)
            .transpose()
            .at("transport_socket")?
            .flatten(),
        rbac,
        network,
    })
}

fn chain_match(m: &e::FilterChainMatch) -> Result<ChainMatch, Refusal> {
    refuse_set!(m; address_suffix, suffix_len, direct_source_prefix_ranges, source_type, source_ports);
    let mut server_names = Vec::with_capacity(m.server_names.len());
    for (i, n) in m.server_names.iter().enumerate() {
        server_names.push(server_name(n).nth("server_names", i)?);
    }
    Ok(ChainMatch {
        destination_port: m
            .destination_port
            .as_ref()
            .map(|p| port("destination_port", p.value))
            .transpose()?,
        destination: cidrs("prefix_ranges", &m.prefix_ranges)?,
        server_names,
        transport: match m.transport_protocol.as_str() {
            "" => None,
            "tls" => Some(Transport::Tls),
            "raw_buffer" => Some(Transport::Raw),
            other => {
                return Err(Refusal::new(
                    "transport_protocol",
                    format!("{other:?} is not known here; tls and raw_buffer are"),
                ));
            }
        },
        application_protocols: m
            .application_protocols
            .iter()
            .map(|p| p.as_bytes().into())
            .collect(),
        source: cidrs("source_prefix_ranges", &m.source_prefix_ranges)?,
    })
}

fn server_name(n: &str) -> Result<Box<str>, Refusal> {
    let lower = n.to_ascii_lowercase();
    let rest = lower.strip_prefix("*.").unwrap_or(&lower);
    if rest.is_empty() || rest.contains('*') {
        return Err(Refusal::new(
            "",
            format!("{n:?} is no server name; '*' may stand only as the whole first label"),
        ));
    }
    Ok(lower.into())
}

fn network_filters(
    filters: &[e::Filter],
    listener: &Arc<str>,
    because: Option<Arc<str>>,
) -> Result<(Vec<Arc<Rbac>>, NetworkFilter), Refusal> {
    let mut rbac = Vec::new();
    let mut terminal = None;
    for (i, f) in filters.iter().enumerate() {
        if terminal.is_some() {
            return Err(Refusal::new(
                format!("filters[{i}]"),
                "stands behind a filter that reads the bytes, which must be the last",
            ));
        }
        match network_filter(f, listener, &because).nth("filters", i)? {
            Known::Rbac(r) => rbac.push(Arc::new(r)),
            Known::Terminal(t) => terminal = Some(t),
            Known::Nothing => {}
        }
    }
    match terminal {
        Some(t) => Ok((rbac, t)),
        None => Err(Refusal::new(
            "filters",
            "the last filter must be envoy.filters.network.tcp_proxy or http_connection_manager",
        )),
    }
}

enum Known {
    Rbac(Rbac),
    Terminal(NetworkFilter),
    Nothing,
}

fn network_filter(f: &e::Filter, listener: &Arc<str>, because: &Option<Arc<str>>) -> Result<Known, Refusal> {
    let config = match f.config_type.as_ref() {
        Some(e::filter::ConfigType::TypedConfig(any)) => any,
        Some(e::filter::ConfigType::ConfigDiscovery(_)) => {
            return Err(Refusal::unsupported("config_discovery"));
        }
        None => return Err(Refusal::new("typed_config", "is required and not set")),
    };
    let at = "typed_config";
    if any::is::<tp::TcpProxy>(config) {
        let t: tp::TcpProxy = read(config)?;
        let tcp = tcp_proxy(&t, because.clone()).at(at)?;
        Ok(Known::Terminal(NetworkFilter::Tcp(tcp)))
    } else if any::is::<hcm::HttpConnectionManager>(config) {
        let h: hcm::HttpConnectionManager = read(config)?;
        let manager = http_manager::wire(&h, listener).at(at)?;
        Ok(Known::Terminal(NetworkFilter::Http(Box::new(manager))))
    } else if any::is::<network_rbac::Rbac>(config) {
        let r: network_rbac::Rbac = read(config)?;
        Rbac::try_from(&r).at(at).map(Known::Rbac)
    } else if f.name.starts_with("istio.") {
        // Metadata exchange and statistics, which the proxy does by itself.
        Ok(Known::Nothing)
    } else {
        Err(Refusal::new(
            "",
            format!(
                "the network filter {:?} of type {} is not known here",
                f.name,
                any::full_name(&config.type_url)
            ),
        ))
    }
}

fn tcp_proxy(t: &tp::TcpProxy, because: Option<Arc<str>>) -> Result<TcpProxy, Refusal> {
    refuse_set!(t; on_demand, metadata_match, tunneling_config, proxy_protocol_tlvs);
    use isthmus_xds::envoy::types::hash_policy::PolicySpecifier;
    let mut hash_source_ip = false;
    for (i, h) in t.hash_policy.iter().enumerate() {
        match h.policy_specifier.as_ref() {
            Some(PolicySpecifier::SourceIp(_)) => hash_source_ip = true,
            _ => return Err(Refusal::unsupported("")).nth("hash_policy", i),
        }
    }
    Ok(TcpProxy {
        clusters: tcp_clusters(t.cluster_specifier.as_ref())?,
        stat_prefix: t.stat_prefix.as_str().into(),
        idle_timeout: timeout("idle_timeout", t.idle_timeout.as_ref(), Some(TCP_IDLE))?,
        max_connect_attempts: number_or(&t.max_connect_attempts, 1).max(1),
        max_duration: timeout(
            "max_downstream_connection_duration",
            t.max_downstream_connection_duration.as_ref(),
            None,
        )?,
        hash_source_ip,
        access_logs: access_log::wire(&t.access_log)?,
        because,
    })
}

fn tcp_clusters(c: Option<&tp::tcp_proxy::ClusterSpecifier>) -> Result<Vec<(Arc<str>, u32)>, Refusal> {
    match c {
        Some(tp::tcp_proxy::ClusterSpecifier::Cluster(c)) => Ok(vec![(name("cluster", c)?, 1)]),
        Some(tp::tcp_proxy::ClusterSpecifier::WeightedClusters(w)) => {
            let mut out = Vec::with_capacity(w.clusters.len());
            for (i, c) in w.clusters.iter().enumerate() {
                if c.metadata_match.is_some() {
                    return Err(Refusal::unsupported("metadata_match")).nth("weighted_clusters.clusters", i);
                }
                let called = name("name", &c.name).nth("weighted_clusters.clusters", i)?;
                out.push((called, c.weight));
            }
            let sum: u64 = out.iter().map(|(_, w)| u64::from(*w)).sum();
            if sum == 0 || sum > u64::from(u32::MAX) {
                return Err(Refusal::new(
                    "weighted_clusters",
                    format!("the weights add up to {sum}; they must to 1 to 4294967295"),
                ));
            }
            Ok(out)
        }
        None => Err(Refusal::new(
            "cluster_specifier",
            "is required: cluster or weighted_clusters",
        )),
    }
}
