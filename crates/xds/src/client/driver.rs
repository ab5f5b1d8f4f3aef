//! The task that keeps a client session connected.

use std::error::Error;
use std::future::{Future, Ready, ready};
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;
use tonic::metadata::MetadataValue;
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Request, Response, Status, Streaming};
use tracing::debug;

use super::{Backoff, DeltaClient, Nonce, ResponseError, SotwClient, Update, Wanted};
use crate::envoy::core::Node;
use crate::envoy::service::discovery::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use crate::envoy::service::discovery::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
};
use crate::resource::TypeUrl;

/// Updates that the caller has not looked at before the client stops reading.
const EVENTS: usize = 8;
/// Requests that the stream has not taken.
const REQUESTS: usize = 16;

/// Bytes to and from a server: TCP, TLS, a Unix socket.
pub trait Duplex: AsyncRead + AsyncWrite + Send + Unpin + 'static {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin + 'static> Duplex for T {}

/// A connection to a server, on which HTTP/2 can begin.
pub struct Io {
    stream: Box<dyn Duplex>,
    token: Option<String>,
    cluster: Option<String>,
}

impl Io {
    /// A connection without a token.
    pub fn new(stream: impl Duplex) -> Self {
        Self {
            stream: Box::new(stream),
            token: None,
            cluster: None,
        }
    }

    /// Sends `authorization: Bearer` and, if named, the metadata `ClusterID` with every stream.
    pub fn with_token(mut self, token: impl Into<String>, cluster: Option<String>) -> Self {
        self.token = Some(token.into());
        self.cluster = cluster;
        self
    }
}

/// Why a server was not reached, in the dialler's words.
pub type DialError = Box<dyn Error + Send + Sync>;

/// Opens connections to a server. Called anew for every attempt, so that addresses, credentials and
/// tokens are those of the moment.
pub trait Dial: Send + Sync + 'static {
    /// Connects, including any TLS handshake.
    fn dial(&self) -> impl Future<Output = Result<Io, DialError>> + Send;
}

/// Which of the two protocols to speak.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Protocol {
    /// `DeltaAggregatedResources`.
    #[default]
    Delta,
    /// `StreamAggregatedResources`, for servers without delta.
    Sotw,
}

/// How a client behaves.
#[derive(Debug, Clone)]
pub struct Config {
    /// What the client says of itself.
    pub node: Node,
    /// Protocol.
    pub protocol: Protocol,
    /// Value of `:authority`.
    pub authority: String,
    /// Most resources of each type.
    pub max_resources: usize,
    /// Largest response, bytes.
    pub max_response: usize,
    /// How long dialling, and then the HTTP/2 handshake, may take.
    pub connect_timeout: Duration,
    /// An HTTP/2 PING travels this often, even on an idle stream.
    pub keepalive_interval: Duration,
    /// The link is dead when a PING is not answered within this time.
    pub keepalive_timeout: Duration,
    /// Pauses between attempts.
    pub backoff: Backoff,
    /// Type, name and version of resources that are held from an earlier life, which the server need not
    /// send again. For delta alone.
    pub held: Vec<(TypeUrl, Arc<str>, Arc<str>)>,
}

impl Config {
    /// Delta for this node, with bounds for a control plane that is trusted.
    pub fn new(node: Node) -> Self {
        Self {
            node,
            protocol: Protocol::Delta,
            authority: "istiod.istio-system.svc:15012".to_owned(),
            max_resources: 200_000,
            max_response: 64 << 20,
            connect_timeout: Duration::from_secs(10),
            keepalive_interval: Duration::from_secs(10),
            keepalive_timeout: Duration::from_secs(10),
            backoff: Backoff::default(),
            held: Vec::new(),
        }
    }
}

/// What a client tells its owner.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// The server took the stream.
    Connected,
    /// Resources changed; answer with [`Handle::ack`] or [`Handle::nack`].
    Update(Update),
    /// The stream ended or could not be opened; the client tries again by itself.
    Disconnected {
        /// Why, with all causes.
        error: String,
    },
}

enum Command {
    Subscribe(TypeUrl, Wanted),
    Unsubscribe(TypeUrl, Vec<Arc<str>>),
    Ack(TypeUrl, Nonce),
    Nack(TypeUrl, Nonce, String, Vec<Arc<str>>),
}

/// A client that stays connected until it is dropped.
#[derive(Debug)]
pub struct Client {
    handle: Handle,
    events: mpsc::Receiver<Event>,
    task: JoinHandle<()>,
}

impl Client {
    /// Starts the client's task on the current tokio runtime. It dials at once; subscriptions may follow.
    pub fn start(mut config: Config, dial: impl Dial) -> Self {
        let (commands, inbox) = mpsc::unbounded_channel();
        let (outbox, events) = mpsc::channel(EVENTS);
        let (node, limit) = (config.node.clone(), config.max_resources);
        let task = match config.protocol {
            Protocol::Delta => {
                let mut session = DeltaClient::new(node, limit);
                for (ty, name, version) in std::mem::take(&mut config.held) {
                    session.hold(ty, name, version);
                }
                tokio::spawn(Driver::new(session, config, dial, inbox, outbox).run())
            }
            Protocol::Sotw => {
                tokio::spawn(Driver::new(SotwClient::new(node, limit), config, dial, inbox, outbox).run())
            }
        };
        Self {
            handle: Handle { commands },
            events,
            task,
        }
    }

