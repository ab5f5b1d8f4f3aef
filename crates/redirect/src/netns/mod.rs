//! Namespaces: made without leaving a file behind, held by a descriptor, entered by a thread.
//!
//! A network namespace lives as long as something refers to it: a descriptor, a process, a socket.
//! Nothing here writes to `/run/netns`, so nothing stays when the holder dies.

mod isolate;
mod mount;
mod preflight;
#[cfg(test)]
pub(crate) mod tests;

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::sched::{CloneFlags, setns, unshare};

pub use isolate::{IdMaps, isolate};
pub use mount::{bind, bind_read_only, make_private, proc_filesystem, read_only, tmpfs, write_beneath};
pub use preflight::{Forbidden, preflight};

use crate::{Error, Result};

/// A network namespace, held by a descriptor.
#[derive(Debug)]
pub struct NetNs {
    fd: OwnedFd,
}

impl NetNs {
    /// A new namespace with nothing but a loopback link, which is up.
    pub fn create() -> Result<Self> {
        on_own_thread(|| {
            unshare(CloneFlags::CLONE_NEWNET).map_err(Error::call("create a network namespace"))?;
            let ns = Self::current()?;
            crate::rtnetlink::Handle::open()?.set_up("lo")?;
            Ok(ns)
        })
    }

    /// The namespace of the calling thread.
    pub fn current() -> Result<Self> {
        Self::open("/proc/thread-self/ns/net")
    }

    /// The namespace of a process.
    pub fn of_process(pid: u32) -> Result<Self> {
        Self::open(&format!("/proc/{pid}/ns/net"))
    }

    fn open(path: &str) -> Result<Self> {
        let file = File::open(path).map_err(Error::io(format!("open {path}")))?;
        Ok(Self { fd: file.into() })
    }

    /// A second holder of the same namespace.
    pub fn try_clone(&self) -> Result<Self> {
        let fd = self
            .fd
            .try_clone()
            .map_err(Error::io("duplicate a network namespace"))?;
        Ok(Self { fd })
    }

    /// Runs `f` on a thread inside the namespace and waits for it. What `f` opens (sockets, netlink
    /// handles) stays with the namespace and may be used anywhere.
    pub fn run<T: Send>(&self, f: impl FnOnce() -> T + Send) -> Result<T> {
        on_own_thread(|| {
            self.enter_thread()?;
            Ok(f())
        })
    }

    /// Moves the calling thread, and no other, into the namespace. For threads that stay there.
    pub fn enter_thread(&self) -> Result<()> {
        setns(&self.fd, CloneFlags::CLONE_NEWNET).map_err(Error::call("enter a network namespace"))
    }
}

impl AsFd for NetNs {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// A mount namespace, held by a descriptor.
#[derive(Debug)]
pub struct MountNs {
    fd: OwnedFd,
}

impl MountNs {
    /// A copy of the calling process's mounts in which `arrange` has changed what it likes; nothing of
    /// it shows outside.
    pub fn create(arrange: impl FnOnce() -> Result<()> + Send) -> Result<Self> {
        on_own_thread(|| {
            unshare(CloneFlags::CLONE_NEWNS).map_err(Error::call("create a mount namespace"))?;
            make_private()?;
            arrange()?;
            let path = "/proc/thread-self/ns/mnt";
            let file = File::open(path).map_err(Error::io(format!("open {path}")))?;
            Ok(Self { fd: file.into() })
        })
    }
}

impl AsFd for MountNs {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Namespaces belong to threads: one that has moved is not given back to anybody.
fn on_own_thread<T: Send>(f: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new()
            .name("netns".to_owned())
            .spawn_scoped(scope, f)
            .map_err(Error::io("start a thread"))?;
        thread
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}
