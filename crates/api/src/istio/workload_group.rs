//! `networking.istio.io` WorkloadGroup: a template for WorkloadEntries.

use std::collections::BTreeMap;

use isthmus_model::Labels;

use super::WorkloadEntry;
use crate::message::message;

message! {
    /// Template for workloads that register themselves.
    pub struct WorkloadGroup {
        /// Metadata of the entries.
        metadata: Option<ObjectMeta>,
        /// The entries.
        template: Option<WorkloadEntry>,
        /// Health probe.
        probe: Option<ReadinessProbe>,
    }

    /// Labels and annotations of the entries.
    pub struct ObjectMeta {
        /// Labels.
        labels: Labels,
        /// Annotations.
        annotations: BTreeMap<String, String>,
    }

    /// A health probe: one of the last four fields; times in seconds.
    pub struct ReadinessProbe {
        /// Before the first probe.
        initial_delay_seconds: i32,
        /// For one probe; 1 when 0.
        timeout_seconds: i32,
        /// Between probes; 10 when 0.
        period_seconds: i32,
        /// Successes in a row until healthy; 1 when 0.
        success_threshold: i32,
        /// Failures in a row until unhealthy; 3 when 0.
        failure_threshold: i32,
        /// By an HTTP GET.
        http_get: Option<HttpHealthCheckConfig>,
        /// By a connect.
        tcp_socket: Option<TcpHealthCheckConfig>,
        /// By a command.
        exec: Option<ExecHealthCheckConfig>,
        /// By gRPC's health service.
        grpc: Option<GrpcHealthCheckConfig>,
    }

    /// An HTTP probe.
    pub struct HttpHealthCheckConfig {
        /// Path.
        path: String,
        /// Port.
        port: u16,
        /// Host header; localhost when empty.
        host: String,
        /// HTTP or HTTPS.
        scheme: String,
        /// Further headers.
        http_headers: Vec<HttpHeader>,
    }

    /// A header.
    pub struct HttpHeader {
        /// Name.
        name: String,
        /// Value.
        value: String,
    }

    /// A TCP probe.
    pub struct TcpHealthCheckConfig {
        /// Host; localhost when empty.
        host: String,
        /// Port.
        port: u16,
    }

    /// A command as probe.
    pub struct ExecHealthCheckConfig {
        /// Command and arguments.
        command: Vec<String>,
    }

    /// A gRPC probe.
    pub struct GrpcHealthCheckConfig {
        /// Port.
        port: u16,
        /// Service name.
        service: String,
    }
}
