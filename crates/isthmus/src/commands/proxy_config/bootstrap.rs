//! What the proxy was started with.

use std::process::ExitCode;

use anyhow::Context;
use serde_json::Value;

use super::dump::text;
use super::{Common, Table};

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    common: Common,
}

pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let dump = args.common.dump()?;
    let bootstrap = dump
        .bootstrap()
        .context("the proxy's /config_dump has no bootstrap")?;
    args.common.show(&table(bootstrap), &[bootstrap])
}

/// The node, member by member.
pub fn table(bootstrap: &Value) -> Table {
    let node = &bootstrap["node"];
    let locality: Vec<&str> = ["region", "zone", "sub_zone"]
        .map(|part| text(&node["locality"], part))
        .into_iter()
        .filter(|part| !part.is_empty())
        .collect();
    let mut rows = vec![
        vec!["id".to_owned(), text(node, "id").to_owned()],
        vec!["cluster".to_owned(), text(node, "cluster").to_owned()],
        vec!["locality".to_owned(), locality.join("/")],
    ];
    for (name, value) in node["metadata"].as_object().into_iter().flatten() {
        let value = match value {
            Value::String(s) => s.clone(),
            other => other.to_string(),
        };
        rows.push(vec![name.clone(), value]);
    }
    rows.retain(|row| !row[1].is_empty() && row[1] != "null");
    Table {
        header: &["NODE", "VALUE"],
        rows,
    }
}
