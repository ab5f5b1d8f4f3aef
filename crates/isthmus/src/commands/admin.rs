//! Where commands that look into a process get their answers from: an address, or a pod of the demo.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::os::fd::AsRawFd;
use std::process::ExitCode;

use anyhow::{Context, bail};
use isthmus_sandbox::socket::{Exec, Workload};
use nix::unistd::pipe;

use super::exit;
use super::sandbox::Dir;
use crate::http_get::request;

/// A process that answers HTTP on an admin port.
#[derive(Debug, Clone)]
pub enum Admin {
    /// `HOST:PORT` reachable from here.
    Address(String),
    /// A port on the loopback of a pod of the demo.
    Pod(Dir, Workload, u16),
}

impl Admin {
    /// The body of a path.
    pub fn fetch(&self, path: &str) -> anyhow::Result<Vec<u8>> {
        self.ask("GET", path)
    }

    /// The answer to a POST without a body, which changes something.
    pub fn post(&self, path: &str) -> anyhow::Result<Vec<u8>> {
        self.ask("POST", path)
    }

    fn ask(&self, method: &str, path: &str) -> anyhow::Result<Vec<u8>> {
        match self {
            Self::Address(address) => request(method, address, path),
            Self::Pod(dir, workload, port) => in_pod(dir, workload, *port, method, path)
                .with_context(|| format!("{path} of {workload} on port {port}")),
        }
    }

    /// The body of a path as JSON.
    pub fn json(&self, path: &str) -> anyhow::Result<serde_json::Value> {
        let body = self.fetch(path)?;
        serde_json::from_slice(&body).with_context(|| format!("the answer to {path} is not JSON"))
    }
}

/// Runs `isthmus admin-get` inside the pod and reads what it prints.
fn in_pod(dir: &Dir, workload: &Workload, port: u16, method: &str, path: &str) -> anyhow::Result<Vec<u8>> {
    let (read, write) = pipe().context("no pipe can be made")?;
    let (errors, write_errors) = pipe().context("no pipe can be made")?;
    let null = File::open("/dev/null").context("/dev/null")?;
    let exec = Exec {
        workload: workload.clone(),
        argv: [
            "isthmus",
            "admin-get",
            "--method",
            method,
            &format!("127.0.0.1:{port}"),
            path,
        ]
        .map(str::to_owned)
        .to_vec(),
        env: BTreeMap::new(),
    };
    let descriptors = [null.as_raw_fd(), write.as_raw_fd(), write_errors.as_raw_fd()];
    let execution = dir.connect()?.exec(exec, descriptors)?;
    drop((write, write_errors));
    let reader = std::thread::spawn(move || {
        let mut text = String::new();
        File::from(errors).read_to_string(&mut text).map(|_| text)
    });
    let mut body = Vec::new();
    File::from(read)
        .read_to_end(&mut body)
        .context("reading from the pod")?;
    let code = execution.wait()?;
    if code != 0 {
        let why = reader.join().ok().and_then(Result::ok).unwrap_or_default();
        bail!("{}", why.trim().trim_start_matches("Error: "));
    }
    Ok(body)
}

/// Fetch a path from an admin port and print the answer; what other commands run inside pods.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// GET, or POST for what changes something.
    #[arg(long, default_value = "GET")]
    method: String,
    /// HOST:PORT
    address: String,
    /// Path with query.
    path: String,
}

pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    use std::io::Write;
    let body = request(&args.method, &args.address, &args.path)?;
    std::io::stdout().write_all(&body)?;
    Ok(ExitCode::from(exit::OK))
}
