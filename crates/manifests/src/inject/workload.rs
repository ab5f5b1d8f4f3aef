//! Which workload a pod belongs to: the Deployment of its ReplicaSet, the CronJob of its Job, itself.

use serde_json::Value;

/// A workload, as telemetry names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Workload {
    /// Group and version: `apps/v1`.
    pub api_version: String,
    /// `Deployment`.
    pub kind: String,
    /// Name; empty for a pod of its own whose name the API server makes.
    pub name: String,
    /// Namespace.
    pub namespace: String,
}

impl Workload {
    /// `kubernetes://apis/apps/v1/namespaces/NS/deployments/NAME` (`ISTIO_META_OWNER`).
    pub fn owner(&self) -> String {
        format!(
            "kubernetes://apis/{}/namespaces/{}/{}s/{}",
            self.api_version,
            self.namespace,
            self.kind.to_lowercase(),
            self.name
        )
    }
}

/// The workload of a pod, by its controller.
pub fn of(pod: &Value, namespace: &str) -> Workload {
    let text = |path: &str| pod.pointer(path).and_then(Value::as_str).unwrap_or_default();
    let owners = pod.pointer("/metadata/ownerReferences").and_then(Value::as_array);
    let controller = owners
        .into_iter()
        .flatten()
        .find(|owner| owner.get("controller") == Some(&Value::Bool(true)));
    let workload = |api_version: &str, kind: &str, name: &str| Workload {
        api_version: api_version.to_owned(),
        kind: kind.to_owned(),
        name: name.to_owned(),
        namespace: namespace.to_owned(),
    };
    let Some(controller) = controller else {
        return match (text("/metadata/name"), text("/metadata/generateName")) {
            ("", generated) => workload("v1", "Pod", generated.trim_end_matches('-')),
            (name, _) => workload("v1", "Pod", name),
        };
    };
    let of = |field: &str| controller.get(field).and_then(Value::as_str).unwrap_or_default();
    let (api_version, kind, name) = (of("apiVersion"), of("kind"), of("name"));
    let group = api_version.split_once('/').map_or("", |(group, _)| group);
    match kind {
        // A Deployment's ReplicaSet bears the hash of its template.
        "ReplicaSet" if group == "apps" => {
            let hash = pod
                .pointer("/metadata/labels/pod-template-hash")
                .and_then(Value::as_str);
            match hash.and_then(|hash| name.strip_suffix(hash)?.strip_suffix('-')) {
                Some(deployment) => workload("apps/v1", "Deployment", deployment),
                None => workload(api_version, kind, name),
            }
        }
        // A CronJob's Job bears the minute, since 1970, for which it was made.
        "Job" if group == "batch" => match name.rsplit_once('-') {
            Some((cron, minute))
                if (8..=10).contains(&minute.len()) && minute.bytes().all(|b| b.is_ascii_digit()) =>
            {
                workload("batch/v1", "CronJob", cron)
            }
            _ => workload(api_version, kind, name),
        },
        // OpenShift's DeploymentConfig, whose controllers are numbered.
        "ReplicationController" => {
            let config = pod
                .pointer("/metadata/labels/deploymentconfig")
                .and_then(Value::as_str);
            match config {
                Some(config) => workload("apps.openshift.io/v1", "DeploymentConfig", config),
                None => workload(api_version, kind, name),
            }
        }
        _ => workload(api_version, kind, name),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn owned(api_version: &str, kind: &str, name: &str, labels: Value) -> String {
        let pod = json!({"metadata": {"generateName": "a-", "labels": labels, "ownerReferences": [
            {"apiVersion": "v1", "kind": "Node", "name": "bystander"},
            {"apiVersion": api_version, "kind": kind, "name": name, "controller": true}
        ]}});
        of(&pod, "bank").owner()
    }

    #[test]
    fn a_pod_is_known_by_what_a_user_wrote_and_not_by_what_a_controller_made_of_it() {
        let hash = json!({"pod-template-hash": "5f7d"});
        assert_eq!(
            owned("apps/v1", "ReplicaSet", "web-5f7d", hash.clone()),
            "kubernetes://apis/apps/v1/namespaces/bank/deployments/web"
        );
        assert_eq!(
            owned("apps/v1", "ReplicaSet", "alone", hash),
            "kubernetes://apis/apps/v1/namespaces/bank/replicasets/alone"
        );
        assert_eq!(
            owned("batch/v1", "Job", "report-29388480", json!({})),
            "kubernetes://apis/batch/v1/namespaces/bank/cronjobs/report"
        );
        assert_eq!(
            owned("batch/v1", "Job", "migrate-7", json!({})),
            "kubernetes://apis/batch/v1/namespaces/bank/jobs/migrate-7"
        );
        assert_eq!(
            owned("apps/v1", "StatefulSet", "db", json!({})),
            "kubernetes://apis/apps/v1/namespaces/bank/statefulsets/db"
        );
        let alone = json!({"metadata": {"name": "sleep"}});
        assert_eq!(
            of(&alone, "bank").owner(),
            "kubernetes://apis/v1/namespaces/bank/pods/sleep"
        );
        assert_eq!(
            of(&json!({"metadata": {"generateName": "run-"}}), "bank").name,
            "run"
        );
    }
}
