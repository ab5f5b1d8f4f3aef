//! Endpoints: the addresses behind each cluster, and how the proxy finds them.

use std::process::ExitCode;

use serde_json::Value;

use super::dump::{address, items, text};
use super::{Common, Table};

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    common: Common,
    #[command(flatten)]
    filter: Filter,
}

/// Which endpoints are meant; all when nothing is said.
#[derive(Debug, Default, clap::Args)]
pub struct Filter {
    /// Only clusters whose name contains this, as in 'outbound|9080||reviews'.
    #[arg(long, value_name = "NAME")]
    cluster: Option<String>,
    /// Only services whose host name contains this.
    #[arg(long, value_name = "HOST")]
    fqdn: Option<String>,
    /// Only endpoints on this port.
    #[arg(long)]
    port: Option<u16>,
    /// Only this address.
    #[arg(long)]
    address: Option<String>,
    /// Only endpoints in this state: HEALTHY, UNHEALTHY, DEGRADED, DRAINING or EJECTED.
    #[arg(long, value_name = "HEALTH", value_parser = |s: &str| Ok::<_, String>(s.to_uppercase()))]
    status: Option<String>,
}

pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let hosts = args.common.hosts()?;
    let found = args.filter.of(&hosts);
    let resources: Vec<&Value> = found.iter().map(|(_, host)| *host).collect();
    args.common.show(&table(&found), &resources)
}

impl Filter {
    /// Endpoints with the names of their clusters.
    pub fn of<'a>(&self, hosts: &'a Value) -> Vec<(&'a str, &'a Value)> {
        let mut found: Vec<_> = items(&hosts["cluster_statuses"])
            .flat_map(|cluster| items(&cluster["host_statuses"]).map(|host| (text(cluster, "name"), host)))
            .filter(|(cluster, host)| self.takes(cluster, host))
            .collect();
        found.sort_by_cached_key(|(cluster, host)| (*cluster, priority(host), address(&host["address"])));
        found
    }

    fn takes(&self, cluster: &str, host: &Value) -> bool {
        let (ip, port) = address(&host["address"]);
        self.cluster.as_ref().is_none_or(|name| cluster.contains(name))
            && self
                .fqdn
                .as_ref()
                .is_none_or(|fqdn| cluster.rsplit('|').next().is_some_and(|name| name.contains(fqdn)))
            && self.port.is_none_or(|wanted| port == wanted.to_string())
            && self.address.as_ref().is_none_or(|wanted| ip == *wanted)
            && self.status.as_ref().is_none_or(|wanted| health(host) == wanted)
    }
}

pub fn table(hosts: &[(&str, &Value)]) -> Table {
    Table {
        header: &["CLUSTER", "ENDPOINT", "HEALTH", "LOCALITY", "PRIORITY", "WEIGHT"],
        rows: hosts.iter().map(|(cluster, host)| row(cluster, host)).collect(),
    }
}

fn row(cluster: &str, host: &Value) -> Vec<String> {
    let (ip, port) = address(&host["address"]);
    let endpoint = match (ip.contains(':'), port.is_empty()) {
        (_, true) => ip,
        (true, false) => format!("[{ip}]:{port}"),
        (false, false) => format!("{ip}:{port}"),
    };
    let locality: Vec<&str> = ["region", "zone", "sub_zone"]
        .map(|part| text(&host["locality"], part))
        .into_iter()
        .filter(|part| !part.is_empty())
        .collect();
    vec![
        cluster.to_owned(),
        endpoint,
        health(host).to_owned(),
        locality.join("/"),
        priority(host).to_string(),
        host["weight"].as_u64().unwrap_or(1).to_string(),
    ]
}

/// Envoy leaves zero out.
fn priority(host: &Value) -> u64 {
    host["priority"].as_u64().unwrap_or_default()
}

/// The state the control plane gave it, unless the proxy itself found it bad.
fn health(host: &Value) -> &str {
    let status = &host["health_status"];
    let flag = |name: &str| status[name].as_bool().unwrap_or_default();
    if flag("failed_outlier_check") {
        "EJECTED"
    } else if flag("failed_active_health_check") {
        "UNHEALTHY"
    } else {
        match text(status, "eds_health_status") {
            "" | "UNKNOWN" => "HEALTHY",
            known => known,
        }
    }
}
