//! The one table of fields that are read and do nothing: whoever writes one is told so, at its line.
//!
//! What is written for safety and not enforced is no case for a warning; that is in [`crate::enforcement`].

use crate::codes;
use crate::finding::Finding;
use crate::kinds::Kind;
use crate::yaml::{Node, Value};

/// A row: the field of a kind, and what to do about it.
pub struct Row {
    /// The kind.
    pub kind: Kind,
    /// The path without indices, below `spec`; for ConfigMap `istio` below the key. `*` is any key of a map.
    pub path: &'static str,
    /// Why it does nothing, or what holds instead.
    pub why: &'static str,
    /// What to write instead.
    pub instead: &'static str,
}

macro_rules! rows {
    ($($kind:ident { $($path:literal $why:literal $instead:literal;)* })*) => {
        /// Every field without effect.
        pub static WITHOUT_EFFECT: &[Row] = &[
            $($(Row { kind: Kind::$kind, path: $path, why: $why, instead: $instead }),*),*
        ];
    };
}

rows! {
    VirtualService {
        "http.retries.retryRemoteLocalities"
            "retries go to the next locality as soon as the own one has no endpoint left to try"
            "remove it";
    }
    DestinationRule {
        "trafficPolicy.retryBudget"
            "retries are limited by number" "set connectionPool.http.maxRetries";
        "subsets.trafficPolicy.retryBudget"
            "retries are limited by number" "set connectionPool.http.maxRetries";
        "subsets.trafficPolicy.connectionPool.tcp.idleTimeout"
            "connections to a host have one idle time, whatever the subset" "set it in the host's trafficPolicy";
        "subsets.trafficPolicy.portLevelSettings.connectionPool.tcp.idleTimeout"
            "connections to a host have one idle time, whatever the subset" "set it in the host's trafficPolicy";
    }
    Gateway {
        "servers.bind" "a gateway listens on all addresses of its pod" "remove it";
    }
    Sidecar {
        "egress.bind" "outbound traffic is captured, whatever address it is for" "remove it";
        "egress.captureMode" "outbound traffic is captured, as the pod's annotations say" "remove it";
        "egress.port.targetPort" "the port is that of the service" "remove it";
        "ingress.bind" "inbound traffic is captured, whatever address it is for" "remove it";
        "ingress.captureMode" "inbound traffic is captured, as the pod's annotations say" "remove it";
        "ingress.port.targetPort" "the application's port is that of defaultEndpoint" "set defaultEndpoint";
        "ingress.connectionPool.http.h2UpgradePolicy"
            "the application is spoken to as the caller spoke" "remove it";
        "ingress.connectionPool.http.useClientProtocol"
            "the application is spoken to as the caller spoke, always" "remove it";
        "ingress.connectionPool.http.idleTimeout" "connections to the application have one idle time" "remove it";
        "ingress.connectionPool.http.maxConcurrentStreams" "it is not limited inbound" "set http2MaxRequests";
        "ingress.connectionPool.http.maxRequestsPerConnection" "it is not limited inbound" "remove it";
        "ingress.connectionPool.http.http2KeepAlive" "the application is not probed" "set tcp.tcpKeepalive";
        "ingress.connectionPool.tcp.idleTimeout" "connections to the application have one idle time" "remove it";
        "ingress.connectionPool.tcp.maxConnectionDuration" "it is not limited inbound" "remove it";
        "inboundConnectionPool.http.h2UpgradePolicy"
            "the application is spoken to as the caller spoke" "remove it";
        "inboundConnectionPool.http.useClientProtocol"
            "the application is spoken to as the caller spoke, always" "remove it";
        "inboundConnectionPool.http.idleTimeout" "connections to the application have one idle time" "remove it";
        "inboundConnectionPool.http.maxConcurrentStreams" "it is not limited inbound" "set http2MaxRequests";
        "inboundConnectionPool.http.maxRequestsPerConnection" "it is not limited inbound" "remove it";
        "inboundConnectionPool.http.http2KeepAlive" "the application is not probed" "set tcp.tcpKeepalive";
        "inboundConnectionPool.tcp.idleTimeout" "connections to the application have one idle time" "remove it";
        "inboundConnectionPool.tcp.maxConnectionDuration" "it is not limited inbound" "remove it";
    }
    ConfigMap {
        "inboundTrafficPolicy" "inbound traffic goes to the address that the caller addressed" "remove it";
        "enableEnvoyAccessLogService" "access logs are written to files alone" "set accessLogFile";
        "disableEnvoyListenerLog" "there is no log of listeners beside the access log" "remove it";
        "defaultHttpRetryPolicy.retryRemoteLocalities"
            "retries go to the next locality as soon as the own one has no endpoint left to try" "remove it";
        "enableTracing" "no spans are sent; tracing headers pass through" "remove it";
        "extensionProviders" "nothing refers to them: traces and external authorisation are not there" "remove it";
        "defaultProviders" "metrics and access logs are built in, and there are no others" "remove it";
        "discoverySelectors" "every namespace is read" "remove it";
        "caCertificates" "the roots of the mesh are those of the certificate authority alone"
            "put further roots into root-cert.pem of Secret cacerts";
        "certificates" "the control plane signs its own certificate" "remove it";
        "proxyListenPort" "outbound traffic is captured at 15001" "remove it";
        "proxyInboundListenPort" "inbound traffic is captured at 15006" "remove it";
        "proxyHttpPort" "there is no forward proxy" "remove it";
        "ingressClass" "resources of kind Ingress are not read" "write a Gateway and a VirtualService";
        "ingressService" "resources of kind Ingress are not read" "write a Gateway and a VirtualService";
        "ingressSelector" "resources of kind Ingress are not read" "write a Gateway and a VirtualService";
        "ingressControllerMode" "resources of kind Ingress are not read" "write a Gateway and a VirtualService";
        "verifyCertificateAtClient" "servers are verified, always" "remove it";
        "ca" "the control plane signs by itself" "write Secret cacerts";
        "configSources" "the configuration is where the control plane was told to find it" "remove it";
        "http1ProxySettings" "HTTP/1.1 is spoken as RFC 9112 has it" "remove it";
        "inboundClusterStatName" "metrics carry Istio's labels and no names of clusters" "remove it";
        "outboundClusterStatName" "metrics carry Istio's labels and no names of clusters" "remove it";
        "thriftConfig" "Thrift is passed on as bytes" "remove it";
        "podDnsSearchNamespaces" "pods search as Kubernetes has it" "remove it";
        "sdsUdsPath" "certificates are made inside the proxy" "remove it";
        "disablePolicyChecks" "there is no Mixer" "remove it";
        "defaultConfig.drainDuration" "connections are drained until the end" "set terminationDrainDuration";
        "defaultConfig.statusPort" "it is 15020" "remove it";
        "defaultConfig.interceptionMode" "traffic is captured by redirection"
            "annotate pods of which nothing is to be captured with sidecar.istio.io/interceptionMode: NONE";
        "defaultConfig.tracing" "no spans are sent; tracing headers pass through" "remove it";
        "defaultConfig.gatewayTopology.forwardClientCertDetails"
            "a gateway removes what callers say and sets what it verified (SANITIZE_SET)" "remove it";
        "defaultConfig.gatewayTopology.proxyProtocol" "gateways take no PROXY protocol header" "remove it";
        "defaultConfig.proxyStatsMatcher" "all statistics are made" "remove it";
        "defaultConfig.readinessProbe" "probes are those of the pod" "write them in the pod";
        "defaultConfig.configPath" "no configuration is written to disk" "remove it";
        "defaultConfig.binaryPath" "the proxy is this binary" "remove it";
        "defaultConfig.serviceCluster" "a proxy is known by its pod" "remove it";
        "defaultConfig.caCertificatesPem" "the root of the control plane is that of the mesh" "remove it";
        "defaultConfig.controlPlaneAuthPolicy" "the control plane is spoken to by TLS, always" "remove it";
        "defaultConfig.statNameLength" "names of statistics are not cut" "remove it";
        "defaultConfig.statsdUdpAddress" "statistics are for Prometheus alone" "remove it";
        "defaultConfig.envoyAccessLogService" "access logs are written to files alone" "set accessLogFile";
        "defaultConfig.envoyMetricsService" "statistics are for Prometheus alone" "remove it";
        "defaultConfig.extraStatTags" "metrics carry Istio's labels" "remove it";
        "defaultConfig.image" "the proxy is this binary" "remove it";
        "defaultConfig.privateKeyProvider" "keys are made inside the proxy" "remove it";
        "defaultConfig.proxyHeaders" "headers are Istio's" "remove it";
        "defaultConfig.customConfigFile" "a bootstrap of one's own is for a proxy without control plane"
            "start it with `isthmus proxy -c FILE`";
        "defaultConfig.availabilityZone" "the locality is that of the node" "label the Node";
        "defaultConfig.meshId" "the control plane is told by its own flag" "set --mesh-id";
        "defaultConfig.fileFlushInterval" "logs are written at once" "remove it";
        "defaultConfig.fileFlushMinSizeKb" "logs are written at once" "remove it";
        "defaultConfig.runtimeValues" "there is no runtime layer" "remove it";
        "defaultConfig.zipkinAddress" "no spans are sent; tracing headers pass through" "remove it";
        "networks.*.gateways.locality" "endpoints keep their own locality behind a gateway" "remove it";
        "networks.*.gateways.labels" "gateways are known by address" "remove it";
    }
}

