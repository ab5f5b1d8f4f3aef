//! `isthmus version`.

use std::process::ExitCode;

use clap::ValueEnum;
use serde::Serialize;

use super::exit;

/// How the answer is written.
#[derive(Debug, Clone, Copy, Default, ValueEnum)]
pub enum Output {
    /// One line.
    #[default]
    Text,
    /// A JSON object.
    Json,
}

/// Print the version and what this binary was built from.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example: isthmus version --output json")]
pub struct Args {
    /// Form of the answer.
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

#[derive(Serialize)]
struct Version {
    version: &'static str,
    profile: &'static str,
    architecture: &'static str,
}

pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let version = Version {
        version: env!("CARGO_PKG_VERSION"),
        profile: if cfg!(debug_assertions) {
            "debug"
        } else {
            "release"
        },
        architecture: std::env::consts::ARCH,
    };
    match args.output {
        Output::Text => outln!(
            "isthmus {} ({}, {})",
            version.version,
            version.profile,
            version.architecture
        ),
        Output::Json => outln!("{}", serde_json::to_string_pretty(&version)?),
    }
    Ok(ExitCode::from(exit::OK))
}
