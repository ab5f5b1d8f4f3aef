use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use isthmus_xds::client::Received;
use isthmus_xds::envoy::{cluster, core, endpoint, hcm, http_filters, listener, route, tcp_proxy, tls};
use isthmus_xds::{TypeUrl, pack};
use prost::{Message, Name};

use super::cascade::{Change, State};
use super::references::Lookup;
use super::resolution::Answer;
use super::{Live, Rejection, Roots, Secret, warming::PATIENCE};
use crate::config::cluster::AddressFamily;
use crate::config::endpoint::Address;

fn received<M: Message + Name>(name: &str, message: &M) -> Received {
    Received {
        name: name.into(),
        version: "1".into(),
        body: pack(message),
    }
}

/// A proxy under test: resources come in, the configuration in use comes out.
#[derive(Default)]
struct Proxy {
    state: State,
    now: Option<Instant>,
}

impl Proxy {
    fn send(&mut self, ty: TypeUrl, added: Vec<Received>) -> Vec<Rejection> {
        self.change(ty, added, &[])
    }

    fn change(&mut self, ty: TypeUrl, added: Vec<Received>, removed: &[&str]) -> Vec<Rejection> {
        let removed: Vec<Arc<str>> = removed.iter().map(|n| Arc::from(*n)).collect();
        let change = Change {
            ty: &ty,
            added: &added,
            removed: &removed,
            version: "v",
        };
        self.state.apply(change, SystemTime::UNIX_EPOCH)
    }

    fn live(&mut self) -> Arc<Live> {
        let now = *self.now.get_or_insert_with(Instant::now);
        self.state.settle(now);
        self.state.live().clone()
    }

    fn later(&mut self, by: Duration) {
        self.now = Some(self.now.unwrap_or_else(Instant::now) + by);
    }
}

fn address(ip: &str, port: u32) -> core::Address {
    core::Address {
        address: Some(core::address::Address::SocketAddress(core::SocketAddress {
            address: ip.into(),
            port_specifier: Some(core::socket_address::PortSpecifier::PortValue(port)),
            ..Default::default()
        })),
    }
}

fn eds_cluster(name: &str) -> cluster::Cluster {
    cluster::Cluster {
        name: name.into(),
        cluster_discovery_type: Some(cluster::cluster::ClusterDiscoveryType::Type(3)),
        eds_cluster_config: Some(Default::default()),
        ..Default::default()
    }
}

fn assignment(name: &str, addresses: &[&str]) -> endpoint::ClusterLoadAssignment {
    let lb_endpoints = addresses
        .iter()
        .map(|a| endpoint::LbEndpoint {
            host_identifier: Some(endpoint::lb_endpoint::HostIdentifier::Endpoint(
                endpoint::Endpoint {
                    address: Some(address(a, 9080)),
                    ..Default::default()
                },
            )),
            ..Default::default()
        })
        .collect();
    endpoint::ClusterLoadAssignment {
        cluster_name: name.into(),
        endpoints: vec![endpoint::LocalityLbEndpoints {
            lb_endpoints,
            ..Default::default()
        }],
        ..Default::default()
    }
}

fn dns_cluster(name: &str, host: &str) -> cluster::Cluster {
    cluster::Cluster {
        name: name.into(),
        cluster_discovery_type: Some(cluster::cluster::ClusterDiscoveryType::Type(1)),
        load_assignment: Some(assignment(name, &[host])),
        dns_lookup_family: cluster::cluster::DnsLookupFamily::V4Only as i32,
        ..Default::default()
    }
}

fn with_filter(name: &str, port: u32, filter: listener::Filter) -> listener::Listener {
    listener::Listener {
        name: name.into(),
        address: Some(address("0.0.0.0", port)),
        filter_chains: vec![listener::FilterChain {
            filters: vec![filter],
            ..Default::default()
        }],
        ..Default::default()
    }
}

fn tcp_listener(name: &str, port: u32) -> listener::Listener {
    let tcp = tcp_proxy::TcpProxy {
        stat_prefix: "tcp".into(),
        cluster_specifier: Some(tcp_proxy::tcp_proxy::ClusterSpecifier::Cluster("a".into())),
        ..Default::default()
    };
    with_filter(name, port, filter(&tcp))
}

