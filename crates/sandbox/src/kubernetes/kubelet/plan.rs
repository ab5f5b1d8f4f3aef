//! From a Pod to what is started: programs, environments, probes, order.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, EnvVar, LifecycleHandler, Pod, PodSpec, Probe as PodProbe};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::ResourceExt;

use super::fields;
use super::sources::{Entries, Kind, Obstacle, Sources};
use super::volumes::containers;
use crate::cluster::{ClusterSettings, search_domains};
use crate::kubernetes::assets::Programs;
use crate::kubernetes::node::NodeFacts;
use crate::network::INTERNET_DNS;
use crate::plan::{Check, ContainerPlan, DnsPlan, Order, PodKey, PodPlan, Probe, Program, Restart, Volume};

/// What plans are made against.
pub(super) struct Planner<'a> {
    pub(super) settings: &'a ClusterSettings,
    pub(super) programs: &'a Programs,
    pub(super) sources: &'a Sources,
    pub(super) node: &'a NodeFacts,
    pub(super) pod: &'a Pod,
    pub(super) spec: &'a PodSpec,
}

/// The pod's name in the sandbox.
pub(super) fn key(settings: &ClusterSettings, pod: &Pod) -> PodKey {
    PodKey {
        cluster: settings.id.clone(),
        namespace: pod.namespace().unwrap_or_default(),
        name: pod.name_any(),
    }
}

