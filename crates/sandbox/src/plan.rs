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
    /// Processes, in the order in which they start; a sidecar comes first and holds the others until ready.
    pub containers: Vec<ContainerPlan>,
    /// Redirect traffic to the sidecar: the pod's annotations that say how; `None` leaves traffic alone.
    pub capture: Option<BTreeMap<String, String>>,
    /// How long the pod has to end after SIGTERM (`terminationGracePeriodSeconds`, default 30 s).
    pub grace: Duration,
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
    /// When the container counts as ready; `None`: as soon as it runs.
    pub readiness: Option<Probe>,
    /// Whether the containers behind it wait until it is ready.
    pub holds_others: bool,
}

/// What a container runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Program {
    /// This binary with these arguments: a role of the mesh or a sample application.
    Isthmus(Vec<String>),
    /// A program of the host, run inside the pod.
    Host(Vec<String>),
}

/// A Kubernetes readiness probe.
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
}

/// What a probe tries, inside the pod's network namespace, past the sidecar.
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
}

impl PodStatus {
    /// Whether every container is ready and the pod is not ending.
    pub fn ready(&self) -> bool {
        !self.terminating && !self.containers.is_empty() && self.containers.values().all(|c| c.ready)
    }
}

/// How a container is doing.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerStatus {
    /// Process id in the sandbox's pid namespace, while it runs.
    pub pid: Option<i32>,
    /// Its readiness probe passes, or it runs and has none.
    pub ready: bool,
    /// How often it was started again.
    pub restarts: u32,
    /// Why it is not running or not ready, in words; empty when all is well.
    pub reason: String,
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
