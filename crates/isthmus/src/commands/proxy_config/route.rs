//! Routes: which host and path goes to which cluster.

use std::process::ExitCode;

use serde_json::Value;

use super::dump::{Dump, items, origin, text};
use super::{Common, Table};

/// Domains that a row names before it says how many more there are.
const DOMAINS: usize = 2;

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    common: Common,
    #[command(flatten)]
    filter: Filter,
}

/// Which tables are meant; all when nothing is said.
#[derive(Debug, Default, clap::Args)]
pub struct Filter {
    /// Only the table of this name, as in 9080 or http.80.
    #[arg(long)]
    name: Option<String>,
    /// Only virtual hosts with a domain that contains this.
    #[arg(long, value_name = "HOST")]
    fqdn: Option<String>,
}

pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let dump = args.common.dump()?;
    let found = args.filter.of(&dump);
    let resources: Vec<&Value> = found.iter().map(|(_, host)| *host).collect();
    args.common.show(&table(&found), &resources)
}

impl Filter {
    /// Virtual hosts with the names of their tables.
    pub fn of<'a>(&self, dump: &'a Dump) -> Vec<(&'a str, &'a Value)> {
        let mut found: Vec<_> = dump
            .routes()
            .into_iter()
            .flat_map(|table| items(&table["virtual_hosts"]).map(|host| (text(table, "name"), host)))
            .filter(|(table, host)| {
                self.name.as_ref().is_none_or(|name| table == name)
                    && self.fqdn.as_ref().is_none_or(|fqdn| {
                        items(&host["domains"])
                            .filter_map(Value::as_str)
                            .any(|domain| domain.contains(fqdn))
                    })
            })
            .collect();
        // The order of virtual hosts means nothing; that of routes does, and stays.
        found.sort_by_key(|(table, host)| {
            (
                table.parse::<u16>().unwrap_or(u16::MAX),
                *table,
                text(host, "name"),
            )
        });
        found
    }
}

/// One row a route.
pub fn table(hosts: &[(&str, &Value)]) -> Table {
    let mut rows = Vec::new();
    for (table, host) in hosts {
        for route in items(&host["routes"]) {
            rows.push(vec![
                (*table).to_owned(),
                text(host, "name").to_owned(),
                domains(host),
                conditions(&route["match"]),
                destination(route),
                origin(route, "virtual-service"),
            ]);
        }
    }
    Table {
        header: &[
            "ROUTES",
            "VIRTUAL HOST",
            "DOMAINS",
            "MATCH",
            "DESTINATION",
            "VIRTUAL SERVICE",
        ],
        rows,
    }
}

fn domains(host: &Value) -> String {
    let all: Vec<&str> = items(&host["domains"]).filter_map(Value::as_str).collect();
    match all.len().checked_sub(DOMAINS) {
        Some(more) if more > 0 => format!("{} + {more} more", all[..DOMAINS].join(", ")),
        _ => all.join(", "),
    }
}

/// The path, then whatever else a request has to have.
fn conditions(matching: &Value) -> String {
    let path = if let Some(prefix) = matching["prefix"].as_str() {
        format!("{prefix}*")
    } else if let Some(prefix) = matching["path_separated_prefix"].as_str() {
        format!("{prefix}, {prefix}/*")
    } else if let Some(path) = matching["path"].as_str() {
        path.to_owned()
    } else if let Some(regex) = matching["safe_regex"]["regex"].as_str() {
        format!("regex {regex}")
    } else {
        "*".to_owned()
    };
    let fields = items(&matching["headers"]).map(|h| field("", h));
    let parameters = items(&matching["query_parameters"]).map(|q| field("?", q));
    let all: Vec<String> = [path].into_iter().chain(fields).chain(parameters).collect();
    all.join(" ")
}

/// `end-user=jason` for a header or query matcher.
fn field(mark: &str, matcher: &Value) -> String {
    let wanted = if matcher.get("string_match").is_some() {
        &matcher["string_match"]
    } else {
        matcher
    };
    let name = text(matcher, "name");
    let not = if matcher["invert_match"] == true { "!" } else { "" };
    let value = [
        ("exact", "", ""),
        ("prefix", "", "*"),
        ("suffix", "*", ""),
        ("contains", "*", "*"),
        ("exact_match", "", ""),
        ("prefix_match", "", "*"),
    ]
    .iter()
    .find_map(|(key, before, after)| wanted[*key].as_str().map(|v| format!("={before}{v}{after}")))
    .or_else(|| wanted["safe_regex"]["regex"].as_str().map(|r| format!("~{r}")))
    .unwrap_or_default();
    format!("{not}{mark}{name}{value}")
}

/// Where a route sends a request, or what it answers itself.
pub fn destination(route: &Value) -> String {
    if let Some(redirect) = route.get("redirect") {
        let place = [
            "scheme_redirect",
            "host_redirect",
            "path_redirect",
            "prefix_rewrite",
        ]
        .map(|key| text(redirect, key))
        .join(" ");
        let https = if redirect["https_redirect"] == true {
            "https"
        } else {
            ""
        };
        let place: Vec<&str> = [https]
            .into_iter()
            .chain(place.split(' '))
            .filter(|s| !s.is_empty())
            .collect();
        return format!("redirect to {}", place.join(" "));
    }
    if let Some(direct) = route.get("direct_response") {
        return format!("status {}", direct["status"].as_u64().unwrap_or(200));
    }
    let action = &route["route"];
    if let Some(cluster) = action["cluster"].as_str() {
        return cluster.to_owned();
    }
    if let Some(header) = action["cluster_header"].as_str() {
        return format!("named by header {header}");
    }
    let clusters: Vec<&Value> = items(&action["weighted_clusters"]["clusters"]).collect();
    let total: u64 = clusters.iter().filter_map(|c| c["weight"].as_u64()).sum();
    let shares: Vec<String> = clusters
        .iter()
        .map(|c| {
            let weight = c["weight"].as_u64().unwrap_or_default();
            // Envoy's weights need not add up to a hundred.
            let share = (weight * 100).checked_div(total).unwrap_or_default();
            format!("{} ({share}%)", text(c, "name"))
        })
        .collect();
    shares.join(", ")
}
