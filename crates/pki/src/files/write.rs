//! Writes files whole or not at all, and never over others by accident.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rand::Rng;
use zeroize::Zeroizing;

/// Why nothing was written, or not everything.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// Something is there already.
    #[error("{} exists already: choose another directory, or pass --force to replace it", .0.display())]
    Exists(PathBuf),
    /// The system refuses.
    #[error("{} cannot be written: {source}", .path.display())]
    Io {
        /// File or directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// Writes `files` into `directory`. Without `force`, one that exists keeps all from being written.
pub(super) fn all(
    directory: &Path,
    files: &BTreeMap<&'static str, Zeroizing<String>>,
    force: bool,
) -> Result<Vec<PathBuf>, WriteError> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| WriteError::Io { path, source }
    };
    fs::create_dir_all(directory).map_err(failed(directory))?;
    let paths: Vec<PathBuf> = files.keys().map(|name| directory.join(name)).collect();
    if !force && let Some(there) = paths.iter().find(|p| p.symlink_metadata().is_ok()) {
        return Err(WriteError::Exists(there.clone()));
    }
    for (path, text) in paths.iter().zip(files.values()) {
        let secret = path.to_string_lossy().ends_with("key.pem");
        one(path, text, secret, force).map_err(|e| match e.kind() {
            io::ErrorKind::AlreadyExists => WriteError::Exists(path.clone()),
            _ => failed(path)(e),
        })?;
    }
    // The names are durable only once the directory is.
    File::open(directory)
        .and_then(|d| d.sync_all())
        .map_err(failed(directory))?;
    Ok(paths)
}

/// Writes beside the target, then gives it its name: a reader sees the old file or the new one.
fn one(path: &Path, text: &str, secret: bool, force: bool) -> io::Result<()> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let suffix: u64 = rand::rng().random();
    let beside = path.with_file_name(format!(".{name}.{suffix:016x}"));
    let mode = if secret { 0o600 } else { 0o644 };
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(&beside)?;
    let written = file
        .write_all(text.as_bytes())
        .and_then(|()| file.sync_all())
        .and_then(|()| {
            if force {
                fs::rename(&beside, path)
            } else {
                // Unlike a rename, a link never replaces what came into being meanwhile.
                fs::hard_link(&beside, path)
            }
        });
    if !force || written.is_err() {
        // After a link this is the second name; after a failure the only one.
        let _ = fs::remove_file(&beside);
    }
    written
}
