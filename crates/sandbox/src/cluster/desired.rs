//! From Deployments and Pods to the pods that should run: what the deployment controller, the scheduler
//! and the injection webhook would make of the user's objects.

use std::collections::{BTreeMap, HashMap};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use isthmus_api::kubernetes::pod::{Container, EnvVar, PodSpec, Probe as PodProbe};
use isthmus_api::kubernetes::{ConfigMap, Deployment, IntOrString, Node, Pod};
use isthmus_api::mesh_config::{self, CONFIG_MAP, ROOT_NAMESPACE};
use isthmus_api::{Kind, Object};
use isthmus_manifests::inject::ProxyConfig;
use isthmus_manifests::inject::proxy_config::ANNOTATION;
use isthmus_model::{Labels, Locality};
use isthmus_pki::TokenIssuer;

use super::inject::{self, Injection, ProxyPod};
use super::settings::ClusterSettings;
use super::token;
use crate::plan::{Check, ContainerPlan, DnsPlan, PodKey, PodPlan, Probe, Program};

/// How long a token is valid; a real kubelet renews it, a sandbox is not meant to live as long.
const TOKEN_LIFE: Duration = Duration::from_secs(30 * 24 * 3600);

/// A pod that should run.
#[derive(Debug, Clone)]
pub struct Desired {
    /// What Kubernetes would record of it.
    pub record: PodRecord,
    /// How it is started.
    pub plan: PodPlan,
}

/// What Kubernetes records of a pod besides its status.
#[derive(Debug, Clone, PartialEq)]
pub struct PodRecord {
    /// Its name.
    pub key: PodKey,
    /// Identity over time.
    pub uid: String,
    /// Labels, those of injection included.
    pub labels: Labels,
    /// Annotations.
    pub annotations: BTreeMap<String, String>,
    /// Service account.
    pub service_account: String,
    /// Deployment that owns it; empty for a bare Pod.
    pub owner: String,
    /// Node it is bound to.
    pub node: String,
    /// Where that node is.
    pub locality: Locality,
    /// Named and numbered ports of its containers.
    pub ports: Vec<(String, u16)>,
}

/// Something in the user's objects that cannot be run, with the remedy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unrunnable {
    /// `file:line`.
    pub reference: String,
    /// What and what to do.
    pub message: String,
}

/// How often each replica of a Deployment was replaced; part of the pod's name, so that a new pod is a
/// new pod.
pub type Replacements = HashMap<(String, String, u32), u32>;

/// Inputs of [`desired`].
pub struct Inputs<'a> {
    /// The cluster.
    pub settings: &'a ClusterSettings,
    /// The user's objects.
    pub objects: &'a [Arc<Object>],
    /// Signs tokens.
    pub issuer: &'a TokenIssuer,
    /// PEM of the trusted roots.
    pub root_cert: &'a [u8],
    /// Replaced replicas.
    pub replacements: &'a Replacements,
}

/// The pods that should run, in the order of the objects, and what cannot run.
pub fn desired(inputs: &Inputs<'_>) -> (Vec<Desired>, Vec<Unrunnable>) {
    let world = World::read(inputs);
    let (mut pods, mut unrunnable) = (Vec::new(), Vec::new());
    for object in inputs.objects {
        let made = match object.kind {
            Kind::Deployment => object.typed::<Deployment>().map(|d| world.deployment(object, d)),
            Kind::Pod => object.typed::<Pod>().map(|p| world.bare_pod(object, p)),
            _ => None,
        };
        match made {
            Some(Ok(made)) => pods.extend(made),
            Some(Err(message)) => unrunnable.push(Unrunnable {
                reference: object.reference("spec"),
                message,
            }),
            None => {}
        }
    }
    (pods, unrunnable)
}

/// What pods are made against.
struct World<'a> {
    inputs: &'a Inputs<'a>,
    namespaces: HashMap<&'a str, &'a Labels>,
    nodes: Vec<(String, Locality)>,
    /// `defaultConfig` of the MeshConfig.
    proxies: ProxyConfig,
}

