//! `isthmus control-plane`.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, anyhow};
use isthmus_control::mesh::Identity;
use isthmus_control::role::{self, Config, Plugs};
use isthmus_control::serve::Addresses;
use isthmus_kube::source::Scope;
use isthmus_kube::{
    ApiServer, Cluster, Connector, Credentials, ServiceAccounts, TokenConfig, Writers, ensure_own_root,
};
use isthmus_model::{ClusterId, TrustDomain};
use isthmus_runtime::drain;
use isthmus_runtime::logging::{self, Format, Levels, Output};
use isthmus_runtime::metrics::Metrics;
use isthmus_runtime::readiness::Readiness;
use isthmus_runtime::signals::Signals;
use tokio::sync::watch;

use super::exit;

/// How long streams have to end after SIGTERM.
const PATIENCE: Duration = Duration::from_secs(5);
/// Where an API server asks about pods and objects.
const WEBHOOKS: u16 = 15017;

/// Run the control plane of a member cluster.
///
/// It reads the cluster's objects from its API server (--kubernetes) or from directories of YAML (--config) and
/// watches them, tells the cluster's proxies what to do by xDS (15012), signs their certificates, and exchanges
/// services with its peers.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example: isthmus control-plane --cluster-id us --network us-net --config mesh/us --cacerts certs/us --peer eu=eastwest.eu.example.net:15443"
)]
pub struct Args {
    /// Name of this member cluster.
    #[arg(long, value_name = "NAME", env = "CLUSTER_ID")]
    cluster_id: String,
    /// Network of workloads that say nothing else.
    #[arg(long, default_value = "", env = "NETWORK")]
    network: String,
    /// Name of the mesh.
    #[arg(long, default_value = "", env = "MESH_ID")]
    mesh_id: String,
    /// Root of the identities, unless the MeshConfig says another.
    #[arg(
        long,
        value_name = "DOMAIN",
        default_value = "",
        env = "TRUST_DOMAIN",
        hide_default_value = true
    )]
    trust_domain: String,
    /// Namespace of the control plane and of mesh-wide policies.
    #[arg(long, default_value = "istio-system", env = "POD_NAMESPACE")]
    namespace: String,
    /// Directory of YAML with the cluster's objects; may be given several times.
    #[arg(long = "config", value_name = "DIR", required_unless_present = "kubernetes")]
    config: Vec<PathBuf>,
    #[command(flatten)]
    kubernetes: Kubernetes,
    /// Directory with the files of the secret `cacerts`. Without it, a root of its own is made.
    #[arg(long, value_name = "DIR")]
    cacerts: Option<PathBuf>,
    /// JSON web key set of the issuer of service-account tokens.
    #[arg(long, value_name = "FILE")]
    jwks: Option<PathBuf>,
    /// Accepted issuer of service-account tokens; may be given several times.
    #[arg(
        long = "token-issuer",
        value_name = "ISSUER",
        default_value = "https://kubernetes.default.svc.cluster.local"
    )]
    token_issuers: Vec<String>,
    /// Another member cluster and the public address of its east-west gateway; may be given several times.
    #[arg(long = "peer", value_name = "NAME=HOST:PORT", value_parser = peer, env = "PEERS", value_delimiter = ',')]
    peers: Vec<(ClusterId, String)>,
    /// Directory for what has to survive a restart.
    #[arg(
        long,
        value_name = "DIR",
        default_value = "/var/lib/isthmus",
        env = "ISTHMUS_STATE_DIR"
    )]
    state_dir: PathBuf,
    /// Life of workload certificates that ask for none, in seconds or as 1h, 30m, 60s.
    #[arg(long, value_name = "DURATION", default_value = "24h")]
    workload_cert_ttl: isthmus_api::Duration,
    /// Port for xDS and certificates over TLS.
    #[arg(long, default_value_t = 15012)]
    xds_port: u16,
    /// Port for xDS in plaintext; 0 for none.
    #[arg(long, default_value_t = 15010)]
    plaintext_port: u16,
    /// Address on which the plaintext port listens.
    #[arg(long, default_value_t = IpAddr::V4(Ipv4Addr::LOCALHOST))]
    plaintext_address: IpAddr,
    /// Port for /ready and /debug.
    #[arg(long, default_value_t = 8080)]
    http_port: u16,
    /// Port for /metrics and /version.
    #[arg(long, default_value_t = 15014)]
    monitoring_port: u16,
    /// Port on which pods without sidecars are told the mesh's names (UDP and TCP), for the cluster's DNS to
    /// send stub domains to; 0 for none.
    #[arg(long, default_value_t = 0)]
    dns_port: u16,
    /// Port on which Kubernetes' API server asks about pods and objects, 0 for none; 15017 with --kubernetes.
    #[arg(long)]
    webhook_port: Option<u16>,
    /// Revision of this control plane; empty is the default one.
    #[arg(long, env = "REVISION", default_value = "", value_name = "NAME")]
    revision: String,
    /// Levels of the log: `info`, or per scope `default:info,control:debug`.
    #[arg(long, default_value = "info", value_name = "LEVELS")]
    log_level: Levels,
    /// Write the log as JSON.
    #[arg(long)]
    log_as_json: bool,
}

