//! An accepted TLS connection that tells the services behind it whom the handshake proved.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tonic::transport::server::Connected;

use crate::credential::LiveServer;
use crate::token::PeerCertificates;

/// A TLS connection; tonic puts its [`PeerCertificates`] into the extensions of every request on it.
pub struct MeshStream<S> {
    stream: TlsStream<S>,
    certificates: PeerCertificates,
}

/// Accepts a connection with the current credential of `server`, within `patience`.
///
/// Errors carry the verifier's reason; see [`crate::verify::describe`].
pub async fn accept<S>(server: &LiveServer, stream: S, patience: Duration) -> io::Result<MeshStream<S>>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let config = server.current().map_err(io::Error::other)?;
    let handshake = TlsAcceptor::from(config).accept(stream);
    let stream = tokio::time::timeout(patience, handshake)
        .await
        .map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "TLS handshake took too long"))??;
    Ok(MeshStream::from(stream))
}

impl<S> MeshStream<S> {
    /// What the peer presented and the handshake verified.
    pub fn certificates(&self) -> &PeerCertificates {
        &self.certificates
    }

    /// The connection itself.
    pub fn get_ref(&self) -> &TlsStream<S> {
        &self.stream
    }
}

impl<S> From<TlsStream<S>> for MeshStream<S> {
    fn from(stream: TlsStream<S>) -> Self {
        let presented = stream.get_ref().1.peer_certificates().unwrap_or_default();
        let owned: Vec<_> = presented.iter().map(|c| c.clone().into_owned()).collect();
        Self {
            stream,
            certificates: PeerCertificates(Arc::from(owned)),
        }
    }
}

impl<S> Connected for MeshStream<S> {
    type ConnectInfo = PeerCertificates;

    fn connect_info(&self) -> Self::ConnectInfo {
        self.certificates.clone()
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for MeshStream<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for MeshStream<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
