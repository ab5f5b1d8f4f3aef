//! What distinguishes one sandbox cluster from another.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use isthmus_model::{ClusterId, NetworkId, TrustDomain};

use crate::network::ClusterAddresses;

/// A member cluster of the sandbox.
#[derive(Debug, Clone)]
pub struct ClusterSettings {
    /// Its name: `us`.
    pub id: ClusterId,
    /// Its network: `us-net`.
    pub network: NetworkId,
    /// `training-mesh`.
    pub mesh_id: String,
    /// `corp.local`.
    pub trust_domain: TrustDomain,
    /// Its ranges of addresses.
    pub addresses: ClusterAddresses,
    /// Directory of everything of this cluster.
    pub dir: PathBuf,
    /// The other member clusters and the public `HOST:PORT` of their east-west gateways.
    pub peers: Vec<(ClusterId, String)>,
    /// Life of workload certificates; `None`: the control plane's default of 24 h.
    pub workload_cert_ttl: Option<std::time::Duration>,
}

impl ClusterSettings {
    /// A Service's address by number.
    pub fn service_address(&self, host: u16) -> Ipv4Addr {
        Ipv4Addr::from(u32::from(self.addresses.services.network()) + u32::from(host))
    }

    /// The cluster's DNS Service, as kube-dns has it.
    pub fn dns_address(&self) -> Ipv4Addr {
        self.service_address(10)
    }

    /// The user's YAML.
    pub fn config_dir(&self) -> PathBuf {
        self.dir.join("config")
    }

    /// What Kubernetes would have added: written by the sandbox alone.
    pub fn state_dir(&self) -> PathBuf {
        self.dir.join("state")
    }

    /// Root, intermediate and key, named as in the `cacerts` secret.
    pub fn cacerts_dir(&self) -> PathBuf {
        self.dir.join("cacerts")
    }

    /// Public keys of the cluster's service-account tokens.
    pub fn jwks_file(&self) -> PathBuf {
        self.dir.join("jwks").join("keys.json")
    }

    /// What the control plane keeps over restarts.
    pub fn control_plane_dir(&self) -> PathBuf {
        self.dir.join("control-plane")
    }

    /// The trusted roots that proxies start with.
    pub fn root_cert(&self) -> PathBuf {
        Path::join(&self.cacerts_dir(), "root-cert.pem")
    }
}
