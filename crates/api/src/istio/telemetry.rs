//! `telemetry.istio.io` Telemetry: metrics, traces and access logs of workloads.

use std::collections::BTreeMap;

use super::{LabelSelector, TargetRef};
use crate::duration::Duration;
use crate::message::{choice, message};

message! {
    /// Telemetry of the selected workloads.
    pub struct Telemetry {
        /// Which workloads.
        selector: Option<LabelSelector>,
        /// Deprecated form of `targetRefs`.
        target_ref: Option<TargetRef>,
        /// Resources that it is attached to.
        target_refs: Vec<TargetRef>,
        /// Traces.
        tracing: Vec<Tracing>,
        /// Metrics.
        metrics: Vec<Metrics>,
        /// Access logs.
        access_logging: Vec<AccessLogging>,
    }

    /// Trace settings.
    pub struct Tracing {
        /// Which direction.
        #[serde(rename = "match")]
        matches: Option<ModeSelector>,
        /// Where spans go.
        providers: Vec<ProviderRef>,
        /// 0 to 100.
        random_sampling_percentage: Option<f64>,
        /// Whether no spans are reported.
        disable_span_reporting: Option<bool>,
        /// Tags of spans.
        custom_tags: BTreeMap<String, CustomTag>,
        /// Whether x-request-id decides about sampling.
        use_request_id_for_trace_sampling: Option<bool>,
        /// Whether Istio's tags are added.
        enable_istio_tags: Option<bool>,
        /// Whether trace headers are not passed on.
        disable_context_propagation: Option<bool>,
    }

    /// A direction.
    pub struct ModeSelector {
        /// Client, server or both.
        mode: WorkloadMode,
    }

    /// A provider of the MeshConfig.
    pub struct ProviderRef {
        /// Its name.
        name: String,
    }

    /// A tag: one of the fields.
    pub struct CustomTag {
        /// A fixed value.
        literal: Option<Literal>,
        /// From the proxy's environment.
        environment: Option<NamedValue>,
        /// From a request header.
        header: Option<NamedValue>,
        /// From an access-log formatter.
        formatter: Option<Formatter>,
    }

    /// A fixed value.
    pub struct Literal {
        /// The value.
        value: String,
    }

    /// A value by name.
    pub struct NamedValue {
        /// Name.
        name: String,
        /// When it is missing.
        default_value: String,
    }

    /// An access-log formatter.
    pub struct Formatter {
        /// The format, as `%REQ(X)%`.
        value: String,
    }

    /// Metric settings.
    pub struct Metrics {
        /// Where they go.
        providers: Vec<ProviderRef>,
        /// Changes of single metrics.
        overrides: Vec<MetricsOverrides>,
        /// How often TCP metrics are reported.
        reporting_interval: Option<Duration>,
    }

    /// Changes of metrics.
    pub struct MetricsOverrides {
        /// Which.
        #[serde(rename = "match")]
        matches: Option<MetricSelector>,
        /// Whether they are off.
        disabled: Option<bool>,
        /// Changes of labels.
        tag_overrides: BTreeMap<String, TagOverride>,
    }

    /// Which metrics.
    pub struct MetricSelector {
        /// One of Istio's; ALL_METRICS when absent.
        metric: Option<IstioMetric>,
        /// Another one, by name.
        custom_metric: Option<String>,
        /// Which direction.
        mode: WorkloadMode,
    }

    /// Change of a label.
    pub struct TagOverride {
        /// Set or removed.
        operation: TagOperation,
        /// CEL expression of the value.
        value: String,
    }

    /// Access-log settings.
    pub struct AccessLogging {
        /// Which direction.
        #[serde(rename = "match")]
        matches: Option<ModeSelector>,
        /// Where they go.
        providers: Vec<ProviderRef>,
        /// Whether they are off.
        disabled: Option<bool>,
        /// Which requests are logged.
        filter: Option<Filter>,
    }

    /// Which requests are logged.
    pub struct Filter {
        /// CEL expression.
        expression: String,
    }
}

choice! {
    /// A direction.
    pub enum WorkloadMode {
        /// Both.
        ClientAndServer,
        /// Outbound.
        Client,
        /// Inbound.
        Server,
    }

    /// Set or removed.
    pub enum TagOperation {
        /// Set.
        Upsert,
        /// Removed.
        Remove,
    }

    /// Istio's metrics.
    pub enum IstioMetric {
        /// Every one.
        AllMetrics,
        /// `istio_requests_total`.
        RequestCount,
        /// `istio_request_duration_milliseconds`.
        RequestDuration,
        /// `istio_request_bytes`.
        RequestSize,
        /// `istio_response_bytes`.
        ResponseSize,
        /// `istio_tcp_connections_opened_total`.
        TcpOpenedConnections,
        /// `istio_tcp_connections_closed_total`.
        TcpClosedConnections,
        /// `istio_tcp_sent_bytes_total`.
        TcpSentBytes,
        /// `istio_tcp_received_bytes_total`.
        TcpReceivedBytes,
        /// `istio_request_messages_total`.
        GrpcRequestMessages,
        /// `istio_response_messages_total`.
        GrpcResponseMessages,
    }
}