fn rds_listener(name: &str, port: u32, routes: &str) -> listener::Listener {
    let router = hcm::HttpFilter {
        name: "envoy.filters.http.router".into(),
        config_type: Some(hcm::http_filter::ConfigType::TypedConfig(pack(
            &http_filters::router::Router::default(),
        ))),
        ..Default::default()
    };
    let manager = hcm::HttpConnectionManager {
        stat_prefix: "http".into(),
        http_filters: vec![router],
        route_specifier: Some(hcm::http_connection_manager::RouteSpecifier::Rds(hcm::Rds {
            route_config_name: routes.into(),
            ..Default::default()
        })),
        ..Default::default()
    };
    with_filter(name, port, filter(&manager))
}

fn filter<M: Message + Name>(config: &M) -> listener::Filter {
    listener::Filter {
        name: "filter".into(),
        config_type: Some(listener::filter::ConfigType::TypedConfig(pack(config))),
    }
}

fn table(name: &str) -> route::RouteConfiguration {
    route::RouteConfiguration {
        name: name.into(),
        ..Default::default()
    }
}

#[test]
fn a_cluster_is_used_once_its_endpoints_have_come() {
    let mut proxy = Proxy::default();
    proxy.send(TypeUrl::Cds, vec![received("a", &eds_cluster("a"))]);
    assert!(proxy.live().clusters.is_empty());
    assert!(proxy.state.wanted().endpoints.contains("a"));

    proxy.send(TypeUrl::Eds, vec![received("a", &assignment("a", &["10.0.0.1"]))]);
    let live = proxy.live();
    assert!(live.clusters.contains_key("a"));
    assert_eq!(live.endpoints["a"].localities[0].endpoints.len(), 1);
}

#[test]
fn a_changed_cluster_does_not_wait_for_endpoints_that_are_there() {
    let mut proxy = Proxy::default();
    proxy.send(TypeUrl::Cds, vec![received("a", &eds_cluster("a"))]);
    proxy.send(TypeUrl::Eds, vec![received("a", &assignment("a", &["10.0.0.1"]))]);
    proxy.live();
    let mut changed = eds_cluster("a");
    changed.connect_timeout = Some(isthmus_xds::envoy::Duration { seconds: 7, nanos: 0 });
    proxy.send(TypeUrl::Cds, vec![received("a", &changed)]);
    assert_eq!(proxy.live().clusters["a"].connect_timeout, Duration::from_secs(7));
}

#[test]
fn what_never_comes_is_not_waited_for_longer_than_envoy_does() {
    let mut proxy = Proxy::default();
    proxy.send(TypeUrl::Cds, vec![received("a", &eds_cluster("a"))]);
    proxy.send(TypeUrl::Lds, vec![received("l", &rds_listener("l", 80, "80"))]);
    assert!(proxy.live().listeners.is_empty());
    assert!(proxy.state.deadline().is_some());
    proxy.later(PATIENCE - Duration::from_millis(1));
    assert!(proxy.live().clusters.is_empty());
    proxy.later(Duration::from_millis(1));
    let live = proxy.live();
    assert!(live.clusters.contains_key("a"));
    assert_eq!(live.listeners.len(), 1);
    assert_eq!(proxy.state.deadline(), None);
}

#[test]
fn a_listener_waits_for_its_routes_and_the_old_one_serves_meanwhile() {
    let mut proxy = Proxy::default();
    proxy.send(TypeUrl::Lds, vec![received("l", &tcp_listener("l", 80))]);
    let before = proxy.live().listeners[0].clone();

    proxy.send(TypeUrl::Lds, vec![received("l", &rds_listener("l", 80, "80"))]);
    assert!(Arc::ptr_eq(&proxy.live().listeners[0], &before));
    proxy.send(TypeUrl::Rds, vec![received("80", &table("80"))]);
    let live = proxy.live();
    assert!(!Arc::ptr_eq(&live.listeners[0], &before));
    assert!(live.routes.contains_key("80"));

    // With the listener its routes go.
    proxy.change(TypeUrl::Lds, vec![], &["l"]);
    assert!(proxy.live().routes.is_empty());
}

#[test]
fn routes_that_do_not_exist_are_not_waited_for() {
    let mut proxy = Proxy::default();
    proxy.send(TypeUrl::Lds, vec![received("l", &rds_listener("l", 80, "80"))]);
    assert!(proxy.live().listeners.is_empty());
    proxy.change(TypeUrl::Rds, vec![], &["80"]);
    assert_eq!(proxy.live().listeners.len(), 1);
}

