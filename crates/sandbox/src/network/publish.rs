//! A listener on the machine's own network, joined to an address in the sandbox.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

use tokio::io::copy_bidirectional;
use tokio::net::TcpStream;

/// A public address that does not answer is given up after this long.
const CONNECT: Duration = Duration::from_secs(10);

/// Joins every connection that `listener` takes to `target`, which is dialled from the internet (the
/// supervisor's namespace, in which the runtime's threads live). Ends when the future is dropped, or
/// with an error when the listener fails.
pub async fn publish(listener: TcpListener, target: SocketAddr) -> io::Result<()> {
    listener.set_nonblocking(true)?;
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let mut connections = tokio::task::JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((mut near, _)) => {
                    connections.spawn(async move {
                        let Ok(Ok(mut far)) = tokio::time::timeout(CONNECT, TcpStream::connect(target)).await else {
                            return;
                        };
                        let _ = near.set_nodelay(true);
                        let _ = far.set_nodelay(true);
                        // Either side may reset the connection; the other notices.
                        let _ = copy_bidirectional(&mut near, &mut far).await;
                    });
                }
                // A caller that gave up, or a moment without descriptors: the listener is still good.
                Err(e) if matches!(e.raw_os_error(), Some(libc::ECONNABORTED | libc::EMFILE | libc::ENFILE)) => {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
                Err(e) => return Err(e),
            },
            Some(_) = connections.join_next() => {}
        }
    }
}
