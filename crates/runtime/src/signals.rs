//! The signals that a role answers: SIGTERM and SIGINT end it, SIGHUP asks it to read files again.

use std::io;

use tokio::signal::unix::{self, SignalKind};

/// What was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// SIGTERM: drain and end.
    Terminate,
    /// SIGINT (Ctrl-C): end; a second one means at once.
    Interrupt,
    /// SIGHUP: read files again.
    Hangup,
}

/// The installed handlers. From now on these signals no longer kill the process.
#[derive(Debug)]
pub struct Signals {
    terminate: unix::Signal,
    interrupt: unix::Signal,
    hangup: unix::Signal,
}

impl Signals {
    /// Installs the handlers. Must be called within a tokio runtime that has I/O enabled.
    pub fn install() -> io::Result<Self> {
        Ok(Self {
            terminate: unix::signal(SignalKind::terminate())?,
            interrupt: unix::signal(SignalKind::interrupt())?,
            hangup: unix::signal(SignalKind::hangup())?,
        })
    }

    /// The next signal. Cancel safe.
    pub async fn next(&mut self) -> Signal {
        tokio::select! {
            _ = self.terminate.recv() => Signal::Terminate,
            _ = self.interrupt.recv() => Signal::Interrupt,
            _ = self.hangup.recv() => Signal::Hangup,
        }
    }

    /// The next SIGTERM or SIGINT; SIGHUP is passed over.
    pub async fn end(&mut self) -> Signal {
        loop {
            match self.next().await {
                Signal::Hangup => continue,
                end => return end,
            }
        }
    }
}
