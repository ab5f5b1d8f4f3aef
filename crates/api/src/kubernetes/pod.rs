//! `v1` Pod.

use super::IntOrString;
use crate::message::message;

message! {
    /// A pod.
    pub struct Pod {
        /// What is asked for.
        spec: PodSpec,
        /// What is.
        status: PodStatus,
    }

    /// What is asked for.
    pub struct PodSpec {
        /// Containers.
        containers: Vec<Container>,
        /// Containers that run first; with `restartPolicy: Always`, alongside.
        init_containers: Vec<Container>,
        /// Identity; `default` when empty.
        service_account_name: String,
        /// Node that it runs on.
        node_name: String,
        /// Whether it shares the node's network; then it has no sidecar.
        host_network: bool,
        /// Its host name.
        hostname: String,
        /// Domain below the headless service.
        subdomain: String,
        /// Seconds it has to end; 30 when absent.
        termination_grace_period_seconds: Option<i64>,
    }

    /// A container.
    pub struct Container {
        /// Name.
        name: String,
        /// Image.
        image: String,
        /// Replaces the image's entry point.
        command: Vec<String>,
        /// Arguments.
        args: Vec<String>,
        /// Environment.
        env: Vec<EnvVar>,
        /// Ports, for information and by name.
        ports: Vec<ContainerPort>,
        /// Working directory.
        working_dir: String,
        /// `Always` on an init container makes it a sidecar.
        restart_policy: String,
        /// Whether requests may come.
        readiness_probe: Option<Probe>,
        /// Whether it must be restarted.
        liveness_probe: Option<Probe>,
        /// Whether it has started.
        startup_probe: Option<Probe>,
    }

    /// A variable of the environment.
    pub struct EnvVar {
        /// Name.
        name: String,
        /// Value.
        value: String,
        /// Where else the value comes from.
        value_from: Option<EnvVarSource>,
    }

    /// Where the value of a variable comes from.
    pub struct EnvVarSource {
        /// A field of the pod.
        field_ref: Option<FieldRef>,
    }

    /// A field of the pod.
    pub struct FieldRef {
        /// Path, as `metadata.name`.
        field_path: String,
    }

    /// A port of a container.
    pub struct ContainerPort {
        /// Name.
        name: String,
        /// Number.
        container_port: u16,
        /// TCP, UDP or SCTP; TCP when empty.
        protocol: String,
    }

    /// A probe.
    pub struct Probe {
        /// By an HTTP GET.
        http_get: Option<HttpGet>,
        /// By a connect.
        tcp_socket: Option<TcpSocket>,
        /// By a command.
        exec: Option<Exec>,
        /// Seconds before the first probe.
        initial_delay_seconds: i32,
        /// Seconds between probes; 10 when 0.
        period_seconds: i32,
        /// Seconds for one probe; 1 when 0.
        timeout_seconds: i32,
        /// Failures in a row; 3 when 0.
        failure_threshold: i32,
    }

    /// An HTTP probe.
    pub struct HttpGet {
        /// Path.
        path: String,
        /// Port.
        port: IntOrString,
        /// HTTP or HTTPS.
        scheme: String,
    }

    /// A TCP probe.
    pub struct TcpSocket {
        /// Port.
        port: IntOrString,
    }

    /// A command as probe.
    pub struct Exec {
        /// Command and arguments.
        command: Vec<String>,
    }

    /// What is.
    pub struct PodStatus {
        /// Pending, Running, Succeeded, Failed.
        phase: String,
        /// Primary address.
        #[serde(rename = "podIP")]
        pod_ip: String,
        /// Addresses by family.
        #[serde(rename = "podIPs")]
        pod_ips: Vec<PodIp>,
        /// Address of the node.
        #[serde(rename = "hostIP")]
        host_ip: String,
        /// Ready and others.
        conditions: Vec<Condition>,
        /// RFC 3339.
        start_time: String,
    }

    /// An address.
    pub struct PodIp {
        /// The address.
        ip: String,
    }

    /// A condition of a pod or node.
    pub struct Condition {
        /// Which, as `Ready`.
        #[serde(rename = "type")]
        condition_type: String,
        /// True, False or Unknown.
        status: String,
        /// Why, in a word.
        reason: String,
        /// Why.
        message: String,
    }

    /// Names another object.
    pub struct ObjectReference {
        /// Kind.
        kind: String,
        /// Namespace.
        namespace: String,
        /// Name.
        name: String,
        /// Uid.
        uid: String,
        /// Group and version.
        api_version: String,
        /// Version.
        resource_version: String,
        /// Part of the object.
        field_path: String,
    }
}

impl Pod {
    /// The service account, which is `default` when none is named.
    pub fn service_account(&self) -> &str {
        match self.spec.service_account_name.as_str() {
            "" => "default",
            name => name,
        }
    }

    /// Whether the condition `Ready` is true.
    pub fn is_ready(&self) -> bool {
        self.status
            .conditions
            .iter()
            .any(|c| c.condition_type == "Ready" && c.status == "True")
    }

    /// Every address, the primary one first.
    pub fn addresses(&self) -> impl Iterator<Item = &str> {
        let primary = self.status.pod_ip.as_str();
        let others = self
            .status
            .pod_ips
            .iter()
            .map(|p| p.ip.as_str())
            .filter(move |ip| *ip != primary);
        std::iter::once(primary).chain(others).filter(|ip| !ip.is_empty())
    }
}
