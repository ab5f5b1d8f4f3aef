//! The role `isthmus proxy`: everything of a proxy that is not traffic.
//!
//! One task on one thread owns the state; whoever wants to know or change something sends it a message.
//!
//! ```text
//!   ADS ─ updates ─┐                       ┌─ watch<Arc<Live>> ─▶ workers ─ events ─┐
//!   certificates ──┤                       │                                        │
//!   look-ups ──────┼─▶ Agent (state) ──────┤                                        │
//!   files ─────────┤     ▲                 └─ name table ─▶ DNS                     │
//!   signals ───────┘     └───────────── queries ─ admin ◀───────────────────────────┘
//! ```

pub mod application;
pub mod bootstrap;
pub mod config;
mod dial;
mod files;
mod identify;
mod names;
mod startup_pages;
pub mod workers;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use isthmus_model::{ClusterId, SpiffeId};
use isthmus_pki::{Credentials, KeyAlgorithm, RemoteAuthority, Renewal, RenewalTask, Transport};
use isthmus_runtime::bind::BindError;
use isthmus_runtime::drain;
use isthmus_runtime::logging;
use isthmus_runtime::metrics::Metrics;
use isthmus_runtime::readiness::{Guard, Readiness};
use isthmus_runtime::server::{Limits, Server};
use isthmus_runtime::signals::{Signal, Signals};
use isthmus_xds::client::{self, Client, Event as XdsEvent, Update, Wanted as Subscription};
use isthmus_xds::{NameTable, TypeUrl, any};
use tokio::sync::{mpsc, watch};

use self::bootstrap::BootstrapError;
use self::config::{Config, ControlPlane, Source};
use self::dial::{Dialler, Discovery};
use self::files::Files;
use self::names::Names;
use self::workers::{Spawn, Workers};
use crate::admin::{self, Admin, Query};
use crate::node::Role;
use crate::orders::{Event, Order};
use crate::state::cascade::{MESH_ROOTS, OWN_CERTIFICATE};
use crate::state::{Answer, Live, Resolutions, Roots, Secret, State, Wanted};

/// Messages that wait for the agent at most; whoever sends more waits.
const QUEUE: usize = 64;
/// How often files with secrets are looked at.
const LOOK_AT_FILES: Duration = Duration::from_secs(5);
/// How long connections may take to end after the drain.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// Longest text of a NACK.
const MOST_OF_A_NACK: usize = 4096;

/// Why a proxy could not be started.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// A port is taken.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// The bootstrap file cannot be used.
    #[error(transparent)]
    Bootstrap(#[from] BootstrapError),
    /// The operating system refused a thread, a runtime or a signal handler.
    #[error("the proxy cannot be started: {0}")]
    System(#[from] io::Error),
}

/// Runs a proxy until it is told to end. `spawn` starts a worker; `logging` lets `/logging` change levels.
pub fn run(config: Config, spawn: Spawn, logging: Option<logging::Handle>) -> Result<(), AgentError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(2)
        .thread_keep_alive(Duration::from_secs(1))
        .build()?;
    runtime.block_on(serve(config, spawn, logging))
}

/// The agent's task.
struct Agent {
    config: Arc<Config>,
    state: State,
    live: watch::Sender<Arc<Live>>,
    workers: Workers,
    wanted: Wanted,
    names: Names,
    resolutions: Resolutions,
    files: Files,
    client: Option<Client>,
    subscribed: bool,
    connected: watch::Sender<bool>,
    /// Held until the listeners are live.
    listeners_pending: Option<Guard>,
    /// Held until the first certificate is there.
    certificate_pending: Option<Guard>,
}

/// What wakes the agent.
enum Wake {
    Xds(Option<XdsEvent>),
    Certificate,
    Resolved(Answer),
    Worker(Event),
    Asked(Query),
    Signal(Signal),
    Deadline,
    Files,
}

