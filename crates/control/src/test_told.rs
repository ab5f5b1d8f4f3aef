//! From YAML to what a proxy is told, for tests.

use std::collections::BTreeMap;
use std::sync::Arc;

use isthmus_api::source::Change;
use isthmus_model::{ClusterId, Labels, SpiffeId};
use isthmus_xds::envoy::cluster::Cluster;
use isthmus_xds::envoy::endpoint::ClusterLoadAssignment;
use isthmus_xds::envoy::google::protobuf::value::Kind;
use isthmus_xds::envoy::hcm::HttpConnectionManager;
use isthmus_xds::envoy::listener::{FilterChain, Listener, filter};
use isthmus_xds::envoy::route::{Route, RouteConfiguration, VirtualHost};
use isthmus_xds::envoy::tcp_proxy::{TcpProxy, tcp_proxy::ClusterSpecifier};
use isthmus_xds::envoy::tls::{UpstreamTlsContext, common_tls_context::ValidationContextType};
use isthmus_xds::envoy::{Struct, core, matcher};
use isthmus_xds::{NameTable, Resources, TypeUrl, unpack};

use crate::generate;
use crate::generate::cache::Cache;
use crate::ingest::store::Store;
use crate::member::{Peer, PeerState};
use crate::mesh::Identity;
use crate::peering::Peers;
use crate::proxy::{ProxyDescription, ProxyKind};
use crate::registry::mesh_hop::ResolvedNames;
use crate::snapshot::Snapshot;
use crate::snapshot::builder::{Builder, Dirty};

/// The control plane of one member cluster, without sockets.
pub(crate) struct Member {
    pub store: Store,
    builder: Builder,
    pub peers: PeerState,
    pub resolved: ResolvedNames,
}

impl Member {
    pub fn new(cluster: &str) -> Self {
        let identity = Identity {
            cluster: cluster.into(),
            network: format!("{cluster}-net").as_str().into(),
            mesh_id: "training-mesh".into(),
            trust_domain: Some("corp.local".parse().unwrap()),
            root_namespace: "istio-system".into(),
        };
        Self {
            store: Store::default(),
            builder: Builder::new(identity, Peers::new(), None),
            peers: PeerState::default(),
            resolved: ResolvedNames::new(),
        }
    }

    /// Another of the same cluster, with the same objects and peers, from the start.
    pub fn like(&self) -> Self {
        Self {
            store: self.store.clone(),
            peers: self.peers.clone(),
            resolved: self.resolved.clone(),
            ..Self::new("us")
        }
    }

    /// Adds objects; they must be valid.
    pub fn apply(&mut self, yaml: &str) -> &mut Self {
        let parsed = isthmus_api::parse(yaml, "test.yaml");
        assert!(!parsed.has_errors(), "{:?}", parsed.findings);
        for object in parsed.objects {
            self.store.apply(Change::Put(object));
        }
        self
    }

    /// Hears what another cluster exports.
    pub fn hear(&mut self, other: &Snapshot) -> &mut Self {
        let state = Arc::clone(&other.registry.exported);
        let cluster = state.head.cluster.clone();
        let heard = std::time::SystemTime::now();
        self.peers.members.insert(
            cluster,
            Peer {
                state,
                connected: true,
                heard,
            },
        );
        self
    }

    pub fn snapshot(&mut self) -> Arc<Snapshot> {
        let kinds = isthmus_api::Kind::ALL.iter().copied().collect();
        self.builder.build(
            &self.store,
            &Arc::new(self.peers.clone()),
            &self.resolved,
            &Dirty { kinds, peers: true },
        )
    }

    /// What the proxy of a pod is told.
    pub fn told(&mut self, kind: ProxyKind, pod: &str) -> Told {
        let snapshot = self.snapshot();
        Told::new(&snapshot, &proxy(&snapshot, kind, pod))
    }
}

