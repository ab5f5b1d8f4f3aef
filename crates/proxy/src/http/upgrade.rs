//! After a 101 (or a 200 to CONNECT) a request is a tunnel: bytes both ways, in a task of its own.

use std::rc::Rc;
use std::time::Duration;

use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use crate::telemetry::flags::Flags;
use crate::telemetry::http::Record;
use crate::upstream::Busy;
use crate::upstream::pool::Lease;
use crate::worker::Worker;

/// Bytes of one read.
const CHUNK: usize = 16 * 1024;

/// Both ends of a tunnel, and what lives as long as it does.
pub struct Tunnel {
    /// Downstream.
    pub downstream: OnUpgrade,
    /// Upstream.
    pub upstream: OnUpgrade,
    /// The upstream connection.
    pub lease: Lease,
    /// Counts at the host.
    pub busy: Busy,
    /// The record, closed when the tunnel is.
    pub record: Record,
    /// Ends when nothing moves for this long.
    pub idle: Option<Duration>,
}

/// Runs a tunnel until both ends are closed.
pub fn spawn(cx: &Rc<Worker>, tunnel: Tunnel) {
    let cx = cx.clone();
    tokio::task::spawn_local(async move {
        let Tunnel {
            downstream,
            upstream,
            lease,
            busy,
            mut record,
            idle,
        } = tunnel;
        let (downstream, upstream) = match futures_util::future::try_join(downstream, upstream).await {
            Ok(ends) => ends,
            Err(error) => {
                tracing::debug!(%error, "the tunnel did not come to stand");
                record.flag(Flags::UC);
                return;
            }
        };
        let (from_down, to_down) = tokio::io::split(TokioIo::new(downstream));
        let (from_up, to_up) = tokio::io::split(TokioIo::new(upstream));
        let activity = Rc::new(std::cell::Cell::new(tokio::time::Instant::now()));
        let both = futures_util::future::join(
            pump(from_down, to_up, activity.clone()),
            pump(from_up, to_down, activity.clone()),
        );
        let quiet = async {
            let Some(idle) = idle else {
                return std::future::pending().await;
            };
            while activity.get().elapsed() < idle {
                tokio::time::sleep_until(activity.get() + idle).await;
            }
        };
        tokio::select! {
            (received, sent) = both => record.bytes(received, sent),
            () = quiet => record.flag(Flags::SI),
        }
        drop((lease, busy, record, cx));
    });
}

/// One direction; how many bytes went through. A closed or broken source closes the sink.
async fn pump(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    activity: Rc<std::cell::Cell<tokio::time::Instant>>,
) -> u64 {
    let mut chunk = vec![0u8; CHUNK];
    let mut total = 0;
    loop {
        let n = match from.read(&mut chunk).await {
            Ok(0) | Err(_) => break,
            Ok(n) => n,
        };
        if to.write_all(&chunk[..n]).await.is_err() || to.flush().await.is_err() {
            break;
        }
        total += n as u64;
        activity.set(tokio::time::Instant::now());
    }
    let _ = to.shutdown().await;
    total
}
