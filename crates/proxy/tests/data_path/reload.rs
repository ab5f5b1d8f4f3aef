//! Configuration that changes while requests are under way.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use isthmus_proxy::config::route::Action;
use isthmus_proxy::orders::Order;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::build::*;
use crate::client::get;
use crate::net::{Proxy, Server, free, run, until};

#[test]
fn no_request_is_lost_while_everything_changes() {
    run(async {
        let servers = [
            Server::http1("a").await,
            Server::http1("b").await,
            Server::http1("c").await,
        ];
        let at = free();
        let config = |version: u64| {
            // Weights, endpoints and the cluster itself change; in each version something else.
            let weights = [("a", 100 - (version % 50) as u32), ("b", (version % 50) as u32)];
            let routes = inline(vec![route(
                any_path(),
                Action::Forward(Box::new(forward(split(&weights)))),
            )]);
            let spare = &servers[if version.is_multiple_of(3) { 1 } else { 2 }];
            let mut changing = cluster("a");
            changing.connect_timeout = Duration::from_secs(5 + version % 2);
            Config::default()
                .listener(listener("http", at, vec![chain("c", http(manager(routes)))]))
                .cluster(
                    changing,
                    vec![endpoint(servers[0].address), endpoint(spare.address)],
                )
                .cluster(cluster("b"), vec![endpoint(spare.address)])
                .live(version)
        };
        let mut proxy = Proxy::start(config(1)).await;
        let stop = Rc::new(Cell::new(false));
        let mut clients = Vec::new();
        for _ in 0..4 {
            let stop = stop.clone();
            clients.push(tokio::task::spawn_local(async move {
                // One connection for all requests: it has to outlive every change.
                let mut stream = TcpStream::connect(at).await.unwrap();
                let mut answered = 0;
                while !stop.get() {
                    stream
                        .write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
                        .await
                        .unwrap();
                    let mut head = Vec::new();
                    while !head.ends_with(b"\r\n\r\n") {
                        head.push(stream.read_u8().await.expect("the connection stays"));
                    }
                    let head = String::from_utf8(head).unwrap();
                    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
                    let mut body = [0u8; 1];
                    stream.read_exact(&mut body).await.unwrap();
                    answered += 1;
                }
                answered
            }));
        }
        for version in 2..40 {
            proxy.apply(config(version)).await;
            tokio::time::sleep(Duration::from_millis(5)).await;
            assert_eq!(get(at, "x", "/").await.status, 200);
        }
        stop.set(true);
        let mut total = 0;
        for client in clients {
            total += client.await.unwrap();
        }
        assert!(total > 100, "{total} requests");
    });
}

#[test]
fn a_change_of_endpoints_keeps_connections_and_a_removed_listener_drains() {
    run(async {
        let (a, b) = (Server::http1("a").await, Server::http1("b").await);
        let at = free();
        let mut config = Config::default()
            .listener(listener("http", at, vec![chain("c", http_to("a"))]))
            .cluster(cluster("a"), vec![endpoint(a.address)]);
        let spare = config.endpoints.remove(0);
        config.endpoints.push(spare);
        let first = config.live(1);
        let (listeners, clusters) = (first.listeners.clone(), first.clusters.clone());
        let mut proxy = Proxy::start(first).await;
        assert_eq!(get(at, "x", "/").await.body, "a");
        let connections = |report: &isthmus_proxy::orders::Report| {
            let of_a = report.endpoints.iter().find(|e| e.address == a.address);
            of_a.map(|e| e.connections_total)
        };
        assert_eq!(connections(&proxy.report().await), Some(1));
        let wider = assignment("a", vec![vec![endpoint(a.address)], vec![endpoint(b.address)]]);
        proxy
            .apply(isthmus_proxy::state::Live {
                version: 2,
                listeners,
                clusters: clusters.clone(),
                endpoints: [("a".into(), wider.into())].into(),
                ..Default::default()
            })
            .await;
        assert_eq!(get(at, "x", "/").await.body, "a");
        assert_eq!(
            connections(&proxy.report().await),
            Some(1),
            "the pooled connection is still used"
        );

        // A keep-alive connection of a listener that goes is told to close after its answer.
        let mut stream = TcpStream::connect(at).await.unwrap();
        let gone = isthmus_proxy::state::Live {
            version: 3,
            clusters,
            ..Default::default()
        };
        stream
            .write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
            .await
            .unwrap();
        let mut byte = [0u8; 1];
        stream.read_exact(&mut byte).await.unwrap();
        proxy.apply(gone).await;
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).await.unwrap();
        assert!(String::from_utf8_lossy(&rest).ends_with('a'));
        assert!(TcpStream::connect(at).await.is_err(), "nobody listens any more");
    });
}

