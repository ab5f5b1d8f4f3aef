//! `discovery.k8s.io/v1` EndpointSlice.

use std::collections::BTreeMap;

use super::pod::ObjectReference;
use crate::message::message;

message! {
    /// Some of the endpoints of the service that label `kubernetes.io/service-name` names.
    pub struct EndpointSlice {
        /// IPv4, IPv6 or FQDN.
        address_type: String,
        /// The endpoints.
        endpoints: Vec<Endpoint>,
        /// Ports that each of them serves.
        ports: Vec<EndpointPort>,
    }

    /// One endpoint.
    pub struct Endpoint {
        /// Addresses, all of the same thing.
        addresses: Vec<String>,
        /// Readiness.
        conditions: EndpointConditions,
        /// Host name within a headless service.
        hostname: Option<String>,
        /// The pod.
        target_ref: Option<ObjectReference>,
        /// The node.
        node_name: Option<String>,
        /// The node's zone.
        zone: Option<String>,
        /// Where it should be used, not read.
        hints: Option<serde_json::Value>,
        /// Old form of zone and node.
        deprecated_topology: BTreeMap<String, String>,
    }

    /// Readiness; absent `ready` and `serving` mean yes, absent `terminating` no.
    pub struct EndpointConditions {
        /// Ready and not terminating.
        ready: Option<bool>,
        /// Ready, terminating or not.
        serving: Option<bool>,
        /// Being deleted.
        terminating: Option<bool>,
    }

    /// A port.
    pub struct EndpointPort {
        /// Name of the service's port.
        name: Option<String>,
        /// TCP, UDP or SCTP.
        protocol: Option<String>,
        /// Number; every port when absent.
        port: Option<u16>,
        /// Application protocol.
        app_protocol: Option<String>,
    }
}

/// Label with the name of the service that a slice belongs to.
pub const SERVICE_NAME_LABEL: &str = "kubernetes.io/service-name";
