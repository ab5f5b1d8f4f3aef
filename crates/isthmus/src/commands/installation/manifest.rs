//! `isthmus manifest`.

use std::io::Write;
use std::process::ExitCode;

use isthmus_manifests::operator::Surroundings;
use isthmus_manifests::yaml;

use super::super::cluster_flags::ClusterFlags;
use super::super::exit;
use super::{Wanted, plan};

/// Print what `isthmus install` would apply, without a cluster.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example: isthmus manifest generate --set profile=minimal")]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

/// What is done with manifests.
#[derive(Debug, clap::Subcommand)]
enum Command {
    Generate(Generate),
}

/// Print the objects of an installation as YAML, in the order in which they are to be applied.
///
/// The same input always yields the same text. What runs in a cluster is not looked at: an east-west gateway needs
/// --set values.global.network here.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example: isthmus manifest generate -f values-istio.yaml --set values.global.network=us-net | kubectl apply --server-side -f -"
)]
struct Generate {
    #[command(flatten)]
    wanted: Wanted,
    /// Context whose name the cluster is called after when neither its name nor its network is given.
    #[arg(long, value_name = "NAME")]
    context: Option<String>,
}

pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let Command::Generate(args) = args.command;
    let spec = args.wanted.read()?;
    let named = ClusterFlags {
        context: args.context,
        kubeconfig: None,
    };
    let surroundings = Surroundings {
        context: named.context.is_some().then(|| named.context_name()).flatten(),
        ..Surroundings::default()
    };
    let installation = plan(spec, &surroundings)?;
    let text = yaml::write_all(installation.objects());
    match std::io::stdout().lock().write_all(text.as_bytes()) {
        // Whoever read it has seen enough.
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => {}
        other => other?,
    }
    Ok(ExitCode::from(exit::OK))
}