#[test]
fn a_bad_resource_is_refused_by_name_and_its_last_good_version_stays() {
    let mut proxy = Proxy::default();
    let good = |name: &str| {
        let mut c = eds_cluster(name);
        c.cluster_discovery_type = Some(cluster::cluster::ClusterDiscoveryType::Type(0));
        c.load_assignment = Some(assignment(name, &["10.0.0.1"]));
        c
    };
    assert_eq!(proxy.send(TypeUrl::Cds, vec![received("a", &good("a"))]), vec![]);
    let before = proxy.live().clusters["a"].clone();

    let mut bad = good("a");
    bad.health_checks = vec![Default::default()];
    let refused = proxy.send(TypeUrl::Cds, vec![received("a", &bad), received("b", &good("b"))]);
    assert_eq!(refused.len(), 1);
    assert_eq!(&*refused[0].name, "a");
    assert!(
        refused[0].reason.starts_with("health_checks:"),
        "{}",
        refused[0].reason
    );
    let live = proxy.live();
    assert!(Arc::ptr_eq(&live.clusters["a"], &before));
    assert!(live.clusters.contains_key("b"));
    assert!(proxy.state.clusters.refused().contains_key("a"));

    proxy.send(TypeUrl::Cds, vec![received("a", &good("a"))]);
    assert!(proxy.state.clusters.refused().is_empty());
}

#[test]
fn a_name_that_is_not_the_resources_own_is_refused() {
    let mut proxy = Proxy::default();
    let refused = proxy.send(TypeUrl::Cds, vec![received("other", &eds_cluster("a"))]);
    assert_eq!(&*refused[0].name, "other");
    // In state of the world the name stands within alone.
    let mut nameless = eds_cluster("bad");
    nameless.health_checks = vec![Default::default()];
    let refused = proxy.send(TypeUrl::Cds, vec![received("", &nameless)]);
    assert_eq!(&*refused[0].name, "bad");
}

#[test]
fn two_listeners_cannot_have_one_address() {
    let mut proxy = Proxy::default();
    let refused = proxy.send(
        TypeUrl::Lds,
        vec![
            received("first", &tcp_listener("first", 80)),
            received("second", &tcp_listener("second", 80)),
        ],
    );
    assert_eq!(&*refused[0].name, "second");
    assert!(refused[0].reason.contains("first"), "{}", refused[0].reason);
    // A renamed one takes the address over within one update.
    let refused = proxy.change(
        TypeUrl::Lds,
        vec![received("third", &tcp_listener("third", 80))],
        &["first"],
    );
    assert_eq!(refused, vec![]);
}

#[test]
fn nothing_new_makes_no_new_configuration_and_the_rest_is_shared() {
    let mut proxy = Proxy::default();
    proxy.send(TypeUrl::Cds, vec![received("a", &eds_cluster("a"))]);
    proxy.send(TypeUrl::Eds, vec![received("a", &assignment("a", &["10.0.0.1"]))]);
    let first = proxy.live();
    proxy.send(TypeUrl::Cds, vec![received("a", &eds_cluster("a"))]);
    let second = proxy.live();
    assert!(Arc::ptr_eq(&first, &second));

    proxy.send(
        TypeUrl::Eds,
        vec![received("a", &assignment("a", &["10.0.0.1", "10.0.0.2"]))],
    );
    let third = proxy.live();
    assert_eq!(third.version, second.version + 1);
    assert!(Arc::ptr_eq(&third.clusters["a"], &second.clusters["a"]));
    assert!(!Arc::ptr_eq(&third.endpoints["a"], &second.endpoints["a"]));
}

#[test]
fn names_become_addresses_and_a_failure_keeps_the_last_ones() {
    let mut proxy = Proxy::default();
    proxy.send(
        TypeUrl::Cds,
        vec![received("gw", &dns_cluster("gw", "eu-gw.example"))],
    );
    let lookup = Lookup {
        host: "eu-gw.example".into(),
        family: AddressFamily::V4,
    };
    assert!(proxy.state.wanted().lookups.contains_key(&lookup));
    assert!(proxy.live().clusters.is_empty());

    let answer = |result: Result<&[&str], &str>| Answer {
        lookup: lookup.clone(),
        result: result
            .map(|ips| ips.iter().map(|i| i.parse::<IpAddr>().unwrap()).collect())
            .map_err(str::to_owned),
    };
    proxy
        .state
        .resolved(answer(Ok(&["198.51.100.2", "198.51.100.3"])));
    let live = proxy.live();
    let endpoints = &live.endpoints["gw"].localities[0].endpoints;
    assert_eq!(endpoints.len(), 2);
    assert_eq!(
        endpoints[0].address,
        Address::Socket("198.51.100.2:9080".parse().unwrap())
    );
    assert_eq!(endpoints[0].hostname.as_deref(), Some("eu-gw.example"));

    proxy.state.resolved(answer(Err("no upstream resolver answered")));
    assert!(Arc::ptr_eq(&proxy.live(), &live));
    proxy.state.resolved(answer(Ok(&["198.51.100.9"])));
    assert_eq!(proxy.live().endpoints["gw"].localities[0].endpoints.len(), 1);
}

