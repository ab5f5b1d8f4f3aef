//! `isthmus certs`: a common root and one intermediate for each cluster, in two steps.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::{Subcommand, ValueEnum};
use isthmus_pki::authority::{IntermediateRequest, RootRequest};
use isthmus_pki::files::{self, Check, Report};
use isthmus_pki::{Authority, KeyAlgorithm};

use super::exit;

/// Days in the life of Istio's root and intermediates.
const TEN_YEARS: u32 = 3650;

/// Make and show the certificates that let clusters trust each other.
///
/// One root for the mesh, whose key stays away from the clusters, and an intermediate for each of them,
/// under the names of Istio's secret `cacerts`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  isthmus certs root\n  isthmus certs intermediate us eu\n  isthmus certs show certs certs/us certs/eu"
)]
pub struct Args {
    #[command(subcommand)]
    command: Certs,
}

#[derive(Debug, Subcommand)]
enum Certs {
    /// Make the root that all clusters of the mesh have in common.
    ///
    /// Writes root-cert.pem and root-key.pem. Keep the key away from the clusters: they need intermediates.
    Root(Root),
    /// Make the intermediate of one or more clusters, signed by the root.
    ///
    /// Writes ca-cert.pem, ca-key.pem, cert-chain.pem and root-cert.pem, the files of Istio's secret `cacerts`.
    Intermediate(Intermediate),
    /// Show certificates, and whether they chain to their root.
    ///
    /// Exits with 1 when a chain is broken or a certificate is out of date.
    Show(Show),
}

#[derive(Debug, clap::Args)]
struct Root {
    /// Directory to write into.
    #[arg(short, long, value_name = "DIR", default_value = "certs")]
    dir: PathBuf,
    /// Organisation in the subject.
    #[arg(long, default_value = "Istio")]
    organization: String,
    /// Common name in the subject.
    #[arg(long, default_value = "Root CA")]
    common_name: String,
    #[command(flatten)]
    shape: Shape,
    /// Replace files that exist. Every intermediate made from the old root then has to be made again.
    #[arg(long)]
    force: bool,
}

#[derive(Debug, clap::Args)]
struct Intermediate {
    /// Clusters, each of which gets an intermediate of its own.
    #[arg(value_name = "CLUSTER", required = true)]
    clusters: Vec<String>,
    /// Directory of the root; each cluster's files go into a directory of its name beneath it.
    #[arg(short, long, value_name = "DIR", default_value = "certs")]
    dir: PathBuf,
    /// Organisation in the subject.
    #[arg(long, default_value = "Istio")]
    organization: String,
    #[command(flatten)]
    shape: Shape,
    /// What to do with the result: write files, or print a Kubernetes Secret and write nothing.
    #[arg(short, long, value_enum, default_value_t)]
    output: IntermediateOutput,
    /// Namespace of the printed Secret.
    #[arg(long, default_value = "istio-system")]
    namespace: String,
    /// Replace files that exist.
    #[arg(long)]
    force: bool,
}

#[derive(Debug, clap::Args)]
struct Shape {
    /// Days of validity; an intermediate ends with its root at the latest.
    #[arg(long, default_value_t = TEN_YEARS, value_parser = clap::value_parser!(u32).range(1..=36500))]
    days: u32,
    /// Kind of key: rsa-4096, rsa-2048, ecdsa-p256 or ecdsa-p384.
    #[arg(long, value_name = "ALGORITHM", default_value_t = KeyAlgorithm::Rsa4096)]
    key: KeyAlgorithm,
}

impl Shape {
    fn validity(&self) -> Duration {
        Duration::from_secs(u64::from(self.days) * 24 * 3600)
    }
}

#[derive(Debug, clap::Args)]
struct Show {
    /// PEM files, or directories that hold a root or the files of a secret `cacerts`.
    #[arg(value_name = "PATH", required = true)]
    paths: Vec<PathBuf>,
    /// PEM file of the roots to check against; without it, those found in the same place count.
    #[arg(long, value_name = "FILE")]
    roots: Option<PathBuf>,
    /// Form of the answer.
    #[arg(short, long, value_enum, default_value_t)]
    output: ShowOutput,
}

/// Where an intermediate goes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
enum IntermediateOutput {
    /// Files beneath the root's directory.
    #[default]
    Files,
    /// A Secret `cacerts`, printed.
    Yaml,
}

/// How `show` answers.
#[derive(Debug, Clone, Copy, Default, ValueEnum)]
enum ShowOutput {
    /// A table, and a line for each path.
    #[default]
    Table,
    /// An array of objects.
    Json,
}

pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    match args.command {
        Certs::Root(args) => root(args),
        Certs::Intermediate(args) => intermediate(args),
        Certs::Show(args) => show(&args),
    }
}

