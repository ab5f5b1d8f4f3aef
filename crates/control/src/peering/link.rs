//! One peer: dialled for as long as the control plane lives, listened to, believed within bounds.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use isthmus_model::{ClusterId, SpiffeId};
use isthmus_pki::{Expected, LiveClient, SanMatcher, TlsOptions, describe, member_cluster};
use isthmus_xds::client::{self, Backoff, Client, Dial, DialError, Event, Io, Received, Update, Wanted};
use isthmus_xds::envoy::core::Node;
use isthmus_xds::{TypeUrl, unpack};
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_rustls::TlsConnector;

use super::admission::NODE;
use super::status::Phase;
use super::store::{self, Stored};
use super::{ACCOUNT, LinkStatus, SNI, Shared, lock, wire};
use crate::member::{MemberHead, MemberState, Peer};

/// Most services of one peer.
const MOST_SERVICES: usize = 50_000;
/// Largest response of a peer, bytes.
const LARGEST_RESPONSE: usize = 16 << 20;
/// How long a connection, and then its TLS and HTTP/2 handshakes, may take.
const CONNECT: Duration = Duration::from_secs(5);
/// A name is looked up no longer than this; then its addresses from before are tried.
const LOOK_UP: Duration = Duration::from_millis(1500);
/// An address of a peer is given at least this long.
const SHORTEST_TRY: Duration = Duration::from_millis(500);
/// Signs of life that may be missing before a peer counts as silent.
const MISSED: u32 = 3;
/// A changed state is written to disk this long after the change, so that many changes are one write.
const SAVE_AFTER: Duration = Duration::from_secs(2);

/// Listens to one peer.
pub(super) struct Link {
    shared: Arc<Shared>,
    cluster: ClusterId,
    address: String,
    head: Option<Arc<MemberHead>>,
    state: Arc<MemberState>,
    /// Versions that the peer gave to what is known, by type and name.
    versions: BTreeMap<(TypeUrl, Arc<str>), Arc<str>>,
    /// What is not believed, by type and name: the peer's state without these.
    refused: BTreeMap<(TypeUrl, Arc<str>), String>,
    last_sign: Instant,
    connected: bool,
    save_at: Option<Instant>,
}

impl Link {
    /// A link that does nothing yet, but knows what was kept on disk.
    pub fn new(shared: Arc<Shared>, cluster: ClusterId, address: String) -> Self {
        lock(&shared.links).insert(cluster.clone(), LinkStatus::default());
        let mut link = Self {
            shared,
            cluster,
            address,
            head: None,
            state: Arc::default(),
            versions: BTreeMap::new(),
            refused: BTreeMap::new(),
            last_sign: Instant::now(),
            connected: false,
            save_at: None,
        };
        link.recall();
        link
    }

    pub async fn run(mut self) {
        let mut client = Client::start(self.client_config(), self.dialler());
        for ty in [wire::cluster_type(), wire::service_type(), wire::vitals_type()] {
            client.subscribe(ty, Wanted::All);
        }
        let patience = self.shared.config.pulse * MISSED;
        loop {
            let silent_at = self.connected.then(|| self.last_sign + patience);
            tokio::select! {
                event = client.event() => match event {
                    Some(Event::Connected) => {}
                    Some(Event::Update(update)) => self.take(&client, update),
                    Some(Event::Disconnected { error }) => self.lost(error),
                    None => return,
                },
                () = at(silent_at) => self.silent(),
                () = at(self.save_at) => self.save().await,
            }
        }
    }

    /// Begins with what was kept on disk, with its age.
    fn recall(&mut self) {
        let folder = self.shared.config.store.as_deref();
        let Some((peer, versions)) = folder.and_then(|f| store::load(f, &self.cluster)) else {
            return;
        };
        let age = SystemTime::now().duration_since(peer.heard).unwrap_or_default();
        tracing::info!(
            cluster = %self.cluster, services = peer.state.services.len(), age_seconds = age.as_secs(),
            "a peer's last state is known from before"
        );
        self.head = Some(peer.state.head.clone());
        self.state = peer.state.clone();
        for (ty, name, version) in versions {
            self.versions
                .insert((TypeUrl::from(ty.as_str()), name.into()), version.into());
        }
        self.shared.heard.send_modify(|s| {
            s.members.insert(self.cluster.clone(), peer);
        });
    }

