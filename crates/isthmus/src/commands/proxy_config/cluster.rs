//! Clusters: the services and ports that the proxy can send to.

use std::process::ExitCode;

use clap::ValueEnum;
use isthmus_model::{ClusterName, Direction};
use serde_json::Value;

use super::dump::{Dump, origin, text};
use super::{Common, Table};

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    common: Common,
    #[command(flatten)]
    filter: Filter,
}

/// Which clusters are meant; all when nothing is said.
#[derive(Debug, Default, clap::Args)]
pub struct Filter {
    /// Only services whose host name contains this.
    #[arg(long, value_name = "HOST")]
    fqdn: Option<String>,
    /// Only this port.
    #[arg(long)]
    port: Option<u16>,
    /// Only this subset of a DestinationRule.
    #[arg(long)]
    subset: Option<String>,
    /// Only this direction.
    #[arg(long, value_enum)]
    direction: Option<Way>,
}

/// From the workload's point of view.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Way {
    /// Towards the workload.
    Inbound,
    /// Away from the workload.
    Outbound,
}

pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let dump = args.common.dump()?;
    let clusters = args.filter.of(&dump);
    args.common.show(&table(&clusters), &clusters)
}

impl Filter {
    pub fn of<'a>(&self, dump: &'a Dump) -> Vec<&'a Value> {
        let mut found: Vec<_> = dump.clusters().into_iter().filter(|c| self.takes(c)).collect();
        found.sort_by_cached_key(|c| row(c));
        found
    }

    fn takes(&self, cluster: &Value) -> bool {
        let name = text(cluster, "name");
        let Some(parsed) = parse(name) else {
            // Names that are not the mesh's, such as BlackHoleCluster, have no port and no direction.
            return self.port.is_none()
                && self.subset.is_none()
                && self.direction.is_none()
                && self.fqdn.as_ref().is_none_or(|fqdn| name.contains(fqdn));
        };
        let host = parsed.host.as_ref().map(ToString::to_string).unwrap_or_default();
        let way = match parsed.direction {
            Direction::Inbound => Way::Inbound,
            Direction::Outbound => Way::Outbound,
        };
        self.fqdn.as_ref().is_none_or(|fqdn| host.contains(fqdn))
            && self.port.is_none_or(|port| parsed.port == port)
            && self.subset.as_ref().is_none_or(|subset| parsed.subset == *subset)
            && self.direction.is_none_or(|wanted| way == wanted)
    }
}

/// `outbound|80|v1|host`, and the form with `_.` that gateways have for traffic that passes through.
fn parse(name: &str) -> Option<ClusterName> {
    name.parse().or_else(|_| ClusterName::from_sni(name)).ok()
}

/// istioctl's columns.
pub fn table(clusters: &[&Value]) -> Table {
    Table {
        header: &[
            "SERVICE FQDN",
            "PORT",
            "SUBSET",
            "DIRECTION",
            "TYPE",
            "DESTINATION RULE",
        ],
        rows: clusters.iter().map(|c| row(c)).collect(),
    }
}

fn row(cluster: &Value) -> Vec<String> {
    let name = text(cluster, "name");
    let or_dash = |s: String| if s.is_empty() { "-".to_owned() } else { s };
    let (host, port, subset, direction) = match parse(name) {
        Some(parsed) => (
            parsed.host.map(|h| h.to_string()).unwrap_or_default(),
            parsed.port.to_string(),
            or_dash(parsed.subset),
            match parsed.direction {
                Direction::Inbound => "inbound",
                Direction::Outbound => "outbound",
            },
        ),
        None => (name.to_owned(), "-".to_owned(), "-".to_owned(), "-"),
    };
    vec![
        host,
        port,
        subset,
        direction.to_owned(),
        discovery(cluster).to_owned(),
        origin(cluster, "destination-rule"),
    ]
}

/// How its endpoints are found; Envoy leaves the default, STATIC, out.
fn discovery(cluster: &Value) -> &str {
    match (text(cluster, "type"), text(&cluster["cluster_type"], "name")) {
        ("", "") => "STATIC",
        ("", custom) => custom,
        (known, _) => known,
    }
}
