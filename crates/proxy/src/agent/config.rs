//! What a proxy is started with. Flags and environment are read once, here, and passed down resolved.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use isthmus_model::TrustDomain;
use isthmus_xds::client::Protocol;

use super::application::Application;
use crate::node::{Node, Role};

/// Flags as they were typed.
#[derive(Debug, Clone, Default)]
pub struct Flags {
    /// `sidecar` or `router`; with a bootstrap file it may be left out.
    pub role: Option<Role>,
    /// Worker threads; `None`: one per core.
    pub concurrency: Option<usize>,
    /// Cluster's DNS domain; empty: `cluster.local`.
    pub domain: String,
    /// Static bootstrap instead of a control plane.
    pub bootstrap: Option<PathBuf>,
}

/// Why a proxy cannot be started as it is asked to.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// Neither a role nor a file.
    #[error("say `proxy sidecar`, `proxy router` or `proxy -c FILE`")]
    Role,
    /// A variable holds what cannot be read.
    #[error("{name}={value:?}: {reason}")]
    Variable {
        /// Its name.
        name: &'static str,
        /// What it holds.
        value: String,
        /// What is wrong, and what would be right.
        reason: String,
    },
}

/// How the control plane is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ControlPlane {
    /// `host:port` of ADS (`PROXY_XDS_ADDRESS`, else `DISCOVERY_ADDRESS`).
    pub discovery: String,
    /// `host:port` of the CSR service (`CA_ADDR`, else the same).
    pub authority: String,
    /// The name that its certificate must bear (`ISTIOD_SAN`, else the host of the address).
    pub server_name: String,
    /// Roots for ADS (`XDS_ROOT_CA`); `None`: plaintext, for port 15010 on the same host.
    pub discovery_roots: Option<PathBuf>,
    /// Roots for the CSR service (`CA_ROOT_CA`).
    pub authority_roots: Option<PathBuf>,
    /// Service-account token (`ISTIO_TOKEN_PATH`).
    pub token: PathBuf,
    /// Delta, unless `ISTIO_DELTA_XDS` is `false`: for servers that know state of the world alone.
    pub protocol: Protocol,
}

/// A resolved configuration.
#[derive(Debug, Clone)]
pub struct Config {
    /// Whose proxy it is.
    pub node: Node,
    /// Trust domain of the workload (`TRUST_DOMAIN`).
    pub trust_domain: TrustDomain,
    /// Cluster's DNS domain.
    pub domain: String,
    /// Worker threads, at least 1.
    pub concurrency: usize,
    /// Where configuration comes from.
    pub source: Source,
    /// Admin interface (`ISTIO_ADMIN_ADDRESS`, else 127.0.0.1:15000; with a bootstrap the file's).
    pub admin: Option<SocketAddr>,
    /// Health, merged metrics and Prometheus; none with a bootstrap file.
    pub status: Option<StatusPorts>,
    /// DNS for the application (`DNS_PROXY_ADDR`); sidecars alone have it.
    pub dns: Option<SocketAddr>,
    /// `SO_MARK` of every socket that the proxy opens.
    pub mark: Option<u32>,
    /// Time between SIGTERM and the closing of listeners (`TERMINATION_DRAIN_DURATION_SECONDS`, 5 s).
    pub drain: Duration,
    /// What may be asked of the application through the agent (`ISTIO_KUBE_APP_PROBERS`,
    /// `ISTIO_PROMETHEUS_ANNOTATIONS`).
    pub application: Application,
    /// All that Istio's agent would put into the node's metadata besides what `node` says.
    pub metadata: BTreeMap<String, serde_json::Value>,
}

/// Where configuration comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// A control plane.
    ControlPlane(ControlPlane),
    /// A bootstrap file with static resources.
    File(PathBuf),
}

/// Ports that everyone may reach.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StatusPorts {
    /// `/healthz/ready`, 15021.
    pub health: SocketAddr,
    /// Merged metrics, 15020.
    pub merged: SocketAddr,
    /// Own metrics, 15090.
    pub prometheus: SocketAddr,
}

/// The mark that capture skips (ztunnel's).
pub const MARK: u32 = 0x539;

const TOKEN: &str = "/var/run/secrets/tokens/istio-token";
const ROOTS: &str = "/var/run/secrets/istio/root-cert.pem";
const CONTROL_PLANE: &str = "istiod.istio-system.svc:15012";
const ISTIO_VERSION: &str = "1.29.0";
const DRAIN: Duration = Duration::from_secs(5);
/// More workers than this help nobody.
const MOST_WORKERS: usize = 256;

