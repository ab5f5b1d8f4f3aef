//! Member clusters for the tests: authorities, credentials, control planes on loopback.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use arc_swap::ArcSwap;
use isthmus_model::{
    ClusterId, Endpoint, EndpointHealth, ExportTo, Labels, NetworkGateway, Port, Protocol, Resolution,
    Service, ServiceKey, ServiceOrigin, SpiffeId, TlsMode, TrustDomain,
};
use isthmus_pki::authority::{IntermediateRequest, RootRequest};
use isthmus_pki::token::{AUDIENCE, Members, PodReference};
use isthmus_pki::{
    Authority, CertificateService, Credential, Credentials, FirstOf, JwksAuthenticator, JwksConfig,
    KeyAlgorithm, LocalAuthority, PeerAuthenticator, PrivateKey, TokenIssuer, TokenRequest,
};
use isthmus_runtime::drain;
use isthmus_runtime::metrics::Metrics;
use isthmus_runtime::readiness::Readiness;
use isthmus_xds::Resources;
use isthmus_xds::server::Answer;
use tempfile::TempDir;
use tokio::sync::watch;

use crate::member::{MemberHead, MemberService, MemberState, PeerState};
use crate::peering::{self, Peering};
use crate::proxy::ProxyDescription;
use crate::serve::{self, Addresses, Configuration, Page, Parts, Sockets};

/// A root of trust.
pub(crate) struct Mesh(Authority);

impl Mesh {
    pub fn new() -> Self {
        let request = RootRequest {
            algorithm: KeyAlgorithm::EcdsaP256,
            ..Default::default()
        };
        Self(Authority::create_root(&request).unwrap())
    }

    pub fn cluster(&self, id: &str) -> Cluster {
        let mut request = IntermediateRequest::new(id.into());
        request.algorithm = KeyAlgorithm::EcdsaP256;
        let folder = TempDir::new().unwrap();
        let issuer = TokenIssuer::generate(format!("https://{id}")).unwrap();
        std::fs::write(folder.path().join("keys.json"), issuer.key_set()).unwrap();
        Cluster {
            id: id.into(),
            authority: Arc::new(self.0.create_intermediate(&request).unwrap()),
            issuer,
            folder,
        }
    }

    pub fn fingerprint(&self) -> String {
        self.0.certificate().fingerprint().to_string()
    }
}

pub(crate) fn domain() -> TrustDomain {
    "corp.local".parse().unwrap()
}

/// A member cluster: who signs for it.
pub(crate) struct Cluster {
    pub id: ClusterId,
    pub authority: Arc<Authority>,
    issuer: TokenIssuer,
    folder: TempDir,
}

impl Cluster {
    pub fn credentials(&self, namespace: &str, account: &str) -> Credentials {
        let identity = SpiffeId::new(domain(), namespace, account);
        let key = PrivateKey::generate(KeyAlgorithm::EcdsaP256).unwrap();
        let names = LocalAuthority::control_plane_names("istiod", "istio-system", "cluster.local");
        let names = if account == "istiod" { names } else { Vec::new() };
        let request = key.certificate_request(&identity).unwrap();
        let issued = self
            .authority
            .issue_with_names(&request, &identity, &names, Duration::ZERO)
            .unwrap();
        let credential = Credential::from_answer(identity, key, &issued.chain, None).unwrap();
        isthmus_pki::credential::fixed(Arc::new(credential))
    }

    pub fn token(&self, namespace: &str, account: &str, pod: Option<&str>) -> String {
        let request = TokenRequest {
            namespace: namespace.into(),
            service_account: account.into(),
            pod: pod.map(|name| PodReference {
                name: name.into(),
                uid: "1".into(),
            }),
            audiences: vec![AUDIENCE.into()],
            validity: Duration::from_secs(600),
        };
        self.issuer.mint(&request).unwrap()
    }

    /// The file of a token, and that of the mesh's root.
    pub fn mounted(&self, token: &str) -> (PathBuf, PathBuf) {
        let (at, roots) = (
            self.folder.path().join("token"),
            self.folder.path().join("root-cert.pem"),
        );
        std::fs::write(&at, token).unwrap();
        std::fs::write(&roots, self.authority.roots().to_pem()).unwrap();
        (at, roots)
    }

    pub fn store(&self) -> &Path {
        self.folder.path()
    }

    /// A control plane that dials these peers, on these addresses or any.
    pub fn control_plane(&self, peers: &[(&str, SocketAddr)], at: Option<SocketAddr>) -> ControlPlane {
        self.control_plane_with(peers, at, self.credentials("istio-system", "istiod"))
    }