    /// The next event. The client stops reading from the server while events wait.
    pub async fn event(&mut self) -> Option<Event> {
        self.events.recv().await
    }

    /// A handle that may be given away.
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }
}

impl std::ops::Deref for Client {
    type Target = Handle;

    fn deref(&self) -> &Handle {
        &self.handle
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Tells a client what to do. Nothing here waits; after the client is gone, nothing happens.
#[derive(Debug, Clone)]
pub struct Handle {
    commands: mpsc::UnboundedSender<Command>,
}

impl Handle {
    /// Asks for more of a type.
    pub fn subscribe(&self, ty: TypeUrl, wanted: Wanted) {
        self.command(Command::Subscribe(ty, wanted));
    }

    /// Asks for less of a type.
    pub fn unsubscribe(&self, ty: TypeUrl, names: Vec<Arc<str>>) {
        self.command(Command::Unsubscribe(ty, names));
    }

    /// Accepts an update.
    pub fn ack(&self, update: &Update) {
        self.command(Command::Ack(update.ty.clone(), update.nonce.clone()));
    }

    /// Refuses an update, or the named resources of it; the rest counts as accepted.
    pub fn nack(&self, update: &Update, error: impl Into<String>, refused: Vec<Arc<str>>) {
        self.command(Command::Nack(
            update.ty.clone(),
            update.nonce.clone(),
            error.into(),
            refused,
        ));
    }

    fn command(&self, command: Command) {
        // The only failure is that the client has ended.
        let _ = self.commands.send(command);
    }
}

/// A session and its two messages, as the driver needs them.
trait Session: Send + 'static {
    type Request: Send + 'static;
    type Response: Send + 'static;
    fn open(
        client: AggregatedDiscoveryServiceClient<Channel>,
        request: Request<ReceiverStream<Self::Request>>,
    ) -> impl Future<Output = Result<Response<Streaming<Self::Response>>, Status>> + Send;
    fn connected(&mut self);
    fn disconnected(&mut self);
    fn request(&mut self) -> Option<Self::Request>;
    fn response(&mut self, response: Self::Response) -> Result<Update, ResponseError>;
    fn apply(&mut self, command: Command);
}

macro_rules! session {
    ($session:ty, $request:ty, $response:ty, $method:ident) => {
        impl Session for $session {
            type Request = $request;
            type Response = $response;

            async fn open(
                mut client: AggregatedDiscoveryServiceClient<Channel>,
                request: Request<ReceiverStream<$request>>,
            ) -> Result<Response<Streaming<$response>>, Status> {
                client.$method(request).await
            }

            fn connected(&mut self) {
                self.connected();
            }

            fn disconnected(&mut self) {
                self.disconnected();
            }

            fn request(&mut self) -> Option<$request> {
                self.next_request()
            }

            fn response(&mut self, response: $response) -> Result<Update, ResponseError> {
                self.response(response)
            }

            fn apply(&mut self, command: Command) {
                match command {
                    Command::Subscribe(ty, wanted) => self.subscribe(ty, wanted),
                    Command::Unsubscribe(ty, names) => self.unsubscribe(&ty, &names),
                    Command::Ack(ty, nonce) => self.ack(&ty, &nonce),
                    Command::Nack(ty, nonce, error, refused) => self.nack(&ty, &nonce, &error, &refused),
                }
            }
        }
    };
}

session!(
    DeltaClient,
    DeltaDiscoveryRequest,
    DeltaDiscoveryResponse,
    delta_aggregated_resources
);
session!(
    SotwClient,
    DiscoveryRequest,
    DiscoveryResponse,
    stream_aggregated_resources
);

/// Why a connection is over.
enum End {
    /// The owner dropped the client.
    Dropped,
    /// Anything else: try again.
    Lost(String),
}

struct Driver<S, D> {
    session: S,
    config: Config,
    dial: Arc<D>,
    commands: mpsc::UnboundedReceiver<Command>,
    events: mpsc::Sender<Event>,
}

impl<S: Session, D: Dial> Driver<S, D> {
    fn new(
        session: S,
        config: Config,
        dial: D,
        commands: mpsc::UnboundedReceiver<Command>,
        events: mpsc::Sender<Event>,
    ) -> Self {
        Self {
            session,
            config,
            dial: Arc::new(dial),
            commands,
            events,
        }
    }

    async fn run(mut self) {
        loop {
            let Err(End::Lost(error)) = self.connection().await else {
                return;
            };
            self.session.disconnected();
            debug!(error, "ADS stream lost");
            if self.events.send(Event::Disconnected { error }).await.is_err() {
                return;
            }
            let pause = tokio::time::sleep(self.config.backoff.pause());
            if self.attending(pause).await.is_err() {
                return;
            }
        }
    }

