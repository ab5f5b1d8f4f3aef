//! Volumes: directories of the pod's own in its tmpfs, seen wherever its containers mount them.
//!
//! Files are written as a kubelet writes them: a hidden directory with all of them, a link `..data` to it,
//! and a link for each name. To replace them all is to rename one link, so that no reader sees some old and
//! some new, and whoever watches `..data` is told once.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::symlink;
use std::path::{Component, Path, PathBuf};

use crate::plan::Volume;
use crate::{Error, Result};

/// The link to the files in force.
const DATA: &str = "..data";

/// The pod's volumes, reached through a descriptor of their directory.
#[derive(Debug)]
pub(super) struct Volumes {
    root: OwnedFd,
}

impl Volumes {
    /// Creates the directories and files of all volumes beneath `dir`.
    pub(super) fn create(dir: &Path, volumes: &[Volume]) -> Result<Self> {
        let made = |path: &Path| Error::io(format!("create {}", path.display()));
        fs::create_dir_all(dir).map_err(made(dir))?;
        for (number, volume) in volumes.iter().enumerate() {
            let own = dir.join(number.to_string());
            fs::create_dir(&own).map_err(made(&own))?;
            if let Some(files) = &volume.files {
                replace(&own, files)?;
            }
            for (_, part) in volume.mounts.iter().filter(|(_, part)| !part.is_empty()) {
                let part = own.join(relative(part)?);
                // What a volume to write to does not have yet is a directory, as with a kubelet.
                if !part.exists() && volume.files.is_none() {
                    fs::create_dir_all(&part).map_err(made(&part))?;
                }
            }
        }
        let root = File::open(dir)
            .map_err(Error::io("open the pod's volumes"))?
            .into();
        Ok(Self { root })
    }

    /// Replaces a volume's files.
    pub(super) fn update(&self, number: usize, files: &BTreeMap<String, Vec<u8>>) -> Result<()> {
        let own = format!("/proc/self/fd/{}/{number}", self.root.as_raw_fd());
        replace(Path::new(&own), files)
    }
}

/// What is bound to a mount path: the volume, or a part of it.
pub(super) fn source(dir: &Path, number: usize, part: &str) -> Result<PathBuf> {
    let own = dir.join(number.to_string());
    if part.is_empty() {
        return Ok(own);
    }
    let part = own.join(relative(part)?);
    part.canonicalize()
        .map_err(Error::io(format!("find {}", part.display())))
}

fn replace(own: &Path, files: &BTreeMap<String, Vec<u8>>) -> Result<()> {
    let link = own.join(DATA);
    let old = fs::read_link(&link).ok();
    let number = old
        .as_ref()
        .and_then(|o| o.to_str()?.trim_start_matches('.').parse::<u64>().ok())
        .unwrap_or(0);
    let name = format!("..{}", number + 1);
    let fresh = own.join(&name);
    let _ = fs::remove_dir_all(&fresh);
    fs::create_dir(&fresh).map_err(Error::io(format!("create {}", fresh.display())))?;
    let mut names = BTreeSet::new();
    for (path, content) in files {
        let path = relative(path)?;
        if let Some(Component::Normal(first)) = path.components().next() {
            names.insert(first.to_owned());
        }
        let file = fresh.join(&path);
        let written = || Error::io(format!("write {}", file.display()));
        if let Some(parent) = file.parent() {
            fs::create_dir_all(parent).map_err(written())?;
        }
        fs::write(&file, content).map_err(written())?;
    }
    let aside = own.join("..data_tmp");
    let _ = fs::remove_file(&aside);
    let linked = || Error::io(format!("replace the files of {}", own.display()));
    symlink(&name, &aside).map_err(linked())?;
    fs::rename(&aside, &link).map_err(linked())?;
    for entry in fs::read_dir(own).map_err(linked())?.flatten() {
        let at = entry.file_name();
        if !at.to_string_lossy().starts_with("..") && !names.contains(&at) {
            fs::remove_file(entry.path()).map_err(linked())?;
        }
    }
    for name in names {
        let at = own.join(&name);
        if fs::symlink_metadata(&at).is_err() {
            symlink(Path::new(DATA).join(&name), &at).map_err(linked())?;
        }
    }
    if let Some(old) = old {
        fs::remove_dir_all(own.join(old)).map_err(linked())?;
    }
    Ok(())
}

/// A path that stays in its volume.
fn relative(path: &str) -> Result<PathBuf> {
    let path = Path::new(path);
    if path.components().next().is_some() && path.components().all(|c| matches!(c, Component::Normal(_))) {
        return Ok(path.to_owned());
    }
    Err(Error::Io {
        operation: format!("use {} as a path in a volume: it must stay in it", path.display()),
        source: std::io::ErrorKind::InvalidInput.into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_replaced_all_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let files = |list: &[(&str, &str)]| -> BTreeMap<String, Vec<u8>> {
            list.iter()
                .map(|(n, c)| ((*n).to_owned(), c.as_bytes().to_vec()))
                .collect()
        };
        let volume = Volume {
            name: "config".into(),
            files: Some(files(&[("a", "1"), ("deep/b", "2")])),
            mounts: vec![("/etc/config".into(), String::new())],
        };
        let at = dir.path().join("volumes");
        let volumes = Volumes::create(&at, &[volume]).unwrap();
        let own = source(&at, 0, "").unwrap();
        let read = |name: &str| fs::read_to_string(own.join(name)).ok();
        assert_eq!(
            (read("a").as_deref(), read("deep/b").as_deref()),
            (Some("1"), Some("2"))
        );
        let held = File::open(own.join(DATA)).unwrap();
        volumes.update(0, &files(&[("a", "3"), ("c", "4")])).unwrap();
        assert_eq!(
            (read("a").as_deref(), read("c").as_deref()),
            (Some("3"), Some("4"))
        );
        assert_eq!(read("deep/b"), None);
        drop(held);
        // Only the files in force are kept.
        let hidden = fs::read_dir(&own)
            .unwrap()
            .flatten()
            .filter(|e| e.file_name().to_string_lossy().starts_with(".."))
            .count();
        assert_eq!(hidden, 2);
        assert!(relative("../x").is_err() && relative("/x").is_err() && relative("").is_err());
    }
}
