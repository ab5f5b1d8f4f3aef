//! A cluster's secret comes, is rotated, goes; its API server dies and comes back.

use std::time::Duration;

use isthmus_api::source::{Sink, Source, SourceError, SourceFuture};

use super::*;
use crate::member::MemberState;
use crate::peering::Peers;
use crate::push::{self, Feeds, Objects};
use crate::snapshot::builder::Builder;
use crate::test_mesh::until;
use crate::test_told;

/// Where a cluster that was opened with a kubeconfig is told what happens.
type Opened = Arc<Mutex<BTreeMap<String, Box<dyn Sink>>>>;

/// Clusters that speak when the test says so.
#[derive(Clone, Default)]
struct Stage(Opened);

struct Silent(Opened, String);

impl Source for Silent {
    fn run(self: Box<Self>, sink: Box<dyn Sink>) -> SourceFuture {
        self.0.lock().unwrap().insert(self.1.clone(), sink);
        Box::pin(std::future::pending())
    }
}

impl ClusterConnector for Stage {
    fn connect(&self, _: &ClusterId, kubeconfig: &[u8]) -> Result<Box<dyn Source>, SourceError> {
        match std::str::from_utf8(kubeconfig).unwrap() {
            "broken" => Err(SourceError::Unreadable {
                what: "the kubeconfig".into(),
                why: "it is broken".into(),
            }),
            name => Ok(Box::new(Silent(Arc::clone(&self.0), name.into()))),
        }
    }
}

impl Stage {
    /// What the cluster behind a kubeconfig tells.
    async fn tell(&self, kubeconfig: &str, changes: Vec<Change>) {
        until("opened", || self.0.lock().unwrap().contains_key(kubeconfig)).await;
        self.0.lock().unwrap().get_mut(kubeconfig).unwrap().send(changes);
    }
}

struct Scene {
    stage: Stage,
    objects: mpsc::UnboundedSender<Vec<Change>>,
    remotes: Remotes,
    told: watch::Receiver<PeerState>,
    findings: mpsc::UnboundedReceiver<Vec<Change>>,
    store: tempfile::TempDir,
    _trigger: drain::Trigger,
    _peers: watch::Sender<PeerState>,
}

fn put(yaml: &str) -> Vec<Change> {
    let parsed = isthmus_api::parse(yaml, "");
    assert!(!parsed.has_errors(), "{:?}", parsed.findings);
    parsed.objects.into_iter().map(Change::Put).collect()
}

fn secret(kubeconfig: &str) -> Vec<Change> {
    put(&format!(
        "apiVersion: v1\nkind: Secret\nmetadata: {{name: istio-remote-secret-eu, namespace: istio-system, labels: {{istio/multiCluster: \"true\"}}}}\nstringData: {{eu: {kubeconfig}}}\n"
    ))
}

fn secret_key() -> ObjectKey {
    ObjectKey {
        kind: isthmus_api::Kind::Secret,
        namespace: "istio-system".into(),
        name: "istio-remote-secret-eu".into(),
    }
}

/// A cluster with one service and one pod.
fn world(address: &str) -> Vec<Change> {
    put(&[
        "apiVersion: v1\nkind: Namespace\nmetadata: {name: istio-system, labels: {topology.istio.io/network: eu-net}}\n---\n"
            .to_owned(),
        test_told::service("reviews", "default", "10.8.0.1", "{name: http, port: 9080}"),
        test_told::pod("reviews-v1", "default", address, "eu-1", "app: reviews"),
        format!(
            "\n---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{name: reviews-1, namespace: default, labels: {{kubernetes.io/service-name: reviews}}}}\naddressType: IPv4\nendpoints: [{{addresses: [{address}], conditions: {{ready: true}}}}]\nports: [{{name: http, port: 9080}}]\n"
        ),
    ]
    .concat())
}