impl Config {
    /// Resolves flags and environment (`env` gives a variable's value).
    pub fn resolve(flags: Flags, env: impl Fn(&str) -> Option<String>) -> Result<Self, ConfigError> {
        let env = |name: &str| env(name).filter(|v| !v.is_empty());
        let role = match (flags.role, &flags.bootstrap) {
            (Some(role), _) => role,
            (None, Some(_)) => Role::Router,
            (None, None) => return Err(ConfigError::Role),
        };
        let domain = if flags.domain.is_empty() {
            "cluster.local".to_owned()
        } else {
            flags.domain.clone()
        };
        let metadata = metadata(&env)?;
        let node = node(role, &domain, &env, &metadata)?;
        let drain = match env("TERMINATION_DRAIN_DURATION_SECONDS") {
            None => DRAIN,
            Some(v) => v.parse().map(Duration::from_secs).map_err(|_| {
                variable(
                    "TERMINATION_DRAIN_DURATION_SECONDS",
                    &v,
                    "a number of seconds is expected",
                )
            })?,
        };
        let trust_domain = match env("TRUST_DOMAIN") {
            None => TrustDomain::default(),
            Some(v) => v
                .parse()
                .map_err(|e| variable("TRUST_DOMAIN", &v, &format!("{e}")))?,
        };
        let (probers, scrape) = (env("ISTIO_KUBE_APP_PROBERS"), env("ISTIO_PROMETHEUS_ANNOTATIONS"));
        let own = node.addresses.first().copied();
        let application =
            Application::read(probers.as_deref(), scrape.as_deref(), own).map_err(|(name, reason)| {
                let value = if name == "ISTIO_KUBE_APP_PROBERS" {
                    &probers
                } else {
                    &scrape
                };
                variable(name, value.as_deref().unwrap_or_default(), &reason)
            })?;
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let has_control_plane = flags.bootstrap.is_none();
        Ok(Self {
            concurrency: match flags.concurrency {
                None | Some(0) => cores,
                Some(n) => n.min(MOST_WORKERS),
            },
            source: match flags.bootstrap {
                Some(file) => Source::File(file),
                None => Source::ControlPlane(control_plane(&env)?),
            },
            admin: if has_control_plane {
                Some(socket(&env, "ISTIO_ADMIN_ADDRESS", (Ipv4Addr::LOCALHOST, 15000))?)
            } else {
                None
            },
            status: has_control_plane.then_some(StatusPorts {
                health: (Ipv4Addr::UNSPECIFIED, 15021).into(),
                merged: (Ipv4Addr::UNSPECIFIED, 15020).into(),
                prometheus: (Ipv4Addr::UNSPECIFIED, 15090).into(),
            }),
            dns: if has_control_plane && role == Role::Sidecar {
                Some(socket(&env, "DNS_PROXY_ADDR", (Ipv4Addr::LOCALHOST, 15053))?)
            } else {
                None
            },
            mark: may_mark().then_some(MARK),
            node,
            trust_domain,
            domain,
            drain,
            application,
            metadata,
        })
    }
}

fn variable(name: &'static str, value: &str, reason: &str) -> ConfigError {
    ConfigError::Variable {
        name,
        value: value.to_owned(),
        reason: reason.to_owned(),
    }
}

/// Whether this process may mark sockets, which takes CAP_NET_ADMIN. Where it may not, capture tells the
/// proxy's traffic by its user.
fn may_mark() -> bool {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::DGRAM, None);
    socket.is_ok_and(|s| s.set_mark(MARK).is_ok())
}

fn socket(
    env: &impl Fn(&str) -> Option<String>,
    name: &'static str,
    default: (Ipv4Addr, u16),
) -> Result<SocketAddr, ConfigError> {
    let Some(v) = env(name) else {
        return Ok(default.into());
    };
    v.replace("localhost:", "127.0.0.1:")
        .parse()
        .map_err(|_| variable(name, &v, "IP:PORT is expected"))
}

