//! HTTP/2 connections and what is behind them.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use isthmus_pki::service::{CertificateServer, SERVICE, accept};
use isthmus_pki::{LiveServer, PeerCertificates, describe};
use isthmus_runtime::drain;
use isthmus_xds::envoy::service::discovery::aggregated_discovery_service_server::{
    AggregatedDiscoveryServiceServer, SERVICE_NAME,
};
use isthmus_xds::server::service::{Ads, Connection};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::Service as _;

use super::Configuration;
use super::streams::Streams;

/// Connections served at once; more wait in the listen queue.
const CONNECTIONS: usize = 20_000;
/// TLS handshakes under way at once: an RSA signature each.
const HANDSHAKES: usize = 256;
/// Time for a TLS handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// A silent connection is asked for a sign of life this often,
const KEEPALIVE: Duration = Duration::from_secs(20);
/// and closed when none comes within this time.
const KEEPALIVE_PATIENCE: Duration = Duration::from_secs(10);
/// Streams of one connection.
const STREAMS: u32 = 64;

/// The gRPC services of a port.
pub(super) struct Services<C: Configuration> {
    pub ads: AggregatedDiscoveryServiceServer<Ads<Streams<C>>>,
    pub certificates: CertificateServer,
}

impl<C: Configuration> Clone for Services<C> {
    fn clone(&self) -> Self {
        Self {
            ads: self.ads.clone(),
            certificates: self.certificates.clone(),
        }
    }
}

impl<C: Configuration> Services<C> {
    async fn call(mut self, request: Request<Incoming>) -> Result<Response<Body>, Infallible> {
        let service = request.uri().path().split('/').nth(1).unwrap_or_default();
        if service == SERVICE_NAME {
            self.ads.call(request).await
        } else if service == SERVICE {
            self.certificates.call(request).await
        } else {
            let reason = format!(
                "{:?}: this port serves {SERVICE_NAME} and {SERVICE}",
                request.uri().path()
            );
            Ok(Status::unimplemented(reason).into_http())
        }
    }
}

/// Accepts connections until the drain begins.
pub(super) async fn serve<C: Configuration>(
    listener: std::net::TcpListener,
    tls: Option<Arc<LiveServer>>,
    services: Services<C>,
    mut drain: drain::Watcher,
) -> std::io::Result<()> {
    let listener = TcpListener::from_std(listener)?;
    let connections = Arc::new(Semaphore::new(CONNECTIONS));
    let handshakes = Arc::new(Semaphore::new(HANDSHAKES));
    loop {
        let next = async {
            let permit = connections.clone().acquire_owned().await;
            (listener.accept().await, permit)
        };
        let (accepted, permit) = tokio::select! {
            biased;
            _ = drain.draining() => return Ok(()),
            next = next => next,
        };
        let (stream, remote) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of descriptors: nothing to do but wait until some are closed.
                tracing::warn!(%error, "cannot accept an xDS connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let (tls, services, handshakes) = (tls.clone(), services.clone(), handshakes.clone());
        // Streams have no end of their own: a drain cuts them, and the proxies come back.
        drop(tokio::spawn(drain.clone().until_draining(async move {
            connection(stream, remote, tls, services, &handshakes).await;
            drop(permit);
        })));
    }
}

async fn connection<C: Configuration>(
    stream: TcpStream,
    remote: SocketAddr,
    tls: Option<Arc<LiveServer>>,
    services: Services<C>,
    handshakes: &Semaphore,
) {
    let _ = stream.set_nodelay(true);
    let Some(tls) = tls else {
        return http2(stream, remote, PeerCertificates::default(), services).await;
    };
    let accepted = {
        let _turn = handshakes.acquire().await;
        accept(&tls, stream, HANDSHAKE).await
    };
    match accepted {
        Ok(stream) => {
            let certificates = stream.certificates().clone();
            http2(stream, remote, certificates, services).await;
        }
        Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => {
            tracing::debug!(%remote, "closed before the TLS handshake was done");
        }
        Err(error) => {
            tracing::warn!(%remote, reason = describe(&error), "TLS handshake refused");
        }
    }
}

async fn http2<C: Configuration, S: AsyncRead + AsyncWrite + Unpin>(
    stream: S,
    remote: SocketAddr,
    certificates: PeerCertificates,
    services: Services<C>,
) {
    let connection = Connection {
        remote: Some(remote),
        certificates: certificates.0.clone(),
    };
    let service = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(connection.clone());
        request.extensions_mut().insert(certificates.clone());
        services.clone().call(request)
    });
    let served = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS)
        .max_header_list_size(64 << 10)
        .keep_alive_interval(KEEPALIVE)
        .keep_alive_timeout(KEEPALIVE_PATIENCE)
        .serve_connection(TokioIo::new(stream), service)
        .await;
    if let Err(error) = served {
        tracing::debug!(%remote, %error, "xDS connection ended");
    }
}
