//! A control plane's CSR service on a real socket, and workloads that renew against it.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use isthmus_model::SpiffeId;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_stream::StreamExt;
use tonic::Code;

use super::*;
use crate::authority::{Authority, IntermediateRequest, RootRequest};
use crate::credential::{ClientCertificates, Credential, Credentials, LiveServer, TlsOptions};
use crate::key::{KeyAlgorithm, PrivateKey};
use crate::renewal::{Renewal, RenewalTask};
use crate::token::{
    AUDIENCE, FirstOf, JwksAuthenticator, JwksConfig, Members, PeerAuthenticator, TokenIssuer, TokenRequest,
};
use crate::verify::Expected;

const SLEEP: &str = "spiffe://corp.local/ns/default/sa/sleep";
const SERVER_NAME: &str = "istiod.istio-system.svc";
/// No condition takes this long, however slow the machine.
const GENEROUS: Duration = Duration::from_secs(60);

fn root() -> Authority {
    Authority::create_root(&RootRequest {
        algorithm: KeyAlgorithm::EcdsaP256,
        ..RootRequest::default()
    })
    .unwrap()
}

fn intermediate(root: &Authority) -> Authority {
    root.create_intermediate(&IntermediateRequest {
        algorithm: KeyAlgorithm::EcdsaP256,
        ..IntermediateRequest::new("us".into())
    })
    .unwrap()
}

/// A control plane of cluster `us` as far as certificates go.
struct ControlPlane {
    authority: Arc<ArcSwap<Authority>>,
    issuer: TokenIssuer,
    files: tempfile::TempDir,
    own: RenewalTask,
    address: SocketAddr,
    serving: Option<JoinHandle<()>>,
    limits: Limits,
}

impl ControlPlane {
    async fn start() -> Self {
        Self::with_limits(Limits::default()).await
    }

    async fn with_limits(limits: Limits) -> Self {
        let authority = Arc::new(ArcSwap::from_pointee(intermediate(&root())));
        let files = tempfile::tempdir().unwrap();
        let issuer = TokenIssuer::generate("https://us").unwrap();
        std::fs::write(files.path().join("jwks.json"), issuer.key_set()).unwrap();
        std::fs::write(
            files.path().join("root-cert.pem"),
            authority.load().roots().to_pem(),
        )
        .unwrap();
        let identity: SpiffeId = "spiffe://corp.local/ns/istio-system/sa/istiod".parse().unwrap();
        let own = Renewal {
            identity: identity.clone(),
            source: Arc::new(LocalAuthority {
                authority: authority.clone(),
                identity,
                dns_names: LocalAuthority::control_plane_names("istiod", "istio-system", "cluster.local"),
            }),
            ttl: Duration::ZERO,
            algorithm: KeyAlgorithm::EcdsaP256,
        }
        .start();
        own.first().await.unwrap();
        let mut plane = Self {
            authority,
            issuer,
            files,
            own,
            address: SocketAddr::from(([127, 0, 0, 1], 0)),
            serving: None,
            limits,
        };
        plane.serve().await;
        plane
    }