    fn client_config(&self) -> client::Config {
        let pulse = self.shared.config.pulse;
        let own = &self.shared.config.cluster;
        let mut config = client::Config::new(Node {
            id: format!("{NODE}{own}"),
            ..Default::default()
        });
        config.max_resources = MOST_SERVICES;
        config.max_response = LARGEST_RESPONSE;
        config.connect_timeout = CONNECT;
        config.keepalive_interval = pulse;
        config.keepalive_timeout = pulse;
        config.backoff = Backoff::new(Duration::from_millis(250), Duration::from_secs(5));
        config.held = self
            .versions
            .iter()
            .map(|((ty, name), v)| (ty.clone(), name.clone(), v.clone()))
            .collect();
        config
    }

    fn dialler(&self) -> Dialler {
        let config = &self.shared.config;
        let identities = config.trust_domains.iter().map(|domain| {
            SanMatcher::spiffe(&SpiffeId::new(domain.clone(), config.namespace.clone(), ACCOUNT))
        });
        let expected = Expected::one_of(format!("peer {}", self.cluster), identities.collect());
        // The gateway passes on only what offers Istio's ALPN; HTTP/2 is what is spoken.
        let options = TlsOptions::alpn(["istio", "h2"]);
        Dialler {
            cluster: self.cluster.clone(),
            own: config.cluster.clone(),
            address: self.address.clone(),
            tls: LiveClient::new(config.credentials.clone(), expected, options),
            attempts: AtomicUsize::new(0),
            known: Mutex::default(),
        }
    }

    fn take(&mut self, client: &Client, update: Update) {
        self.last_sign = Instant::now();
        let mut refused = Vec::new();
        let mut changed = self.forget(&update);
        for resource in &update.added {
            let key = (update.ty.clone(), resource.name.clone());
            match self.believe(&update.ty, resource) {
                Ok(news) => {
                    changed |= news;
                    self.refused.remove(&key);
                    // A sign of life is never wanted a second time, whichever it was.
                    if update.ty != wire::vitals_type() {
                        self.versions.insert(key, resource.version.clone());
                    }
                }
                Err(reason) => {
                    tracing::warn!(
                        cluster = %self.cluster, ty = update.ty.short(), name = %resource.name, reason,
                        "a peer tells what cannot be believed; what was known of it stays"
                    );
                    refused.push(resource.name.clone());
                    self.refused.insert(key, reason);
                }
            }
        }
        match refused.is_empty() {
            true => client.ack(&update),
            false => client.nack(&update, self.refusals().unwrap_or_default(), refused),
        }
        if !self.connected {
            self.connected = true;
            tracing::info!(cluster = %self.cluster, address = self.address, "the peer speaks");
        }
        let refusals = self.refusals();
        self.status(|status| {
            status.phase = Phase::Connected;
            status.error = None;
            status.refused = refusals;
        });
        if changed {
            self.save_at.get_or_insert_with(|| Instant::now() + SAVE_AFTER);
        }
        self.tell();
    }

    /// Drops what the peer no longer has.
    fn forget(&mut self, update: &Update) -> bool {
        let mut changed = false;
        for name in &update.removed {
            let key = (update.ty.clone(), name.clone());
            self.versions.remove(&key);
            self.refused.remove(&key);
            if update.ty == wire::service_type()
                && let Some(key) = wire::service_key(name)
                && self.state.services.contains_key(&key)
            {
                Arc::make_mut(&mut self.state).services.remove(&key);
                changed = true;
            }
        }
        changed
    }