async fn serve(config: Config, spawn: Spawn, logging: Option<logging::Handle>) -> Result<(), AgentError> {
    let mut config = config;
    let mut state = State::default();
    if let Source::File(path) = &config.source {
        let admin = bootstrap::load(path, &mut state)?;
        config.admin = config.admin.or(admin);
        state.listeners.received = true;
    }
    let metrics = Metrics::new();
    let readiness = Readiness::new();
    let names = Names::new(&config, &metrics);
    let mut signals = Signals::install()?;
    let listeners_pending = Some(readiness.guard("listeners"));
    let with_control_plane = matches!(config.source, Source::ControlPlane(_));
    let certificate_pending = with_control_plane.then(|| readiness.guard("certificate"));

    // Sockets first: a port in use is an error of the start, not of a task.
    let (queries, mut asked) = mpsc::channel(QUEUE);
    let bound_dns = names.bind(&config)?;
    let mut servers: Vec<(Server, Page)> = Vec::new();
    for (address, purpose, page) in pages(&config) {
        servers.push((Server::bind(address, purpose, Limits::default())?, page));
    }

    let config = Arc::new(config);
    let live = watch::Sender::new(state.live().clone());
    let (worker_events, mut worker_said) = mpsc::channel(QUEUE);
    let workers = Workers::start(&config, &live, &worker_events, spawn)?;
    let (answers, mut resolved) = mpsc::channel(QUEUE);
    let resolutions = Resolutions::new(names.resolver(), answers);
    let connected = watch::Sender::new(false);

    let admin = Arc::new(Admin {
        config: config.clone(),
        started: Instant::now(),
        readiness: readiness.clone(),
        metrics,
        orders: workers.orders(),
        queries,
        logging,
        connected: connected.subscribe(),
        live: live.subscribe(),
    });
    tokio::spawn(startup_pages::release_when_settled(readiness.clone()));
    let (_end_of_servers, watcher) = drain::channel();
    for (server, page) in servers {
        let router = match page {
            Page::Admin => admin::router(&admin),
            Page::Health => admin::health_router(&admin),
            Page::Merged => admin::merged_router(&admin),
            Page::Prometheus => admin::prometheus_router(&admin),
        };
        tokio::spawn(server.serve(router, watcher.clone()));
    }
    if let Some((server, handler)) = bound_dns {
        tokio::spawn(server.serve(handler));
    }

    let control = match &config.source {
        Source::ControlPlane(control) => Some(connect(&config, control, &names)),
        Source::File(_) => None,
    };
    let (client, renewal) = control.unzip();
    let mut credentials = renewal.as_ref().map(RenewalTask::credentials);
    tracing::info!(
        node = %config.node.id,
        workers = config.concurrency,
        marked = config.mark.is_some(),
        "proxy started"
    );
    let mut agent = Agent {
        config,
        state,
        live,
        workers,
        wanted: Wanted::default(),
        names,
        resolutions,
        files: Files::default(),
        client,
        subscribed: false,
        connected,
        listeners_pending,
        certificate_pending,
    };
    agent.settle();
    let mut look_at_files = tokio::time::interval(LOOK_AT_FILES);
    let urgent = loop {
        let deadline = agent.state.deadline();
        let wake = tokio::select! {
            event = next_event(&mut agent.client) => Wake::Xds(event),
            () = changed(&mut credentials) => Wake::Certificate,
            Some(answer) = resolved.recv() => Wake::Resolved(answer),
            Some(event) = worker_said.recv() => Wake::Worker(event),
            Some(query) = asked.recv() => Wake::Asked(query),
            signal = signals.next() => Wake::Signal(signal),
            () = until(deadline) => Wake::Deadline,
            _ = look_at_files.tick(), if !agent.wanted.files.is_empty() => Wake::Files,
        };
        match wake {
            Wake::Xds(Some(event)) => agent.on_xds(event),
            Wake::Xds(None) => {
                tracing::error!("the discovery client has ended; the present configuration stays");
                agent.client = None;
            }
            Wake::Certificate => agent.on_certificate(credentials.as_mut()),
            Wake::Resolved(answer) => agent.state.resolved(answer),
            Wake::Worker(event) => agent.on_worker(event),
            Wake::Asked(Query::Quit) => break true,
            Wake::Asked(query) => query.answer(&agent.state, &agent.config),
            Wake::Signal(Signal::Hangup) | Wake::Deadline | Wake::Files => {}
            Wake::Signal(Signal::Terminate) => break false,
            Wake::Signal(Signal::Interrupt) => break true,
        }
        agent.settle();
    };
    let _draining = readiness.guard("draining");
    agent.end(urgent, &mut signals, &mut asked).await;
    Ok(())
}

