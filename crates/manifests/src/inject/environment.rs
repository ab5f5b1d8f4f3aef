//! The environment by which a proxy knows whose it is, which is Istio's. `isthmus proxy` reads it.

use isthmus_model::Labels;

use super::proxy_config::ProxyConfig;
use super::workload::Workload;

/// The file with the roots that proxies start with.
pub const ROOT_CERT: &str = "/var/run/secrets/istio/root-cert.pem";
/// The file with the token by which they prove who they are.
pub const TOKEN: &str = "/var/run/secrets/tokens/istio-token";

/// What is the same for a pod's whole life and known before it runs.
#[derive(Debug, Clone, Copy)]
pub struct Facts<'a> {
    /// Member cluster.
    pub cluster: &'a str,
    /// Network.
    pub network: &'a str,
    /// Mesh.
    pub mesh_id: &'a str,
    /// Root of its identity.
    pub trust_domain: &'a str,
    /// Whose pod it is.
    pub workload: &'a Workload,
    /// Labels, those of injection included.
    pub labels: &'a Labels,
    /// Region, zone and sub-zone, where they are known; else the control plane knows the node.
    pub locality: &'a str,
    /// Whether its traffic is redirected; `None` for a gateway, which has none to redirect.
    pub redirected: Option<bool>,
    /// Address of the control plane, unless `config` says another.
    pub discovery: &'a str,
    /// Address of the CSR service.
    pub authority: &'a str,
    /// What the user says of proxies.
    pub config: &'a ProxyConfig,
}

/// The variables with their values; of two of one name there is none.
pub fn environment(facts: &Facts<'_>) -> Vec<(String, String)> {
    let config = facts.config;
    let discovery = config.discovery().unwrap_or(facts.discovery);
    let authority = match config.discovery() {
        // Who names another control plane means its authority as well, unless there is one apart.
        Some(discovery) if facts.authority == facts.discovery => discovery,
        _ => facts.authority,
    };
    let owner = match facts.workload.name.as_str() {
        "" => String::new(),
        _ => facts.workload.owner(),
    };
    let redirected = match facts.redirected {
        Some(true) => "REDIRECT",
        Some(false) => "NONE",
        None => "",
    };
    let variables = [
        ("ISTIO_META_CLUSTER_ID", facts.cluster.to_owned()),
        ("ISTIO_META_NETWORK", facts.network.to_owned()),
        ("ISTIO_META_MESH_ID", facts.mesh_id.to_owned()),
        ("TRUST_DOMAIN", facts.trust_domain.to_owned()),
        ("ISTIO_META_WORKLOAD_NAME", facts.workload.name.clone()),
        ("ISTIO_META_OWNER", owner),
        // Labels hold no `$`, by Kubernetes' own rules, so that nothing in them is expanded.
        (
            "ISTIO_METAJSON_LABELS",
            serde_json::to_string(facts.labels).unwrap_or_default(),
        ),
        ("ISTIO_META_INTERCEPTION_MODE", redirected.to_owned()),
        ("ISTIO_LOCALITY", facts.locality.to_owned()),
        ("CA_ADDR", authority.to_owned()),
        ("PROXY_XDS_ADDRESS", discovery.to_owned()),
        ("XDS_ROOT_CA", ROOT_CERT.to_owned()),
        ("CA_ROOT_CA", ROOT_CERT.to_owned()),
        (
            "TERMINATION_DRAIN_DURATION_SECONDS",
            config.drain_seconds().map(|s| s.to_string()).unwrap_or_default(),
        ),
        (
            "ISTIO_ADMIN_ADDRESS",
            config
                .admin_port()
                .map(|p| format!("127.0.0.1:{p}"))
                .unwrap_or_default(),
        ),
    ];
    let mut out: Vec<(String, String)> = variables
        .into_iter()
        .filter(|(_, value)| !value.is_empty())
        .map(|(name, value)| (name.to_owned(), value))
        .collect();
    for (name, value) in config.environment() {
        out.retain(|(there, _)| there != name);
        out.push((name.to_owned(), value.to_owned()));
    }
    out
}
