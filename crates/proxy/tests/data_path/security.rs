//! Mutual TLS between two proxies, who is let in, and what is said to those who are not.

use std::net::SocketAddr;
use std::sync::Arc;

use isthmus_proxy::config::cluster::{Cluster, TransportMatch, TransportSocket, UpstreamVersion};
use isthmus_proxy::config::endpoint::Endpoint;
use isthmus_proxy::config::http_filter::HttpFilter;
use isthmus_proxy::config::listener::{
    ClientCertHeader, FilterChain, Listener, NetworkFilter, TrafficDirection, Transport,
};
use isthmus_proxy::config::matcher::{PathMatch, StringMatcher};
use isthmus_proxy::config::rbac::{Permission, Policy, Principal, Rbac, RbacAction, Rules};
use isthmus_proxy::config::tls::{
    DownstreamTls, SanKind, SanMatcher, SecretRef, TlsVersion, UpstreamTls, Validation,
};
use isthmus_proxy::state::live::{Roots, Secret, certified_key};
use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, SanType};

use crate::build::*;
use crate::client::{get, request};
use crate::net::{Proxy, Server, free, node, run};

/// A root and what it signs.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    root: String,
}

impl Authority {
    pub fn new(name: &str) -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        let root = params.self_signed(&key).unwrap().pem();
        Self {
            issuer: Issuer::new(params, key),
            root,
        }
    }

    pub fn identity(&self, account: &str) -> Secret {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
        params.subject_alt_names = vec![SanType::URI(spiffe(account).try_into().unwrap())];
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        let leaf = params.signed_by(&key, &self.issuer).unwrap();
        let chain = format!("{}{}", leaf.pem(), self.root);
        Secret::Certificate(Arc::new(certified_key(&chain, &key.serialize_pem()).unwrap()))
    }

    pub fn roots(&self) -> Secret {
        Secret::Roots(Arc::new(Roots::from_pem(&self.root).unwrap()))
    }
}

pub fn spiffe(account: &str) -> String {
    format!("spiffe://corp.local/ns/default/sa/{account}")
}

pub fn server_tls() -> Arc<DownstreamTls> {
    Arc::new(DownstreamTls {
        certificates: vec![SecretRef::Sds("default".into())],
        validation: Validation {
            trusted: Some(SecretRef::Sds("ROOTCA".into())),
            sans: Vec::new(),
        },
        require_client_certificate: true,
        alpn: vec![
            b"istio-h2".to_vec(),
            b"istio-http/1.1".to_vec(),
            b"istio".to_vec(),
            b"h2".to_vec(),
            b"http/1.1".to_vec(),
        ],
        min_version: TlsVersion::V1_2,
        max_version: TlsVersion::V1_3,
        ciphers: None,
    })
}

pub fn client_tls(sni: &str, server_account: &str) -> Arc<UpstreamTls> {
    Arc::new(UpstreamTls {
        certificate: Some(SecretRef::Sds("default".into())),
        validation: Validation {
            trusted: Some(SecretRef::Sds("ROOTCA".into())),
            sans: vec![SanMatcher {
                kind: SanKind::Uri,
                value: StringMatcher::Exact(spiffe(server_account)),
            }],
        },
        sni: Some(sni.into()),
        auto_sni: false,
        auto_san: false,
        alpn: vec![
            b"istio-http/1.1".to_vec(),
            b"istio".to_vec(),
            b"http/1.1".to_vec(),
        ],
        min_version: TlsVersion::V1_2,
        max_version: TlsVersion::V1_3,
        ciphers: None,
    })
}

/// A cluster with automatic mTLS: by the endpoint's label.
pub fn mesh_cluster(name: &str, tls: Arc<UpstreamTls>) -> Cluster {
    let mut cluster = cluster(name);
    cluster.transport = TransportSocket::Matches(vec![
        TransportMatch {
            name: "tlsMode-istio".into(),
            labels: vec![("tlsMode".to_owned(), "istio".to_owned())],
            tls: Some(tls),
        },
        TransportMatch {
            name: "tlsMode-disabled".into(),
            labels: Vec::new(),
            tls: None,
        },
    ]);
    cluster
}

