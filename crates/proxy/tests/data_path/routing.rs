//! Routes, rewrites, redirects, weights, header operations, hygiene.

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, StatusCode};
use isthmus_proxy::config::http_filter::{Abort, Fault, HttpFilter};
use isthmus_proxy::config::matcher::{
    HeaderMatcher, HeaderValueMatch, PathMatch, QueryMatcher, StringMatcher,
};
use isthmus_proxy::config::route::{
    Action, HeaderOperation, HostRewrite, Mirror, PathRewrite, Redirect, Target,
};
use tokio::net::TcpStream;

use crate::build::*;
use crate::client::{self, get, request};
use crate::net::{Proxy, Server, free, run, until};

#[test]
fn requests_find_their_cluster_by_host_path_header_and_query() {
    run(async {
        let (a, b, c) = (
            Server::http1("a").await,
            Server::http1("b").await,
            Server::http1("c").await,
        );
        let at = free();
        let mut by_header = to("b");
        by_header.matches.headers.push(HeaderMatcher {
            name: "end-user".to_owned(),
            value: HeaderValueMatch::String(StringMatcher::Exact("jason".to_owned())),
            invert: false,
            treat_missing_as_empty: false,
        });
        let mut by_query = to("c");
        by_query.matches.query.push(QueryMatcher {
            name: "v".to_owned(),
            value: Some(StringMatcher::Exact("3".to_owned())),
        });
        let exact = route(
            path(PathMatch::Exact("/exact".to_owned())),
            Action::Forward(Box::new(forward(Target::Cluster("c".into())))),
        );
        let table = table(
            "80",
            vec![
                (
                    vec!["reviews", "reviews:9080"],
                    vec![by_header, by_query, exact, to("a")],
                ),
                (vec!["*.example.com"], vec![to("b")]),
            ],
        );
        let config = Config::default()
            .listener(listener(
                "http",
                at,
                vec![chain(
                    "http",
                    http(manager(isthmus_proxy::config::listener::Routes::Rds("80".into()))),
                )],
            ))
            .routes(table)
            .cluster(cluster("a"), vec![endpoint(a.address)])
            .cluster(cluster("b"), vec![endpoint(b.address)])
            .cluster(cluster("c"), vec![endpoint(c.address)]);
        let _proxy = Proxy::start(config.live(1)).await;
        assert_eq!(get(at, "reviews", "/").await.body, "a");
        assert_eq!(get(at, "Reviews:9080", "/x").await.body, "a");
        assert_eq!(
            request(at, "GET", "reviews", "/", &[("end-user", "jason")], "")
                .await
                .body,
            "b"
        );
        assert_eq!(get(at, "reviews", "/?u=1&v=3").await.body, "c");
        assert_eq!(get(at, "reviews", "/exact?q").await.body, "c");
        assert_eq!(get(at, "reviews", "/exactly").await.body, "a");
        assert_eq!(get(at, "shop.example.com", "/").await.body, "b");
        let unknown = get(at, "nowhere", "/").await;
        assert_eq!((unknown.status, unknown.body.as_str()), (404, ""));
        assert_eq!(unknown.header("server"), "istio-envoy");
    });
}

#[test]
fn weights_hold_within_bounds_and_a_dead_cluster_is_named() {
    run(async {
        let (a, b) = (Server::http1("a").await, Server::http1("b").await);
        let at = free();
        let split = route(
            any_path(),
            Action::Forward(Box::new(forward(split(&[("a", 80), ("b", 20)])))),
        );
        let mut gone = route(
            path(PathMatch::Prefix("/gone".to_owned())),
            Action::Forward(Box::new(forward(Target::Cluster("gone".into())))),
        );
        gone.name = "gone".into();
        let empty = route(
            path(PathMatch::Prefix("/empty".to_owned())),
            Action::Forward(Box::new(forward(Target::Cluster("empty".into())))),
        );
        let config = Config::default()
            .listener(listener(
                "http",
                at,
                vec![chain("c", http(manager(inline(vec![gone, empty, split]))))],
            ))
            .cluster(cluster("a"), vec![endpoint(a.address)])
            .cluster(cluster("b"), vec![endpoint(b.address)])
            .cluster(cluster("empty"), vec![]);
        let _proxy = Proxy::start(config.live(1)).await;
        for _ in 0..600 {
            assert_eq!(get(at, "x", "/").await.status, 200);
        }
        // 120 expected, standard deviation 9.8: six of them either way.
        assert!((60..=180).contains(&b.seen()), "{} of 600", b.seen());
        assert_eq!(get(at, "x", "/gone").await.status, 503);
        let empty = get(at, "x", "/empty").await;
        assert_eq!((empty.status, empty.body.as_str()), (503, "no healthy upstream"));
    });
}