#[test]
fn a_name_that_cannot_be_resolved_does_not_hold_its_cluster_back() {
    let mut proxy = Proxy::default();
    proxy.send(
        TypeUrl::Cds,
        vec![received("gw", &dns_cluster("gw", "gone.example"))],
    );
    proxy.live();
    proxy.state.resolved(Answer {
        lookup: Lookup {
            host: "gone.example".into(),
            family: AddressFamily::V4,
        },
        result: Err("does not exist".into()),
    });
    let live = proxy.live();
    assert!(live.clusters.contains_key("gw"));
    assert!(live.endpoints["gw"].localities[0].endpoints.is_empty());
}

#[test]
fn a_renewed_certificate_changes_the_secret_and_nothing_else() {
    let mut proxy = Proxy::default();
    let mut secure = eds_cluster("a");
    let sds = |name: &str| tls::SdsSecretConfig {
        name: name.into(),
        ..Default::default()
    };
    let context = tls::UpstreamTlsContext {
        common_tls_context: Some(tls::CommonTlsContext {
            tls_certificate_sds_secret_configs: vec![sds("default")],
            validation_context_type: Some(
                tls::common_tls_context::ValidationContextType::ValidationContextSdsSecretConfig(sds(
                    "ROOTCA",
                )),
            ),
            ..Default::default()
        }),
        ..Default::default()
    };
    secure.transport_socket = Some(core::TransportSocket {
        name: "tls".into(),
        config_type: Some(core::transport_socket::ConfigType::TypedConfig(pack(&context))),
    });
    proxy.send(TypeUrl::Cds, vec![received("a", &secure)]);
    proxy.send(TypeUrl::Eds, vec![received("a", &assignment("a", &["10.0.0.1"]))]);
    assert!(proxy.live().clusters.is_empty(), "waits for its secrets");
    assert!(
        proxy.state.wanted().secrets.is_empty(),
        "they are not the control plane's"
    );

    let roots = |serial: u8| {
        Secret::Roots(Arc::new(Roots {
            certificates: vec![vec![serial].into()],
        }))
    };
    proxy.state.set_secret("ROOTCA", roots(1));
    proxy.state.set_secret("default", roots(1));
    let before = proxy.live();
    assert!(before.clusters.contains_key("a"));
    proxy.state.set_secret("default", roots(2));
    let after = proxy.live();
    assert_eq!(after.version, before.version + 1);
    assert!(Arc::ptr_eq(&after.clusters["a"], &before.clusters["a"]));
    assert!(after.secrets["ROOTCA"].is(&before.secrets["ROOTCA"]));
    assert!(!after.secrets["default"].is(&before.secrets["default"]));
}

#[test]
fn the_control_plane_cannot_replace_the_workloads_own_certificate() {
    let mut proxy = Proxy::default();
    let secret = tls::Secret {
        name: "default".into(),
        ..Default::default()
    };
    let refused = proxy.send(TypeUrl::Sds, vec![received("default", &secret)]);
    assert_eq!(&*refused[0].name, "default");
}

#[test]
fn the_bootstraps_resources_are_not_the_control_planes_to_remove() {
    let mut proxy = Proxy::default();
    let mut fixed = eds_cluster("local");
    fixed.cluster_discovery_type = Some(cluster::cluster::ClusterDiscoveryType::Type(0));
    fixed.load_assignment = Some(assignment("local", &["127.0.0.1"]));
    proxy.state.fix(pack(&fixed), SystemTime::UNIX_EPOCH).unwrap();
    proxy.change(TypeUrl::Cds, vec![], &["local"]);
    assert!(proxy.live().clusters.contains_key("local"));
}