pub fn mesh_endpoint(address: SocketAddr) -> Endpoint {
    let mut endpoint = endpoint(address);
    endpoint.transport_labels = vec![("tlsMode".to_owned(), "istio".to_owned())];
    endpoint
}

/// An inbound listener: mutual TLS, and plaintext where it is allowed.
pub fn inbound(at: SocketAddr, network: impl Fn() -> NetworkFilter, plaintext: bool) -> Listener {
    let mut chains: Vec<FilterChain> = Vec::new();
    let mut mutual = terminating(chain("mutual", network()), &server_tls());
    mutual.matches.transport = Some(Transport::Tls);
    mutual.matches.application_protocols = [&b"istio"[..], b"istio-http/1.1", b"istio-h2"]
        .map(Box::from)
        .into();
    chains.push(mutual);
    if plaintext {
        let mut raw = chain("plaintext", network());
        raw.matches.transport = Some(Transport::Raw);
        chains.push(raw);
    }
    let mut listener = listener("virtualInbound", at, chains);
    listener.direction = TrafficDirection::Inbound;
    listener.inspect_tls = true;
    listener
}

fn allow(account: &str, path: &str) -> HttpFilter {
    HttpFilter::Rbac(Arc::new(Rbac {
        rules: Some(Rules {
            action: RbacAction::Allow,
            policies: vec![Policy {
                name: "ns[default]-policy[viewer]-rule[0]".into(),
                permissions: vec![Permission::And(vec![
                    Permission::Path(StringMatcher::Prefix(path.to_owned())),
                    Permission::Not(Box::new(Permission::DestinationPort(1))),
                ])],
                principals: vec![Principal::Authenticated(Some(StringMatcher::Exact(spiffe(
                    account,
                ))))],
            }],
        }),
        shadow: None,
    }))
}

#[test]
fn a_request_crosses_two_proxies_with_mutual_tls_identity_and_rules() {
    run(async {
        let (app, mesh) = (Server::http1("reviews").await, Authority::new("root"));
        let (inside, outside) = (free(), free());
        let server = |rule: HttpFilter| {
            let app_address = app.address;
            let network = move || {
                let mut manager = manager(inline(vec![to("inbound|9080||")]));
                manager.filters = vec![HttpFilter::PeerMetadata, rule.clone()];
                manager.client_cert = ClientCertHeader::AppendForward;
                http(manager)
            };
            Config::default()
                .listener(inbound(inside, network, true))
                .cluster(cluster("inbound|9080||"), vec![endpoint(app_address)])
                .secret("default", mesh.identity("reviews"))
                .secret("ROOTCA", mesh.roots())
        };
        let mut behind =
            Proxy::start_as(node("reviews", "eu"), server(allow("sleep", "/reviews")).live(1)).await;
        let mut here = mesh_endpoint(inside);
        here.workload = Some("reviews-v1;default;reviews;v1;eu".into());
        let client = Config::default()
            .listener(listener(
                "outbound",
                outside,
                vec![chain(
                    "c",
                    with_filters(inline(vec![to("reviews")]), vec![HttpFilter::PeerMetadata]),
                )],
            ))
            .cluster(
                mesh_cluster(
                    "reviews",
                    client_tls("outbound_.9080_._.reviews.default.svc.cluster.local", "reviews"),
                ),
                vec![here],
            )
            .secret("default", mesh.identity("sleep"))
            .secret("ROOTCA", mesh.roots());
        let front = Proxy::start_as(node("sleep", "us"), client.live(1)).await;

        let forged = [
            ("x-forwarded-client-cert", "URI=spiffe://forged"),
            ("x-envoy-peer-metadata", "forged"),
        ];
        let answer = request(outside, "GET", "reviews:9080", "/reviews/1", &forged, "").await;
        assert_eq!((answer.status, answer.body.as_str()), (200, "reviews"));
        assert_eq!(
            answer.header("x-envoy-peer-metadata"),
            "",
            "metadata never reaches an application"
        );
        let cert = app.header("x-forwarded-client-cert").unwrap();
        assert!(
            cert.starts_with(&format!("By={};Hash=", spiffe("reviews"))),
            "{cert}"
        );
        assert!(cert.ends_with(&format!("URI={}", spiffe("sleep"))), "{cert}");
        assert!(!cert.contains("forged"), "{cert}");
        assert_eq!(app.header("x-envoy-peer-metadata"), None);

        let denied = get(outside, "reviews:9080", "/admin").await;
        assert_eq!(
            (denied.status, denied.body.as_str()),
            (403, "RBAC: access denied")
        );
        let plain = get(inside, "reviews:9080", "/reviews/1").await;
        assert_eq!(plain.status, 403, "plaintext proves no identity");

        let labels = [
            ("reporter", "destination"),
            ("source_workload", "sleep"),
            ("source_cluster", "us"),
            ("destination_cluster", "eu"),
            ("connection_security_policy", "mutual_tls"),
            ("response_code", "200"),
        ];
        assert_eq!(behind.counter("istio_requests_total", &labels).await, 1);
        let labels = [
            ("reporter", "source"),
            ("destination_workload", "reviews"),
            ("destination_cluster", "eu"),
            ("response_code", "200"),
        ];
        assert_eq!(front.counter("istio_requests_total", &labels).await, 1);

        // A policy that lets nobody in counts for the very next request on the pooled connection.
        behind.apply(server(allow("nobody", "/")).live(2)).await;
        assert_eq!(get(outside, "reviews:9080", "/reviews/1").await.status, 403);
    });
}

