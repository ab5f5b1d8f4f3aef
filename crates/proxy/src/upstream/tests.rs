use std::collections::HashMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use crate::config::cluster::{
    Balancer, Cluster, Discovery, IsthmusCluster, Limits, TransportSocket, UpstreamHttp, UpstreamVersion,
};
use crate::config::endpoint::{Address, Endpoint, Endpoints, Health, LocalityEndpoints};

use super::hash::xxh64;
use super::host::SlowMark;
use super::rng::Rng;
use super::{ClusterState, Host, PickContext, PickError};

pub fn cluster(balancer: Balancer, locality_weighted: bool) -> Rc<ClusterState> {
    ClusterState::new(Arc::new(Cluster {
        name: "c".into(),
        discovery: Discovery::Eds("c".into()),
        balancer,
        connect_timeout: Duration::from_secs(1),
        transport: TransportSocket::Raw,
        http: UpstreamHttp {
            version: UpstreamVersion::Http1,
            idle_timeout: None,
            max_requests_per_connection: 0,
            max_concurrent_streams: 100,
            max_connection_duration: None,
        },
        limits: Limits {
            connections: 10,
            pending: 10,
            requests: 10,
            retries: 10,
        },
        outlier: None,
        source_address: None,
        panic_threshold: 0.0,
        locality_weighted,
        service: None,
        isthmus: IsthmusCluster::default(),
        keepalive: None,
    }))
}

fn address(last: u8) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, last], 80))
}

/// Priority, locality weight, and hosts as last byte of the address, weight and health.
pub type Given<'a> = (u32, u32, &'a [(u8, u32, Health)]);