    /// One connection from dialling to its end.
    async fn connection(&mut self) -> Result<std::convert::Infallible, End> {
        let timeout = self.config.connect_timeout;
        let late = |what: &str| End::Lost(format!("{what} took longer than {} s", timeout.as_secs_f32()));

        let dial = self.dial.clone();
        let io = self
            .attending(tokio::time::timeout(timeout, async move { dial.dial().await }))
            .await?;
        let io = io
            .map_err(|_| late("connecting"))?
            .map_err(|e| End::Lost(chain(&*e)))?;
        let Io {
            stream,
            token,
            cluster,
        } = io;
        let endpoint = self.endpoint().map_err(|e| End::Lost(chain(&e)))?;
        let connector = Once(Some(stream));
        let channel = self
            .attending(tokio::time::timeout(timeout, async move {
                endpoint.connect_with_connector(connector).await
            }))
            .await?;
        let channel = channel
            .map_err(|_| late("the HTTP/2 handshake"))?
            .map_err(|e| End::Lost(chain(&e)))?;
        let client = AggregatedDiscoveryServiceClient::new(channel)
            .max_decoding_message_size(self.config.max_response)
            .max_encoding_message_size(usize::MAX);

        self.session.connected();
        let (requests, body) = mpsc::channel(REQUESTS);
        let mut request = Request::new(ReceiverStream::new(body));
        if let Some(token) = token {
            let mut value: MetadataValue<_> = format!("Bearer {token}")
                .parse()
                .map_err(|_| End::Lost("the token has characters that no token has".to_owned()))?;
            value.set_sensitive(true);
            request.metadata_mut().insert("authorization", value);
        }
        if let Some(cluster) = cluster.and_then(|c| c.parse().ok()) {
            request.metadata_mut().insert("clusterid", cluster);
        }
        // A server may send its headers only with its first response, so requests flow meanwhile.
        let mut opening = pin!(S::open(client, request));
        let mut responses: Option<Streaming<S::Response>> = None;
        loop {
            let mut drained = false;
            while let Ok(room) = requests.try_reserve() {
                let Some(request) = self.session.request() else {
                    drained = true;
                    break;
                };
                room.send(request);
            }
            tokio::select! {
                opened = &mut opening, if responses.is_none() => {
                    responses = Some(opened.map_err(refused)?.into_inner());
                    self.emit(Event::Connected).await?;
                }
                message = next(&mut responses), if responses.is_some() => {
                    let Some(message) = message.map_err(refused)? else {
                        return Err(End::Lost("the server closed the stream".to_owned()));
                    };
                    let update = self.session.response(message).map_err(|e| End::Lost(e.to_string()))?;
                    self.config.backoff.reset();
                    self.emit(Event::Update(update)).await?;
                }
                command = self.commands.recv() => match command {
                    Some(command) => self.session.apply(command),
                    None => return Err(End::Dropped),
                },
                _ = requests.reserve(), if !drained => {}
            }
        }
    }

    fn endpoint(&self) -> Result<Endpoint, tonic::transport::Error> {
        // The connection is secure or not by what was dialled; the scheme says nothing of it.
        let endpoint = Endpoint::from_shared(format!("http://{}", self.config.authority))?;
        Ok(endpoint
            .http2_keep_alive_interval(self.config.keepalive_interval)
            .keep_alive_timeout(self.config.keepalive_timeout)
            .keep_alive_while_idle(true)
            .http2_adaptive_window(true))
    }

    async fn emit(&mut self, event: Event) -> Result<(), End> {
        self.events.send(event).await.map_err(|_| End::Dropped)
    }

    /// Waits for something while commands keep being taken.
    async fn attending<F: Future>(&mut self, future: F) -> Result<F::Output, End> {
        let mut future = pin!(future);
        loop {
            tokio::select! {
                output = &mut future => return Ok(output),
                command = self.commands.recv() => match command {
                    Some(command) => self.session.apply(command),
                    None => return Err(End::Dropped),
                },
            }
        }
    }
}

async fn next<T>(responses: &mut Option<Streaming<T>>) -> Result<Option<T>, Status> {
    match responses {
        Some(responses) => responses.message().await,
        None => std::future::pending().await,
    }
}

/// A connector that hands out the one connection that was dialled.
struct Once(Option<Box<dyn Duplex>>);

impl tower::Service<Uri> for Once {
    type Response = TokioIo<Box<dyn Duplex>>;
    type Error = std::io::Error;
    type Future = Ready<std::io::Result<Self::Response>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let stream = self.0.take().map(TokioIo::new);
        ready(stream.ok_or_else(|| std::io::Error::other("the connection is used up")))
    }
}

fn refused(status: Status) -> End {
    let mut text = format!("{}: {}", status.code(), status.message());
    if let Some(source) = status.source() {
        text = format!("{text}: {}", chain(source));
    }
    End::Lost(text)
}

/// An error with its causes, each said once.
fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}
