//! Where the programs of a Kubernetes control plane come from.
//!
//! They are Kubernetes' own. Whoever develops for Kubernetes has some of them in `KUBEBUILDER_ASSETS`; all
//! others are built from modules pinned in this repository, once, into a directory that is kept.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// The build and what it pins, as they are in `tests/kubernetes/assets`.
const FILES: [(&str, &str); 10] = [
    (
        "build.sh",
        include_str!("../../../../tests/kubernetes/assets/build.sh"),
    ),
    (
        "kubernetes/go.mod",
        include_str!("../../../../tests/kubernetes/assets/kubernetes/go.mod"),
    ),
    (
        "kubernetes/go.sum",
        include_str!("../../../../tests/kubernetes/assets/kubernetes/go.sum"),
    ),
    (
        "etcd/go.mod",
        include_str!("../../../../tests/kubernetes/assets/etcd/go.mod"),
    ),
    (
        "etcd/go.sum",
        include_str!("../../../../tests/kubernetes/assets/etcd/go.sum"),
    ),
    (
        "coredns/main.go",
        include_str!("../../../../tests/kubernetes/assets/coredns/main.go"),
    ),
    (
        "coredns/go.mod",
        include_str!("../../../../tests/kubernetes/assets/coredns/go.mod"),
    ),
    (
        "coredns/go.sum",
        include_str!("../../../../tests/kubernetes/assets/coredns/go.sum"),
    ),
    (
        "helm/go.mod",
        include_str!("../../../../tests/kubernetes/assets/helm/go.mod"),
    ),
    (
        "helm/go.sum",
        include_str!("../../../../tests/kubernetes/assets/helm/go.sum"),
    ),
];

/// What a cluster of the sandbox runs, and what a user types.
const PROGRAMS: [&str; 6] = [
    "etcd",
    "kube-apiserver",
    "kube-controller-manager",
    "kube-scheduler",
    "coredns",
    "kubectl",
];

/// The programs by name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Programs {
    /// Directory that holds all of them.
    pub dir: PathBuf,
}

impl Programs {
    /// Finds them in `dir` (`None`: the build's own choice, in the user's cache), or builds what is missing
    /// there, which takes minutes and is shown on standard error.
    ///
    /// # Errors
    /// Something is missing and cannot be built; the error says what to install.
    pub fn find(dir: Option<&Path>) -> Result<Self> {
        let wrong = |reason: String| Error::Assets { reason };
        let source = tempfile::tempdir().map_err(|e| wrong(e.to_string()))?;
        for (name, content) in FILES {
            let path = source.path().join(name);
            if let Some(parent) = path.parent() {
                std::fs::create_dir_all(parent).map_err(|e| wrong(e.to_string()))?;
            }
            std::fs::write(path, content).map_err(|e| wrong(e.to_string()))?;
        }
        let output = Command::new("bash")
            .arg(source.path().join("build.sh"))
            .arg(dir.unwrap_or(Path::new("")))
            .args(PROGRAMS)
            .stderr(std::process::Stdio::inherit())
            .output()
            .map_err(|e| wrong(format!("bash cannot be run: {e}")))?;
        if !output.status.success() {
            return Err(wrong(format!("the build ended with {}", output.status)));
        }
        let said = String::from_utf8_lossy(&output.stdout);
        let dir = PathBuf::from(said.trim());
        match PROGRAMS.iter().find(|p| !dir.join(p).is_file()) {
            None => Ok(Self { dir }),
            Some(missing) => Err(wrong(format!("{missing} is not in {}", dir.display()))),
        }
    }

    /// Where a program is.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// A program that an image of this name holds, if it is one of them.
    pub(super) fn of_image(&self, name: &str) -> Option<PathBuf> {
        let path = self.path(name);
        (Path::new(name).components().count() == 1 && PROGRAMS.contains(&name) && path.is_file())
            .then_some(path)
    }
}
