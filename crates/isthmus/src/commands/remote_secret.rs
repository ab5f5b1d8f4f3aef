//! `isthmus create-remote-secret`.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use isthmus_kube::apply::{Applier, Options};
use isthmus_manifests::remote_secret::{self, RemoteSecret};
use serde_json::{Value, json};

use super::cluster_flags::{ClusterFlags, block_on};
use super::exit;

const FIELD_MANAGER: &str = "isthmus-remote-secret";
/// How long Kubernetes may take to put a token into a Secret.
const PATIENCE: Duration = Duration::from_secs(20);

/// Print the Secret by which another cluster's control plane reads this cluster's API server
///
/// Not needed where control planes peer (isthmus join): no credentials of an API server leave a cluster then. The
/// Secret is the same that istioctl prints. Apply it in the cluster that is to read this one.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example: isthmus create-remote-secret --context eu --name eu\n\nApply what it prints in the other cluster: kubectl apply --context us -f -"
)]
pub struct Args {
    #[command(flatten)]
    cluster: ClusterFlags,
    /// Name of this cluster in the mesh; what its control plane calls it otherwise.
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// Address of the API server as the other cluster reaches it, instead of that in the kubeconfig.
    #[arg(long, value_name = "URL")]
    server: Option<String>,
    /// Service account whose credentials the Secret holds.
    #[arg(long, value_name = "NAME", default_value = remote_secret::ACCOUNT)]
    service_account: String,
    /// Secret with the account's token; one is made otherwise.
    #[arg(long, value_name = "NAME")]
    secret_name: Option<String>,
    /// How the reader proves itself.
    #[arg(long, value_enum, value_name = "TYPE", default_value = "bearer-token")]
    auth_type: AuthType,
    /// Namespace of the control plane, here and there.
    #[arg(
        short = 'i',
        long = "istioNamespace",
        visible_aliases = ["istio-namespace", "namespace"],
        short_alias = 'n',
        default_value = "istio-system"
    )]
    istio_namespace: String,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum AuthType {
    /// With a token of the service account.
    BearerToken,
}

pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    block_on(async move {
        let AuthType::BearerToken = args.auth_type;
        let cluster = args.cluster.connect().await?;
        let server = args.server.as_deref().unwrap_or(cluster.server());
        let server = server.trim_end_matches('/').to_owned();
        if !server.starts_with("https://") {
            bail!("{server} is no address of an API server: it begins with https://");
        }
        let applier = Applier::new(cluster, FIELD_MANAGER);
        let name = match args.name {
            Some(name) => name,
            None => own_name(&applier, &args.istio_namespace).await?,
        };
        if !remote_secret::is_label(&name) {
            bail!(
                "{name:?} cannot name a cluster: write lower-case letters, digits and -, at most 63 (--name)"
            );
        }
        let (ca, token) = credentials(
            &applier,
            &args.istio_namespace,
            &args.service_account,
            args.secret_name.as_deref(),
        )
        .await?;
        if is_loopback(&server) {
            eprintln!(
                "{server} is this machine's own address: give --server the one that the other cluster reaches"
            );
        }
        let secret = RemoteSecret {
            cluster: &name,
            namespace: &args.istio_namespace,
            server: &server,
            ca: &ca,
            token: &token,
        };
        out!("{}", secret.yaml());
        Ok(ExitCode::from(exit::OK))
    })
}

fn is_loopback(server: &str) -> bool {
    let rest = server.trim_start_matches("https://");
    rest.starts_with("127.") || rest.starts_with("localhost") || rest.starts_with("[::1]")
}

/// What the cluster's control plane calls it, else the uid of kube-system, as istioctl does.
async fn own_name(applier: &Applier, namespace: &str) -> anyhow::Result<String> {
    let asked = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "istio-sidecar-injector", "namespace": namespace}});
    if let Some(map) = applier.get(&asked).await? {
        let values: Value = serde_json::from_str(map["data"]["values"].as_str().unwrap_or("{}"))
            .with_context(|| format!("ConfigMap {namespace}/istio-sidecar-injector, key values"))?;
        let name = values["global"]["multiCluster"]["clusterName"].as_str();
        if let Some(name) = name.filter(|name| !name.is_empty()) {
            return Ok(name.to_owned());
        }
    }
    let asked = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "kube-system"}});
    let system = applier.get(&asked).await?;
    let uid = system.as_ref().and_then(|n| n["metadata"]["uid"].as_str());
    uid.map(str::to_owned)
        .ok_or_else(|| anyhow!("the cluster's name is not known; give --name"))
}

/// Root certificates of the API server, and a token of the account that does not expire.
async fn credentials(
    applier: &Applier,
    namespace: &str,
    account: &str,
    given: Option<&str>,
) -> anyhow::Result<(Vec<u8>, String)> {
    let asked = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": account, "namespace": namespace}});
    if applier.get(&asked).await?.is_none() {
        bail!(
            "there is no ServiceAccount {namespace}/{account}; `isthmus install` makes it (chart base), or name another \
             with --service-account"
        );
    }
    let name = given.map_or_else(|| format!("{account}-istio-remote-secret-token"), str::to_owned);
    let secret = json!({
        "apiVersion": "v1",
        "kind": "Secret",
        "type": "kubernetes.io/service-account-token",
        "metadata": {
            "name": name,
            "namespace": namespace,
            "annotations": {"kubernetes.io/service-account.name": account},
        },
    });
    if given.is_none() {
        applier.apply(&secret, Options::default()).await?;
    }
    let until = tokio::time::Instant::now() + PATIENCE;
    loop {
        let found = applier.get(&secret).await?;
        let data = |key: &str| {
            let text = found.as_ref()?["data"][key].as_str()?;
            STANDARD.decode(text).ok().filter(|bytes| !bytes.is_empty())
        };
        if let (Some(ca), Some(token)) = (data("ca.crt"), data("token")) {
            let token = String::from_utf8(token).context("the token is no text")?;
            return Ok((ca, token));
        }
        if tokio::time::Instant::now() > until {
            bail!(
                "Secret {namespace}/{name} has no token after {} s: look at the controller manager, or name a Secret that \
                 has one with --secret-name",
                PATIENCE.as_secs()
            );
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}
