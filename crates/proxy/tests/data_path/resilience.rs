//! Hosts that die, hang, answer badly and come back.

use std::cell::Cell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use isthmus_proxy::config::cluster::{Balancer, Cluster};
use isthmus_proxy::config::endpoint::Endpoint;
use isthmus_proxy::config::route::{Action, RetryOn, RetryPolicy, Target};
use tokio::net::TcpListener;

use crate::build::*;
use crate::client::{get, request};
use crate::net::{Proxy, Server, free, run, until};
use crate::security::{Authority, client_tls, inbound, mesh_cluster, mesh_endpoint};

fn retrying(cluster: &str, policy: RetryPolicy) -> isthmus_proxy::config::route::Route {
    let mut forward = forward(Target::Cluster(cluster.into()));
    forward.retry = Some(policy.into());
    route(any_path(), Action::Forward(Box::new(forward)))
}

fn one(cluster: Cluster, endpoints: Vec<Endpoint>, policy: RetryPolicy) -> (std::net::SocketAddr, Config) {
    let at = free();
    let routes = inline(vec![retrying(&cluster.name, policy)]);
    let config = Config::default()
        .listener(listener("http", at, vec![chain("c", http(manager(routes)))]))
        .cluster(cluster, endpoints);
    (at, config)
}

#[test]
fn a_dead_host_costs_no_request_even_with_a_body() {
    run(async {
        let (alive, dead) = (Server::http1("alive").await, free());
        let (at, config) = one(
            cluster("a"),
            vec![endpoint(dead), endpoint(alive.address)],
            (*retries()).clone(),
        );
        let proxy = Proxy::start(config.live(1)).await;
        for i in 0..40 {
            let body = format!("order {i}");
            let answer = request(at, "POST", "a", "/", &[], &body).await;
            assert_eq!((answer.status, answer.body.as_str()), (200, "alive"));
            assert_eq!(&**alive.is.body.borrow(), body.as_bytes());
        }
        let report = proxy.report().await;
        assert!(
            report
                .endpoints
                .iter()
                .any(|e| e.address == dead && e.connect_failures > 0)
        );
    });
}

#[test]
fn without_retries_the_reason_is_told() {
    run(async {
        let at = free();
        let config = Config::default()
            .listener(listener("http", at, vec![chain("c", http_to("a"))]))
            .cluster(cluster("a"), vec![endpoint(free())]);
        let proxy = Proxy::start(config.live(1)).await;
        let answer = get(at, "a", "/").await;
        assert_eq!(answer.status, 503);
        assert_eq!(
            answer.body,
            "upstream connect error or disconnect/reset before headers. reset reason: remote connection \
             failure, transport failure reason: delayed connect error: Connection refused"
        );
        let flags = [("response_flags", "UF")];
        assert_eq!(proxy.counter("istio_requests_total", &flags).await, 1);
    });
}

#[test]
fn statuses_are_retried_only_when_listed_and_not_for_ever() {
    run(async {
        let (bad, good) = (Server::http1("bad").await, Server::http1("good").await);
        bad.is.status.set(503);
        let policy = RetryPolicy {
            on: RetryOn {
                status_codes: true,
                ..RetryOn::default()
            },
            status_codes: vec![503],
            ..(*retries()).clone()
        };
        let endpoints = vec![endpoint(bad.address), endpoint(good.address)];
        let (at, config) = one(cluster("a"), endpoints, policy.clone());
        let _proxy = Proxy::start(config.live(1)).await;
        for _ in 0..20 {
            assert_eq!(get(at, "a", "/").await.body, "good");
        }
        let (at, config) = one(cluster("a"), vec![endpoint(bad.address)], policy);
        let proxy = Proxy::start(config.live(1)).await;
        let before = bad.seen();
        assert_eq!(get(at, "a", "/").await.status, 503);
        assert_eq!(bad.seen() - before, 3, "the first and two retries");
        let flags = [("response_flags", "URX")];
        assert_eq!(proxy.counter("istio_requests_total", &flags).await, 1);
        assert_eq!(bad.header("x-envoy-attempt-count").as_deref(), Some("3"));
    });
}

