//! Both kinds of ADS stream over tonic, for whoever can say what a client may have.
//!
//! One task per stream, which ends with the stream: it takes requests, follows the source's channel, and
//! hands out responses only as fast as the client reads them.

use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use rustls_pki_types::CertificateDer;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};
use tracing::debug;

use super::{Answer, DeltaSession, Limits, ProtocolError, Sent, SotwSession, TypeStatus};
use crate::envoy::core::Node;
use crate::envoy::service::discovery::aggregated_discovery_service_server::{
    AggregatedDiscoveryService, AggregatedDiscoveryServiceServer,
};
use crate::envoy::service::discovery::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
};
use crate::resource::Resources;

/// How long a stream may stay silent before its first request.
const FIRST_REQUEST: Duration = Duration::from_secs(30);
/// Largest request, bytes.
const MAX_REQUEST: usize = 16 << 20;

/// The connection that a stream arrived on. The listener puts it into the request's extensions.
#[derive(Debug, Clone, Default)]
pub struct Connection {
    /// Address of the other end.
    pub remote: Option<SocketAddr>,
    /// Certificates of the other end, leaf first, already verified by the handshake; empty without TLS or
    /// without a client certificate.
    pub certificates: Arc<[CertificateDer<'static>]>,
}

/// Who opened a stream, as far as the transport can tell.
#[derive(Debug, Clone, Default)]
pub struct Peer {
    /// The connection.
    pub connection: Connection,
    /// Token of the `authorization: Bearer` metadata; nobody has verified it.
    pub token: Option<String>,
    /// Istio's metadata `ClusterID`: which cluster's authority can review the token.
    pub cluster: Option<String>,
}

/// Which of the two protocols a stream speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// `StreamAggregatedResources`.
    Sotw,
    /// `DeltaAggregatedResources`.
    Delta,
}

/// One open stream.
#[derive(Debug)]
pub struct StreamInfo {
    /// Unique in the process.
    pub id: u64,
    /// Protocol.
    pub kind: Kind,
    /// Who opened it.
    pub peer: Peer,
    /// What it says of itself in its first request; a claim, not a proof.
    pub node: Node,
}

/// Where the resources of a stream come from, and who wants to know how it fares.
///
/// The methods without a future are called on the stream's task and must not block.
pub trait Source: Send + Sync + 'static {
    /// Admits a stream or refuses it with the status that the client will see. The channel holds what
    /// the client may have now and later; when its sender is dropped, the stream ends.
    fn open(
        &self,
        stream: &StreamInfo,
    ) -> impl Future<Output = Result<watch::Receiver<Arc<Resources>>, Status>> + Send;

    /// A response is on its way.
    fn sent(&self, _stream: &StreamInfo, _sent: &Sent) {}

    /// The client took ([`Answer::Ack`]) or refused ([`Answer::Nack`]) a response.
    fn answered(&self, _stream: &StreamInfo, _answer: &Answer) {}

    /// Something changed about the stream: where every type stands.
    fn status(&self, _stream: &StreamInfo, _types: Vec<TypeStatus>) {}

    /// The stream has ended. Called once for every stream that [`Source::open`] admitted.
    fn closed(&self, _stream: &StreamInfo) {}
}

/// `envoy.service.discovery.v3.AggregatedDiscoveryService`.
#[derive(Debug)]
pub struct Ads<S> {
    source: Arc<S>,
    limits: Limits,
    next_id: AtomicU64,
}

impl<S: Source> Ads<S> {
    /// A service over a source, with the default bounds.
    pub fn new(source: Arc<S>) -> Self {
        Self::with_limits(source, Limits::default())
    }

    /// A service over a source.
    pub fn with_limits(source: Arc<S>, limits: Limits) -> Self {
        Self {
            source,
            limits,
            next_id: AtomicU64::new(1),
        }
    }

    /// The tower service to mount.
    pub fn into_service(self) -> AggregatedDiscoveryServiceServer<Self> {
        AggregatedDiscoveryServiceServer::new(self).max_decoding_message_size(MAX_REQUEST)
    }

    fn serve<P: Protocol>(
        &self,
        request: Request<Streaming<P::Request>>,
    ) -> Response<Responses<P::Response>> {
        let peer = peer(&request);
        let (sender, receiver) = mpsc::channel(1);
        let stream = StreamTask::<S, P> {
            source: self.source.clone(),
            limits: self.limits.clone(),
            id: self.next_id.fetch_add(1, Ordering::Relaxed),
            peer,
            requests: request.into_inner(),
            responses: sender,
        };
        let task = tokio::spawn(stream.run());
        Response::new(Responses {
            inner: ReceiverStream::new(receiver),
            task: AbortOnDrop(task),
        })
    }
}

#[tonic::async_trait]
impl<S: Source> AggregatedDiscoveryService for Ads<S> {
    type StreamAggregatedResourcesStream = Responses<DiscoveryResponse>;
    type DeltaAggregatedResourcesStream = Responses<DeltaDiscoveryResponse>;

    async fn stream_aggregated_resources(
        &self,
        request: Request<Streaming<DiscoveryRequest>>,
    ) -> Result<Response<Self::StreamAggregatedResourcesStream>, Status> {
        Ok(self.serve::<SotwSession>(request))
    }