fn control_plane(env: &impl Fn(&str) -> Option<String>) -> Result<ControlPlane, ConfigError> {
    let discovery = env("PROXY_XDS_ADDRESS")
        .or_else(|| env("DISCOVERY_ADDRESS"))
        .unwrap_or_else(|| CONTROL_PLANE.to_owned());
    let authority = env("CA_ADDR").unwrap_or_else(|| discovery.clone());
    let host = discovery.rsplit_once(':').map_or(discovery.as_str(), |(h, _)| h);
    let server_name = env("ISTIOD_SAN").unwrap_or_else(|| match host.parse::<IpAddr>() {
        Ok(_) => "istiod.istio-system.svc".to_owned(),
        Err(_) => host.to_owned(),
    });
    // Istio's plaintext port; elsewhere TLS is never left out.
    let plaintext = |address: &str| address.ends_with(":15010");
    let roots = |name: &str, address: &str| {
        (!plaintext(address)).then(|| PathBuf::from(env(name).unwrap_or_else(|| ROOTS.to_owned())))
    };
    let protocol = match env("ISTIO_DELTA_XDS").as_deref() {
        None | Some("true" | "1") => Protocol::Delta,
        Some("false" | "0") => Protocol::Sotw,
        Some(v) => return Err(variable("ISTIO_DELTA_XDS", v, "true or false is expected")),
    };
    Ok(ControlPlane {
        discovery_roots: roots("XDS_ROOT_CA", &discovery),
        authority_roots: roots("CA_ROOT_CA", &authority),
        token: env("ISTIO_TOKEN_PATH").unwrap_or_else(|| TOKEN.to_owned()).into(),
        discovery,
        authority,
        server_name,
        protocol,
    })
}

/// Metadata of the node that Istio's agent takes from the environment.
const METADATA: [&str; 9] = [
    "CLUSTER_ID",
    "NETWORK",
    "REQUESTED_NETWORK_VIEW",
    "MESH_ID",
    "WORKLOAD_NAME",
    "OWNER",
    "INTERCEPTION_MODE",
    "DNS_CAPTURE",
    "DNS_AUTO_ALLOCATE",
];

fn metadata(
    env: &impl Fn(&str) -> Option<String>,
) -> Result<BTreeMap<String, serde_json::Value>, ConfigError> {
    let mut out = BTreeMap::new();
    for key in METADATA {
        if let Some(v) = env(&format!("ISTIO_META_{key}")) {
            out.insert(key.to_owned(), v.into());
        }
    }
    for (key, name) in [
        ("LABELS", "ISTIO_METAJSON_LABELS"),
        ("ANNOTATIONS", "ISTIO_METAJSON_ANNOTATIONS"),
    ] {
        if let Some(v) = env(name) {
            let read: BTreeMap<String, String> = serde_json::from_str(&v)
                .map_err(|e| variable(name, &v, &format!("a JSON object of texts is expected: {e}")))?;
            out.insert(key.to_owned(), serde_json::json!(read));
        }
    }
    let version = env("ISTIO_META_ISTIO_VERSION").unwrap_or_else(|| ISTIO_VERSION.to_owned());
    out.insert("ISTIO_VERSION".to_owned(), version.into());
    out.entry("DNS_CAPTURE".to_owned()).or_insert("true".into());
    Ok(out)
}

