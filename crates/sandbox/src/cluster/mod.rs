//! One Kubernetes cluster, stood in for: what the API server's defaults, the deployment, endpoint and
//! node controllers, the scheduler, the kubelet's bookkeeping, the injection webhook and the cloud's load
//! balancer would do with a directory of YAML.
//!
//! ```text
//!   objects (the user's files) ─▶ desired ─▶ inject ─▶ PodPlan ─▶ pods
//!        │                           ▲                              │ PodStatus
//!        ▼                           │ token                        ▼
//!   addresses ──────────────▶ view (Services, EndpointSlices, Pods, ...) ─▶ state/*.json
//!                               ├─▶ VirtualAddress (kube-proxy, load balancer)
//!                               └─▶ names (the cluster's DNS)
//! ```
//!
//! Everything here is a pure function of its inputs but the controller, which owns the loop and the
//! files. It knows nothing of namespaces and processes: that is `pod` and `network`.

mod addresses;
mod controller;
mod desired;
mod engine;
mod files;
mod inject;
mod settings;
mod token;
mod view;

pub use controller::{Controller, write_jwks};
pub use desired::{PodRecord, search_domains};
pub use engine::{Engine, EngineFuture, Statuses};
pub use files::write_whole;
pub use settings::ClusterSettings;
pub use token::{AUDIENCE, ISSUER, issuer};

#[cfg(test)]
mod samples_tests;
#[cfg(test)]
mod tests;