#[test]
fn traffic_moves_to_the_next_priority_and_returns() {
    run(async {
        let (near, far) = (Server::http1("near").await, Server::http1("far").await);
        let near_at = near.address;
        let at = free();
        let mut cluster = cluster("a");
        cluster.outlier = Some(outlier());
        let config = Config::default()
            .listener(listener(
                "http",
                at,
                vec![chain(
                    "c",
                    http(manager(inline(vec![retrying("a", (*retries()).clone())]))),
                )],
            ))
            .priorities(
                cluster,
                vec![vec![endpoint(near_at)], vec![endpoint(far.address)]],
            );
        let proxy = Proxy::start(config.live(1)).await;
        for _ in 0..10 {
            assert_eq!(get(at, "a", "/").await.body, "near");
        }
        near.kill();
        until("the port is closed", async || {
            tokio::net::TcpStream::connect(near_at).await.is_err()
        })
        .await;
        for _ in 0..10 {
            assert_eq!(
                get(at, "a", "/").await.body,
                "far",
                "every request is answered while near is dead"
            );
        }
        let ejected = async || {
            proxy
                .report()
                .await
                .endpoints
                .iter()
                .any(|e| e.address == near_at && e.ejected)
        };
        assert!(ejected().await);
        let _back = Server::start("near", near_at, false).await;
        until("near is back", async || get(at, "a", "/").await.body == "near").await;
    });
}

#[test]
fn a_host_that_answers_5xx_is_ejected_and_let_back() {
    run(async {
        let (bad, good) = (Server::http1("bad").await, Server::http1("good").await);
        bad.is.status.set(500);
        let mut cluster = cluster("a");
        cluster.balancer = Balancer::RoundRobin;
        cluster.outlier = Some(outlier());
        let at = free();
        let config = Config::default()
            .listener(listener("http", at, vec![chain("c", http_to("a"))]))
            .cluster(cluster, vec![endpoint(bad.address), endpoint(good.address)]);
        let proxy = Proxy::start(config.live(1)).await;
        for _ in 0..6 {
            get(at, "a", "/").await;
        }
        let is_ejected = async || {
            proxy
                .report()
                .await
                .endpoints
                .iter()
                .any(|e| e.address == bad.address && e.ejected)
        };
        assert_eq!(bad.seen(), 3);
        assert!(is_ejected().await);
        bad.is.status.set(200);
        until("it is let back", async || get(at, "a", "/").await.body == "bad").await;
        assert!(!is_ejected().await);
    });
}

#[test]
fn a_black_hole_is_raced_and_then_avoided() {
    run(async {
        // A queue that is full: the kernel answers no further connection attempt.
        let hole = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        socket2::SockRef::from(&hole).listen(0).unwrap();
        let address = hole.local_addr().unwrap();
        let mut fillers = Vec::new();
        for _ in 0..4 {
            let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
            socket.set_nonblocking(true).unwrap();
            let _ = socket.connect(&address.into());
            fillers.push(socket);
        }
        let good = Server::http1("good").await;
        let mut cluster = cluster("a");
        cluster.isthmus.connect_hedge = Some(Duration::from_millis(100));
        let at = free();
        let config = Config::default()
            .listener(listener("http", at, vec![chain("c", http_to("a"))]))
            .priorities(
                cluster,
                vec![vec![endpoint(address)], vec![endpoint(good.address)]],
            );
        let proxy = Proxy::start(config.live(1)).await;
        let began = Instant::now();
        for _ in 0..20 {
            assert_eq!(get(at, "a", "/").await.body, "good");
        }
        assert!(
            began.elapsed() < Duration::from_secs(9),
            "connect_timeout is 10 s"
        );
        let report = proxy.report().await;
        let hole = report.endpoints.iter().find(|e| e.address == address).unwrap();
        assert_eq!(hole.connections_total, 0);
    });
}