/// A field without effect that is written.
pub(crate) struct Written {
    /// Its line.
    pub line: u32,
    /// `spec.http[0].retries.retryRemoteLocalities`.
    pub path: String,
    /// Its row.
    pub row: &'static Row,
}

impl Written {
    /// What is said of it.
    pub fn finding(&self) -> Finding {
        let message = format!("{}: has no effect: {}", self.path, self.row.why);
        Finding::new(&codes::NO_EFFECT, message, self.row.instead)
    }
}

/// Finds what is written without effect below `node`, which stands at `root`.
pub(crate) fn written(kind: Kind, node: &Node, root: &str) -> Vec<Written> {
    let rows: Vec<(Vec<&str>, &'static Row)> = WITHOUT_EFFECT
        .iter()
        .filter(|row| row.kind == kind)
        .map(|row| (row.path.split('.').collect(), row))
        .collect();
    let mut found = Vec::new();
    if !rows.is_empty() {
        look(node, root.to_owned(), &rows, 0, &mut found);
    }
    found
}

/// `rows` are those whose first `depth` steps have been taken.
fn look(
    node: &Node,
    path: String,
    rows: &[(Vec<&'static str>, &'static Row)],
    depth: usize,
    found: &mut Vec<Written>,
) {
    match &node.value {
        Value::Scalar(_) => {}
        Value::Sequence(items) => {
            for (i, item) in items.iter().enumerate() {
                look(item, format!("{path}[{i}]"), rows, depth, found);
            }
        }
        Value::Mapping(fields) => {
            for (key, value) in fields {
                let here: Vec<_> = rows
                    .iter()
                    .filter(|(steps, _)| {
                        steps
                            .get(depth)
                            .is_some_and(|step| *step == "*" || same(step, &key.text))
                    })
                    .cloned()
                    .collect();
                if here.is_empty() {
                    continue;
                }
                let path = format!("{path}.{}", key.text);
                if let Some((_, row)) = here.iter().find(|(steps, _)| steps.len() == depth + 1) {
                    found.push(Written {
                        line: key.line,
                        path,
                        row,
                    });
                } else {
                    look(value, path, &here, depth + 1, found);
                }
            }
        }
    }
}

/// Names are the same in camelCase and snake_case.
fn same(a: &str, b: &str) -> bool {
    let plain = |s: &str| {
        s.chars()
            .filter(|c| *c != '_')
            .map(|c| c.to_ascii_lowercase())
            .collect::<String>()
    };
    plain(a) == plain(b)
}

#[cfg(test)]
mod tests {
    use crate::parse;

    #[test]
    fn a_field_without_effect_is_named_at_its_line_in_either_spelling() {
        let text = "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: a}\nspec:\n  \
                    hosts: [a]\n  http:\n  - route: [{destination: {host: a}}]\n    retries:\n      attempts: 2\n      \
                    retry_remote_localities: true\n";
        let parsed = parse(text, "f.yaml");
        let lines: Vec<String> = parsed.findings.iter().map(ToString::to_string).collect();
        assert_eq!(lines.len(), 1, "{lines:?}");
        assert!(
            lines[0].starts_with(
                "f.yaml:10: warning [ISM0009] (VirtualService default/a) spec.http[0].retries.retry_remote_localities: has no effect"
            ),
            "{lines:?}"
        );
        assert_eq!(parsed.objects.len(), 1);
    }
}