/// Which page a server shows.
#[derive(Clone, Copy)]
enum Page {
    Admin,
    Health,
    Merged,
    Prometheus,
}

fn pages(config: &Config) -> Vec<(SocketAddr, &'static str, Page)> {
    let mut pages = Vec::new();
    if let Some(admin) = config.admin {
        pages.push((admin, "the admin interface", Page::Admin));
    }
    if let Some(status) = config.status {
        pages.push((status.health, "readiness", Page::Health));
        pages.push((status.merged, "merged metrics", Page::Merged));
        pages.push((status.prometheus, "the proxy's metrics", Page::Prometheus));
    }
    pages
}

/// Starts the renewal of the workload's certificate, and the discovery client.
fn connect(config: &Config, control: &ControlPlane, names: &Names) -> (Client, RenewalTask) {
    let dialler = Dialler::new(names.resolver(), names.search(config), config.mark);
    let dial = {
        let dialler = dialler.clone();
        Arc::new(move |address: String| {
            let dialler = dialler.clone();
            let dialled: futures_util::future::BoxFuture<'static, io::Result<tokio::net::TcpStream>> =
                Box::pin(async move { dialler.connect(&address).await });
            dialled
        })
    };
    let node = &config.node;
    let source = RemoteAuthority {
        address: control.authority.clone(),
        transport: match &control.authority_roots {
            Some(roots) => Transport::Tls {
                server_name: control.server_name.clone(),
                roots: roots.clone(),
                own: None,
            },
            None => Transport::Plaintext,
        },
        token: Some(control.token.clone()),
        cluster: ClusterId::from(&*node.cluster_id),
        trust_domain: config.trust_domain.clone(),
        dial,
    };
    let renewal = Renewal {
        identity: SpiffeId::new(
            config.trust_domain.clone(),
            &*node.namespace,
            &*node.service_account,
        ),
        source: Arc::new(source),
        ttl: Duration::ZERO,
        algorithm: KeyAlgorithm::default(),
    }
    .start();
    let discovery = Discovery {
        dialler,
        control_plane: control.clone(),
        own: renewal.credentials(),
        cluster: node.cluster_id.to_string(),
    };
    let mut xds = client::Config::new(identify::node(config));
    xds.protocol = control.protocol;
    let client = Client::start(xds, discovery);
    (client, renewal)
}

async fn next_event(client: &mut Option<Client>) -> Option<XdsEvent> {
    match client {
        Some(client) => client.event().await,
        None => std::future::pending().await,
    }
}

async fn changed(credentials: &mut Option<Credentials>) {
    if let Some(credentials) = credentials
        && credentials.changed().await.is_ok()
    {
        return;
    }
    std::future::pending().await
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}

impl Agent {
    fn on_xds(&mut self, event: XdsEvent) {
        match event {
            XdsEvent::Connected => {
                tracing::info!("connected to the control plane");
                self.connected.send_replace(true);
            }
            XdsEvent::Disconnected { error } => {
                self.connected.send_replace(false);
                if self.state.listeners.received {
                    tracing::warn!(error, "no control plane; the present configuration serves on");
                } else {
                    tracing::warn!(error, "no control plane yet; trying again");
                }
            }
            XdsEvent::Update(update) => self.on_update(&update),
        }
    }

    fn on_update(&mut self, update: &Update) {
        if update.ty == TypeUrl::Nds {
            self.on_names(update);
            return;
        }
        let rejections = self.state.apply(update.into(), SystemTime::now());
        let Some(client) = &self.client else { return };
        if rejections.is_empty() {
            client.ack(update);
            return;
        }
        let mut error = String::new();
        for r in &rejections {
            tracing::warn!(kind = update.ty.short(), name = %r.name, reason = r.reason, "resource refused");
            if error.len() < MOST_OF_A_NACK {
                error.push_str(&format!("{}: {}; ", r.name, r.reason));
            }
        }
        let refused = rejections.into_iter().map(|r| r.name).collect();
        client.nack(update, error.trim_end_matches("; "), refused);
    }

    fn on_names(&mut self, update: &Update) {
        let Some(client) = &self.client else { return };
        match update.added.last().map(|r| any::unpack::<NameTable>(&r.body)) {
            None => client.ack(update),
            Some(Ok(table)) => {
                self.names.replace(&table);
                client.ack(update);
            }
            Some(Err(error)) => client.nack(update, error.to_string(), Vec::new()),
        }
    }