    /// Takes one resource over; says whether anything is new. The same content keeps the same `Arc`.
    fn believe(&mut self, ty: &TypeUrl, resource: &Received) -> Result<bool, String> {
        if *ty == wire::vitals_type() {
            let vitals: wire::Vitals = unpack(&resource.body).map_err(|e| e.to_string())?;
            let now = SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .unwrap_or_default()
                .as_millis();
            let ahead = i128::from(vitals.sent) - i128::try_from(now).unwrap_or(i128::MAX);
            self.status(|s| s.clock_ahead = i64::try_from(ahead).ok());
            return Ok(false);
        }
        if *ty == wire::cluster_type() {
            let message: wire::Cluster = unpack(&resource.body).map_err(|e| e.to_string())?;
            let head = message.import(&self.cluster).map_err(|e| e.to_string())?;
            if self.head.as_deref() == Some(&head) {
                return Ok(false);
            }
            let head = Arc::new(head);
            Arc::make_mut(&mut self.state).head = head.clone();
            self.head = Some(head);
            return Ok(true);
        }
        let message: wire::Service = unpack(&resource.body).map_err(|e| e.to_string())?;
        let service = message.import(&self.cluster).map_err(|e| e.to_string())?;
        let key = service.service.key.clone();
        if wire::service_name(&key) != *resource.name {
            return Err(format!("the resource is of {}", wire::service_name(&key)));
        }
        if self
            .state
            .services
            .get(&key)
            .is_some_and(|known| **known == *service)
        {
            return Ok(false);
        }
        Arc::make_mut(&mut self.state).services.insert(key, service);
        Ok(true)
    }

    fn refusals(&self) -> Option<String> {
        let ((ty, name), reason) = self.refused.iter().next()?;
        Some(match self.refused.len() {
            1 => format!("{} {name}: {reason}", ty.short()),
            n => format!("{} {name}: {reason} (and {} more)", ty.short(), n - 1),
        })
    }

    fn lost(&mut self, error: String) {
        // Our certificate was refused at the other end, which alone knows why.
        let error = match error.contains("received fatal alert") {
            true => format!(
                "{} at {} refused our certificate ({error}); its log names both root fingerprints",
                self.cluster, self.address
            ),
            false => error,
        };
        let before = lock(&self.shared.links)
            .get(&self.cluster)
            .and_then(|s| s.error.clone());
        if before.as_ref() != Some(&error) {
            tracing::warn!(
                cluster = %self.cluster, address = self.address, error,
                "no link to the peer; what is known of it stays"
            );
        }
        self.status(|status| {
            status.phase = Phase::Connecting;
            status.error = Some(error);
        });
        self.disconnect();
    }

    fn silent(&mut self) {
        let seconds = self.last_sign.elapsed().as_secs();
        tracing::warn!(cluster = %self.cluster, seconds, "the peer gives no sign of life; what is known of it stays");
        self.status(|status| {
            status.phase = Phase::Silent;
            status.error = Some(format!("no sign of life for {seconds} s on an open stream"));
        });
        self.disconnect();
    }

    fn disconnect(&mut self) {
        if std::mem::take(&mut self.connected) {
            self.shared
                .heard
                .send_if_modified(|s| match s.members.get_mut(&self.cluster) {
                    Some(peer) => std::mem::take(&mut peer.connected),
                    None => false,
                });
        }
    }

    /// Hands on what is known. Before the peer has said who it is, nothing is known.
    fn tell(&self) {
        if self.head.is_none() {
            return;
        }
        let pulse = self.shared.config.pulse;
        self.shared.heard.send_if_modified(|s| {
            let now = SystemTime::now();
            let fresh = Peer {
                state: self.state.clone(),
                connected: self.connected,
                heard: now,
            };
            match s.members.get_mut(&self.cluster) {
                Some(peer) if Arc::ptr_eq(&peer.state, &self.state) && peer.connected == self.connected => {
                    // A new age alone is told no more often than the pulse.
                    let due = now.duration_since(peer.heard).unwrap_or(pulse) >= pulse / 2;
                    if due {
                        peer.heard = now;
                    }
                    due
                }
                _ => {
                    s.members.insert(self.cluster.clone(), fresh);
                    true
                }
            }
        });
    }

    async fn save(&mut self) {
        self.save_at = None;
        let Some(folder) = self.shared.config.store.clone() else {
            return;
        };
        let Some(peer) = self.shared.heard.borrow().members.get(&self.cluster).cloned() else {
            return;
        };
        let versions = self
            .versions
            .iter()
            .map(|((ty, name), version)| (ty.as_str().to_owned(), name.to_string(), version.to_string()));
        store::save(
            folder,
            self.cluster.clone(),
            Stored::new(&peer, versions.collect()),
        )
        .await;
    }

