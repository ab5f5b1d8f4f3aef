//! Template `sidecar`: a proxy beside the application, and the redirection of its traffic.
//!
//! ```text
//!   native    init: [istio-init, istio-proxy (stays), the user's...]   containers: [the user's...]
//!   classic   init: [the user's..., istio-init]                        containers: [the user's..., istio-proxy]
//!   classic, application held                                          containers: [istio-proxy, the user's...]
//! ```

use serde_json::{Map, Value, json};

use super::container::{USER, probe, variable};
use super::settings::without_empty;
use super::{Draft, INIT, InjectError, PROXY, Template, overlay, probes};

/// Where the program is in the image.
const PROGRAM: &str = "/usr/local/bin/isthmus";
/// Seconds for which an application is held at most.
const HELD_FAILURES: i64 = 600;
/// What tells the redirection to leave DNS alone.
const DNS_CAPTURE: &str = "ISTIO_META_DNS_CAPTURE";

/// Adds the sidecar to a pod.
pub(super) fn add(draft: &mut Draft<'_>) -> Result<(), InjectError> {
    let own = draft.pod.take(PROXY).map(|(fields, _)| fields);
    draft.pod.take(INIT);
    let mut container = draft.container(Template::Sidecar);
    let asked = if draft.annotations.rewrite_probes {
        probes::rewrite(draft)
    } else {
        Map::new()
    };
    let mut further = Vec::new();
    if !asked.is_empty() {
        // `$(` would be expanded by Kubernetes, `$$(` stands for it.
        let text = Value::Object(asked).to_string().replace("$(", "$$(");
        further.push(variable("ISTIO_KUBE_APP_PROBERS", &text));
    }
    further.extend(metrics(draft));
    if let Some(Value::Array(env)) = container.get_mut("env") {
        env.append(&mut further);
    }
    let native = draft.annotations.native;
    let held = draft.annotations.proxy_config.hold_application();
    // A native sidecar's start is what the containers after it wait for.
    let waits = draft.annotations.status || native;
    match draft.settings.startup_failures.filter(|_| waits) {
        Some(failures) => {
            container.insert("startupProbe".to_owned(), probe(1, failures));
        }
        None if native && held => {
            container.insert("startupProbe".to_owned(), probe(1, HELD_FAILURES));
        }
        None => {}
    }
    if native {
        container.insert("restartPolicy".to_owned(), json!("Always"));
    } else if held {
        let wait = json!({"postStart": {"exec": {"command": [PROGRAM, "wait-for-proxy"]}}});
        container.entry("lifecycle").or_insert(wait);
    }
    if let Some(own) = own {
        container = overlay::over(container, own);
    }
    draft.default_container();
    draft.add_volumes();

    let redirection = draft.annotations.redirect.then(|| redirection(draft));
    let init = draft.pod.list_mut("initContainers");
    let (at, to_init) = if native { (0, true) } else { (init.len(), false) };
    if to_init {
        init.insert(at, Value::Object(container.clone()));
        draft.added.init_containers.push(PROXY.to_owned());
    }
    if let Some(redirection) = redirection {
        init.insert(at, Value::Object(redirection));
        draft.added.init_containers.insert(0, INIT.to_owned());
    }
    if !to_init {
        let containers = draft.pod.list_mut("containers");
        let at = if held { 0 } else { containers.len() };
        containers.insert(at, Value::Object(container));
        draft.added.containers.push(PROXY.to_owned());
    }
    Ok(())
}

/// The container that programs the kernel of the pod, and ends.
fn redirection(draft: &Draft<'_>) -> Map<String, Value> {
    let user = USER.to_string();
    let mut arguments: Vec<String> = ["redirect", "apply", "--uid", &user, "--gid", &user]
        .map(str::to_owned)
        .into();
    for (name, value) in &draft.annotations.capture {
        arguments.push("--annotation".to_owned());
        arguments.push(format!("{name}={value}"));
    }
    let dns = draft
        .annotations
        .proxy_config
        .environment()
        .find(|(name, _)| *name == DNS_CAPTURE);
    if dns.is_some_and(|(_, value)| value == "false") {
        arguments.push("--no-dns".to_owned());
    }
    without_empty(Map::from_iter([
        ("name".to_owned(), json!(INIT)),
        ("image".to_owned(), json!(draft.settings.init_image)),
        ("imagePullPolicy".to_owned(), json!(draft.settings.pull_policy)),
        ("args".to_owned(), json!(arguments)),
        ("resources".to_owned(), draft.settings.init_resources.clone()),
        (
            "securityContext".to_owned(),
            json!({
                "allowPrivilegeEscalation": false,
                "capabilities": {"add": ["NET_ADMIN", "NET_RAW"], "drop": ["ALL"]},
                "privileged": false,
                "readOnlyRootFilesystem": true,
                "runAsGroup": 0,
                "runAsNonRoot": false,
                "runAsUser": 0,
                "seccompProfile": draft.settings.seccomp,
            }),
        ),
    ]))
}

/// A pod that Prometheus scrapes is scraped at the agent, which adds the application's metrics to the proxy's.
fn metrics(draft: &mut Draft<'_>) -> Option<Value> {
    if !draft.annotations.merge_metrics {
        return None;
    }
    let annotations = &mut draft.pod.annotations;
    let said = |name: &str| annotations.get(&format!("prometheus.io/{name}")).cloned();
    if said("scrape").as_deref() != Some("true") {
        return None;
    }
    let scrape = json!({
        "scrape": "true",
        "path": said("path").unwrap_or_else(|| "/metrics".to_owned()),
        "port": said("port").unwrap_or_default(),
        "scheme": said("scheme").unwrap_or_else(|| "http".to_owned()),
    });
    annotations.insert("prometheus.io/port".to_owned(), "15020".to_owned());
    annotations.insert("prometheus.io/path".to_owned(), "/stats/prometheus".to_owned());
    annotations.insert("prometheus.io/scheme".to_owned(), "http".to_owned());
    Some(variable(
        "ISTIO_PROMETHEUS_ANNOTATIONS",
        &scrape.to_string().replace("$(", "$$("),
    ))
}

impl Draft<'_> {
    /// What `kubectl logs` and `kubectl exec` mean when they name no container: the application.
    fn default_container(&mut self) {
        let Some(first) = self.pod.list("containers").first() else {
            return;
        };
        let Some(name) = first.get("name").and_then(Value::as_str).map(str::to_owned) else {
            return;
        };
        for annotation in [
            "kubectl.kubernetes.io/default-container",
            "kubectl.kubernetes.io/default-logs-container",
        ] {
            self.pod
                .annotations
                .entry(annotation.to_owned())
                .or_insert_with(|| name.clone());
        }
    }
}
