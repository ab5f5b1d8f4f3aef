//! `isthmus apply|delete|get`: objects of the demo's clusters, as kubectl does it.

use std::io::{IsTerminal, Read};
use std::process::ExitCode;

use anyhow::{Context, bail};
use isthmus_model::ClusterId;
use isthmus_sandbox::socket::{Answer, Applied, Request, Resources};
use serde_json::Value;

use super::exit;
use super::sandbox::{Dir, Output, print, table};

/// Create or change the objects that a YAML file holds, in a cluster of the demo.
///
/// The file is checked first, as `isthmus validate` does; with an error in it nothing is changed.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example: isthmus apply --cluster us -f samples/scenarios/canary.yaml")]
pub struct Apply {
    #[command(flatten)]
    written: Written,
}

/// Remove the objects that a YAML file names from a cluster of the demo.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example: isthmus delete --cluster us -f samples/scenarios/canary.yaml")]
pub struct Delete {
    #[command(flatten)]
    written: Written,
}

#[derive(Debug, clap::Args)]
struct Written {
    /// Member cluster, such as us.
    #[arg(long, short = 'c', value_name = "CLUSTER")]
    cluster: String,
    /// File of YAML or JSON; - for standard input.
    #[arg(short, long, value_name = "FILE")]
    filename: String,
    #[command(flatten)]
    dir: Dir,
}

/// Show objects of a cluster of the demo.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  isthmus get pods --cluster eu\n  isthmus get virtualservice bookinfo --cluster us -n default -o yaml"
)]
pub struct Get {
    /// Kind: pods, services, virtualservices, ...
    kind: String,
    /// Name; all when left out.
    name: Option<String>,
    /// Member cluster, such as us.
    #[arg(long, short = 'c', value_name = "CLUSTER")]
    cluster: String,
    /// Namespace; all when left out.
    #[arg(long, short, value_name = "NAMESPACE")]
    namespace: Option<String>,
    /// Form of the answer.
    #[arg(long, short, value_enum, default_value_t)]
    output: Output,
    #[command(flatten)]
    dir: Dir,
}

impl Written {
    fn read(&self) -> anyhow::Result<Resources> {
        let mut yaml = String::new();
        if self.filename == "-" {
            if std::io::stdin().is_terminal() {
                eprintln!("reading YAML from standard input; end it with Ctrl-D");
            }
            std::io::stdin()
                .read_to_string(&mut yaml)
                .context("standard input is not text")?;
        } else {
            yaml = std::fs::read_to_string(&self.filename)
                .with_context(|| format!("{} cannot be read", self.filename))?;
        }
        Ok(Resources {
            cluster: ClusterId::from(self.cluster.as_str()),
            file: self.filename.clone(),
            yaml,
        })
    }

    fn ask(&self, request: impl FnOnce(Resources) -> Request) -> anyhow::Result<ExitCode> {
        let resources = self.read()?;
        match self.dir.connect()?.ask(&request(resources))? {
            Answer::Applied(applied) => Ok(show(&applied)),
            _ => bail!("the demo gave an answer that does not fit; is it of another version?"),
        }
    }
}

pub fn apply(args: Apply) -> anyhow::Result<ExitCode> {
    args.written.ask(Request::Apply)
}

pub fn delete(args: Delete) -> anyhow::Result<ExitCode> {
    args.written.ask(Request::Delete)
}

fn show(applied: &Applied) -> ExitCode {
    for finding in &applied.findings {
        eprintln!("{finding}");
    }
    for (object, verb) in &applied.objects {
        outln!("{object} {verb}");
    }
    ExitCode::from(if applied.refused { exit::FAILURE } else { exit::OK })
}

pub fn get(args: Get) -> anyhow::Result<ExitCode> {
    let request = Request::Get {
        cluster: ClusterId::from(args.cluster.as_str()),
        kind: args.kind.clone(),
        namespace: args.namespace.clone(),
        name: args.name.clone(),
    };
    let Answer::Objects(objects) = args.dir.connect()?.ask(&request)? else {
        bail!("the demo gave an answer that does not fit; is it of another version?");
    };
    if args.output == Output::Table {
        let rows: Vec<_> = objects.iter().map(row).collect();
        table(&["NAMESPACE", "NAME", "STATUS"], &rows);
    } else if args.name.is_some() && objects.len() == 1 {
        print(&objects[0], args.output)?;
    } else {
        print(
            &serde_json::json!({"apiVersion": "v1", "kind": "List", "items": objects}),
            args.output,
        )?;
    }
    if let (Some(name), true) = (&args.name, objects.is_empty()) {
        eprintln!(
            "there is no {} named {name} in cluster {}",
            args.kind, args.cluster
        );
        return Ok(ExitCode::from(exit::FAILURE));
    }
    Ok(ExitCode::from(exit::OK))
}

fn row(object: &Value) -> Vec<String> {
    let text = |path: &str| {
        object
            .pointer(path)
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned()
    };
    let status = match object["kind"].as_str() {
        Some("Pod") => {
            let conditions = object.pointer("/status/conditions").and_then(Value::as_array);
            let ready = conditions
                .into_iter()
                .flatten()
                .any(|c| c["type"] == "Ready" && c["status"] == "True");
            format!(
                "{} {}",
                if ready { "ready" } else { "not ready" },
                text("/status/podIP")
            )
        }
        Some("Service") => {
            let public = text("/status/loadBalancer/ingress/0/ip");
            format!("{} {public}", text("/spec/clusterIP")).trim().to_owned()
        }
        _ => String::new(),
    };
    vec![text("/metadata/namespace"), text("/metadata/name"), status]
}
