//! `isthmus demo`: two clusters, one mesh, on this machine.

use std::io::{BufRead, BufReader, IsTerminal, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use clap::Subcommand;
use isthmus_model::ClusterId;
use isthmus_sandbox::demo::{Options, Step};
use isthmus_sandbox::kubernetes::Programs;
use isthmus_sandbox::socket::{Answer, Fault, Part, Report, Request, Workload};
use isthmus_sandbox::supervisor::{Launch, clear, running};

use super::exit;
use super::sandbox::{Dir, Output, print, table};

/// How long `demo down` waits for the end.
const PATIENCE: Duration = Duration::from_secs(15);
/// First port on the host; each ingress gateway gets the next.
const FIRST_PORT: u16 = 8080;
/// First port on the host for API servers.
const FIRST_API_PORT: u16 = 16443;
/// Ingress gateways a cluster of the samples has.
const GATEWAYS: usize = 2;

/// Start two clusters on this machine, each with its own control plane, joined through their gateways.
///
/// With --kubernetes each has an API server of its own, and nothing is installed: that is for kubectl, helm and
/// `isthmus install`.
///
/// Every pod is a network namespace, every cluster a network of its own; only gateways meet. Nothing is
/// left behind when it ends. The clusters' YAML is copied from the samples and can be edited while the
/// demo runs.
#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
#[command(
    after_help = "Examples:\n  isthmus demo\n  isthmus demo --detach --clusters us,eu,ap\n  isthmus demo --detach --kubernetes --clusters us\n  isthmus demo status\n  isthmus demo break black-hole us/reviews-v1\n  isthmus demo break mend\n  isthmus demo down"
)]
pub struct Args {
    #[command(subcommand)]
    action: Option<Action>,
    #[command(flatten)]
    start: Start,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Show what runs where.
    Status(Status),
    /// End the demo.
    Down(Down),
    /// Break something on purpose, or mend it.
    Break(Break),
}

#[derive(Debug, clap::Args)]
struct Start {
    /// Member clusters; the samples know us, eu and ap.
    #[arg(long, value_delimiter = ',', default_values = ["us", "eu"], value_name = "NAMES")]
    clusters: Vec<String>,
    /// Return once everything is up, and leave it running until `isthmus demo down`.
    #[arg(long, short)]
    detach: bool,
    /// Directory with one directory of YAML per cluster, instead of the built-in samples.
    #[arg(long, value_name = "PATH")]
    samples: Option<PathBuf>,
    /// Life of workload certificates in seconds [default: 24 h].
    #[arg(long, value_name = "SECONDS")]
    workload_cert_ttl: Option<u64>,
    /// Directory with a directory per cluster as `isthmus certs intermediate` writes them; clusters that have
    /// none there are given an intermediate of the demo's own root.
    #[arg(long, value_name = "PATH")]
    cacerts: Option<PathBuf>,
    /// Start etcd, API server, controller manager, scheduler and CoreDNS of Kubernetes itself for each cluster, and
    /// no mesh. They are taken from KUBEBUILDER_ASSETS, or built with Go once, which takes a while.
    #[arg(long, conflicts_with_all = ["samples", "workload_cert_ttl", "cacerts"])]
    kubernetes: bool,
    /// Directory to keep these programs in [default: ~/.cache/isthmus/assets-VERSION].
    #[arg(long, value_name = "PATH", env = "ISTHMUS_ASSETS")]
    assets: Option<PathBuf>,
    #[command(flatten)]
    dir: Dir,
}

#[derive(Debug, clap::Args)]
struct Status {
    /// Form of the answer.
    #[arg(long, short, value_enum, default_value_t)]
    output: Output,
    #[command(flatten)]
    dir: Dir,
}

#[derive(Debug, clap::Args)]
struct Down {
    #[command(flatten)]
    dir: Dir,
}

