//! `isthmus join` and `isthmus unjoin`: two clusters become one mesh, and two again.
//!
//! ```text
//!   context A ─▶ Member ─┐
//!                        ├▶ compare ─▶ Plan ─▶ authorities of one root (where neither has any)
//!   context B ─▶ Member ─┘                ─▶ each is told of the other's gateways (ConfigMap isthmus-peers)
//!                                         ─▶ both links are waited for: each goes there and back over mTLS
//! ```
//!
//! No credentials of an API server are exchanged.

mod compare;
mod member;

use std::io::{IsTerminal as _, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail};
use isthmus_kube::apply::{Applier, Options, Readiness};
use isthmus_kube::{Cluster, Credentials};
use isthmus_manifests::yaml;
use isthmus_pki::authority::{IntermediateRequest, RootRequest};
use isthmus_pki::{Authority, files};
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use self::compare::{Plan, compare};
use self::member::{Member, ready_pods};
use super::cluster_flags::block_on;
use super::exit;

/// ConfigMap in which a control plane finds its peers.
const PEERS: &str = "isthmus-peers";
/// Port of the control plane's pages.
const PAGES: u16 = 8080;

/// Join two clusters to one mesh
///
/// Checks that they can be one (names, networks, mesh, trust domain, roots, gateways), says what it will do, does it,
/// and waits until each control plane hears the other through the other's gateway. Where neither cluster was given an
/// authority, both get an intermediate of a new root, whose key stays in --ca-dir.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example: isthmus join us eu\n         isthmus join us eu --dry-run")]
pub struct Args {
    #[command(flatten)]
    pair: Pair,
    /// Where a new root is kept, or taken from when it is there already.
    #[arg(long, value_name = "DIR", default_value = "isthmus-ca")]
    ca_dir: PathBuf,
    /// How long the links between the control planes are waited for, as in 60s or 2m.
    #[arg(long, value_name = "DURATION", default_value = "2m")]
    timeout: isthmus_api::Duration,
}

/// Part two clusters that were joined
///
/// Each control plane forgets the other and what it told; certificates and gateways stay as they are.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example: isthmus unjoin us eu")]
pub struct Unjoin {
    #[command(flatten)]
    pair: Pair,
}

#[derive(Debug, clap::Args)]
struct Pair {
    /// Context of one cluster.
    #[arg(value_name = "CONTEXT")]
    a: String,
    /// Context of the other.
    #[arg(value_name = "CONTEXT")]
    b: String,
    /// File of kubectl's configuration; KUBECONFIG or ~/.kube/config without it.
    #[arg(short = 'c', long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// Namespace of the control planes.
    #[arg(
        short = 'i',
        long = "istioNamespace",
        visible_alias = "istio-namespace",
        default_value = "istio-system"
    )]
    istio_namespace: String,
    /// Show what would be done.
    #[arg(long)]
    dry_run: bool,
    /// Do not ask.
    #[arg(short = 'y', long = "skip-confirmation", visible_alias = "yes")]
    yes: bool,
}

/// A cluster, and what writes to it.
struct Side {
    member: Member,
    applier: Applier,
}

impl Pair {
    async fn cluster(&self, context: &str) -> anyhow::Result<Cluster> {
        let credentials = Credentials::Context {
            kubeconfig: self.kubeconfig.clone(),
            context: Some(context.to_owned()),
        };
        Cluster::connect(&credentials)
            .await
            .with_context(|| format!("context {context}"))
    }

    async fn sides(&self) -> anyhow::Result<[Side; 2]> {
        if self.a == self.b {
            bail!("{} cannot be joined with itself: name two contexts", self.a);
        }
        let mut sides = Vec::new();
        for context in [&self.a, &self.b] {
            let reader = Applier::new(self.cluster(context).await?, "isthmus-join");
            let member = Member::read(&reader, context, &self.istio_namespace)
                .await
                .with_context(|| format!("context {context}"))?;
            sides.push((context, member));
        }
        // Each entry of the peers has a manager of its own, so that another join leaves it alone.
        let mut done = Vec::new();
        for (at, (context, member)) in sides.iter().enumerate() {
            let other = &sides[1 - at].1.cluster;
            done.push(Side {
                member: member.clone(),
                applier: Applier::new(self.cluster(context).await?, format!("isthmus-peer-{other}")),
            });
        }
        done.try_into()
            .map_err(|_| anyhow::anyhow!("two contexts are needed"))
    }

