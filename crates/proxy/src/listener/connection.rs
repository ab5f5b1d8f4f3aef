//! One accepted connection, from the socket to the filter that serves it.

use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;

use crate::config::listener::{FilterChain, Listener, NetworkFilter, Transport};
use crate::http;
use crate::rbac;
use crate::tcp::{self, stream::Stream};
use crate::tls::terminate;
use crate::upstream::connect::tune_accepted;
use crate::worker::Worker;

use super::facts::Facts;
use super::proxy_protocol::{self, MAX_HEADER};
use super::sniff::{self, Peeked, Sniffed, peek_until};
use super::{chain, refusal, socket};

/// How long a client may take for its PROXY protocol header.
const HEADER_PATIENCE: Duration = Duration::from_secs(5);

/// Why a connection ended before a filter had it.
#[derive(Debug, thiserror::Error)]
enum Refused {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("the PROXY protocol header is missing or malformed")]
    ProxyProtocol,
    #[error("the client closed before it said anything")]
    Closed,
    #[error("the client said nothing within {0:?}")]
    Silent(Duration),
    #[error("{0}")]
    Chain(refusal::Refusal),
    #[error("TLS: {0}")]
    Tls(String),
    #[error("RBAC: access denied by {0}")]
    Rbac(String),
}

/// Serves one accepted connection to its end.
pub async fn serve(cx: Rc<Worker>, bound: Arc<Listener>, mut tcp: TcpStream, peer: SocketAddr) {
    tune_accepted(&tcp);
    let mut facts = match introduce(&cx, &bound, &mut tcp, peer).await {
        Ok(facts) => facts,
        Err(error) => {
            tracing::info!(listener = %bound.name, %peer, "connection refused: {error}");
            return;
        }
    };
    let listener = hand_over(&cx, &bound, &facts);
    facts.listener = listener.name.clone();
    facts.direction = listener.direction;
    match admit(&cx, &listener, &mut facts, tcp).await {
        Ok((chain, stream)) => {
            let facts = Rc::new(facts);
            match &chain.network {
                NetworkFilter::Tcp(proxy) => tcp::proxy::serve(&cx, &facts, proxy, stream).await,
                NetworkFilter::Http(_) => http::connection::serve(cx, facts, chain, stream).await,
            }
        }
        Err(Refused::Closed) => {
            tracing::debug!(listener = %listener.name, peer = %facts.source, "closed before the first byte");
        }
        Err(error) => {
            cx.telemetry.count_refused(&listener.name);
            tracing::info!(
                listener = %listener.name,
                peer = %facts.source,
                destination = %facts.destination,
                sni = facts.server_name.as_deref().unwrap_or("-"),
                "connection refused: {error}"
            );
        }
    }
}

/// Addresses: the PROXY protocol header, the original destination.
async fn introduce(
    cx: &Worker,
    bound: &Listener,
    tcp: &mut TcpStream,
    peer: SocketAddr,
) -> Result<Facts, Refused> {
    let mut facts = Facts {
        listener: bound.name.clone(),
        direction: bound.direction,
        peer,
        source: peer,
        destination: tcp.local_addr()?,
        restored: false,
        transport: Transport::Raw,
        server_name: None,
        application_protocols: Vec::new(),
        tls: None,
        accepted: Instant::now(),
        id: cx.next_connection_id(),
    };
    if (bound.use_original_dst || bound.original_dst)
        && let Some(original) = socket::original_destination(tcp)
    {
        facts.restored = original != facts.destination;
        facts.destination = original;
    }
    if bound.proxy_protocol {
        let looking = peek_until(tcp, MAX_HEADER, |bytes| match proxy_protocol::read(bytes) {
            proxy_protocol::Reading::Partial => None,
            proxy_protocol::Reading::Header(size, addresses) => Some(Some((size, addresses))),
            proxy_protocol::Reading::Malformed => Some(None),
        });
        let found = tokio::time::timeout(HEADER_PATIENCE, looking)
            .await
            .map_err(|_| Refused::Silent(HEADER_PATIENCE))??;
        let Peeked::Found(Some((size, addresses))) = found else {
            return Err(Refused::ProxyProtocol);
        };
        let mut header = vec![0u8; size];
        tcp.read_exact(&mut header).await?;
        if let Some((source, destination)) = addresses {
            facts.source = source;
            facts.destination = destination;
            facts.restored = true;
        }
    }
    Ok(facts)
}

/// The listener of the original destination: `ip_port`, else `0.0.0.0_port`, else the one that accepted.
fn hand_over(cx: &Worker, bound: &Arc<Listener>, facts: &Facts) -> Arc<Listener> {
    if !bound.use_original_dst {
        return bound.clone();
    }
    cx.listener_for(facts.destination, bound.direction)
        .unwrap_or_else(|| bound.clone())
}

/// Sniffs, finds the chain, terminates TLS, applies the chain's connection rules.
async fn admit(
    cx: &Rc<Worker>,
    listener: &Arc<Listener>,
    facts: &mut Facts,
    tcp: TcpStream,
) -> Result<(Arc<FilterChain>, Stream), Refused> {
    let patience = Some(listener.sniff_timeout).filter(|d| *d < Duration::MAX);
    let port = facts.destination.port();
    let tls = listener.inspect_tls && !listener.inspect_tls_except.contains(port);
    let http = listener.inspect_http && !listener.inspect_http_except.contains(port);
    match sniff::sniff(&tcp, tls, http, patience).await? {
        Sniffed::Tls(hello) => {
            facts.transport = Transport::Tls;
            facts.server_name = hello.server_name.map(Rc::from);
            facts.application_protocols = hello.alpn;
        }
        Sniffed::Http(version) => facts.application_protocols = vec![version.to_vec()],
        Sniffed::Other => {}
        Sniffed::Closed => return Err(Refused::Closed),
        Sniffed::Silent if listener.continue_on_sniff_timeout => {}
        Sniffed::Silent => return Err(Refused::Silent(listener.sniff_timeout)),
    }
    let chain = chain::find(listener, facts)
        .cloned()
        .ok_or_else(|| Refused::Chain(refusal::explain(listener, facts)))?;
    let stream = match &chain.tls {
        None => Stream::Tcp(tcp),
        Some(context) => {
            let (stream, peer) = terminate::handshake(cx, context, tcp)
                .await
                .map_err(Refused::Tls)?;
            if facts.server_name.is_none() {
                facts.server_name = peer.server_name.clone();
            }
            facts.transport = Transport::Tls;
            facts.tls = Some(Rc::new(peer));
            stream
        }
    };
    for rules in &chain.rbac {
        if let rbac::Verdict::Denied(policy) = rbac::connection(rules, facts) {
            return Err(Refused::Rbac(rbac::denied_by(policy)));
        }
    }
    Ok((chain, stream))
}
