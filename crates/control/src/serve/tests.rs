//! A control plane's ports from outside.

use std::sync::Arc;
use std::time::Duration;

use isthmus_model::SpiffeId;
use isthmus_pki::service::{Dial as PkiDial, RemoteAuthority};
use isthmus_pki::{Expected, KeyAlgorithm, LiveClient, Renewal, TlsOptions, Transport};
use isthmus_xds::client::{Client, Config, Dial, DialError, Event, Io, Protocol, Update, Wanted};
use isthmus_xds::envoy::cluster::Cluster as EnvoyCluster;
use isthmus_xds::envoy::core::Node;
use isthmus_xds::envoy::tls::Secret;
use isthmus_xds::{Resource, ResourceSet, Resources, TypeUrl};
use rustls_pki_types::ServerName;
use tokio_rustls::TlsConnector;

use super::{Addresses, Sockets};
use crate::test_mesh::{Cluster, ControlPlane, Mesh, domain, until};

const ID: &str = "sidecar~10.0.0.7~sleep-1.default~default.svc.cluster.local";

fn resources() -> Arc<Resources> {
    let cluster = EnvoyCluster {
        name: "outbound|80||a".into(),
        ..Default::default()
    };
    let secret = Secret {
        name: "kubernetes://cert".into(),
        ..Default::default()
    };
    Arc::new(
        Resources::new()
            .with(
                TypeUrl::Cds,
                ResourceSet::new([Resource::new(cluster.name.as_str(), &cluster)]),
            )
            .with(
                TypeUrl::Sds,
                ResourceSet::new([Resource::new(secret.name.as_str(), &secret)]),
            ),
    )
}

/// Connects as a workload may: with a token, with a certificate, with both or neither.
struct Workload {
    at: std::net::SocketAddr,
    tls: Option<LiveClient>,
    token: Option<String>,
}

impl Workload {
    fn with_certificate(plane: &ControlPlane, of: &Cluster) -> Self {
        let tls = LiveClient::new(
            of.credentials("default", "sleep"),
            Expected::anyone(),
            TlsOptions::alpn(["h2"]),
        );
        Self {
            at: plane.addresses.xds,
            tls: Some(tls),
            token: None,
        }
    }

    fn in_plaintext(plane: &ControlPlane, token: Option<String>) -> Self {
        Self {
            at: plane.addresses.plaintext.unwrap(),
            tls: None,
            token,
        }
    }

    fn start(self, id: &str, protocol: Protocol) -> Client {
        let mut config = Config::new(Node {
            id: id.into(),
            ..Default::default()
        });
        config.protocol = protocol;
        let client = Client::start(config, self);
        client.subscribe(TypeUrl::Cds, Wanted::All);
        client
    }

