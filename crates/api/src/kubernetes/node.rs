//! `v1` Node: its labels say region and zone, its addresses serve node ports.

use super::pod::Condition;
use crate::message::message;

message! {
    /// A node.
    pub struct Node {
        /// What it is.
        status: NodeStatus,
    }

    /// What it is.
    pub struct NodeStatus {
        /// Its addresses.
        addresses: Vec<NodeAddress>,
        /// Ready and others.
        conditions: Vec<Condition>,
    }

    /// An address.
    pub struct NodeAddress {
        /// InternalIP, ExternalIP, Hostname.
        #[serde(rename = "type")]
        address_type: String,
        /// The address.
        address: String,
    }
}
