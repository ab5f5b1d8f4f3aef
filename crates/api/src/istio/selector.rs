//! How a resource says which workloads it is for.

use isthmus_model::Labels;

use crate::message::message;

message! {
    /// Networking resources: `workloadSelector.labels`. No labels selects the whole namespace.
    pub struct WorkloadSelector {
        /// Labels that a workload must have.
        labels: Labels,
    }

    /// Security and telemetry resources: `selector.matchLabels`.
    pub struct LabelSelector {
        /// Labels that a workload must have.
        match_labels: Labels,
    }

    /// A resource that a policy is attached to instead of selecting workloads.
    pub struct TargetRef {
        /// API group; empty for core.
        group: String,
        /// Kind: Gateway, GatewayClass, Service or ServiceEntry.
        kind: String,
        /// Name.
        name: String,
        /// Namespace; must be the policy's own.
        namespace: String,
    }
}
