//! What a pod sees of the file system: the machine's own, with a `/run` in memory that holds this binary
//! and the pod's secrets, and with `resolv.conf`, `hosts` and `nsswitch.conf` of its own.
//!
//! All files of a pod's plan lie in one tmpfs and are bound to their places, so that a renewed token can
//! be written from outside through a descriptor that is kept.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::{Component, Path, PathBuf};

use isthmus_redirect::netns::{bind, tmpfs, write_beneath};

use super::volumes::{self, Volumes};
use crate::plan::{DnsPlan, PodPlan};
use crate::{Error, Result};

/// This binary, in every pod.
pub(super) const PROGRAM: &str = "/run/isthmus/isthmus";
const PROGRAM_DIR: &str = "/run/isthmus";
/// Files of the plan, numbered.
const FILES_DIR: &str = "/run/isthmus/files";
/// Volumes of the plan, numbered.
const VOLUMES_DIR: &str = "/run/isthmus/volumes";
/// Bytes that a pod may keep in its `/run`.
const RUN_SIZE: u64 = 64 * 1024 * 1024;
/// A directory of the machine with more entries is not copied, entry by entry, to add a file to it.
const MIRROR_MAX: usize = 4096;

/// The plan's files, reached through a descriptor of their tmpfs.
#[derive(Debug)]
pub(super) struct Files {
    root: OwnedFd,
    /// Number of each file.
    numbers: BTreeMap<PathBuf, usize>,
    pub(super) volumes: Volumes,
}

/// `PATH` in a pod: this binary first, then what the sandbox was started with.
pub(super) fn path() -> String {
    let host = std::env::var("PATH").unwrap_or_default();
    let host = if host.is_empty() {
        "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    } else {
        &host
    };
    format!("{PROGRAM_DIR}:{host}")
}

pub(super) fn resolv_conf(dns: &DnsPlan) -> String {
    let mut text = format!("nameserver {}\n", dns.nameserver);
    if !dns.search.is_empty() {
        text.push_str(&format!("search {}\n", dns.search.join(" ")));
    }
    text.push_str(&format!("options ndots:{}\n", dns.ndots));
    text
}

pub(super) fn hosts(address: Ipv4Addr, name: &str) -> String {
    format!("127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n{address}\t{name}\n")
}

/// Arranges the mounts of the calling thread's mount namespace.
pub(super) fn arrange(plan: &PodPlan, program: &Path, resolv_conf: &str, hosts: &str) -> Result<Files> {
    let step = || Error::kernel("arrange mounts");
    // Held open: the path may lie beneath the /run that is about to be covered.
    let program = File::open(program).map_err(Error::io(format!("open {}", program.display())))?;
    let run = Path::new("/run");
    tmpfs(run, RUN_SIZE).map_err(step())?;
    let mut fresh = vec![run];
    let var_run = Path::new("/var/run");
    if fs::symlink_metadata(var_run).is_ok_and(|m| m.is_dir()) {
        tmpfs(var_run, RUN_SIZE).map_err(step())?;
        fresh.push(var_run);
    }
    make_dir(Path::new(FILES_DIR))?;
    // Whatever a program expects to be able to create there.
    make_dir(Path::new("/run/lock"))?;
    write(Path::new(PROGRAM), b"")?;
    bind(
        Path::new(&format!("/proc/thread-self/fd/{}", program.as_raw_fd())),
        Path::new(PROGRAM),
    )
    .map_err(step())?;

    for (at, content) in [
        ("/etc/resolv.conf", resolv_conf),
        ("/etc/hosts", hosts),
        (
            "/etc/nsswitch.conf",
            "passwd: files\ngroup: files\nhosts: files dns\n",
        ),
    ] {
        let own = Path::new(PROGRAM_DIR).join(at.trim_start_matches("/etc/"));
        write(&own, content.as_bytes())?;
        // A C library that does not read nsswitch.conf does without it.
        if at == "/etc/nsswitch.conf" && !Path::new(at).exists() {
            continue;
        }
        write_beneath(&own, Path::new(at), &fresh).map_err(step())?;
    }

    let mut fresh: Vec<PathBuf> = fresh.into_iter().map(Path::to_path_buf).collect();
    let mut numbers = BTreeMap::new();
    for (number, (path, content)) in plan.files.iter().enumerate() {
        let own = Path::new(FILES_DIR).join(number.to_string());
        write(&own, content)?;
        show(&own, path, &mut fresh)?;
        numbers.insert(path.clone(), number);
    }
    let dir = Path::new(VOLUMES_DIR);
    let volumes = Volumes::create(dir, &plan.volumes)?;
    let mut mounts: Vec<(&PathBuf, usize, &str)> = plan
        .volumes
        .iter()
        .enumerate()
        .flat_map(|(number, volume)| {
            let mounts = volume.mounts.iter();
            mounts.map(move |(at, part)| (at, number, part.as_str()))
        })
        .collect();
    // What lies in another volume is mounted after it.
    mounts.sort_by_key(|(at, ..)| at.components().count());
    for (at, number, part) in mounts {
        show(&volumes::source(dir, number, part)?, at, &mut fresh)?;
        fresh.push(at.clone());
    }
    let root = File::open(FILES_DIR)
        .map_err(Error::io("open the pod's files"))?
        .into();
    Ok(Files {
        root,
        numbers,
        volumes,
    })
}

