//! `networking.istio.io` Sidecar: what the sidecars of some workloads listen on and may reach.

use super::WorkloadSelector;
use super::destination_rule::ConnectionPoolSettings;
use super::gateway::{Port, ServerTlsSettings};
use super::virtual_service::Destination;
use crate::message::{choice, message};

message! {
    /// Settings of the selected workloads' sidecars.
    pub struct Sidecar {
        /// Which workloads; the whole namespace when absent.
        workload_selector: Option<WorkloadSelector>,
        /// Inbound listeners; from the services when empty.
        ingress: Vec<IstioIngressListener>,
        /// What is reachable; everything exported when empty.
        egress: Vec<IstioEgressListener>,
        /// Limits of inbound connections.
        inbound_connection_pool: Option<ConnectionPoolSettings>,
        /// What happens to unknown destinations.
        outbound_traffic_policy: Option<OutboundTrafficPolicy>,
    }

    /// An inbound listener.
    pub struct IstioIngressListener {
        /// Its port.
        port: Option<Port>,
        /// Its address.
        bind: String,
        /// Whether traffic is captured for it.
        capture_mode: CaptureMode,
        /// `127.0.0.1:PORT`, `[::1]:PORT`, `0.0.0.0:PORT` or `unix:///path`.
        default_endpoint: String,
        /// TLS that it terminates.
        tls: Option<ServerTlsSettings>,
        /// Limits.
        connection_pool: Option<ConnectionPoolSettings>,
    }

    /// An outbound listener.
    pub struct IstioEgressListener {
        /// Its port; every port when absent.
        port: Option<Port>,
        /// Its address.
        bind: String,
        /// Whether traffic is captured for it.
        capture_mode: CaptureMode,
        /// `namespace/host`; namespace may be `*`, `.`, `~`.
        hosts: Vec<String>,
    }

    /// What happens to unknown destinations.
    pub struct OutboundTrafficPolicy {
        /// Allowed or not.
        mode: OutboundTrafficPolicyMode,
        /// Where they go instead.
        egress_proxy: Option<Destination>,
    }
}

choice! {
    /// Whether traffic is captured for a listener.
    pub enum CaptureMode {
        /// As the workload's environment says.
        Default,
        /// By packet redirection.
        Iptables,
        /// Not.
        None,
    }

    /// Whether unknown destinations may be reached.
    pub enum OutboundTrafficPolicyMode {
        /// No.
        RegistryOnly,
        /// Yes.
        AllowAny,
    }
}