/// A pod before it is turned into a plan.
struct Template<'a> {
    name: String,
    namespace: &'a str,
    labels: Labels,
    annotations: &'a BTreeMap<String, String>,
    spec: &'a PodSpec,
    owner: &'a str,
}

impl<'a> World<'a> {
    fn read(inputs: &'a Inputs<'a>) -> Self {
        let of = |kind| inputs.objects.iter().filter(move |o| o.kind == kind);
        Self {
            inputs,
            namespaces: of(Kind::Namespace)
                .map(|o| (o.meta.name.as_str(), &o.meta.labels))
                .collect(),
            nodes: nodes(inputs.settings, inputs.objects),
            proxies: of(Kind::ConfigMap)
                .filter(|o| o.meta.name == CONFIG_MAP && o.meta.namespace == ROOT_NAMESPACE)
                .find_map(|o| {
                    let map = o.typed::<ConfigMap>()?;
                    mesh_config::from_config_map(map, &o.origin.file, |_| 1)
                        .0
                        .config
                        .default_config
                })
                .map_or_else(ProxyConfig::default, ProxyConfig::of),
        }
    }

    fn deployment(&self, object: &'a Object, deployment: &'a Deployment) -> Result<Vec<Desired>, String> {
        let template = &deployment.spec.template;
        let hash = short_hash(&(
            format!("{template:?}"),
            self.namespaces
                .get(object.meta.namespace.as_str())
                .map(|l| format!("{l:?}")),
        ));
        (0..deployment.spec.replicas.unwrap_or(1))
            .map(|ordinal| {
                let slot = (object.meta.namespace.clone(), object.meta.name.clone(), ordinal);
                let replaced = self.inputs.replacements.get(&slot).copied().unwrap_or_default();
                let mut labels = template.metadata.labels.clone();
                labels.0.insert("pod-template-hash".to_owned(), hash.clone());
                self.pod(Template {
                    name: format!(
                        "{}-{hash}-{}",
                        object.meta.name,
                        short_hash(&(&hash, ordinal, replaced))
                    ),
                    namespace: &object.meta.namespace,
                    labels,
                    annotations: &template.metadata.annotations,
                    spec: &template.spec,
                    owner: &object.meta.name,
                })
            })
            .collect()
    }

    fn bare_pod(&self, object: &'a Object, pod: &'a Pod) -> Result<Vec<Desired>, String> {
        self.pod(Template {
            name: object.meta.name.clone(),
            namespace: &object.meta.namespace,
            labels: object.meta.labels.clone(),
            annotations: &object.meta.annotations,
            spec: &pod.spec,
            owner: "",
        })
        .map(|pod| vec![pod])
    }