/// The API server as a source.
#[derive(Debug, clap::Args)]
struct Kubernetes {
    /// Read the cluster's objects from its API server, and write there what a control plane writes: as the
    /// account of the pod that this runs in, or as --kubeconfig says.
    #[arg(long)]
    kubernetes: bool,
    /// Kubeconfig of the API server.
    #[arg(long, value_name = "FILE", requires = "kubernetes")]
    kubeconfig: Option<PathBuf>,
    /// Context in the kubeconfig; the current one when not given.
    #[arg(long, value_name = "NAME", requires = "kubernetes")]
    context: Option<String>,
    /// Name of this replica among others, for the lease of the one that writes; the host's name when not given.
    #[arg(
        long,
        value_name = "NAME",
        default_value = "",
        env = "POD_NAME",
        hide_default_value = true
    )]
    pod_name: String,
}

pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let format = if args.log_as_json {
        Format::Json
    } else {
        Format::Text
    };
    logging::init(args.log_level.clone(), format, Output::Stderr).context("logging")?;
    let (config, kubernetes) = resolve(args)?;
    // Two threads: one may build a snapshot while the other answers.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("starting the runtime")?;
    runtime.block_on(serve(config, kubernetes))?;
    Ok(ExitCode::from(exit::OK))
}

async fn serve(config: Config, kubernetes: Option<ApiServerOptions>) -> anyhow::Result<()> {
    let mut signals = Signals::install().context("installing signal handlers")?;
    let (trigger, watcher) = drain::channel();
    let work = async move {
        let plugs = match kubernetes {
            Some(options) => match watcher
                .clone()
                .until_draining(plug_in(options, &config, &watcher))
                .await
            {
                Some(plugs) => plugs?,
                // Told to end before it began.
                None => return Ok(()),
            },
            None => Plugs::default(),
        };
        role::run(config, plugs, Metrics::new(), Readiness::new(), watcher).await?;
        anyhow::Ok(())
    };
    let mut work = std::pin::pin!(work);
    tokio::select! {
        ended = &mut work => ended?,
        _ = signals.end() => {
            let (ended, _) = tokio::join!(work, trigger.drain(PATIENCE));
            ended?;
        }
    }
    Ok(())
}

/// How the API server is reached, and as whom.
struct ApiServerOptions {
    credentials: Credentials,
    revision: String,
    replica: String,
}

