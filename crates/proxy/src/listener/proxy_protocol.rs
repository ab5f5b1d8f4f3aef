//! PROXY protocol, versions 1 and 2 (haproxy.org proxy-protocol.txt).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Start of a version 2 header.
const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
/// Longest header that is read: version 2 may carry extensions.
pub const MAX_HEADER: usize = 4096;

/// What a prefix of a connection is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reading {
    /// More bytes are needed.
    Partial,
    /// A header of this many bytes, with source and destination unless it says LOCAL or UNKNOWN.
    Header(usize, Option<(SocketAddr, SocketAddr)>),
    /// Not a header.
    Malformed,
}

/// Reads a prefix of a connection.
pub fn read(bytes: &[u8]) -> Reading {
    if bytes.starts_with(SIGNATURE) {
        return version_2(bytes);
    }
    if SIGNATURE.starts_with(bytes) {
        return Reading::Partial;
    }
    version_1(bytes)
}

fn version_1(bytes: &[u8]) -> Reading {
    const LONGEST: usize = 107;
    let prefix = b"PROXY ";
    if !bytes.starts_with(&prefix[..prefix.len().min(bytes.len())]) {
        return Reading::Malformed;
    }
    let Some(end) = bytes.windows(2).take(LONGEST).position(|w| w == b"\r\n") else {
        return if bytes.len() >= LONGEST {
            Reading::Malformed
        } else {
            Reading::Partial
        };
    };
    let Ok(line) = std::str::from_utf8(&bytes[..end]) else {
        return Reading::Malformed;
    };
    let mut words = line.split(' ').skip(1);
    let size = end + 2;
    match words.next() {
        Some("UNKNOWN") => Reading::Header(size, None),
        Some("TCP4" | "TCP6") => {
            let addresses = (|| {
                let source: IpAddr = words.next()?.parse().ok()?;
                let destination: IpAddr = words.next()?.parse().ok()?;
                let from: u16 = words.next()?.parse().ok()?;
                let to: u16 = words.next()?.parse().ok()?;
                Some((SocketAddr::new(source, from), SocketAddr::new(destination, to)))
            })();
            match addresses {
                Some(a) => Reading::Header(size, Some(a)),
                None => Reading::Malformed,
            }
        }
        _ => Reading::Malformed,
    }
}

fn version_2(bytes: &[u8]) -> Reading {
    let Some(head) = bytes.get(12..16) else {
        return Reading::Partial;
    };
    let length = usize::from(u16::from_be_bytes([head[2], head[3]]));
    let size = 16 + length;
    if head[0] >> 4 != 2 || size > MAX_HEADER {
        return Reading::Malformed;
    }
    let Some(body) = bytes.get(16..size) else {
        return Reading::Partial;
    };
    let port = |at: usize| u16::from_be_bytes([body[at], body[at + 1]]);
    match (head[0] & 15, head[1] >> 4) {
        (0, _) | (1, 0 | 3) => Reading::Header(size, None),
        (1, 1) if body.len() >= 12 => {
            let ip =
                |at: usize| IpAddr::V4(Ipv4Addr::new(body[at], body[at + 1], body[at + 2], body[at + 3]));
            Reading::Header(
                size,
                Some((SocketAddr::new(ip(0), port(8)), SocketAddr::new(ip(4), port(10)))),
            )
        }
        (1, 2) if body.len() >= 36 => {
            let ip = |at: usize| {
                let mut octets = [0u8; 16];
                octets.copy_from_slice(&body[at..at + 16]);
                IpAddr::V6(Ipv6Addr::from(octets))
            };
            Reading::Header(
                size,
                Some((
                    SocketAddr::new(ip(0), port(32)),
                    SocketAddr::new(ip(16), port(34)),
                )),
            )
        }
        _ => Reading::Malformed,
    }
}