fn node(
    role: Role,
    domain: &str,
    env: &impl Fn(&str) -> Option<String>,
    metadata: &BTreeMap<String, serde_json::Value>,
) -> Result<Node, ConfigError> {
    let said = |key: &str| metadata.get(key).and_then(|v| v.as_str()).unwrap_or_default();
    let name = env("POD_NAME")
        .or_else(|| env("HOSTNAME"))
        .unwrap_or_else(|| "proxy".to_owned());
    let namespace = env("POD_NAMESPACE").unwrap_or_else(|| "default".to_owned());
    let mut addresses = Vec::new();
    for text in env("INSTANCE_IPS")
        .or_else(|| env("INSTANCE_IP"))
        .or_else(|| env("POD_IP"))
        .unwrap_or_default()
        .split(',')
        .map(str::trim)
        .filter(|t| !t.is_empty())
    {
        addresses.push(
            text.parse::<IpAddr>()
                .map_err(|_| variable("INSTANCE_IP", text, "an IP address is expected"))?,
        );
    }
    if addresses.is_empty() {
        addresses.push(Ipv4Addr::LOCALHOST.into());
    }
    let labels: BTreeMap<String, String> = metadata
        .get("LABELS")
        .and_then(|v| serde_json::from_value(v.clone()).ok())
        .unwrap_or_default();
    let workload = match said("WORKLOAD_NAME") {
        "" => name.clone(),
        w => w.to_owned(),
    };
    // ISTIO_LOCALITY is written with slashes; the label with dots in place of them.
    let locality = env("ISTIO_LOCALITY").unwrap_or_default();
    Ok(Node {
        id: format!(
            "{}~{}~{name}.{namespace}~{namespace}.svc.{domain}",
            role.as_str(),
            addresses[0]
        )
        .into(),
        role,
        addresses,
        name: name.into(),
        workload: workload.into(),
        owner: said("OWNER").into(),
        service_account: env("SERVICE_ACCOUNT")
            .unwrap_or_else(|| "default".to_owned())
            .into(),
        cluster_id: said("CLUSTER_ID").into(),
        network: said("NETWORK").into(),
        mesh_id: said("MESH_ID").into(),
        namespace: namespace.into(),
        labels,
        locality: isthmus_model::Locality::from_label(&locality),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolve(flags: Flags, env: &[(&str, &str)]) -> Result<Config, ConfigError> {
        Config::resolve(flags, |name| {
            env.iter().find(|(n, _)| *n == name).map(|(_, v)| v.to_string())
        })
    }

    fn sidecar() -> Flags {
        Flags {
            role: Some(Role::Sidecar),
            ..Flags::default()
        }
    }

    #[test]
    fn a_sidecar_is_what_its_pod_says() {
        let config = resolve(
            sidecar(),
            &[
                ("POD_NAME", "sleep-1"),
                ("POD_NAMESPACE", "bank"),
                ("INSTANCE_IP", "10.10.0.7"),
                ("ISTIO_META_CLUSTER_ID", "us"),
                ("ISTIO_METAJSON_LABELS", r#"{"app":"sleep","version":"v2"}"#),
                ("ISTIO_LOCALITY", "us/us-a"),
                ("TRUST_DOMAIN", "corp.local"),
                ("PROXY_XDS_ADDRESS", "istiod.istio-system.svc:15012"),
                ("XDS_ROOT_CA", "/roots.pem"),
            ],
        )
        .unwrap();
        assert_eq!(
            &*config.node.id,
            "sidecar~10.10.0.7~sleep-1.bank~bank.svc.cluster.local"
        );
        assert_eq!(config.node.canonical_revision(), "v2");
        assert_eq!(config.node.locality.zone, "us-a");
        assert_eq!(config.dns, Some("127.0.0.1:15053".parse().unwrap()));
        let Source::ControlPlane(control) = config.source else {
            panic!("no control plane");
        };
        assert_eq!(control.server_name, "istiod.istio-system.svc");
        assert_eq!(control.discovery_roots, Some("/roots.pem".into()));
        assert_eq!(control.authority, control.discovery);
    }

    #[test]
    fn tls_is_left_out_only_on_the_plaintext_port() {
        let env = [
            ("PROXY_XDS_ADDRESS", "127.0.0.1:15010"),
            ("CA_ADDR", "127.0.0.1:15012"),
        ];
        let Source::ControlPlane(control) = resolve(sidecar(), &env).unwrap().source else {
            panic!("no control plane");
        };
        assert_eq!(control.discovery_roots, None);
        assert!(control.authority_roots.is_some());
        assert_eq!(control.server_name, "istiod.istio-system.svc");
    }

    #[test]
    fn state_of_the_world_is_spoken_where_it_is_asked_for() {
        for (env, protocol) in [
            (&[][..], Protocol::Delta),
            (&[("ISTIO_DELTA_XDS", "false")][..], Protocol::Sotw),
        ] {
            let Source::ControlPlane(control) = resolve(sidecar(), env).unwrap().source else {
                panic!("no control plane");
            };
            assert_eq!(control.protocol, protocol);
        }
    }

    #[test]
    fn what_cannot_be_read_is_named() {
        assert_eq!(resolve(Flags::default(), &[]).unwrap_err(), ConfigError::Role);
        for (name, value) in [
            ("INSTANCE_IP", "ten"),
            ("TRUST_DOMAIN", "Corp"),
            ("ISTIO_METAJSON_LABELS", "{"),
            ("TERMINATION_DRAIN_DURATION_SECONDS", "soon"),
            ("ISTIO_ADMIN_ADDRESS", "15000"),
            ("ISTIO_DELTA_XDS", "perhaps"),
            ("ISTIO_KUBE_APP_PROBERS", "[]"),
            ("ISTIO_PROMETHEUS_ANNOTATIONS", "yes"),
        ] {
            let error = resolve(sidecar(), &[(name, value)]).unwrap_err();
            assert!(error.to_string().starts_with(&format!("{name}=")), "{error}");
        }
    }
}
