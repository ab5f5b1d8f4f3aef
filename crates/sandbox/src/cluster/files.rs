//! The cluster's directory: the user's files read, the state files written.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use isthmus_api::{Finding, Object, Parsed, load, parse};
use serde_json::{Value, json};

/// What makes two states of a directory differ: paths, sizes and times of its files.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Signature(Vec<(PathBuf, u64, Option<SystemTime>)>);

/// The user's YAML, read again when it changed.
#[derive(Debug)]
pub struct UserFiles {
    dir: PathBuf,
    seen: Option<Signature>,
    /// What was found last, if it was other than what was read.
    restless: Option<Signature>,
    objects: Vec<Arc<Object>>,
    findings: Vec<Finding>,
}

impl UserFiles {
    /// Watches a directory; nothing is read yet.
    pub fn new(dir: PathBuf) -> Self {
        Self {
            dir,
            seen: None,
            restless: None,
            objects: Vec::new(),
            findings: Vec::new(),
        }
    }

    /// Reads the directory if it changed since the last time; says whether it did.
    ///
    /// A file that does not parse leaves what it held before: the last good objects stay. A change is read
    /// when two looks have found the same, since half a file may well parse, and would end the pods of its
    /// other half; `at_once` whoever asks knows that nobody is writing.
    ///
    /// # Errors
    /// The directory cannot be listed.
    pub fn refresh(&mut self, at_once: bool) -> io::Result<bool> {
        let mut files = Vec::new();
        for path in load::list(&self.dir)? {
            // A file that is gone by now is missing, as if it had not been listed.
            if let Ok(meta) = std::fs::metadata(&path) {
                files.push((path, meta.len(), meta.modified().ok()));
            }
        }
        let signature = Signature(files);
        if self.seen.as_ref() == Some(&signature) {
            self.restless = None;
            return Ok(false);
        }
        if !at_once && self.seen.is_some() && self.restless.as_ref() != Some(&signature) {
            self.restless = Some(signature);
            return Ok(false);
        }
        let mut parsed = Parsed::default();
        for (path, ..) in &signature.0 {
            let name = path.display().to_string();
            match load::read(path) {
                Ok(text) => {
                    let one = parse(&text, &name);
                    let broken = one.unattributed;
                    let refused = one.refused.clone();
                    parsed.absorb(one);
                    let kept = self
                        .objects
                        .iter()
                        .filter(|o| *o.origin.file == *name && (broken || refused.contains(&o.key())));
                    let kept: Vec<_> = kept.cloned().collect();
                    for object in kept {
                        if !parsed.objects.iter().any(|o| o.key() == object.key()) {
                            parsed.objects.push(object);
                        }
                    }
                }
                // Gone between listing and reading: the next refresh sees it.
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                Err(e) => {
                    tracing::warn!(file = %name, error = %e, "a file cannot be read; its objects are not used")
                }
            }
        }
        parsed.drop_duplicates();
        self.objects = parsed.objects;
        self.findings = parsed.findings;
        self.seen = Some(signature);
        Ok(true)
    }

    /// The objects in force.
    pub fn objects(&self) -> &[Arc<Object>] {
        &self.objects
    }

    /// What is wrong with the files.
    pub fn findings(&self) -> &[Finding] {
        &self.findings
    }
}

/// Writes objects as a `v1` List, whole or not at all.
///
/// # Errors
/// The file system refuses.
pub fn write_list(dir: &Path, name: &str, objects: &[Value]) -> io::Result<()> {
    let list = json!({"apiVersion": "v1", "kind": "List", "items": objects});
    write_whole(
        &dir.join(format!("{name}.json")),
        &serde_json::to_vec_pretty(&list)?,
    )
}

/// Writes a file aside and renames it, so that no reader sees half of it.
///
/// # Errors
/// The file system refuses.
pub fn write_whole(path: &Path, content: &[u8]) -> io::Result<()> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let aside = path.with_file_name(format!(".{name}.new"));
    std::fs::write(&aside, content)?;
    std::fs::rename(&aside, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_being_written_is_not_read() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("namespace.yaml");
        let whole = "apiVersion: v1\nkind: Namespace\nmetadata: {name: echo}\n";
        std::fs::write(&file, whole).unwrap();
        let mut files = UserFiles::new(dir.path().to_owned());
        assert!(files.refresh(false).unwrap(), "the first look is the start");
        assert_eq!(files.objects().len(), 1);

        // Truncated, as most writers begin: no look on the way may take the objects away.
        std::fs::write(&file, "").unwrap();
        assert!(!files.refresh(false).unwrap());
        std::fs::write(&file, format!("{whole}---\n{}", whole.replace("echo", "foo"))).unwrap();
        assert!(!files.refresh(false).unwrap());
        assert_eq!(files.objects().len(), 1);
        assert!(files.refresh(false).unwrap(), "it rests");
        assert_eq!(files.objects().len(), 2);

        std::fs::write(&file, whole).unwrap();
        assert!(files.refresh(true).unwrap(), "whoever wrote it says so");
        assert_eq!(files.objects().len(), 1);
    }
}
