//! What has to run, and how it is doing: the seam between the clusters' controllers and the pods.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::time::Duration;

use isthmus_model::ClusterId;
use serde::{Deserialize, Serialize};

/// Names a pod in the sandbox.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct PodKey {
    /// Member cluster.
    pub cluster: ClusterId,
    /// Kubernetes namespace.
    pub namespace: String,
    /// Pod name.
    pub name: String,
}

impl std::fmt::Display for PodKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}.{}", self.cluster, self.name, self.namespace)
    }
}

/// Everything that is needed to start a pod, injection already done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodPlan {
    /// Its name.
    pub key: PodKey,
    /// Names in `/etc/resolv.conf`.
    pub dns: DnsPlan,
    /// Files that the pod sees, by absolute path: tokens, root certificate, service account, config maps.
    pub files: BTreeMap<PathBuf, Vec<u8>>,
    /// Directories that the pod sees besides: Kubernetes' volumes.
    pub volumes: Vec<Volume>,
    /// Processes, in the order in which they start; a sidecar comes first and holds the others until ready.
    pub containers: Vec<ContainerPlan>,
    /// Redirect traffic to the sidecar: the pod's annotations that say how; `None` leaves traffic alone.
    pub capture: Option<BTreeMap<String, String>>,
    /// How long the pod has to end after SIGTERM (`terminationGracePeriodSeconds`, default 30 s).
    pub grace: Duration,
}

/// A directory of the pod's own, seen at one path or several. All containers see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Volume {
    /// Its name in the pod.
    pub name: String,
    /// Content of its files by their path in it, which [`crate::pod::Pods::update_volume`] replaces as a
    /// whole; `None`: empty at first, for the containers to write to.
    pub files: Option<BTreeMap<String, Vec<u8>>>,
    /// Where it is seen: the path, and which file or directory of it, `""` for all.
    pub mounts: Vec<(PathBuf, String)>,
}

/// A pod's resolver configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DnsPlan {
    /// The cluster's DNS Service.
    pub nameserver: IpAddr,
    /// `NS.svc.cluster.local svc.cluster.local cluster.local`.
    pub search: Vec<String>,
    /// `options ndots:`.
    pub ndots: u8,
}

/// One process of a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerPlan {
    /// Container name; the log file is named after it.
    pub name: String,
    /// What runs.
    pub program: Program,
    /// Environment besides `PATH` and `HOME`. The pod's address is set as `POD_IP`, and replaces
    /// `$(POD_IP)` in values and arguments, since it is known only at the start.
    pub env: Vec<(String, String)>,
    /// Where it is started, as the pod sees it.
    pub directory: PathBuf,
    /// When it starts among the others, and when it ends.
    pub order: Order,
    /// Whether it is started again when it ends.
    pub restart: Restart,
    /// When the container counts as ready; `None`: as soon as it runs.
    pub readiness: Option<Probe>,
    /// When it is killed, to be started again.
    pub liveness: Option<Probe>,
    /// Holds back the other two until it has passed; killed when it does not.
    pub startup: Option<Probe>,
    /// Runs beside the process once that has been started; those behind it wait for its end.
    pub post_start: Option<Check>,
    /// Runs before the process is told to end.
    pub pre_stop: Option<Check>,
}

impl ContainerPlan {
    /// An application's container without probes, started again whenever it ends.
    pub fn new(name: impl Into<String>, program: Program) -> Self {
        Self {
            name: name.into(),
            program,
            env: Vec::new(),
            directory: PathBuf::from("/"),
            order: Order::Beside,
            restart: Restart::Always,
            readiness: None,
            liveness: None,
            startup: None,
            post_start: None,
            pre_stop: None,
        }
    }

    /// The same with these variables.
    pub fn with_environment(self, env: Vec<(String, String)>) -> Self {
        Self { env, ..self }
    }
}

/// A container's place among those of its pod.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Order {
    /// Beside the others: an application.
    #[default]
    Beside,
    /// Beside the others, and those behind it wait until it has started (an application's container with
    /// something to do after its start).
    BesideOnceStarted,
    /// Those behind it wait until it is ready; it ends with the others (the demo's sidecar).
    HoldsUntilReady,
    /// Those behind it wait until its startup probe has passed; it ends when they have (Kubernetes' native
    /// sidecar, an init container that is restarted always).
    HoldsUntilStarted,
    /// Those behind it wait until it has ended well (an init container).
    HoldsUntilDone,
}