/// The proxy of a pod, `name.namespace`.
pub(crate) fn proxy(snapshot: &Snapshot, kind: ProxyKind, pod: &str) -> ProxyDescription {
    let (name, namespace) = pod.split_once('.').unwrap();
    let instance = snapshot.registry.instances.by_name(namespace, name);
    let workload = &instance.unwrap_or_else(|| panic!("no pod {pod}")).workload;
    ProxyDescription {
        id: format!(
            "sidecar~{}~{pod}~{namespace}.svc.cluster.local",
            workload.addresses[0]
        ),
        kind,
        addresses: workload.addresses.clone(),
        name: name.into(),
        namespace: namespace.into(),
        service_account: workload.service_account.clone(),
        identity: Some(SpiffeId::new(
            "corp.local".parse().unwrap(),
            namespace,
            &workload.service_account,
        )),
        labels: Labels::default(),
        cluster: ClusterId::default(),
        network: Default::default(),
        locality: Default::default(),
        dns_capture: true,
        stock_envoy: false,
    }
}

/// What one proxy is told, unpacked.
pub(crate) struct Told {
    pub resources: Arc<Resources>,
    pub findings: Vec<String>,
}

impl Told {
    pub fn new(snapshot: &Snapshot, proxy: &ProxyDescription) -> Self {
        let generated = generate::all(snapshot, proxy, &mut Cache::default());
        Self {
            resources: generated.resources,
            findings: generated.findings.iter().map(ToString::to_string).collect(),
        }
    }

    pub fn names(&self, ty: &TypeUrl) -> Vec<String> {
        self.resources
            .set(ty)
            .map(|s| s.iter().map(|r| r.name.to_string()).collect())
            .unwrap_or_default()
    }

    fn body<M: prost::Message + prost::Name + Default>(&self, ty: &TypeUrl, name: &str) -> M {
        let found = self.resources.set(ty).and_then(|s| s.member(name));
        let found = found.unwrap_or_else(|| panic!("no {name} among {:?}", self.names(ty)));
        unpack(&found.body).unwrap()
    }

    pub fn cluster(&self, name: &str) -> Cluster {
        self.body(&TypeUrl::Cds, name)
    }

    pub fn listener(&self, name: &str) -> Listener {
        self.body(&TypeUrl::Lds, name)
    }

    pub fn table(&self, name: &str) -> RouteConfiguration {
        self.body(&TypeUrl::Rds, name)
    }

    pub fn names_of(&self) -> NameTable {
        self.body(&TypeUrl::Nds, "nametable")
    }

    /// The virtual host that has a domain.
    pub fn host(&self, table: &str, domain: &str) -> VirtualHost {
        let hosts = self.table(table).virtual_hosts;
        let all: Vec<_> = hosts.iter().map(|h| h.domains.clone()).collect();
        let found = hosts.into_iter().find(|h| h.domains.iter().any(|d| d == domain));
        found.unwrap_or_else(|| panic!("no {domain} among {all:?}"))
    }

    /// The routes of the virtual host that has a domain.
    pub fn routes(&self, table: &str, domain: &str) -> Vec<Route> {
        self.host(table, domain).routes
    }

    /// (address, priority, weight) of every endpoint of a cluster.
    pub fn endpoints(&self, cluster: &str) -> Vec<(String, u32, u32)> {
        let assignment: ClusterLoadAssignment = self.body(&TypeUrl::Eds, cluster);
        addresses(&assignment)
    }
}

pub(crate) fn addresses(assignment: &ClusterLoadAssignment) -> Vec<(String, u32, u32)> {
    use isthmus_xds::envoy::endpoint::lb_endpoint::HostIdentifier;
    let mut out = Vec::new();
    for group in &assignment.endpoints {
        for endpoint in &group.lb_endpoints {
            let Some(HostIdentifier::Endpoint(inner)) = &endpoint.host_identifier else {
                panic!("no endpoint")
            };
            let weight = endpoint.load_balancing_weight.unwrap().value;
            out.push((address(inner.address.as_ref().unwrap()), group.priority, weight));
        }
    }
    out
}

pub(crate) fn address(address: &core::Address) -> String {
    use core::socket_address::PortSpecifier;
    match address.address.as_ref().unwrap() {
        core::address::Address::SocketAddress(s) => match s.port_specifier {
            Some(PortSpecifier::PortValue(port)) => format!("{}:{port}", s.address),
            _ => s.address.clone(),
        },
        other => panic!("{other:?}"),
    }
}

