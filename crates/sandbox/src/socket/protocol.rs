//! What can be asked of a sandbox, and the answers.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use isthmus_model::ClusterId;
use serde::{Deserialize, Serialize};

use crate::plan::ContainerStatus;

/// One question; the first line a client sends.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Request {
    /// What runs where.
    Status,
    /// Run a program in a pod; three descriptors come along.
    Exec(Exec),
    /// Write objects of this YAML into a cluster.
    Apply(Resources),
    /// Remove the objects that this YAML names from a cluster.
    Delete(Resources),
    /// Give back objects of a kind.
    Get {
        /// Member cluster.
        cluster: ClusterId,
        /// Kind as typed: `pods`, `VirtualService`.
        kind: String,
        /// `None`: every namespace.
        namespace: Option<String>,
        /// `None`: all of them.
        name: Option<String>,
    },
    /// Break something, or mend it.
    Fault(Fault),
    /// End the sandbox.
    Down,
    /// A signal for the program that runs; only after [`Request::Exec`].
    Signal(i32),
}

/// A program to run in a pod.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Exec {
    /// Where.
    pub workload: Workload,
    /// Program and arguments; `isthmus` alone names this binary.
    pub argv: Vec<String>,
    /// Environment besides the pod's.
    pub env: BTreeMap<String, String>,
}

/// Objects as YAML.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Resources {
    /// Member cluster.
    pub cluster: ClusterId,
    /// How findings call the text.
    pub file: String,
    /// The text.
    pub yaml: String,
}

/// Something to break or to mend, for tests and for learning.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Fault {
    /// Signal a container's process; the pod stays listed.
    Kill {
        /// Where.
        workload: Workload,
        /// Container name.
        container: String,
        /// Signal number.
        signal: i32,
    },
    /// Delete a pod; its Deployment makes another unless `replace` is false.
    Remove {
        /// Where.
        workload: Workload,
        /// Whether the Deployment makes another.
        replace: bool,
    },
    /// Drop every packet to and from a pod.
    BlackHole(Workload),
    /// Drop every packet to a public address.
    BlackHolePublic(IpAddr),
    /// Drop every packet between two clusters.
    Cut(ClusterId, ClusterId),
    /// Kill processes, and start none of them again until [`Fault::Start`] or [`Fault::Mend`].
    Stop(Part),
    /// Start what was stopped.
    Start(Part),
    /// Undo every black hole and cut, and start everything that was stopped.
    Mend,
}

/// A part of the sandbox that can be stopped and started.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Part {
    /// Everything that runs in a cluster: workloads, gateways, control plane, DNS.
    Cluster(ClusterId),
    /// All pods of a workload.
    Workload {
        /// Where.
        workload: Workload,
        /// Container name; `None`: all containers.
        container: Option<String>,
    },
    /// The DNS server of a cluster, which is written `CLUSTER/kube-dns`.
    ClusterDns(ClusterId),
    /// The DNS server of the internet, which is written `internet/dns`.
    InternetDns,
}

impl Part {
    /// What was typed: `CLUSTER`, `CLUSTER/kube-dns`, `internet/dns`, or a workload with perhaps a container.
    pub fn parse(target: &str, container: Option<String>) -> Result<Self, WorkloadError> {
        let part = match target.split_once('/') {
            None if is_name(target) => Self::Cluster(target.into()),
            Some(("internet", "dns")) => Self::InternetDns,
            Some((cluster, "kube-dns" | "kube-dns.kube-system")) if is_name(cluster) => {
                Self::ClusterDns(cluster.into())
            }
            _ => {
                return Ok(Self::Workload {
                    workload: target.parse()?,
                    container,
                });
            }
        };
        match container {
            None => Ok(part),
            Some(container) => Err(WorkloadError(format!("container {container} of {target}"))),
        }
    }
}

impl std::fmt::Display for Part {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Cluster(cluster) => write!(f, "{cluster}"),
            Self::Workload {
                workload,
                container: None,
            } => write!(f, "{workload}"),
            Self::Workload {
                workload,
                container: Some(container),
            } => write!(f, "{container} of {workload}"),
            Self::ClusterDns(cluster) => write!(f, "{cluster}/kube-dns"),
            Self::InternetDns => f.write_str("internet/dns"),
        }
    }
}

/// `CLUSTER/WORKLOAD[.NAMESPACE]` as typed: a pod or a Deployment of a cluster.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Workload {
    /// Member cluster.
    pub cluster: ClusterId,
    /// Pod or Deployment.
    pub name: String,
    /// `None`: wherever the name is found once.
    pub namespace: Option<String>,
}

/// The text is not `CLUSTER/WORKLOAD[.NAMESPACE]`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} does not name a workload; write CLUSTER/WORKLOAD or CLUSTER/WORKLOAD.NAMESPACE, as in us/sleep"
)]
pub struct WorkloadError(String);

