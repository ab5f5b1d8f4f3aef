//! `/inject`: a pod that is being created gets its proxy.

use isthmus_manifests::inject::{self, Namespace, Outcome, Reason, Request, Settings};

use super::meters::Meters;
use super::review::{Admission, Review};
use super::settings::{InjectionSettings, Source};

/// What the path of the webhook says instead of the settings: `/inject/cluster/us/net/us-net`, or
/// `/inject/:ENV:cluster=us:ENV:net=us-net`, as control planes outside their cluster are installed.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Variables {
    cluster: Option<String>,
    network: Option<String>,
}

impl Variables {
    pub fn of(path: &str) -> Self {
        let rest = path.strip_prefix("/inject/").unwrap_or_default();
        let mut variables = Self::default();
        let mut set = |name: &str, value: &str| match name {
            "cluster" if !value.is_empty() => variables.cluster = Some(value.to_owned()),
            "net" | "network" if !value.is_empty() => variables.network = Some(value.to_owned()),
            _ => {}
        };
        if rest.starts_with(":ENV:") {
            for (name, value) in rest.split(":ENV:").filter_map(|pair| pair.split_once('=')) {
                set(name, &value.replace("--slash--", "/"));
            }
        } else {
            let mut parts = rest.split('/');
            while let (Some(name), Some(value)) = (parts.next(), parts.next()) {
                set(name, value);
            }
        }
        variables
    }

    fn apply(&self, settings: &Settings) -> Settings {
        let mut settings = settings.clone();
        if let Some(cluster) = &self.cluster {
            settings.cluster.clone_from(cluster);
        }
        if let Some(network) = &self.network {
            settings.network.clone_from(network);
        }
        settings
    }
}

/// Gives a pod its proxy, or leaves it alone.
pub(super) fn admit<S: Source>(
    review: &Review,
    settings: &InjectionSettings<S>,
    variables: &Variables,
    meters: &Meters,
) -> Admission {
    let question = &review.request;
    if question.kind.kind != "Pod" || question.operation != "CREATE" || !question.sub_resource.is_empty() {
        meters.skips.inc();
        return Admission::default();
    }
    let pod = name(review);
    let namespace = question.namespace.as_str();
    let (now, broken) = settings.now();
    let Some(now) = now else {
        meters.failures.inc();
        return Admission {
            warnings: broken.into_iter().collect(),
            ..Admission::default()
        };
    };
    let network = settings.source.network(namespace);
    let request = Request {
        pod: &question.object,
        namespace,
        by: Namespace::Chosen,
        network: network.as_deref(),
        workload: None,
    };
    match inject::inject(&request, &variables.apply(&now)) {
        Ok(Outcome::Injected(injected)) => {
            tracing::info!(namespace, pod, "sidecar injected");
            meters.successes.inc();
            let mut warnings = injected.warnings;
            warnings.extend(broken);
            Admission {
                patch: injected.patch,
                warnings,
                refusal: None,
            }
        }
        Ok(Outcome::Skipped(reason)) => {
            tracing::info!(namespace, pod, %reason, "no sidecar");
            meters.skips.inc();
            // Who asked for a sidecar and gets none hears of it where the pod is created.
            let warnings = match reason {
                Reason::HostNetwork => vec![format!("no sidecar: {reason}")],
                _ => Vec::new(),
            };
            Admission {
                warnings,
                ..Admission::default()
            }
        }
        Err(error) => {
            tracing::warn!(namespace, pod, %error, "a pod cannot be injected as it asks, and is refused");
            meters.failures.inc();
            Admission {
                refusal: Some(format!("sidecar injection: {error}")),
                ..Admission::default()
            }
        }
    }
}

/// The pod as people know it before it has a name.
fn name(review: &Review) -> &str {
    let question = &review.request;
    let of = |field: &str| question.object.pointer(&format!("/metadata/{field}"))?.as_str();
    match question.name.as_str() {
        "" => of("name").or_else(|| of("generateName")).unwrap_or_default(),
        name => name,
    }
}
