//! `isthmus validate`: whether resources are valid, one finding a line.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use isthmus_api::finding::Finding;
use isthmus_api::yaml::Limits;
use isthmus_api::{Parsed, analyze, load, parse};

use super::exit;

/// Check resources by themselves, one finding a line.
///
/// Checks every resource of the files by itself, and hosts that two of them claim. Whether what they refer
/// to exists is for `isthmus analyze`, since it may stand in other files.
///
/// Exits with 0 when everything is valid (warnings included) and 1 when not.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  isthmus validate -f virtual-service.yaml\n  kubectl get gateways,virtualservices -A -o yaml | isthmus validate -f -"
)]
pub struct Args {
    /// File or directory of YAML or JSON; `-` reads standard input. May be given several times.
    #[arg(short = 'f', long = "filename", value_name = "FILE", required = true)]
    files: Vec<PathBuf>,
}

pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let mut parsed = Parsed::default();
    for file in &args.files {
        parsed.absorb(read(file)?);
    }
    parsed.drop_duplicates();
    let findings = analyze::by_themselves(parsed);
    let mut out = std::io::stdout().lock();
    for finding in &findings {
        writeln!(out, "{finding}")?;
    }
    let valid = !findings.iter().any(Finding::is_error);
    Ok(ExitCode::from(if valid { exit::OK } else { exit::FAILURE }))
}

/// Reads a file, a directory or standard input.
pub fn read(file: &Path) -> anyhow::Result<Parsed> {
    if file != Path::new("-") {
        return Ok(load(file));
    }
    let limit = Limits::default().file_bytes as u64;
    let mut text = Vec::new();
    std::io::stdin()
        .lock()
        .take(limit + 1)
        .read_to_end(&mut text)
        .context("reading standard input")?;
    let text = String::from_utf8(text).context("standard input is not UTF-8")?;
    Ok(parse(&text, "-"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &str) -> Vec<String> {
        analyze::by_themselves(isthmus_api::parse(text, "f.yaml"))
            .iter()
            .map(ToString::to_string)
            .collect()
    }

    #[test]
    fn typo_unknown_field_bad_port_and_duplicate_host_are_named_with_file_line_and_remedy() {
        let gateway = "apiVersion: networking.istio.io/v1\nkind: Gateway\nmetadata: {name: g}\nspec:\n  \
                       selector: {istio: ingressgateway}\n  servers:\n  - port: {number: 80, name: http, protocol: HTTP}\n    hosts: [a.com]\n";
        assert_eq!(lines(gateway), [""; 0]);
        let found = lines(&gateway.replace("servers", "severs"));
        assert!(
            found[0].starts_with(
                "f.yaml:4: error [IST0106] (Gateway default/g) spec: the Gateway has no servers"
            ),
            "{found:?}"
        );
        assert!(
            found[1].starts_with("f.yaml:6: ") && found[1].ends_with("did you mean servers?"),
            "{found:?}"
        );
        let found = lines(&gateway.replace("hosts: [a.com]", "hosts: [a.com]\n    replicas: 3"));
        assert!(
            found[0].starts_with("f.yaml:9: ") && found[0].contains("unknown field \"replicas\"; remove it"),
            "{found:?}"
        );
        let found = lines(&gateway.replace("80", "808080"));
        assert!(
            found[0].starts_with("f.yaml:7: ") && found[0].contains("write a port from 1 to 65535"),
            "{found:?}"
        );
        let found = lines(&gateway.replace("[a.com]", "[a.com, a.com]"));
        assert!(
            found[0].starts_with("f.yaml:8: ") && found[0].contains("served on port 80 already; remove one"),
            "{found:?}"
        );
        let two = format!("{gateway}---\n{}", gateway.replace("name: g", "name: h"));
        let found = lines(&two);
        assert!(
            found[0].starts_with("f.yaml:17: error [IST0145] (Gateway default/h)"),
            "{found:?}"
        );
    }

    #[test]
    fn references_to_other_files_are_not_this_commands_business() {
        let text = "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: a}\nspec:\n  \
                    hosts: [a]\n  gateways: [elsewhere]\n  http: [{route: [{destination: {host: b, subset: c}}]}]\n";
        assert_eq!(lines(text), [""; 0]);
    }
}
