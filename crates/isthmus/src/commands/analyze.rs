//! `isthmus analyze`: what a set of resources will do other than meant.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::ValueEnum;
use isthmus_api::finding::{Finding, Level};
use isthmus_api::{Parsed, analyze, mesh_config};

use super::{exit, validate};

/// Find out what a set of resources will do other than meant.
///
/// Checks resources by themselves and against each other. What is not in the files is taken not to exist,
/// so give every file of a cluster at once.
///
/// Exits with 79 when there is a finding of the failure threshold or worse.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  isthmus analyze samples/two-clusters/us\n  isthmus analyze -o json --failure-threshold warning mesh/"
)]
pub struct Args {
    /// Files and directories of YAML or JSON; `-` reads standard input.
    #[arg(value_name = "FILE|DIR", required = true)]
    files: Vec<PathBuf>,
    /// Form of the answer.
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
    /// Whether a cluster's API server is asked as well. Only files can be analysed.
    #[arg(long, value_name = "BOOL", default_value = "false", value_parser = no_kubernetes, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    use_kube: bool,
    /// File with the MeshConfig, instead of ConfigMap `istio` among the files.
    #[arg(long, value_name = "FILE")]
    mesh_config_file: Option<PathBuf>,
    /// Least level that makes the command fail.
    #[arg(long, value_enum, default_value_t = Threshold::Error, ignore_case = true)]
    failure_threshold: Threshold,
    /// Least level that is printed.
    #[arg(long, value_enum, default_value_t = Threshold::Info, ignore_case = true)]
    output_threshold: Threshold,
}

#[derive(Debug, Clone, Copy, Default, ValueEnum)]
enum Output {
    /// One finding a line.
    #[default]
    Log,
    /// A JSON array.
    Json,
    /// A YAML list.
    Yaml,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Threshold {
    Info,
    Warning,
    Error,
}

impl Threshold {
    fn level(self) -> Level {
        match self {
            Self::Info => Level::Info,
            Self::Warning => Level::Warning,
            Self::Error => Level::Error,
        }
    }
}

fn no_kubernetes(value: &str) -> Result<bool, String> {
    match value {
        "false" => Ok(false),
        "true" => {
            Err("a cluster cannot be analysed, only files: leave it out or write --use-kube=false".into())
        }
        _ => Err("write true or false".into()),
    }
}

pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let mut parsed = Parsed::default();
    for file in &args.files {
        parsed.absorb(validate::read(file)?);
    }
    parsed.drop_duplicates();
    let mut findings = parsed.findings;
    findings.extend(analyze(&parsed.objects));
    if let Some(file) = &args.mesh_config_file {
        let text = isthmus_api::load::read(file).with_context(|| format!("reading {}", file.display()))?;
        findings.extend(mesh_config::from_text(&text, &file.display().to_string()).1);
    }
    findings.sort();
    let failed = findings.iter().any(|f| f.level >= args.failure_threshold.level());
    findings.retain(|f| f.level >= args.output_threshold.level());
    let mut out = std::io::stdout().lock();
    match args.output {
        Output::Json => writeln!(out, "{}", serde_json::to_string_pretty(&findings)?)?,
        Output::Yaml => write!(out, "{}", serde_saphyr::to_string(&findings)?)?,
        Output::Log => {
            for finding in &findings {
                writeln!(out, "{}", log_line(finding))?;
            }
            if findings.is_empty() {
                let files: Vec<String> = args.files.iter().map(|f| f.display().to_string()).collect();
                writeln!(out, "No issues found in {}.", files.join(", "))?;
            }
        }
    }
    Ok(ExitCode::from(if failed { exit::FINDINGS } else { exit::OK }))
}

/// Istio's form: `Error [IST0101] (VirtualService reviews.default file:line) message`.
fn log_line(finding: &Finding) -> String {
    let origin = match finding.origin.split_once(' ') {
        None => finding.origin.clone(),
        Some((kind, name)) => match name.split_once('/') {
            None => format!("{kind} {name}"),
            Some((namespace, name)) => format!("{kind} {name}.{namespace}"),
        },
    };
    let place = [origin, finding.reference()]
        .into_iter()
        .filter(|s| !s.is_empty())
        .collect::<Vec<_>>()
        .join(" ");
    let bare = Finding {
        origin: String::new(),
        file: "".into(),
        line: 0,
        ..finding.clone()
    }
    .to_string();
    let message = bare
        .split_once("] ")
        .map_or(bare.as_str(), |(_, message)| message);
    format!("{} [{}] ({place}) {message}", finding.level, finding.code.id)
}

#[cfg(test)]
mod tests {
    use super::*;
    use isthmus_api::parse;

    #[test]
    fn a_line_reads_as_istioctls() {
        let text = "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: a, namespace: n}\nspec:\n  \
                    hosts: [a]\n  gateways: [b]\n  http: [{redirect: {uri: /x}}]\n";
        let parsed = parse(text, "f.yaml");
        let found = analyze(&parsed.objects);
        assert_eq!(
            log_line(&found[0]),
            "Error [IST0101] (VirtualService a.n f.yaml:6) spec.gateways[0]: there is no Gateway n/b; \
             correct the name, or add the Gateway"
        );
        let json = serde_json::to_value(&found[0]).unwrap();
        assert_eq!(json["origin"], "VirtualService n/a");
        assert_eq!(json["reference"], "f.yaml:6");
        assert_eq!(
            json["documentationUrl"],
            "https://istio.io/latest/docs/reference/config/analysis/ist0101/"
        );
    }
}