    fn on_certificate(&mut self, credentials: Option<&mut Credentials>) {
        let held = credentials.and_then(|c| c.borrow_and_update().clone());
        let Some(credential) = held else { return };
        let certificates = credential
            .bundle
            .iter()
            .flat_map(|(_, roots)| roots.certificates())
            .map(|c| c.der.clone())
            .collect();
        self.state
            .set_secret(MESH_ROOTS, Secret::Roots(Arc::new(Roots { certificates })));
        self.state.set_secret(
            OWN_CERTIFICATE,
            Secret::Certificate(credential.certified_key.clone()),
        );
        self.certificate_pending = None;
    }

    fn on_worker(&mut self, event: Event) {
        for (listener, reason) in self.workers.note(event) {
            tracing::error!(%listener, reason, "listener cannot be opened");
        }
    }

    /// Works in what has changed: a new configuration for the workers, new names to ask for.
    fn settle(&mut self) {
        let mut live = self.state.settle(Instant::now());
        let wanted = self.state.wanted();
        for (name, secret) in self.files.changed(&wanted.files) {
            self.state.set_secret(&name, secret);
            live = self.state.settle(Instant::now()).or(live);
        }
        if let Some(live) = live {
            tracing::debug!(
                version = live.version,
                listeners = live.listeners.len(),
                clusters = live.clusters.len(),
                "configuration changed"
            );
            self.live.send_replace(live);
        }
        self.subscribe(&wanted);
        if self.wanted.lookups != wanted.lookups {
            self.resolutions.keep(&wanted.lookups);
        }
        self.wanted = wanted;
        if self.listeners_pending.is_some() && self.are_listeners_live() {
            self.listeners_pending = None;
        }
    }

    fn are_listeners_live(&self) -> bool {
        let warm = self
            .state
            .listeners
            .iter()
            .all(|(name, _)| !self.state.is_listener_warming(name));
        self.state.listeners.received && warm && self.workers.serve(self.state.live().version)
    }

    fn subscribe(&mut self, wanted: &Wanted) {
        let Some(client) = &self.client else { return };
        if !self.subscribed {
            self.subscribed = true;
            client.subscribe(TypeUrl::Cds, Subscription::All);
            client.subscribe(TypeUrl::Lds, Subscription::All);
            if self.config.node.role == Role::Sidecar {
                client.subscribe(TypeUrl::Nds, Subscription::All);
            }
        }
        for (ty, now, before) in [
            (TypeUrl::Eds, &wanted.endpoints, &self.wanted.endpoints),
            (TypeUrl::Rds, &wanted.routes, &self.wanted.routes),
            (TypeUrl::Sds, &wanted.secrets, &self.wanted.secrets),
        ] {
            let new: Vec<_> = now.difference(before).cloned().collect();
            let gone: Vec<_> = before.difference(now).cloned().collect();
            if !new.is_empty() {
                client.subscribe(ty.clone(), Subscription::Names(new));
            }
            if !gone.is_empty() {
                client.unsubscribe(ty, gone);
            }
        }
    }

    /// Ends: connections are asked to finish, listeners close, what is left is dropped. A second signal
    /// shortens all of it.
    async fn end(self, urgent: bool, signals: &mut Signals, asked: &mut mpsc::Receiver<Query>) {
        let orders = self.workers.orders();
        let patience = if urgent { Duration::ZERO } else { self.config.drain };
        tracing::info!(drain = ?patience, "proxy ends");
        if !patience.is_zero() {
            orders.all(|| Order::Drain).await;
            let drained = tokio::time::sleep(patience);
            tokio::pin!(drained);
            loop {
                tokio::select! {
                    () = &mut drained => break,
                    _ = signals.end() => break,
                    Some(query) = asked.recv() => match query {
                        Query::Quit => break,
                        query => query.answer(&self.state, &self.config),
                    },
                }
            }
        }
        orders.all(|| Order::Close).await;
        orders.all(|| Order::Stop(LAST_WORDS)).await;
        drop(orders);
        let workers = self.workers;
        let joined = tokio::task::spawn_blocking(move || workers.join());
        if tokio::time::timeout(LAST_WORDS * 3, joined).await.is_err() {
            tracing::warn!("workers did not end in time");
        }
    }
}