/// The TLS context of a cluster's socket, or of its match for mesh mTLS.
pub(crate) fn upstream_tls(cluster: &Cluster) -> UpstreamTlsContext {
    let matched = cluster
        .transport_socket_matches
        .iter()
        .find(|m| m.name == "tlsMode-istio");
    let socket = cluster
        .transport_socket
        .as_ref()
        .or_else(|| matched?.transport_socket.as_ref());
    let core::transport_socket::ConfigType::TypedConfig(any) =
        socket.and_then(|s| s.config_type.as_ref()).expect("no TLS");
    unpack(any).unwrap()
}

/// Names that a server must prove one of.
pub(crate) fn sans(context: &UpstreamTlsContext) -> Vec<String> {
    let common = context.common_tls_context.as_ref().unwrap();
    let Some(ValidationContextType::CombinedValidationContext(combined)) = &common.validation_context_type
    else {
        panic!("not verified")
    };
    let names = &combined
        .default_validation_context
        .as_ref()
        .unwrap()
        .match_typed_subject_alt_names;
    names
        .iter()
        .map(|n| text_of(n.matcher.as_ref().unwrap()))
        .collect()
}

/// A matcher in words.
pub(crate) fn text_of(matcher: &matcher::StringMatcher) -> String {
    use matcher::string_matcher::MatchPattern as P;
    match matcher.match_pattern.as_ref().unwrap() {
        P::Exact(s) => format!("={s}"),
        P::Prefix(s) => format!("{s}*"),
        P::Suffix(s) => format!("*{s}"),
        P::SafeRegex(r) => format!("~{}", r.regex),
        other => panic!("{other:?}"),
    }
}

/// A text field of `filter_metadata[namespace]`.
pub(crate) fn metadata<'a>(
    metadata: Option<&'a core::Metadata>,
    namespace: &str,
    field: &str,
) -> Option<&'a Kind> {
    let space: &Struct = metadata?.filter_metadata.get(namespace)?;
    space.fields.get(field)?.kind.as_ref()
}

/// The chain with a name.
pub(crate) fn chain<'a>(listener: &'a Listener, name: &str) -> &'a FilterChain {
    let names: Vec<_> = listener.filter_chains.iter().map(|c| &c.name).collect();
    let mut all = listener
        .filter_chains
        .iter()
        .chain(&listener.default_filter_chain);
    all.find(|c| c.name == name)
        .unwrap_or_else(|| panic!("no {name} among {names:?}"))
}

/// The last filter of a chain, as TCP clusters and weights.
pub(crate) fn tcp_clusters(chain: &FilterChain) -> Vec<(String, u32)> {
    let Some(filter::ConfigType::TypedConfig(any)) = &chain.filters.last().unwrap().config_type else {
        panic!()
    };
    let proxy: TcpProxy = unpack(any).unwrap();
    match proxy.cluster_specifier.unwrap() {
        ClusterSpecifier::Cluster(name) => vec![(name, 1)],
        ClusterSpecifier::WeightedClusters(w) => w.clusters.into_iter().map(|c| (c.name, c.weight)).collect(),
    }
}

/// The last filter of a chain, as an HTTP connection manager.
pub(crate) fn http_manager(chain: &FilterChain) -> HttpConnectionManager {
    let Some(filter::ConfigType::TypedConfig(any)) = &chain.filters.last().unwrap().config_type else {
        panic!()
    };
    unpack(any).unwrap()
}

/// Clusters of a route by weight.
pub(crate) fn route_clusters(route: &Route) -> BTreeMap<String, u32> {
    use isthmus_xds::envoy::route::route::Action;
    use isthmus_xds::envoy::route::route_action::ClusterSpecifier as C;
    let Some(Action::Route(action)) = &route.action else {
        panic!("{route:?}")
    };
    match action.cluster_specifier.as_ref().unwrap() {
        C::Cluster(name) => BTreeMap::from([(name.clone(), 100)]),
        C::WeightedClusters(w) => w
            .clusters
            .iter()
            .map(|c| (c.name.clone(), c.weight.unwrap().value))
            .collect(),
        other => panic!("{other:?}"),
    }
}

