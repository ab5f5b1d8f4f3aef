//! `install`, `upgrade`, `uninstall`, `manifest` and `profile`: what is to be installed, and what is done to a cluster.
//!
//! ```text
//!   -f, --set ─▶ manifests::operator ─▶ Installation ─┬▶ manifest: YAML
//!        what runs already ┘                          └▶ rollout: apply, wait, prune, with progress
//! ```

pub mod install;
pub mod manifest;
pub mod profile;
mod progress;
mod rollout;
pub mod uninstall;

use std::io::{IsTerminal, Read, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use isthmus_api::finding::{Finding, Level};
use isthmus_api::load;
use isthmus_kube::apply::Applier;
use isthmus_manifests::operator::{self, Input, Installation, Spec, Surroundings};
use serde_json::{Value, json};

/// The name under which objects are written.
const FIELD_MANAGER: &str = "isthmus-operator";

/// What is to be installed.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct Wanted {
    /// IstioOperator or Helm values; several are laid over each other in order; `-` reads standard input.
    #[arg(short = 'f', long = "filename", value_name = "FILE")]
    files: Vec<PathBuf>,
    /// One value, as in profile=demo, values.global.network=us-net, components.ingressGateways[0].enabled=true;
    /// counts after the files. May be given several times.
    #[arg(short = 's', long = "set", value_name = "PATH=VALUE")]
    sets: Vec<String>,
    /// Name of this control plane among several in the cluster (the same as --set revision=NAME).
    #[arg(short = 'r', long, value_name = "NAME")]
    revision: Option<String>,
}

impl Wanted {
    /// Reads the files; what is wrong with them is written to standard error and ends the command.
    fn read(&self) -> anyhow::Result<Spec> {
        let mut input = Input {
            files: Vec::new(),
            sets: self.sets.clone(),
        };
        for file in &self.files {
            input.files.push((file.display().to_string(), text(file)?));
        }
        input
            .sets
            .extend(self.revision.iter().map(|name| format!("revision={name}")));
        match operator::read(&input) {
            Ok(spec) => Ok(spec),
            Err(findings) => {
                say(&findings);
                bail!("nothing was changed: correct what is named above")
            }
        }
    }
}

fn text(file: &Path) -> anyhow::Result<String> {
    if file != Path::new("-") {
        return load::read(file).with_context(|| format!("{} cannot be read", file.display()));
    }
    let mut text = String::new();
    std::io::stdin()
        .lock()
        .take(16 << 20)
        .read_to_string(&mut text)
        .context("reading standard input")?;
    Ok(text)
}

/// Makes the objects, and says what is worth it.
fn plan(spec: Spec, surroundings: &Surroundings) -> anyhow::Result<Installation> {
    let installation = operator::plan(spec, surroundings)?;
    say(&installation.findings);
    Ok(installation)
}

/// Writes findings to standard error, one a line.
fn say(findings: &[Finding]) {
    let mut out = std::io::stderr().lock();
    for finding in findings {
        let _ = match finding.level {
            // Not worth the form of an error.
            Level::Info => writeln!(out, "{}; {}", finding.message, finding.remedy),
            _ => writeln!(out, "{finding}"),
        };
    }
}

/// What is known of the cluster: the control plane's values and its network.
async fn look_around(
    applier: &Applier,
    namespace: &str,
    revision: &str,
    context: Option<String>,
) -> anyhow::Result<Surroundings> {
    let mut surroundings = Surroundings {
        context,
        ..Surroundings::default()
    };
    let names = match revision {
        "default" => vec!["istio-sidecar-injector".to_owned()],
        revision => vec![
            format!("istio-sidecar-injector-{revision}"),
            "istio-sidecar-injector".to_owned(),
        ],
    };
    for name in names {
        let wanted = json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": name, "namespace": namespace } });
        if let Some(found) = applier.get(&wanted).await? {
            let values = found
                .pointer("/data/values")
                .and_then(Value::as_str)
                .unwrap_or_default();
            surroundings.installed = serde_json::from_str(values).ok();
            break;
        }
    }
    let wanted = json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": namespace } });
    if let Some(found) = applier.get(&wanted).await? {
        let labels = &found["metadata"]["labels"];
        surroundings.network = labels["topology.istio.io/network"].as_str().map(str::to_owned);
    }
    Ok(surroundings)
}

/// Asks before something is done; whoever cannot be asked has to say so beforehand.
fn confirm(question: &str, yes: bool) -> anyhow::Result<bool> {
    if yes {
        return Ok(true);
    }
    if !std::io::stdin().is_terminal() {
        bail!("{question} Nobody can be asked here; add -y to go on");
    }
    eprint!("{question} Proceed? (y/N) ");
    std::io::stderr().flush().ok();
    let mut answer = String::new();
    std::io::stdin()
        .read_line(&mut answer)
        .context("reading the answer")?;
    Ok(matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes"))
}

/// `Kind namespace/name`, as messages have it.
fn named(object: &Value) -> String {
    let text = |pointer: &str| {
        object
            .pointer(pointer)
            .and_then(Value::as_str)
            .unwrap_or_default()
    };
    match text("/metadata/namespace") {
        "" => format!("{} {}", text("/kind"), text("/metadata/name")),
        namespace => format!("{} {namespace}/{}", text("/kind"), text("/metadata/name")),
    }
}
