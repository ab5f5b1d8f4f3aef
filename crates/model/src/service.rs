//! A service: the thing that is asked for by host name, merged over member clusters by that name.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::{ClusterId, Hostname, Labels, Protocol, SpiffeId};

/// Names a service: its host, in the namespace that declares it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ServiceKey {
    /// Namespace of the Service or ServiceEntry.
    pub namespace: String,
    /// Full host name.
    pub host: Hostname,
}

/// One port of a service.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Port {
    /// Number that callers use.
    pub number: u16,
    /// Name, unique in the service.
    pub name: String,
    /// What is spoken on it.
    pub protocol: Protocol,
}

/// How the addresses of a service's endpoints are found (Istio `ServiceEntry.resolution`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Resolution {
    /// The endpoints are known: EDS.
    #[default]
    Static,
    /// Each name is resolved, every address used (Envoy STRICT_DNS).
    Dns,
    /// One address at a time (Envoy LOGICAL_DNS).
    DnsRoundRobin,
    /// The name is taken from the request (Envoy dynamic forward proxy).
    DynamicDns,
    /// The caller's original destination is used.
    Passthrough,
}

/// Which kind of object declared a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum ServiceOrigin {
    /// A Kubernetes Service.
    Kubernetes,
    /// A ServiceEntry with `location: MESH_INTERNAL`.
    MeshInternal,
    /// A ServiceEntry with `location: MESH_EXTERNAL`.
    MeshExternal,
}

/// Who may see an object (Istio `exportTo`).
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum ExportTo {
    /// `*`.
    #[default]
    All,
    /// `~`: nobody.
    Nobody,
    /// The named namespaces; `.` is already replaced by the object's own.
    Namespaces(Vec<String>),
}

impl ExportTo {
    /// Whether proxies of `namespace` see the object.
    pub fn visible_from(&self, namespace: &str) -> bool {
        match self {
            Self::All => true,
            Self::Nobody => false,
            Self::Namespaces(names) => names.iter().any(|n| n == namespace),
        }
    }
}

/// A service as the registry has it after merging.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Service {
    /// Namespace and host.
    pub key: ServiceKey,
    /// What declared it.
    pub origin: ServiceOrigin,
    /// Ports by number, ascending.
    pub ports: Vec<Port>,
    /// Virtual addresses by the member cluster in which they are valid.
    pub addresses: BTreeMap<ClusterId, Vec<IpAddr>>,
    /// A Kubernetes Service without a cluster IP.
    pub headless: bool,
    /// How endpoints are found.
    pub resolution: Resolution,
    /// Labels of the declaring object.
    pub labels: Labels,
    /// Who sees it.
    pub export_to: ExportTo,
    /// Identities a server may prove; empty means: those of its endpoints.
    pub subject_alt_names: Vec<SpiffeId>,
}

impl Service {
    /// The port with this number.
    pub fn port(&self, number: u16) -> Option<&Port> {
        self.ports.iter().find(|p| p.number == number)
    }

    /// The port with this name.
    pub fn port_named(&self, name: &str) -> Option<&Port> {
        self.ports.iter().find(|p| p.name == name)
    }
}