fn root(args: Root) -> anyhow::Result<ExitCode> {
    let root = Authority::create_root(&RootRequest {
        organization: args.organization,
        common_name: args.common_name,
        algorithm: args.shape.key,
        validity: args.shape.validity(),
    })?;
    written(&files::write_root(&args.dir, &root, args.force)?);
    outln!("root {}", root.certificate().fingerprint());
    outln!(
        "Next: isthmus certs intermediate --dir {} CLUSTER...",
        args.dir.display()
    );
    Ok(ExitCode::from(exit::OK))
}

fn intermediate(args: Intermediate) -> anyhow::Result<ExitCode> {
    for (i, cluster) in args.clusters.iter().enumerate() {
        anyhow::ensure!(
            is_cluster_name(cluster),
            "{cluster:?} is not a cluster's name: use 1 to 63 letters, digits, '-', '_' and '.', beginning with a letter or digit"
        );
        anyhow::ensure!(
            !args.clusters[..i].contains(cluster),
            "cluster {cluster:?} is named twice"
        );
    }
    let root = files::load_root(&args.dir)?;
    let mut stdout = std::io::stdout().lock();
    for (i, cluster) in args.clusters.into_iter().enumerate() {
        let directory = args.dir.join(&cluster);
        let made = root
            .create_intermediate(&IntermediateRequest {
                organization: args.organization.clone(),
                algorithm: args.shape.key,
                validity: args.shape.validity(),
                ..IntermediateRequest::new(cluster.clone().into())
            })
            .with_context(|| format!("intermediate of cluster {cluster}"))?;
        match args.output {
            IntermediateOutput::Files => written(&files::write_cacerts(&directory, &made, args.force)?),
            IntermediateOutput::Yaml => {
                if i > 0 {
                    writeln!(stdout, "---")?;
                }
                write!(stdout, "{}", *files::secret_yaml(&made, &args.namespace))?;
            }
        }
    }
    Ok(ExitCode::from(exit::OK))
}

/// A name that is one component of a path, and an `L=` and label value as it is.
fn is_cluster_name(name: &str) -> bool {
    let legal = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    (1..=63).contains(&name.len()) && name.bytes().all(legal) && name.as_bytes()[0].is_ascii_alphanumeric()
}

fn written(paths: &[PathBuf]) {
    for path in paths {
        outln!("wrote {}", path.display());
    }
}

fn show(args: &Show) -> anyhow::Result<ExitCode> {
    let reports = args
        .paths
        .iter()
        .map(|path| Report::of(path, args.roots.as_deref()))
        .collect::<Result<Vec<_>, _>>()?;
    match args.output {
        ShowOutput::Json => outln!("{}", serde_json::to_string_pretty(&reports)?),
        ShowOutput::Table => out!("{}", table(&reports)),
    }
    let bad = reports.iter().any(Report::is_bad);
    Ok(ExitCode::from(if bad { exit::FAILURE } else { exit::OK }))
}

fn table(reports: &[Report]) -> String {
    let mut rows = vec![
        [
            "FILE",
            "SUBJECT",
            "NAMES",
            "ISSUER",
            "VALID FROM",
            "VALID UNTIL",
            "SHA-256",
        ]
        .map(str::to_owned),
    ];
    for c in reports.iter().flat_map(|r| &r.certificates) {
        let names: Vec<&str> = c.uris.iter().chain(&c.dns_names).map(String::as_str).collect();
        let until = if c.valid_now { "" } else { " (NOT VALID NOW)" };
        rows.push([
            c.file.clone(),
            or_dash(&c.subject),
            or_dash(&names.join(",")),
            or_dash(&c.issuer),
            c.not_before.clone(),
            format!("{}{until}", c.not_after),
            c.fingerprint.clone(),
        ]);
    }
    let mut widths = [0; 7];
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut out = String::new();
    for row in &rows {
        let cells: Vec<String> = row
            .iter()
            .zip(widths)
            .map(|(cell, width)| format!("{cell:width$}"))
            .collect();
        out.push_str(cells.join("   ").trim_end());
        out.push('\n');
    }
    out.push('\n');
    for report in reports {
        let cluster = report
            .cluster
            .as_ref()
            .map_or_else(String::new, |c| format!(" (cluster {c})"));
        let verdict = match &report.chain {
            Check::Ok { root } => format!("chains to root {root}"),
            Check::Failed { reason } => format!("CHAIN BROKEN: {reason}"),
            Check::Unknown { reason } => format!("chain not checked: {reason}"),
        };
        out.push_str(&format!(
            "{}{cluster}: {verdict}\n",
            Path::new(&report.path).display()
        ));
    }
    out
}

fn or_dash(text: &str) -> String {
    if text.is_empty() { "-" } else { text }.to_owned()
}