    /// Serves on the address it had before, if any.
    async fn serve(&mut self) {
        let listener = TcpListener::bind(self.address).await.unwrap();
        self.address = listener.local_addr().unwrap();
        let tokens = JwksAuthenticator::new(JwksConfig {
            cluster: "us".into(),
            keys: self.files.path().join("jwks.json"),
            issuers: vec!["https://us".to_owned()],
            audiences: vec![AUDIENCE.to_owned()],
        });
        let peers = PeerAuthenticator {
            trust_domains: vec!["corp.local".parse().unwrap()],
            members: Members::Only("us".into()),
        };
        let service = CertificateService::new(
            Arc::new(FirstOf(vec![Arc::new(tokens), Arc::new(peers)])),
            self.authority.clone(),
            "corp.local".parse().unwrap(),
            self.limits,
        );
        let live = Arc::new(LiveServer::new(
            self.own.credentials(),
            ClientCertificates::Optional(Expected::anyone()),
            TlsOptions::alpn(["h2"]),
        ));
        let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener)
            .then(move |tcp| {
                let live = live.clone();
                async move { accept(&live, tcp?, Duration::from_secs(10)).await }
            })
            // A failed handshake is one connection's end, not the listener's.
            .filter(Result::is_ok);
        let server = tonic::transport::Server::builder();
        let service = service.into_server();
        self.serving = Some(tokio::spawn(async move {
            server.serve_with_incoming(service, incoming).await.unwrap();
        }));
    }

    async fn stop(&mut self) {
        let serving = self.serving.take().unwrap();
        serving.abort();
        let _ = serving.await;
    }

    fn root_file(&self) -> PathBuf {
        self.files.path().join("root-cert.pem")
    }

    /// Writes a token of `default/sleep` to a file.
    fn token(&self, name: &str, change: impl FnOnce(&mut TokenRequest)) -> PathBuf {
        let mut request = TokenRequest {
            namespace: "default".to_owned(),
            service_account: "sleep".to_owned(),
            pod: None,
            audiences: vec![AUDIENCE.to_owned()],
            validity: Duration::from_secs(600),
        };
        change(&mut request);
        let path = self.files.path().join(name);
        std::fs::write(&path, self.issuer.mint(&request).unwrap() + "\n").unwrap();
        path
    }

    fn source(&self, token: Option<PathBuf>, own: Option<Credentials>) -> RemoteAuthority {
        RemoteAuthority {
            address: self.address.to_string(),
            transport: Transport::Tls {
                server_name: SERVER_NAME.to_owned(),
                roots: self.root_file(),
                own,
            },
            token,
            cluster: "us".into(),
            trust_domain: "corp.local".parse().unwrap(),
            dial: RemoteAuthority::dial_directly(),
        }
    }

    fn renewal(&self, ttl: Duration) -> Renewal {
        Renewal {
            identity: SLEEP.parse().unwrap(),
            source: Arc::new(self.source(Some(self.token("sleep", |_| {})), None)),
            ttl,
            algorithm: KeyAlgorithm::EcdsaP256,
        }
    }
}

impl Drop for ControlPlane {
    fn drop(&mut self) {
        if let Some(serving) = &self.serving {
            serving.abort();
        }
    }
}

fn csr(identity: &str) -> String {
    let key = PrivateKey::generate(KeyAlgorithm::EcdsaP256).unwrap();
    key.certificate_request(&identity.parse().unwrap()).unwrap()
}

fn code(result: Result<Answer, SourceError>) -> (Code, String) {
    match result {
        Err(SourceError::Refused { code, message, .. }) => (code, message),
        other => panic!("expected a refusal, not {other:?}"),
    }
}

async fn next(credentials: &mut Credentials) -> Arc<Credential> {
    tokio::time::timeout(GENEROUS, credentials.changed())
        .await
        .expect("a new credential in time")
        .unwrap();
    credentials.borrow_and_update().clone().unwrap()
}

#[tokio::test]
async fn a_token_becomes_a_certificate() {
    let plane = ControlPlane::start().await;
    let task = plane.renewal(Duration::ZERO).start();
    let credential = tokio::time::timeout(GENEROUS, task.first())
        .await
        .unwrap()
        .unwrap();
    assert_eq!(credential.identity.to_string(), SLEEP);
    assert_eq!(credential.chain.len(), 3, "leaf, intermediate, root");
    let left = credential.remaining(SystemTime::now());
    assert!(left > Duration::from_secs(23 * 3600) && left <= Duration::from_secs(24 * 3600));
}

#[tokio::test]
async fn the_present_certificate_is_proof_for_the_next() {
    let plane = ControlPlane::start().await;
    let task = plane.renewal(Duration::ZERO).start();
    task.first().await.unwrap();
    let by_certificate = plane.source(None, Some(task.credentials()));
    by_certificate.sign(csr(SLEEP), Duration::ZERO).await.unwrap();
    let (code, _) = code(
        by_certificate
            .sign(csr("spiffe://corp.local/ns/default/sa/admin"), Duration::ZERO)
            .await,
    );
    assert_eq!(code, Code::PermissionDenied);
}