    pub fn control_plane_with(
        &self,
        peers: &[(&str, SocketAddr)],
        at: Option<SocketAddr>,
        credentials: Credentials,
    ) -> ControlPlane {
        let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
        let addresses = Addresses {
            xds: at.unwrap_or(any),
            plaintext: Some(any),
            http: any,
            monitoring: any,
        };
        let sockets = Sockets::bind(&addresses).unwrap();
        let addresses = sockets.addresses().unwrap();
        let (trigger, watcher) = drain::channel();
        let (own, own_state) = watch::channel(Arc::new(MemberState {
            head: Arc::new(MemberHead {
                cluster: self.id.clone(),
                network: format!("{}-net", self.id).into(),
                trust_domain: domain(),
                ..Default::default()
            }),
            services: BTreeMap::new(),
        }));
        let config = peering::Config {
            cluster: self.id.clone(),
            trust_domains: vec![domain()],
            namespace: "istio-system".into(),
            peers: peers
                .iter()
                .map(|(id, at)| (ClusterId::from(*id), at.to_string()))
                .collect(),
            credentials: credentials.clone(),
            store: Some(self.store().to_owned()),
            pulse: Duration::from_millis(200),
        };
        let (peering, peers) = Peering::start(config, own_state, &watcher);
        let authority = Arc::new(ArcSwap::new(self.authority.clone()));
        let authenticator = Arc::new(FirstOf(vec![
            Arc::new(JwksAuthenticator::new(JwksConfig {
                cluster: self.id.clone(),
                keys: self.folder.path().join("keys.json"),
                issuers: vec![self.issuer.issuer().to_owned()],
                audiences: vec![AUDIENCE.to_owned()],
            })),
            Arc::new(PeerAuthenticator {
                trust_domains: vec![domain()],
                members: Members::Only(self.id.clone()),
            }),
        ]));
        let configuration = Arc::new(Told::default());
        let readiness = Readiness::new();
        let certificates = CertificateService::new(
            authenticator.clone(),
            authority.clone(),
            domain(),
            Default::default(),
        );
        let parts = Parts {
            cluster: self.id.clone(),
            trust_domain: domain(),
            configuration: configuration.clone(),
            authenticator,
            certificates: certificates.into_server(),
            credentials,
            authority,
            peering: Some(peering.clone()),
            remotes: None,
            readiness: readiness.clone(),
            metrics: Metrics::new(),
            version: serde_json::json!({ "version": "test" }),
        };
        let task = tokio::spawn(serve::run(sockets, parts, watcher));
        ControlPlane {
            addresses,
            own,
            peers,
            peering,
            configuration,
            readiness,
            trigger,
            task,
        }
    }
}

/// A running control plane.
pub(crate) struct ControlPlane {
    pub addresses: Addresses,
    pub own: watch::Sender<Arc<MemberState>>,
    pub peers: watch::Receiver<PeerState>,
    pub peering: Peering,
    pub configuration: Arc<Told>,
    pub readiness: Readiness,
    trigger: drain::Trigger,
    task: tokio::task::JoinHandle<std::io::Result<()>>,
}

impl ControlPlane {
    pub async fn stop(self) {
        drop(self.peers);
        drop(self.own);
        self.trigger.drain(Duration::from_secs(10)).await;
        self.task.await.unwrap().unwrap();
    }

    /// What is known of one peer.
    pub fn member(&self, id: &str) -> Option<crate::member::Peer> {
        self.peers.borrow().members.get(&ClusterId::from(id)).cloned()
    }

    /// Changes what this cluster exports.
    pub fn export(&self, change: impl FnOnce(&mut MemberState)) {
        self.own.send_modify(|state| change(Arc::make_mut(state)));
    }

    pub async fn get(&self, at: SocketAddr, path: &str) -> (u16, String) {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let mut stream = tokio::net::TcpStream::connect(at).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
    }
}

/// What the proxies of a test are told.
#[derive(Default)]
pub(crate) struct Told {
    pub resources: watch::Sender<Arc<Resources>>,
    pub opened: Mutex<Vec<ProxyDescription>>,
    pub answers: Mutex<Vec<Answer>>,
}

impl Configuration for Told {
    async fn open(&self, proxy: ProxyDescription) -> watch::Receiver<Arc<Resources>> {
        self.opened.lock().unwrap().push(proxy);
        self.resources.subscribe()
    }

    fn answered(&self, _: &ProxyDescription, answer: &Answer) {
        self.answers.lock().unwrap().push(answer.clone());
    }

    fn page(&self, page: Page) -> serde_json::Value {
        format!("{page:?}").into()
    }

    fn services(&self) -> usize {
        7
    }
}

/// A Kubernetes service with one endpoint in a cluster.
pub(crate) fn service(name: &str, cluster: &str, address: &str) -> MemberService {
    let host = format!("{name}.default.svc.cluster.local").parse().unwrap();
    MemberService {
        service: Service {
            key: ServiceKey {
                namespace: "default".into(),
                host,
            },
            origin: ServiceOrigin::Kubernetes,
            ports: vec![Port {
                number: 9080,
                name: "http".into(),
                protocol: Protocol::Http,
            }],
            addresses: BTreeMap::from([(cluster.into(), vec!["10.96.0.10".parse().unwrap()])]),
            headless: false,
            resolution: Resolution::Static,
            labels: Labels::from_iter([("app", name)]),
            export_to: ExportTo::Namespaces(vec!["default".into(), "other".into()]),
            subject_alt_names: vec![],
        },
        endpoints: vec![endpoint(name, cluster, address)],
    }
}

pub(crate) fn endpoint(name: &str, cluster: &str, address: &str) -> Endpoint {
    Endpoint {
        address: address.parse().unwrap(),
        port: 9080,
        port_name: "http".into(),
        labels: Labels::from_iter([("app", name), ("version", "v1")]),
        locality: "eu/eu-a/1".parse().unwrap(),
        network: format!("{cluster}-net").into(),
        cluster: cluster.into(),
        identity: Some(SpiffeId::new(domain(), "default", name)),
        tls_mode: TlsMode::Istio,
        weight: 3,
        health: EndpointHealth::Draining,
        workload: format!("{name}-1"),
        owner: name.into(),
        namespace: "default".into(),
    }
}

pub(crate) fn gateway(cluster: &str) -> NetworkGateway {
    NetworkGateway {
        network: format!("{cluster}-net").into(),
        cluster: cluster.into(),
        address: "172.30.0.2".parse().unwrap(),
        port: 15443,
        locality: "eu/eu-a".parse().unwrap(),
    }
}

/// Waits for something, patiently: the tests share slow machines.
pub(crate) async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    for _ in 0..3000 {
        if holds() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("never: {what}");
}
