//! Taking a port, and a useful error when it cannot be taken.
//!
//! Sockets are bound before any task is spawned, so that a start-up failure is one sentence: which
//! address, who holds it, and what to do.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::Path;

use socket2::{Domain, Protocol, SockAddr, Socket, Type};

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 1024;

/// Why an address could not be bound.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address}/{transport} for {purpose}: {reason}; {remedy}")]
pub struct BindError {
    /// The address asked for.
    pub address: SocketAddr,
    /// `tcp` or `udp`.
    pub transport: &'static str,
    /// What the socket is for, in words.
    pub purpose: Box<str>,
    /// What is in the way.
    pub reason: Box<str>,
    /// What to do.
    pub remedy: Box<str>,
    /// The error of the system call.
    #[source]
    pub source: io::Error,
}

/// A process that holds a port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// Process id, in our pid namespace.
    pub pid: u32,
    /// Its command line, cut at 80 characters.
    pub command: String,
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "process {} ({})", self.pid, self.command)
    }
}

/// A listening, non-blocking TCP socket with `SO_REUSEADDR`; IPv6 addresses accept IPv6 alone.
/// `purpose` is named in the error ("the admin server").
pub fn tcp(address: SocketAddr, purpose: &str) -> Result<std::net::TcpListener, BindError> {
    let open = || -> io::Result<Socket> {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_reuse_address(true)?;
        if address.is_ipv6() {
            socket.set_only_v6(true)?;
        }
        socket.bind(&SockAddr::from(address))?;
        socket.listen(BACKLOG)?;
        socket.set_nonblocking(true)?;
        Ok(socket)
    };
    open()
        .map(Into::into)
        .map_err(|e| explain(address, "tcp", purpose, e))
}

/// A bound, non-blocking UDP socket; IPv6 addresses receive IPv6 alone.
pub fn udp(address: SocketAddr, purpose: &str) -> Result<std::net::UdpSocket, BindError> {
    let open = || -> io::Result<Socket> {
        let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
        if address.is_ipv6() {
            socket.set_only_v6(true)?;
        }
        socket.bind(&SockAddr::from(address))?;
        socket.set_nonblocking(true)?;
        Ok(socket)
    };
    open()
        .map(Into::into)
        .map_err(|e| explain(address, "udp", purpose, e))
}

fn explain(address: SocketAddr, transport: &'static str, purpose: &str, source: io::Error) -> BindError {
    let (reason, remedy) = match source.kind() {
        io::ErrorKind::AddrInUse => match holder(address.port(), transport) {
            Some(holder) => (
                format!("the port is held by {holder}"),
                "end that process or choose another port".to_owned(),
            ),
            None => (
                "the port is in use by a process that this user cannot see".to_owned(),
                format!(
                    "find it with `ss -lp{} sport = :{}` as root, or choose another port",
                    &transport[..1],
                    address.port()
                ),
            ),
        },
        io::ErrorKind::AddrNotAvailable => (
            format!("no interface here has the address {}", address.ip()),
            "use an address of this machine, 0.0.0.0 or [::]".to_owned(),
        ),
        io::ErrorKind::PermissionDenied => (
            "permission denied".to_owned(),
            "ports below 1024 need root or CAP_NET_BIND_SERVICE; choose a port above".to_owned(),
        ),
        _ => (
            source.to_string(),
            "see the system's limits on sockets and addresses".to_owned(),
        ),
    };
    BindError {
        address,
        transport,
        purpose: purpose.into(),
        reason: reason.into(),
        remedy: remedy.into(),
        source,
    }
}

/// Who holds a port, as far as `/proc` shows it to this user.
pub fn holder(port: u16, transport: &str) -> Option<Holder> {
    let inodes: Vec<String> = ["", "6"]
        .iter()
        .filter_map(|v| std::fs::read_to_string(format!("/proc/net/{transport}{v}")).ok())
        .flat_map(|table| listening_inodes(&table, port, transport))
        .collect();
    if inodes.is_empty() {
        return None;
    }
    let wanted: Vec<String> = inodes.iter().map(|i| format!("socket:[{i}]")).collect();
    for process in std::fs::read_dir("/proc").ok()?.flatten() {
        let Some(pid) = process.file_name().to_str().and_then(|n| n.parse::<u32>().ok()) else {
            continue;
        };
        let Ok(descriptors) = std::fs::read_dir(process.path().join("fd")) else {
            continue;
        };
        for descriptor in descriptors.flatten() {
            let Ok(target) = std::fs::read_link(descriptor.path()) else {
                continue;
            };
            if target.to_str().is_some_and(|t| wanted.iter().any(|w| w == t)) {
                return Some(Holder {
                    pid,
                    command: command(&process.path()),
                });
            }
        }
    }
    None
}

/// Inodes of the sockets in a `/proc/net/{tcp,udp}` table that are bound to `port` and, for TCP, listen.
fn listening_inodes(table: &str, port: u16, transport: &str) -> Vec<String> {
    table
        .lines()
        .skip(1)
        .filter_map(|line| {
            let fields: Vec<&str> = line.split_ascii_whitespace().collect();
            let local = fields.get(1)?.rsplit(':').next()?;
            let bound = u16::from_str_radix(local, 16).ok()? == port;
            let listens = transport == "udp" || *fields.get(3)? == "0A";
            (bound && listens).then(|| fields.get(9).map(|i| (*i).to_owned()))?
        })
        .collect()
}

fn command(process: &Path) -> String {
    let line = std::fs::read(process.join("cmdline")).unwrap_or_default();
    let words: Vec<_> = line
        .split(|b| *b == 0)
        .filter(|w| !w.is_empty())
        .map(String::from_utf8_lossy)
        .collect();
    words.join(" ").chars().take(80).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_taken_port_names_address_holder_and_remedy() {
        let held = tcp("127.0.0.1:0".parse().unwrap(), "the test").unwrap();
        let address = held.local_addr().unwrap();
        let error = tcp(address, "the admin server").unwrap_err().to_string();
        assert!(error.contains(&address.to_string()), "{error}");
        assert!(error.contains("the admin server"), "{error}");
        assert!(
            error.contains(&format!("process {}", std::process::id())),
            "{error}"
        );
        assert!(error.contains("choose another port"), "{error}");
    }

    #[test]
    fn a_taken_udp_port_is_found_too() {
        let held = udp("127.0.0.1:0".parse().unwrap(), "the test").unwrap();
        let address = held.local_addr().unwrap();
        let error = udp(address, "DNS").unwrap_err();
        assert_eq!(error.source.kind(), io::ErrorKind::AddrInUse);
        assert_eq!(holder(address.port(), "udp").unwrap().pid, std::process::id());
    }

    #[test]
    fn a_foreign_address_is_said_to_be_foreign() {
        let error = tcp("192.0.2.1:1".parse().unwrap(), "x").unwrap_err().to_string();
        assert!(
            error.contains("no interface here has the address 192.0.2.1"),
            "{error}"
        );
    }
}