#[test]
fn a_wrong_identity_and_a_wrong_root_are_refused_with_the_reason() {
    run(async {
        let (app, mesh, other) = (
            Server::http1("reviews").await,
            Authority::new("root"),
            Authority::new("another root"),
        );
        let (inside, outside) = (free(), free());
        let server = Config::default()
            .listener(inbound(inside, || http_to("inbound"), false))
            .cluster(cluster("inbound"), vec![endpoint(app.address)])
            .secret("default", mesh.identity("impostor"))
            .secret("ROOTCA", mesh.roots());
        let _behind = Proxy::start(server.live(1)).await;
        let client = |version, own: &Authority, trusted: &Authority, expected: &str| {
            Config::default()
                .listener(listener(
                    "outbound",
                    outside,
                    vec![chain("c", http_to("reviews"))],
                ))
                .cluster(
                    mesh_cluster("reviews", client_tls("outbound_.9080_._.reviews", expected)),
                    vec![mesh_endpoint(inside)],
                )
                .secret("default", own.identity("sleep"))
                .secret("ROOTCA", trusted.roots())
                .live(version)
        };
        let mut front = Proxy::start(client(1, &mesh, &mesh, "reviews")).await;
        let refused = get(outside, "reviews", "/").await;
        assert_eq!(refused.status, 503);
        assert!(refused.body.contains(&spiffe("impostor")), "{}", refused.body);
        assert!(refused.body.contains(&spiffe("reviews")), "{}", refused.body);
        let flags = [("response_flags", "UF"), ("response_code", "503")];
        assert_eq!(front.counter("istio_requests_total", &flags).await, 1);

        front.apply(client(2, &mesh, &other, "impostor")).await;
        let refused = get(outside, "reviews", "/").await;
        assert_eq!(refused.status, 503);
        assert!(refused.body.contains("TLS error"), "{}", refused.body);

        // Trusted by us, but the server does not know our root.
        front.apply(client(3, &other, &mesh, "impostor")).await;
        assert_eq!(get(outside, "reviews", "/").await.status, 503);
        assert_eq!(app.seen(), 0);

        // With everything right, the new secrets count without a restart.
        front.apply(client(4, &mesh, &mesh, "impostor")).await;
        assert_eq!(get(outside, "reviews", "/").await.body, "reviews");

        // STRICT: plaintext finds no chain.
        let stream = tokio::net::TcpStream::connect(inside).await.unwrap();
        assert!(
            crate::client::exchange(stream, "GET", "reviews", "/", &[], "")
                .await
                .is_none()
        );
    });
}