/// Faults to try failover with.
#[derive(Debug, clap::Args)]
struct Break {
    #[command(subcommand)]
    fault: Breakage,
}

#[derive(Debug, Subcommand)]
enum Breakage {
    /// Kill a container's process; the pod stays listed until its probe fails.
    Kill {
        /// CLUSTER/WORKLOAD[.NAMESPACE]
        workload: Workload,
        /// Container.
        #[arg(long, short, default_value = "istio-proxy")]
        container: String,
        /// Signal number.
        #[arg(long, default_value_t = 9)]
        signal: i32,
        #[command(flatten)]
        dir: Dir,
    },
    /// Delete a pod.
    Remove {
        /// CLUSTER/WORKLOAD[.NAMESPACE]
        workload: Workload,
        /// Keep the Deployment from making another.
        #[arg(long)]
        for_good: bool,
        #[command(flatten)]
        dir: Dir,
    },
    /// Drop every packet to and from a pod, or to a gateway's public address.
    BlackHole {
        /// CLUSTER/WORKLOAD[.NAMESPACE] or a public address.
        target: String,
        #[command(flatten)]
        dir: Dir,
    },
    /// Drop every packet between two clusters.
    Cut {
        /// One cluster.
        a: String,
        /// The other.
        b: String,
        #[command(flatten)]
        dir: Dir,
    },
    /// Kill processes and keep them from running until `start` or `mend`: a workload, its gateway or control
    /// plane, a DNS server, or a whole cluster at once.
    #[command(
        after_help = "Examples:\n  isthmus demo break stop us/istiod.istio-system\n  isthmus demo break stop us/sleep -c istio-proxy\n  isthmus demo break stop us/kube-dns\n  isthmus demo break stop internet/dns\n  isthmus demo break stop eu"
    )]
    Stop(Held),
    /// Start what was stopped.
    Start(Held),
    /// Undo every black hole and cut, and start everything that was stopped.
    Mend {
        #[command(flatten)]
        dir: Dir,
    },
}

/// What is stopped or started.
#[derive(Debug, clap::Args)]
struct Held {
    /// CLUSTER/WORKLOAD[.NAMESPACE], CLUSTER/kube-dns, internet/dns, or CLUSTER for all that runs there.
    target: String,
    /// One container of the workload instead of all.
    #[arg(long, short)]
    container: Option<String>,
    #[command(flatten)]
    dir: Dir,
}

impl Held {
    fn part(self) -> anyhow::Result<(Part, Dir)> {
        Ok((Part::parse(&self.target, self.container)?, self.dir))
    }
}

/// The supervisor of a demo; started by `isthmus demo`, not by hand.
#[derive(Debug, clap::Args)]
pub struct Supervisor {
    /// Directory of the demo.
    #[arg(long)]
    dir: PathBuf,
    /// What it is made of, as JSON.
    #[arg(long)]
    options: String,
}

pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    match args.action {
        None => start(args.start),
        Some(Action::Status(args)) => status(&args),
        Some(Action::Down(args)) => down(&args.dir),
        Some(Action::Break(args)) => break_something(args.fault),
    }
}

pub fn supervise(args: Supervisor) -> anyhow::Result<ExitCode> {
    let options: Options = serde_json::from_str(&args.options).context("--options")?;
    use isthmus_runtime::logging::{Format, Levels, Output, init};
    init(Levels::default(), Format::Text, Output::Stderr)?;
    isthmus_sandbox::demo::run(&args.dir, options)?;
    Ok(ExitCode::from(exit::OK))
}