/// Shows a file or directory at a path that need not exist. Beneath `fresh` anything can be created.
fn show(own: &Path, at: &Path, fresh: &mut Vec<PathBuf>) -> Result<()> {
    check(at)?;
    if let Some(mirrored) = make_room(at, fresh)? {
        fresh.push(mirrored);
    }
    let beneath: Vec<&Path> = fresh.iter().map(PathBuf::as_path).collect();
    write_beneath(own, at, &beneath).map_err(Error::kernel("arrange mounts"))
}

/// Writes files anew, in place, since they are bound to their places.
pub(super) fn update(files: &Files, changed: &BTreeMap<PathBuf, Vec<u8>>) -> Result<()> {
    for (path, content) in changed {
        let Some(number) = files.numbers.get(path) else {
            continue;
        };
        let own = format!("/proc/self/fd/{}/{number}", files.root.as_raw_fd());
        fs::write(&own, content).map_err(Error::io(format!("write {}", path.display())))?;
    }
    Ok(())
}

fn check(path: &Path) -> Result<()> {
    let plain = path.is_absolute()
        && path
            .components()
            .skip(1)
            .all(|c| matches!(c, Component::Normal(_)))
        && path.components().count() > 1;
    let reserved = path.starts_with(PROGRAM_DIR) || path.starts_with("/proc");
    if plain && !reserved {
        return Ok(());
    }
    Err(Error::Io {
        operation: format!(
            "mount a file at {}: it must be an absolute path outside of /proc and {PROGRAM_DIR}",
            path.display()
        ),
        source: std::io::ErrorKind::InvalidInput.into(),
    })
}

/// Makes it possible to create `path`, when the machine has no such file: the deepest directory on the
/// way that exists is replaced by one in memory with the same entries.
fn make_room(path: &Path, fresh: &[PathBuf]) -> Result<Option<PathBuf>> {
    if path.exists() {
        return Ok(None);
    }
    let Some(deepest) = path.ancestors().skip(1).find(|a| a.is_dir()) else {
        return Ok(None);
    };
    let deepest = deepest
        .canonicalize()
        .map_err(Error::io(format!("find {}", deepest.display())))?;
    if fresh.iter().any(|f| deepest.starts_with(f)) {
        return Ok(None);
    }
    let refuse = |why: &str| {
        Err(Error::Io {
            operation: format!(
                "mount a file at {}: {why}; choose a path under /etc, /var/run or /tmp",
                path.display()
            ),
            source: std::io::ErrorKind::Unsupported.into(),
        })
    };
    if deepest == Path::new("/") {
        return refuse("a directory cannot be added to the machine's root");
    }
    let list = || Error::io(format!("list {}", deepest.display()));
    let entries: Vec<fs::DirEntry> = fs::read_dir(&deepest)
        .map_err(list())?
        .collect::<std::io::Result<_>>()
        .map_err(list())?;
    if entries.len() > MIRROR_MAX {
        return refuse("its directory is too large to be shown with one more file");
    }
    let step = || Error::kernel(format!("show {} with one more file", deepest.display()));
    let old = File::open(&deepest).map_err(list())?;
    tmpfs(&deepest, RUN_SIZE).map_err(step())?;
    for entry in entries {
        let from = PathBuf::from(format!("/proc/thread-self/fd/{}", old.as_raw_fd())).join(entry.file_name());
        let to = deepest.join(entry.file_name());
        let kind = entry.file_type().map_err(list())?;
        if kind.is_symlink() {
            let target = fs::read_link(&from).map_err(list())?;
            std::os::unix::fs::symlink(target, &to).map_err(list())?;
            continue;
        }
        if kind.is_dir() {
            make_dir(&to)?;
        } else {
            write(&to, b"")?;
        }
        bind(&from, &to).map_err(step())?;
    }
    Ok(Some(deepest))
}

fn make_dir(path: &Path) -> Result<()> {
    fs::create_dir_all(path).map_err(Error::io(format!("create {}", path.display())))
}

fn write(path: &Path, content: &[u8]) -> Result<()> {
    let operation = || Error::io(format!("write {}", path.display()));
    fs::write(path, content).map_err(operation())?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o644)).map_err(operation())
}