    fn status(&self, change: impl FnOnce(&mut LinkStatus)) {
        change(lock(&self.shared.links).entry(self.cluster.clone()).or_default());
    }
}

/// A moment that may never come.
async fn at(moment: Option<Instant>) {
    match moment {
        Some(moment) => tokio::time::sleep_until(moment).await,
        None => std::future::pending().await,
    }
}

/// Connects to a peer's gateway, and through it to the control plane behind.
struct Dialler {
    cluster: ClusterId,
    own: ClusterId,
    address: String,
    tls: LiveClient,
    /// Counts up, so that each attempt begins with another address of the gateway.
    attempts: AtomicUsize,
    /// Addresses that the name had when it was last resolved.
    known: Mutex<Vec<SocketAddr>>,
}

impl Dialler {
    /// Tries the addresses that the name has now, each for its share of the time: one that swallows
    /// everything must not hide the others.
    async fn connect(&self) -> io::Result<TcpStream> {
        let mut addresses = self.addresses().await?;
        if addresses.is_empty() {
            return Err(io::Error::other("the name has no address"));
        }
        let first = self.attempts.fetch_add(1, Ordering::Relaxed) % addresses.len();
        addresses.rotate_left(first);
        let share = (CONNECT / 2 / u32::try_from(addresses.len()).unwrap_or(u32::MAX)).max(SHORTEST_TRY);
        let mut last = io::Error::other("no address was tried");
        for address in addresses {
            match tokio::time::timeout(share, TcpStream::connect(address)).await {
                Ok(Ok(stream)) => return Ok(stream),
                Ok(Err(error)) => last = error,
                Err(_) => last = io::Error::other(format!("{address} does not answer")),
            }
        }
        Err(last)
    }
}

impl Dialler {
    /// What the name resolves to now, or did when DNS last answered.
    async fn addresses(&self) -> io::Result<Vec<SocketAddr>> {
        let looked_up = tokio::time::timeout(LOOK_UP, tokio::net::lookup_host(&self.address)).await;
        match looked_up.unwrap_or_else(|late| Err(late.into())) {
            Ok(addresses) => {
                let addresses: Vec<_> = addresses.collect();
                lock(&self.known).clone_from(&addresses);
                Ok(addresses)
            }
            Err(error) => {
                let known = lock(&self.known).clone();
                if known.is_empty() { Err(error) } else { Ok(known) }
            }
        }
    }
}

impl Dial for Dialler {
    async fn dial(&self) -> Result<Io, DialError> {
        let (cluster, address) = (&self.cluster, &self.address);
        let tls = self.tls.current()?;
        let stream = self
            .connect()
            .await
            .map_err(|e| format!("cannot connect to the gateway of {cluster} at {address}: {e}"))?;
        stream.set_nodelay(true)?;
        let name = ServerName::try_from(SNI)?;
        let stream = TlsConnector::from(tls).connect(name, stream).await.map_err(|e| {
            // A gateway closes without a word when it has nobody behind it by this name.
            let hint = match e.kind() {
                io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset => {
                    ": the gateway passes SNI on to no control plane, or it is no mesh gateway"
                }
                _ => "",
            };
            format!(
                "no TLS with the control plane of {cluster} through {address}: {}{hint}",
                describe(&e)
            )
        })?;
        let presented = stream.get_ref().1.peer_certificates().unwrap_or_default();
        match member_cluster(presented) {
            Some(proven) if proven == *cluster => Ok(Io::new(stream)),
            Some(proven) if proven == self.own => {
                Err(format!("{address} leads back to this cluster; it should lead to {cluster}").into())
            }
            Some(proven) => {
                Err(format!("{address} leads to cluster {proven}, whose peer flag should name it; expected {cluster}")
                    .into())
            }
            None => Err(format!(
                "the control plane at {address} does not prove its cluster: its intermediate needs L={cluster} \
                 (made by `isthmus certs intermediate`)"
            )
            .into()),
        }
    }
}
