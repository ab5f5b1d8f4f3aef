//! `isthmus exec CLUSTER/WORKLOAD[.NAMESPACE] -- COMMAND`: a program inside a pod of the demo.

use std::collections::BTreeMap;
use std::io::Write;
use std::process::ExitCode;

use anyhow::Context;
use isthmus_sandbox::socket::{Exec, Execution, Workload};
use nix::sys::signal::{SigSet, Signal};

use super::sandbox::Dir;

/// Run a program of this machine inside a pod of the demo.
///
/// The program sees the pod's address, names and files, and its traffic is captured like the
/// application's. Signals reach it, and its exit code is the command's.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  isthmus exec us/sleep -- curl -s http://echo.eu.mesh.local\n  isthmus exec us/sleep.foo -- sh\n  isthmus exec eu/sleep -- isthmus fetch http://details:9080/details/0"
)]
pub struct Args {
    /// Pod or Deployment: CLUSTER/WORKLOAD or CLUSTER/WORKLOAD.NAMESPACE.
    workload: Workload,
    /// Program and arguments.
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<String>,
    #[command(flatten)]
    dir: Dir,
}

pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let mut env = BTreeMap::new();
    for name in ["TERM", "LANG", "LC_ALL", "COLUMNS", "LINES"] {
        if let Ok(value) = std::env::var(name) {
            env.insert(name.to_owned(), value);
        }
    }
    let exec = Exec {
        workload: args.workload,
        argv: args.command,
        env,
    };
    // Blocked before any thread starts, so that only the forwarding thread takes them.
    let mut signals = SigSet::empty();
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGQUIT] {
        signals.add(signal);
    }
    signals.thread_block().context("signals cannot be forwarded")?;
    let execution = args.dir.connect()?.exec(exec, [0, 1, 2])?;
    let mut forward = execution.signals()?;
    std::thread::spawn(move || {
        while let Ok(signal) = signals.wait() {
            let sent = Execution::signal_line(signal as i32).and_then(|line| forward.write_all(&line));
            if sent.is_err() {
                return;
            }
        }
    });
    let code = execution.wait()?;
    Ok(ExitCode::from(u8::try_from(code).unwrap_or(u8::MAX)))
}