#[test]
fn a_drain_lets_requests_finish() {
    run(async {
        let slow = Server::http1("slow").await;
        slow.is.delay.set(Duration::from_millis(300));
        let at = free();
        let config = Config::default()
            .listener(listener("http", at, vec![chain("c", http_to("a"))]))
            .cluster(cluster("a"), vec![endpoint(slow.address)]);
        let proxy = Proxy::start(config.live(1)).await;
        let waiting = tokio::task::spawn_local(async move { get(at, "x", "/").await });
        until("it is in flight", async || slow.seen() == 1).await;
        proxy
            .orders
            .send(Order::Stop(Duration::from_secs(30)))
            .await
            .unwrap();
        assert_eq!(waiting.await.unwrap().body, "slow");
        until("nobody listens", async || TcpStream::connect(at).await.is_err()).await;
    });
}

/// Two workers on threads of their own share a port; both serve, and both end when told.
#[test]
fn workers_are_threads_that_share_a_port() {
    use isthmus_proxy::orders::{Event, WorkerSettings};
    use tokio::sync::{mpsc, watch};
    run(async {
        let app = Server::http1("app").await;
        let at = free();
        let config = Config::default()
            .listener(listener("http", at, vec![chain("c", http_to("a"))]))
            .cluster(cluster("a"), vec![endpoint(app.address)]);
        let (_live, seen) = watch::channel(std::sync::Arc::new(config.live(7)));
        let (events, mut told) = mpsc::channel(8);
        let mut orders = Vec::new();
        let mut threads = Vec::new();
        for index in 0..2 {
            let (order, taken) = mpsc::channel(8);
            orders.push(order);
            let settings = WorkerSettings {
                index,
                live: seen.clone(),
                orders: taken,
                events: events.clone(),
                node: crate::net::node("sleep", "us"),
                mark: None,
            };
            threads.push(isthmus_proxy::worker::spawn(settings).unwrap());
        }
        for _ in 0..2 {
            assert!(matches!(
                told.recv().await,
                Some(Event::Applied { version: 7, .. })
            ));
        }
        for _ in 0..30 {
            assert_eq!(get(at, "x", "/").await.body, "app");
        }
        for order in &orders {
            order.send(Order::Stop(Duration::from_secs(10))).await.unwrap();
        }
        for _ in 0..2 {
            assert!(matches!(told.recv().await, Some(Event::Ended { .. })));
        }
        for thread in threads {
            thread.join().unwrap();
        }
        assert!(TcpStream::connect(at).await.is_err());
    });
}

#[test]
fn a_draining_worker_answers_who_still_comes_and_says_it_is_the_last_time() {
    run(async {
        let app = Server::http1("app").await;
        let at = free();
        let config = Config::default()
            .listener(listener("http", at, vec![chain("c", http_to("a"))]))
            .cluster(cluster("a"), vec![endpoint(app.address)]);
        let proxy = Proxy::start(config.live(1)).await;
        proxy.orders.send(Order::Drain).await.unwrap();
        let report = proxy.report().await;
        assert_eq!(report.connections, 0);
        let mut stream = TcpStream::connect(at).await.unwrap();
        tokio::time::sleep(Duration::from_millis(100)).await;
        stream
            .write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
            .await
            .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert!(
            answer.starts_with("HTTP/1.1 200") && answer.ends_with("app"),
            "{answer}"
        );
        assert!(answer.contains("connection: close"), "{answer}");
    });
}

/// A request that crosses the close of an idle connection is lost without anybody's fault, so a connection in
/// use is told by its next answer.
#[test]
fn a_draining_worker_closes_no_connection_under_the_next_request() {
    run(async {
        let app = Server::http1("app").await;
        let at = free();
        let config = Config::default()
            .listener(listener("http", at, vec![chain("c", http_to("a"))]))
            .cluster(cluster("a"), vec![endpoint(app.address)]);
        let proxy = Proxy::start(config.live(1)).await;
        let mut stream = TcpStream::connect(at).await.unwrap();
        let get = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n";
        let mut seen = [0u8; 4096];
        stream.write_all(get).await.unwrap();
        assert!(stream.read(&mut seen).await.unwrap() > 0);
        proxy.orders.send(Order::Drain).await.unwrap();
        tokio::time::sleep(Duration::from_millis(300)).await;
        stream.write_all(get).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        assert!(answer.contains("connection: close"), "{answer}");
        // One that nobody uses ends by itself.
        let mut idle = TcpStream::connect(at).await.unwrap();
        idle.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
            .await
            .unwrap();
        idle.read_to_string(&mut answer).await.unwrap();
    });
}
