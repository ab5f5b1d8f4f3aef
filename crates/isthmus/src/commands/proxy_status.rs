//! `isthmus proxy-status`: which proxies are connected, and whether they have what they were sent.

use std::process::ExitCode;

use isthmus_sandbox::socket::Workload;
use serde_json::Value;

use super::admin::Admin;
use super::exit;
use super::sandbox::{Dir, Output, print, table};

/// Port of the control plane's debug pages.
const DEBUG: u16 = 8080;

/// Show every connected proxy and whether it has acknowledged its configuration.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  isthmus proxy-status\n  isthmus proxy-status --admin 127.0.0.1:8080 -o json"
)]
pub struct Args {
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
    let (answers, code) = ask_all(&args.dir, args.admin.as_deref(), "/debug/syncz")?;
    let mut proxies = Vec::new();
    for answer in answers {
        match answer {
            Value::Array(list) => proxies.extend(list),
            other => proxies.push(other),
        }
    }
    if args.output != Output::Table {
        print(&proxies, args.output)?;
        return Ok(code);
    }
    let rows: Vec<_> = proxies.iter().map(row).collect();
    table(
        &[
            "NAME",
            "CLUSTER",
            "TYPE",
            "CDS",
            "LDS",
            "EDS",
            "RDS",
            "NDS",
            "CONNECTED",
            "VERSION",
        ],
        &rows,
    );
    Ok(code)
}

/// The answers of all control planes to a path. Those that do not answer are said on standard error, and
/// make the exit code a failure; that none answers is the error.
pub fn ask_all(dir: &Dir, address: Option<&str>, path: &str) -> anyhow::Result<(Vec<Value>, ExitCode)> {
    let (mut answers, mut failed) = (Vec::new(), None);
    for control_plane in control_planes(dir, address)? {
        match control_plane.json(path) {
            Ok(answer) => answers.push(answer),
            Err(error) => {
                if let Some(earlier) = failed.replace(error) {
                    eprintln!("Error: {earlier:#}");
                }
            }
        }
    }
    match failed {
        None => Ok((answers, ExitCode::from(exit::OK))),
        Some(error) if answers.is_empty() => Err(error),
        Some(error) => {
            eprintln!("Error: {error:#}");
            Ok((answers, ExitCode::from(exit::FAILURE)))
        }
    }
}

/// The control planes that are asked: one by address, or all of the demo's.
fn control_planes(dir: &Dir, address: Option<&str>) -> anyhow::Result<Vec<Admin>> {
    if let Some(address) = address {
        return Ok(vec![Admin::Address(address.to_owned())]);
    }
    let report = dir.connect()?.status()?;
    let istiod = |cluster| Workload {
        cluster,
        name: "istiod".to_owned(),
        namespace: Some("istio-system".to_owned()),
    };
    Ok(report
        .clusters
        .into_iter()
        .map(|c| Admin::Pod(dir.clone(), istiod(c.id), DEBUG))
        .collect())
}

fn row(proxy: &Value) -> Vec<String> {
    let text = |key: &str| proxy[key].as_str().unwrap_or_default().to_owned();
    let state = |name: &str| {
        let (sent, acked) = (text(&format!("{name}_sent")), text(&format!("{name}_acked")));
        if proxy.get(format!("{name}_error")).is_some() {
            "REFUSED".to_owned()
        } else if sent.is_empty() {
            "NOT SENT".to_owned()
        } else if sent == acked {
            "SYNCED".to_owned()
        } else {
            "STALE".to_owned()
        }
    };
    let seconds = proxy["connected_seconds"].as_u64().unwrap_or_default();
    vec![
        text("proxy"),
        text("cluster_id"),
        text("proxy_type"),
        state("cluster"),
        state("listener"),
        state("endpoint"),
        state("route"),
        state("nametable"),
        format!("{seconds}s"),
        text("istio_version"),
    ]
}
