//! Starts processes and takes their exit statuses: those of its own children and, as PID 1, those of
//! every orphan.
//!
//! One thread waits for all children. A process is started under the lock that this thread needs to
//! take a status, so that an early end is not taken before anybody asks for it, and a failed `exec` is
//! left to the library that reaps it. `tokio::process` must not be used beside it.

use std::collections::HashMap;
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitStatus};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill, killpg};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid, waitpid};
use nix::unistd::Pid;
use tokio::sync::oneshot;

use crate::{Error, Result};

/// How a process ended.
pub type Exit = ExitStatus;

/// The only place where processes of the sandbox are started.
#[derive(Debug, Clone)]
pub struct Reaper {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    children: Mutex<Children>,
    started: Condvar,
}

#[derive(Debug, Default)]
struct Children {
    /// Who wants to know how a child ends.
    waiting: HashMap<i32, oneshot::Sender<Exit>>,
    /// Counts starts, so that the thread notices one between its look and its sleep.
    started: u64,
}

/// A started process. Dropping it neither ends the process nor stops it from being reaped.
#[derive(Debug)]
pub struct Process {
    exit: oneshot::Receiver<Exit>,
    target: SignalTarget,
}

/// Where signals for a process go; safe to keep when it has ended.
#[derive(Debug, Clone)]
pub struct SignalTarget {
    /// Id in the sandbox's pid namespace.
    pub pid: i32,
    reaper: Reaper,
}

impl Reaper {
    /// Starts the waiting thread.
    pub(super) fn start() -> Result<Self> {
        let shared = Arc::new(Shared::default());
        let thread = shared.clone();
        std::thread::Builder::new()
            .name("reaper".to_owned())
            .spawn(move || thread.reap())
            .map_err(Error::io("start a thread"))?;
        Ok(Self { shared })
    }

    /// Starts a process.
    pub fn spawn(&self, command: &mut Command) -> io::Result<Process> {
        let (sender, exit) = oneshot::channel();
        let pid = {
            let mut children = self.shared.lock();
            let child = command.spawn()?;
            let pid = child.id() as i32;
            children.waiting.insert(pid, sender);
            children.started += 1;
            pid
        };
        self.shared.started.notify_all();
        Ok(Process {
            exit,
            target: SignalTarget {
                pid,
                reaper: self.clone(),
            },
        })
    }

    /// Sends a signal to a process, or to its whole session's group, if it still is the one that was started.
    fn signal(&self, pid: i32, signal: Signal, group: bool) -> bool {
        let children = self.shared.lock();
        // Under the lock the number cannot have been given to another process: it is not reaped yet.
        children.waiting.contains_key(&pid)
            && if group {
                killpg(Pid::from_raw(pid), signal)
            } else {
                kill(Pid::from_raw(pid), signal)
            }
            .is_ok()
    }
}

impl Process {
    /// Waits for the end. Cancel safe.
    pub async fn wait(&mut self) -> Exit {
        // The sender is dropped without a word only when the reaper's thread is gone, and with it the sandbox.
        (&mut self.exit)
            .await
            .unwrap_or_else(|_| ExitStatus::from_raw(Signal::SIGKILL as i32))
    }

    /// Where to send it signals.
    pub fn target(&self) -> &SignalTarget {
        &self.target
    }
}

impl SignalTarget {
    /// Sends the process a signal; false when it has ended.
    pub fn signal(&self, signal: Signal) -> bool {
        self.reaper.signal(self.pid, signal, false)
    }

    /// Sends a signal to it and to those of its offspring that stayed in its group.
    pub fn signal_group(&self, signal: Signal) -> bool {
        self.reaper.signal(self.pid, signal, true)
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Children> {
        self.children.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn reap(&self) {
        loop {
            let seen = self.lock().started;
            match waitid(Id::All, WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT) {
                Ok(status) => {
                    if let Some(pid) = status.pid() {
                        self.take(pid);
                    }
                }
                Err(Errno::ECHILD) => {
                    let mut children = self.lock();
                    while children.started == seen {
                        children = self
                            .started
                            .wait(children)
                            .unwrap_or_else(PoisonError::into_inner);
                    }
                }
                Err(_) => {}
            }
        }
    }

    fn take(&self, pid: Pid) {
        let mut children = self.lock();
        let raw = match waitpid(pid, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::Exited(_, code)) => code << 8,
            Ok(WaitStatus::Signaled(_, signal, _)) => signal as i32,
            _ => return,
        };
        if let Some(sender) = children.waiting.remove(&pid.as_raw()) {
            // Nobody may want to know any more.
            let _ = sender.send(ExitStatus::from_raw(raw));
        }
    }
}