impl Planner<'_> {
    /// The whole pod.
    pub(super) async fn plan(&self, volumes: Vec<Volume>) -> Result<PodPlan, Obstacle> {
        let mut plans = Vec::new();
        let restart = match self.spec.restart_policy.as_deref() {
            Some("Never") => Restart::Never,
            Some("OnFailure") => Restart::OnFailure,
            _ => Restart::Always,
        };
        for container in self.spec.init_containers.iter().flatten() {
            let sidecar = container.restart_policy.as_deref() == Some("Always");
            let (order, restart) = match (sidecar, restart) {
                (true, _) => (Order::HoldsUntilStarted, Restart::Always),
                (false, Restart::Never) => (Order::HoldsUntilDone, Restart::Never),
                (false, _) => (Order::HoldsUntilDone, Restart::OnFailure),
            };
            plans.push(self.container(container, order, restart).await?);
        }
        for container in &self.spec.containers {
            // One that has something to do after its start is waited for by those behind it.
            let hooked = container
                .lifecycle
                .as_ref()
                .is_some_and(|l| l.post_start.is_some());
            let order = if hooked {
                Order::BesideOnceStarted
            } else {
                Order::Beside
            };
            plans.push(self.container(container, order, restart).await?);
        }
        let grace = self.spec.termination_grace_period_seconds.unwrap_or(30);
        Ok(PodPlan {
            key: key(self.settings, self.pod),
            dns: self.dns(),
            files: BTreeMap::new(),
            volumes,
            containers: plans,
            capture: None,
            grace: Duration::from_secs(grace.clamp(0, 3600).unsigned_abs()),
        })
    }

    fn dns(&self) -> DnsPlan {
        let namespace = self.pod.namespace().unwrap_or_default();
        let mut plan = match self.spec.dns_policy.as_deref() {
            Some("Default" | "None") => DnsPlan {
                nameserver: INTERNET_DNS.into(),
                search: Vec::new(),
                ndots: 1,
            },
            _ => DnsPlan {
                nameserver: self.settings.dns_address().into(),
                search: search_domains(&namespace),
                ndots: 5,
            },
        };
        if let Some(config) = &self.spec.dns_config {
            let mut servers = config.nameservers.iter().flatten();
            if let Some(server) = servers.find_map(|s| s.parse().ok()) {
                plan.nameserver = server;
            }
            plan.search.extend(config.searches.iter().flatten().cloned());
            for option in config.options.iter().flatten() {
                if option.name.as_deref() == Some("ndots")
                    && let Some(ndots) = option.value.as_ref().and_then(|v| v.parse().ok())
                {
                    plan.ndots = ndots;
                }
            }
        }
        plan
    }

    async fn container(
        &self,
        container: &Container,
        order: Order,
        restart: Restart,
    ) -> Result<ContainerPlan, Obstacle> {
        let env = self.environment(container).await?;
        let wrong = |why: String| {
            Obstacle::new(
                "CreateContainerConfigError",
                format!("container {:?}: {why}", container.name),
            )
        };
        let probe = |probe: &Option<PodProbe>| {
            let read = probe.as_ref().map(|p| read_probe(p, container));
            read.transpose().map_err(wrong)
        };
        let lifecycle = container.lifecycle.as_ref();
        let hook = |handler: Option<&LifecycleHandler>| {
            let read = handler.map(|h| read_hook(h, container, &env));
            read.transpose().map_err(wrong)
        };
        Ok(ContainerPlan {
            order,
            restart,
            directory: PathBuf::from(container.working_dir.as_deref().unwrap_or("/")),
            readiness: probe(&container.readiness_probe)?,
            liveness: probe(&container.liveness_probe)?,
            startup: probe(&container.startup_probe)?,
            post_start: hook(lifecycle.and_then(|l| l.post_start.as_ref()))?.flatten(),
            pre_stop: hook(lifecycle.and_then(|l| l.pre_stop.as_ref()))?.flatten(),
            ..ContainerPlan::new(&container.name, program(container, self.programs, &env))
        }
        .with_environment(env))
    }

    /// Variables in their order; a later one replaces an earlier one of its name.
    async fn environment(&self, container: &Container) -> Result<Vec<(String, String)>, Obstacle> {
        let mut env: Vec<(String, String)> = Vec::new();
        let set = |env: &mut Vec<(String, String)>, name: String, value: String| {
            env.retain(|(n, _)| *n != name);
            env.push((name, value));
        };
        let api_server = self.settings.service_address(1).to_string();
        for (name, value) in [
            ("KUBERNETES_SERVICE_HOST", api_server.as_str()),
            ("KUBERNETES_SERVICE_PORT", "443"),
            ("KUBERNETES_SERVICE_PORT_HTTPS", "443"),
            ("KUBERNETES_PORT", &format!("tcp://{api_server}:443")),
            ("HOSTNAME", &self.pod.name_any()),
            // The samples say who answered, and in which cluster.
            ("POD_NAME", &self.pod.name_any()),
            ("POD_NAMESPACE", &self.pod.namespace().unwrap_or_default()),
            ("CLUSTER", self.settings.id.as_str()),
        ] {
            set(&mut env, name.to_owned(), value.to_owned());
        }
        for from in container.env_from.iter().flatten() {
            let prefix = from.prefix.clone().unwrap_or_default();
            let (kind, name, optional) = match (&from.config_map_ref, &from.secret_ref) {
                (Some(map), _) => (Kind::ConfigMap, &map.name, map.optional),
                (_, Some(secret)) => (Kind::Secret, &secret.name, secret.optional),
                _ => continue,
            };
            for (key, value) in self.entries(kind, name, optional.unwrap_or_default()).await? {
                let value = String::from_utf8_lossy(&value).into_owned();
                set(&mut env, format!("{prefix}{key}"), value);
            }
        }
        for variable in container.env.iter().flatten() {
            if let Some(value) = self.value(variable, &env, container).await? {
                set(&mut env, variable.name.clone(), value);
            }
        }
        Ok(env)
    }

    async fn entries(&self, kind: Kind, name: &str, optional: bool) -> Result<Entries, Obstacle> {
        let namespace = self.pod.namespace().unwrap_or_default();
        let missing = |why: String| Obstacle::new("CreateContainerConfigError", why);
        match self.sources.entries(kind, &namespace, name).await {
            Ok(Some(entries)) => Ok(entries),
            Ok(None) if optional => Ok(Entries::new()),
            Ok(None) => Err(missing(format!("{} {name:?} not found", kind.word()))),
            Err(why) => Err(missing(why)),
        }
    }

    /// The value of a variable; `None` when what it is taken from is optional and not there.
    async fn value(
        &self,
        variable: &EnvVar,
        env: &[(String, String)],
        container: &Container,
    ) -> Result<Option<String>, Obstacle> {
        let Some(source) = &variable.value_from else {
            let value = variable.value.as_deref().unwrap_or_default();
            return Ok(Some(expand(value, env)));
        };
        let wrong = |why: String| {
            Obstacle::new(
                "CreateContainerConfigError",
                format!(
                    "variable {} of container {:?}: {why}",
                    variable.name, container.name
                ),
            )
        };
        if let Some(field) = &source.field_ref {
            return fields::field(self.pod, self.node, &field.field_path)
                .map(Some)
                .map_err(wrong);
        }
        if let Some(resource) = &source.resource_field_ref {
            let mut resource = resource.clone();
            resource
                .container_name
                .get_or_insert_with(|| container.name.clone());
            let all: Vec<Container> = containers(self.spec).cloned().collect();
            return fields::resource(&all, &resource).map(Some).map_err(wrong);
        }
        let (kind, name, key, optional) = match (&source.config_map_key_ref, &source.secret_key_ref) {
            (Some(map), _) => (Kind::ConfigMap, &map.name, &map.key, map.optional),
            (_, Some(secret)) => (Kind::Secret, &secret.name, &secret.key, secret.optional),
            _ => {
                return Err(wrong(
                    "it is taken from what the sandbox does not have".to_owned(),
                ));
            }
        };
        let optional = optional.unwrap_or_default();
        let entries = self.entries(kind, name, optional).await?;
        match entries.get(key) {
            Some(value) => Ok(Some(String::from_utf8_lossy(value).into_owned())),
            None if optional => Ok(None),
            None => Err(wrong(format!(
                "couldn't find key {key} in {} {name}",
                kind.word()
            ))),
        }
    }
}

