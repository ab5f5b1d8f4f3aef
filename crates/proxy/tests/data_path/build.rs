//! Builders of configuration: what a test does not mention is plain and off.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use isthmus_proxy::config::cluster::{
    Balancer, Cluster, Discovery, IsthmusCluster, Limits, OutlierDetection, TransportSocket, UpstreamHttp,
    UpstreamVersion,
};
use isthmus_proxy::config::endpoint::{Address, Endpoint, Endpoints, Health, LocalityEndpoints};
use isthmus_proxy::config::http_filter::HttpFilter;
use isthmus_proxy::config::listener::{
    ChainMatch, ClientCertHeader, Codec, FilterChain, HttpManager, Listener, NetworkFilter, PortRanges,
    Routes, TcpProxy, TrafficDirection,
};
use isthmus_proxy::config::matcher::PathMatch;
use isthmus_proxy::config::route::{
    Action, DomainIndex, Forward, HeaderOperations, RetryOn, RetryPolicy, Route, RouteMatch, RouteTable,
    Target, VirtualHost, WeightedCluster,
};
use isthmus_proxy::config::tls::DownstreamTls;
use isthmus_proxy::state::{Live, Secret};

/// A configuration in the making.
#[derive(Default)]
pub struct Config {
    pub listeners: Vec<Listener>,
    pub clusters: Vec<Cluster>,
    pub endpoints: Vec<Endpoints>,
    pub tables: Vec<RouteTable>,
    pub secrets: HashMap<Arc<str>, Secret>,
}

impl Config {
    pub fn listener(mut self, listener: Listener) -> Self {
        self.listeners.push(listener);
        self
    }

    pub fn cluster(mut self, cluster: Cluster, endpoints: Vec<Endpoint>) -> Self {
        self.endpoints.push(assignment(&cluster.name, vec![endpoints]));
        self.clusters.push(cluster);
        self
    }

    pub fn priorities(mut self, cluster: Cluster, priorities: Vec<Vec<Endpoint>>) -> Self {
        self.endpoints.push(assignment(&cluster.name, priorities));
        self.clusters.push(cluster);
        self
    }

    pub fn routes(mut self, table: RouteTable) -> Self {
        self.tables.push(table);
        self
    }

    pub fn secret(mut self, name: &str, secret: Secret) -> Self {
        self.secrets.insert(name.into(), secret);
        self
    }

    pub fn live(self, version: u64) -> Live {
        Live {
            version,
            listeners: self.listeners.into_iter().map(Arc::new).collect(),
            routes: self
                .tables
                .into_iter()
                .map(|t| (t.name.clone(), Arc::new(t)))
                .collect(),
            endpoints: self
                .endpoints
                .into_iter()
                .map(|e| (e.cluster.clone(), Arc::new(e)))
                .collect(),
            clusters: self
                .clusters
                .into_iter()
                .map(|c| (c.name.clone(), Arc::new(c)))
                .collect(),
            secrets: self.secrets,
        }
    }
}

pub fn assignment(cluster: &str, priorities: Vec<Vec<Endpoint>>) -> Endpoints {
    let localities = priorities
        .into_iter()
        .enumerate()
        .map(|(priority, endpoints)| LocalityEndpoints {
            locality: "".parse().unwrap(),
            priority: priority as u32,
            weight: 0,
            endpoints: endpoints.into_iter().map(Arc::new).collect(),
        });
    Endpoints {
        cluster: cluster.into(),
        localities: localities.collect(),
        overprovisioning: 140,
        drop: 0,
    }
}

pub fn endpoint(address: SocketAddr) -> Endpoint {
    Endpoint {
        address: Address::Socket(address),
        hostname: None,
        weight: 1,
        health: Health::Healthy,
        transport_labels: Vec::new(),
        workload: None,
        gateway: None,
    }
}