fn trouble(scope: &str, code: &'static codes::Code, message: &str) -> Vec<Change> {
    vec![Change::Findings {
        scope: Arc::from(scope),
        findings: vec![Finding::new(code, message, "")],
    }]
}

fn well(scope: &str) -> Vec<Change> {
    vec![Change::Findings {
        scope: Arc::from(scope),
        findings: Vec::new(),
    }]
}

impl Scene {
    async fn begin(store: tempfile::TempDir) -> Self {
        let (objects, changes) = mpsc::unbounded_channel();
        let (peers_sender, peers) = watch::channel(PeerState::default());
        let (exported, _) = watch::channel(Arc::<MemberState>::default());
        let identity = crate::mesh::Identity {
            cluster: "us".into(),
            network: "us-net".into(),
            mesh_id: String::new(),
            trust_domain: None,
            root_namespace: "istio-system".into(),
        };
        let feeds = Feeds {
            changes,
            sources: 1,
            peers,
            exported,
        };
        let plane = ControlPlane::new();
        let builder = Builder::new(identity, Peers::new(), None);
        tokio::spawn(push::run(plane.clone(), Objects::default(), builder, feeds));
        let stage = Stage::default();
        let (findings, said) = mpsc::unbounded_channel();
        let (trigger, watcher) = drain::channel();
        let config = Config {
            own: "us".into(),
            connector: Arc::new(stage.clone()),
            store: store.path().to_owned(),
            findings,
        };
        let (remotes, told) = Remotes::start(config, &plane, &watcher);
        objects.send(secret("first")).unwrap();
        objects.send(vec![Change::Synced]).unwrap();
        Self {
            stage,
            objects,
            remotes,
            told,
            findings: said,
            store,
            _trigger: trigger,
            _peers: peers_sender,
        }
    }

    /// Addresses of the remote cluster's endpoints.
    fn endpoints(&self) -> Vec<String> {
        let state = self.told.borrow();
        let Some(peer) = state.members.get(&ClusterId::from("eu")) else {
            return Vec::new();
        };
        let services = peer.state.services.values();
        services
            .flat_map(|s| s.endpoints.iter().map(|e| e.address.to_string()))
            .collect()
    }

    fn row(&self) -> Value {
        self.remotes.page().into_iter().next().unwrap_or_default()
    }
}

#[tokio::test]
async fn a_dead_api_server_leaves_the_last_endpoints_with_age_and_error() {
    let s = Scene::begin(tempfile::tempdir().unwrap()).await;
    s.stage.tell("first", world("10.9.0.1")).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(s.endpoints().is_empty(), "half a cluster is none");
    assert_eq!(s.row()["syncStatus"], "syncing");
    s.stage.tell("first", vec![Change::Synced]).await;
    until("read", || s.endpoints() == ["10.9.0.1"]).await;
    {
        let state = s.told.borrow();
        let peer = &state.members[&ClusterId::from("eu")];
        assert!(peer.connected);
        assert_eq!(peer.state.head.network.as_str(), "eu-net");
        assert_eq!(peer.state.head.cluster.as_str(), "eu");
    }
    let row = s.row();
    assert_eq!(
        (&row["syncStatus"], &row["endpoints"]),
        (&json!("synced"), &json!(1))
    );
    assert_eq!(row["secretName"], "istio-system/istio-remote-secret-eu");

    s.stage
        .tell(
            "first",
            trouble("API server x", &codes::API_SERVER_AWAY, "connection refused"),
        )
        .await;
    until("away", || s.row()["syncStatus"] == "stale").await;
    assert_eq!(s.endpoints(), ["10.9.0.1"]);
    assert_eq!(s.row()["error"], "connection refused");
    until("its age grows", || s.row()["ageSeconds"].as_u64() >= Some(2)).await;
    s.stage.tell("first", well("API server x")).await;
    until("back", || {
        s.row()["syncStatus"] == "synced" && s.row()["error"].is_null()
    })
    .await;

    // What was known outlives this control plane, even if the cluster does not answer it.
    until("kept", || std::fs::read_dir(s.store.path()).unwrap().count() == 1).await;
    let Scene { store, .. } = s;
    let s = Scene::begin(store).await;
    until("known from before", || s.endpoints() == ["10.9.0.1"]).await;
    assert_eq!(s.row()["syncStatus"], "stale");
}

