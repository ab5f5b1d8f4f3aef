//! Two clusters with API servers of their own, and the commands that a user types at them.

use std::io::Write;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use serde_json::Value;

use crate::harness::{Mesh, Output, eventually};

/// The clusters of all stories.
#[derive(Debug)]
pub struct Clusters {
    mesh: Mesh,
    /// Where kubectl and helm are.
    programs: PathBuf,
}

/// A story's turn with the shared clusters, alone.
pub struct Turn {
    clusters: &'static Clusters,
    _turn: MutexGuard<'static, ()>,
}

impl Deref for Turn {
    type Target = Clusters;

    fn deref(&self) -> &Clusters {
        self.clusters
    }
}

static SHARED: OnceLock<Result<Clusters, String>> = OnceLock::new();
static TURN: Mutex<()> = Mutex::new(());

impl Clusters {
    /// The shared clusters, started for the first story.
    pub fn shared() -> Turn {
        // A story that failed leaves what it made; those behind it use namespaces of their own.
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        match SHARED.get_or_init(|| Self::start(&["--kubernetes", "--clusters", "us,eu"])) {
            Ok(clusters) => {
                for cluster in ["us", "eu"] {
                    clusters.wait_until_nothing_ends(cluster);
                }
                Turn {
                    clusters,
                    _turn: turn,
                }
            }
            Err(why) => panic!("{why}"),
        }
    }

    /// A cluster `us` of one story's own, for what changes a cluster as a whole.
    pub fn alone() -> Self {
        Self::start(&["--kubernetes", "--clusters", "us"]).unwrap_or_else(|why| panic!("{why}"))
    }

    fn start(arguments: &[&str]) -> Result<Self, String> {
        let build = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/kubernetes/assets/build.sh");
        let built = Command::new("bash")
            .arg(&build)
            .output()
            .map_err(|e| format!("{}: {e}", build.display()))?;
        if !built.status.success() {
            return Err(String::from_utf8_lossy(&built.stderr).into_owned());
        }
        let programs = PathBuf::from(String::from_utf8_lossy(&built.stdout).trim());
        let mesh = Mesh::start(arguments)?;
        Ok(Self { mesh, programs })
    }

    /// The clusters as a sandbox.
    pub fn mesh(&self) -> &Mesh {
        &self.mesh
    }

    /// The file that names both.
    pub fn kubeconfig(&self) -> PathBuf {
        self.mesh.dir().join("kubeconfig")
    }

    /// Runs a program of Kubernetes, or isthmus, as a user with `KUBECONFIG` does.
    pub fn run(&self, program: &str, arguments: &[&str], input: &str) -> Output {
        let path = match program {
            "isthmus" => PathBuf::from(env!("CARGO_BIN_EXE_isthmus")),
            other => self.programs.join(other),
        };
        let mut child = Command::new(&path)
            .args(arguments)
            .env("KUBECONFIG", self.kubeconfig())
            .env("ISTHMUS_DIR", self.mesh.dir())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        if let Some(mut stdin) = child.stdin.take() {
            // A command that does not read its input is no failure of the story.
            let _ = stdin.write_all(input.as_bytes());
        }
        let output = child.wait_with_output().expect("a child can be waited for");
        Output {
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// `kubectl --context CLUSTER ...`, which has to succeed; what it said.
    pub fn kubectl(&self, cluster: &str, arguments: &[&str]) -> String {
        self.kubectl_with(cluster, arguments, "")
    }

    /// As [`Clusters::kubectl`], with a standard input.
    pub fn kubectl_with(&self, cluster: &str, arguments: &[&str], input: &str) -> String {
        let all: Vec<&str> = ["--context", cluster].iter().chain(arguments).copied().collect();
        let output = self.run("kubectl", &all, input);
        assert_eq!(output.code, 0, "kubectl {}: {output}", all.join(" "));
        output.stdout
    }

    /// Applies YAML.
    pub fn apply(&self, cluster: &str, yaml: &str) {
        self.kubectl_with(cluster, &["apply", "-f", "-"], yaml);
    }

    /// `isthmus ...`, which has to succeed; what it said.
    pub fn isthmus(&self, arguments: &[&str]) -> String {
        let output = self.run("isthmus", arguments, "");
        assert_eq!(output.code, 0, "isthmus {}: {output}", arguments.join(" "));
        output.stdout
    }

    /// Objects of a kind in a namespace.
    pub fn list(&self, cluster: &str, namespace: &str, kind: &str) -> Vec<Value> {
        let said = self.kubectl(cluster, &["get", kind, "-n", namespace, "-o", "json"]);
        let list: Value = serde_json::from_str(&said).expect("kubectl prints JSON");
        list["items"].as_array().cloned().unwrap_or_default()
    }

    /// Waits until every pod of a namespace is ready, and there are this many.
    pub fn wait_for_pods(&self, cluster: &str, namespace: &str, count: usize) -> Vec<Value> {
        eventually(&format!("{count} ready pods in {namespace} of {cluster}"), || {
            let pods = self.list(cluster, namespace, "pods");
            let ready = pods.iter().filter(|p| is_ready(p)).count();
            if ready == count && pods.len() == count {
                return Ok(pods);
            }
            Err(self
                .run(
                    "kubectl",
                    &["--context", cluster, "describe", "pods", "-n", namespace],
                    "",
                )
                .stdout)
        })
    }

    /// Waits until the namespaces that the story before deleted are gone: nothing can be made in them meanwhile.
    fn wait_until_nothing_ends(&self, cluster: &str) {
        eventually(&format!("no namespace of {cluster} is ending"), || {
            let all = self.list(cluster, "default", "namespaces");
            let ends = |n: &&Value| n["status"]["phase"] == "Terminating";
            match all.iter().find(ends) {
                None => Ok(()),
                Some(ending) => Err(format!("{:#}", ending["status"])),
            }
        });
    }

    /// Deletes a namespace and waits until it is gone.
    pub fn delete_namespace(&self, cluster: &str, namespace: &str) {
        self.kubectl(
            cluster,
            &[
                "delete",
                "namespace",
                namespace,
                "--ignore-not-found",
                "--timeout=60s",
            ],
        );
    }
}

/// Whether a pod's condition `Ready` is true.
pub fn is_ready(pod: &Value) -> bool {
    condition(pod, "Ready") == "True"
}

/// The status of a condition, `""` when there is none.
pub fn condition<'a>(object: &'a Value, kind: &str) -> &'a str {
    let conditions = object["status"]["conditions"].as_array();
    let found = conditions.into_iter().flatten().find(|c| c["type"] == kind);
    found.and_then(|c| c["status"].as_str()).unwrap_or_default()
}