pub fn cluster(name: &str) -> Cluster {
    Cluster {
        name: name.into(),
        discovery: Discovery::Eds(name.into()),
        balancer: Balancer::LeastRequest { choices: 2 },
        connect_timeout: Duration::from_secs(10),
        transport: TransportSocket::Raw,
        http: UpstreamHttp {
            version: UpstreamVersion::Http1,
            idle_timeout: Some(Duration::from_secs(3600)),
            max_requests_per_connection: 0,
            max_concurrent_streams: 1024,
            max_connection_duration: None,
        },
        limits: Limits {
            connections: 1024,
            pending: 1024,
            requests: 1024,
            retries: 1024,
        },
        outlier: None,
        source_address: None,
        panic_threshold: 0.0,
        locality_weighted: false,
        service: None,
        isthmus: IsthmusCluster::default(),
        keepalive: None,
    }
}

pub fn outlier() -> OutlierDetection {
    OutlierDetection {
        consecutive_5xx: 3,
        consecutive_gateway_failure: 0,
        consecutive_local_origin_failure: 3,
        split_local_origin: false,
        interval: Duration::from_millis(200),
        base_ejection: Duration::from_millis(1500),
        max_ejection: Duration::from_secs(10),
        max_ejection_percent: 100,
    }
}

pub fn listener(name: &str, address: SocketAddr, chains: Vec<FilterChain>) -> Listener {
    Listener {
        name: name.into(),
        address,
        bind: true,
        use_original_dst: false,
        original_dst: false,
        direction: TrafficDirection::Outbound,
        inspect_tls: false,
        inspect_tls_except: PortRanges::default(),
        inspect_http: false,
        inspect_http_except: PortRanges::default(),
        proxy_protocol: false,
        sniff_timeout: Duration::MAX,
        continue_on_sniff_timeout: false,
        chains: chains.into_iter().map(Arc::new).collect(),
        default_chain: None,
    }
}

pub fn chain(name: &str, network: NetworkFilter) -> FilterChain {
    FilterChain {
        name: name.into(),
        matches: ChainMatch::default(),
        tls: None,
        rbac: Vec::new(),
        network,
    }
}

pub fn terminating(mut chain: FilterChain, tls: &Arc<DownstreamTls>) -> FilterChain {
    chain.tls = Some(tls.clone());
    chain
}

pub fn tcp(cluster: &str) -> NetworkFilter {
    NetworkFilter::Tcp(TcpProxy {
        clusters: vec![(cluster.into(), 1)],
        stat_prefix: cluster.into(),
        idle_timeout: None,
        max_connect_attempts: 1,
        max_duration: None,
        hash_source_ip: false,
        access_logs: Vec::new(),
        because: None,
    })
}

pub fn manager(routes: Routes) -> HttpManager {
    HttpManager {
        stat_prefix: "test".into(),
        codec: Codec::Auto,
        routes,
        filters: Vec::new(),
        client_cert: ClientCertHeader::Sanitize,
        use_remote_address: false,
        trusted_hops: 0,
        upgrades: vec!["websocket".to_owned()],
        stream_idle_timeout: Some(Duration::from_secs(300)),
        request_timeout: None,
        idle_timeout: Some(Duration::from_secs(3600)),
        headers_timeout: None,
        drain_timeout: Duration::from_secs(5),
        max_header_bytes: 60 * 1024,
        max_concurrent_streams: 100,
        server_name: Some("istio-envoy".into()),
        server_header_pass_through: false,
        normalize_path: true,
        merge_slashes: false,
        generate_request_id: true,
        preserve_external_request_id: false,
        accept_http_10: false,
        access_logs: Vec::new(),
        tracing: None,
    }
}

pub fn http(manager: HttpManager) -> NetworkFilter {
    NetworkFilter::Http(Box::new(manager))
}

/// An HTTP chain whose every request goes to one cluster.
pub fn http_to(cluster: &str) -> NetworkFilter {
    http(manager(inline(vec![to(cluster)])))
}

