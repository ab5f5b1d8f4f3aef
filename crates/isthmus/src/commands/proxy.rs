//! `isthmus proxy`.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::ValueEnum;
use isthmus_proxy::agent;
use isthmus_proxy::agent::config::{Config, Flags};
use isthmus_proxy::node::Role;
use isthmus_runtime::logging::{self, Format, Levels, Output};

use super::exit;

/// What the proxy is to its workload.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Kind {
    /// Beside an application whose traffic is captured.
    Sidecar,
    /// A gateway.
    Router,
}

/// Run a proxy: a sidecar, a gateway, or whatever a static bootstrap file says.
///
/// Its control plane tells it what to do, by xDS; -c takes an Envoy v3 bootstrap in place of one. Without
/// flags it reads who it is from the environment, which is Istio's: `POD_NAME`, `POD_NAMESPACE`, `INSTANCE_IP`, `SERVICE_ACCOUNT`, `ISTIO_META_*`,
/// `ISTIO_METAJSON_LABELS`, `TRUST_DOMAIN`, `CA_ADDR`, `PROXY_XDS_ADDRESS`, `XDS_ROOT_CA`, `CA_ROOT_CA`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  isthmus proxy -c envoy.yaml\n  isthmus proxy sidecar --log-level proxy:debug\n  isthmus proxy router"
)]
pub struct Args {
    /// Which kind of proxy.
    #[arg(value_enum, required_unless_present = "config")]
    kind: Option<Kind>,
    /// Run from this Envoy v3 bootstrap (YAML or JSON) with static resources, without a control plane.
    #[arg(short, long, value_name = "FILE", conflicts_with = "kind")]
    config: Option<PathBuf>,
    /// Worker threads; 0 is one for each core.
    #[arg(long, default_value_t = 0)]
    concurrency: usize,
    /// DNS domain of the cluster.
    #[arg(long, default_value = "cluster.local")]
    domain: String,
    /// Levels of the log: `info`, or per scope `default:info,proxy:debug`.
    #[arg(long, alias = "proxyLogLevel", default_value = "info", value_name = "LEVELS")]
    log_level: Levels,
    /// Write the log as JSON.
    #[arg(long)]
    log_as_json: bool,
}

pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let flags = Flags {
        role: args.kind.map(|k| match k {
            Kind::Sidecar => Role::Sidecar,
            Kind::Router => Role::Router,
        }),
        concurrency: Some(args.concurrency),
        domain: args.domain,
        bootstrap: args.config,
    };
    let config = Config::resolve(flags, |name| std::env::var(name).ok())?;
    let format = if args.log_as_json {
        Format::Json
    } else {
        Format::Text
    };
    let logging = logging::init(args.log_level, format, Output::Stderr).context("logging")?;
    agent::run(config, isthmus_proxy::worker::spawn, Some(logging))?;
    Ok(ExitCode::from(exit::OK))
}