#[test]
fn a_late_answer_is_a_504_and_limits_are_a_503() {
    run(async {
        let slow = Server::http1("slow").await;
        slow.is.delay.set(Duration::from_secs(30));
        let at = free();
        let mut forward = forward(Target::Cluster("a".into()));
        forward.timeout = Some(Duration::from_millis(100));
        let mut narrow = cluster("narrow");
        narrow.limits.requests = 1;
        let limited = route(
            path(isthmus_proxy::config::matcher::PathMatch::Prefix(
                "/narrow".to_owned(),
            )),
            Action::Forward(Box::new(crate::build::forward(Target::Cluster("narrow".into())))),
        );
        let routes = inline(vec![
            limited,
            route(any_path(), Action::Forward(Box::new(forward))),
        ]);
        let config = Config::default()
            .listener(listener("http", at, vec![chain("c", http(manager(routes)))]))
            .cluster(cluster("a"), vec![endpoint(slow.address)])
            .cluster(narrow, vec![endpoint(slow.address)]);
        let proxy = Proxy::start(config.live(1)).await;
        let answer = request(at, "POST", "a", "/", &[], "x").await;
        assert_eq!(
            (answer.status, answer.body.as_str()),
            (504, "upstream request timeout")
        );
        assert_eq!(
            proxy
                .counter("istio_requests_total", &[("response_flags", "UT")])
                .await,
            1
        );
        let first = tokio::task::spawn_local(async move { get(at, "a", "/narrow").await.status });
        until("the first is in flight", async || {
            let report = proxy.report().await;
            report
                .endpoints
                .iter()
                .any(|e| &*e.cluster == "narrow" && e.requests_active == 1)
        })
        .await;
        let second = get(at, "a", "/narrow").await;
        assert_eq!(second.status, 503);
        assert!(second.body.ends_with("reset reason: overflow"), "{}", second.body);
        first.abort();
        assert_eq!(
            proxy
                .counter("istio_requests_total", &[("response_flags", "UO")])
                .await,
            1
        );
    });
}

/// Two remote pods behind one gateway; one answers 500. The connection to it is replaced, the gateway stays.
#[test]
fn a_failing_pod_behind_a_gateway_does_not_eject_the_gateway() {
    run(async {
        let mesh = Authority::new("root");
        let (bad, good) = (Server::http1("bad").await, Server::http1("good").await);
        bad.is.status.set(500);
        let mut behind = Vec::new();
        let mut pods = Vec::new();
        for app in [&bad, &good] {
            let at = free();
            let config = Config::default()
                .listener(inbound(at, || http_to("inbound"), false))
                .cluster(cluster("inbound"), vec![endpoint(app.address)])
                .secret("default", mesh.identity("reviews"))
                .secret("ROOTCA", mesh.roots());
            behind.push(Proxy::start(config.live(1)).await);
            pods.push(endpoint(at));
        }
        let (gateway, at) = (free(), free());
        let mut through = cluster("through");
        through.balancer = Balancer::RoundRobin;
        let crossing = Config::default()
            .listener(listener("crossing", gateway, vec![chain("c", tcp("through"))]))
            .cluster(through, pods);
        let _between = Proxy::start(crossing.live(1)).await;
        let mut remote = mesh_endpoint(gateway);
        remote.gateway = Some(2);
        let mut reviews = mesh_cluster("reviews", client_tls("outbound_.9080_._.reviews", "reviews"));
        reviews.outlier = Some(outlier());
        let config = Config::default()
            .listener(listener("http", at, vec![chain("c", http_to("reviews"))]))
            .cluster(reviews, vec![remote])
            .secret("default", mesh.identity("sleep"))
            .secret("ROOTCA", mesh.roots());
        let front = Proxy::start(config.live(1)).await;
        let good_ones = Rc::new(Cell::new(0));
        for _ in 0..60 {
            if get(at, "reviews", "/").await.body == "good" {
                good_ones.set(good_ones.get() + 1);
            }
        }
        assert!(good_ones.get() >= 20, "{} of 60", good_ones.get());
        let report = front.report().await;
        assert!(!report.endpoints[0].ejected);
        assert!(
            report.endpoints[0].connections_total >= 2,
            "the failing connection was replaced"
        );
    });
}