#[tokio::test]
async fn a_rotated_secret_takes_over_only_when_it_works_and_one_that_is_replaced_empties_nothing() {
    let mut s = Scene::begin(tempfile::tempdir().unwrap()).await;
    s.stage
        .tell("first", [world("10.9.0.1"), vec![Change::Synced]].concat())
        .await;
    until("read", || s.endpoints() == ["10.9.0.1"]).await;

    // A kubeconfig that cannot be used, one whose account may see nothing, and one that works.
    s.objects.send(secret("broken")).unwrap();
    until("refused", || {
        s.row()["error"]
            .as_str()
            .is_some_and(|e| e.contains("it is broken"))
    })
    .await;
    let said = s.findings.recv().await.unwrap();
    assert!(
        matches!(&said[..], [Change::Findings { findings, .. }] if findings[0].code.id == "ISM0113"),
        "{said:?}"
    );
    s.objects.send(secret("second")).unwrap();
    let forbidden = trouble("services", &codes::NOT_PERMITTED, "services is forbidden");
    s.stage
        .tell("second", [forbidden, vec![Change::Synced]].concat())
        .await;
    until("said", || s.row()["error"] == "services is forbidden").await;
    assert_eq!(s.endpoints(), ["10.9.0.1"]);
    s.stage.tell("first", world("10.9.0.2")).await;
    until("the old one still speaks", || s.endpoints() == ["10.9.0.2"]).await;
    s.stage
        .tell("second", [well("services"), world("10.9.0.3")].concat())
        .await;
    until("taken over", || {
        s.endpoints() == ["10.9.0.3"] && s.row()["error"].is_null()
    })
    .await;

    // kubectl replace --force: gone for a moment, with another kubeconfig a moment later.
    let seen = s.told.clone();
    s.objects.send(vec![Change::Delete(secret_key())]).unwrap();
    tokio::time::sleep(Duration::from_millis(500)).await;
    s.objects.send(secret("third")).unwrap();
    s.stage
        .tell("third", [world("10.9.0.4"), vec![Change::Synced]].concat())
        .await;
    until("replaced", || {
        assert!(seen.borrow().members.contains_key(&ClusterId::from("eu")));
        s.endpoints() == ["10.9.0.4"]
    })
    .await;

    s.objects.send(vec![Change::Delete(secret_key())]).unwrap();
    until("gone", || s.told.borrow().members.is_empty()).await;
    assert!(s.remotes.page().is_empty());
}

#[test]
fn a_peer_that_speaks_goes_before_what_is_read() {
    let peer = |connected, seconds, network: &str| {
        let mut state = MemberState::default();
        Arc::make_mut(&mut state.head).network = network.into();
        crate::member::Peer {
            state: Arc::new(state),
            connected,
            heard: SystemTime::UNIX_EPOCH + Duration::from_secs(seconds),
        }
    };
    let of = |peer| PeerState {
        members: BTreeMap::from([(ClusterId::from("eu"), peer)]),
    };
    let network = |peers: &PeerState, remotes: &PeerState| {
        let all = merged(peers, remotes);
        all.members[&ClusterId::from("eu")].state.head.network.to_string()
    };
    let read = of(peer(true, 50, "read"));
    assert_eq!(network(&of(peer(true, 10, "told")), &read), "told");
    assert_eq!(network(&of(peer(false, 60, "told")), &read), "read");
    let dead = of(peer(false, 50, "read"));
    assert_eq!(network(&of(peer(false, 60, "told")), &dead), "told");
    assert_eq!(network(&of(peer(false, 10, "told")), &dead), "read");
    assert_eq!(network(&PeerState::default(), &dead), "read");
}
