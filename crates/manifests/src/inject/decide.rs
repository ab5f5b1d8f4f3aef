//! Whether a pod gets a proxy, and from which template. The pod's own word counts, then the selectors of the
//! settings, then its namespace.

use std::collections::BTreeMap;
use std::fmt;

use isthmus_model::Labels;

use super::InjectError;
use super::selector::Selector;

/// Label, and older annotation, with a pod's own word.
pub const INJECT: &str = "sidecar.istio.io/inject";
/// Label of a namespace.
pub const NAMESPACE: &str = "istio-injection";
/// Label of a namespace or a pod: the revision that injects.
pub const REVISION: &str = "istio.io/rev";
/// Annotation of a pod: which templates.
pub const TEMPLATES: &str = "inject.istio.io/templates";
/// Namespaces whose pods the cluster needs to work at all: never injected, whatever is asked for.
pub const SYSTEM: [&str; 4] = [
    "kube-system",
    "kube-public",
    "kube-node-lease",
    "local-path-storage",
];

/// A pod, as far as the decision goes.
#[derive(Debug, Clone, Copy)]
pub struct Subject<'a> {
    /// Its namespace.
    pub namespace: &'a str,
    /// What is known of the namespace.
    pub by: Namespace<'a>,
    /// Labels of the pod.
    pub labels: &'a Labels,
    /// Annotations of the pod.
    pub annotations: &'a BTreeMap<String, String>,
    /// Whether it shares the node's network.
    pub host_network: bool,
}

/// What a pod that says nothing itself goes by.
#[derive(Debug, Clone, Copy)]
pub enum Namespace<'a> {
    /// The labels of its namespace.
    Labels(&'a Labels),
    /// The API server has chosen it by the selectors of the webhook. It knows the labels better than anyone
    /// who watches them, so they are not asked again.
    Chosen,
}

/// Settings of the decision.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Rules {
    /// Whose pods: `default`, or the name of a revision or tag; any when `None`.
    pub revision: Option<String>,
    /// `sidecarInjectorWebhook.neverInjectSelector`: pods that are left alone unless they ask themselves.
    pub never: Vec<Selector>,
    /// `sidecarInjectorWebhook.alwaysInjectSelector`: pods that are injected unless they decline themselves.
    pub always: Vec<Selector>,
    /// `sidecarInjectorWebhook.enableNamespacesByDefault`: namespaces that say nothing are injected.
    pub namespaces_by_default: bool,
}

/// What is done with a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// It gets a proxy.
    Inject(Template),
    /// It is left alone.
    Skip(Reason),
}

/// What the proxy is to the pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Template {
    /// Beside the application, with redirected traffic.
    Sidecar,
    /// The pod's container is the proxy.
    Gateway,
}

/// Why a pod is left alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reason {
    /// It has its proxy.
    Already,
    /// The cluster needs it to work at all.
    System(String),
    /// It says so.
    Declined(String),
    /// Its namespace says so.
    NamespaceDeclined,
    /// Redirecting the node's traffic would take the node off the network.
    HostNetwork,
    /// Another revision injects it.
    Revision(String),
    /// `neverInjectSelector` chose it.
    Never,
    /// Nobody asked for it.
    NotAsked,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Already => f.write_str("it has its proxy already"),
            Self::System(namespace) => {
                write!(
                    f,
                    "pods of {namespace} are never injected: the cluster needs them to work at all"
                )
            }
            Self::Declined(value) => write!(f, "it says {INJECT}: {value:?}"),
            Self::NamespaceDeclined => write!(f, "its namespace says {NAMESPACE}: disabled"),
            Self::HostNetwork => f.write_str(
                "it uses the node's network (hostNetwork: true), whose traffic cannot be redirected: \
                 it stays outside the mesh, and STRICT services refuse it",
            ),
            Self::Revision(other) => write!(f, "revision {other:?} injects it"),
            Self::Never => f.write_str("neverInjectSelector chose it"),
            Self::NotAsked => write!(
                f,
                "nobody asked: label the namespace {NAMESPACE}=enabled, or the pod {INJECT}: \"true\""
            ),
        }
    }
}