/// A pod with a sidecar.
pub(crate) fn pod(name: &str, namespace: &str, ip: &str, node: &str, labels: &str) -> String {
    format!(
        "
---
apiVersion: v1
kind: Pod
metadata:
  name: {name}
  namespace: {namespace}
  labels: {{security.istio.io/tlsMode: istio, {labels}}}
spec:
  nodeName: {node}
  serviceAccountName: {}
  containers: [{{name: app, image: app}}]
status: {{phase: Running, podIP: {ip}, conditions: [{{type: Ready, status: 'True'}}]}}
",
        name.split('-').next().unwrap_or(name)
    )
}

/// A Service of one port with a selector `app: NAME`.
pub(crate) fn service(name: &str, namespace: &str, ip: &str, port: &str) -> String {
    format!(
        "
---
apiVersion: v1
kind: Service
metadata: {{name: {name}, namespace: {namespace}}}
spec: {{clusterIP: {ip}, selector: {{app: {name}}}, ports: [{port}]}}
"
    )
}

/// A node in a region and zone.
pub(crate) fn node(name: &str, region: &str, zone: &str) -> String {
    format!(
        "
---
apiVersion: v1
kind: Node
metadata:
  name: {name}
  labels: {{topology.kubernetes.io/region: {region}, topology.kubernetes.io/zone: {zone}}}
"
    )
}

/// An east-west gateway with a public address.
pub(crate) fn east_west(ip: &str, address: &str, node: &str) -> String {
    let mut yaml = pod("eastwest-1", "istio-system", ip, node, "istio: eastwestgateway");
    yaml.push_str(&format!(
        "
---
apiVersion: v1
kind: Service
metadata: {{name: istio-eastwestgateway, namespace: istio-system, labels: {{istio: eastwestgateway}}}}
spec:
  type: LoadBalancer
  clusterIP: 10.0.255.1
  selector: {{istio: eastwestgateway}}
  ports: [{{name: tls, port: 15443}}]
status: {{loadBalancer: {{ingress: [{{ip: {address}}}]}}}}
"
    ));
    yaml
}

/// The eu cluster of the tests: reviews and echo, one pod each, and an east-west gateway.
pub(crate) fn eu() -> Arc<Snapshot> {
    let mut eu = Member::new("eu");
    eu.apply(&node("eu-1", "eu", "eu-a"))
        .apply(&service(
            "reviews",
            "default",
            "10.1.0.1",
            "{name: http, port: 9080}",
        ))
        .apply(&pod(
            "reviews-v2",
            "default",
            "10.1.1.1",
            "eu-1",
            "app: reviews, version: v2",
        ))
        .apply(&pod(
            "reviews-v3",
            "default",
            "10.1.1.2",
            "eu-1",
            "app: reviews, version: v3",
        ))
        .apply(&service(
            "echo",
            "echo",
            "10.1.0.2",
            "{name: http, port: 80, targetPort: 8080}",
        ))
        .apply(&pod("echo-1", "echo", "10.1.1.3", "eu-1", "app: echo"))
        .apply(&service(
            "httpbin",
            "bar",
            "10.1.0.3",
            "{name: http, port: 8000, targetPort: 80}",
        ))
        .apply(&pod("httpbin-1", "bar", "10.1.1.4", "eu-1", "app: httpbin"))
        .apply(&east_west("10.1.1.9", "198.51.100.20", "eu-1"));
    eu.snapshot()
}

/// The us cluster of the tests: sleep, reviews v1, and what eu told.
pub(crate) fn us() -> Member {
    let mut us = Member::new("us");
    us.apply(&node("us-1", "us", "us-a"))
        .apply(&service("sleep", "default", "10.0.0.5", "{name: http, port: 80}"))
        .apply(&pod("sleep-1", "default", "10.0.1.5", "us-1", "app: sleep"))
        .apply(&service(
            "reviews",
            "default",
            "10.0.0.1",
            "{name: http, port: 9080}",
        ))
        .apply(&pod(
            "reviews-v1",
            "default",
            "10.0.1.1",
            "us-1",
            "app: reviews, version: v1",
        ))
        .apply(&east_west("10.0.1.9", "198.51.100.10", "us-1"))
        .hear(&eu());
    us
}