#[tokio::test]
async fn without_proof_or_with_a_wrong_one_there_is_no_certificate() {
    let plane = ControlPlane::start().await;
    let sign =
        async |token: Option<PathBuf>| code(plane.source(token, None).sign(csr(SLEEP), Duration::ZERO).await);
    let (status, reason) = sign(None).await;
    assert_eq!(status, Code::Unauthenticated, "{reason}");

    let vault = plane.token("vault", |t| t.audiences = vec!["vault".to_owned()]);
    let (status, reason) = sign(Some(vault)).await;
    assert_eq!(status, Code::Unauthenticated);
    assert!(reason.contains("vault") && reason.contains(AUDIENCE), "{reason}");

    let other = TokenIssuer::generate("https://us").unwrap();
    let foreign = plane.files.path().join("foreign");
    let request = TokenRequest {
        namespace: "default".to_owned(),
        service_account: "sleep".to_owned(),
        pod: None,
        audiences: vec![AUDIENCE.to_owned()],
        validity: Duration::from_secs(600),
    };
    std::fs::write(&foreign, other.mint(&request).unwrap()).unwrap();
    let (status, reason) = sign(Some(foreign)).await;
    assert_eq!(status, Code::Unauthenticated);
    assert!(reason.contains("another cluster's token"), "{reason}");

    let own = plane.token("own", |_| {});
    let mut source = plane.source(Some(own.clone()), None);
    source.cluster = "eu".into();
    let (status, _) = code(source.sign(csr(SLEEP), Duration::ZERO).await);
    assert_eq!(status, Code::PermissionDenied);

    let source = plane.source(Some(own), None);
    let admin = csr("spiffe://corp.local/ns/default/sa/admin");
    let (status, reason) = code(source.sign(admin, Duration::ZERO).await);
    assert_eq!(status, Code::PermissionDenied);
    assert!(reason.contains("sa/admin"), "{reason}");
    let (status, _) = code(source.sign("garbage".to_owned(), Duration::ZERO).await);
    assert_eq!(status, Code::InvalidArgument);
    let (status, _) = code(source.sign("x".repeat(1 << 20), Duration::ZERO).await);
    assert_eq!(status, Code::OutOfRange, "larger than any request");
}

#[tokio::test]
async fn a_flood_is_slowed_down() {
    let plane = ControlPlane::with_limits(Limits {
        burst: 2,
        per_second: 0.001,
        ..Limits::default()
    })
    .await;
    let source = plane.source(Some(plane.token("sleep", |_| {})), None);
    for _ in 0..2 {
        source.sign(csr(SLEEP), Duration::ZERO).await.unwrap();
    }
    let (status, _) = code(source.sign(csr(SLEEP), Duration::ZERO).await);
    assert_eq!(status, Code::ResourceExhausted);
}

#[tokio::test]
async fn a_workload_does_not_hand_its_token_to_a_stranger() {
    let plane = ControlPlane::start().await;
    let stranger = root();
    std::fs::write(plane.root_file(), stranger.roots().to_pem()).unwrap();
    let source = plane.source(Some(plane.token("sleep", |_| {})), None);
    let refused = source
        .sign(csr(SLEEP), Duration::ZERO)
        .await
        .unwrap_err()
        .to_string();
    for root in [
        stranger.certificate().fingerprint(),
        plane.authority.load().anchor().fingerprint(),
    ] {
        assert!(refused.contains(&root.to_string()), "{refused}");
    }
}

