//! Who gets a sidecar, and what the proxy's container looks like (Istio's injection webhook).

use std::collections::BTreeMap;
use std::time::Duration;

use isthmus_model::Labels;

use super::settings::ClusterSettings;
use crate::plan::{Check, ContainerPlan, Order, Probe, Program};

/// Where proxies find the roots they trust at the start.
pub const ROOT_CERT: &str = "/var/run/secrets/istio/root-cert.pem";
/// Where proxies find the token that proves who they are.
pub const TOKEN: &str = "/var/run/secrets/tokens/istio-token";
/// Where proxies find their control plane.
pub const CONTROL_PLANE: &str = "istiod.istio-system.svc:15012";

/// What injection does to a pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Injection {
    /// Nothing.
    None,
    /// A sidecar beside the application, and redirected traffic.
    Sidecar,
    /// The pod's container is the proxy (template `gateway`).
    Gateway,
}

/// Decides by the labels of the namespace and the labels and annotations of the pod, as Istio's webhook
/// does: the pod's own word counts, then the namespace's.
pub fn decide(namespace: &Labels, labels: &Labels, annotations: &BTreeMap<String, String>) -> Injection {
    let own = labels
        .value("sidecar.istio.io/inject")
        .or_else(|| annotations.get("sidecar.istio.io/inject").map(String::as_str));
    let by_namespace = match namespace.value("istio-injection") {
        Some("enabled") => true,
        Some(_) => return Injection::None,
        None => namespace.value("istio.io/rev").is_some(),
    };
    let wanted = match own {
        Some("true") => true,
        Some(_) => false,
        None => by_namespace || labels.value("istio.io/rev").is_some(),
    };
    let gateway = annotations
        .get("inject.istio.io/templates")
        .is_some_and(|templates| templates.split(',').any(|t| t.trim() == "gateway"));
    match (wanted, gateway) {
        (false, _) => Injection::None,
        (true, true) => Injection::Gateway,
        (true, false) => Injection::Sidecar,
    }
}

/// What the proxy has to know of its pod.
#[derive(Debug)]
pub struct ProxyPod<'a> {
    /// Pod name.
    pub name: &'a str,
    /// Namespace.
    pub namespace: &'a str,
    /// Service account.
    pub service_account: &'a str,
    /// Name of the Deployment, or of the pod itself.
    pub workload: &'a str,
    /// Pod labels.
    pub labels: &'a Labels,
    /// Region and zone of the node.
    pub locality: &'a str,
}

/// The proxy's container.
pub fn proxy_container(
    settings: &ClusterSettings,
    pod: &ProxyPod<'_>,
    injection: Injection,
) -> ContainerPlan {
    let kind = if injection == Injection::Gateway {
        "router"
    } else {
        "sidecar"
    };
    let labels = serde_json::to_string(pod.labels).unwrap_or_default();
    let env = [
        ("POD_NAME", pod.name.to_owned()),
        ("POD_NAMESPACE", pod.namespace.to_owned()),
        ("INSTANCE_IP", "$(POD_IP)".to_owned()),
        ("SERVICE_ACCOUNT", pod.service_account.to_owned()),
        ("ISTIO_META_CLUSTER_ID", settings.id.to_string()),
        ("ISTIO_META_NETWORK", settings.network.to_string()),
        ("ISTIO_META_MESH_ID", settings.mesh_id.clone()),
        ("TRUST_DOMAIN", settings.trust_domain.to_string()),
        ("ISTIO_META_WORKLOAD_NAME", pod.workload.to_owned()),
        (
            "ISTIO_META_OWNER",
            format!(
                "kubernetes://apis/apps/v1/namespaces/{}/deployments/{}",
                pod.namespace, pod.workload
            ),
        ),
        ("ISTIO_METAJSON_LABELS", labels),
        ("ISTIO_LOCALITY", pod.locality.to_owned()),
        ("CA_ADDR", CONTROL_PLANE.to_owned()),
        ("PROXY_XDS_ADDRESS", CONTROL_PLANE.to_owned()),
        ("XDS_ROOT_CA", ROOT_CERT.to_owned()),
        ("CA_ROOT_CA", ROOT_CERT.to_owned()),
    ];
    let ttl = settings
        .workload_cert_ttl
        .map(|ttl| ("SECRET_TTL", format!("{}s", ttl.as_secs())));
    let program = Program::Isthmus(
        ["proxy", kind, "--concurrency", "1"]
            .into_iter()
            .map(str::to_owned)
            .collect(),
    );
    ContainerPlan {
        env: env
            .into_iter()
            .chain(ttl)
            .map(|(k, v)| (k.to_owned(), v))
            .collect(),
        readiness: Some(Probe {
            check: Check::Http {
                port: 15021,
                path: "/healthz/ready".to_owned(),
            },
            period: Duration::from_millis(200),
            timeout: Duration::from_secs(3),
            initial_delay: Duration::ZERO,
            failures: 4,
            successes: 1,
            from_node: false,
        }),
        order: if injection == Injection::Sidecar {
            Order::HoldsUntilReady
        } else {
            Order::Beside
        },
        ..ContainerPlan::new("istio-proxy", program)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pods_own_word_counts_before_the_namespaces() {
        let enabled: Labels = [("istio-injection", "enabled")].into_iter().collect();
        let disabled: Labels = [("istio-injection", "disabled")].into_iter().collect();
        let (none, no): (Labels, Labels) = (
            Labels::default(),
            [("sidecar.istio.io/inject", "false")].into_iter().collect(),
        );
        let yes: Labels = [("sidecar.istio.io/inject", "true")].into_iter().collect();
        let plain = BTreeMap::new();
        assert_eq!(decide(&enabled, &none, &plain), Injection::Sidecar);
        assert_eq!(decide(&none, &none, &plain), Injection::None);
        assert_eq!(decide(&enabled, &no, &plain), Injection::None);
        assert_eq!(decide(&none, &yes, &plain), Injection::Sidecar);
        assert_eq!(decide(&disabled, &yes, &plain), Injection::None);
        let gateway = BTreeMap::from([("inject.istio.io/templates".to_owned(), "gateway".to_owned())]);
        assert_eq!(decide(&none, &yes, &gateway), Injection::Gateway);
    }
}
