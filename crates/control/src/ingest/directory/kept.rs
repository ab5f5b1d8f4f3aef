//! The last good version of every file, on disk, for the next process.
//!
//! A control plane that starts while somebody saves a file, or after somebody broke one, begins with what
//! was in force before, and then looks at the file as it always does.

use std::cell::Cell;
use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use isthmus_api::object::Object;
use isthmus_api::{Parsed, load, parse};
use serde_json::json;

/// First word of the first line of a kept file, before the path of the file it is of.
const OF: &str = "# ";

/// Where the last good versions of one directory's files are.
#[derive(Debug)]
pub(super) struct Kept {
    folder: PathBuf,
    /// Whether the last attempt failed, so that a store that takes nothing is said once.
    failing: Cell<bool>,
}

/// A file as it was when it was last in order.
#[derive(Debug)]
pub(super) struct Version {
    /// Where it was read from.
    pub path: PathBuf,
    /// What it said.
    pub text: String,
}

impl Version {
    pub fn parse(&self, name: &str) -> Parsed {
        parse(&self.text, name)
    }
}

impl Kept {
    /// In a folder of `dir`'s own below `store`. Nothing is touched yet.
    pub fn new(store: &Path, dir: &Path) -> Self {
        Self {
            folder: store.join(name_of(dir)),
            failing: Cell::new(false),
        }
    }

    /// All versions that were kept; one that cannot be read is said and passed over.
    pub fn all(&self) -> Vec<Version> {
        let mut versions = Vec::new();
        for entry in std::fs::read_dir(&self.folder).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.extension().is_none_or(|e| e != "yaml") {
                continue;
            }
            match load::read(&path) {
                Ok(text) => versions.extend(version(&text)),
                Err(error) => {
                    tracing::warn!(path = %path.display(), %error, "a last good version cannot be read");
                }
            }
        }
        versions
    }

    /// Keeps a file that is in order.
    pub fn keep(&self, path: &Path, text: &str) {
        self.told(path, self.write(path, text));
    }

    /// Keeps what stays in force of a file that is not in order.
    pub fn keep_objects(&self, path: &Path, objects: &[Arc<Object>]) {
        let items: Result<Vec<_>, _> = objects.iter().map(|o| o.to_json()).collect();
        let written = items.map_err(io::Error::other).and_then(|items| {
            let list = json!({ "apiVersion": "v1", "kind": "List", "items": items });
            self.write(path, &list.to_string())
        });
        self.told(path, written);
    }

    /// Forgets a file that is gone.
    pub fn forget(&self, path: &Path) {
        match std::fs::remove_file(self.file(path)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => self.told(path, Err(error)),
            _ => {}
        }
    }

    fn file(&self, path: &Path) -> PathBuf {
        self.folder.join(format!("{}.yaml", name_of(path)))
    }

    fn write(&self, path: &Path, text: &str) -> io::Result<()> {
        let Some(shown) = path.to_str().filter(|p| !p.contains('\n')) else {
            return Err(io::Error::other("its name is not one line of text"));
        };
        let whole = format!("{OF}{shown}\n{text}");
        let file = self.file(path);
        if std::fs::read(&file).is_ok_and(|old| old == whole.as_bytes()) {
            return Ok(());
        }
        // Secrets are among the files.
        let mut private = std::fs::DirBuilder::new();
        private.recursive(true).mode(0o700).create(&self.folder)?;
        let new = file.with_extension("new");
        let mut options = std::fs::OpenOptions::new();
        let options = options.write(true).create(true).truncate(true).mode(0o600);
        io::Write::write_all(&mut options.open(&new)?, whole.as_bytes())?;
        std::fs::rename(new, file)
    }

    fn told(&self, path: &Path, done: io::Result<()>) {
        let before = self.failing.replace(done.is_err());
        if let Err(error) = done
            && !before
        {
            tracing::warn!(
                path = %path.display(), folder = %self.folder.display(), %error,
                "last good versions of files cannot be kept: after a restart what is broken then is missing"
            );
        }
    }
}

fn version(text: &str) -> Option<Version> {
    let (of, text) = text.split_once('\n')?;
    Some(Version {
        path: of.strip_prefix(OF)?.into(),
        text: text.to_owned(),
    })
}

/// A file name for a path. Another release of the standard library may hash otherwise: then a process begins
/// with what stands in the files, as it does without a store.
fn name_of(path: &Path) -> String {
    let mut hasher = DefaultHasher::new();
    path.hash(&mut hasher);
    format!("{:016x}", hasher.finish())
}
