//! What is known of a downstream connection, for matching, rules, headers and logs.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use crate::config::listener::{TrafficDirection, Transport};
use crate::tls::TlsPeer;

/// One downstream connection.
#[derive(Debug, Clone)]
pub struct Facts {
    /// Name of the listener whose chains serve it.
    pub listener: Arc<str>,
    /// Which way traffic flows.
    pub direction: TrafficDirection,
    /// The socket's peer.
    pub peer: SocketAddr,
    /// The client: the peer, or what a PROXY protocol header says.
    pub source: SocketAddr,
    /// Where the client wanted to go: the original destination, else the socket's own address.
    pub destination: SocketAddr,
    /// Whether `destination` was restored from the kernel or a PROXY protocol header.
    pub restored: bool,
    /// TLS or not, as sniffed.
    pub transport: Transport,
    /// SNI, lower case.
    pub server_name: Option<Rc<str>>,
    /// ALPN names the client offered over TLS, or what HTTP sniffing found (`http/1.1`, `h2c`).
    pub application_protocols: Vec<Vec<u8>>,
    /// What was proved and negotiated, once TLS was terminated here.
    pub tls: Option<Rc<TlsPeer>>,
    /// When it was accepted.
    pub accepted: Instant,
    /// Number within the worker.
    pub id: u64,
}

impl Facts {
    /// The client's first URI SAN.
    pub fn principal(&self) -> Option<&str> {
        self.tls.as_ref()?.uris.first().map(|u| &**u)
    }
}