    fn pod(&self, template: Template<'a>) -> Result<Desired, String> {
        let settings = self.inputs.settings;
        let none = Labels::default();
        let namespace_labels = self.namespaces.get(template.namespace).copied().unwrap_or(&none);
        let of = |host_network| {
            inject::decide(
                template.namespace,
                namespace_labels,
                &template.labels,
                template.annotations,
                host_network,
            )
            .map_err(|e| e.to_string())
        };
        let injection = of(template.spec.host_network)?;
        if template.spec.host_network && of(false)? != Injection::None {
            return Err(
                "a pod on the host's network cannot have a sidecar; remove hostNetwork or set the \
                        label sidecar.istio.io/inject: \"false\""
                    .to_owned(),
            );
        }
        let config = match template.annotations.get(ANNOTATION) {
            // What has no effect in it is for the analysis to say.
            Some(text) => self.proxies.with_annotation(text).map_err(|e| e.to_string())?.0,
            None => self.proxies.clone(),
        };
        let key = PodKey {
            cluster: settings.id.clone(),
            namespace: template.namespace.to_owned(),
            name: template.name.clone(),
        };
        let uid = format!("{:016x}", hash(&(&key, "uid")));
        let account = match template.spec.service_account_name.as_str() {
            "" => "default",
            name => name,
        };
        let (node, locality) = self.node(&template)?;
        let workload = if template.owner.is_empty() {
            &template.name
        } else {
            template.owner
        };
        let labels = injected_labels(settings, &template, workload, injection);

        let mut containers = Vec::new();
        if injection != Injection::None {
            let proxy = ProxyPod {
                name: &template.name,
                namespace: template.namespace,
                service_account: account,
                workload,
                labels: &labels,
                locality: &locality.to_string(),
                config: &config,
            };
            containers.push(inject::proxy_container(settings, &proxy, injection));
        }
        let is_proxy = |c: &Container| c.image == "auto" || c.name == "istio-proxy";
        let about = About {
            template: &template,
            account,
            node: &node,
            labels: &labels,
            settings,
        };
        for container in &template.spec.containers {
            // As Istio's webhook has it: what the pod says of the proxy's container is added to it.
            if is_proxy(container)
                && let Some(proxy) = containers.first_mut().filter(|_| injection != Injection::None)
            {
                about.environment(container, &mut proxy.env)?;
                continue;
            }
            containers.push(about.container(container)?);
        }
        if containers.is_empty() {
            return Err("the pod has no containers".to_owned());
        }
        let ports = template
            .spec
            .containers
            .iter()
            .flat_map(|c| c.ports.iter().map(|p| (p.name.clone(), p.container_port)))
            .collect();
        let files = self.files(&key, &uid, account)?;
        let grace = template
            .spec
            .termination_grace_period_seconds
            .unwrap_or(30)
            .clamp(0, 3600);
        Ok(Desired {
            plan: PodPlan {
                key: key.clone(),
                dns: DnsPlan {
                    nameserver: settings.dns_address().into(),
                    search: search_domains(template.namespace),
                    ndots: 5,
                },
                files,
                volumes: Vec::new(),
                containers,
                capture: (injection == Injection::Sidecar).then(|| template.annotations.clone()),
                grace: Duration::from_secs(grace.unsigned_abs()),
            },
            record: PodRecord {
                key,
                uid,
                labels,
                annotations: template.annotations.clone(),
                service_account: account.to_owned(),
                owner: template.owner.to_owned(),
                node,
                locality,
                ports,
            },
        })
    }

    fn node(&self, template: &Template<'_>) -> Result<(String, Locality), String> {
        let wanted = &template.spec.node_name;
        let found = if wanted.is_empty() {
            self.nodes.first()
        } else {
            self.nodes.iter().find(|(name, _)| name == wanted)
        };
        found.cloned().ok_or_else(|| {
            let known: Vec<_> = self.nodes.iter().map(|(name, _)| name.as_str()).collect();
            format!(
                "there is no node {wanted:?}; write a Node object or one of: {}",
                known.join(", ")
            )
        })
    }

    fn files(&self, key: &PodKey, uid: &str, account: &str) -> Result<BTreeMap<PathBuf, Vec<u8>>, String> {
        let mint = |audience: &str| {
            token::mint(self.inputs.issuer, key, uid, account, audience, TOKEN_LIFE)
                .map(String::into_bytes)
                .map_err(|e| e.to_string())
        };
        let kubernetes = "/var/run/secrets/kubernetes.io/serviceaccount";
        Ok(BTreeMap::from([
            (PathBuf::from(inject::TOKEN), mint(token::AUDIENCE)?),
            (PathBuf::from(inject::ROOT_CERT), self.inputs.root_cert.to_vec()),
            (PathBuf::from(format!("{kubernetes}/token")), mint(token::ISSUER)?),
            (
                PathBuf::from(format!("{kubernetes}/namespace")),
                key.namespace.clone().into_bytes(),
            ),
        ]))
    }
}

/// What a container's environment may refer to.
struct About<'a> {
    template: &'a Template<'a>,
    account: &'a str,
    node: &'a str,
    labels: &'a Labels,
    settings: &'a ClusterSettings,
}