fn start(args: Start) -> anyhow::Result<ExitCode> {
    let dir = args.dir.path();
    let clusters: Vec<ClusterId> = args
        .clusters
        .iter()
        .map(|c| ClusterId::from(c.as_str()))
        .collect();
    let unpacked;
    let samples = match &args.samples {
        Some(path) => std::path::absolute(path)?,
        None => {
            unpacked = crate::samples::unpack()?;
            unpacked.path().to_owned()
        }
    };
    check(&clusters, (!args.kubernetes).then_some(&samples))?;
    let mut options = Options::new(clusters, &samples)?;
    options.workload_cert_ttl = args.workload_cert_ttl;
    options.cacerts = args.cacerts.map(std::path::absolute).transpose()?;
    if let Some(given) = options.cacerts.as_ref().filter(|dir| !dir.is_dir()) {
        bail!("--cacerts: {} is not a directory", given.display());
    }

    let listeners = if args.kubernetes {
        let assets = args.assets.map(std::path::absolute).transpose()?;
        options.kubernetes = Some(Programs::find(assets.as_deref())?);
        listeners(options.clusters.len(), FIRST_API_PORT, "API servers")?
    } else {
        listeners(options.clusters.len() * GATEWAYS, FIRST_PORT, "ingress gateways")?
    };
    let began = Instant::now();
    let mut supervisor = Launch {
        dir: dir.clone(),
        detached: args.detach,
        program: std::env::current_exe().context("this program's own file cannot be found")?,
        arguments: vec![
            "sandbox-supervisor".into(),
            "--dir".into(),
            dir.clone().into(),
            "--options".into(),
            serde_json::to_string(&options)?.into(),
        ],
        listeners,
    }
    .start()?;

    let terminal = std::io::stderr().is_terminal();
    let report = follow(&mut supervisor.progress, &dir, terminal, began)?;
    introduce(&report, began.elapsed(), args.detach);
    if args.detach {
        return Ok(ExitCode::from(exit::OK));
    }
    wait(&mut supervisor)?;
    outln!("\nstopped; nothing is left running");
    Ok(ExitCode::from(exit::OK))
}

fn check(clusters: &[ClusterId], samples: Option<&PathBuf>) -> anyhow::Result<()> {
    let mut seen = std::collections::BTreeSet::new();
    for cluster in clusters {
        if !seen.insert(cluster) {
            bail!("cluster {cluster} is named twice; every member cluster needs its own name");
        }
        let Some(samples) = samples else { continue };
        if !samples.join(cluster.as_str()).is_dir() {
            let mut known: Vec<_> = std::fs::read_dir(samples)
                .with_context(|| format!("{} cannot be read", samples.display()))?
                .flatten()
                .filter(|e| e.path().is_dir())
                .map(|e| e.file_name().to_string_lossy().into_owned())
                .collect();
            known.sort();
            bail!(
                "there are no samples for cluster {cluster:?}; there are some for: {}",
                known.join(", ")
            );
        }
    }
    Ok(())
}

/// Listeners on the host's loopback: from `first` on, whatever is free.
fn listeners(count: usize, first: u16, what: &str) -> anyhow::Result<Vec<TcpListener>> {
    let mut listeners = Vec::new();
    let mut port = first;
    while listeners.len() < count {
        let listener = TcpListener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
        port = port
            .checked_add(1)
            .filter(|p| *p < first + 1000)
            .with_context(|| {
                format!("no port of 127.0.0.1 from {first} on is free for the {what}; end what holds them")
            })?;
        if let Ok(listener) = listener {
            listeners.push(listener);
        }
    }
    Ok(listeners)
}

/// Shows what the supervisor says until everything is up.
fn follow(
    progress: &mut std::fs::File,
    dir: &Path,
    terminal: bool,
    began: Instant,
) -> anyhow::Result<Report> {
    for line in BufReader::new(progress).lines() {
        let line = line.context("the demo's supervisor stopped talking")?;
        match serde_json::from_str(&line) {
            Ok(Step::Doing(what)) if terminal => {
                eprintln!("\x1b[2m{:5.1}s\x1b[0m  {what}", began.elapsed().as_secs_f32());
            }
            Ok(Step::Doing(what)) => eprintln!("{:5.1}s  {what}", began.elapsed().as_secs_f32()),
            Ok(Step::Ready(report)) => return Ok(*report),
            Ok(Step::Failed(why)) => bail!("{why}"),
            Err(_) => {}
        }
    }
    let log = dir.join("supervisor.log");
    let text = std::fs::read_to_string(&log).unwrap_or_default();
    let last: Vec<_> = text.lines().rev().take(5).collect();
    let last: Vec<_> = last.into_iter().rev().collect();
    bail!(
        "the demo ended before it was up; its log {} ends with:\n{}",
        log.display(),
        last.join("\n")
    )
}

