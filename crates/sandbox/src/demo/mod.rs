//! The sandbox put together: member clusters with control planes, gateways and workloads, names for all
//! of them, and the control socket.
//!
//! ```text
//!   isthmus demo ── launch ─▶ isthmus sandbox-supervisor (PID 1)
//!        ▲                        ├─ certificates: one root, an intermediate per cluster
//!        │ Progress               ├─ names: the internet's DNS, each cluster's DNS
//!        └────────────────────────┤ per cluster: controller ─▶ machine (pods, network)
//!                                 │              or kubernetes::Cluster, with an API server
//!                                 └─ handler: the control socket
//! ```

mod certificates;
mod faults;
mod handler;
mod inside;
mod machine;
mod member;
mod members;
mod names;

use std::path::{Path, PathBuf};

use isthmus_model::{ClusterId, TrustDomain};
use serde::{Deserialize, Serialize};

pub use inside::run;

use crate::kubernetes::Programs;
use crate::socket::Report;

/// What a sandbox is made of; handed to the supervisor as JSON.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Options {
    /// Member clusters by name, in order.
    pub clusters: Vec<ClusterId>,
    /// Directory with one directory of YAML per cluster, copied at the start.
    pub samples: PathBuf,
    /// Istio's `meshID`.
    pub mesh_id: String,
    /// Istio's `trustDomain`.
    pub trust_domain: TrustDomain,
    /// Life of workload certificates in seconds; `None`: 24 h.
    pub workload_cert_ttl: Option<u64>,
    /// Directory with a directory per cluster that holds the files of its secret `cacerts`; clusters without
    /// one, and `None`: made by the sandbox, below one root.
    pub cacerts: Option<PathBuf>,
    /// Start clusters with a control plane of Kubernetes itself, from these programs, and install nothing.
    #[serde(default)]
    pub kubernetes: Option<Programs>,
    /// Seconds until a pod that is not ready is a failure of the start.
    pub patience: u64,
}

impl Options {
    /// The demo as the documents have it: meshID training-mesh, trust domain corp.local.
    pub fn new(clusters: Vec<ClusterId>, samples: &Path) -> Result<Self, isthmus_model::IdentityError> {
        Ok(Self {
            clusters,
            samples: samples.to_owned(),
            mesh_id: "training-mesh".to_owned(),
            trust_domain: "corp.local".parse()?,
            workload_cert_ttl: None,
            cacerts: None,
            kubernetes: None,
            patience: 60,
        })
    }
}

/// What the supervisor tells whoever started it, a JSON line each.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Step {
    /// Something is under way.
    Doing(String),
    /// All is up.
    Ready(Box<Report>),
    /// It cannot be started, and why.
    Failed(String),
}
