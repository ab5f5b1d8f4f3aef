//! The answering side, inside the sandbox.

use std::future::Future;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::pin::Pin;
use std::sync::Arc;

use tokio::io::Interest;
use tokio::net::{UnixListener, UnixStream};

use super::frame::{Lines, line, receive};
use super::protocol::{Answer, Exec, Request};

/// A program that runs in a pod.
pub trait Process: Send {
    /// Sends it a signal.
    fn signal(&self, signal: i32);

    /// Its exit code, once it has ended; 128 + signal when it was killed.
    fn wait(&mut self) -> HandlerFuture<'_, i32>;
}

/// A future of a [`Handler`].
pub type HandlerFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// What a sandbox can do.
pub trait Handler: Send + Sync + 'static {
    /// Answers everything but `exec`.
    fn answer(&self, request: Request) -> HandlerFuture<'_, Answer>;

    /// Starts a program in a pod, or says why not.
    fn exec(
        &self,
        exec: Exec,
        descriptors: [OwnedFd; 3],
    ) -> HandlerFuture<'_, Result<Box<dyn Process>, String>>;
}

/// Answers clients until the listener fails.
pub async fn serve(listener: UnixListener, handler: Arc<impl Handler>) -> io::Result<()> {
    loop {
        let (stream, _) = listener.accept().await?;
        let handler = handler.clone();
        tokio::spawn(async move {
            if let Err(error) = converse(stream, &*handler).await {
                tracing::debug!(%error, "a client of the control socket went away");
            }
        });
    }
}

async fn converse(stream: UnixStream, handler: &impl Handler) -> io::Result<()> {
    let mut peer = Peer {
        stream,
        lines: Lines::default(),
        descriptors: Vec::new(),
    };
    let Some(request) = peer.request().await? else {
        return Ok(());
    };
    match request {
        Request::Exec(exec) => {
            let descriptors = std::mem::take(&mut peer.descriptors);
            match <[OwnedFd; 3]>::try_from(descriptors) {
                Ok(descriptors) => match handler.exec(exec, descriptors).await {
                    Ok(process) => follow(&mut peer, process).await,
                    Err(why) => peer.send(&Answer::Refused(why)).await,
                },
                Err(_) => {
                    peer.send(&Answer::Refused(
                        "exec needs three descriptors: input, output, error".into(),
                    ))
                    .await
                }
            }
        }
        Request::Signal(_) => {
            peer.send(&Answer::Refused("a signal goes to a running exec".into()))
                .await
        }
        other => {
            let answer = handler.answer(other).await;
            peer.send(&answer).await
        }
    }
}

/// Passes signals to the process until it ends. A client that goes away takes it along.
async fn follow(peer: &mut Peer, mut process: Box<dyn Process>) -> io::Result<()> {
    peer.send(&Answer::Started).await?;
    loop {
        let signal = tokio::select! {
            code = process.wait() => return peer.send(&Answer::Exited(code)).await,
            request = peer.request() => match request {
                Ok(Some(Request::Signal(signal))) => signal,
                Ok(Some(_)) => continue,
                Ok(None) | Err(_) => libc::SIGHUP,
            },
        };
        process.signal(signal);
        if signal == libc::SIGHUP {
            process.wait().await;
            return Ok(());
        }
    }
}

struct Peer {
    stream: UnixStream,
    lines: Lines,
    descriptors: Vec<OwnedFd>,
}

impl Peer {
    async fn request(&mut self) -> io::Result<Option<Request>> {
        loop {
            if let Some(request) = self.lines.next()? {
                return Ok(Some(request));
            }
            let mut buffer = [0; 16 << 10];
            let socket = self.stream.as_raw_fd();
            let (read, descriptors) = self
                .stream
                .async_io(Interest::READABLE, || receive(socket, &mut buffer))
                .await?;
            if read == 0 {
                return Ok(None);
            }
            if self.descriptors.len() + descriptors.len() <= 3 {
                self.descriptors.extend(descriptors);
            }
            self.lines.extend(&buffer[..read])?;
        }
    }

    async fn send(&mut self, answer: &Answer) -> io::Result<()> {
        let bytes = line(answer)?;
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            self.stream.writable().await?;
            match self.stream.try_write(rest) {
                Ok(n) => rest = &rest[n..],
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }
}
