//! Listeners: what is accepted where, by which filter chain, and where it goes.

use std::process::ExitCode;

use serde_json::Value;

use super::dump::{Dump, address, items, text};
use super::{Common, Table};

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    common: Common,
    #[command(flatten)]
    filter: Filter,
}

/// Which listeners are meant; all when nothing is said.
#[derive(Debug, Default, clap::Args)]
pub struct Filter {
    /// Only this port.
    #[arg(long)]
    port: Option<u16>,
    /// Only this address, as in 0.0.0.0.
    #[arg(long)]
    address: Option<String>,
    /// Only listeners whose name contains this, as in virtualInbound.
    #[arg(long)]
    name: Option<String>,
}

pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let dump = args.common.dump()?;
    let listeners = args.filter.of(&dump);
    args.common.show(&table(&listeners), &listeners)
}

impl Filter {
    pub fn of<'a>(&self, dump: &'a Dump) -> Vec<&'a Value> {
        let mut found: Vec<_> = dump.listeners().into_iter().filter(|l| self.takes(l)).collect();
        found.sort_by_cached_key(|l| {
            let (ip, port) = address(&l["address"]);
            (port.parse::<u16>().unwrap_or_default(), ip)
        });
        found
    }

    fn takes(&self, listener: &Value) -> bool {
        let (ip, port) = address(&listener["address"]);
        self.port.is_none_or(|wanted| port == wanted.to_string())
            && self.address.as_ref().is_none_or(|wanted| ip == *wanted)
            && self
                .name
                .as_ref()
                .is_none_or(|wanted| text(listener, "name").contains(wanted))
    }
}

/// One row a filter chain.
pub fn table(listeners: &[&Value]) -> Table {
    let mut rows = Vec::new();
    for listener in listeners {
        let (ip, port) = address(&listener["address"]);
        let place = if port.is_empty() {
            ip
        } else {
            format!("{ip}:{port}")
        };
        let chains = items(&listener["filter_chains"]);
        let last = listener.get("default_filter_chain");
        for chain in chains.chain(last) {
            rows.push(vec![
                text(listener, "name").to_owned(),
                place.clone(),
                conditions(&chain["filter_chain_match"]),
                destination(chain),
            ]);
        }
    }
    Table {
        header: &["LISTENER", "ADDRESS", "MATCH", "DESTINATION"],
        rows,
    }
}

/// What a connection has to be for a chain, in istioctl's words.
fn conditions(matching: &Value) -> String {
    let mut all = Vec::new();
    let list = |key: &str| {
        let values: Vec<&str> = items(&matching[key]).filter_map(Value::as_str).collect();
        values.join(",")
    };
    let mut say = |label: &str, value: String| {
        if !value.is_empty() {
            all.push(format!("{label}: {value}"));
        }
    };
    say("SNI", list("server_names"));
    say("Trans", text(matching, "transport_protocol").to_owned());
    say("App", list("application_protocols"));
    let ranges: Vec<String> = items(&matching["prefix_ranges"])
        .map(|range| {
            let length = range["prefix_len"].as_u64().unwrap_or_default();
            format!("{}/{length}", text(range, "address_prefix"))
        })
        .collect();
    let port = match &matching["destination_port"] {
        Value::Null => "*".to_owned(),
        port => port.to_string(),
    };
    if !ranges.is_empty() || port != "*" {
        let ranges = if ranges.is_empty() {
            "*".to_owned()
        } else {
            ranges.join(",")
        };
        say("Addr", format!("{ranges}:{port}"));
    }
    if all.is_empty() {
        "ALL".to_owned()
    } else {
        all.join("; ")
    }
}

/// Where the last filter of a chain sends a connection.
fn destination(chain: &Value) -> String {
    for filter in items(&chain["filters"]) {
        let config = &filter["typed_config"];
        let kind = text(config, "@type").rsplit('.').next().unwrap_or_default();
        match kind {
            "HttpConnectionManager" => return http(config),
            "TcpProxy" => return tcp(config),
            _ => {}
        }
    }
    let names: Vec<&str> = items(&chain["filters"]).map(|f| text(f, "name")).collect();
    if names.is_empty() {
        "closed".to_owned()
    } else {
        format!("Filter: {}", names.join(","))
    }
}

fn http(config: &Value) -> String {
    if let Some(name) = config["rds"]["route_config_name"].as_str() {
        return format!("Route: {name}");
    }
    let mut clusters: Vec<String> = items(&config["route_config"]["virtual_hosts"])
        .flat_map(|host| items(&host["routes"]))
        .map(super::route::destination)
        .collect();
    clusters.dedup();
    match &clusters[..] {
        [one] => format!("Cluster: {one}"),
        _ => format!("Inline Route: {}", clusters.join(", ")),
    }
}

fn tcp(config: &Value) -> String {
    if let Some(cluster) = config["cluster"].as_str() {
        return format!("Cluster: {cluster}");
    }
    let weighted: Vec<String> = items(&config["weighted_clusters"]["clusters"])
        .map(|c| {
            format!(
                "Cluster: {} weight: {}",
                text(c, "name"),
                c["weight"].as_u64().unwrap_or_default()
            )
        })
        .collect();
    weighted.join("; ")
}