pub fn endpoints(localities: &[Given<'_>]) -> Arc<Endpoints> {
    let localities = localities
        .iter()
        .map(|(priority, weight, hosts)| LocalityEndpoints {
            locality: "".parse().unwrap(),
            priority: *priority,
            weight: *weight,
            endpoints: hosts
                .iter()
                .map(|(last, weight, health)| {
                    Arc::new(Endpoint {
                        address: Address::Socket(address(*last)),
                        hostname: None,
                        weight: *weight,
                        health: *health,
                        transport_labels: Vec::new(),
                        workload: None,
                        gateway: None,
                    })
                })
                .collect(),
        });
    Arc::new(Endpoints {
        cluster: "c".into(),
        localities: localities.collect(),
        overprovisioning: 140,
        drop: 0,
    })
}

pub const UP: Health = Health::Healthy;
const DOWN: Health = Health::Unhealthy;

/// Shares of 10,000 picks in percent.
fn shares(cluster: &ClusterState, rng: &Rng) -> HashMap<u8, f64> {
    let mut counts: HashMap<u8, f64> = HashMap::new();
    for _ in 0..10_000 {
        let host = cluster.pick(&PickContext::default(), rng).unwrap();
        let SocketAddr::V4(at) = host.socket_address().unwrap() else {
            panic!("an IPv4 address was given");
        };
        *counts.entry(at.ip().octets()[3]).or_default() += 0.01;
    }
    counts
}

fn near(is: Option<&f64>, expected: f64) -> bool {
    (is.copied().unwrap_or_default() - expected).abs() < 3.0
}

#[test]
fn hosts_share_by_weight_under_every_policy() {
    for balancer in [
        Balancer::RoundRobin,
        Balancer::Random,
        Balancer::LeastRequest { choices: 2 },
    ] {
        let (c, rng) = (cluster(balancer.clone(), false), Rng::new(3));
        c.update(Some(&endpoints(&[(
            0,
            0,
            &[(1, 3, UP), (2, 1, UP), (3, 4, DOWN)],
        )])));
        let shares = shares(&c, &rng);
        assert!(near(shares.get(&1), 75.0), "{balancer:?}: {shares:?}");
        assert!(
            near(shares.get(&2), 25.0) && !shares.contains_key(&3),
            "{balancer:?}: {shares:?}"
        );
    }
}

#[test]
fn the_less_busy_of_two_is_taken() {
    let (c, rng) = (cluster(Balancer::LeastRequest { choices: 2 }, false), Rng::new(3));
    c.update(Some(&endpoints(&[(0, 0, &[(1, 1, UP), (2, 1, UP)])])));
    c.each_host(|h| {
        h.active.set(if h.socket_address() == Some(address(1)) {
            5
        } else {
            0
        })
    });
    assert_eq!(shares(&c, &rng).get(&1), None);
}

#[test]
fn lost_health_spills_over_to_the_next_priority_as_envoy_counts() {
    let (c, rng) = (cluster(Balancer::Random, false), Rng::new(3));
    let set = |health: [Health; 4]| {
        let first: Vec<_> = (1..=4).zip(health).map(|(i, h)| (i, 1, h)).collect();
        c.update(Some(&endpoints(&[(0, 0, &first), (1, 0, &[(9, 1, UP)])])));
        shares(&c, &rng)
    };
    // 3 of 4 times 1.4 is more than all.
    assert_eq!(set([UP, UP, UP, DOWN]).get(&9), None);
    // 2 of 4 times 1.4 is 70 %.
    assert!(near(set([UP, UP, DOWN, DOWN]).get(&9), 30.0));
    assert!(near(set([DOWN; 4]).get(&9), 100.0));
}

#[test]
fn localities_share_by_their_weights_and_health() {
    let (c, rng) = (cluster(Balancer::RoundRobin, true), Rng::new(3));
    c.update(Some(&endpoints(&[
        (0, 80, &[(1, 1, UP)]),
        (0, 20, &[(2, 1, UP)]),
    ])));
    assert!(near(shares(&c, &rng).get(&2), 20.0));
    c.update(Some(&endpoints(&[
        (0, 80, &[(1, 1, DOWN)]),
        (0, 20, &[(2, 1, UP)]),
    ])));
    assert!(near(shares(&c, &rng).get(&2), 100.0));
}

#[test]
fn a_retry_goes_to_a_host_that_was_not_tried_or_the_next_priority() {
    let (c, rng) = (cluster(Balancer::LeastRequest { choices: 2 }, false), Rng::new(3));
    c.update(Some(&endpoints(&[
        (0, 0, &[(1, 1, UP), (2, 1, UP)]),
        (1, 0, &[(9, 1, UP)]),
    ])));
    for _ in 0..200 {
        let mut tried: Vec<Rc<Host>> = Vec::new();
        for _ in 0..3 {
            let context = PickContext {
                tried: &tried,
                ..PickContext::default()
            };
            let host = c.pick(&context, &rng).unwrap();
            assert!(!tried.iter().any(|t| Rc::ptr_eq(t, &host)));
            tried.push(host);
        }
        assert_eq!(tried[2].socket_address(), Some(address(9)));
    }
}

#[test]
fn a_slow_host_is_avoided_only_where_there_is_another() {
    let (c, rng) = (cluster(Balancer::Random, false), Rng::new(3));
    c.update(Some(&endpoints(&[(0, 0, &[(1, 1, UP)]), (1, 0, &[(9, 1, UP)])])));
    let first = c.pick(&PickContext::default(), &rng).unwrap();
    let mark = SlowMark::on(&first);
    c.invalidate();
    assert!(near(shares(&c, &rng).get(&9), 100.0));
    c.update(Some(&endpoints(&[(0, 0, &[(1, 1, UP)])])));
    assert!(near(shares(&c, &rng).get(&1), 100.0));
    drop(mark);
}

#[test]
fn the_same_key_goes_to_the_same_host() {
    for balancer in [
        Balancer::RingHash { min: 1024, max: 8192 },
        Balancer::Maglev { table: 65537 },
    ] {
        let (c, rng) = (cluster(balancer, false), Rng::new(3));
        c.update(Some(&endpoints(&[(0, 0, &[(1, 1, UP), (2, 1, UP), (3, 1, UP)])])));
        for key in 0..50u8 {
            let context = PickContext {
                hash: Some(xxh64(&[key], 0)),
                ..PickContext::default()
            };
            let first = c.pick(&context, &rng).unwrap();
            for _ in 0..5 {
                assert!(Rc::ptr_eq(&first, &c.pick(&context, &rng).unwrap()));
            }
        }
    }
}

#[test]
fn an_empty_and_a_sick_cluster_are_told_apart_and_history_stays() {
    let (c, rng) = (cluster(Balancer::Random, false), Rng::new(3));
    let pick = || c.pick(&PickContext::default(), &rng);
    assert_eq!(pick().unwrap_err(), PickError::NoEndpoint);
    c.update(Some(&endpoints(&[(0, 0, &[(1, 1, DOWN)])])));
    assert_eq!(pick().unwrap_err(), PickError::NoHealthy);
    c.update(Some(&endpoints(&[(0, 0, &[(1, 1, UP)])])));
    let before = pick().unwrap();
    c.update(Some(&endpoints(&[(0, 0, &[(1, 7, UP)])])));
    let after = pick().unwrap();
    assert!(Rc::ptr_eq(&before, &after) && after.weight() == 7);
    c.update(Some(&endpoints(&[(0, 0, &[(2, 1, UP)])])));
    assert!(before.removed.get());
}
