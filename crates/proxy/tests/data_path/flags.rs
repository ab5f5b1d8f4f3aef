//! What the access log says of requests that went wrong: status, flags and details, as Envoy writes them.

use std::time::Duration;

use isthmus_proxy::config::cluster::Cluster;
use isthmus_proxy::config::listener::{AccessLog, AccessLogFormat};
use isthmus_proxy::config::matcher::PathMatch;
use isthmus_proxy::config::route::{Action, RetryOn, RetryPolicy, Route, Target};
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpListener, TcpStream};

use crate::build::*;
use crate::client::get;
use crate::net::{Proxy, Server, free, run, until};

/// `/NAME` goes to cluster NAME.
fn named(name: &str, retry: Option<RetryPolicy>, timeout: Option<Duration>) -> Route {
    let mut forward = forward(Target::Cluster(name.into()));
    forward.retry = retry.map(Into::into);
    forward.timeout = timeout;
    route(
        path(PathMatch::Exact(format!("/{name}"))),
        Action::Forward(Box::new(forward)),
    )
}

fn hopeful(name: &str) -> Cluster {
    let mut cluster = cluster(name);
    cluster.isthmus.connect_hedge = Some(Duration::from_millis(50));
    cluster.isthmus.unacked_timeout = Some(Duration::from_millis(300));
    cluster
}

#[test]
fn every_failure_has_its_flag() {
    run(async {
        let hanging_up = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let hangs_up = hanging_up.local_addr().unwrap();
        tokio::task::spawn_local(async move {
            use tokio::io::AsyncReadExt as _;
            loop {
                let (mut stream, _) = hanging_up.accept().await.unwrap();
                let _ = stream.read(&mut [0; 4096]).await;
            }
        });
        let (slow, failing) = (Server::http1("slow").await, Server::http1("failing").await);
        slow.is.delay.set(Duration::from_secs(60));
        failing.is.status.set(503);
        let (silent, unreachable) = (Server::http1("silent").await, Server::http1("none").await);
        let mut gateway = endpoint(unreachable.address);
        gateway.gateway = Some(1);

        let on_503 = RetryPolicy {
            on: RetryOn {
                status_codes: true,
                ..RetryOn::default()
            },
            status_codes: vec![503],
            ..(*retries()).clone()
        };
        let routes = vec![
            named("empty", None, None),
            named("refused", None, None),
            named("refused-again", Some((*retries()).clone()), None),
            named("hangs-up", None, None),
            named("silent", None, None),
            named("unreachable", Some((*retries()).clone()), None),
            named("late", None, Some(Duration::from_millis(100))),
            named("failing", Some(on_503), None),
            named("left", None, None),
        ];
        let file = tempfile::NamedTempFile::new().unwrap();
        let mut manager = manager(inline(routes));
        manager.access_logs = vec![AccessLog {
            path: file.path().to_string_lossy().into_owned().into(),
            format: AccessLogFormat::Text(
                "%REQ(:PATH)% %RESPONSE_CODE% %RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS%".into(),
            ),
        }];
        let at = free();
        let config = Config::default()
            .listener(listener("http", at, vec![chain("c", http(manager))]))
            .cluster(cluster("empty"), vec![])
            .cluster(cluster("refused"), vec![endpoint(free())])
            .cluster(cluster("refused-again"), vec![endpoint(free())])
            .cluster(cluster("hangs-up"), vec![endpoint(hangs_up)])
            .cluster(hopeful("silent"), vec![endpoint(silent.address)])
            .cluster(hopeful("unreachable"), vec![gateway])
            .cluster(cluster("late"), vec![endpoint(slow.address)])
            .cluster(cluster("failing"), vec![endpoint(failing.address)])
            .cluster(cluster("left"), vec![endpoint(slow.address)]);
        let _proxy = Proxy::start(config.live(1)).await;

        assert_eq!(get(at, "a", "/silent").await.body, "silent");
        silent.black_hole();
        unreachable.black_hole();
        for (path, status) in [
            ("/nowhere", 404),
            ("/empty", 503),
            ("/refused", 503),
            ("/refused-again", 503),
            ("/hangs-up", 503),
            ("/silent", 503),
            ("/unreachable", 503),
            ("/late", 504),
            ("/failing", 503),
        ] {
            assert_eq!(get(at, "a", path).await.status, status, "{path}");
        }
        let mut leaving = TcpStream::connect(at).await.unwrap();
        leaving
            .write_all(b"GET /left HTTP/1.1\r\nhost: a\r\n\r\n")
            .await
            .unwrap();
        until("it is on its way", async || slow.seen() == 2).await;
        drop(leaving);

        let read = || std::fs::read_to_string(file.path()).unwrap();
        until("all are written", async || read().lines().count() == 11).await;
        let text = read();
        for line in [
            "/nowhere 404 NR route_not_found",
            "/empty 503 UH no_healthy_upstream",
            "/refused 503 UF upstream_reset_before_response_started{",
            "/refused-again 503 UF,URX upstream_reset_before_response_started{",
            "/hangs-up 503 UC upstream_reset_before_response_started{connection_termination}",
            "/silent 200 - via_upstream",
            "/silent 503 UC upstream_reset_before_response_started{connection_termination|what_was_sent_is_not_acknowledged}",
            "/unreachable 503 UF upstream_reset_before_response_started{connection_timeout}",
            "/late 504 UT response_timeout",
            "/failing 503 URX via_upstream",
            "/left 0 DC downstream_remote_disconnect",
        ] {
            assert!(
                text.lines().any(|l| l.starts_with(line)),
                "{line}\nnot in\n{text}"
            );
        }
    });
}
