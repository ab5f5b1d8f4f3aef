//! Probes, made from the node as a kubelet's are, or from inside the pod and past its sidecar.
//!
//! Inside, the prober's socket carries the proxy's mark and comes from 127.0.0.6, as what a sidecar hands to
//! its application does: capture leaves it alone whatever the mesh's policy says of the port.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::os::fd::{AsRawFd, OwnedFd};
use std::process::Stdio;
use std::sync::Arc;

use isthmus_redirect::capture::MARK;
use nix::sys::signal::Signal;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrIn, bind, setsockopt, socket, sockopt};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

use super::Context;
use crate::plan::{Check, ContainerPlan, Probe};

/// Where the prober's sockets come from.
const SOURCE: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 6);
/// A status line is found within this many bytes.
const STATUS_LINE_MAX: usize = 1024;

/// One try; the error says in words what was wrong.
pub(super) async fn once(context: &Arc<Context>, probe: &Probe) -> Result<(), String> {
    let tried = async {
        match &probe.check {
            Check::Tcp { port } => connect(context, *port, probe.from_node)
                .await
                .map(drop)
                .map_err(|e| format!("port {port}: {e}")),
            Check::Http { port, path } => {
                let at = SocketAddrV4::new(context.address, *port);
                let mut stream = connect(context, *port, probe.from_node)
                    .await
                    .map_err(|e| format!("port {port}: {e}"))?;
                let status = ask(&mut stream, at, path)
                    .await
                    .map_err(|e| format!("port {port}{path}: {e}"))?;
                match status {
                    200..=399 => Ok(()),
                    _ => Err(format!("port {port}{path}: status {status}")),
                }
            }
            Check::Loopback { port } => dial(context, Ipv4Addr::LOCALHOST, *port, false)
                .await
                .map(drop)
                .map_err(|e| format!("port {port}: {e}")),
            Check::Exec(command) => exec(context, &[], command).await,
        }
    };
    timeout(probe.timeout, tried)
        .await
        .unwrap_or_else(|_| Err(format!("no answer within {:?}", probe.timeout)))
}

/// What is run after a container's start or before its end; no probe, so that it has no time-out of its own.
pub(super) async fn hook(context: &Arc<Context>, plan: &ContainerPlan, hook: &Check) -> Result<(), String> {
    match hook {
        Check::Exec(command) => exec(context, plan.env.as_slice(), command).await,
        Check::Http { port, path } => {
            let at = SocketAddrV4::new(context.address, *port);
            let mut stream = connect(context, *port, false)
                .await
                .map_err(|e| format!("port {port}: {e}"))?;
            ask(&mut stream, at, path)
                .await
                .map(drop)
                .map_err(|e| format!("port {port}{path}: {e}"))
        }
        Check::Tcp { .. } | Check::Loopback { .. } => Err("a hook is a command or a request".to_owned()),
    }
}

async fn connect(context: &Context, port: u16, from_node: bool) -> io::Result<TcpStream> {
    dial(context, context.address, port, from_node).await
}

async fn dial(context: &Context, at: Ipv4Addr, port: u16, from_node: bool) -> io::Result<TcpStream> {
    let fd = if from_node {
        context
            .network
            .run_in(&context.plan.key.cluster, plain_socket)
            .map_err(io::Error::other)??
    } else {
        context
            .namespaces
            .net
            .run(marked_socket)
            .map_err(io::Error::other)??
    };
    let socket = TcpSocket::from_std_stream(fd.into());
    socket.connect(SocketAddr::from((at, port))).await
}

fn plain_socket() -> io::Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    Ok(socket(AddressFamily::Inet, SockType::Stream, flags, None)?)
}

fn marked_socket() -> io::Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let fd = socket(AddressFamily::Inet, SockType::Stream, flags, None)?;
    setsockopt(&fd, sockopt::Mark, &MARK)?;
    bind(fd.as_raw_fd(), &SockaddrIn::from(SocketAddrV4::new(SOURCE, 0)))?;
    Ok(fd)
}

/// The status of `GET path`.
async fn ask(stream: &mut TcpStream, at: SocketAddrV4, path: &str) -> io::Result<u16> {
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: {at}\r\nUser-Agent: kube-probe/1.0\r\nAccept: */*\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await?;
    let mut head = Vec::new();
    while !head.contains(&b'\n') && head.len() < STATUS_LINE_MAX {
        if stream.read_buf(&mut head).await? == 0 {
            break;
        }
    }
    status(&head).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "the answer is not HTTP"))
}

/// The status in `HTTP/1.1 200 OK`.
fn status(head: &[u8]) -> Option<u16> {
    let line = std::str::from_utf8(head.split(|b| *b == b'\n').next()?).ok()?;
    let mut words = line.split_ascii_whitespace();
    words.next().filter(|v| v.starts_with("HTTP/1."))?;
    words.next()?.parse().ok()
}

async fn exec(context: &Context, env: &[(String, String)], command: &[String]) -> Result<(), String> {
    let mut process = context.command(command, env).map_err(|e| e.to_string())?;
    process
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let mut process = context.reaper.spawn(&mut process).map_err(|e| e.to_string())?;
    // A probe that is given up (its timeout drops this future) does not leave its process behind.
    struct KillOnDrop(crate::supervisor::SignalTarget);
    impl Drop for KillOnDrop {
        fn drop(&mut self) {
            self.0.signal_group(Signal::SIGKILL);
        }
    }
    let _guard = KillOnDrop(process.target().clone());
    let exit = process.wait().await;
    if exit.success() {
        Ok(())
    } else {
        Err(format!("{}: {exit}", command.first().map_or("", String::as_str)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_http_has_a_status() {
        assert_eq!(status(b"HTTP/1.1 204 No Content\r\nServer: x"), Some(204));
        assert_eq!(status(b"HTTP/1.0 503\r\n"), Some(503));
        for bad in [
            &b""[..],
            b"SSH-2.0-x\r\n",
            b"HTTP/1.1\r\n",
            b"HTTP/1.1 abc",
            b"\xff\xfe 200",
        ] {
            assert_eq!(status(bad), None);
        }
    }
}
