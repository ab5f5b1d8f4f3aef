//! Whose proxy it is: the workload's name, labels and place, as Istio's node metadata says them.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use isthmus_model::Locality;

/// What a proxy is to its workload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Beside an application, with captured traffic.
    Sidecar,
    /// A gateway.
    Router,
}

impl Role {
    /// The first part of Istio's node id.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Sidecar => "sidecar",
            Self::Router => "router",
        }
    }
}

/// The proxy's own workload.
#[derive(Debug, Clone)]
pub struct Node {
    /// `ROLE~IP~POD.NS~NS.svc.DOMAIN`.
    pub id: Arc<str>,
    /// Sidecar or gateway.
    pub role: Role,
    /// The workload's addresses, the primary one first.
    pub addresses: Vec<IpAddr>,
    /// Pod name (node metadata `NAME`).
    pub name: Arc<str>,
    /// Namespace (`NAMESPACE`).
    pub namespace: Arc<str>,
    /// Owner's name (`WORKLOAD_NAME`).
    pub workload: Arc<str>,
    /// Owner as a URI (`OWNER`): `kubernetes://apis/apps/v1/namespaces/NS/deployments/NAME`.
    pub owner: Arc<str>,
    /// Service account (`SERVICE_ACCOUNT`).
    pub service_account: Arc<str>,
    /// Member cluster (`CLUSTER_ID`).
    pub cluster_id: Arc<str>,
    /// Network (`NETWORK`).
    pub network: Arc<str>,
    /// Mesh (`MESH_ID`).
    pub mesh_id: Arc<str>,
    /// Pod labels (`LABELS`).
    pub labels: BTreeMap<String, String>,
    /// Region, zone and sub-zone.
    pub locality: Locality,
}

impl Node {
    /// `service.istio.io/canonical-name`, else `app.kubernetes.io/name`, else `app`, else the workload's name.
    pub fn canonical_name(&self) -> &str {
        ["service.istio.io/canonical-name", "app.kubernetes.io/name", "app"]
            .iter()
            .find_map(|l| self.labels.get(*l))
            .map_or(&self.workload, String::as_str)
    }

    /// `service.istio.io/canonical-revision`, else `app.kubernetes.io/version`, else `version`, else `latest`.
    pub fn canonical_revision(&self) -> &str {
        [
            "service.istio.io/canonical-revision",
            "app.kubernetes.io/version",
            "version",
        ]
        .iter()
        .find_map(|l| self.labels.get(*l))
        .map_or("latest", String::as_str)
    }
}
