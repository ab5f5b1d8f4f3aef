//! Client and server over real HTTP/2, both protocols, through connections that break.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test")]

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use isthmus_xds::client::{Backoff, Client, Config, Dial, DialError, Event, Io, Protocol, Update, Wanted};
use isthmus_xds::envoy::cluster::Cluster;
use isthmus_xds::envoy::core::Node;
use isthmus_xds::server::Answer;
use isthmus_xds::server::service::{Ads, Source, StreamInfo};
use isthmus_xds::{Resource, ResourceSet, Resources, TypeUrl};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tonic::Status;

#[derive(Default)]
struct ControlPlane {
    published: watch::Sender<Arc<Resources>>,
    open: Mutex<HashMap<u64, String>>,
    answers: Mutex<Vec<Answer>>,
}

impl Source for ControlPlane {
    async fn open(&self, stream: &StreamInfo) -> Result<watch::Receiver<Arc<Resources>>, Status> {
        if stream.peer.token.as_deref() != Some("secret") {
            return Err(Status::unauthenticated("who are you?"));
        }
        assert_eq!(stream.peer.cluster.as_deref(), Some("us"));
        self.open
            .lock()
            .unwrap()
            .insert(stream.id, stream.node.id.clone());
        Ok(self.published.subscribe())
    }

    fn answered(&self, _: &StreamInfo, answer: &Answer) {
        self.answers.lock().unwrap().push(answer.clone());
    }

    fn closed(&self, stream: &StreamInfo) {
        self.open.lock().unwrap().remove(&stream.id);
    }
}

/// A network between a client and a control plane, with a switch.
struct Wire {
    control_plane: Arc<ControlPlane>,
    up: AtomicBool,
    connections: Mutex<Vec<JoinHandle<()>>>,
    token: &'static str,
}

impl Wire {
    fn to(control_plane: &Arc<ControlPlane>, token: &'static str) -> Arc<Self> {
        Arc::new(Self {
            control_plane: control_plane.clone(),
            up: AtomicBool::new(true),
            connections: Mutex::default(),
            token,
        })
    }

    fn cut(&self) {
        self.up.store(false, Ordering::SeqCst);
        self.connections.lock().unwrap().drain(..).for_each(|c| c.abort());
    }

    fn mend(&self) {
        self.up.store(true, Ordering::SeqCst);
    }
}

struct Dialler(Arc<Wire>);

impl Dial for Dialler {
    async fn dial(&self) -> Result<Io, DialError> {
        if !self.0.up.load(Ordering::SeqCst) {
            return Err("the cable is cut".into());
        }
        let (near, far) = tokio::io::duplex(64 << 10);
        let service = TowerToHyperService::new(Ads::new(self.0.control_plane.clone()).into_service());
        let connection = tokio::spawn(async move {
            let _ = auto::Builder::new(TokioExecutor::new())
                .http2_only()
                .serve_connection(TokioIo::new(far), service)
                .await;
        });
        self.0.connections.lock().unwrap().push(connection);
        Ok(Io::new(near).with_token(self.0.token, Some("us".to_owned())))
    }
}

fn clusters(members: &[(&str, &str)]) -> Arc<Resources> {
    let set: ResourceSet = members
        .iter()
        .map(|(name, content)| {
            let cluster = Cluster {
                name: name.to_string(),
                alt_stat_name: content.to_string(),
                ..Default::default()
            };
            Resource::new(*name, &cluster)
        })
        .collect();
    Arc::new(Resources::new().with(TypeUrl::Cds, set))
}

fn client(protocol: Protocol, wire: &Arc<Wire>) -> Client {
    let mut config = Config::new(Node {
        id: "n".into(),
        ..Default::default()
    });
    config.protocol = protocol;
    config.backoff = Backoff::new(Duration::from_millis(5), Duration::from_millis(20));
    let client = Client::start(config, Dialler(wire.clone()));
    client.subscribe(TypeUrl::Cds, Wanted::All);
    client
}

