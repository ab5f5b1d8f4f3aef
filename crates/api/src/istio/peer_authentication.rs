//! `security.istio.io` PeerAuthentication: whether workloads insist on mutual TLS.

use std::collections::BTreeMap;

use super::LabelSelector;
use crate::message::{choice, message};

message! {
    /// Mutual TLS of the selected workloads.
    pub struct PeerAuthentication {
        /// Which workloads; the namespace (or mesh, in the root namespace) when absent.
        selector: Option<LabelSelector>,
        /// For all ports.
        mtls: Option<MutualTls>,
        /// For single ports of the workload.
        port_level_mtls: BTreeMap<u16, MutualTls>,
    }

    /// A mode.
    pub struct MutualTls {
        /// The mode.
        mode: MutualTlsMode,
    }
}

choice! {
    /// Whether mutual TLS is taken, optional or required.
    pub enum MutualTlsMode {
        /// From the parent; PERMISSIVE in the end.
        Unset,
        /// Not taken.
        Disable,
        /// Optional.
        Permissive,
        /// Required.
        Strict,
    }
}
