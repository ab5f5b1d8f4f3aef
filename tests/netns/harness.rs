//! Demos for the stories, driven by the commands that a user types.
//!
//! Most stories share one; those that need others certificates or outages have demos besides. A demo runs in the foreground below a shell that waits for the end of its standard input. That pipe
//! is held by the test process alone, so however the process ends, the shell notices and ends the demo.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};
use std::fs::File;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{OnceLock, PoisonError, RwLock};
use std::time::{Duration, Instant};

use serde_json::Value;

pub use crate::turns::{Reader, Writer};

/// For whatever should happen at once, on a machine that is slow and busy.
pub const SOON: Duration = Duration::from_secs(30);
/// For the start of a demo.
const START: Duration = Duration::from_secs(180);
/// Between two looks at a condition.
const PAUSE: Duration = Duration::from_millis(100);

/// Ends the demo when standard input does, and removes its directory.
const SHELL: &str = r#"
dir="$1"; shift
"$0" demo --dir "$dir/demo" "$@" & demo=$!
cat >/dev/null
kill $demo 2>/dev/null
wait $demo
rm -rf "$dir"
"#;

/// A running demo; it ends with the value.
#[derive(Debug)]
pub struct Mesh {
    dir: PathBuf,
    shell: Child,
    /// Standard input of the shell; the demo ends when it closes.
    lifeline: Option<ChildStdin>,
}

/// A demo that stories share, started for the first of them, and who is alone with it.
#[derive(Debug)]
pub struct Demo {
    arguments: &'static [&'static str],
    mesh: OnceLock<Result<Mesh, String>>,
    turns: RwLock<()>,
}

/// The demo of most stories.
static SHARED: Demo = Demo::new(&[]);
/// The demo in which whole parts are away for a while; its certificates live for a minute.
pub static SHORT_LIVED: Demo = Demo::new(&["--workload-cert-ttl", "60"]);
/// The demo with more than one cluster to fail over to.
pub static THREE_CLUSTERS: Demo = Demo::new(&["--clusters", "us,eu,ap"]);

/// What a command said.
#[derive(Debug)]
pub struct Output {
    /// Exit code.
    pub code: i32,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Demo {
    const fn new(arguments: &'static [&'static str]) -> Self {
        Self {
            arguments,
            mesh: OnceLock::new(),
            turns: RwLock::new(()),
        }
    }

    /// For stories that change nothing.
    pub fn shared(&'static self) -> Reader {
        let turn = self.turns.read().unwrap_or_else(PoisonError::into_inner);
        Reader::new(self.running(), turn)
    }

    /// Without anybody else, for stories that apply or break something.
    pub fn exclusive(&'static self) -> Writer {
        let turn = self.turns.write().unwrap_or_else(PoisonError::into_inner);
        Writer::new(self.running(), turn)
    }

    fn running(&'static self) -> &'static Mesh {
        match self.mesh.get_or_init(|| Mesh::start(self.arguments)) {
            Ok(mesh) => mesh,
            Err(why) => panic!("{why}"),
        }
    }
}

impl Mesh {
    /// The demo of most stories, for those that change nothing.
    pub fn shared() -> Reader {
        SHARED.shared()
    }

    /// The demo of most stories without anybody else, for those that apply or break something.
    pub fn exclusive() -> Writer {
        SHARED.exclusive()
    }

    /// Starts a demo with these arguments besides the directory, and waits until it is up.
    pub fn start(arguments: &[&str]) -> Result<Self, String> {
        let dir = tempfile::Builder::new()
            .prefix("isthmus-netns-")
            .tempdir()
            .map_err(|e| format!("no directory for the demo: {e}"))?
            .keep();
        let log = |name: &str| File::create(dir.join(name)).map_err(|e| format!("{name}: {e}"));
        let mut shell = Command::new("sh")
            .arg("-c")
            .arg(SHELL)
            .arg(env!("CARGO_BIN_EXE_isthmus"))
            .arg(&dir)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(log("out")?)
            .stderr(log("err")?)
            .spawn()
            .map_err(|e| format!("sh cannot be started: {e}"))?;
        let mesh = Self {
            dir,
            lifeline: shell.stdin.take(),
            shell,
        };
        let until = Instant::now() + START;
        while mesh.isthmus(&["demo", "status"]).code != 0 {
            // The command writes why it failed as its last word.
            let said = std::fs::read_to_string(mesh.dir.join("err")).unwrap_or_default();
            if let Some(at) = said.find("Error: ") {
                return Err(said[at..].trim().to_owned());
            }
            if Instant::now() > until {
                return Err(format!("the demo is not up after {START:?}; it said:\n{said}"));
            }
            std::thread::sleep(PAUSE);
        }
        Ok(mesh)
    }

    /// Directory of the demo.
    pub fn dir(&self) -> PathBuf {
        self.dir.join("demo")
    }

    /// Runs a command of the binary against this demo.
    pub fn isthmus(&self, arguments: &[&str]) -> Output {
        self.isthmus_with(arguments, "")
    }