/// `restartPolicy`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Restart {
    /// However it ends.
    #[default]
    Always,
    /// When it fails.
    OnFailure,
    /// Not at all.
    Never,
}

/// What a container runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Program {
    /// This binary with these arguments: a role of the mesh or a sample application.
    Isthmus(Vec<String>),
    /// A program of the host, run inside the pod.
    Host(Vec<String>),
    /// Nothing that this machine has; the container waits.
    Unavailable {
        /// In one word, as Kubernetes has it: `ErrImagePull`.
        reason: String,
        /// What is missing, and what helps.
        message: String,
    },
}

/// A Kubernetes probe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Probe {
    /// What is tried.
    pub check: Check,
    /// `periodSeconds`.
    pub period: Duration,
    /// `timeoutSeconds`.
    pub timeout: Duration,
    /// `initialDelaySeconds`.
    pub initial_delay: Duration,
    /// `failureThreshold`.
    pub failures: u32,
    /// `successThreshold`.
    pub successes: u32,
    /// Whether it comes from the node, as a kubelet's does, and so meets the pod's capture.
    pub from_node: bool,
}

/// What a probe tries: inside the pod's network namespace and past the sidecar, or from the node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Check {
    /// `httpGet`: a status from 200 to 399 counts.
    Http {
        /// Port.
        port: u16,
        /// Path with query.
        path: String,
    },
    /// `tcpSocket`.
    Tcp {
        /// Port.
        port: u16,
    },
    /// A connection to the pod's own loopback.
    Loopback {
        /// Port.
        port: u16,
    },
    /// `exec`: exit code 0 counts.
    Exec(Vec<String>),
}

/// How a pod is doing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodStatus {
    /// Its name.
    pub key: PodKey,
    /// Its address on the cluster's network.
    pub address: Ipv4Addr,
    /// By container name.
    pub containers: BTreeMap<String, ContainerStatus>,
    /// Set once the pod is being stopped.
    pub terminating: bool,
    /// Set once none of its containers will run again.
    #[serde(default)]
    pub finished: bool,
}

impl PodStatus {
    /// Whether every container that has not done its work is ready, and the pod is not ending.
    pub fn ready(&self) -> bool {
        !self.terminating
            && !self.finished
            && !self.containers.is_empty()
            && self.containers.values().all(|c| c.ready || c.done)
    }
}

/// How a container is doing.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerStatus {
    /// Process id in the sandbox's pid namespace, while it runs.
    pub pid: Option<i32>,
    /// Its readiness probe passes, or it runs and has none.
    pub ready: bool,
    /// Its startup probe has passed, or it runs and has none.
    #[serde(default)]
    pub started: bool,
    /// How often it was started again.
    pub restarts: u32,
    /// Why it is not running or not ready, in words; empty when all is well.
    pub reason: String,
    /// Why it does not run, in one word as Kubernetes has it: `CrashLoopBackOff`; empty while it runs.
    #[serde(default)]
    pub waiting: String,
    /// When its process was started, in seconds since 1970.
    #[serde(default)]
    pub since: Option<i64>,
    /// How its last process ended.
    #[serde(default)]
    pub last: Option<Termination>,
    /// It has ended and is not started again.
    #[serde(default)]
    pub ended: bool,
    /// It has ended well and is not started again.
    #[serde(default)]
    pub done: bool,
}

/// How a process ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Termination {
    /// Exit code; 128 and its number for a signal.
    pub code: i32,
    /// When it was started, in seconds since 1970.
    pub from: i64,
    /// When it ended, in seconds since 1970.
    pub until: i64,
}

/// A Service's virtual address and the ready endpoints behind each of its ports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VirtualAddress {
    /// Cluster address, or the public address of a load balancer.
    pub address: Ipv4Addr,
    /// Ports and what stands behind them; an empty list of targets refuses connections.
    pub ports: Vec<VirtualPort>,
}

/// One port of a [`VirtualAddress`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VirtualPort {
    /// TCP or UDP.
    pub udp: bool,
    /// Port that callers use.
    pub port: u16,
    /// Pods that take it.
    pub targets: Vec<(Ipv4Addr, u16)>,
}