#[test]
fn http2_between_proxies_carries_http2_and_its_trailers() {
    run(async {
        let (app, mesh) = (Server::http2("grpc").await, Authority::new("root"));
        let (inside, outside) = (free(), free());
        let mut to_app = cluster("inbound");
        to_app.http.version = UpstreamVersion::Downstream;
        let server = Config::default()
            .listener(inbound(inside, || http_to("inbound"), false))
            .cluster(to_app, vec![endpoint(app.address)])
            .secret("default", mesh.identity("grpc"))
            .secret("ROOTCA", mesh.roots());
        let _behind = Proxy::start(server.live(1)).await;
        let mut tls = (*client_tls("outbound_.80_._.grpc", "grpc")).clone();
        tls.alpn = vec![b"istio-h2".to_vec(), b"istio".to_vec(), b"h2".to_vec()];
        let mut to_mesh = mesh_cluster("grpc", Arc::new(tls));
        to_mesh.http.version = UpstreamVersion::Http2;
        let client = Config::default()
            .listener(listener("outbound", outside, vec![chain("c", http_to("grpc"))]))
            .cluster(to_mesh, vec![mesh_endpoint(inside)])
            .secret("default", mesh.identity("sleep"))
            .secret("ROOTCA", mesh.roots());
        let front = Proxy::start(client.live(1)).await;
        for _ in 0..5 {
            let request = http::Request::post(format!("http://{outside}/pkg.Service/Call"))
                .header("content-type", "application/grpc")
                .header("te", "trailers")
                .body(http_body_util::Full::new(bytes::Bytes::from_static(
                    b"\0\0\0\0\x02hi",
                )))
                .unwrap();
            let answer = crate::client::http2(outside, request).await;
            assert_eq!((answer.status, answer.body.as_str()), (200, "grpc"));
        }
        assert_eq!(app.header("te").as_deref(), Some("trailers"));
        let report = front.report().await;
        assert_eq!(
            report.endpoints[0].connections_total, 1,
            "five requests, one connection"
        );
        let grpc = [("request_protocol", "grpc")];
        assert_eq!(front.counter("istio_request_messages_total", &grpc).await, 5);
    });
}

#[test]
fn a_path_rule_alone_is_enforced_on_plaintext() {
    run(async {
        let app = Server::http1("a").await;
        let at = free();
        let deny = HttpFilter::Rbac(Arc::new(Rbac {
            rules: Some(Rules {
                action: RbacAction::Deny,
                policies: vec![Policy {
                    name: "ns[a]-policy[no-admin]-rule[0]".into(),
                    permissions: vec![Permission::Path(StringMatcher::Prefix("/admin".to_owned()))],
                    principals: vec![Principal::Any],
                }],
            }),
            shadow: None,
        }));
        let network = with_filters(
            inline(vec![route(
                path(PathMatch::Prefix("/".to_owned())),
                isthmus_proxy::config::route::Action::Forward(Box::new(forward(
                    isthmus_proxy::config::route::Target::Cluster("a".into()),
                ))),
            )]),
            vec![deny],
        );
        let config = Config::default()
            .listener(listener("http", at, vec![chain("c", network)]))
            .cluster(cluster("a"), vec![endpoint(app.address)]);
        let _proxy = Proxy::start(config.live(1)).await;
        assert_eq!(get(at, "a", "/").await.status, 200);
        // Neither dots nor percent-encoding lead around the rule.
        for path in ["/admin", "/x/../admin", "/%61dmin", "/admin?x"] {
            assert_eq!(get(at, "a", path).await.status, 403, "{path}");
        }
    });
}