    async fn delta_aggregated_resources(
        &self,
        request: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaAggregatedResourcesStream>, Status> {
        Ok(self.serve::<DeltaSession>(request))
    }
}

/// The responses of one stream; dropping them ends its task.
#[derive(Debug)]
pub struct Responses<R> {
    inner: ReceiverStream<Result<R, Status>>,
    #[allow(dead_code, reason = "held for its drop")]
    task: AbortOnDrop,
}

impl<R> futures_util::Stream for Responses<R> {
    type Item = Result<R, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        Pin::new(&mut self.inner).poll_next(cx)
    }
}

#[derive(Debug)]
struct AbortOnDrop(tokio::task::JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// What the two protocols share from the point of view of a stream's task.
trait Protocol: Send + 'static {
    const KIND: Kind;
    type Request: Send + 'static;
    type Response: Send + 'static;
    fn new(limits: Limits) -> Self;
    fn node(request: &mut Self::Request) -> Option<Node>;
    fn publish(&mut self, resources: Arc<Resources>);
    fn request(&mut self, request: Self::Request) -> Result<Answer, ProtocolError>;
    fn next(&mut self) -> Option<(Sent, Self::Response)>;
    fn status(&self) -> Vec<TypeStatus>;
}

macro_rules! protocol {
    ($session:ty, $kind:expr, $request:ty, $response:ty) => {
        impl Protocol for $session {
            const KIND: Kind = $kind;
            type Request = $request;
            type Response = $response;

            fn new(limits: Limits) -> Self {
                <$session>::new(limits)
            }

            fn node(request: &mut $request) -> Option<Node> {
                request.node.take()
            }

            fn publish(&mut self, resources: Arc<Resources>) {
                self.publish(resources);
            }

            fn request(&mut self, request: $request) -> Result<Answer, ProtocolError> {
                self.request(request)
            }

            fn next(&mut self) -> Option<(Sent, $response)> {
                self.next_response()
            }

            fn status(&self) -> Vec<TypeStatus> {
                self.status()
            }
        }
    };
}

protocol!(SotwSession, Kind::Sotw, DiscoveryRequest, DiscoveryResponse);
protocol!(
    DeltaSession,
    Kind::Delta,
    DeltaDiscoveryRequest,
    DeltaDiscoveryResponse
);

struct StreamTask<S, P: Protocol> {
    source: Arc<S>,
    limits: Limits,
    id: u64,
    peer: Peer,
    requests: Streaming<P::Request>,
    responses: mpsc::Sender<Result<P::Response, Status>>,
}

impl<S: Source, P: Protocol> StreamTask<S, P> {
    async fn run(mut self) {
        if let Err(status) = self.drive().await {
            debug!(stream = self.id, %status, "ADS stream ends");
            // The client may be gone already; then nobody is left to tell.
            let _ = self.responses.send(Err(status)).await;
        }
    }

    async fn drive(&mut self) -> Result<(), Status> {
        let first = tokio::time::timeout(FIRST_REQUEST, self.requests.message());
        let first = first.await.map_err(|_| {
            Status::deadline_exceeded("no discovery request within 30 s of opening the stream")
        })?;
        let Some(mut request) = first? else { return Ok(()) };
        let info = StreamInfo {
            id: self.id,
            kind: P::KIND,
            peer: std::mem::take(&mut self.peer),
            node: P::node(&mut request).unwrap_or_default(),
        };
        let mut updates = self.source.open(&info).await?;
        let stream = OpenStream {
            source: self.source.clone(),
            info,
        };
        let mut session = P::new(self.limits.clone());
        session.publish(updates.borrow_and_update().clone());
        stream.take(&mut session, request)?;

        loop {
            let mut drained = false;
            while let Ok(room) = self.responses.try_reserve() {
                let Some((sent, response)) = session.next() else {
                    drained = true;
                    break;
                };
                stream.source.sent(&stream.info, &sent);
                room.send(Ok(response));
            }
            stream.source.status(&stream.info, session.status());

            tokio::select! {
                request = self.requests.message() => match request? {
                    Some(request) => stream.take(&mut session, request)?,
                    None => return Ok(()),
                },
                changed = updates.changed() => match changed {
                    Ok(()) => session.publish(updates.borrow_and_update().clone()),
                    Err(_) => return Err(Status::unavailable("the control plane ends this stream; reconnect")),
                },
                _ = self.responses.reserve(), if !drained => {}
                () = self.responses.closed() => return Ok(()),
            }
        }
    }
}

/// An admitted stream; tells the source when it ends, however it ends.
struct OpenStream<S: Source> {
    source: Arc<S>,
    info: StreamInfo,
}

impl<S: Source> OpenStream<S> {
    fn take<P: Protocol>(&self, session: &mut P, request: P::Request) -> Result<(), Status> {
        let answer = session.request(request).map_err(|e| match e {
            ProtocolError::NoType => Status::invalid_argument(e.to_string()),
            _ => Status::resource_exhausted(e.to_string()),
        })?;
        if answer != Answer::None {
            self.source.answered(&self.info, &answer);
        }
        Ok(())
    }
}

impl<S: Source> Drop for OpenStream<S> {
    fn drop(&mut self) {
        self.source.closed(&self.info);
    }
}

fn peer<T>(request: &Request<T>) -> Peer {
    let text = |key: &str| request.metadata().get(key).and_then(|v| v.to_str().ok());
    let token = text("authorization").and_then(|v| {
        let (scheme, token) = v.split_once(' ')?;
        scheme
            .eq_ignore_ascii_case("bearer")
            .then(|| token.trim().to_owned())
    });
    Peer {
        connection: request
            .extensions()
            .get::<Connection>()
            .cloned()
            .unwrap_or_default(),
        token,
        cluster: text("clusterid").map(str::to_owned),
    }
}