/// The API server as source, as judge of tokens, and as the place that is written to.
async fn plug_in(
    options: ApiServerOptions,
    config: &Config,
    drain: &drain::Watcher,
) -> anyhow::Result<Plugs> {
    let cluster = Cluster::connect(&options.credentials).await?;
    let namespace = &config.identity.root_namespace;
    if config.cacerts.is_none() {
        // Where `control::authority` looks for a root of its own.
        let folder = config.state_dir.join("self-signed");
        let domain = config.identity.trust_domain.clone().unwrap_or_default();
        ensure_own_root(&cluster, namespace, &folder, &domain).await?;
    }
    let accounts = ServiceAccounts::start(TokenConfig {
        cluster: cluster.clone(),
        name: config.identity.cluster.clone(),
        folder: config.state_dir.join("tokens"),
        issuers: config.issuers.clone(),
    });
    let (roots, trusted) = watch::channel(Arc::from(""));
    let (statuses, said) = watch::channel(Arc::default());
    let writers = Writers {
        cluster: cluster.clone(),
        namespace: namespace.clone(),
        revision: options.revision,
        identity: options.replica,
        roots: trusted,
        statuses: said,
    };
    writers.start(drain);
    Ok(Plugs {
        sources: vec![Box::new(ApiServer::new(cluster, Scope::own(namespace)))],
        authenticators: vec![accounts],
        connector: Some(Arc::new(Connector {
            root_namespace: namespace.clone(),
        })),
        roots: Some(roots),
        statuses: Some(statuses),
    })
}

fn resolve(args: Args) -> anyhow::Result<(Config, Option<ApiServerOptions>)> {
    let trust_domain = match args.trust_domain.as_str() {
        "" => None,
        domain => Some(domain.parse::<TrustDomain>().context("--trust-domain")?),
    };
    let kubernetes = args.kubernetes.kubernetes.then(|| ApiServerOptions {
        credentials: match (args.kubernetes.kubeconfig, args.kubernetes.context) {
            // Kubernetes sets this in every pod.
            (None, None) if std::env::var_os("KUBERNETES_SERVICE_HOST").is_some() => Credentials::InCluster,
            (kubeconfig, context) => Credentials::Context { kubeconfig, context },
        },
        revision: args.revision.clone(),
        replica: match args.kubernetes.pod_name.as_str() {
            "" => nix::unistd::gethostname()
                .map(|name| name.to_string_lossy().into_owned())
                .unwrap_or_else(|_| format!("istiod-{}", std::process::id())),
            name => name.to_owned(),
        },
    });
    let webhook = match args.webhook_port {
        None if kubernetes.is_some() => Some(WEBHOOKS),
        port => port.filter(|port| *port != 0),
    };
    let on = |ip: IpAddr, port: u16| SocketAddr::from((ip, port));
    let any = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
    let config = Config {
        identity: Identity {
            cluster: ClusterId::from(args.cluster_id),
            network: args.network.into(),
            mesh_id: args.mesh_id,
            trust_domain,
            root_namespace: args.namespace,
        },
        directories: args.config,
        cacerts: args.cacerts,
        jwks: args.jwks,
        issuers: args.token_issuers,
        peers: args.peers.into_iter().collect(),
        state_dir: args.state_dir,
        addresses: Addresses {
            xds: on(any, args.xds_port),
            plaintext: (args.plaintext_port != 0).then(|| on(args.plaintext_address, args.plaintext_port)),
            http: on(any, args.http_port),
            monitoring: on(any, args.monitoring_port),
        },
        dns: (args.dns_port != 0).then(|| on(any, args.dns_port)),
        webhook: webhook.map(|port| on(any, port)),
        revision: args.revision,
        workload_ttl: *args.workload_cert_ttl,
        version: serde_json::json!({ "version": env!("CARGO_PKG_VERSION") }),
    };
    Ok((config, kubernetes))
}

fn peer(text: &str) -> anyhow::Result<(ClusterId, String)> {
    let (name, address) = text
        .split_once('=')
        .filter(|(name, address)| !name.is_empty() && address.contains(':'))
        .ok_or_else(|| anyhow!("write NAME=HOST:PORT, as in eu=203.0.113.7:15443"))?;
    Ok((ClusterId::from(name), address.to_owned()))
}
