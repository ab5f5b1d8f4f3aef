//! HTTPS for the API server: HTTP/1.1 over TLS with the control plane's own certificate, which is taken anew for
//! each connection and so follows its renewal. No client certificate is asked for, as API servers have none.

use std::sync::Arc;
use std::time::Duration;

use isthmus_pki::service::accept;
use isthmus_pki::{ClientCertificates, Credentials, LiveServer, TlsOptions, describe};
use isthmus_runtime::drain;
use isthmus_runtime::server::{Limits, Router, serve_connection};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

/// Time for a TLS handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// An API server keeps what it holds below 3 MiB, and a review has the object as it was and as it is.
const LIMITS: Limits = Limits {
    connections: 256,
    body: 8 << 20,
    head_time: Duration::from_secs(90),
    body_time: Duration::from_secs(10),
    life: Duration::from_secs(3600),
};

/// Serves until the drain begins; then open requests are finished within its deadline.
///
/// # Errors
/// When the listener cannot be used.
pub async fn serve(
    listener: std::net::TcpListener,
    credentials: Credentials,
    router: Router,
    mut drain: drain::Watcher,
) -> std::io::Result<()> {
    let listener = TcpListener::from_std(listener)?;
    let tls = Arc::new(LiveServer::new(
        credentials,
        ClientCertificates::None,
        TlsOptions::alpn(["http/1.1"]),
    ));
    let router = Arc::new(router);
    let permits = Arc::new(Semaphore::new(LIMITS.connections));
    loop {
        let next = async {
            let permit = permits.clone().acquire_owned().await;
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
                tracing::warn!(%error, "cannot accept a connection of the API server");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let (tls, router, watcher) = (tls.clone(), router.clone(), drain.clone());
        drain.spawn(async move {
            let _ = stream.set_nodelay(true);
            match accept(&tls, stream, HANDSHAKE).await {
                Ok(stream) => serve_connection(stream, router, LIMITS, watcher).await,
                // Who looks whether the port is open says nothing.
                Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => {}
                Err(error) => {
                    tracing::warn!(%remote, reason = describe(&error), "TLS handshake with the API server failed");
                }
            }
            drop(permit);
        });
    }
}
