//! `isthmus dns`: the mesh's names for pods without sidecars.

use std::net::IpAddr;
use std::process::ExitCode;

use anyhow::{Context, anyhow, bail};
use clap::{Subcommand, ValueEnum};
use isthmus_kube::apply::{Applier, Options, Outcome};
use isthmus_manifests::{stub_domains, yaml};
use serde_json::{Value, json};

use super::cluster_flags::{ClusterFlags, block_on};
use super::exit;

const FIELD_MANAGER: &str = "isthmus-dns";
/// The Service through which the control plane answers DNS.
const SERVICE: &str = "istiocoredns";

/// Make the mesh's names known to pods without sidecars
#[derive(Debug, clap::Args)]
#[command(after_help = "Example: isthmus dns stub-domains --apply")]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    StubDomains(StubDomains),
}

/// Send the mesh's domains from the cluster's DNS to the control plane's
///
/// Reads the ConfigMap of CoreDNS (or kube-dns) and prints it with a server block for each domain that forwards to
/// Service istiocoredns; everything else in it stays as it is. With --apply it is written to the cluster.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  isthmus dns stub-domains                       # look at it\n  isthmus dns stub-domains --apply\n  isthmus dns stub-domains --domain global --domain mesh.local --apply"
)]
struct StubDomains {
    #[command(flatten)]
    cluster: ClusterFlags,
    /// A domain whose names the mesh knows; may be given several times.
    #[arg(long = "domain", value_name = "DOMAIN", default_value = "global")]
    domains: Vec<String>,
    /// Which DNS the cluster has; found out by its ConfigMap otherwise.
    #[arg(long = "for", value_enum, value_name = "DNS")]
    kind: Option<Kind>,
    /// Address to send the domains to, instead of that of Service istiocoredns.
    #[arg(long, value_name = "IP")]
    server: Option<IpAddr>,
    /// Write it to the cluster.
    #[arg(long)]
    apply: bool,
    /// Namespace of the control plane.
    #[arg(
        short = 'i',
        long = "istioNamespace",
        visible_alias = "istio-namespace",
        default_value = "istio-system"
    )]
    istio_namespace: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Kind {
    /// ConfigMap kube-system/coredns.
    #[value(name = "coredns")]
    CoreDns,
    /// ConfigMap kube-system/kube-dns.
    KubeDns,
}

impl Kind {
    /// Name of the ConfigMap, and the key in it.
    fn place(self) -> (&'static str, &'static str) {
        match self {
            Self::CoreDns => (stub_domains::COREDNS, "Corefile"),
            Self::KubeDns => (stub_domains::KUBE_DNS, "stubDomains"),
        }
    }
}

pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    match args.command {
        Command::StubDomains(args) => block_on(stub(args)),
    }
}

async fn stub(args: StubDomains) -> anyhow::Result<ExitCode> {
    let applier = Applier::new(args.cluster.connect().await?, FIELD_MANAGER);
    let server = match args.server {
        Some(server) => server,
        None => service_address(&applier, &args.istio_namespace).await?,
    };
    let (kind, mut map) = present(&applier, args.kind).await?;
    let (_, key) = kind.place();
    let before = map["data"][key].as_str().unwrap_or_default().to_owned();
    let written = match kind {
        Kind::CoreDns => stub_domains::coredns(&before, &args.domains, server)?,
        Kind::KubeDns => {
            let before = Some(before.as_str()).filter(|b| !b.is_empty());
            stub_domains::kube_dns(before, &args.domains, server)?
        }
    };
    for note in &written.notes {
        eprintln!("{note}");
    }
    let name = kind.place().0;
    if args.apply {
        let wanted = stub_domains::config_map(name, key, &written.text);
        let options = Options {
            force: true,
            ..Options::default()
        };
        let verb = match applier.apply(&wanted, options).await? {
            Outcome::Created => "created",
            Outcome::Changed => "configured",
            Outcome::Unchanged => "unchanged",
        };
        outln!("ConfigMap {}/{name} {verb}", stub_domains::NAMESPACE);
        return Ok(ExitCode::from(exit::OK));
    }
    map["data"][key] = written.text.into();
    // What the API server adds is nobody's to write.
    map["metadata"] = json!({"name": name, "namespace": stub_domains::NAMESPACE});
    out!("{}", yaml::write(&map));
    Ok(ExitCode::from(exit::OK))
}

async fn service_address(applier: &Applier, namespace: &str) -> anyhow::Result<IpAddr> {
    let asked =
        json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": SERVICE, "namespace": namespace}});
    let service = applier.get(&asked).await?.ok_or_else(|| {
        anyhow!(
            "there is no Service {namespace}/{SERVICE}; install the mesh (isthmus install), or give --server ADDRESS"
        )
    })?;
    let address = service["spec"]["clusterIP"].as_str().unwrap_or_default();
    address
        .parse()
        .with_context(|| format!("Service {namespace}/{SERVICE} has no address ({address:?})"))
}

/// The cluster's DNS and its ConfigMap.
async fn present(applier: &Applier, wanted: Option<Kind>) -> anyhow::Result<(Kind, Value)> {
    let candidates = wanted.map_or_else(|| vec![Kind::CoreDns, Kind::KubeDns], |kind| vec![kind]);
    for kind in &candidates {
        let (name, key) = kind.place();
        if let Some(map) = applier.get(&stub_domains::config_map(name, key, "")).await? {
            return Ok((*kind, map));
        }
    }
    match wanted {
        // kube-dns works without one; CoreDNS does not.
        Some(Kind::KubeDns) => Ok((
            Kind::KubeDns,
            stub_domains::config_map(stub_domains::KUBE_DNS, "stubDomains", ""),
        )),
        Some(Kind::CoreDns) => bail!("there is no ConfigMap kube-system/coredns"),
        None => bail!(
            "neither ConfigMap coredns nor kube-dns is in kube-system; say which DNS the cluster has with --for, or send \
             the domains to the address of Service istiocoredns by hand"
        ),
    }
}
