//! The client's side of a handshake.

use std::rc::Rc;
use std::sync::Arc;

use isthmus_pki::verify::describe;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::config::tls::UpstreamTls;
use crate::tcp::stream::Stream;
use crate::upstream::connect::{ConnectError, Purpose};
use crate::worker::Worker;

use super::TlsPeer;

/// Which of a context's ALPN names are offered, so that the answer fits what will be spoken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AlpnChoice {
    /// All of them.
    All,
    /// Those that may carry HTTP/1.1.
    Http1,
    /// Those that may carry HTTP/2.
    Http2,
}

impl AlpnChoice {
    /// Filters a context's list.
    pub fn choose(self, names: &[Vec<u8>]) -> Vec<Vec<u8>> {
        let keep = |name: &[u8]| match self {
            Self::All => true,
            Self::Http1 => !matches!(name, b"h2" | b"istio-h2"),
            Self::Http2 => !matches!(
                name,
                b"http/1.1" | b"http/1.0" | b"istio-http/1.1" | b"istio-http/1.0"
            ),
        };
        names.iter().filter(|n| keep(n)).cloned().collect()
    }
}

/// Whether this ALPN name means HTTP/2; `None` when it does not say.
pub fn speaks_http2(alpn: Option<&[u8]>) -> Option<bool> {
    match alpn? {
        b"h2" | b"istio-h2" => Some(true),
        b"http/1.1" | b"http/1.0" | b"istio-http/1.1" | b"istio-http/1.0" => Some(false),
        _ => None,
    }
}

/// Begins TLS over `tcp` and verifies the server.
pub async fn handshake(
    cx: &Worker,
    context: &Arc<UpstreamTls>,
    tcp: TcpStream,
    purpose: &Purpose,
    hostname: Option<&str>,
) -> Result<(Stream, Rc<TlsPeer>), ConnectError> {
    let words = |e: &dyn std::fmt::Display| ConnectError::Tls(e.to_string());
    let (config, own) = {
        let live = cx.live();
        cx.tls
            .client(&live, context, purpose.alpn)
            .map_err(|e| words(&e))?
    };
    let asked = match (&context.sni, context.auto_sni) {
        (Some(sni), _) => Some(sni.as_ref()),
        (None, true) => purpose.authority.as_deref().map(without_port).or(hostname),
        (None, false) => None,
    };
    let name = match asked {
        Some(name) => ServerName::try_from(name.to_owned())
            .map_err(|_| ConnectError::Tls(format!("{name:?} cannot be sent as SNI")))?,
        // An address is never sent as SNI (RFC 6066 3).
        None => ServerName::IpAddress(tcp.peer_addr().map_err(|e| words(&e))?.ip().into()),
    };
    let stream = TlsConnector::from(config)
        .connect(name, tcp)
        .await
        .map_err(|e| ConnectError::Tls(describe(&e)))?;
    let (_, connection) = stream.get_ref();
    let mut peer = TlsPeer::of(
        connection,
        context.validation.trusted.is_some(),
        own.as_ref().map(|k| k.cert.as_slice()),
    );
    peer.server_name = asked.map(Rc::from);
    Ok((Stream::Originated(Box::new(stream)), Rc::new(peer)))
}

fn without_port(authority: &str) -> &str {
    match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|b| b.is_ascii_digit()) => {
            host.trim_start_matches('[').trim_end_matches(']')
        }
        _ => authority,
    }
}
