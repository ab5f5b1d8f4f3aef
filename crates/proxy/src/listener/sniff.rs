//! Looks at the first bytes of a connection without consuming them (`MSG_PEEK`), so that passthrough can
//! hand the socket on untouched.

use std::io;
use std::os::fd::AsRawFd;
use std::time::Duration;

use nix::sys::socket::{MsgFlags, recv};
use tokio::io::Interest;
use tokio::net::TcpStream;

use super::client_hello::{self, Hello, MAX_HELLO};

/// The HTTP/2 connection preface (RFC 9113 3.4).
pub const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Longest request line that is looked at.
const MAX_LINE: usize = 8 * 1024;
/// Bytes of the first look.
const FIRST_LOOK: usize = 2048;

/// What the first bytes are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sniffed {
    /// TLS.
    Tls(Hello),
    /// HTTP of this version, as chains name it: `http/1.0`, `http/1.1`, `h2c`.
    Http(&'static [u8]),
    /// Something else, or nothing that was asked for.
    Other,
    /// The client said nothing, or not enough, in time.
    Silent,
    /// The client closed before it said anything.
    Closed,
}

/// What a prefix shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Look {
    /// More bytes may change the answer.
    Partial,
    /// Decided.
    Known(Sniffed),
}

/// Looks at a prefix for what was asked for. TLS wins over HTTP.
pub fn look(bytes: &[u8], tls: bool, http: bool) -> Look {
    let mut partial = bytes.is_empty();
    if tls {
        match client_hello::read(bytes) {
            client_hello::Reading::Hello(hello) => return Look::Known(Sniffed::Tls(hello)),
            client_hello::Reading::Partial => partial = true,
            client_hello::Reading::NotTls => {}
        }
    }
    if http && !partial {
        match http_version(bytes) {
            Some(Some(version)) => return Look::Known(Sniffed::Http(version)),
            Some(None) => partial = true,
            None => {}
        }
    }
    if partial {
        Look::Partial
    } else {
        Look::Known(Sniffed::Other)
    }
}

/// `None`: not HTTP. `Some(None)`: more is needed.
fn http_version(bytes: &[u8]) -> Option<Option<&'static [u8]>> {
    if bytes.len() < HTTP2_PREFACE.len() && HTTP2_PREFACE.starts_with(bytes) {
        return Some(None);
    }
    if bytes.starts_with(HTTP2_PREFACE) {
        return Some(Some(b"h2c"));
    }
    // Clients may send empty lines first (RFC 9112 2.2).
    let start = bytes.iter().position(|b| !matches!(b, b'\r' | b'\n'));
    let line = &bytes[start.unwrap_or(bytes.len())..];
    let token = |b: &u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(b);
    let method = line.iter().position(|b| !token(b)).unwrap_or(line.len());
    if method > 32 || (method < line.len() && (method == 0 || line[method] != b' ')) {
        return None;
    }
    match line.iter().position(|b| *b == b'\n') {
        Some(end) => {
            let line = line[..end].trim_ascii_end();
            if line.ends_with(b" HTTP/1.1") {
                Some(Some(b"http/1.1"))
            } else if line.ends_with(b" HTTP/1.0") {
                Some(Some(b"http/1.0"))
            } else {
                None
            }
        }
        None if bytes.len() >= MAX_LINE => None,
        None => Some(None),
    }
}

/// Sniffs an accepted socket; `patience` of `None` waits for as long as the client keeps the connection.
pub async fn sniff(
    tcp: &TcpStream,
    tls: bool,
    http: bool,
    patience: Option<Duration>,
) -> io::Result<Sniffed> {
    if !tls && !http {
        return Ok(Sniffed::Other);
    }
    let looking = peek_until(tcp, MAX_HELLO, |bytes| match look(bytes, tls, http) {
        Look::Partial => None,
        Look::Known(known) => Some(known),
    });
    let found = match patience {
        Some(patience) => match tokio::time::timeout(patience, looking).await {
            Ok(found) => found?,
            Err(_) => return Ok(Sniffed::Silent),
        },
        None => looking.await?,
    };
    Ok(match found {
        Peeked::Found(sniffed) => sniffed,
        Peeked::Closed => Sniffed::Closed,
        Peeked::Full => Sniffed::Other,
    })
}

/// How peeking ended.
#[derive(Debug)]
pub enum Peeked<T> {
    /// The reader decided.
    Found(T),
    /// The client closed before the first byte.
    Closed,
    /// As much as may be looked at was not enough.
    Full,
}

/// Peeks at growing prefixes until `read` decides.
pub async fn peek_until<T>(
    tcp: &TcpStream,
    max: usize,
    mut read: impl FnMut(&[u8]) -> Option<T>,
) -> io::Result<Peeked<T>> {
    let mut buffer = vec![0u8; FIRST_LOOK.min(max)];
    let mut seen = 0;
    loop {
        tcp.readable().await?;
        let peeked = tcp.try_io(Interest::READABLE, || {
            let n = recv(tcp.as_raw_fd(), &mut buffer, MsgFlags::MSG_PEEK)?;
            if n > 0 && n == seen && n < buffer.len() {
                // Nothing new: clear the readiness, so that the next wait is for new bytes.
                return Err(io::ErrorKind::WouldBlock.into());
            }
            Ok(n)
        });
        match peeked {
            Ok(0) => return Ok(Peeked::Closed),
            Ok(n) => {
                if let Some(found) = read(&buffer[..n]) {
                    return Ok(Peeked::Found(found));
                }
                seen = n;
                if n == buffer.len() {
                    if n >= max {
                        return Ok(Peeked::Full);
                    }
                    buffer.resize((n * 4).min(max), 0);
                }
            }
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
            Err(e) => return Err(e),
        }
    }
}
