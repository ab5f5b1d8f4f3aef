//! The server's side of a handshake.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use isthmus_pki::verify::describe;
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;

use crate::config::tls::DownstreamTls;
use crate::tcp::stream::Stream;
use crate::worker::Worker;

use super::TlsPeer;

/// How long a client may take for its handshake.
const PATIENCE: Duration = Duration::from_secs(15);

/// Terminates TLS; an error is the reason in words.
pub async fn handshake(
    cx: &Worker,
    context: &Arc<DownstreamTls>,
    tcp: TcpStream,
) -> Result<(Stream, TlsPeer), String> {
    let live = cx.live();
    let config = cx.tls.server(&live, context).map_err(|e| e.to_string())?;
    let own = context
        .certificates
        .first()
        .and_then(|reference| live.certificate(reference));
    drop(live);
    let stream = tokio::time::timeout(PATIENCE, TlsAcceptor::from(config).accept(tcp))
        .await
        .map_err(|_| format!("the handshake took longer than {PATIENCE:?}"))?
        .map_err(|e| describe(&e))?;
    let (_, connection) = stream.get_ref();
    let mut peer = TlsPeer::of(
        connection,
        context.validation.trusted.is_some() && connection.peer_certificates().is_some(),
        own.as_ref().map(|k| k.cert.as_slice()),
    );
    peer.server_name = connection.server_name().map(|n| Rc::from(n.to_ascii_lowercase()));
    Ok((Stream::Accepted(Box::new(stream)), peer))
}
