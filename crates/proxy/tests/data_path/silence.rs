//! Upstreams whose packets are dropped: the kernel below them acknowledges nothing any more.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use isthmus_proxy::config::cluster::{Cluster, UpstreamVersion};
use isthmus_proxy::config::endpoint::Endpoint;
use isthmus_proxy::config::route::{Action, Target};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::build::*;
use crate::client::{get, request};
use crate::net::{Proxy, Server, free, run, until};

/// Longer than a test takes: what ends sooner did so for another reason.
const FOR_EVER: Duration = Duration::from_secs(1000);

/// A cluster as our control plane makes them.
fn watched(unacked_timeout: Duration) -> Cluster {
    let mut cluster = cluster("a");
    cluster.connect_timeout = FOR_EVER;
    cluster.isthmus.connect_hedge = Some(Duration::from_millis(100));
    cluster.isthmus.unacked_timeout = Some(unacked_timeout);
    cluster
}

/// A proxy whose every request goes to the cluster and may be retried.
async fn proxy(cluster: Cluster, priorities: Vec<Vec<Endpoint>>) -> (SocketAddr, Proxy) {
    let at = free();
    let mut forward = forward(Target::Cluster(cluster.name.clone()));
    forward.retry = Some(retries());
    let routes = inline(vec![route(any_path(), Action::Forward(Box::new(forward)))]);
    let config = Config::default()
        .listener(listener("http", at, vec![chain("c", http(manager(routes)))]))
        .priorities(cluster, priorities);
    (at, Proxy::start(config.live(1)).await)
}

async fn post(to: SocketAddr) -> crate::client::Answer {
    request(to, "POST", "a", "/", &[], "order").await
}

#[test]
fn a_silent_host_is_left_long_before_its_connection_is_dead_and_returned_to() {
    run(async {
        for http2 in [false, true] {
            let near = Server::start("near", free(), http2).await;
            let far = Server::start("far", free(), http2).await;
            let mut cluster = watched(FOR_EVER);
            if http2 {
                cluster.http.version = UpstreamVersion::Http2;
            }
            let priorities = vec![vec![endpoint(near.address)], vec![endpoint(far.address)]];
            let (at, _proxy) = proxy(cluster, priorities).await;
            for _ in 0..5 {
                assert_eq!(get(at, "a", "/").await.body, "near");
            }
            near.black_hole();
            // It went over a pooled connection into silence, and is moved.
            assert_eq!(get(at, "a", "/").await.body, "far");
            // From here on nobody goes there, not even what could not be moved.
            for _ in 0..20 {
                assert_eq!(post(at).await.body, "far");
            }
            near.mend();
            until("near is back", async || get(at, "a", "/").await.body == "near").await;
        }
    });
}

#[test]
fn what_may_have_had_its_effect_fails_with_its_connection_and_never_arrives_later() {
    run(async {
        let (near, far) = (Server::http1("near").await, Server::http1("far").await);
        let priorities = vec![vec![endpoint(near.address)], vec![endpoint(far.address)]];
        let (at, proxy) = proxy(watched(Duration::from_millis(300)), priorities).await;
        assert_eq!(post(at).await.body, "near");
        near.black_hole();
        let answer = post(at).await;
        assert_eq!(answer.status, 503);
        assert!(
            answer
                .body
                .ends_with("transport failure reason: what was sent is not acknowledged"),
            "{}",
            answer.body
        );
        let flags = [("response_flags", "UC")];
        assert_eq!(proxy.counter("istio_requests_total", &flags).await, 1);
        assert_eq!((near.seen(), far.seen()), (1, 0), "it is sent nowhere else");
        near.mend();
        until("near is back", async || get(at, "a", "/").await.body == "near").await;
        let posts = near.is.last.borrow().as_ref().map(|head| head.method.clone());
        assert_eq!(posts, Some(http::Method::GET));
        assert_eq!(near.seen(), 2, "the POST that failed did not arrive after all");
    });
}

#[test]
fn an_application_that_takes_its_time_is_not_silent() {
    run(async {
        let (slow, other) = (Server::http1("slow").await, Server::http1("other").await);
        slow.is.delay.set(Duration::from_millis(1500));
        let priorities = vec![vec![endpoint(slow.address)], vec![endpoint(other.address)]];
        let (at, _proxy) = proxy(watched(Duration::from_millis(200)), priorities).await;
        assert_eq!(get(at, "a", "/").await.body, "slow");
        assert_eq!(post(at).await.body, "slow");
        assert_eq!((slow.seen(), other.seen()), (2, 0));
    });
}

#[test]
fn with_nowhere_else_to_go_a_request_waits_for_the_silence_to_pass() {
    run(async {
        let only = Server::http1("only").await;
        let (at, _proxy) = proxy(watched(FOR_EVER), vec![vec![endpoint(only.address)]]).await;
        assert_eq!(get(at, "a", "/").await.body, "only");
        only.black_hole();
        let waiting = tokio::task::spawn_local(async move { get(at, "a", "/").await.body });
        tokio::time::sleep(Duration::from_millis(600)).await;
        assert!(!waiting.is_finished());
        only.mend();
        assert_eq!(waiting.await.unwrap(), "only");
    });
}

#[test]
fn a_gateway_that_nobody_reaches_is_told_soon_then_at_once() {
    run(async {
        let hole = Server::http1("hole").await;
        hole.black_hole();
        let mut gateway = endpoint(hole.address);
        gateway.gateway = Some(1);
        let mut cluster = watched(FOR_EVER);
        let mut outlier = outlier();
        outlier.base_ejection = FOR_EVER;
        outlier.max_ejection = FOR_EVER;
        cluster.outlier = Some(outlier);
        let (at, proxy) = proxy(cluster, vec![vec![gateway]]).await;
        let answer = get(at, "a", "/").await;
        assert_eq!(answer.status, 503);
        assert!(
            answer.body.ends_with("reset reason: connection timeout"),
            "{}",
            answer.body
        );
        let flagged = async |flags| {
            proxy
                .counter("istio_requests_total", &[("response_flags", flags)])
                .await
        };
        assert_eq!(flagged("UF").await, 1);
        until("it is ejected", async || {
            get(at, "a", "/").await;
            flagged("UH").await > 0
        })
        .await;
        let began = Instant::now();
        for _ in 0..50 {
            let answer = get(at, "a", "/").await;
            assert!(answer.body.starts_with("no healthy upstream"), "{}", answer.body);
        }
        assert!(
            began.elapsed() < Duration::from_secs(30),
            "nobody waits for it any more"
        );
    });
}

#[test]
fn a_byte_stream_to_a_silent_host_ends() {
    run(async {
        let server = Server::http1("server").await;
        let at = free();
        let config = Config::default()
            .listener(listener("tcp", at, vec![chain("c", tcp("a"))]))
            .cluster(
                watched(Duration::from_millis(300)),
                vec![endpoint(server.address)],
            );
        let proxy = Proxy::start(config.live(1)).await;
        let mut stream = tokio::net::TcpStream::connect(at).await.unwrap();
        let ask = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n";
        stream.write_all(ask).await.unwrap();
        let mut answer = [0; 1024];
        assert!(stream.read(&mut answer).await.unwrap() > 0);
        server.black_hole();
        stream.write_all(ask).await.unwrap();
        let end = stream.read(&mut answer).await;
        assert!(matches!(end, Ok(0) | Err(_)), "{end:?}");
        let flags = [("response_flags", "UC")];
        until("it is counted", async || {
            proxy.counter("istio_tcp_connections_closed_total", &flags).await == 1
        })
        .await;
    });
}
