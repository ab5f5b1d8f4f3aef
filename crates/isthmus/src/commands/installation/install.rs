//! `isthmus install` and `isthmus upgrade`.

use std::process::ExitCode;

use anyhow::bail;
use isthmus_kube::apply::Applier;
use isthmus_manifests::chart::VERSION;
use isthmus_manifests::operator::{ComponentKind, Installation};

use super::super::cluster_flags::{ClusterFlags, block_on};
use super::super::exit;
use super::rollout::{How, Tally, parts, roll_out, running_version};
use super::{FIELD_MANAGER, Wanted, confirm, look_around, plan};

/// Install the mesh into a Kubernetes cluster, or change what is installed.
///
/// Without files it installs the profile `default`: a control plane and an ingress gateway. Files of kind
/// IstioOperator and Helm values files written for Istio are taken as they are; what in them has no effect is
/// said, with what to write instead.
///
/// Running it again is safe: what is so already stays untouched, and what an earlier run of the same name brought
/// and this one does not is removed. It waits until everything works and says what it waits for.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  isthmus install -y\n  isthmus install --set profile=minimal --set values.global.network=us-net -y\n  isthmus install -f values-istio.yaml -f gateway.yaml --context prod-eu-west-1\n  isthmus install -f eastwest.yaml --dry-run"
)]
pub struct Args {
    #[command(flatten)]
    wanted: Wanted,
    #[command(flatten)]
    cluster: ClusterFlags,
    #[command(flatten)]
    flags: Flags,
}

/// How it is done.
#[derive(Debug, clap::Args)]
pub struct Flags {
    /// Do not ask before something is changed.
    #[arg(short = 'y', long = "skip-confirmation", visible_alias = "yes")]
    yes: bool,
    /// Let the API server check everything and change nothing.
    #[arg(long)]
    dry_run: bool,
    /// Take over fields that others have set.
    #[arg(long)]
    force: bool,
    /// Whether to wait until everything works.
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set, num_args = 0..=1, default_missing_value = "true")]
    wait: bool,
    /// How long each component may take, in seconds or as 5m, 300s.
    #[arg(long, value_name = "DURATION", default_value = "5m")]
    readiness_timeout: isthmus_api::Duration,
}

/// Bring an installed control plane to this version.
///
/// The same as `install`, but it looks first: at the version that runs (it goes to the next minor version, not
/// beyond, and not back), and, by a dry run, at what would change, before it asks. Give it the files and values
/// of the installation: what they do not say is as the profile has it.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example: isthmus upgrade -f values-istio.yaml --set values.global.network=us-net")]
pub struct Upgrade {
    #[command(flatten)]
    wanted: Wanted,
    #[command(flatten)]
    cluster: ClusterFlags,
    #[command(flatten)]
    flags: Flags,
}

pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    block_on(async move {
        let (applier, installation) = prepare(&args.wanted, &args.cluster).await?;
        let question = format!(
            "This will install Isthmus {VERSION} (profile {}: {}) into {}.",
            installation.profile,
            components(&installation),
            applier.cluster().server()
        );
        if !args.flags.dry_run && !confirm(&question, args.flags.yes)? {
            eprintln!("Nothing was changed.");
            return Ok(ExitCode::from(exit::FAILURE));
        }
        let tally = roll_out(&applier, &installation, args.flags.how()).await?;
        finish(&installation, &tally, args.flags.dry_run);
        Ok(ExitCode::from(exit::OK))
    })
}