    fn confirmed(&self) -> anyhow::Result<bool> {
        if self.yes {
            return Ok(true);
        }
        if !std::io::stdin().is_terminal() {
            bail!("nobody can be asked here; add -y to go on");
        }
        eprint!("Proceed? (y/N) ");
        std::io::stderr().flush().ok();
        let mut answer = String::new();
        std::io::stdin()
            .read_line(&mut answer)
            .context("reading the answer")?;
        Ok(matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes"))
    }

    /// The ConfigMap with one peer, or with none.
    fn peers(&self, peer: Option<&Member>) -> Value {
        let data: serde_json::Map<String, Value> = peer
            .map(|p| {
                (
                    p.cluster.clone(),
                    p.gateways.first().cloned().unwrap_or_default().into(),
                )
            })
            .into_iter()
            .collect();
        json!({
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": PEERS, "namespace": self.istio_namespace},
            "data": data,
        })
    }
}

pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    block_on(join(args))
}

async fn join(args: Args) -> anyhow::Result<ExitCode> {
    let pair = &args.pair;
    let sides = pair.sides().await?;
    let [a, b] = &sides;
    for side in &sides {
        describe(&side.member);
    }
    let plan = match compare(&a.member, &b.member) {
        Ok(plan) => plan,
        Err(obstacles) => {
            for obstacle in &obstacles {
                eprintln!("✘ {}\n    {}", obstacle.what, obstacle.remedy);
            }
            bail!("the clusters cannot be joined yet; nothing was changed");
        }
    };
    announce(&args, &plan, a, b);
    if pair.dry_run || !pair.confirmed()? {
        outln!("nothing was changed");
        return Ok(ExitCode::from(exit::OK));
    }
    if plan.common_root {
        let root = root(&args)?;
        for side in &sides {
            give_authority(&root, side, &pair.istio_namespace).await?;
            outln!(
                "✔ {}: Secret cacerts with an intermediate of root {}",
                side.member.context,
                root.certificate().fingerprint()
            );
        }
    }
    for (side, other) in [(a, b), (b, a)] {
        side.applier
            .apply(
                &pair.peers(Some(&other.member)),
                Options {
                    force: true,
                    ..Options::default()
                },
            )
            .await?;
        outln!(
            "✔ {}: knows the gateway of {}",
            side.member.context,
            other.member.cluster
        );
    }
    let until = tokio::time::Instant::now() + *args.timeout;
    if plan.common_root {
        for side in &sides {
            restart_gateways(side, &pair.istio_namespace, until).await?;
        }
    }
    for (side, other) in [(a, b), (b, a)] {
        hear(side, &other.member.cluster, &pair.istio_namespace, until).await?;
        outln!(
            "✔ {}: hears {} through {}",
            side.member.context,
            other.member.cluster,
            other
                .member
                .gateways
                .first()
                .map_or("its gateway", String::as_str)
        );
    }
    if plan.common_root {
        outln!(
            "workloads that ran before still have certificates of the old roots; restart them, or wait for their renewal:\n  \
             kubectl --context {} rollout restart deployment -n NAMESPACE",
            a.member.context
        );
    }
    Ok(ExitCode::from(exit::OK))
}

fn describe(member: &Member) {
    outln!(
        "{}: cluster {}, network {}, mesh {}, trust domain {}, version {}, gateways {}",
        member.context,
        or_none(&member.cluster),
        or_none(&member.network),
        or_none(&member.mesh),
        or_none(&member.trust_domain),
        or_none(&member.version),
        or_none(&member.gateways.join(", "))
    );
}

fn or_none(text: &str) -> &str {
    if text.is_empty() { "none" } else { text }
}

fn announce(args: &Args, plan: &Plan, a: &Side, b: &Side) {
    for note in &plan.notes {
        outln!("note: {note}");
    }
    outln!("what will be done:");
    if plan.common_root {
        outln!(
            "  a root in {} (made where there is none), an intermediate of it for each cluster in Secret {}/cacerts",
            args.ca_dir.display(),
            args.pair.istio_namespace
        );
        outln!(
            "  the gateways in {} are restarted, one pod after the other, for certificates of that root",
            args.pair.istio_namespace
        );
    }
    for (side, other) in [(a, b), (b, a)] {
        outln!(
            "  {}: ConfigMap {}/{PEERS} names {} at {}",
            side.member.context,
            args.pair.istio_namespace,
            other.member.cluster,
            other.member.gateways.first().map_or("", String::as_str)
        );
    }
    outln!("  both links between the control planes are waited for");
}

/// The root in the directory, or a new one.
fn root(args: &Args) -> anyhow::Result<Authority> {
    let dir = &args.ca_dir;
    if dir.exists() {
        return files::load_root(dir).with_context(|| format!("the root in {}", dir.display()));
    }
    let root = Authority::create_root(&RootRequest::default())?;
    files::write_root(dir, &root, false)?;
    outln!(
        "✔ new root in {}: keep its key safe, others are joined with it",
        dir.display()
    );
    Ok(root)
}

