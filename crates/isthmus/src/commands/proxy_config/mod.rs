//! `isthmus proxy-config`: what a proxy has been told, as tables.
//!
//! ```text
//!   a pod of the demo, or HOST:15000 ─▶ Admin ─▶ Dump (/config_dump, /clusters) ─▶ one file per table
//! ```
//!
//! The pages are Envoy's `envoy.admin.v3`, so a real Envoy is read as well as our own proxy. Nothing is
//! interpreted beyond what the tables need; `-o json` prints the resources themselves.

mod bootstrap;
mod cluster;
mod dump;
mod endpoint;
mod listener;
mod log;
mod route;
mod secret;
#[cfg(test)]
mod tests;

use std::process::ExitCode;

use anyhow::bail;
use clap::{Args as ClapArgs, Subcommand};
use isthmus_sandbox::socket::Workload;
use serde_json::Value;

use self::dump::Dump;
use super::admin::Admin;
use super::exit;
use super::sandbox::{Dir, Output, print, table_text, write_out};

/// Port of a proxy's admin interface.
const ADMIN: u16 = 15000;

/// Show what a proxy of the demo, or one at an address, has been told by its control plane.
#[derive(Debug, ClapArgs)]
#[command(
    after_help = "Examples:\n  isthmus proxy-config cluster us/sleep --fqdn reviews\n  isthmus proxy-config endpoint us/productpage-v1 --cluster '|9080||reviews'\n  isthmus proxy-config route us/istio-ingressgateway -o json\n  isthmus proxy-config log us/sleep --level proxy:debug\n  isthmus proxy-config secret --admin 127.0.0.1:15000"
)]
pub struct Args {
    #[command(subcommand)]
    page: Page,
}

#[derive(Debug, Subcommand)]
enum Page {
    /// Show every table of a proxy.
    All(All),
    /// Show what the proxy was started with: its node, and static resources.
    Bootstrap(bootstrap::Args),
    /// Show clusters: the services and ports that the proxy can send to.
    #[command(visible_aliases = ["clusters", "c"])]
    Cluster(cluster::Args),
    /// Show endpoints: the addresses behind each cluster, and their health.
    #[command(visible_aliases = ["endpoints", "ep"])]
    Endpoint(endpoint::Args),
    /// Show listeners: what is accepted where, and where it goes.
    #[command(visible_aliases = ["listeners", "l"])]
    Listener(listener::Args),
    /// Show log levels, or set them while the proxy runs.
    #[command(visible_alias = "o")]
    Log(log::Args),
    /// Show routes: which host and path goes to which cluster.
    #[command(visible_aliases = ["routes", "r"])]
    Route(route::Args),
    /// Show certificates and roots, without keys.
    #[command(visible_aliases = ["secrets", "s"])]
    Secret(secret::Args),
}

/// Which proxy is asked, and in which form it answers.
#[derive(Debug, ClapArgs)]
struct Common {
    /// Pod or Deployment of the demo: CLUSTER/WORKLOAD or CLUSTER/WORKLOAD.NAMESPACE.
    #[arg(required_unless_present = "admin", conflicts_with = "admin")]
    workload: Option<Workload>,
    /// Ask the proxy whose admin interface is at HOST:PORT.
    #[arg(long, value_name = "HOST:PORT")]
    admin: Option<String>,
    /// Form of the answer.
    #[arg(long, short, value_enum, default_value_t)]
    output: Output,
    #[command(flatten)]
    dir: Dir,
}

/// Show every table of a proxy.
#[derive(Debug, ClapArgs)]
struct All {
    #[command(flatten)]
    common: Common,
}

impl Common {
    fn admin(&self) -> anyhow::Result<Admin> {
        match (&self.workload, &self.admin) {
            (_, Some(address)) => Ok(Admin::Address(address.clone())),
            (Some(workload), None) => Ok(Admin::Pod(self.dir.clone(), workload.clone(), ADMIN)),
            (None, None) => bail!("name a workload as in us/sleep, or give --admin HOST:PORT"),
        }
    }

    fn dump(&self) -> anyhow::Result<Dump> {
        Ok(Dump::new(self.admin()?.json("/config_dump?include_eds")?))
    }

    /// `admin.v3.Clusters`: endpoints with their health as the proxy sees it.
    fn hosts(&self) -> anyhow::Result<Value> {
        self.admin()?.json("/clusters?format=json")
    }

    /// Prints a table, or the resources it was made of.
    fn show(&self, table: &Table, resources: &[&Value]) -> anyhow::Result<ExitCode> {
        match self.output {
            Output::Table => write_out(table.text())?,
            output => print(&resources, output)?,
        }
        Ok(ExitCode::from(exit::OK))
    }
}

/// A header and rows below it.
#[derive(Debug)]
struct Table {
    header: &'static [&'static str],
    rows: Vec<Vec<String>>,
}

impl Table {
    fn text(&self) -> String {
        table_text(self.header, &self.rows)
    }
}

pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    match args.page {
        Page::All(args) => all(&args.common),
        Page::Bootstrap(args) => bootstrap::run(&args),
        Page::Cluster(args) => cluster::run(&args),
        Page::Endpoint(args) => endpoint::run(&args),
        Page::Listener(args) => listener::run(&args),
        Page::Log(args) => log::run(&args),
        Page::Route(args) => route::run(&args),
        Page::Secret(args) => secret::run(&args),
    }
}

fn all(common: &Common) -> anyhow::Result<ExitCode> {
    let dump = common.dump()?;
    if common.output != Output::Table {
        print(dump.whole(), common.output)?;
        return Ok(ExitCode::from(exit::OK));
    }
    let hosts = common.hosts()?;
    let tables = [
        cluster::table(&cluster::Filter::default().of(&dump)),
        listener::table(&listener::Filter::default().of(&dump)),
        route::table(&route::Filter::default().of(&dump)),
        endpoint::table(&endpoint::Filter::default().of(&hosts)),
        secret::table(&dump.secrets()),
    ];
    let text: Vec<String> = tables.iter().map(Table::text).collect();
    write_out(text.join("\n"))?;
    Ok(ExitCode::from(exit::OK))
}
