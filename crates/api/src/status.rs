//! What a control plane has to say about an object in the object's own `status`.

use std::collections::BTreeMap;
use std::net::IpAddr;

use isthmus_model::Hostname;

use crate::finding::Finding;
use crate::object::ObjectKey;

/// Type of the condition that says whether an object is in force.
pub const ACCEPTED: &str = "Accepted";

/// What belongs into the `status` of one object.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Status {
    /// Automatic addresses by host (Istio `ServiceEntryStatus.addresses`).
    pub addresses: Vec<(Hostname, IpAddr)>,
    /// What was found out, errors first. None means that the object is in force as it stands.
    pub findings: Vec<Finding>,
}

/// By object. An object that is not here has nothing to be said about it.
pub type Statuses = BTreeMap<ObjectKey, Status>;
