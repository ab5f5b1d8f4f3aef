//! The command line: what can be typed, and which module answers.

pub mod admin;
pub mod analyze;
pub mod certs;
pub mod cluster_flags;
pub mod control_plane;
pub mod demo;
pub mod dns;
pub mod exec;
pub mod installation;
pub mod join;
pub mod kube_inject;
pub mod peer;
pub mod proxy;
pub mod proxy_config;
pub mod proxy_status;
pub mod redirect;
pub mod remote_secret;
pub mod resources;
pub mod sample;
pub mod sandbox;
#[cfg(test)]
mod tests;
pub mod validate;
pub mod version;
pub mod wait_for_proxy;

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
    /// `analyze` found issues.
    pub const FINDINGS: u8 = 79;
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
    Demo(demo::Args),
    Exec(exec::Args),
    Apply(resources::Apply),
    Delete(resources::Delete),
    Get(resources::Get),
    #[command(visible_alias = "ps")]
    ProxyStatus(proxy_status::Args),
    #[command(visible_alias = "pc")]
    ProxyConfig(proxy_config::Args),
    Peer(peer::Args),
    Fetch(sample::Fetch),
    Sample(sample::Sample),
    Install(installation::install::Args),
    Upgrade(installation::install::Upgrade),
    Uninstall(installation::uninstall::Args),
    Manifest(installation::manifest::Args),
    Profile(installation::profile::Args),
    Join(join::Args),
    Unjoin(join::Unjoin),
    CreateRemoteSecret(remote_secret::Args),
    Dns(dns::Args),
    Certs(certs::Args),
    ControlPlane(control_plane::Args),
    Proxy(proxy::Args),
    Validate(validate::Args),
    Analyze(analyze::Args),
    KubeInject(kube_inject::Args),
    Redirect(redirect::Args),
    Version(version::Args),
    #[command(hide = true)]
    WaitForProxy(wait_for_proxy::Args),
    #[command(hide = true)]
    AdminGet(admin::Args),
    #[command(hide = true)]
    SandboxSupervisor(demo::Supervisor),
}

impl Command {
    /// Runs the command to its end.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        match self {
            Self::Demo(args) => demo::run(args),
            Self::Exec(args) => exec::run(args),
            Self::Apply(args) => resources::apply(args),
            Self::Delete(args) => resources::delete(args),
            Self::Get(args) => resources::get(args),
            Self::Proxy(args) => proxy::run(args),
            Self::ProxyStatus(args) => proxy_status::run(args),
            Self::ProxyConfig(args) => proxy_config::run(args),
            Self::Peer(args) => peer::run(args),
            Self::AdminGet(args) => admin::run(args),
            Self::WaitForProxy(args) => wait_for_proxy::run(args),
            Self::Fetch(args) => sample::fetch(args),
            Self::Sample(args) => sample::sample(args),
            Self::SandboxSupervisor(args) => demo::supervise(args),
            Self::Install(args) => installation::install::run(args),
            Self::Upgrade(args) => installation::install::upgrade(args),
            Self::Uninstall(args) => installation::uninstall::run(args),
            Self::Manifest(args) => installation::manifest::run(args),
            Self::Profile(args) => installation::profile::run(args),
            Self::Join(args) => join::run(args),
            Self::Unjoin(args) => join::unjoin(args),
            Self::CreateRemoteSecret(args) => remote_secret::run(args),
            Self::Dns(args) => dns::run(args),
            Self::Certs(args) => certs::run(args),
            Self::ControlPlane(args) => control_plane::run(args),
            Self::Validate(args) => validate::run(args),
            Self::Analyze(args) => analyze::run(args),
            Self::KubeInject(args) => kube_inject::run(args),
            Self::Redirect(args) => redirect::run(args),
            Self::Version(args) => version::run(args),
        }
    }
}
