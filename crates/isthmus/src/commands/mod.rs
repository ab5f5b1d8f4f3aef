//! The command line: what can be typed, and which module answers.

pub mod certs;
pub mod version;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Exit codes, the same as istioctl's.
pub mod exit {
    /// All is well.
    pub const OK: u8 = 0;
    /// The command failed.
    pub const FAILURE: u8 = 1;
    /// The command line is wrong (sysexits `EX_USAGE`).
    pub const USAGE: u8 = 64;
}

/// Joins Kubernetes clusters on different networks into one secure service mesh that speaks Istio's APIs.
///
/// Start with `isthmus demo`: two clusters, each with its own control plane, on this machine.
#[derive(Debug, Parser)]
#[command(
    name = "isthmus",
    version,
    propagate_version = true,
    disable_help_subcommand = true
)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

/// One variant for each command.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make and show the certificates that let clusters trust each other.
    Certs(certs::Args),
    /// Print the version and what this binary was built from.
    Version(version::Args),
}

impl Command {
    /// Runs the command to its end.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        match self {
            Self::Certs(args) => certs::run(args),
            Self::Version(args) => version::run(args),
        }
    }
}
