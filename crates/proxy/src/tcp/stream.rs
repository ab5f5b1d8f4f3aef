//! One byte stream, whatever carries it.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};

/// A downstream's or an upstream's bytes, decrypted where there was TLS.
#[derive(Debug)]
pub enum Stream {
    /// Plain TCP.
    Tcp(TcpStream),
    /// A Unix domain socket.
    Unix(UnixStream),
    /// TLS that a downstream began.
    Accepted(Box<tokio_rustls::server::TlsStream<TcpStream>>),
    /// TLS that we began.
    Originated(Box<tokio_rustls::client::TlsStream<TcpStream>>),
    /// Bytes that were read already, then the rest.
    Rewound(Vec<u8>, usize, Box<Stream>),
}

impl Stream {
    /// Puts bytes that were read for sniffing back in front.
    pub fn rewind(self, read: Vec<u8>) -> Self {
        if read.is_empty() {
            self
        } else {
            Self::Rewound(read, 0, Box::new(self))
        }
    }

    /// The socket, when the bytes are plain TCP and nothing waits in front of them.
    pub fn as_plain(&self) -> Option<&TcpStream> {
        match self {
            Self::Tcp(tcp) => Some(tcp),
            _ => None,
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(s) => Pin::new(s).poll_read(cx, buffer),
            Self::Unix(s) => Pin::new(s).poll_read(cx, buffer),
            Self::Accepted(s) => Pin::new(s).poll_read(cx, buffer),
            Self::Originated(s) => Pin::new(s).poll_read(cx, buffer),
            Self::Rewound(bytes, at, inner) => {
                if *at < bytes.len() {
                    let n = buffer.remaining().min(bytes.len() - *at);
                    buffer.put_slice(&bytes[*at..*at + n]);
                    *at += n;
                    if *at == bytes.len() {
                        *bytes = Vec::new();
                        *at = 0;
                    }
                    return Poll::Ready(Ok(()));
                }
                Pin::new(&mut **inner).poll_read(cx, buffer)
            }
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(s) => Pin::new(s).poll_write(cx, bytes),
            Self::Unix(s) => Pin::new(s).poll_write(cx, bytes),
            Self::Accepted(s) => Pin::new(s).poll_write(cx, bytes),
            Self::Originated(s) => Pin::new(s).poll_write(cx, bytes),
            Self::Rewound(_, _, s) => Pin::new(&mut **s).poll_write(cx, bytes),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(s) => Pin::new(s).poll_write_vectored(cx, slices),
            Self::Unix(s) => Pin::new(s).poll_write_vectored(cx, slices),
            Self::Accepted(s) => Pin::new(s).poll_write_vectored(cx, slices),
            Self::Originated(s) => Pin::new(s).poll_write_vectored(cx, slices),
            Self::Rewound(_, _, s) => Pin::new(&mut **s).poll_write_vectored(cx, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Rewound(_, _, s) => s.is_write_vectored(),
            _ => true,
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(s) => Pin::new(s).poll_flush(cx),
            Self::Unix(s) => Pin::new(s).poll_flush(cx),
            Self::Accepted(s) => Pin::new(s).poll_flush(cx),
            Self::Originated(s) => Pin::new(s).poll_flush(cx),
            Self::Rewound(_, _, s) => Pin::new(&mut **s).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(s) => Pin::new(s).poll_shutdown(cx),
            Self::Unix(s) => Pin::new(s).poll_shutdown(cx),
            Self::Accepted(s) => Pin::new(s).poll_shutdown(cx),
            Self::Originated(s) => Pin::new(s).poll_shutdown(cx),
            Self::Rewound(_, _, s) => Pin::new(&mut **s).poll_shutdown(cx),
        }
    }
}
