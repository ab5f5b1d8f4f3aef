//! `isthmus peer list`: what each control plane knows of the other member clusters.

use std::process::ExitCode;

use clap::Subcommand;
use serde_json::Value;

use super::proxy_status::ask_all;
use super::sandbox::{Dir, Output, print, table};

/// Look at the links between control planes.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example: isthmus peer list")]
pub struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Show every peer: connected or not, how old what it told is, and the last error.
    List(List),
}

#[derive(Debug, clap::Args)]
struct List {
    /// Ask one control plane at HOST:PORT (its port 8080) instead of those of the demo.
    #[arg(long, value_name = "HOST:PORT")]
    admin: Option<String>,
    /// Form of the answer.
    #[arg(long, short, value_enum, default_value_t)]
    output: Output,
    #[command(flatten)]
    dir: Dir,
}

pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let Action::List(args) = args.action;
    let (answers, code) = ask_all(&args.dir, args.admin.as_deref(), "/debug/peersz")?;
    if args.output != Output::Table {
        print(&answers, args.output)?;
        return Ok(code);
    }
    let mut rows = Vec::new();
    for answer in &answers {
        for peer in answer["peers"].as_array().into_iter().flatten() {
            rows.push(row(&answer["cluster"], peer));
        }
    }
    table(
        &[
            "CLUSTER",
            "PEER",
            "STATUS",
            "SERVICES",
            "ENDPOINTS",
            "GATEWAYS",
            "AGE",
            "LAST ERROR",
        ],
        &rows,
    );
    Ok(code)
}

fn row(cluster: &Value, peer: &Value) -> Vec<String> {
    let text = |value: &Value| match value {
        Value::String(s) => s.clone(),
        Value::Null => String::new(),
        Value::Array(items) => items.len().to_string(),
        other => other.to_string(),
    };
    let age = peer["heardSecondsAgo"]
        .as_f64()
        .map(|a| format!("{a:.0}s"))
        .unwrap_or_default();
    vec![
        text(cluster),
        text(&peer["cluster"]),
        text(&peer["status"]),
        text(&peer["services"]),
        text(&peer["endpoints"]),
        text(&peer["gateways"]),
        age,
        text(&peer["error"]),
    ]
}
