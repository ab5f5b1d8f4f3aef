//! `v1` Service.

use std::collections::BTreeMap;

use isthmus_model::Labels;

use super::IntOrString;
use crate::message::message;

message! {
    /// A service of Kubernetes.
    pub struct Service {
        /// What is asked for.
        spec: ServiceSpec,
        /// What the cloud gave.
        status: ServiceStatus,
    }

    /// What is asked for.
    pub struct ServiceSpec {
        /// Ports.
        ports: Vec<ServicePort>,
        /// Labels of the pods; without any, endpoints are made by others.
        selector: Labels,
        /// The first of `clusterIPs`; `None` makes the service headless.
        #[serde(rename = "clusterIP")]
        cluster_ip: String,
        /// Virtual addresses by family.
        #[serde(rename = "clusterIPs")]
        cluster_ips: Vec<String>,
        /// ClusterIP, NodePort, LoadBalancer or ExternalName; ClusterIP when empty.
        #[serde(rename = "type")]
        service_type: String,
        /// Addresses of others that lead here.
        #[serde(rename = "externalIPs")]
        external_ips: Vec<String>,
        /// DNS name that an ExternalName service stands for.
        external_name: String,
        /// None or ClientIP.
        session_affinity: String,
        /// Settings of the affinity.
        session_affinity_config: Option<serde_json::Value>,
        /// Deprecated: the address that the cloud is asked for.
        #[serde(rename = "loadBalancerIP")]
        load_balancer_ip: String,
        /// Who may reach the load balancer.
        load_balancer_source_ranges: Vec<String>,
        /// Which load balancer implementation.
        load_balancer_class: String,
        /// Cluster or Local.
        external_traffic_policy: String,
        /// Cluster or Local.
        internal_traffic_policy: String,
        /// Port for the load balancer's probe.
        health_check_node_port: i32,
        /// Whether pods that are not ready are published.
        publish_not_ready_addresses: bool,
        /// Whether node ports are allocated.
        allocate_load_balancer_node_ports: Option<bool>,
        /// IPv4, IPv6.
        ip_families: Vec<String>,
        /// SingleStack, PreferDualStack, RequireDualStack.
        ip_family_policy: String,
        /// PreferClose and others.
        traffic_distribution: String,
    }

    /// A port.
    pub struct ServicePort {
        /// Name; its prefix may say the protocol.
        name: String,
        /// TCP, UDP or SCTP; TCP when empty.
        protocol: String,
        /// Application protocol, before the name.
        app_protocol: Option<String>,
        /// 1 to 65535.
        port: u16,
        /// Port of the pods; `port` when absent.
        target_port: Option<IntOrString>,
        /// Port on every node.
        node_port: u16,
    }

    /// What the cloud gave.
    pub struct ServiceStatus {
        /// Public addresses.
        load_balancer: LoadBalancerStatus,
        /// Conditions, not used.
        conditions: Vec<serde_json::Value>,
    }

    /// Public addresses.
    pub struct LoadBalancerStatus {
        /// One per entry point.
        ingress: Vec<LoadBalancerIngress>,
    }

    /// A public address: IP or name.
    pub struct LoadBalancerIngress {
        /// IP.
        ip: String,
        /// DNS name.
        hostname: String,
        /// VIP or Proxy.
        ip_mode: Option<String>,
        /// Errors by port, not used.
        ports: Vec<BTreeMap<String, serde_json::Value>>,
    }
}

impl Service {
    /// Whether it has no virtual address of its own.
    pub fn is_headless(&self) -> bool {
        self.spec.cluster_ip == "None"
    }

    /// Whether it is only a DNS alias.
    pub fn is_external_name(&self) -> bool {
        self.spec.service_type == "ExternalName"
    }
}