/// A gateway's address is a balancer in front of three replicas: one refuses, one is silent, one works. While
/// one of them works, the address does: no request fails, not even one that may not be repeated, and nobody
/// is ejected.
#[test]
fn a_gateway_lives_as_long_as_one_of_its_replicas() {
    run(async {
        let (mesh, good) = (Authority::new("root"), Server::http1("good").await);
        let pod = free();
        let config = Config::default()
            .listener(inbound(pod, || http_to("inbound"), false))
            .cluster(cluster("inbound"), vec![endpoint(good.address)])
            .secret("default", mesh.identity("reviews"))
            .secret("ROOTCA", mesh.roots());
        let _behind = Proxy::start(config.live(1)).await;
        let balancer = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let gateway = balancer.local_addr().unwrap();
        tokio::task::spawn_local(async move {
            let mut silent = Vec::new();
            for turn in 0u32.. {
                let (mut stream, _) = balancer.accept().await.unwrap();
                match turn % 3 {
                    0 => drop(stream),
                    1 => silent.push(stream),
                    _ => {
                        tokio::task::spawn_local(async move {
                            let mut to = tokio::net::TcpStream::connect(pod).await.unwrap();
                            let _ = tokio::io::copy_bidirectional(&mut stream, &mut to).await;
                        });
                    }
                }
            }
        });
        let mut reviews = mesh_cluster("reviews", client_tls("outbound_.9080_._.reviews", "reviews"));
        reviews.outlier = Some(outlier());
        reviews.isthmus.connect_hedge = Some(Duration::from_millis(100));
        reviews.connect_timeout = Duration::from_millis(1500);
        reviews.http.max_requests_per_connection = 1;
        let mut remote = mesh_endpoint(gateway);
        remote.gateway = Some(1);
        let at = free();
        let config = Config::default()
            .listener(listener("http", at, vec![chain("c", http_to("reviews"))]))
            .cluster(reviews, vec![remote])
            .secret("default", mesh.identity("sleep"))
            .secret("ROOTCA", mesh.roots());
        let front = Proxy::start(config.live(1)).await;
        // Long enough that dials to the silent replica run into the timeout beside those that succeed.
        for _ in 0..30 {
            let answer = request(at, "POST", "reviews", "/", &[], "x").await;
            assert_eq!((answer.status, answer.body.as_str()), (200, "good"));
        }
        assert!(!front.report().await.endpoints[0].ejected);
    });
}

/// The application is dead, its sidecar is not: the client's proxy knows that nothing was delivered and goes
/// elsewhere, also with a POST.
#[test]
fn a_sidecar_without_its_application_is_passed_over() {
    run(async {
        let (mesh, good) = (Authority::new("root"), Server::http1("good").await);
        let dead = free();
        let mut behind = Vec::new();
        let mut pods = Vec::new();
        for app in [dead, good.address] {
            let at = free();
            let config = Config::default()
                .listener(inbound(at, || http_to("inbound"), false))
                .cluster(cluster("inbound"), vec![endpoint(app)])
                .secret("default", mesh.identity("reviews"))
                .secret("ROOTCA", mesh.roots());
            behind.push(Proxy::start(config.live(1)).await);
            pods.push(mesh_endpoint(at));
        }
        let at = free();
        let config = Config::default()
            .listener(listener(
                "http",
                at,
                vec![chain(
                    "c",
                    http(manager(inline(vec![retrying("reviews", (*retries()).clone())]))),
                )],
            ))
            .cluster(
                mesh_cluster("reviews", client_tls("outbound_.9080_._.reviews", "reviews")),
                pods,
            )
            .secret("default", mesh.identity("sleep"))
            .secret("ROOTCA", mesh.roots());
        let _front = Proxy::start(config.live(1)).await;
        for _ in 0..20 {
            let answer = request(at, "POST", "reviews", "/", &[], "x").await;
            assert_eq!((answer.status, answer.body.as_str()), (200, "good"));
            assert_eq!(answer.header("x-isthmus-not-delivered"), "");
        }
    });
}

/// The application dies with a request in its hands, its sidecar tells: a GET is answered by another pod, a
/// POST may have had its effect and is not sent again.
#[test]
fn an_application_that_dies_behind_its_sidecar_costs_no_get() {
    run(async {
        let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let dying = socket.local_addr().unwrap();
        tokio::task::spawn_local(async move {
            use tokio::io::AsyncReadExt as _;
            loop {
                let (mut stream, _) = socket.accept().await.unwrap();
                let mut request = [0u8; 4096];
                let _ = stream.read(&mut request).await;
            }
        });
        let (mesh, good) = (Authority::new("root"), Server::http1("good").await);
        let mut behind = Vec::new();
        let mut pods = Vec::new();
        for app in [dying, good.address] {
            let at = free();
            let config = Config::default()
                .listener(inbound(at, || http_to("inbound"), false))
                .cluster(cluster("inbound"), vec![endpoint(app)])
                .secret("default", mesh.identity("reviews"))
                .secret("ROOTCA", mesh.roots());
            behind.push(Proxy::start(config.live(1)).await);
            pods.push(mesh_endpoint(at));
        }
        let mut ours = mesh_cluster("reviews", client_tls("outbound_.9080_._.reviews", "reviews"));
        ours.isthmus.unacked_timeout = Some(Duration::from_secs(1));
        ours.balancer = Balancer::RoundRobin;
        let at = free();
        let route = retrying("reviews", (*retries()).clone());
        let config = Config::default()
            .listener(listener(
                "http",
                at,
                vec![chain("c", http(manager(inline(vec![route]))))],
            ))
            .cluster(ours, pods)
            .secret("default", mesh.identity("sleep"))
            .secret("ROOTCA", mesh.roots());
        let _front = Proxy::start(config.live(1)).await;
        for _ in 0..10 {
            assert_eq!(get(at, "reviews", "/").await.body, "good");
        }
        let mut failed = 0;
        for _ in 0..10 {
            let answer = request(at, "POST", "reviews", "/", &[], "x").await;
            assert_eq!(answer.header("x-isthmus-not-delivered"), "");
            failed += u32::from(answer.status == 503);
        }
        assert_eq!(failed, 5, "a POST that was sent is not sent again");
    });
}