#[test]
fn paths_hosts_and_headers_are_rewritten() {
    run(async {
        let a = Server::http1("a").await;
        let at = free();
        let mut forward = forward(Target::Cluster("a".into()));
        forward.path_rewrite = Some(PathRewrite::Prefix("/v2/".to_owned()));
        forward.host_rewrite = Some(HostRewrite::Literal("inner.local".parse().unwrap()));
        let mut route = route(
            path(PathMatch::Prefix("/api/".to_owned())),
            Action::Forward(Box::new(forward)),
        );
        let name = |n: &'static str| HeaderName::from_static(n);
        route.headers.request = vec![
            HeaderOperation::Remove(name("x-secret")),
            HeaderOperation::Set(
                name("x-client"),
                "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%".to_owned(),
            ),
            HeaderOperation::Append(name("x-list"), "two".to_owned()),
        ];
        route.headers.response = vec![HeaderOperation::AddIfAbsent(name("x-answer"), "100%%".to_owned())];
        let config = Config::default()
            .listener(listener(
                "http",
                at,
                vec![chain("c", http(manager(inline(vec![route]))))],
            ))
            .cluster(cluster("a"), vec![endpoint(a.address)]);
        let _proxy = Proxy::start(config.live(1)).await;
        let headers = [
            ("x-secret", "1"),
            ("x-list", "one"),
            ("connection", "x-hop"),
            ("x-hop", "1"),
        ];
        let answer = request(at, "GET", "outer", "/api/users?id=7", &headers, "").await;
        assert_eq!(answer.header("x-answer"), "100%");
        assert!(!answer.header("x-envoy-upstream-service-time").is_empty());
        let last = a.is.last.borrow().as_ref().unwrap().clone();
        assert_eq!(last.uri.to_string(), "/v2/users?id=7");
        let header = |n: &str| last.headers.get(n).map(|v| v.to_str().unwrap().to_owned());
        assert_eq!(header("host").as_deref(), Some("inner.local"));
        assert_eq!(
            header("x-envoy-original-path").as_deref(),
            Some("/api/users?id=7")
        );
        assert_eq!(header("x-secret"), None);
        assert_eq!(header("x-hop"), None);
        assert_eq!(header("x-client").as_deref(), Some("127.0.0.1"));
        assert_eq!(last.headers.get_all("x-list").iter().count(), 2);
        assert_eq!(header("x-envoy-attempt-count").as_deref(), Some("1"));
        assert_eq!(header("x-forwarded-proto").as_deref(), Some("http"));
        assert_eq!(header("x-request-id").unwrap().len(), 36);
    });
}

#[test]
fn redirects_direct_answers_and_faults_need_no_upstream() {
    run(async {
        let at = free();
        let moved = route(
            path(PathMatch::Prefix("/old".to_owned())),
            Action::Redirect(Redirect {
                status: StatusCode::MOVED_PERMANENTLY,
                scheme: Some("https".to_owned()),
                host: None,
                port: None,
                path: None,
                strip_query: false,
            }),
        );
        let said = route(
            path(PathMatch::Exact("/said".to_owned())),
            Action::Respond(StatusCode::IM_A_TEAPOT, b"short and stout".as_slice().into()),
        );
        let mut broken = to("nowhere");
        broken.fault = Some(Arc::new(Fault {
            delay: Some((Duration::from_millis(30), 1_000_000)),
            abort: Some((Abort::Http(StatusCode::IM_A_TEAPOT), 1_000_000)),
        }));
        let chain = chain(
            "c",
            with_filters(inline(vec![moved, said, broken]), vec![HttpFilter::Fault]),
        );
        let proxy = Proxy::start(
            Config::default()
                .listener(listener("http", at, vec![chain]))
                .live(1),
        )
        .await;
        let moved = get(at, "shop:80", "/old?a=b").await;
        assert_eq!(
            (moved.status, moved.header("location")),
            (301, "https://shop/old?a=b")
        );
        let said = get(at, "shop", "/said").await;
        assert_eq!((said.status, said.body.as_str()), (418, "short and stout"));
        assert_eq!(get(at, "shop", "/else").await.body, "fault filter abort");
        let flags = [("response_flags", "DI,FI"), ("response_code", "418")];
        assert_eq!(proxy.counter("istio_requests_total", &flags).await, 1);
    });
}