pub fn upgrade(args: Upgrade) -> anyhow::Result<ExitCode> {
    block_on(async move {
        let (applier, installation) = prepare(&args.wanted, &args.cluster).await?;
        let running = running_version(&applier, &installation.namespace, &installation.revision).await?;
        let Some(running) = running else {
            bail!(
                "there is no control plane of revision {} in {}; install one with isthmus install",
                installation.revision,
                installation.namespace
            );
        };
        match step(&running, VERSION) {
            Step::Fine => {}
            _ if args.flags.force => {}
            Step::Back => bail!(
                "version {running} runs, which is newer than {VERSION}; use that version's isthmus, or add --force"
            ),
            Step::TooFar => {
                bail!("version {running} runs; go to {VERSION} one minor version at a time, or add --force")
            }
        }
        let rehearsal = roll_out(
            &applier,
            &installation,
            How {
                dry_run: true,
                ..args.flags.how()
            },
        )
        .await?;
        if args.flags.dry_run {
            finish(&installation, &rehearsal, true);
            return Ok(ExitCode::from(exit::OK));
        }
        if rehearsal.created + rehearsal.changed + rehearsal.pruned.len() == 0 {
            eprintln!("Version {running} is installed as you say; nothing is to be done.");
            return Ok(ExitCode::from(exit::OK));
        }
        let question = format!(
            "This will upgrade {} from {running} to {VERSION} as shown above.",
            applier.cluster().server()
        );
        if !confirm(&question, args.flags.yes)? {
            eprintln!("Nothing was changed.");
            return Ok(ExitCode::from(exit::FAILURE));
        }
        let tally = roll_out(&applier, &installation, args.flags.how()).await?;
        finish(&installation, &tally, false);
        Ok(ExitCode::from(exit::OK))
    })
}

impl Flags {
    fn how(&self) -> How {
        How {
            dry_run: self.dry_run,
            force: self.force,
            wait: self.wait,
            patience: *self.readiness_timeout,
        }
    }
}

async fn prepare(wanted: &Wanted, cluster: &ClusterFlags) -> anyhow::Result<(Applier, Installation)> {
    let spec = wanted.read()?;
    let applier = Applier::new(cluster.connect().await?, FIELD_MANAGER);
    let surroundings = look_around(
        &applier,
        spec.namespace(),
        spec.revision(),
        cluster.context_name(),
    )
    .await?;
    Ok((applier, plan(spec, &surroundings)?))
}

fn components(installation: &Installation) -> String {
    let names: Vec<&str> = installation.components.iter().map(|c| c.name.as_str()).collect();
    if names.is_empty() {
        "no components".to_owned()
    } else {
        names.join(", ")
    }
}

fn finish(installation: &Installation, tally: &Tally, dry_run: bool) {
    let (created, changed, unchanged) = (tally.created, tally.changed, tally.unchanged);
    let pruned = tally.pruned.len();
    if dry_run {
        eprintln!(
            "Nothing was changed: {created} objects would be created, {changed} changed, {pruned} removed, {unchanged} stay as they are."
        );
        return;
    }
    eprintln!("Done: {created} objects created, {changed} changed, {pruned} removed, {unchanged} unchanged.");
    let first = created > 0
        && installation
            .components
            .iter()
            .any(|c| c.kind == ComponentKind::Pilot);
    if first {
        let label = match installation.revision.as_str() {
            "default" => "istio-injection=enabled".to_owned(),
            revision => format!("istio.io/rev={revision}"),
        };
        eprintln!("New pods of a namespace get sidecars after: kubectl label namespace NAME {label}");
    }
}

/// What an upgrade from one version to another is.
#[derive(Debug, PartialEq)]
enum Step {
    Fine,
    Back,
    TooFar,
}

fn step(from: &str, to: &str) -> Step {
    match (parts(from), parts(to)) {
        (Some(from), Some(to)) if from > to => Step::Back,
        (Some(from), Some(to)) if from.0 != to.0 || to.1 > from.1 + 1 => Step::TooFar,
        // What runs says no version that we know: nothing can be held against it.
        _ => Step::Fine,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_upgrade_goes_forward_one_minor_version_at_a_time() {
        assert_eq!(step("0.1.0", "0.1.0"), Step::Fine);
        assert_eq!(step("0.1.0", "0.2.3"), Step::Fine);
        assert_eq!(step("0.1.9", "0.3.0"), Step::TooFar);
        assert_eq!(step("1.9.0", "2.0.0"), Step::TooFar);
        assert_eq!(step("0.2.0", "0.1.9"), Step::Back);
        assert_eq!(step("latest", "0.1.0"), Step::Fine);
        assert_eq!(step("v0.1.0-rc.1", "0.1.1"), Step::Fine);
    }
}