    /// As [`Mesh::isthmus`], with a standard input.
    pub fn isthmus_with(&self, arguments: &[&str], input: &str) -> Output {
        let mut child = Command::new(env!("CARGO_BIN_EXE_isthmus"))
            .args(arguments)
            .env("ISTHMUS_DIR", self.dir())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary was built with the tests");
        if let Some(mut stdin) = child.stdin.take() {
            // A command that does not read its input is no failure of the story.
            let _ = stdin.write_all(input.as_bytes());
        }
        let output = child.wait_with_output().expect("a child can be waited for");
        Output {
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// The answer of a command that has to succeed and to print JSON.
    pub fn json(&self, arguments: &[&str]) -> Value {
        self.isthmus(arguments).json()
    }

    /// Runs a program in a pod.
    pub fn exec(&self, workload: &str, argv: &[&str]) -> Output {
        let arguments: Vec<&str> = ["exec", workload, "--"].iter().chain(argv).copied().collect();
        self.isthmus(&arguments)
    }

    /// Fetches a URL from inside a pod, as an application there would: `isthmus fetch` with these options.
    pub fn fetch(&self, workload: &str, url: &str, options: &[&str]) -> Output {
        let argv: Vec<&str> = ["isthmus", "fetch", "--timeout", "15", url]
            .iter()
            .chain(options)
            .copied()
            .collect();
        self.exec(workload, &argv)
    }

    /// The JSON at a URL; with `--count` or `--duration` the summary of many requests.
    pub fn fetch_json(&self, workload: &str, url: &str, options: &[&str]) -> Value {
        self.fetch(workload, url, options).json()
    }

    /// What runs where, as `isthmus demo status` has it.
    pub fn status(&self) -> Value {
        self.json(&["demo", "status", "-o", "json"])
    }

    /// Addresses on this machine of a cluster's ingress gateways.
    pub fn published(&self, cluster: &str) -> Vec<SocketAddr> {
        let status = self.status();
        let all = status["published"].as_array().expect("published addresses");
        all.iter()
            .filter(|p| p["cluster"] == cluster)
            .map(|p| {
                p["address"]
                    .as_str()
                    .and_then(|a| a.parse().ok())
                    .expect("an address")
            })
            .collect()
    }

    /// What a container of a Deployment has logged so far.
    pub fn log(&self, cluster: &str, namespace: &str, owner: &str, container: &str) -> String {
        let status = self.status();
        let clusters = status["clusters"].as_array().into_iter().flatten();
        let pods = clusters
            .filter(|c| c["id"] == cluster)
            .flat_map(|c| c["pods"].as_array().into_iter().flatten());
        let logs: Vec<&str> = pods
            .filter(|p| p["owner"] == owner && p["namespace"] == namespace)
            .filter_map(|p| p["logs"].as_str())
            .collect();
        assert!(!logs.is_empty(), "no pod of {owner} in {cluster}: {status:#}");
        logs.iter()
            .map(|dir| std::fs::read_to_string(Path::new(dir).join(format!("{container}.log"))))
            .map(Result::unwrap_or_default)
            .collect()
    }

    /// Every file of the clusters' YAML with its text.
    pub fn yaml(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let mut files = BTreeMap::new();
        for cluster in ["us", "eu"] {
            let entries = std::fs::read_dir(self.config_dir(cluster));
            for entry in entries.into_iter().flatten().flatten() {
                if let Ok(text) = std::fs::read(entry.path()) {
                    files.insert(entry.path(), text);
                }
            }
        }
        files
    }

    /// Where a cluster's YAML lies, to be edited as a user does.
    pub fn config_dir(&self, cluster: &str) -> PathBuf {
        self.dir().join(cluster).join("config")
    }
}

impl Drop for Mesh {
    fn drop(&mut self) {
        drop(self.lifeline.take());
        let _ = self.shell.wait();
    }
}

impl Output {
    /// Standard output of a command that has to succeed, as JSON.
    pub fn json(&self) -> Value {
        assert_eq!(self.code, 0, "{self}");
        serde_json::from_str(&self.stdout).unwrap_or_else(|e| panic!("{e}: {self}"))
    }
}

impl fmt::Display for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "exit code {}", self.code)?;
        for (name, text) in [("stdout", &self.stdout), ("stderr", &self.stderr)] {
            if !text.is_empty() {
                write!(f, "\n--- {name}\n{}", text.trim_end())?;
            }
        }
        f.write_char('\n')
    }
}

/// Tries until it works; the last failure is the story's when it never does.
pub fn eventually<T>(what: &str, mut attempt: impl FnMut() -> Result<T, String>) -> T {
    let until = Instant::now() + SOON;
    loop {
        match attempt() {
            Ok(done) => return done,
            Err(why) if Instant::now() > until => panic!("{what}: not within {SOON:?}: {why}"),
            Err(_) => std::thread::sleep(PAUSE),
        }
    }
}

/// [`eventually`] for a JSON answer.
pub fn eventually_json(what: &str, attempt: impl Fn() -> Output, wanted: impl Fn(&Value) -> bool) -> Value {
    eventually(what, || {
        let output = attempt();
        match serde_json::from_str(&output.stdout) {
            Ok(json) if output.code == 0 && wanted(&json) => Ok(json),
            _ => Err(output.to_string()),
        }
    })
}

/// A page from outside the mesh: HTTP/1.1 from this machine, status and the whole answer as text.
pub fn get(address: SocketAddr, host: &str, path: &str) -> Result<(u16, String), String> {
    let ask = || -> std::io::Result<String> {
        let mut stream = TcpStream::connect_timeout(&address, SOON)?;
        stream.set_read_timeout(Some(SOON))?;
        write!(
            stream,
            "GET {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n"
        )?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer)?;
        Ok(String::from_utf8_lossy(&answer).into_owned())
    };
    let answer = ask().map_err(|e| format!("http://{address}{path}: {e}"))?;
    let status = answer.split(' ').nth(1).and_then(|s| s.parse().ok());
    status
        .map(|status| (status, answer.clone()))
        .ok_or_else(|| format!("http://{address}{path} is not HTTP: {answer:?}"))
}
