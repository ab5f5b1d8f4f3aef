//! The order in which objects are made, so that what one needs is there before it.

use serde_json::Value;

/// Kinds in the order of installation; others come last, in the order of their names.
const KINDS: &[&str] = &[
    "Namespace",
    "CustomResourceDefinition",
    "ServiceAccount",
    "ClusterRole",
    "ClusterRoleBinding",
    "Role",
    "RoleBinding",
    "ConfigMap",
    "Secret",
    "Service",
    "PodDisruptionBudget",
    "Deployment",
    "HorizontalPodAutoscaler",
    // Before the control plane answers, these refuse nothing of it: its pods are not injected.
    "MutatingWebhookConfiguration",
    "ValidatingWebhookConfiguration",
];

/// Puts objects in the order of installation; the same objects always end in the same order.
pub fn sort(objects: &mut [Value]) {
    objects.sort_by_cached_key(|object| {
        let text = |field: &Value| field.as_str().unwrap_or_default().to_owned();
        let kind = text(&object["kind"]);
        let rank = KINDS.iter().position(|k| *k == kind).unwrap_or(KINDS.len());
        let metadata = &object["metadata"];
        (rank, kind, text(&metadata["namespace"]), text(&metadata["name"]))
    });
}