async fn update(client: &mut Client) -> Update {
    let wait = async {
        loop {
            if let Event::Update(update) = client.event().await.expect("the client lives") {
                return update;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(30), wait)
        .await
        .expect("an update")
}

async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    for _ in 0..3000 {
        if holds() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("never: {what}");
}

fn names(update: &Update) -> Vec<&str> {
    update.added.iter().map(|r| &*r.name).collect()
}

async fn story(protocol: Protocol) {
    let control_plane = Arc::new(ControlPlane::default());
    control_plane
        .published
        .send_replace(clusters(&[("a", "1"), ("b", "1")]));
    let wire = Wire::to(&control_plane, "secret");
    let mut client = client(protocol, &wire);

    let first = update(&mut client).await;
    assert_eq!(names(&first), ["a", "b"]);
    client.ack(&first);
    until("acked", || {
        matches!(
            control_plane.answers.lock().unwrap().last(),
            Some(Answer::Ack { .. })
        )
    })
    .await;
    assert_eq!(
        control_plane.open.lock().unwrap().values().collect::<Vec<_>>(),
        ["n"]
    );

    control_plane
        .published
        .send_replace(clusters(&[("a", "2"), ("b", "1")]));
    let second = update(&mut client).await;
    assert_eq!(names(&second), ["a"]);
    client.nack(&second, "a is bad", vec![]);
    until("nacked", || {
        matches!(control_plane.answers.lock().unwrap().last(), Some(Answer::Nack { error, .. }) if error == "a is bad")
    })
    .await;

    wire.cut();
    until("closed", || control_plane.open.lock().unwrap().is_empty()).await;
    control_plane
        .published
        .send_replace(clusters(&[("b", "1"), ("c", "1")]));
    let lost = async {
        loop {
            if let Event::Disconnected { error } = client.event().await.expect("the client lives")
                && error.contains("the cable is cut")
            {
                return;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(30), lost)
        .await
        .expect("the loss is told with its cause");
    wire.mend();
    let third = update(&mut client).await;
    assert_eq!(
        (names(&third), third.removed.len()),
        (vec!["c"], 1),
        "b is held, a is gone"
    );

    drop(client);
    until("closed", || control_plane.open.lock().unwrap().is_empty()).await;
}

#[tokio::test]
async fn delta() {
    story(Protocol::Delta).await;
}

#[tokio::test]
async fn state_of_the_world() {
    story(Protocol::Sotw).await;
}

#[tokio::test]
async fn a_refused_stream_says_why() {
    let control_plane = Arc::new(ControlPlane::default());
    let mut client = client(Protocol::Delta, &Wire::to(&control_plane, "stolen"));
    let refused = async {
        loop {
            if let Event::Disconnected { error } = client.event().await.expect("the client lives") {
                return error;
            }
        }
    };
    let error = tokio::time::timeout(Duration::from_secs(30), refused)
        .await
        .expect("a refusal");
    assert!(error.contains("who are you?"), "{error}");
    assert!(control_plane.open.lock().unwrap().is_empty());
}

/// The far end accepts and then says nothing: neither a handshake nor an answer to a PING.
struct BlackHole(Mutex<Vec<tokio::io::DuplexStream>>);

impl Dial for BlackHole {
    async fn dial(&self) -> Result<Io, DialError> {
        let (near, far) = tokio::io::duplex(1 << 20);
        self.0.lock().unwrap().push(far);
        Ok(Io::new(near))
    }
}

#[tokio::test]
async fn a_dead_link_is_noticed() {
    let mut config = Config::new(Node::default());
    config.keepalive_interval = Duration::from_millis(50);
    config.keepalive_timeout = Duration::from_millis(50);
    config.connect_timeout = Duration::from_millis(500);
    let mut client = Client::start(config, BlackHole(Mutex::default()));
    client.subscribe(TypeUrl::Cds, Wanted::All);
    let event = tokio::time::timeout(Duration::from_secs(30), client.event())
        .await
        .expect("noticed");
    assert!(matches!(event, Some(Event::Disconnected { .. })), "{event:?}");
}