impl FromStr for Workload {
    type Err = WorkloadError;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        let bad = || WorkloadError(s.to_owned());
        let (cluster, rest) = s.split_once('/').ok_or_else(bad)?;
        let (name, namespace) = match rest.split_once('.') {
            Some((name, namespace)) => (name, Some(namespace.to_owned())),
            None => (rest, None),
        };
        if !is_name(cluster) || !is_name(name) || namespace.as_deref().is_some_and(|n| !is_name(n)) {
            return Err(bad());
        }
        Ok(Self {
            cluster: cluster.into(),
            name: name.to_owned(),
            namespace,
        })
    }
}

fn is_name(s: &str) -> bool {
    !s.is_empty() && s.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
}

impl std::fmt::Display for Workload {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.cluster, self.name)?;
        self.namespace.iter().try_for_each(|n| write!(f, ".{n}"))
    }
}

/// One answer line.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Answer {
    /// To [`Request::Status`].
    Report(Box<Report>),
    /// The program of [`Request::Exec`] runs.
    Started,
    /// The program ended with this exit code (128 + signal when it was killed).
    Exited(i32),
    /// To [`Request::Apply`] and [`Request::Delete`].
    Applied(Applied),
    /// To [`Request::Get`].
    Objects(Vec<serde_json::Value>),
    /// Done, nothing to say.
    Done,
    /// Not done, and why.
    Refused(String),
}

/// What was done with a text of objects.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Applied {
    /// `created`, `configured`, `unchanged` or `deleted`, by object.
    pub objects: Vec<(String, String)>,
    /// Findings, a line each. With an error among them nothing was done.
    pub findings: Vec<String>,
    /// Whether an error is among the findings.
    pub refused: bool,
}

/// What runs where.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Report {
    /// Process id of the sandbox as the host sees it.
    pub pid: Option<i32>,
    /// Directory of the sandbox.
    pub dir: String,
    /// Member clusters.
    pub clusters: Vec<ClusterReport>,
    /// Addresses on the host.
    pub published: Vec<Published>,
    /// Black holes and cuts in force.
    pub faults: Vec<String>,
    /// File with a context for each cluster that has an API server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kubeconfig: Option<String>,
}

/// A member cluster.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct ClusterReport {
    /// Name.
    pub id: ClusterId,
    /// Network.
    pub network: String,
    /// Directory of the user's YAML.
    pub config: String,
    /// Pods.
    pub pods: Vec<PodReport>,
    /// Public addresses of load balancers by Service (`NAMESPACE/NAME`).
    pub load_balancers: BTreeMap<String, IpAddr>,
    /// What of the user's objects cannot run, a line each.
    pub findings: Vec<String>,
}

/// A pod.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PodReport {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// Deployment; empty for a bare pod.
    pub owner: String,
    /// Address.
    pub address: Option<IpAddr>,
    /// All containers are ready.
    pub ready: bool,
    /// By name.
    pub containers: BTreeMap<String, ContainerStatus>,
    /// Directory of the logs.
    pub logs: String,
}

/// A gateway's port on the host.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Published {
    /// Member cluster.
    pub cluster: ClusterId,
    /// `NAMESPACE/NAME` of the Service.
    pub service: String,
    /// Port of the Service.
    pub port: u16,
    /// Address on the host.
    pub address: SocketAddr,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workloads_are_named_by_cluster_name_and_namespace() {
        let named: Workload = "us/sleep.foo".parse().unwrap();
        assert_eq!(
            named,
            Workload {
                cluster: "us".into(),
                name: "sleep".into(),
                namespace: Some("foo".into())
            }
        );
        assert_eq!("us/sleep".parse::<Workload>().unwrap().namespace, None);
        assert_eq!(named.to_string(), "us/sleep.foo");
        for bad in ["sleep", "us/", "/sleep", "us/a b", "us/a.", "us/../../x"] {
            assert!(bad.parse::<Workload>().is_err(), "{bad}");
        }
    }

    #[test]
    fn what_can_be_stopped_is_written_as_it_is_shown() {
        for (written, part) in [
            ("eu", Part::Cluster("eu".into())),
            ("eu/kube-dns", Part::ClusterDns("eu".into())),
            ("internet/dns", Part::InternetDns),
        ] {
            assert_eq!(Part::parse(written, None).unwrap(), part);
            assert_eq!(part.to_string(), written);
            assert!(Part::parse(written, Some("istio-proxy".to_owned())).is_err());
        }
        let sidecar = Part::parse("us/sleep.foo", Some("istio-proxy".to_owned())).unwrap();
        assert_eq!(sidecar.to_string(), "istio-proxy of us/sleep.foo");
        assert!(Part::parse("a b", None).is_err());
    }
}
