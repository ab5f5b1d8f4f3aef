//! Mounts inside a mount namespace of one's own.

use std::fs;
use std::path::{Component, Path, PathBuf};

use nix::mount::{MsFlags, mount};

use crate::{Error, Result};

const NOTHING: Option<&str> = None;
/// A chain of symbolic links longer than this is a loop (the kernel's own limit).
const LINKS_MAX: usize = 40;

/// Cuts this namespace's mounts off from its parent's: nothing mounted here shows there.
pub fn make_private() -> Result<()> {
    mount(
        NOTHING,
        "/",
        NOTHING,
        MsFlags::MS_REC | MsFlags::MS_SLAVE,
        NOTHING,
    )
    .map_err(Error::call("make / a private mount"))
}

/// Mounts the process list of the caller's pid namespace over `/proc`.
pub fn proc_filesystem() -> Result<()> {
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("proc"), "/proc", Some("proc"), flags, NOTHING).map_err(Error::call("mount /proc"))
}

/// Mounts an empty file system in memory, of at most `size` bytes.
pub fn tmpfs(at: &Path, size: u64) -> Result<()> {
    let options = format!("mode=0755,size={size}");
    mount(
        Some("tmpfs"),
        at,
        Some("tmpfs"),
        MsFlags::MS_NOSUID | MsFlags::MS_NODEV,
        Some(options.as_str()),
    )
    .map_err(Error::call(format!("mount a tmpfs at {}", at.display())))
}

/// Shows `from` (a file or a directory) at `at`, which must exist.
pub fn bind(from: &Path, at: &Path) -> Result<()> {
    mount(
        Some(from),
        at,
        NOTHING,
        MsFlags::MS_BIND | MsFlags::MS_REC,
        NOTHING,
    )
    .map_err(Error::call(format!(
        "bind {} to {}",
        from.display(),
        at.display()
    )))
}

/// As [`bind`], not to be written through.
pub fn bind_read_only(from: &Path, at: &Path) -> Result<()> {
    bind(from, at)?;
    read_only(at)
}

/// Forbids writing through the mount at `at`. Flags that a parent namespace locked must be repeated.
pub fn read_only(at: &Path) -> Result<()> {
    use nix::sys::statvfs::{FsFlags, statvfs};
    let operation = || format!("make {} read-only", at.display());
    let present = statvfs(at).map_err(Error::call(operation()))?.flags();
    let mut flags = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
    for (has, locked) in [
        (FsFlags::ST_NOSUID, MsFlags::MS_NOSUID),
        (FsFlags::ST_NODEV, MsFlags::MS_NODEV),
        (FsFlags::ST_NOEXEC, MsFlags::MS_NOEXEC),
        (FsFlags::ST_NOATIME, MsFlags::MS_NOATIME),
        (FsFlags::ST_NODIRATIME, MsFlags::MS_NODIRATIME),
        (FsFlags::ST_RELATIME, MsFlags::MS_RELATIME),
    ] {
        if present.contains(has) {
            flags |= locked;
        }
    }
    mount(NOTHING, at, NOTHING, flags, NOTHING).map_err(Error::call(operation()))
}

/// Puts the file or directory `from` in the place of `at`, following symbolic links by hand, since they may lead to a
/// file that is not there (a `resolv.conf` that points into a `/run` which has been replaced). Beneath
/// `fresh`, a tmpfs of ours, missing files and directories are made; elsewhere they are an error.
pub fn write_beneath(from: &Path, at: &Path, fresh: &[&Path]) -> Result<()> {
    let target = follow(at)?;
    if !target.exists() {
        if !fresh.iter().any(|f| target.starts_with(f)) {
            return Err(Error::Io {
                operation: format!(
                    "replace {} for a pod: create it on this machine, empty, first",
                    at.display()
                ),
                source: std::io::ErrorKind::NotFound.into(),
            });
        }
        if let Some(parent) = target.parent() {
            fs::create_dir_all(parent).map_err(Error::io(format!("create {}", parent.display())))?;
        }
        let made = if from.is_dir() {
            fs::create_dir(&target)
        } else {
            fs::write(&target, b"")
        };
        made.map_err(Error::io(format!("create {}", target.display())))?;
    }
    bind(from, &target)
}

/// The path that `at` names once all links are followed, whether or not its end exists.
fn follow(at: &Path) -> Result<PathBuf> {
    let mut done = PathBuf::from("/");
    let mut rest: Vec<PathBuf> = pieces(at);
    let mut links = 0;
    while let Some(piece) = rest.pop() {
        if piece.as_os_str() == ".." {
            done.pop();
            continue;
        }
        let next = done.join(&piece);
        match fs::read_link(&next) {
            Ok(target) => {
                links += 1;
                if links > LINKS_MAX {
                    return Err(Error::Io {
                        operation: format!("follow the links of {}", at.display()),
                        source: nix::errno::Errno::ELOOP.into(),
                    });
                }
                if target.is_absolute() {
                    done = PathBuf::from("/");
                }
                rest.extend(pieces(&target));
            }
            Err(_) => done = next,
        }
    }
    Ok(done)
}

/// The components of a path, last first.
fn pieces(path: &Path) -> Vec<PathBuf> {
    path.components()
        .rev()
        .filter(|c| matches!(c, Component::Normal(_) | Component::ParentDir))
        .map(|c| PathBuf::from(c.as_os_str()))
        .collect()
}