/// What an image is played by.
fn program(container: &Container, programs: &Programs, env: &[(String, String)]) -> Program {
    let image = container.image.as_deref().unwrap_or_default();
    let last = image.rsplit('/').next().unwrap_or_default();
    let last = last.split_once('@').map_or(last, |(name, _)| name);
    let (name, tag) = last.split_once(':').unwrap_or((last, ""));
    let expanded = |list: &Option<Vec<String>>| -> Vec<String> {
        list.iter().flatten().map(|a| expand(a, env)).collect()
    };
    let (command, arguments) = (expanded(&container.command), expanded(&container.args));
    let own = command
        .first()
        .is_none_or(|first| first.rsplit('/').next() == Some("isthmus"));
    if name == "isthmus" && own {
        return Program::Isthmus(command.into_iter().skip(1).chain(arguments).collect());
    }
    if !command.is_empty() {
        return Program::Host(command.into_iter().chain(arguments).collect());
    }
    if name == "samples" && !tag.is_empty() {
        let sample = ["sample".to_owned(), tag.to_owned()];
        return Program::Isthmus(sample.into_iter().chain(arguments).collect());
    }
    if let Some(path) = programs.of_image(name) {
        let path = path.display().to_string();
        return Program::Host(std::iter::once(path).chain(arguments).collect());
    }
    Program::Unavailable {
        reason: "ErrImagePull".to_owned(),
        message: format!(
            "the sandbox has no image {image:?}; it plays isthmus, isthmus/samples:NAME and coredns, or, for any other \
             image, runs the container's `command` from this machine: write command: [\"/path/to/program\"]"
        ),
    }
}

/// Replaces `$(NAME)`; `$$` is a dollar sign, and what is not known stays as it is.
fn expand(text: &str, env: &[(String, String)]) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('$') {
            out.push('$');
            rest = after;
        } else if let Some((name, after)) = rest.strip_prefix('(').and_then(|inner| inner.split_once(')')) {
            match env.iter().find(|(n, _)| n == name) {
                Some((_, value)) => out.push_str(value),
                None => out.push_str(&format!("$({name})")),
            }
            rest = after;
        } else {
            out.push('$');
        }
    }
    out + rest
}

fn read_port(port: &IntOrString, container: &Container) -> Result<u16, String> {
    match port {
        IntOrString::Int(n) => u16::try_from(*n).map_err(|_| format!("{n} is no port")),
        IntOrString::String(name) => container
            .ports
            .iter()
            .flatten()
            .find(|p| p.name.as_deref() == Some(name))
            .and_then(|p| u16::try_from(p.container_port).ok())
            .or_else(|| name.parse().ok())
            .ok_or_else(|| format!("a probe names port {name:?}, which no port has")),
    }
}

