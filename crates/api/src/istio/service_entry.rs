//! `networking.istio.io` ServiceEntry: a service that Kubernetes does not know.

use super::{WorkloadEntry, WorkloadSelector};
use crate::message::{choice, message};

message! {
    /// A service by its hosts.
    pub struct ServiceEntry {
        /// DNS names.
        hosts: Vec<String>,
        /// Virtual addresses or CIDRs.
        addresses: Vec<String>,
        /// Ports.
        ports: Vec<ServicePort>,
        /// In the mesh or outside.
        location: Location,
        /// How addresses are found.
        resolution: Resolution,
        /// Who answers.
        endpoints: Vec<WorkloadEntry>,
        /// Pods and WorkloadEntries of the namespace that answer.
        workload_selector: Option<WorkloadSelector>,
        /// Namespaces that see it.
        export_to: Vec<String>,
        /// Names that a server must prove one of.
        subject_alt_names: Vec<String>,
    }

    /// A port of a ServiceEntry.
    pub struct ServicePort {
        /// 1 to 65535, unique in the service.
        number: u16,
        /// HTTP, HTTPS, GRPC, HTTP2, MONGO, TCP or TLS; TCP when empty.
        protocol: String,
        /// Name, unique in the service.
        name: String,
        /// Port of the endpoints; `number` when absent.
        target_port: Option<u16>,
    }
}

choice! {
    /// Whether the service takes mesh mTLS.
    pub enum Location {
        /// Outside.
        MeshExternal,
        /// A part of the mesh.
        MeshInternal,
    }

    /// How addresses are found.
    pub enum Resolution {
        /// The caller's own destination address.
        None,
        /// As listed.
        Static,
        /// Each name is resolved, every address used.
        Dns,
        /// Each name is resolved, one address used at a time.
        DnsRoundRobin,
        /// The name of the request is resolved (wildcard hosts).
        DynamicDns,
    }
}
