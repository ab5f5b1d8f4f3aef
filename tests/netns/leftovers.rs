//! However a demo ends, nothing is left of it: no process, no namespace, no link, no mount.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Instant;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::harness::{SOON, eventually};

fn isthmus(dir: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_isthmus"))
        .args(arguments)
        .env("ISTHMUS_DIR", dir)
        .stdin(Stdio::null())
        .output()
        .expect("the binary was built with the tests")
}

fn status(dir: &Path) -> Option<Value> {
    let output = isthmus(dir, &["demo", "status", "-o", "json"]);
    output
        .status
        .success()
        .then(|| serde_json::from_slice(&output.stdout).expect("JSON"))
}

/// What a running demo has on this machine.
struct Traces {
    supervisor: i32,
    /// The pid namespace of its processes, which holds all of them.
    processes: PathBuf,
}

impl Traces {
    fn of(dir: &Path) -> Self {
        let status = status(dir).expect("the demo runs");
        let supervisor = status["pid"].as_i64().and_then(|p| i32::try_from(p).ok());
        let supervisor = supervisor.expect("the supervisor's process id");
        let processes = std::fs::read_link(format!("/proc/{supervisor}/ns/pid")).expect("its pid namespace");
        let traces = Self {
            supervisor,
            processes,
        };
        assert!(
            traces.alive() > 5,
            "supervisor, control plane, proxies, applications"
        );
        traces
    }

    /// Processes in the demo's pid namespace. Namespaces of the network, their rules and the ports that are
    /// published live no longer.
    fn alive(&self) -> usize {
        let processes = std::fs::read_dir("/proc").expect("/proc").flatten();
        processes
            .filter_map(|entry| std::fs::read_link(entry.path().join("ns/pid")).ok())
            .filter(|namespace| *namespace == self.processes)
            .count()
    }

    fn are_gone(&self, before: &Machine) {
        eventually("nothing is left of the demo", || {
            let (alive, machine) = (self.alive(), Machine::now());
            if alive == 0 && machine == *before {
                Ok(())
            } else {
                Err(format!("{alive} processes, {machine:?} instead of {before:?}"))
            }
        });
    }
}

/// What a demo must not change on this machine.
#[derive(Debug, PartialEq)]
struct Machine {
    /// Names of network links.
    links: BTreeSet<String>,
    /// Mount points.
    mounts: BTreeSet<String>,
}

impl Machine {
    fn now() -> Self {
        let links = std::fs::read_dir("/sys/class/net")
            .into_iter()
            .flatten()
            .flatten();
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let points = mounts.lines().filter_map(|line| line.split(' ').nth(4));
        Self {
            links: links
                .map(|link| link.file_name().to_string_lossy().into_owned())
                .collect(),
            mounts: points.map(str::to_owned).collect(),
        }
    }
}

fn detached(dir: &Path) {
    let output = isthmus(dir, &["demo", "--detach", "--clusters", "us"]);
    assert!(output.status.success(), "{output:?}");
}

fn foreground(dir: &Path) -> Child {
    let child = Command::new(env!("CARGO_BIN_EXE_isthmus"))
        .args(["demo", "--clusters", "us"])
        .env("ISTHMUS_DIR", dir)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("the binary was built with the tests");
    eventually("the demo is up", || {
        status(dir).map(drop).ok_or_else(|| "not yet".to_owned())
    });
    child
}

#[test]
fn nothing_is_left_of_a_demo_however_it_ends() {
    let root = tempfile::Builder::new()
        .prefix("isthmus-leftovers-")
        .tempdir()
        .expect("a directory");
    let dir = root.path().join("demo");
    let before = Machine::now();

    // A second start leaves the first alone, and `down` ends it.
    detached(&dir);
    let first = Traces::of(&dir);
    let second = isthmus(&dir, &["demo", "--detach", "--clusters", "us"]);
    assert!(!second.status.success());
    let said = String::from_utf8_lossy(&second.stderr);
    assert!(said.contains("isthmus demo down"), "{said}");
    assert!(Traces::of(&dir).supervisor == first.supervisor);
    let down = isthmus(&dir, &["demo", "down"]);
    assert!(down.status.success(), "{down:?}");
    first.are_gone(&before);

    // A crash: the kernel takes everything along, and the next start finds its way clear.
    detached(&dir);
    let crashed = Traces::of(&dir);
    kill(Pid::from_raw(crashed.supervisor), Signal::SIGKILL).expect("the supervisor can be killed");
    crashed.are_gone(&before);

    // Ctrl-C in the terminal of a demo in the foreground.
    let mut child = foreground(&dir);
    let interrupted = Traces::of(&dir);
    let pid = i32::try_from(child.id()).expect("a process id");
    kill(Pid::from_raw(pid), Signal::SIGINT).expect("a signal");
    assert!(child.wait().expect("its end").success());
    interrupted.are_gone(&before);

    // The terminal itself dies.
    let mut child = foreground(&dir);
    let orphaned = Traces::of(&dir);
    child.kill().expect("a signal");
    child.wait().expect("its end");
    orphaned.are_gone(&before);

    let began = Instant::now();
    let again = isthmus(&dir, &["demo", "down"]);
    assert!(again.status.success() && began.elapsed() < SOON, "{again:?}");
}