/// Decides.
///
/// # Errors
/// When a template is asked for that there is not.
pub fn decide(subject: &Subject<'_>, rules: &Rules) -> Result<Decision, InjectError> {
    if let Some(reason) = refusal(subject, rules) {
        return Ok(Decision::Skip(reason));
    }
    if subject.host_network {
        return Ok(Decision::Skip(Reason::HostNetwork));
    }
    template(subject.annotations).map(Decision::Inject)
}

fn refusal(subject: &Subject<'_>, rules: &Rules) -> Option<Reason> {
    if SYSTEM.contains(&subject.namespace) {
        return Some(Reason::System(subject.namespace.to_owned()));
    }
    let word = subject
        .labels
        .value(INJECT)
        .or_else(|| subject.annotations.get(INJECT).map(String::as_str));
    let own = match word {
        None | Some("") => None,
        Some("true" | "yes" | "y" | "on") => Some(true),
        Some(_) => Some(false),
    };
    let declined = || Some(Reason::Declined(word.unwrap_or_default().to_owned()));
    let by_namespace = match subject.by {
        Namespace::Chosen => true,
        Namespace::Labels(labels) => match (labels.value(NAMESPACE), labels.value(REVISION)) {
            // The older label goes before the revision, as in the webhook's selectors.
            (Some("enabled"), _) => true,
            (Some(_), _) => {
                return match own {
                    Some(false) => declined(),
                    _ => Some(Reason::NamespaceDeclined),
                };
            }
            (None, Some(revision)) => match other(revision, rules) {
                Some(reason) => return Some(reason),
                None => true,
            },
            (None, None) => match subject.labels.value(REVISION) {
                Some(revision) => match other(revision, rules) {
                    Some(reason) => return Some(reason),
                    None => true,
                },
                None => rules.namespaces_by_default,
            },
        },
    };
    match own {
        Some(true) => None,
        Some(false) => declined(),
        None if rules.never.iter().any(|s| s.matches(subject.labels)) => Some(Reason::Never),
        None if rules.always.iter().any(|s| s.matches(subject.labels)) => None,
        None if by_namespace => None,
        None => Some(Reason::NotAsked),
    }
}

fn other(revision: &str, rules: &Rules) -> Option<Reason> {
    let ours = rules.revision.as_deref();
    (ours.is_some_and(|ours| ours != revision)).then(|| Reason::Revision(revision.to_owned()))
}

