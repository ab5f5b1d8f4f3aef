//! Member clusters, networks, and the gateways through which a network is reached.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{EndpointAddress, Locality};

macro_rules! name {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub String);

        impl $name {
            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }

            /// Whether no name was given.
            pub fn is_empty(&self) -> bool {
                self.0.is_empty()
            }
        }

        impl From<&str> for $name {
            fn from(s: &str) -> Self {
                Self(s.to_owned())
            }
        }

        impl From<String> for $name {
            fn from(s: String) -> Self {
                Self(s)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

name! {
    /// A Kubernetes cluster that is a member of the mesh. Istio: `global.multiCluster.clusterName`.
    ClusterId
}
name! {
    /// A set of workloads that reach each other directly. Istio: label `topology.istio.io/network`.
    NetworkId
}

/// A gateway that takes mesh mTLS into a network and passes it on by SNI (Istio's AUTO_PASSTHROUGH).
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct NetworkGateway {
    /// The network that stands behind it.
    pub network: NetworkId,
    /// The member cluster that runs it.
    pub cluster: ClusterId,
    /// Address as seen from other networks; a host name is resolved by whoever connects.
    pub address: EndpointAddress,
    /// Port of the passthrough server; 15443 unless `networking.istio.io/gatewayPort` says otherwise.
    pub port: u16,
    /// Where the gateway runs.
    pub locality: Locality,
}