fn read_probe(probe: &PodProbe, container: &Container) -> Result<Probe, String> {
    let check = match (&probe.http_get, &probe.tcp_socket, &probe.exec) {
        (Some(http), ..) => {
            if http.scheme.as_deref() == Some("HTTPS") {
                return Err("the sandbox probes by HTTP, TCP and exec, not by HTTPS".to_owned());
            }
            Check::Http {
                port: read_port(&http.port, container)?,
                path: http
                    .path
                    .clone()
                    .filter(|p| !p.is_empty())
                    .unwrap_or_else(|| "/".to_owned()),
            }
        }
        (_, Some(tcp), _) => Check::Tcp {
            port: read_port(&tcp.port, container)?,
        },
        (_, _, Some(exec)) => Check::Exec(of_image(exec.command.clone().unwrap_or_default(), container)),
        _ => return Err("the sandbox probes by httpGet, tcpSocket and exec".to_owned()),
    };
    let positive = |value: Option<i32>, default: u32| {
        value
            .and_then(|v| u32::try_from(v).ok())
            .filter(|v| *v > 0)
            .unwrap_or(default)
    };
    let seconds = |value, default| Duration::from_secs(u64::from(positive(value, default)));
    Ok(Probe {
        check,
        period: seconds(probe.period_seconds, 10),
        timeout: seconds(probe.timeout_seconds, 1),
        initial_delay: seconds(probe.initial_delay_seconds, 0),
        failures: positive(probe.failure_threshold, 3),
        successes: positive(probe.success_threshold, 1),
        from_node: true,
    })
}

/// `None` for a hook that does nothing.
fn read_hook(
    handler: &LifecycleHandler,
    container: &Container,
    env: &[(String, String)],
) -> Result<Option<Check>, String> {
    if let Some(exec) = &handler.exec {
        let command = exec.command.iter().flatten().map(|a| expand(a, env)).collect();
        return Ok(Some(Check::Exec(of_image(command, container))));
    }
    if let Some(http) = &handler.http_get {
        return Ok(Some(Check::Http {
            port: read_port(&http.port, container)?,
            path: http.path.clone().unwrap_or_else(|| "/".to_owned()),
        }));
    }
    if let Some(sleep) = &handler.sleep {
        return Ok(Some(Check::Exec(vec![
            "sleep".to_owned(),
            sleep.seconds.to_string(),
        ])));
    }
    Err("the sandbox has hooks by exec, httpGet and sleep".to_owned())
}

/// A command inside a container: in the image of the mesh the program is this binary, wherever it lies there.
fn of_image(mut command: Vec<String>, container: &Container) -> Vec<String> {
    let image = container.image.as_deref().unwrap_or_default();
    let last = image.rsplit('/').next().unwrap_or_default();
    let name = last.split([':', '@']).next().unwrap_or_default();
    if let Some(program) = command.first_mut()
        && name == "isthmus"
        && program.rsplit('/').next() == Some("isthmus")
    {
        "isthmus".clone_into(program);
    }
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hook_in_the_image_of_the_mesh_runs_this_binary() {
        let container = |image: &str| Container {
            image: Some(image.to_owned()),
            ..Container::default()
        };
        let command = || vec!["/usr/local/bin/isthmus".to_owned(), "wait-for-proxy".to_owned()];
        let ours = of_image(command(), &container("ghcr.io/isthmus-mesh/isthmus:0.1.0"));
        assert_eq!(ours, ["isthmus", "wait-for-proxy"]);
        assert_eq!(of_image(command(), &container("busybox:1")), command());
    }

    #[test]
    fn variables_are_expanded_as_kubernetes_does() {
        let env = [("A".to_owned(), "1".to_owned())];
        for (text, expected) in [
            ("$(A)-$(B)", "1-$(B)"),
            ("$$(A)", "$(A)"),
            ("$A $", "$A $"),
            ("$(A", "$(A"),
        ] {
            assert_eq!(expand(text, &env), expected, "{text}");
        }
    }

    #[test]
    fn images_are_played_or_said_to_be_missing() {
        let programs = Programs {
            dir: PathBuf::from("/nowhere"),
        };
        let of = |json: serde_json::Value| program(&serde_json::from_value(json).unwrap(), &programs, &[]);
        let own = of(serde_json::json!({
            "name": "a", "image": "ghcr.io/isthmus-mesh/isthmus:1", "args": ["proxy", "sidecar"],
        }));
        assert_eq!(own, Program::Isthmus(vec!["proxy".into(), "sidecar".into()]));
        let sample = of(serde_json::json!({"name": "a", "image": "isthmus/samples:echo"}));
        assert_eq!(sample, Program::Isthmus(vec!["sample".into(), "echo".into()]));
        let host = of(serde_json::json!({"name": "a", "image": "curl", "command": ["sleep", "1"]}));
        assert_eq!(host, Program::Host(vec!["sleep".into(), "1".into()]));
        let missing = of(serde_json::json!({"name": "a", "image": "nginx:1"}));
        assert!(matches!(missing, Program::Unavailable { reason, .. } if reason == "ErrImagePull"));
    }
}