#[test]
fn a_mirror_gets_a_copy_and_nobody_waits_for_it() {
    run(async {
        let (a, shadow) = (Server::http1("a").await, Server::http1("shadow").await);
        let at = free();
        let mut forward = forward(Target::Cluster("a".into()));
        forward.mirrors.push(Mirror {
            cluster: "shadow".into(),
            fraction: 1_000_000,
            shadow_suffix: true,
        });
        let chain = chain(
            "c",
            http(manager(inline(vec![route(
                any_path(),
                Action::Forward(Box::new(forward)),
            )]))),
        );
        let config = Config::default()
            .listener(listener("http", at, vec![chain]))
            .cluster(cluster("a"), vec![endpoint(a.address)])
            .cluster(cluster("shadow"), vec![endpoint(shadow.address)]);
        let _proxy = Proxy::start(config.live(1)).await;
        let answer = request(at, "POST", "shop:80", "/buy", &[], "one of each").await;
        assert_eq!(answer.body, "a");
        until("the mirror saw it", async || shadow.seen() == 1).await;
        until("the whole body", async || {
            &**shadow.is.body.borrow() == b"one of each"
        })
        .await;
        assert_eq!(shadow.header("host").as_deref(), Some("shop-shadow:80"));
        assert_eq!(&**a.is.body.borrow(), b"one of each");
    });
}

#[test]
fn what_is_malformed_or_smuggled_is_turned_away() {
    run(async {
        let a = Server::http1("a").await;
        let at = free();
        let config = Config::default()
            .listener(listener("http", at, vec![chain("c", http_to("a"))]))
            .cluster(cluster("a"), vec![endpoint(a.address)]);
        let _proxy = Proxy::start(config.live(1)).await;
        let long = format!("GET / HTTP/1.1\r\nhost: a\r\nx: {}\r\n\r\n", "y".repeat(100_000));
        for (text, status) in [
            (
                "GET / HTTP/1.1\r\nhost: a\r\nhost: b\r\nconnection: close\r\n\r\n",
                400,
            ),
            ("GET / HTTP/1.1\r\nconnection: close\r\n\r\n", 400),
            (
                "GET /../../etc/passwd HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n",
                400,
            ),
            ("GET / HTTP/1.0\r\nhost: a\r\n\r\n", 426),
            (
                "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: gzip\r\n\r\n",
                400,
            ),
            (
                "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\nhello",
                400,
            ),
            ("GET / HTTP/1.1\r\nhost : a\r\n\r\n", 400),
            (long.as_str(), 431),
        ] {
            let stream = TcpStream::connect(at).await.unwrap();
            let answer = client::raw(stream, text).await.unwrap_or_default();
            assert_eq!(answer.status, status, "{}", &text[..text.len().min(80)]);
        }
        assert_eq!(a.seen(), 0);
        // Both lengths: the chunks count, and the upstream sees one request without a length.
        let both = "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 40\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n5\r\nhello\r\n0\r\n\r\n";
        let stream = TcpStream::connect(at).await.unwrap();
        let answer = client::raw(stream, both).await.unwrap();
        assert!(matches!(answer.status, 200 | 400), "{}", answer.status);
        if answer.status == 200 {
            assert_eq!(&**a.is.body.borrow(), b"hello");
            assert_eq!(a.header("content-length"), None);
        }
    });
}
