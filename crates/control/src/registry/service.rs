//! A service of the mesh, merged over member clusters, and what answers for it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use ipnet::IpNet;
use isthmus_model::{Endpoint, EndpointAddress, Hostname, Labels, Service, SpiffeId};

/// A service as proxies of this cluster see it.
#[derive(Debug, Clone, PartialEq)]
pub struct MeshService {
    /// Host, ports, addresses, visibility.
    pub service: Service,
    /// `Kind namespace/name file:line` of what declared it here, or the peer that told of it.
    pub declared: Arc<str>,
    /// Creation time of the declaring object (RFC 3339); the older of two that conflict wins.
    pub created: String,
    /// Further names that lead here: `<name>.<namespace>.global`.
    pub aliases: Vec<Hostname>,
    /// `externalName` of a Kubernetes Service.
    pub external_name: Option<Hostname>,
    /// `spec.selector` of the own cluster's Service; empty when there is none.
    pub selector: Labels,
    /// Ports of the pods in the own cluster, by service port; named ports are resolved per pod.
    pub target_ports: BTreeMap<u16, TargetPort>,
    /// Ranges among the `addresses` of a ServiceEntry: whatever is in them is this service.
    pub ranges: Vec<IpNet>,
    /// `subjectAltNames` of a ServiceEntry, as written.
    pub subject_alt_names: Vec<String>,
    /// By service port: the service behind other clusters' gateways to which endpoints of a ServiceEntry
    /// lead.
    pub hops: BTreeMap<u16, Arc<MeshHop>>,
}

/// `spec.ports[].targetPort` of a Kubernetes Service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TargetPort {
    /// A number.
    Number(u16),
    /// The name of a container port.
    Name(String),
}

/// Endpoints of a ServiceEntry's port that are gateways of the mesh: what they are to be asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MeshHop {
    /// The service behind the gateway.
    pub host: Hostname,
    /// Its port.
    pub port: u16,
    /// Gateway addresses among the endpoints.
    pub gateways: BTreeSet<(EndpointAddress, u16)>,
    /// How many endpoints are known to stand behind them; 0 when the target is not known.
    pub behind: u32,
    /// Identities that the target's endpoints prove; empty when the target is not known.
    pub accounts: BTreeSet<SpiffeId>,
    /// Namespace of the target: what a server must at least prove when its accounts are not known.
    pub namespace: String,
    /// Which rule named the target, for `explain`.
    pub rule: String,
}

/// What answers for a service.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ServiceEndpoints {
    /// All ports, all member clusters; `port_name` is the merged service's.
    pub endpoints: Vec<Endpoint>,
    /// Identities of the endpoints. Kept when the last endpoint goes, so that a service that comes back
    /// changes no cluster.
    pub accounts: Arc<BTreeSet<SpiffeId>>,
}

impl MeshService {
    /// Its full host name.
    pub fn host(&self) -> &Hostname {
        &self.service.key.host
    }

    /// Namespace of its declaration.
    pub fn namespace(&self) -> &str {
        &self.service.key.namespace
    }

    /// Whether some port of it leads over gateways by a ServiceEntry.
    pub fn hop(&self, port: u16) -> Option<&Arc<MeshHop>> {
        self.hops.get(&port)
    }
}
