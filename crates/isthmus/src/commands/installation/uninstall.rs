//! `isthmus uninstall`.

use std::process::ExitCode;

use anyhow::{Context, bail};
use isthmus_kube::apply::Applier;
use isthmus_manifests::operator::{
    self, INSTALLER, INSTALLER_LABEL, OWNER_LABEL, SHARED_OWNER, Surroundings,
};
use isthmus_manifests::order;
use serde_json::{Value, json};

use super::super::cluster_flags::{ClusterFlags, block_on};
use super::super::exit;
use super::{FIELD_MANAGER, Wanted, confirm, named};

/// Remove what was installed, and nothing else.
///
/// Without flags it removes every control plane and gateway that `isthmus install` brought; with -f or --revision
/// that installation alone. What users wrote stays, and so do the definitions of its kinds and the namespace.
///
/// --purge removes these as well: the custom resource definitions, with every object of their kinds, what the
/// control plane wrote, and the namespace, where the installation made it.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  isthmus uninstall --dry-run\n  isthmus uninstall -f eastwest.yaml -y\n  isthmus uninstall --purge -y --context prod-eu-west-1"
)]
pub struct Args {
    #[command(flatten)]
    wanted: Wanted,
    #[command(flatten)]
    cluster: ClusterFlags,
    /// Remove the definitions and everything written of their kinds, too.
    #[arg(long)]
    purge: bool,
    /// Show what would be removed.
    #[arg(long)]
    dry_run: bool,
    /// Do not ask.
    #[arg(short = 'y', long = "skip-confirmation", visible_alias = "yes")]
    yes: bool,
    /// Namespace of the control plane.
    #[arg(
        short = 'i',
        long = "istioNamespace",
        visible_alias = "istio-namespace",
        default_value = "istio-system"
    )]
    istio_namespace: String,
}

pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let one = !args.wanted.files.is_empty() || args.wanted.revision.is_some() || !args.wanted.sets.is_empty();
    if one && args.purge {
        bail!("--purge removes everything; leave out -f, --set and --revision");
    }
    block_on(async move {
        let applier = Applier::new(args.cluster.connect().await?, FIELD_MANAGER);
        let mut objects = if one {
            let spec = args.wanted.read()?;
            let owner = operator::plan(spec, &Surroundings::default())?.owner();
            owned(&applier, &format!("{OWNER_LABEL}={owner}")).await?
        } else {
            let all = owned(&applier, "").await?;
            all.into_iter().filter(|o| args.purge || !stays(o)).collect()
        };
        order::sort(&mut objects);
        // The last comes first: nobody is refused by a webhook whose control plane is gone, and roles outlive
        // those who need them.
        objects.reverse();
        if args.purge {
            // After the rights by which a control plane that still ends would write it again.
            objects.extend(written_by_the_control_plane(&applier, &args.istio_namespace).await?);
        }
        if objects.is_empty() {
            eprintln!("Nothing that isthmus installed is here.");
            return Ok(ExitCode::from(exit::OK));
        }
        for object in &objects {
            eprintln!("  {}", named(object));
        }
        let question = format!(
            "These {} objects will be removed from {}.",
            objects.len(),
            applier.cluster().server()
        );
        if args.dry_run {
            eprintln!(
                "Nothing was changed: these {} objects would be removed.",
                objects.len()
            );
            return Ok(ExitCode::from(exit::OK));
        }
        if !confirm(&question, args.yes)? {
            eprintln!("Nothing was changed.");
            return Ok(ExitCode::from(exit::FAILURE));
        }
        let mut removed = 0;
        for object in &objects {
            removed += usize::from(applier.delete(object).await?);
        }
        eprintln!("Removed {removed} objects.");
        if !args.purge && !one {
            eprintln!(
                "The custom resource definitions and the namespace are kept; remove them with isthmus uninstall --purge."
            );
        }
        Ok(ExitCode::from(exit::OK))
    })
}

/// Everything that was installed with these labels.
async fn owned(applier: &Applier, selector: &str) -> anyhow::Result<Vec<Value>> {
    let mut whole = format!("{INSTALLER_LABEL}={INSTALLER}");
    if !selector.is_empty() {
        whole.push(',');
        whole.push_str(selector);
    }
    applier
        .owned(&whole)
        .await
        .context("looking for what was installed")
}

/// Whether an object goes only when everything goes.
fn stays(object: &Value) -> bool {
    object["kind"] == "Namespace"
        || (object["kind"] == "CustomResourceDefinition"
            && object["metadata"]["labels"][OWNER_LABEL] == SHARED_OWNER)
}

/// What nobody applied: the authority of its own, its leases, and the roots in every namespace.
async fn written_by_the_control_plane(applier: &Applier, namespace: &str) -> anyhow::Result<Vec<Value>> {
    let mut found = Vec::new();
    for (api_version, kind, name) in [
        ("v1", "Secret", "istio-ca-secret"),
        ("coordination.k8s.io/v1", "Lease", "istiod-leader"),
    ] {
        let metadata = json!({ "name": name, "namespace": namespace });
        let wanted = json!({ "apiVersion": api_version, "kind": kind, "metadata": metadata });
        found.extend(applier.get(&wanted).await?);
    }
    found.extend(
        applier
            .owned("istio.io/config=true")
            .await
            .context("looking for roots of the mesh")?,
    );
    Ok(found)
}