async fn give_authority(root: &Authority, side: &Side, namespace: &str) -> anyhow::Result<()> {
    let request = IntermediateRequest::new(side.member.cluster.clone().into());
    let made = root.create_intermediate(&request)?;
    let text = files::secret_yaml(&made, namespace);
    let secret = yaml::read(&text).ok().and_then(|all| all.into_iter().next());
    let secret = secret.context("the Secret of an intermediate cannot be read back")?;
    side.applier.apply(&secret, Options::default()).await?;
    Ok(())
}

/// Gateways have certificates of the old root, which nobody trusts any more.
async fn restart_gateways(side: &Side, namespace: &str, until: tokio::time::Instant) -> anyhow::Result<()> {
    let collection = format!("/apis/apps/v1/namespaces/{namespace}/deployments");
    let deployments = side.applier.cluster().labelled(&collection, "").await?;
    let templates = |d: &Value| {
        let annotations = &d["spec"]["template"]["metadata"]["annotations"];
        annotations["inject.istio.io/templates"]
            .as_str()
            .map(str::to_owned)
    };
    let gateways: Vec<&str> = deployments
        .iter()
        .filter(|d| templates(d).is_some_and(|all| all.split(',').any(|t| t.trim() == "gateway")))
        .filter_map(|d| d["metadata"]["name"].as_str())
        .collect();
    // The same annotation as kubectl's rollout restart.
    let now = OffsetDateTime::now_utc().format(&Rfc3339).context("the time")?;
    let restarter = Applier::new(side.applier.cluster().clone(), "isthmus-join");
    for name in &gateways {
        let wanted = json!({
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"name": name, "namespace": namespace},
            "spec": {"template": {"metadata": {"annotations": {"kubectl.kubernetes.io/restartedAt": now}}}},
        });
        restarter
            .apply(
                &wanted,
                Options {
                    force: true,
                    ..Options::default()
                },
            )
            .await?;
    }
    for name in gateways {
        let asked = json!({
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"name": name, "namespace": namespace},
        });
        loop {
            match restarter.ready(&asked).await? {
                Readiness::Ready => break,
                Readiness::Not(why) if tokio::time::Instant::now() > until => {
                    bail!(
                        "{}: gateway {name} does not come back: {why}",
                        side.member.context
                    )
                }
                Readiness::Not(_) => tokio::time::sleep(Duration::from_millis(300)).await,
            }
        }
        outln!(
            "✔ {}: gateway {name} has a certificate of the new root",
            side.member.context
        );
    }
    Ok(())
}

/// Waits until a control plane hears a peer, and says why it does not.
async fn hear(side: &Side, peer: &str, namespace: &str, until: tokio::time::Instant) -> anyhow::Result<()> {
    let cluster = side.applier.cluster();
    loop {
        let state = link(cluster, peer, namespace).await;
        match state {
            Ok(()) => return Ok(()),
            Err(why) if tokio::time::Instant::now() > until => {
                bail!("{} does not hear {peer}: {why}", side.member.context)
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(500)).await,
        }
    }
}

/// Whether every ready control plane of a cluster hears a peer.
async fn link(cluster: &Cluster, peer: &str, namespace: &str) -> anyhow::Result<()> {
    let pods = ready_pods(cluster, namespace).await?;
    if pods.is_empty() {
        bail!("no pod of the control plane is ready");
    }
    for pod in pods {
        let page = cluster.pod_page(namespace, &pod, PAGES, "/debug/peersz").await?;
        let known = page["peers"].as_array().into_iter().flatten();
        let Some(found) = known.clone().find(|p| p["cluster"] == peer) else {
            bail!("{pod} has not read ConfigMap {PEERS} yet");
        };
        if found["status"] != "connected" {
            let why = found["error"].as_str().unwrap_or("it is being dialled");
            bail!(
                "{pod}, link to {}: {why}",
                found["address"].as_str().unwrap_or_default()
            );
        }
    }
    Ok(())
}

pub fn unjoin(args: Unjoin) -> anyhow::Result<ExitCode> {
    block_on(async move {
        let pair = &args.pair;
        let [a, b] = pair.sides().await?;
        for (side, other) in [(&a, &b), (&b, &a)] {
            if other.member.cluster.is_empty() {
                bail!(
                    "{}: the cluster has no name in the mesh; nothing was changed",
                    other.member.context
                );
            }
            outln!("{}: forgets {}", side.member.context, other.member.cluster);
        }
        if pair.dry_run || !pair.confirmed()? {
            outln!("nothing was changed");
            return Ok(ExitCode::from(exit::OK));
        }
        for side in [&a, &b] {
            if side.applier.get(&pair.peers(None)).await?.is_some() {
                side.applier
                    .apply(
                        &pair.peers(None),
                        Options {
                            force: true,
                            ..Options::default()
                        },
                    )
                    .await?;
            }
            outln!("✔ {}", side.member.context);
        }
        Ok(ExitCode::from(exit::OK))
    })
}