impl About<'_> {
    fn container(&self, container: &Container) -> Result<ContainerPlan, String> {
        let mut env = vec![
            ("POD_NAME".to_owned(), self.template.name.clone()),
            ("POD_NAMESPACE".to_owned(), self.template.namespace.to_owned()),
            ("HOSTNAME".to_owned(), self.template.name.clone()),
            ("CLUSTER".to_owned(), self.settings.id.to_string()),
        ];
        self.environment(container, &mut env)?;
        Ok(ContainerPlan {
            env,
            readiness: container
                .readiness_probe
                .as_ref()
                .map(|p| probe(p, container))
                .transpose()?,
            ..ContainerPlan::new(&container.name, program(container)?)
        })
    }

    /// Puts a container's own variables in the place of those of the same name.
    fn environment(&self, container: &Container, env: &mut Vec<(String, String)>) -> Result<(), String> {
        for variable in &container.env {
            let value = self.value(variable)?;
            env.retain(|(name, _)| *name != variable.name);
            env.push((variable.name.clone(), value));
        }
        Ok(())
    }

    fn value(&self, variable: &EnvVar) -> Result<String, String> {
        let Some(source) = &variable.value_from else {
            return Ok(variable.value.clone());
        };
        let path = source.field_ref.as_ref().map_or("", |f| f.field_path.as_str());
        let label = path
            .strip_prefix("metadata.labels['")
            .and_then(|p| p.strip_suffix("']"));
        let annotation = path
            .strip_prefix("metadata.annotations['")
            .and_then(|p| p.strip_suffix("']"));
        Ok(match (path, label, annotation) {
            ("metadata.name", ..) => self.template.name.clone(),
            ("metadata.namespace", ..) => self.template.namespace.to_owned(),
            ("spec.serviceAccountName", ..) => self.account.to_owned(),
            ("spec.nodeName", ..) => self.node.to_owned(),
            ("status.podIP" | "status.podIPs", ..) => "$(POD_IP)".to_owned(),
            (_, Some(label), _) => self.labels.value(label).unwrap_or_default().to_owned(),
            (_, _, Some(annotation)) => self
                .template
                .annotations
                .get(annotation)
                .cloned()
                .unwrap_or_default(),
            _ => {
                return Err(format!(
                    "environment variable {} of container is taken from {path:?}, which the sandbox does not \
                     have; use fieldRef with metadata.name, metadata.namespace, metadata.labels['...'], \
                     metadata.annotations['...'], spec.nodeName, spec.serviceAccountName or status.podIP",
                    variable.name
                ));
            }
        })
    }
}

fn program(container: &Container) -> Result<Program, String> {
    let image = container.image.rsplit('/').next().unwrap_or_default();
    let (repository, tag) = image.split_once(':').unwrap_or((image, ""));
    if repository == "samples" && !tag.is_empty() && container.command.is_empty() {
        let mut args = vec!["sample".to_owned(), tag.to_owned()];
        args.extend(container.args.iter().cloned());
        return Ok(Program::Isthmus(args));
    }
    if repository == "isthmus" && container.command.is_empty() {
        return Ok(Program::Isthmus(container.args.clone()));
    }
    if container.command.is_empty() {
        return Err(format!(
            "container {:?}: the sandbox has no image {:?}; it runs isthmus/samples:NAME, or, for any other image, \
             the container's `command` from this machine: write command: [\"/path/to/program\"]",
            container.name, container.image
        ));
    }
    Ok(Program::Host(
        container.command.iter().chain(&container.args).cloned().collect(),
    ))
}

