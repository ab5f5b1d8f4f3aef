//! Plain TCP: an echo, and a protocol whose server speaks first, as MySQL's and SMTP's do.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use isthmus_runtime::drain;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;

/// Connections that are served at once.
const MOST_CONNECTIONS: usize = 1024;
/// How long a connection may be silent.
const IDLE: Duration = Duration::from_secs(3600);

/// Sends `banner` on each connection (nothing when it is empty), then every byte back.
pub async fn serve(listener: std::net::TcpListener, banner: String, mut drain: drain::Watcher) {
    let listener = match TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => return tracing::error!(%error, "cannot take the listener over"),
    };
    let banner: Arc<str> = banner.into();
    let permits = Arc::new(Semaphore::new(MOST_CONNECTIONS));
    loop {
        let accept = async {
            let permit = permits.clone().acquire_owned().await;
            (listener.accept().await, permit)
        };
        let (accepted, permit) = tokio::select! {
            biased;
            _ = drain.draining() => return,
            accepted = accept => accepted,
        };
        let Ok((stream, peer)) = accepted else {
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let banner = banner.clone();
        drain.spawn(async move {
            if let Err(error) = echo(stream, &banner).await {
                tracing::debug!(%error, %peer, "connection ended");
            }
            drop(permit);
        });
    }
}

async fn echo(mut stream: TcpStream, banner: &str) -> io::Result<()> {
    stream.set_nodelay(true)?;
    stream.write_all(banner.as_bytes()).await?;
    let mut buffer = vec![0; 16 << 10];
    loop {
        let read = timeout(IDLE, stream.read(&mut buffer))
            .await
            .map_err(|_| io::ErrorKind::TimedOut)??;
        if read == 0 {
            return stream.shutdown().await;
        }
        timeout(IDLE, stream.write_all(&buffer[..read]))
            .await
            .map_err(|_| io::ErrorKind::TimedOut)??;
    }
}