fn introduce(report: &Report, took: Duration, detached: bool) {
    if let Some(kubeconfig) = &report.kubeconfig {
        return introduce_kubernetes(report, kubeconfig, took, detached);
    }
    outln!(
        "up in {:.1} s; {} clusters, one mesh\n",
        took.as_secs_f32(),
        report.clusters.len()
    );
    workloads(report);
    outln!();
    for published in &report.published {
        outln!(
            "  http://{}/productpage   {} of {}",
            published.address,
            published.service,
            published.cluster
        );
    }
    let Some(first) = report.clusters.first() else {
        return;
    };
    outln!("\ntry:");
    for command in [
        "isthmus exec us/sleep -- curl -s http://echo.eu.mesh.local".to_owned(),
        "isthmus exec us/sleep -- curl -s http://httpbin.bar.global:8000/headers".to_owned(),
        "isthmus proxy-status".to_owned(),
        "isthmus demo break black-hole us/reviews-v1      # then reload the page; mend with: isthmus demo break mend"
            .to_owned(),
        format!("edit {}/*.yaml      # and watch it take effect", first.config),
    ] {
        outln!("  {command}");
    }
    if detached {
        outln!("\nend it with: isthmus demo down");
    } else {
        outln!("\nCtrl-C ends it");
    }
    let _ = std::io::stdout().flush();
}

fn introduce_kubernetes(report: &Report, kubeconfig: &str, took: Duration, detached: bool) {
    let names: Vec<_> = report.clusters.iter().map(|c| c.id.as_str()).collect();
    outln!(
        "up in {:.1} s; {} with Kubernetes' own control plane, nothing installed\n",
        took.as_secs_f32(),
        names.join(" and ")
    );
    outln!("  export KUBECONFIG={kubeconfig}");
    let first = names.first().copied().unwrap_or_default();
    outln!("\ntry:");
    for command in [
        format!("kubectl --context {first} get pods -A"),
        format!("isthmus install --context {first}"),
        "isthmus demo status".to_owned(),
    ] {
        outln!("  {command}");
    }
    if detached {
        outln!("\nend it with: isthmus demo down");
    } else {
        outln!("\nCtrl-C ends it");
    }
    let _ = std::io::stdout().flush();
}

fn workloads(report: &Report) {
    let mut rows = Vec::new();
    for cluster in &report.clusters {
        for pod in &cluster.pods {
            let restarts: u32 = pod.containers.values().map(|c| c.restarts).sum();
            let mut state = if pod.ready {
                "ready".to_owned()
            } else {
                "not ready".to_owned()
            };
            for (name, container) in pod
                .containers
                .iter()
                .filter(|(_, c)| !c.ready && !c.reason.is_empty())
            {
                state.push_str(&format!("; {name}: {}", container.reason));
            }
            rows.push(vec![
                cluster.id.to_string(),
                pod.namespace.clone(),
                pod.name.clone(),
                pod.address.map(|a| a.to_string()).unwrap_or_default(),
                if pod.containers.contains_key("istio-proxy") {
                    "yes"
                } else {
                    "no"
                }
                .to_owned(),
                restarts.to_string(),
                state,
            ]);
        }
    }
    table(
        &[
            "CLUSTER",
            "NAMESPACE",
            "POD",
            "ADDRESS",
            "PROXY",
            "RESTARTS",
            "STATE",
        ],
        &rows,
    );
    for cluster in &report.clusters {
        for finding in &cluster.findings {
            outln!("{}: {finding}", cluster.id);
        }
    }
    for fault in &report.faults {
        outln!("broken on purpose: {fault}");
    }
}

