//! The state directory: one sandbox at a time, nothing of a crashed one.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::unistd::geteuid;

use crate::{Error, Result};

/// Holds the lock; its presence marks a directory as ours to clean.
const LOCK: &str = "isthmus-sandbox.lock";

/// The directory of a running sandbox, locked.
#[derive(Debug)]
pub struct StateDir {
    path: PathBuf,
    lock: OwnedFd,
}

/// `$XDG_RUNTIME_DIR/isthmus`, else `/tmp/isthmus-UID`.
pub fn default_dir(xdg_runtime_dir: Option<&Path>) -> PathBuf {
    match xdg_runtime_dir {
        Some(d) if d.is_absolute() && d.is_dir() => d.join("isthmus"),
        _ => std::env::temp_dir().join(format!("isthmus-{}", geteuid())),
    }
}

/// The supervisor's process id, when a sandbox runs in `dir`; 0 when it has not said it yet.
pub fn running(dir: &Path) -> Option<i32> {
    let file = File::open(dir.join(LOCK)).ok()?;
    match file.try_lock_shared() {
        Err(TryLockError::WouldBlock) => Some(
            fs::read_to_string(dir.join(LOCK))
                .ok()
                .and_then(|s| s.trim().parse().ok())
                .unwrap_or_default(),
        ),
        _ => None,
    }
}

/// Removes the directory of a sandbox that has ended or is about to; to be called outside of it.
pub fn clear(dir: &Path, patience: Duration) -> Result<()> {
    let until = Instant::now() + patience;
    while running(dir).is_some() && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(10));
    }
    if dir.join(LOCK).exists() {
        StateDir::acquire(dir)?.remove()
    } else {
        Ok(())
    }
}

impl StateDir {
    /// Creates the directory or takes over an old one, and removes what a crashed sandbox left in it.
    pub fn acquire(path: &Path) -> Result<Self> {
        let wrong = |reason: String| Error::StateDir {
            dir: path.to_owned(),
            reason,
        };
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(path)
            .map_err(|e| wrong(e.to_string()))?;
        let path = path.canonicalize().map_err(|e| wrong(e.to_string()))?;
        let meta = fs::metadata(&path).map_err(|e| wrong(e.to_string()))?;
        if meta.uid() != geteuid().as_raw() {
            return Err(wrong(
                "it belongs to another user; choose one with --dir".to_owned(),
            ));
        }
        let lock_path = path.join(LOCK);
        if !lock_path.exists() {
            let mut entries = fs::read_dir(&path).map_err(|e| wrong(e.to_string()))?;
            if entries.next().is_some() {
                return Err(wrong(
                    "it holds files that are not the sandbox's; choose an empty one".to_owned(),
                ));
            }
        }
        let lock = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&lock_path)
            .map_err(|e| wrong(format!("{LOCK}: {e}")))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(Error::Running {
                    pid: running(&path).unwrap_or_default(),
                    dir: path,
                });
            }
            Err(TryLockError::Error(e)) => return Err(wrong(format!("{LOCK}: {e}"))),
        }
        let dir = Self {
            path,
            lock: lock.into(),
        };
        dir.clean()?;
        Ok(dir)
    }

    /// As inherited by the supervisor.
    pub(super) fn inherited(path: &Path, lock: OwnedFd) -> Result<Self> {
        let path = path
            .canonicalize()
            .map_err(Error::io(format!("find {}", path.display())))?;
        Ok(Self { path, lock })
    }

    /// Where it is, absolute.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Removes everything in the directory but the lock.
    fn clean(&self) -> Result<()> {
        let list = fs::read_dir(&self.path).map_err(Error::io(format!("list {}", self.path.display())))?;
        for entry in list {
            let entry = entry.map_err(Error::io(format!("list {}", self.path.display())))?;
            if entry.file_name() == LOCK {
                continue;
            }
            let path = entry.path();
            let removed = match entry.file_type() {
                Ok(t) if t.is_dir() => fs::remove_dir_all(&path),
                _ => fs::remove_file(&path),
            };
            removed.map_err(Error::io(format!("remove {}", path.display())))?;
        }
        Ok(())
    }

    /// Removes the directory itself.
    fn remove(self) -> Result<()> {
        self.clean()?;
        fs::remove_dir_all(&self.path).map_err(Error::io(format!("remove {}", self.path.display())))
    }

    /// Says who holds the lock.
    pub(super) fn record(&self, pid: i32) -> Result<()> {
        fs::write(self.path.join(LOCK), format!("{pid}\n")).map_err(Error::io(format!("write {LOCK}")))
    }

    pub(super) fn lock(&self) -> &OwnedFd {
        &self.lock
    }
}
