//! Proxies and upstream servers of a test, all on one thread.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use isthmus_model::Locality;
use isthmus_proxy::http::executor::Local;
use isthmus_proxy::node::{Node, Role};
use isthmus_proxy::orders::{Event, Metric, MetricValue, Order, Report, WorkerSettings};
use isthmus_proxy::state::Live;
use isthmus_proxy::worker;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::LocalSet;

/// Longer than anything takes, however slow the machine.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Runs a test on one thread.
pub fn run<T>(test: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    LocalSet::new().block_on(&runtime, async {
        tokio::time::timeout(PATIENCE * 2, test)
            .await
            .expect("the test came to an end")
    })
}

/// An address nobody listens on.
pub fn free() -> SocketAddr {
    let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    socket.local_addr().unwrap()
}

/// Waits until a condition holds.
pub async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while !holds().await {
        assert!(tokio::time::Instant::now() < deadline, "never happened: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

pub fn node(workload: &str, cluster: &str) -> Arc<Node> {
    Arc::new(Node {
        id: format!("sidecar~127.0.0.1~{workload}-1.default~default.svc.cluster.local").into(),
        role: Role::Sidecar,
        addresses: vec!["127.0.0.1".parse().unwrap()],
        name: format!("{workload}-1").into(),
        namespace: "default".into(),
        workload: workload.into(),
        owner: format!("kubernetes://apis/apps/v1/namespaces/default/deployments/{workload}").into(),
        service_account: workload.into(),
        cluster_id: cluster.into(),
        network: format!("{cluster}-net").into(),
        mesh_id: "training-mesh".into(),
        labels: BTreeMap::from([
            ("app".to_owned(), workload.to_owned()),
            ("version".to_owned(), "v1".to_owned()),
        ]),
        locality: Locality::default(),
    })
}

/// A running worker.
pub struct Proxy {
    live: watch::Sender<Arc<Live>>,
    pub orders: mpsc::Sender<Order>,
    events: mpsc::Receiver<Event>,
}

impl Proxy {
    pub async fn start(live: Live) -> Self {
        Self::start_as(node("sleep", "us"), live).await
    }

    pub async fn start_as(node: Arc<Node>, live: Live) -> Self {
        let (live, seen) = watch::channel(Arc::new(live));
        let (orders, taken) = mpsc::channel(8);
        let (events, told) = mpsc::channel(8);
        tokio::task::spawn_local(worker::run(WorkerSettings {
            index: 0,
            live: seen,
            orders: taken,
            events,
            node,
            mark: None,
        }));
        let mut proxy = Self {
            live,
            orders,
            events: told,
        };
        proxy.applied().await;
        proxy
    }

    /// Changes the configuration and waits until it is applied.
    pub async fn apply(&mut self, live: Live) {
        self.live.send_replace(Arc::new(live));
        self.applied().await;
    }

    async fn applied(&mut self) {
        match self.events.recv().await {
            Some(Event::Applied { failed, .. }) => assert!(failed.is_empty(), "{failed:?}"),
            other => panic!("not applied: {other:?}"),
        }
    }

    pub async fn report(&self) -> Report {
        let (reply, answer) = oneshot::channel();
        self.orders.send(Order::Report(reply)).await.unwrap();
        answer.await.unwrap()
    }

    /// The sum of a counter over series with these labels.
    pub async fn counter(&self, name: &str, labels: &[(&str, &str)]) -> u64 {
        let report = self.report().await;
        let fits = |m: &&Metric| {
            &*m.name == name
                && labels
                    .iter()
                    .all(|(k, v)| m.labels.iter().any(|(n, w)| &**n == *k && &**w == *v))
        };
        report
            .metrics
            .iter()
            .filter(fits)
            .map(|m| match m.value {
                MetricValue::Counter(n) => n,
                _ => 0,
            })
            .sum()
    }
}

/// What an upstream server saw and how it answers.
#[derive(Default)]
pub struct Behaviour {
    /// Status of every answer; 0 for 200.
    pub status: Cell<u16>,
    /// Requests seen.
    pub seen: Cell<u32>,
    /// The last request's head.
    pub last: RefCell<Option<http::request::Parts>>,
    /// The last request's body.
    pub body: RefCell<Bytes>,
    /// Pause before an answer.
    pub delay: Cell<Duration>,
    /// Headers of the answer.
    pub headers: RefCell<Vec<(&'static str, String)>>,
}

/// An HTTP server that answers with its name.
pub struct Server {
    pub address: SocketAddr,
    pub is: Rc<Behaviour>,
    task: tokio::task::JoinHandle<()>,
    /// The listening socket, then every accepted one.
    sockets: Rc<RefCell<Vec<OwnedFd>>>,
}

impl Server {
    pub async fn http1(name: &str) -> Self {
        Self::start(name, free(), false).await
    }

    pub async fn http2(name: &str) -> Self {
        Self::start(name, free(), true).await
    }

    pub async fn start(name: &str, address: SocketAddr, http2: bool) -> Self {
        let socket = TcpListener::bind(address).await.unwrap();
        let is = Rc::new(Behaviour::default());
        let (name, behaviour) = (name.to_owned(), is.clone());
        let copy = |socket: &dyn AsFd| socket.as_fd().try_clone_to_owned().unwrap();
        let sockets = Rc::new(RefCell::new(vec![copy(&socket)]));
        let accepted = sockets.clone();
        let task = tokio::task::spawn_local(async move {
            let mut connections = tokio::task::JoinSet::new();
            loop {
                let (stream, _) = socket.accept().await.unwrap();
                accepted.borrow_mut().push(copy(&stream));
                let (name, behaviour) = (name.clone(), behaviour.clone());
                connections.spawn_local(async move {
                    let service = service_fn(move |request| answer(name.clone(), behaviour.clone(), request));
                    let io = TokioIo::new(stream);
                    if http2 {
                        let _ = hyper::server::conn::http2::Builder::new(Local)
                            .serve_connection(io, service)
                            .await;
                    } else {
                        let _ = hyper::server::conn::http1::Builder::new()
                            .serve_connection(io, service)
                            .await;
                    }
                });
            }
        });
        Self {
            address,
            is,
            task,
            sockets,
        }
    }

    /// Drops every packet that comes in, unanswered.
    pub fn black_hole(&self) {
        // A program that keeps 0 bytes of each.
        let drop_all = [socket2::SockFilter::new(0x06, 0, 0, 0)];
        for socket in self.sockets.borrow().iter() {
            socket2::SockRef::from(socket).attach_filter(&drop_all).unwrap();
        }
    }

    /// Takes packets again.
    pub fn mend(&self) {
        for socket in self.sockets.borrow().iter() {
            socket2::SockRef::from(socket).detach_filter().unwrap();
        }
    }

    /// Dies at once, with all its connections.
    pub fn kill(&self) {
        self.task.abort();
        self.sockets.borrow_mut().clear();
    }

    pub fn seen(&self) -> u32 {
        self.is.seen.get()
    }

    /// A header of the last request.
    pub fn header(&self, name: &str) -> Option<String> {
        let last = self.is.last.borrow();
        let value = last.as_ref()?.headers.get(name)?;
        Some(value.to_str().unwrap().to_owned())
    }
}

async fn answer(
    name: String,
    is: Rc<Behaviour>,
    request: http::Request<Incoming>,
) -> Result<http::Response<Full<Bytes>>, Infallible> {
    let (head, body) = request.into_parts();
    is.seen.set(is.seen.get() + 1);
    *is.last.borrow_mut() = Some(head);
    let body = body.collect().await.map(|b| b.to_bytes()).unwrap_or_default();
    *is.body.borrow_mut() = body;
    if !is.delay.get().is_zero() {
        tokio::time::sleep(is.delay.get()).await;
    }
    let mut response = http::Response::new(Full::new(Bytes::from(name)));
    if is.status.get() != 0 {
        *response.status_mut() = http::StatusCode::from_u16(is.status.get()).unwrap();
    }
    for (name, value) in is.headers.borrow().iter() {
        response.headers_mut().insert(*name, value.parse().unwrap());
    }
    Ok(response)
}