/// Waits for Ctrl-C or for the supervisor's own end.
fn wait(supervisor: &mut isthmus_sandbox::supervisor::Supervisor) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let mut ended = false;
    runtime.block_on(async {
        use tokio::signal::unix::{SignalKind, signal};
        let (mut interrupt, mut terminate, mut hangup) = (
            signal(SignalKind::interrupt())?,
            signal(SignalKind::terminate())?,
            signal(SignalKind::hangup())?,
        );
        let mut tick = tokio::time::interval(Duration::from_millis(200));
        loop {
            tokio::select! {
                _ = interrupt.recv() => return anyhow::Ok(()),
                _ = terminate.recv() => return Ok(()),
                _ = hangup.recv() => return Ok(()),
                _ = tick.tick() => if supervisor.try_wait()?.is_some() {
                    ended = true;
                    return Ok(());
                },
            }
        }
    })?;
    if !ended {
        supervisor.stop(Duration::from_secs(8))?;
    }
    Ok(())
}

fn status(args: &Status) -> anyhow::Result<ExitCode> {
    let mut report = args.dir.connect()?.status()?;
    report.pid = running(&args.dir.path());
    if args.output == Output::Table {
        workloads(&report);
        for published in &report.published {
            outln!(
                "http://{}   {} of {}",
                published.address,
                published.service,
                published.cluster
            );
        }
    } else {
        print(&report, args.output)?;
    }
    Ok(ExitCode::from(exit::OK))
}

fn down(dir: &Dir) -> anyhow::Result<ExitCode> {
    let path = dir.path();
    let Some(pid) = running(&path) else {
        clear(&path, Duration::ZERO)?;
        outln!("no demo runs in {}", path.display());
        return Ok(ExitCode::from(exit::OK));
    };
    let asked = dir.connect().and_then(|client| client.ask(&Request::Down));
    let until = Instant::now() + PATIENCE;
    while asked.is_ok() && running(&path).is_some() && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(20));
    }
    if running(&path).is_some() && pid > 0 {
        // It does not answer: its end takes every process and namespace along.
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL)
            .with_context(|| format!("process {pid} cannot be ended"))?;
    }
    clear(&path, PATIENCE)?;
    outln!("stopped; nothing is left running");
    Ok(ExitCode::from(exit::OK))
}

fn break_something(fault: Breakage) -> anyhow::Result<ExitCode> {
    let (fault, dir) = match fault {
        Breakage::Kill {
            workload,
            container,
            signal,
            dir,
        } => (
            Fault::Kill {
                workload,
                container,
                signal,
            },
            dir,
        ),
        Breakage::Remove {
            workload,
            for_good,
            dir,
        } => (
            Fault::Remove {
                workload,
                replace: !for_good,
            },
            dir,
        ),
        Breakage::BlackHole { target, dir } => match target.parse() {
            Ok(address) => (Fault::BlackHolePublic(address), dir),
            Err(_) => (Fault::BlackHole(target.parse()?), dir),
        },
        Breakage::Cut { a, b, dir } => (Fault::Cut(a.into(), b.into()), dir),
        Breakage::Stop(held) => {
            let (part, dir) = held.part()?;
            (Fault::Stop(part), dir)
        }
        Breakage::Start(held) => {
            let (part, dir) = held.part()?;
            (Fault::Start(part), dir)
        }
        Breakage::Mend { dir } => (Fault::Mend, dir),
    };
    match dir.connect()?.ask(&Request::Fault(fault))? {
        Answer::Done => Ok(ExitCode::from(exit::OK)),
        _ => bail!("the demo gave an answer that does not fit; is it of another version?"),
    }
}
