//! The outer side: starts the supervisor in new namespaces.

use std::ffi::{CString, OsString};
use std::fs::{File, OpenOptions};
use std::net::TcpListener;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use isthmus_redirect::netns::{IdMaps, preflight};
use nix::fcntl::OFlag;
use nix::sched::CloneFlags;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, geteuid, pipe2};

use super::{INHERITED, StateDir};
use crate::sys::{Exec, clone_exec};
use crate::{Error, Result};

/// How a sandbox is started.
#[derive(Debug)]
pub struct Launch {
    /// State directory; created, locked and cleaned.
    pub dir: PathBuf,
    /// Lives on when the caller ends.
    pub detached: bool,
    /// The program to execute; it calls [`super::enter`].
    pub program: PathBuf,
    /// Its arguments, without its own name.
    pub arguments: Vec<OsString>,
    /// Listeners on the machine's own network that the sandbox serves.
    pub listeners: Vec<TcpListener>,
}

/// A running sandbox, seen from outside. In the foreground it ends when this is dropped.
#[derive(Debug)]
pub struct Supervisor {
    pid: Pid,
    ended: Option<ExitStatus>,
    /// Whatever the supervisor reports while it starts, see [`super::Progress`].
    pub progress: File,
    lifeline: Option<OwnedFd>,
}

impl Launch {
    /// Checks that namespaces are allowed, takes the state directory and starts the supervisor. Its
    /// output goes to `supervisor.log` in the state directory.
    pub fn start(self) -> Result<Supervisor> {
        preflight()?;
        let dir = StateDir::acquire(&self.dir)?;
        let failed = |step| move |source: std::io::Error| Error::Launch { step, source };
        let log = OpenOptions::new()
            .append(true)
            .create(true)
            .mode(0o600)
            .open(dir.path().join("supervisor.log"))
            .map_err(failed("open supervisor.log"))?;
        let null = File::open("/dev/null").map_err(failed("open /dev/null"))?;
        let pipe = || pipe2(OFlag::O_CLOEXEC).map_err(|e| failed("open a pipe")(e.into()));
        let (progress, progress_out) = pipe()?;
        let (lifeline_in, lifeline) = pipe()?;
        let duplicate = |fd: &dyn AsFd| {
            fd.as_fd()
                .try_clone_to_owned()
                .map_err(failed("duplicate a descriptor"))
        };
        let mut descriptors = vec![
            duplicate(&null)?,
            duplicate(&log)?,
            duplicate(&log)?,
            duplicate(dir.lock())?,
            progress_out,
            // A detached supervisor gets an end of the pipe that never closes before itself.
            if self.detached {
                duplicate(&null)?
            } else {
                lifeline_in
            },
        ];
        descriptors.extend(
            self.listeners
                .iter()
                .map(|l| duplicate(l))
                .collect::<Result<Vec<_>>>()?,
        );

        let mut flags = CloneFlags::CLONE_NEWNS
            | CloneFlags::CLONE_NEWPID
            | CloneFlags::CLONE_NEWNET
            | CloneFlags::CLONE_NEWIPC
            | CloneFlags::CLONE_NEWUTS;
        let mut writes = Vec::new();
        if !geteuid().is_root() {
            flags |= CloneFlags::CLONE_NEWUSER;
            writes = IdMaps::own_as_root().files().into();
        }
        let text = |s: &[u8]| {
            CString::new(s).map_err(|_| failed("prepare arguments")(std::io::ErrorKind::InvalidInput.into()))
        };
        let mut arguments = vec![text(self.program.as_os_str().as_bytes())?];
        for a in &self.arguments {
            arguments.push(text(a.as_bytes())?);
        }
        let mut environment = Vec::new();
        for (k, v) in std::env::vars_os() {
            if k != INHERITED {
                environment.push(text(&[k.as_bytes(), b"=", v.as_bytes()].concat())?);
            }
        }
        let mode = if self.detached { "detached" } else { "foreground" };
        environment.push(text(
            format!("{INHERITED}={mode},{}", self.listeners.len()).as_bytes(),
        )?);
        let exec = Exec {
            path: text(self.program.as_os_str().as_bytes())?,
            arguments,
            environment,
            writes,
            descriptors,
        };
        let pid = clone_exec(flags, &exec).map_err(|(step, e)| failed(step)(e.into()))?;
        let supervisor = Supervisor {
            pid,
            ended: None,
            progress: progress.into(),
            lifeline: (!self.detached).then_some(lifeline),
        };
        dir.record(pid.as_raw())?;
        Ok(supervisor)
    }
}

impl Supervisor {
    /// Its process id on this machine.
    pub fn pid(&self) -> i32 {
        self.pid.as_raw()
    }

    /// Lets the sandbox end as if the caller had died. Without effect on a detached one.
    pub fn cut_lifeline(&mut self) {
        self.lifeline = None;
    }

    /// How it ended, when it has.
    pub fn try_wait(&mut self) -> Result<Option<ExitStatus>> {
        self.poll(Some(WaitPidFlag::WNOHANG))
    }

    /// Waits until it ends.
    pub fn wait(&mut self) -> Result<ExitStatus> {
        loop {
            if let Some(status) = self.poll(None)? {
                return Ok(status);
            }
        }
    }

    /// Asks it to end, and makes it end after `patience`.
    pub fn stop(&mut self, patience: Duration) -> Result<ExitStatus> {
        if let Some(status) = self.try_wait()? {
            return Ok(status);
        }
        let _ = kill(self.pid, Signal::SIGTERM);
        let until = Instant::now() + patience;
        while Instant::now() < until {
            if let Some(status) = self.try_wait()? {
                return Ok(status);
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        let _ = kill(self.pid, Signal::SIGKILL);
        self.wait()
    }

    fn poll(&mut self, flags: Option<WaitPidFlag>) -> Result<Option<ExitStatus>> {
        if self.ended.is_none() {
            let raw = match waitpid(self.pid, flags) {
                Ok(WaitStatus::Exited(_, code)) => Some(code << 8),
                Ok(WaitStatus::Signaled(_, signal, _)) => Some(signal as i32),
                Ok(_) | Err(nix::errno::Errno::EINTR) => None,
                Err(e) => return Err(Error::io("wait for the supervisor")(e.into())),
            };
            self.ended = raw.map(ExitStatus::from_raw);
        }
        Ok(self.ended)
    }
}

impl Drop for Supervisor {
    fn drop(&mut self) {
        if self.lifeline.take().is_some() && self.ended.is_none() {
            // It has lost its lifeline and ends by itself; it is waited for, so that what follows finds
            // the directory free, unless it hangs.
            let _ = self.stop(Duration::from_secs(5));
        }
    }
}