fn probe(probe: &PodProbe, container: &Container) -> Result<Probe, String> {
    let port = |port: &IntOrString| match port {
        IntOrString::Number(n) => Ok(*n),
        IntOrString::Name(name) => container
            .ports
            .iter()
            .find(|p| p.name == *name)
            .map(|p| p.container_port)
            .ok_or_else(|| {
                format!(
                    "container {:?}: the readiness probe names port {name:?}, which no port has",
                    container.name
                )
            }),
    };
    let check = match (&probe.http_get, &probe.tcp_socket, &probe.exec) {
        (Some(http), ..) => Check::Http {
            port: port(&http.port)?,
            path: if http.path.is_empty() {
                "/".to_owned()
            } else {
                http.path.clone()
            },
        },
        (_, Some(tcp), _) => Check::Tcp {
            port: port(&tcp.port)?,
        },
        (_, _, Some(exec)) => Check::Exec(exec.command.clone()),
        _ => {
            return Err(format!(
                "container {:?}: the readiness probe has no httpGet, tcpSocket or exec",
                container.name
            ));
        }
    };
    let seconds = |value: i32, default: i32| {
        Duration::from_secs(u64::from(if value > 0 { value } else { default }.unsigned_abs()))
    };
    Ok(Probe {
        check,
        period: seconds(probe.period_seconds, 1),
        timeout: seconds(probe.timeout_seconds, 1),
        initial_delay: seconds(probe.initial_delay_seconds, 0),
        failures: u32::try_from(probe.failure_threshold)
            .ok()
            .filter(|n| *n > 0)
            .unwrap_or(3),
        successes: 1,
        from_node: false,
    })
}

/// The labels that Istio's webhook adds, beside the pod's own.
fn injected_labels(
    settings: &ClusterSettings,
    template: &Template<'_>,
    workload: &str,
    injection: Injection,
) -> Labels {
    let mut labels = template.labels.clone();
    if injection == Injection::None {
        return labels;
    }
    let first = |keys: &[&str]| {
        keys.iter()
            .find_map(|k| template.labels.value(k))
            .map(str::to_owned)
    };
    let name = first(&["service.istio.io/canonical-name", "app.kubernetes.io/name", "app"])
        .unwrap_or_else(|| workload.to_owned());
    let revision = first(&[
        "service.istio.io/canonical-revision",
        "app.kubernetes.io/version",
        "version",
    ])
    .unwrap_or_else(|| "latest".to_owned());
    for (key, value) in [
        ("security.istio.io/tlsMode", "istio".to_owned()),
        ("service.istio.io/canonical-name", name),
        ("service.istio.io/canonical-revision", revision),
        ("topology.istio.io/network", settings.network.to_string()),
    ] {
        labels.0.entry(key.to_owned()).or_insert(value);
    }
    labels
}

/// The cluster's nodes: the user's Node objects, or one of the region that the cluster is named after.
pub fn nodes(settings: &ClusterSettings, objects: &[Arc<Object>]) -> Vec<(String, Locality)> {
    let mut nodes: Vec<_> = objects
        .iter()
        .filter(|o| o.typed::<Node>().is_some())
        .map(|o| {
            let label = |key| o.meta.labels.value(key).unwrap_or_default().to_owned();
            let locality = Locality {
                region: label("topology.kubernetes.io/region"),
                zone: label("topology.kubernetes.io/zone"),
                subzone: label("topology.istio.io/subzone"),
            };
            (o.meta.name.clone(), locality)
        })
        .collect();
    if nodes.is_empty() {
        let region = settings.id.to_string();
        let zone = format!("{region}-a");
        nodes.push((
            format!("{region}-node-1"),
            Locality {
                region,
                zone,
                subzone: String::new(),
            },
        ));
    }
    nodes
}

/// The search list of a pod's resolver.
pub fn search_domains(namespace: &str) -> Vec<String> {
    vec![
        format!("{namespace}.svc.cluster.local"),
        "svc.cluster.local".to_owned(),
        "cluster.local".to_owned(),
    ]
}

fn hash(value: &impl Hash) -> u64 {
    // The same value gives the same name in every run: the hasher's keys are fixed.
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

/// Five characters of the alphabet that Kubernetes makes names from.
fn short_hash(value: &impl Hash) -> String {
    const ALPHABET: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";
    let mut rest = hash(value);
    (0..5)
        .map(|_| {
            let letter = ALPHABET[(rest % 27) as usize];
            rest /= 27;
            char::from(letter)
        })
        .collect()
}
