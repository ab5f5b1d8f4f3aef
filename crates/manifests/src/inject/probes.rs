//! Probes of applications that the kubelet asks of the agent instead: it bears no certificate, and would be
//! refused where mTLS is strict; and a TCP probe of a redirected port would find the proxy, not the application.
//!
//! ```text
//!   kubelet ─ GET :15020/app-health/CONTAINER/readyz ─▶ agent ─ as the probe said ─▶ application
//! ```

use serde_json::{Map, Value, json};

use super::{Draft, INIT, PROXY};

/// Port of the agent.
const AGENT: u16 = 15020;
/// Probes by field, and the last part of their path.
const PROBES: [(&str, &str); 3] = [
    ("readinessProbe", "readyz"),
    ("livenessProbe", "livez"),
    ("startupProbe", "startupz"),
];
/// Hooks of a container's life, likewise.
const HOOKS: [(&str, &str); 2] = [("preStop", "prestophz"), ("postStart", "poststarthz")];

/// Points every probe by HTTP, TCP or gRPC at the agent; what the agent has to ask, by path
/// (`ISTIO_KUBE_APP_PROBERS`).
pub(super) fn rewrite(draft: &mut Draft<'_>) -> Map<String, Value> {
    let mut asked = Map::new();
    for field in ["containers", "initContainers"] {
        if draft.pod.list(field).is_empty() {
            continue;
        }
        for container in draft.pod.list_mut(field) {
            let Value::Object(container) = container else {
                continue;
            };
            let name = match container.get("name").and_then(Value::as_str) {
                Some(name) if name != PROXY && name != INIT => name.to_owned(),
                _ => continue,
            };
            let ports = container.get("ports").cloned().unwrap_or_default();
            for (probe, path) in PROBES {
                let path = format!("/app-health/{name}/{path}");
                if let Some(Value::Object(probe)) = container.get_mut(probe) {
                    let timeout = probe.get("timeoutSeconds").cloned().unwrap_or_else(|| json!(1));
                    if let Some(mut prober) = redirect(probe, &ports, &path) {
                        prober["timeoutSeconds"] = timeout;
                        asked.insert(path, prober);
                    }
                }
            }
            for (hook, path) in HOOKS {
                let path = format!("/app-lifecycle/{name}/{path}");
                let hook = container.get_mut("lifecycle").and_then(|l| l.get_mut(hook));
                // A hook by TCP is retired; one by HTTP goes through the proxy as a probe does.
                if let Some(Value::Object(hook)) = hook
                    && hook.contains_key("httpGet")
                    && let Some(prober) = redirect(hook, &ports, &path)
                {
                    asked.insert(path, prober);
                }
            }
        }
    }
    asked
}

/// Points one probe at the agent; what the agent has to ask. `None` when it is left as it is: a command, a port
/// that nobody knows (which Kubernetes refuses), a question to the agent already.
fn redirect(probe: &mut Map<String, Value>, ports: &Value, path: &str) -> Option<Value> {
    let handler = ["httpGet", "tcpSocket", "grpc"]
        .into_iter()
        .find(|h| probe.contains_key(*h))?;
    let mut question = probe.get(handler)?.as_object()?.clone();
    let port = number(question.get("port")?, ports)?;
    if port == AGENT {
        return None;
    }
    question.insert("port".to_owned(), json!(port));
    probe.remove(handler);
    probe.insert(
        "httpGet".to_owned(),
        json!({"path": path, "port": AGENT, "scheme": "HTTP"}),
    );
    Some(json!({ (handler): question }))
}

/// A port by number or by the name that the container gives it.
fn number(port: &Value, ports: &Value) -> Option<u16> {
    if let Some(number) = port.as_u64() {
        return u16::try_from(number).ok();
    }
    let name = port.as_str()?;
    if let Ok(number) = name.parse() {
        return Some(number);
    }
    let named = ports
        .as_array()?
        .iter()
        .find(|p| p.get("name").and_then(Value::as_str) == Some(name))?;
    u16::try_from(named.get("containerPort")?.as_u64()?).ok()
}
