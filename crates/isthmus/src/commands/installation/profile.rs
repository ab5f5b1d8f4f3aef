//! `isthmus profile`.

use std::process::ExitCode;

use anyhow::anyhow;
use isthmus_manifests::operator::{self, Input};
use isthmus_manifests::profile::{ALL, Profile};
use isthmus_manifests::yaml;
use serde_json::{Value, json};

use super::super::exit;
use super::{Wanted, say};

/// Show the profiles that installations start from, and what they amount to.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  isthmus profile list\n  isthmus profile dump demo\n  isthmus profile diff default demo"
)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

/// What is done with profiles.
#[derive(Debug, clap::Subcommand)]
enum Command {
    /// List the profiles, with what each is for.
    List,
    Dump(Dump),
    /// Show in which lines two profiles differ.
    Diff {
        /// One profile.
        first: String,
        /// The other.
        second: String,
    },
}

/// Print a profile as an IstioOperator, with files and values laid over it.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example: isthmus profile dump demo --set values.global.network=us-net")]
struct Dump {
    /// Name of the profile; `default` without it.
    name: Option<String>,
    #[command(flatten)]
    wanted: Wanted,
}

pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    match args.command {
        Command::List => {
            for profile in ALL {
                outln!("{:<10} {}", profile.name, profile.summary());
            }
        }
        Command::Dump(dump) => {
            let mut wanted = dump.wanted;
            if let Some(name) = dump.name {
                Profile::named(&name).map_err(|message| anyhow!(message))?;
                wanted.sets.insert(0, format!("profile={name}"));
            }
            let spec = wanted.read()?;
            say(&spec.findings);
            out!("{}", yaml::write(&as_operator(spec.tree)));
        }
        Command::Diff { first, second } => {
            let (a, b) = (text(&first)?, text(&second)?);
            let lines = difference(&a, &b);
            out!("{lines}");
            if !lines.is_empty() {
                return Ok(ExitCode::from(exit::FAILURE));
            }
        }
    }
    Ok(ExitCode::from(exit::OK))
}

fn as_operator(spec: Value) -> Value {
    json!({ "apiVersion": "install.istio.io/v1alpha1", "kind": "IstioOperator", "spec": spec })
}

fn text(name: &str) -> anyhow::Result<String> {
    Profile::named(name).map_err(|message| anyhow!(message))?;
    let input = Input {
        files: Vec::new(),
        sets: vec![format!("profile={name}")],
    };
    match operator::read(&input) {
        Ok(spec) => Ok(yaml::write(&as_operator(spec.tree))),
        Err(findings) => Err(anyhow!(
            findings
                .iter()
                .map(ToString::to_string)
                .collect::<Vec<_>>()
                .join("\n")
        )),
    }
}

/// The lines that only one of two texts has, in order, each under the mappings that it stands in.
fn difference(a: &str, b: &str) -> String {
    let (a, b): (Vec<&str>, Vec<&str>) = (a.lines().collect(), b.lines().collect());
    // Length of the longest common subsequence of what begins at (i, j).
    let mut common = vec![vec![0_usize; b.len() + 1]; a.len() + 1];
    for i in (0..a.len()).rev() {
        for j in (0..b.len()).rev() {
            common[i][j] = if a[i] == b[j] {
                common[i + 1][j + 1] + 1
            } else {
                common[i + 1][j].max(common[i][j + 1])
            };
        }
    }
    let mut out = String::new();
    let (mut i, mut j) = (0, 0);
    let mut shown: Vec<String> = Vec::new();
    while i < a.len() || j < b.len() {
        if i < a.len() && j < b.len() && a[i] == b[j] {
            (i, j) = (i + 1, j + 1);
        } else if j == b.len() || (i < a.len() && common[i + 1][j] >= common[i][j + 1]) {
            context(&a, i, &mut shown, &mut out);
            out.push_str(&format!("-{}\n", a[i]));
            i += 1;
        } else {
            context(&b, j, &mut shown, &mut out);
            out.push_str(&format!("+{}\n", b[j]));
            j += 1;
        }
    }
    out
}

/// The lines above line `i` that it stands in and that were not shown yet, of either text.
fn context(lines: &[&str], i: usize, shown: &mut Vec<String>, out: &mut String) {
    let indent = |line: &str| line.len() - line.trim_start_matches([' ', '-']).len();
    let mut parents = Vec::new();
    let mut depth = indent(lines[i]);
    for line in lines[..i].iter().rev() {
        if indent(line) < depth {
            depth = indent(line);
            parents.push(*line);
        }
    }
    let mut path = String::new();
    for line in parents.into_iter().rev() {
        path.push_str(line);
        if !shown.contains(&path) {
            shown.push(path.clone());
            out.push_str(&format!(" {line}\n"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_difference_names_the_lines_of_either_side_and_what_they_stand_in() {
        let a = "spec:\n  x:\n    on: true\n    k: 1\n  y: 2\n";
        let b = "spec:\n  x:\n    on: false\n    k: 1\n  y: 2\n  z: 3\n";
        assert_eq!(
            difference(a, b),
            " spec:\n   x:\n-    on: true\n+    on: false\n+  z: 3\n"
        );
        assert_eq!(difference(a, a), "");
    }

    #[test]
    fn the_profiles_differ_from_each_other() {
        let default = text("default").unwrap();
        for profile in ALL.iter().filter(|p| p.name != "default") {
            assert!(
                !difference(&default, &text(profile.name).unwrap()).is_empty(),
                "{}",
                profile.name
            );
        }
    }
}
