//! Turns with a demo that stories share: beside others that only look, or alone, with everything undone at
//! the end.

use std::collections::BTreeMap;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{RwLockReadGuard, RwLockWriteGuard};

use serde_json::Value;

use crate::harness::{Mesh, Output};

/// A turn with a shared demo, beside other readers.
#[derive(Debug)]
pub struct Reader {
    mesh: &'static Mesh,
    _turn: RwLockReadGuard<'static, ()>,
}

impl Reader {
    /// A turn that ends with the guard.
    pub fn new(mesh: &'static Mesh, turn: RwLockReadGuard<'static, ()>) -> Self {
        Self { mesh, _turn: turn }
    }
}

impl Deref for Reader {
    type Target = Mesh;

    fn deref(&self) -> &'static Mesh {
        self.mesh
    }
}

/// A turn alone with a shared demo; what was done to it is undone at the end.
#[derive(Debug)]
pub struct Writer {
    mesh: &'static Mesh,
    /// Every file of the clusters' YAML as it was at the beginning.
    yaml: BTreeMap<PathBuf, Vec<u8>>,
    broken: AtomicBool,
    _turn: RwLockWriteGuard<'static, ()>,
}

impl Deref for Writer {
    type Target = Mesh;

    fn deref(&self) -> &'static Mesh {
        self.mesh
    }
}

impl Writer {
    /// A turn that ends with the guard.
    pub fn new(mesh: &'static Mesh, turn: RwLockWriteGuard<'static, ()>) -> Self {
        Self {
            mesh,
            yaml: mesh.yaml(),
            broken: AtomicBool::new(false),
            _turn: turn,
        }
    }

    /// Many requests in another thread, while the story goes on.
    pub fn meanwhile(
        &self,
        workload: &'static str,
        url: &'static str,
        options: &'static [&'static str],
    ) -> std::thread::JoinHandle<Value> {
        let mesh = self.mesh;
        std::thread::spawn(move || mesh.fetch_json(workload, url, options))
    }

    /// Creates or changes objects; at the end everything is as it was.
    pub fn apply(&self, cluster: &str, yaml: &str) {
        let output = self.try_apply(cluster, yaml);
        assert_eq!(output.code, 0, "apply in {cluster}: {output}\n{yaml}");
    }

    /// As [`Writer::apply`], for YAML that is to be refused.
    pub fn try_apply(&self, cluster: &str, yaml: &str) -> Output {
        self.isthmus_with(&["apply", "--cluster", cluster, "-f", "-"], yaml)
    }

    /// Deletes an object, which comes back at the end.
    pub fn delete(&self, cluster: &str, kind: &str, namespace: &str, name: &str) {
        let object = self.json(&[
            "get",
            kind,
            name,
            "--namespace",
            namespace,
            "--cluster",
            cluster,
            "-o",
            "json",
        ]);
        let yaml = object.to_string();
        let output = self.isthmus_with(&["delete", "--cluster", cluster, "-f", "-"], &yaml);
        assert_eq!(
            output.code, 0,
            "delete {kind} {namespace}/{name} in {cluster}: {output}"
        );
    }

    /// Writes a file among a cluster's YAML, as an editor does.
    pub fn write_file(&self, cluster: &str, name: &str, yaml: &str) {
        let path = self.config_dir(cluster).join(name);
        std::fs::write(&path, yaml).expect("the demo's YAML can be written");
    }

    /// Breaks something as `isthmus demo break` does; mended at the end.
    pub fn break_with(&self, arguments: &[&str]) {
        let all: Vec<&str> = ["demo", "break"].iter().chain(arguments).copied().collect();
        let output = self.isthmus(&all);
        self.broken.store(true, Ordering::Relaxed);
        assert_eq!(output.code, 0, "{all:?}: {output}");
    }

    /// Undoes black holes and cuts, and starts what was stopped, now.
    pub fn mend(&self) {
        let output = self.isthmus(&["demo", "break", "mend"]);
        assert_eq!(output.code, 0, "{output}");
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        if self.broken.load(Ordering::Relaxed) {
            let output = self.isthmus(&["demo", "break", "mend"]);
            if output.code != 0 {
                eprintln!("mending what a story broke: {output}");
            }
        }
        let now = self.mesh.yaml();
        let added = now.keys().filter(|path| !self.yaml.contains_key(*path));
        let undone = added.map(std::fs::remove_file);
        let changed = self
            .yaml
            .iter()
            .filter(|(path, text)| now.get(*path) != Some(text));
        for undone in undone.chain(changed.map(|(path, text)| replace(path, text))) {
            if let Err(error) = undone {
                eprintln!("undoing what a story wrote: {error}");
            }
        }
    }
}

/// Puts another text in a file's place at once: half of it would be a cluster with half its pods.
fn replace(path: &Path, text: &[u8]) -> std::io::Result<()> {
    let new = path.with_extension("new");
    std::fs::write(&new, text)?;
    std::fs::rename(new, path)
}
