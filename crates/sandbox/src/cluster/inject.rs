//! Who gets a sidecar, and what the proxy's container is in the demo: decision and environment are those of the
//! webhook (`isthmus_manifests::inject`).

use std::collections::BTreeMap;
use std::time::Duration;

use isthmus_manifests::inject::{
    self, Decision, Facts, InjectError, Namespace, ProxyConfig, Rules, Subject, Template, Workload,
};
use isthmus_model::Labels;

pub use isthmus_manifests::inject::environment::{ROOT_CERT, TOKEN};

use super::settings::ClusterSettings;
use crate::plan::{Check, ContainerPlan, Order, Probe, Program};

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

/// Decides as the webhook does.
///
/// # Errors
/// What the pod says and cannot mean.
pub fn decide(
    name: &str,
    namespace: &Labels,
    labels: &Labels,
    annotations: &BTreeMap<String, String>,
    host_network: bool,
) -> Result<Injection, InjectError> {
    let subject = Subject {
        namespace: name,
        by: Namespace::Labels(namespace),
        labels,
        annotations,
        host_network,
    };
    Ok(match inject::decide(&subject, &Rules::default())? {
        Decision::Skip(_) => Injection::None,
        Decision::Inject(Template::Sidecar) => Injection::Sidecar,
        Decision::Inject(Template::Gateway) => Injection::Gateway,
    })
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
    /// What the mesh and the pod say of proxies.
    pub config: &'a ProxyConfig,
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
    let workload = Workload {
        api_version: "apps/v1".to_owned(),
        kind: "Deployment".to_owned(),
        name: pod.workload.to_owned(),
        namespace: pod.namespace.to_owned(),
    };
    let shared = inject::environment(&Facts {
        cluster: settings.id.as_str(),
        network: settings.network.as_str(),
        mesh_id: &settings.mesh_id,
        trust_domain: &settings.trust_domain.to_string(),
        workload: &workload,
        labels: pod.labels,
        locality: pod.locality,
        redirected: (injection == Injection::Sidecar).then_some(true),
        discovery: CONTROL_PLANE,
        authority: CONTROL_PLANE,
        config: pod.config,
    });
    let own = [
        ("POD_NAME", pod.name),
        ("POD_NAMESPACE", pod.namespace),
        ("INSTANCE_IP", "$(POD_IP)"),
        ("SERVICE_ACCOUNT", pod.service_account),
    ];
    let threads = pod.config.concurrency().unwrap_or(1).to_string();
    let ttl = settings
        .workload_cert_ttl
        .map(|ttl| ("SECRET_TTL".to_owned(), format!("{}s", ttl.as_secs())));
    let program = Program::Isthmus(
        ["proxy", kind, "--concurrency", &threads]
            .into_iter()
            .map(str::to_owned)
            .collect(),
    );
    ContainerPlan {
        env: own
            .into_iter()
            .map(|(k, v)| (k.to_owned(), v.to_owned()))
            .chain(shared)
            .chain(ttl)
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
    fn the_demo_injects_as_the_webhook_does() {
        let enabled: Labels = [("istio-injection", "enabled")].into_iter().collect();
        let (none, plain) = (Labels::default(), BTreeMap::new());
        let of = |namespace, annotations| decide("bank", namespace, &none, annotations, false).unwrap();
        assert_eq!(of(&enabled, &plain), Injection::Sidecar);
        assert_eq!(of(&none, &plain), Injection::None);
        let gateway = BTreeMap::from([("inject.istio.io/templates".to_owned(), "gateway".to_owned())]);
        assert_eq!(of(&enabled, &gateway), Injection::Gateway);
        assert_eq!(of(&none, &gateway), Injection::None);
    }
}