pub fn with_filters(routes: Routes, filters: Vec<HttpFilter>) -> NetworkFilter {
    let mut manager = manager(routes);
    manager.filters = filters;
    http(manager)
}

pub fn inline(routes: Vec<Route>) -> Routes {
    Routes::Inline(Arc::new(table("inline", vec![(vec!["*"], routes)])))
}

pub fn table(name: &str, hosts: Vec<(Vec<&str>, Vec<Route>)>) -> RouteTable {
    let mut domains = DomainIndex::default();
    let mut virtual_hosts = Vec::new();
    for (at, (names, routes)) in hosts.into_iter().enumerate() {
        for name in &names {
            match (name.strip_prefix('*'), name.strip_suffix('*')) {
                (Some(""), _) => domains.any = Some(at),
                (Some(suffix), _) => domains.suffixes.push((suffix.to_owned(), at)),
                (_, Some(prefix)) => domains.prefixes.push((prefix.to_owned(), at)),
                _ => {
                    domains.exact.insert((*name).to_owned(), at);
                }
            }
        }
        virtual_hosts.push(Arc::new(VirtualHost {
            name: names[0].into(),
            routes: routes.into_iter().map(Arc::new).collect(),
            headers: HeaderOperations::default(),
            retry: None,
            require_tls: false,
            include_attempt_count: true,
        }));
    }
    domains.suffixes.sort_by_key(|(s, _)| std::cmp::Reverse(s.len()));
    domains.prefixes.sort_by_key(|(s, _)| std::cmp::Reverse(s.len()));
    RouteTable {
        name: name.into(),
        virtual_hosts,
        domains,
        ignore_port_in_host: false,
        max_direct_response_body: 4096,
        headers: HeaderOperations::default(),
    }
}

pub fn route(matches: RouteMatch, action: Action) -> Route {
    Route {
        name: "".into(),
        matches,
        action,
        headers: HeaderOperations::default(),
        rbac: None,
        fault: None,
        cors: None,
        because: None,
    }
}

pub fn any_path() -> RouteMatch {
    path(PathMatch::Prefix("/".to_owned()))
}

pub fn path(path: PathMatch) -> RouteMatch {
    RouteMatch {
        path,
        case_sensitive: true,
        headers: Vec::new(),
        query: Vec::new(),
        runtime_fraction: None,
        grpc: false,
    }
}

pub fn to(cluster: &str) -> Route {
    route(
        any_path(),
        Action::Forward(Box::new(forward(Target::Cluster(cluster.into())))),
    )
}

pub fn split(weights: &[(&str, u32)]) -> Target {
    let clusters: Vec<_> = weights
        .iter()
        .map(|(name, weight)| WeightedCluster {
            name: (*name).into(),
            weight: *weight,
            headers: HeaderOperations::default(),
            host_rewrite: None,
        })
        .collect();
    Target::Weighted {
        total: clusters.iter().map(|c| c.weight).sum(),
        clusters,
    }
}

pub fn forward(target: Target) -> Forward {
    Forward {
        target,
        timeout: None,
        idle_timeout: None,
        max_grpc_timeout: None,
        retry: None,
        path_rewrite: None,
        host_rewrite: None,
        mirrors: Vec::new(),
        hash_policy: Vec::new(),
        upgrades: Vec::new(),
        cluster_not_found: ::http::StatusCode::SERVICE_UNAVAILABLE,
    }
}

/// Istio's default retries.
pub fn retries() -> Arc<RetryPolicy> {
    Arc::new(RetryPolicy {
        retries: 2,
        on: RetryOn {
            connect_failure: true,
            refused_stream: true,
            grpc_unavailable: true,
            grpc_cancelled: true,
            ..RetryOn::default()
        },
        status_codes: Vec::new(),
        per_try_timeout: None,
        avoid_previous_hosts: true,
        host_selection_attempts: 5,
        backoff_base: Duration::from_millis(5),
        backoff_max: Duration::from_millis(50),
    })
}