    async fn refusal(self, id: &str) -> String {
        let mut client = self.start(id, Protocol::Delta);
        let refused = async {
            loop {
                match client.event().await.unwrap() {
                    Event::Disconnected { error } => return error,
                    Event::Update(update) => panic!("told {update:?}"),
                    Event::Connected => {}
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(30), refused)
            .await
            .unwrap()
    }
}

impl Dial for Workload {
    async fn dial(&self) -> Result<Io, DialError> {
        let stream = tokio::net::TcpStream::connect(self.at).await?;
        let io = match &self.tls {
            Some(tls) => {
                let name = ServerName::try_from("istiod.istio-system.svc")?;
                Io::new(TlsConnector::from(tls.current()?).connect(name, stream).await?)
            }
            None => Io::new(stream),
        };
        Ok(match &self.token {
            Some(token) => io.with_token(token.clone(), None),
            None => io,
        })
    }
}

async fn update(client: &mut Client) -> Update {
    let wait = async {
        loop {
            match client.event().await.unwrap() {
                Event::Update(update) => return update,
                Event::Disconnected { error } => panic!("{error}"),
                Event::Connected => {}
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(30), wait).await.unwrap()
}

#[tokio::test]
async fn a_proxy_that_proves_itself_is_told_its_configuration() {
    let us = Mesh::new().cluster("us");
    let plane = us.control_plane(&[], None);
    plane.configuration.resources.send_replace(resources());
    let guard = plane.readiness.guard("first snapshot");
    let http = plane.addresses.http;
    let (status, body) = plane.get(http, "/ready").await;
    assert_eq!(status, 503);
    assert!(body.contains("first snapshot"), "{body}");
    drop(guard);
    assert_eq!(plane.get(http, "/ready").await.0, 200);

    let token = us.token("default", "sleep", Some("sleep-1"));
    let proxies = [
        (Workload::with_certificate(&plane, &us), Protocol::Delta),
        (Workload::in_plaintext(&plane, Some(token)), Protocol::Sotw),
    ];
    for (workload, protocol) in proxies {
        let mut client = workload.start(ID, protocol);
        let told = update(&mut client).await;
        assert_eq!(&*told.added[0].name, "outbound|80||a");
        client.ack(&told);
        until("acked", || {
            !plane.configuration.answers.lock().unwrap().is_empty()
        })
        .await;
        plane.configuration.answers.lock().unwrap().clear();
        let proxy = plane.configuration.opened.lock().unwrap().pop().unwrap();
        assert_eq!(
            (proxy.namespace.as_str(), proxy.service_account.as_str()),
            ("default", "sleep")
        );

        let (_, syncz) = plane.get(http, "/debug/syncz").await;
        let syncz: serde_json::Value = serde_json::from_str(&syncz).unwrap();
        assert_eq!(syncz[0]["proxy"], "sleep-1.default");
        assert_eq!(syncz[0]["cluster_sent"], "1");
        let (_, dump) = plane
            .get(http, "/debug/config_dump?proxyID=sleep-1.default")
            .await;
        assert!(
            dump.contains("outbound|80||a") && dump.contains("kubernetes://cert"),
            "{dump}"
        );
        drop(client);
        let mut gone = false;
        for _ in 0..3000 {
            gone = plane.get(http, "/debug/syncz").await.1.trim() == "[]";
            if gone {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert!(gone, "a closed stream is forgotten");
    }
    assert_eq!(
        plane
            .get(http, "/debug/config_dump?proxyID=sleep-1.default")
            .await
            .0,
        404
    );
    assert_eq!(plane.get(http, "/debug/registryz").await.1.trim(), "\"Registry\"");
    let (_, metrics) = plane.get(plane.addresses.monitoring, "/metrics").await;
    for line in [
        "pilot_xds_pushes{type=\"cds\"} 2",
        "pilot_xds 0",
        "pilot_services 7",
        "istiod_managed_clusters{cluster_type=\"local\"} 1",
        "pilot_proxy_convergence_time_count 2",
        "citadel_server_root_cert_expiry_seconds ",
    ] {
        assert!(
            metrics.lines().any(|l| l.starts_with(line)),
            "{line} is not in {metrics}"
        );
    }
    assert!(
        plane
            .get(plane.addresses.monitoring, "/version")
            .await
            .1
            .contains("test")
    );
    plane.stop().await;
}

#[tokio::test]
async fn a_proxy_that_comes_back_is_sent_nothing_and_counts_as_synced() {
    let us = Mesh::new().cluster("us");
    let plane = us.control_plane(&[], None);
    plane.configuration.resources.send_replace(resources());
    let mut first = Workload::with_certificate(&plane, &us).start(ID, Protocol::Delta);
    let told = update(&mut first).await;
    first.ack(&told);
    drop(first);

    let mut config = Config::new(Node {
        id: ID.into(),
        ..Default::default()
    });
    let held = told
        .added
        .iter()
        .map(|r| (told.ty.clone(), r.name.clone(), r.version.clone()));
    config.held = held.collect();
    let again = Client::start(config, Workload::with_certificate(&plane, &us));
    again.subscribe(TypeUrl::Cds, Wanted::All);
    let mut shown = String::new();
    for _ in 0..3000 {
        shown = plane.get(plane.addresses.http, "/debug/syncz").await.1;
        if shown.contains("\"cluster_sent\": \"held\"") {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(shown.contains("\"cluster_acked\": \"held\""), "{shown}");
}

#[tokio::test]
async fn streams_without_proof_or_under_a_false_name_are_refused() {
    let mesh = Mesh::new();
    let (us, eu) = (mesh.cluster("us"), mesh.cluster("eu"));
    let plane = us.control_plane(&[], None);
    plane.configuration.resources.send_replace(resources());
    let token = |token: String| Workload::in_plaintext(&plane, Some(token));

    let nothing = Workload::in_plaintext(&plane, None).refusal(ID).await;
    assert!(nothing.contains("no proof of identity"), "{nothing}");
    let other_cluster = token(eu.token("default", "sleep", None)).refusal(ID).await;
    assert!(
        other_cluster.contains("another cluster's token"),
        "{other_cluster}"
    );
    let other_certificate = Workload::with_certificate(&plane, &eu).refusal(ID).await;
    assert!(
        other_certificate.contains("belongs to cluster eu"),
        "{other_certificate}"
    );
    let other_name = token(us.token("bank", "vault", None)).refusal(ID).await;
    assert!(other_name.contains("proves namespace \"bank\""), "{other_name}");
    let other_pod = token(us.token("default", "sleep", Some("sleep-2")))
        .refusal(ID)
        .await;
    assert!(other_pod.contains("proves pod \"sleep-2\""), "{other_pod}");
    let stranger = Workload::with_certificate(&plane, &Mesh::new().cluster("us"))
        .refusal(ID)
        .await;
    assert!(!stranger.is_empty());
    // A workload that calls itself a control plane hears no more than any other.
    let pretender = Workload::with_certificate(&plane, &us)
        .refusal("control-plane~eu")
        .await;
    assert!(pretender.contains("is no control plane"), "{pretender}");
    assert!(plane.configuration.opened.lock().unwrap().is_empty());
}

#[tokio::test]
async fn certificates_are_signed_on_the_same_port() {
    let us = Mesh::new().cluster("us");
    let plane = us.control_plane(&[], None);
    let (token, roots) = us.mounted(&us.token("default", "sleep", Some("sleep-1")));
    let dial: PkiDial = RemoteAuthority::dial_directly();
    let source = RemoteAuthority {
        address: plane.addresses.xds.to_string(),
        transport: Transport::Tls {
            server_name: "istiod.istio-system.svc".into(),
            roots,
            own: None,
        },
        token: Some(token),
        cluster: "us".into(),
        trust_domain: domain(),
        dial,
    };
    let renewal = Renewal {
        identity: SpiffeId::new(domain(), "default", "sleep"),
        source: Arc::new(source),
        ttl: Duration::ZERO,
        algorithm: KeyAlgorithm::EcdsaP256,
    };
    let task = renewal.start();
    let mut credentials = task.credentials();
    let wait = credentials.wait_for(Option::is_some);
    let credential = tokio::time::timeout(Duration::from_secs(30), wait)
        .await
        .unwrap()
        .unwrap()
        .clone();
    assert_eq!(credential.unwrap().identity.service_account, "sleep");
}

#[tokio::test]
async fn a_port_in_use_is_an_error_with_a_remedy() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let any = "127.0.0.1:0".parse().unwrap();
    let addresses = Addresses {
        xds: taken.local_addr().unwrap(),
        plaintext: None,
        http: any,
        monitoring: any,
    };
    let error = Sockets::bind(&addresses).unwrap_err().to_string();
    assert!(
        error.contains("xDS over TLS") && error.contains("choose another port"),
        "{error}"
    );
}