#[tokio::test]
async fn renewal_outlives_an_outage_and_takes_new_roots_over() {
    let mut plane = ControlPlane::start().await;
    let task = plane.renewal(Duration::from_secs(20)).start();
    let mut credentials = task.credentials();
    let first = next(&mut credentials).await;

    plane.stop().await;
    task.renew_now();
    let mut status = task.status();
    tokio::time::timeout(GENEROUS, status.wait_for(|s| s.failures >= 2))
        .await
        .expect("failures are counted")
        .unwrap();
    let kept = credentials.borrow().clone().unwrap();
    assert!(Arc::ptr_eq(&kept, &first), "the present one stays in use");
    assert!(
        status
            .borrow()
            .last_error
            .as_ref()
            .unwrap()
            .contains("no connection")
    );

    // The authority comes back with a second root beside the first.
    let coming = root();
    let current = plane.authority.load_full();
    let both = coming.roots().to_pem() + &current.roots().to_pem();
    let chain: String = current.intermediates().map(|c| c.to_pem()).collect();
    let set = crate::authority::FileSet {
        origin: "cacerts".to_owned(),
        files: [
            ("ca-cert.pem", current.certificate().to_pem()),
            ("ca-key.pem", current.key().to_pem().to_string()),
            ("cert-chain.pem", chain),
            ("root-cert.pem", both),
        ]
        .map(|(name, text)| (name.to_owned(), text.into_bytes()))
        .into(),
    };
    plane
        .authority
        .store(Arc::new(Authority::from_files(&set).unwrap()));
    plane.serve().await;
    let second = next(&mut credentials).await;
    assert_ne!(second.serial, first.serial);
    assert_ne!(
        second.chain[0].public_key_info, first.chain[0].public_key_info,
        "a new key each time"
    );
    let trusted = second.bundle.fingerprints();
    assert!(
        trusted.contains(&coming.certificate().fingerprint()),
        "{trusted:?}"
    );
    assert_eq!(status.borrow_and_update().failures, 0);
}

#[tokio::test]
async fn a_short_certificate_is_renewed_at_half_its_life() {
    let plane = ControlPlane::start().await;
    let task = plane.renewal(Duration::from_secs(6)).start();
    let mut credentials = task.credentials();
    let first = next(&mut credentials).await;
    let second = next(&mut credentials).await;
    assert_ne!(first.serial, second.serial);
    assert!(first.is_valid(SystemTime::now()), "replaced before its end");
}

#[tokio::test]
async fn the_control_plane_serves_under_all_its_names() {
    let plane = ControlPlane::start().await;
    let own = plane.own.first().await.unwrap();
    for name in [
        "istiod.istio-system.svc",
        "istiod.istio-system.svc.cluster.local",
        "istiod.istio-system",
        "istiod",
    ] {
        assert!(own.chain[0].dns_names.iter().any(|n| n == name), "{name}");
    }
}

#[tokio::test]
async fn dropping_the_task_stops_renewal_and_keeps_the_credential() {
    struct Counting(watch::Sender<u32>, Arc<ArcSwap<Authority>>);
    impl CertificateSource for Counting {
        fn sign<'a>(
            &'a self,
            request: String,
            ttl: Duration,
        ) -> futures_util::future::BoxFuture<'a, Result<Answer, SourceError>> {
            self.0.send_modify(|n| *n += 1);
            let issued = self.1.load().issue(&request, &SLEEP.parse().unwrap(), ttl);
            Box::pin(async move {
                Ok(Answer {
                    chain: issued?.chain,
                    trusted: None,
                })
            })
        }
    }
    let count = watch::Sender::new(0);
    let source = Counting(count.clone(), Arc::new(ArcSwap::from_pointee(root())));
    let task = Renewal {
        identity: SLEEP.parse().unwrap(),
        source: Arc::new(source),
        ttl: Duration::from_secs(2),
        algorithm: KeyAlgorithm::EcdsaP256,
    }
    .start();
    let credentials = task.credentials();
    task.first().await.unwrap();
    drop(task);
    let so_far = *count.borrow();
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(*count.borrow(), so_far);
    assert!(credentials.borrow().is_some());
}