fn template(annotations: &BTreeMap<String, String>) -> Result<Template, InjectError> {
    let mut chosen = Template::Sidecar;
    let list = annotations.get(TEMPLATES).map_or("", String::as_str);
    for name in list.split(',').map(str::trim).filter(|n| !n.is_empty()) {
        match name {
            "sidecar" => {}
            "gateway" => chosen = Template::Gateway,
            other => return Err(InjectError::Template(other.to_owned())),
        }
    }
    Ok(chosen)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// A pod in a namespace, told by `NAME=VALUE` each.
    fn told(namespace: &[&str], labels: &[&str], annotations: &[&str], rules: &Rules) -> Decision {
        let pairs = |list: &[&str]| -> Labels {
            let pair = |text: &&str| text.split_once('=').map(|(k, v)| (k.to_owned(), v.to_owned()));
            list.iter().filter_map(pair).collect()
        };
        let (namespace, labels, annotations) = (pairs(namespace), pairs(labels), pairs(annotations).0);
        let subject = Subject {
            namespace: "bank",
            by: Namespace::Labels(&namespace),
            labels: &labels,
            annotations: &annotations,
            host_network: false,
        };
        decide(&subject, rules).unwrap()
    }

    const YES: Decision = Decision::Inject(Template::Sidecar);

    fn no(value: &str) -> Decision {
        Decision::Skip(Reason::Declined(value.to_owned()))
    }

    #[test]
    fn the_pods_own_word_counts_before_the_namespaces() {
        let rules = Rules::default();
        let on = &["istio-injection=enabled"][..];
        let off = &["istio-injection=disabled"][..];
        let (yes, never) = (
            &["sidecar.istio.io/inject=true"][..],
            &["sidecar.istio.io/inject=false"][..],
        );
        assert_eq!(told(on, &[], &[], &rules), YES);
        assert_eq!(told(&[], &[], &[], &rules), Decision::Skip(Reason::NotAsked));
        assert_eq!(told(on, never, &[], &rules), no("false"));
        assert_eq!(told(on, &[], never, &rules), no("false"));
        assert_eq!(told(&[], yes, &[], &rules), YES);
        assert_eq!(
            told(&[], yes, never, &rules),
            YES,
            "the label counts before the annotation"
        );
        assert_eq!(
            told(off, yes, &[], &rules),
            Decision::Skip(Reason::NamespaceDeclined)
        );
        let gateway = &["inject.istio.io/templates=gateway"][..];
        assert_eq!(
            told(&[], yes, gateway, &rules),
            Decision::Inject(Template::Gateway)
        );
    }

    #[test]
    fn a_revision_injects_its_own_and_no_others() {
        let ours = Rules {
            revision: Some("canary".to_owned()),
            ..Rules::default()
        };
        let (canary, stable) = (&["istio.io/rev=canary"][..], &["istio.io/rev=stable"][..]);
        assert_eq!(told(canary, &[], &[], &ours), YES);
        assert_eq!(told(&[], canary, &[], &ours), YES);
        let other = Decision::Skip(Reason::Revision("stable".to_owned()));
        assert_eq!(told(stable, &[], &[], &ours), other);
        assert_eq!(told(&[], stable, &[], &ours), other);
        assert_eq!(
            told(stable, canary, &[], &ours),
            other,
            "the namespace's revision goes first"
        );
        assert_eq!(
            told(stable, &[], &[], &Rules::default()),
            YES,
            "who has no revision takes any"
        );
    }

    #[test]
    fn selectors_stand_between_the_pod_and_its_namespace() {
        let selector = |v| serde_json::from_value::<Selector>(v).unwrap();
        let rules = Rules {
            never: vec![selector(json!({"matchLabels": {"job-name": "build"}}))],
            always: vec![selector(
                json!({"matchExpressions": [{"key": "tier", "operator": "In", "values": ["web"]}]}),
            )],
            ..Rules::default()
        };
        let on = &["istio-injection=enabled"][..];
        assert_eq!(
            told(on, &["job-name=build"], &[], &rules),
            Decision::Skip(Reason::Never)
        );
        assert_eq!(
            told(
                on,
                &["job-name=build", "sidecar.istio.io/inject=true"],
                &[],
                &rules
            ),
            YES
        );
        assert_eq!(told(&[], &["tier=web"], &[], &rules), YES);
        assert_eq!(
            told(&[], &["tier=web", "sidecar.istio.io/inject=false"], &[], &rules),
            no("false")
        );
        let by_default = Rules {
            namespaces_by_default: true,
            ..Rules::default()
        };
        assert_eq!(told(&[], &[], &[], &by_default), YES);
    }

    #[test]
    fn system_pods_and_those_on_the_nodes_network_are_left_alone_with_a_reason() {
        let (labels, annotations) = ([(INJECT, "true")].into_iter().collect(), BTreeMap::new());
        let mut subject = Subject {
            namespace: "kube-system",
            by: Namespace::Chosen,
            labels: &labels,
            annotations: &annotations,
            host_network: false,
        };
        let Decision::Skip(reason) = decide(&subject, &Rules::default()).unwrap() else {
            panic!("injected");
        };
        assert!(
            reason.to_string().contains("kube-system are never injected"),
            "{reason}"
        );
        subject.namespace = "bank";
        subject.host_network = true;
        assert_eq!(
            decide(&subject, &Rules::default()),
            Ok(Decision::Skip(Reason::HostNetwork))
        );
    }

    #[test]
    fn a_template_that_there_is_not_is_refused_by_name() {
        let annotations = BTreeMap::from([(TEMPLATES.to_owned(), "sidecar, grpc-agent".to_owned())]);
        let subject = Subject {
            namespace: "bank",
            by: Namespace::Chosen,
            labels: &Labels::default(),
            annotations: &annotations,
            host_network: false,
        };
        assert_eq!(
            decide(&subject, &Rules::default()),
            Err(InjectError::Template("grpc-agent".to_owned()))
        );
    }
}
