//! A member cluster, whoever its control plane is.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use crate::cluster::{ClusterSettings, Controller, PodRecord};
use crate::kubernetes::Cluster;
use crate::plan::{PodKey, PodStatus};

/// A member cluster of the sandbox.
#[derive(Debug)]
pub enum Member {
    /// The sandbox stands in for all of Kubernetes; the cluster is a directory of YAML.
    Directory(Controller),
    /// Kubernetes' own control plane.
    Kubernetes(Box<Cluster>),
}

impl Member {
    /// The cluster.
    pub fn settings(&self) -> &ClusterSettings {
        match self {
            Self::Directory(controller) => controller.settings(),
            Self::Kubernetes(cluster) => cluster.settings(),
        }
    }

    /// Pods that exist, with their status once they have one.
    pub fn pods(&self) -> Vec<(PodRecord, Option<PodStatus>)> {
        match self {
            Self::Directory(controller) => controller.pods(),
            Self::Kubernetes(cluster) => cluster.pods(),
        }
    }

    /// Public address and ports of each Service of type LoadBalancer (`NAMESPACE/NAME`).
    pub fn published(&self) -> BTreeMap<String, (Ipv4Addr, Vec<u16>)> {
        match self {
            Self::Directory(controller) => controller.published(),
            Self::Kubernetes(cluster) => cluster.published(),
        }
    }

    /// What of the user's files cannot be used or run, a line each.
    pub fn findings(&self) -> Vec<String> {
        match self {
            Self::Directory(controller) => controller.findings(),
            // The API server says it to whoever applies.
            Self::Kubernetes(_) => Vec::new(),
        }
    }

    /// Ends a pod; with `replace` its Deployment makes another.
    pub async fn remove(&self, key: PodKey, replace: bool) -> Result<(), String> {
        match self {
            Self::Directory(controller) => {
                controller.remove(key, replace).await;
                Ok(())
            }
            Self::Kubernetes(cluster) if replace => cluster.remove(&key).await,
            Self::Kubernetes(_) => Err(
                "its Deployment makes another; scale that to 0 with kubectl, or use `demo break stop`"
                    .to_owned(),
            ),
        }
    }

    /// The directory of YAML that makes the cluster, if it is one.
    pub fn directory(&self) -> Result<&Controller, String> {
        match self {
            Self::Directory(controller) => Ok(controller),
            Self::Kubernetes(cluster) => Err(format!(
                "{} has an API server of its own: use kubectl --context {0} with the demo's kubeconfig",
                cluster.settings().id
            )),
        }
    }
}
