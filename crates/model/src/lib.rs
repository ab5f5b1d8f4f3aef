//! The nouns of the mesh.
//!
//! Everything here is plain data with its parsing, matching and display rules. There is no I/O, no
//! async, no YAML and no xDS in this crate; every other crate speaks in these words.
//!
//! ```text
//!   TrustDomain ── SpiffeId            who
//!   ClusterId ── NetworkId ── Locality where
//!   Service ── Port ── Protocol        what is asked for
//!   Workload ── Endpoint               what answers
//!   ClusterName                        how Envoy's cluster and the SNI across gateways name it
//! ```

pub mod cluster_name;
pub mod endpoint;
pub mod host;
pub mod identity;
pub mod labels;
pub mod locality;
pub mod network;
pub mod protocol;
pub mod service;
pub mod workload;

pub use cluster_name::{ClusterName, ClusterNameError, Direction};
pub use endpoint::{Endpoint, EndpointAddress, EndpointHealth, TlsMode};
pub use host::{Hostname, HostnameError};
pub use identity::{IdentityError, SpiffeId, TrustDomain};
pub use labels::Labels;
pub use locality::Locality;
pub use network::{ClusterId, NetworkGateway, NetworkId};
pub use protocol::Protocol;
pub use service::{ExportTo, Port, Resolution, Service, ServiceKey, ServiceOrigin};
pub use workload::{Workload, WorkloadKey};
