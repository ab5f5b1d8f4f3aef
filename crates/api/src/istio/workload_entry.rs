//! `networking.istio.io` WorkloadEntry: a virtual machine or other workload without a pod. The
//! endpoints of a ServiceEntry have the same form.

use std::collections::BTreeMap;

use isthmus_model::Labels;

use crate::message::message;

message! {
    /// A workload by its address.
    pub struct WorkloadEntry {
        /// IP, DNS name, or `unix://` path.
        address: String,
        /// Ports by the service's port name.
        ports: BTreeMap<String, u16>,
        /// Labels.
        labels: Labels,
        /// Network on which the address is valid.
        network: String,
        /// `region/zone/subzone`.
        locality: String,
        /// Share relative to the siblings; 1 when absent.
        weight: Option<u32>,
        /// Its identity's account.
        service_account: String,
    }
}
