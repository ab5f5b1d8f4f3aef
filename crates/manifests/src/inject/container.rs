//! The proxy's container, as sidecars and gateways share it.

use serde_json::{Map, Value, json};

use super::environment::{Facts, environment};
use super::settings::{self, without_empty};
use super::{Draft, PROXY, Template};

/// User and group of the proxy, whose traffic is never redirected.
pub(super) const USER: u32 = 1337;
/// Readiness of the proxy.
const HEALTH: u16 = 15021;
/// The proxy's own metrics.
const METRICS: u16 = 15090;

/// A variable with a fixed value.
pub(super) fn variable(name: &str, value: &str) -> Value {
    json!({"name": name, "value": value})
}

/// A variable with the value of a field of the pod.
fn field(name: &str, path: &str) -> Value {
    json!({"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}})
}

impl Draft<'_> {
    /// The container, before what belongs to one template.
    pub(super) fn container(&mut self, template: Template) -> Map<String, Value> {
        let wishes = &self.annotations;
        let mut fields = Map::from_iter([
            ("name".to_owned(), json!(PROXY)),
            ("image".to_owned(), json!(self.image())),
            ("imagePullPolicy".to_owned(), json!(self.settings.pull_policy)),
            ("args".to_owned(), json!(self.arguments(template))),
            ("env".to_owned(), Value::Array(self.environment(template))),
            ("resources".to_owned(), wishes.resources.clone()),
            (
                "ports".to_owned(),
                json!([{"containerPort": METRICS, "name": "http-envoy-prom", "protocol": "TCP"}]),
            ),
            ("securityContext".to_owned(), self.security()),
            ("volumeMounts".to_owned(), Value::Array(self.mounts())),
        ]);
        if wishes.status {
            let (delay, period, failures) = wishes.readiness;
            let mut probe = probe(period, failures);
            if delay > 0 {
                probe["initialDelaySeconds"] = json!(delay);
            }
            fields.insert("readinessProbe".to_owned(), probe);
        }
        if let Some(lifecycle) = &self.settings.lifecycle {
            fields.insert("lifecycle".to_owned(), lifecycle.clone());
        }
        self.check_grace();
        without_empty(fields)
    }

    fn image(&self) -> String {
        let said = self.annotations.image.as_ref();
        said.map_or_else(
            || self.settings.image.clone(),
            |image| {
                // A bare name stands beside the image of the settings.
                match self.settings.image.rsplit_once('/') {
                    Some((hub, rest)) if !image.contains('/') => {
                        let tag = rest.split_once(':').map_or("", |(_, tag)| tag);
                        settings::image(image, hub, if image.contains(':') { "" } else { tag })
                    }
                    _ => image.clone(),
                }
            },
        )
    }

    fn arguments(&self, template: Template) -> Vec<String> {
        let role = match template {
            Template::Sidecar => "sidecar",
            Template::Gateway => "router",
        };
        let mut arguments = vec![
            "proxy".to_owned(),
            role.to_owned(),
            "--domain".to_owned(),
            self.settings.cluster_domain.clone(),
        ];
        let mut add = |flag: &str, value: String| arguments.extend([flag.to_owned(), value]);
        if !self.annotations.log_level.is_empty() {
            add("--log-level", self.annotations.log_level.clone());
        }
        if let Some(threads) = self.annotations.proxy_config.concurrency() {
            add("--concurrency", threads.to_string());
        }
        if self.settings.log_as_json {
            arguments.push("--log-as-json".to_owned());
        }
        arguments
    }

    /// What the pod knows of itself once it runs, and what is known of it already.
    fn environment(&self, template: Template) -> Vec<Value> {
        let settings = self.settings;
        let label = |name: &str| self.pod.labels.value(name).filter(|v| !v.is_empty());
        let facts = Facts {
            cluster: &settings.cluster,
            network: label("topology.istio.io/network")
                .or(self.network.as_deref())
                .unwrap_or(&settings.network),
            mesh_id: &settings.mesh_id,
            trust_domain: &settings.trust_domain.to_string(),
            workload: &self.workload,
            labels: &self.pod.labels,
            locality: label("istio-locality").unwrap_or_default(),
            redirected: (template == Template::Sidecar).then_some(self.annotations.redirect),
            discovery: &settings.discovery,
            authority: &settings.authority,
            config: &self.annotations.proxy_config,
        };
        let mut out = vec![
            field("POD_NAME", "metadata.name"),
            field("POD_NAMESPACE", "metadata.namespace"),
            field("INSTANCE_IP", "status.podIP"),
            field("SERVICE_ACCOUNT", "spec.serviceAccountName"),
        ];
        for (name, value) in environment(&facts) {
            out.retain(|there| there["name"] != name);
            out.push(variable(&name, &value));
        }
        out
    }

    /// No rights at all: the proxy is told by its user, binds high ports and writes to its volumes alone.
    fn security(&self) -> Value {
        json!({
            "allowPrivilegeEscalation": false,
            "capabilities": {"drop": ["ALL"]},
            "privileged": false,
            "readOnlyRootFilesystem": true,
            "runAsGroup": USER,
            "runAsNonRoot": true,
            "runAsUser": USER,
            "seccompProfile": self.settings.seccomp,
        })
    }

    /// Whether connections have the time to end before the pod is killed.
    fn check_grace(&mut self) {
        let grace = self
            .pod
            .spec
            .get("terminationGracePeriodSeconds")
            .and_then(Value::as_u64)
            .unwrap_or(30);
        if let Some(drain) = self
            .annotations
            .proxy_config
            .drain_seconds()
            .filter(|drain| *drain >= grace)
        {
            self.warnings.push(format!(
                "terminationDrainDuration is {drain} s, and the pod is killed after {grace} s: \
                 set terminationGracePeriodSeconds to more than {drain}"
            ));
        }
    }
}

/// A look at the proxy's readiness.
pub(super) fn probe(period: i64, failures: i64) -> Value {
    json!({
        "httpGet": {"path": "/healthz/ready", "port": HEALTH},
        "periodSeconds": period,
        "timeoutSeconds": 3,
        "failureThreshold": failures,
    })
}
