//! What runs: a pod, a virtual machine, a sandbox process with an address.

use std::fmt;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::{ClusterId, Labels, Locality, NetworkId, SpiffeId, TlsMode};

/// Names a workload in the whole mesh.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct WorkloadKey {
    /// Member cluster.
    pub cluster: ClusterId,
    /// Kubernetes namespace.
    pub namespace: String,
    /// Pod or WorkloadEntry name.
    pub name: String,
}

impl fmt::Display for WorkloadKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}.{}", self.cluster, self.name, self.namespace)
    }
}

/// A running instance of an application.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Workload {
    /// Its name.
    pub key: WorkloadKey,
    /// Its addresses, the primary one first.
    pub addresses: Vec<IpAddr>,
    /// Pod labels.
    pub labels: Labels,
    /// Service account; identity is `spiffe://TD/ns/NS/sa/THIS`.
    pub service_account: String,
    /// The identity it proves.
    pub identity: SpiffeId,
    /// Where its addresses can be reached directly.
    pub network: NetworkId,
    /// Where it runs.
    pub locality: Locality,
    /// Whether a sidecar takes mTLS for it.
    pub tls_mode: TlsMode,
    /// Name of the Deployment or other owner; the metrics label `workload`.
    pub owner: String,
}
