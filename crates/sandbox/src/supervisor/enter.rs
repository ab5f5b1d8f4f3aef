//! The inner side: what the supervisor does first.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use isthmus_redirect::netns::{bind, make_private, proc_filesystem};
use isthmus_redirect::rtnetlink::Handle;
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use super::{INHERITED, LIFELINE, LISTENERS, LOCK, PROGRESS, Reaper, StateDir};
use crate::sys::inherited;
use crate::{Error, Result};

/// More published listeners than this are not believed.
const LISTENERS_MAX: usize = 1024;

/// The supervisor at home in its namespaces.
#[derive(Debug)]
pub struct Entered {
    /// The state directory, locked as long as the supervisor lives.
    pub dir: StateDir,
    /// Published listeners, as given to [`super::Launch`].
    pub listeners: Vec<TcpListener>,
    /// Towards whoever started it.
    pub progress: Progress,
    /// Starts and reaps every process.
    pub reaper: Reaper,
    /// This binary, at a path that stays even when the file on disk is replaced.
    pub program: PathBuf,
    /// Whether it outlives who started it.
    pub detached: bool,
}

/// Lines towards whoever started the sandbox; lost when nobody reads them.
#[derive(Debug)]
pub struct Progress(File);

impl Progress {
    /// Says a line.
    pub fn say(&self, line: &str) {
        // Whoever started the sandbox may be gone: that is for the lifeline to notice.
        let _ = (&self.0).write_all(format!("{line}\n").as_bytes());
    }
}

/// Settles in: private mounts with a `/proc` of its own, loopback, reaper, lifeline. To be called once,
/// first of all, in a process started by [`super::Launch`].
pub fn enter(dir: &Path) -> Result<Entered> {
    let told = std::env::var(INHERITED).map_err(|_| Error::NotSupervisor)?;
    let (mode, count) = told.split_once(',').ok_or(Error::NotSupervisor)?;
    let count = count
        .parse::<usize>()
        .ok()
        .filter(|c| *c <= LISTENERS_MAX)
        .ok_or(Error::NotSupervisor)?;
    if std::process::id() != 1 {
        return Err(Error::NotSupervisor);
    }
    let take = |fd: i32| inherited(fd).map_err(|_| Error::NotSupervisor);
    let (lock, progress, lifeline) = (take(LOCK)?, take(PROGRESS)?, take(LIFELINE)?);
    let listeners = (0..count)
        .map(|i| take(LISTENERS + i as i32).map(TcpListener::from))
        .collect::<Result<Vec<_>>>()?;
    let detached = mode == "detached";
    if !detached {
        watch(lifeline)?;
    }
    let settle = || Error::kernel("settle into new namespaces");
    make_private().map_err(settle())?;
    proc_filesystem().map_err(settle())?;
    nix::unistd::sethostname("isthmus").map_err(|e| Error::io("set the host name")(e.into()))?;
    Handle::open()
        .and_then(|mut h| h.set_up("lo"))
        .map_err(settle())?;

    raise_descriptor_limit();

    let dir = StateDir::inherited(dir, lock)?;
    let program = dir.path().join("isthmus");
    fs::write(&program, b"").map_err(Error::io(format!("create {}", program.display())))?;
    bind(Path::new("/proc/self/exe"), &program).map_err(settle())?;
    Ok(Entered {
        dir,
        listeners,
        progress: Progress(progress.into()),
        reaper: Reaper::start()?,
        program,
        detached,
    })
}

/// Lets every process of the sandbox have as many descriptors as the machine permits: a proxy under load
/// needs more than the 1024 that a login shell starts with.
fn raise_descriptor_limit() {
    let raised = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(_, hard)| setrlimit(Resource::RLIMIT_NOFILE, hard, hard));
    if let Err(e) = raised {
        tracing::warn!(error = %e, "the limit of open descriptors stays as it is");
    }
}

/// Ends this process, and with it the sandbox, when the other end of the lifeline closes.
fn watch(lifeline: OwnedFd) -> Result<()> {
    let mut lifeline = File::from(lifeline);
    std::thread::Builder::new()
        .name("lifeline".to_owned())
        .spawn(move || {
            // Nobody writes to it; it returns at the end of file.
            let _ = lifeline.read(&mut [0]);
            std::process::exit(0);
        })
        .map(drop)
        .map_err(Error::io("start a thread"))
}