/// A server that closes every connection after one answer, without saying so: what was pooled is stale.
#[test]
fn stale_connections_are_no_failures() {
    run(async {
        let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        tokio::task::spawn_local(async move {
            use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
            loop {
                let (mut stream, _) = socket.accept().await.unwrap();
                let mut request = [0u8; 4096];
                let _ = stream.read(&mut request).await;
                let _ = stream
                    .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
                    .await;
            }
        });
        let (at, config) = one(cluster("a"), vec![endpoint(address)], (*retries()).clone());
        let _proxy = Proxy::start(config.live(1)).await;
        for i in 0..50 {
            assert_eq!(get(at, "a", "/").await.body, "ok");
            let answer = request(at, "POST", "a", "/", &[], "order").await;
            assert_eq!(answer.body, "ok", "{i}");
        }
    });
}

/// An application closes idle connections when it likes. A GET that crosses the close is sent again; a POST takes
/// no connection that lay idle for long.
#[test]
fn a_post_takes_no_connection_that_its_application_may_be_closing() {
    run(async {
        let app = Server::http1("app").await;
        let (at, config) = one(cluster("a"), vec![endpoint(app.address)], (*retries()).clone());
        let proxy = Proxy::start(config.live(1)).await;
        let opened = async || proxy.report().await.endpoints[0].connections_total;
        for expected in [1, 1] {
            assert_eq!(get(at, "a", "/").await.status, 200);
            assert_eq!(request(at, "POST", "a", "/", &[], "order").await.status, 200);
            assert_eq!(opened().await, expected, "busy connections are used again");
        }
        tokio::time::sleep(Duration::from_millis(1100)).await;
        assert_eq!(get(at, "a", "/").await.status, 200);
        assert_eq!(opened().await, 1);
        tokio::time::sleep(Duration::from_millis(1100)).await;
        assert_eq!(request(at, "POST", "a", "/", &[], "order").await.status, 200);
        assert_eq!(opened().await, 2);
    });
}

/// A server that takes requests and dies with them: what changes nothing is sent elsewhere, what might is not.
#[test]
fn a_host_that_dies_with_a_request_in_its_hands_costs_no_get() {
    run(async {
        let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let dying = socket.local_addr().unwrap();
        tokio::task::spawn_local(async move {
            use tokio::io::AsyncReadExt as _;
            loop {
                let (mut stream, _) = socket.accept().await.unwrap();
                let mut request = [0u8; 4096];
                let _ = stream.read(&mut request).await;
            }
        });
        let good = Server::http1("good").await;
        let mut ours = cluster("a");
        ours.isthmus.unacked_timeout = Some(Duration::from_secs(1));
        ours.balancer = Balancer::RoundRobin;
        let endpoints = vec![endpoint(dying), endpoint(good.address)];
        let (at, config) = one(ours, endpoints, (*retries()).clone());
        let _proxy = Proxy::start(config.live(1)).await;
        for _ in 0..10 {
            assert_eq!(get(at, "a", "/").await.body, "good");
        }
        let mut failed = 0;
        for _ in 0..10 {
            let answer = request(at, "POST", "a", "/", &[], "x").await;
            if answer.status == 503 {
                assert!(
                    answer.body.ends_with("reset reason: connection termination"),
                    "{}",
                    answer.body
                );
                failed += 1;
            }
        }
        assert_eq!(failed, 5, "a POST that was sent is not sent again");
    });
}
