//! The cluster's DNS: CoreDNS, installed as kubeadm installs it.

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, Service, ServiceAccount};
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding};
use kube::api::{Api, Patch, PatchParams};
use kube::core::NamespaceResourceScope;
use kube::{Client, Resource};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::cluster::ClusterSettings;
use crate::network::INTERNET_DNS;

const NAMESPACE: &str = "kube-system";
/// Whose fields these are.
const MANAGER: &str = "kubeadm";

/// Writes all of its objects.
pub(super) async fn install(client: &Client, settings: &ClusterSettings) -> kube::Result<()> {
    let labels = json!({"k8s-app": "kube-dns"});
    let apply = PatchParams::apply(MANAGER).force();
    Api::<ClusterRole>::all(client.clone())
        .patch(
            "system:coredns",
            &apply,
            &Patch::Apply(json!({
                "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole",
                "metadata": {"name": "system:coredns"},
                "rules": [
                    {"apiGroups": [""], "resources": ["endpoints", "services", "pods", "namespaces"], "verbs": ["list", "watch"]},
                    {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": ["list", "watch"]},
                ],
            })),
        )
        .await?;
    Api::<ClusterRoleBinding>::all(client.clone())
        .patch(
            "system:coredns",
            &apply,
            &Patch::Apply(json!({
                "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding",
                "metadata": {"name": "system:coredns"},
                "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "system:coredns"},
                "subjects": [{"kind": "ServiceAccount", "name": "coredns", "namespace": NAMESPACE}],
            })),
        )
        .await?;
    namespaced::<ServiceAccount>(
        client,
        "coredns",
        json!({"apiVersion": "v1", "kind": "ServiceAccount"}),
    )
    .await?;
    namespaced::<ConfigMap>(
        client,
        "coredns",
        json!({"apiVersion": "v1", "kind": "ConfigMap", "data": {"Corefile": corefile()}}),
    )
    .await?;
    namespaced::<Service>(
        client,
        "kube-dns",
        json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"labels": labels},
            "spec": {
                "clusterIP": settings.dns_address(), "selector": labels,
                "ports": [
                    {"name": "dns", "port": 53, "protocol": "UDP", "targetPort": 53},
                    {"name": "dns-tcp", "port": 53, "protocol": "TCP", "targetPort": 53},
                    {"name": "metrics", "port": 9153, "protocol": "TCP", "targetPort": 9153},
                ],
            },
        }),
    )
    .await?;
    let probe = |path: &str, port: u16| json!({"httpGet": {"path": path, "port": port}, "periodSeconds": 5});
    namespaced::<Deployment>(client, "coredns", json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"labels": labels},
        "spec": {"replicas": 1, "selector": {"matchLabels": labels}, "template": {
            "metadata": {"labels": labels},
            "spec": {
                "serviceAccountName": "coredns", "dnsPolicy": "Default", "terminationGracePeriodSeconds": 3,
                "priorityClassName": "system-cluster-critical",
                "tolerations": [{"operator": "Exists"}],
                "containers": [{
                    "name": "coredns", "image": "registry.k8s.io/coredns/coredns:v1",
                    "args": ["-conf", "/etc/coredns/Corefile"],
                    "readinessProbe": probe("/ready", 8181), "livenessProbe": probe("/health", 8080),
                    "volumeMounts": [{"name": "config-volume", "mountPath": "/etc/coredns", "readOnly": true}],
                }],
                "volumes": [{"name": "config-volume", "configMap": {"name": "coredns"}}],
            },
        }},
    }))
    .await
}

/// kubeadm's, with the internet's DNS for everything else.
fn corefile() -> String {
    format!(
        r#".:53 {{
    errors
    health {{
       lameduck 0s
    }}
    ready
    kubernetes cluster.local in-addr.arpa ip6.arpa {{
       pods insecure
       fallthrough in-addr.arpa ip6.arpa
       ttl 5
    }}
    prometheus :9153
    forward . {INTERNET_DNS}
    cache 5
    loop
    reload 2s
    loadbalance
}}
"#
    )
}

async fn namespaced<K>(client: &Client, name: &str, mut object: Value) -> kube::Result<()>
where
    K: Resource<Scope = NamespaceResourceScope> + Clone + DeserializeOwned + std::fmt::Debug,
    K::DynamicType: Default,
{
    object["metadata"]["name"] = json!(name);
    object["metadata"]["namespace"] = json!(NAMESPACE);
    let api: Api<K> = Api::namespaced(client.clone(), NAMESPACE);
    let apply = PatchParams::apply(MANAGER).force();
    api.patch(name, &apply, &Patch::Apply(object)).await.map(drop)
}
