//! The sandbox as it runs: each story is started as a supervisor in namespaces of its own, by this same
//! program, which is also what runs in the pods. No harness, since a supervisor has to be PID 1 from
//! its first instruction.

#![allow(clippy::unwrap_used, clippy::expect_used)] // a failed expectation is a failed test

mod story;

use std::io::{BufRead, BufReader, Read};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use isthmus_sandbox::Error;
use isthmus_sandbox::supervisor::{self, Launch, Supervisor};

/// Long enough for a slow machine; nothing waits for it to pass.
const PATIENCE: Duration = Duration::from_secs(60);

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["supervisor", story, dir] => story::supervise(story, Path::new(dir)),
        ["serve", port, name] => story::serve(port, name),
        ["get", url] => story::get(url),
        ["--list", ..] => ExitCode::SUCCESS,
        _ => {
            let filter = words
                .iter()
                .find(|w| !w.starts_with('-'))
                .copied()
                .unwrap_or_default();
            outside(filter)
        }
    }
}

type Test = (&'static str, fn(&str));

fn outside(filter: &str) -> ExitCode {
    let tests: [Test; 6] = [
        ("two_clusters_meet_only_through_public_addresses", inside),
        ("pods_live_and_die", inside),
        ("a_sidecar_comes_first_and_is_captured_for", inside),
        ("published_listeners_lead_into_the_sandbox", published),
        ("one_sandbox_a_directory", one_a_directory),
        ("nothing_is_left_of_a_sandbox_whose_parent_dies", nothing_left),
    ];
    for (name, test) in tests.iter().filter(|(n, _)| n.contains(filter)) {
        print!("test {name} ... ");
        test(name);
        println!("ok");
    }
    ExitCode::SUCCESS
}

fn dir(name: &str) -> PathBuf {
    std::env::temp_dir().join(format!("isthmus-test-{}-{name}", std::process::id()))
}

fn launch(story: &str, dir: &Path, detached: bool, listeners: Vec<TcpListener>) -> Supervisor {
    let launch = Launch {
        dir: dir.to_owned(),
        detached,
        program: std::env::current_exe().unwrap(),
        arguments: ["supervisor".into(), story.into(), dir.into()].into(),
        listeners,
    };
    launch.start().unwrap()
}

/// Runs the story of this name to its end.
fn inside(name: &str) {
    let dir = dir(name);
    let mut supervisor = launch(name, &dir, false, Vec::new());
    let status = supervisor.wait().unwrap();
    let log = std::fs::read_to_string(dir.join("supervisor.log")).unwrap_or_default();
    assert!(status.success(), "{name}: {status}\n{log}");
    supervisor::clear(&dir, PATIENCE).unwrap();
    assert!(!dir.exists());
}

fn line(supervisor: &Supervisor) -> String {
    let mut line = String::new();
    BufReader::new(&supervisor.progress).read_line(&mut line).unwrap();
    line
}

fn published(name: &str) {
    let dir = dir(name);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let at = listener.local_addr().unwrap();
    let mut supervisor = launch(name, &dir, false, vec![listener]);
    assert_eq!(line(&supervisor), "up\n");
    let mut answer = String::new();
    let mut c = TcpStream::connect(at).unwrap();
    std::io::Write::write_all(&mut c, b"GET / HTTP/1.0\r\n\r\n").unwrap();
    c.read_to_string(&mut answer).unwrap();
    assert!(answer.ends_with("web to 198.51.100.1"), "{answer}");
    assert!(supervisor.stop(PATIENCE).unwrap().success());
    assert!(TcpStream::connect(at).is_err());
    supervisor::clear(&dir, PATIENCE).unwrap();
}

fn one_a_directory(_: &str) {
    let dir = dir("one");
    let mut first = launch("idle", &dir, true, Vec::new());
    assert_eq!(line(&first), "up\n");
    assert_eq!(supervisor::running(&dir), Some(first.pid()));
    let second = Launch {
        dir: dir.clone(),
        detached: true,
        program: "/proc/self/exe".into(),
        arguments: vec![],
        listeners: vec![],
    };
    let refused = second.start().unwrap_err();
    assert!(
        matches!(refused, Error::Running { pid, .. } if pid == first.pid()),
        "{refused}"
    );
    assert!(refused.to_string().contains("demo down"), "{refused}");

    // A crash leaves files; the next start finds a clean directory.
    nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(first.pid()),
        nix::sys::signal::Signal::SIGKILL,
    )
    .unwrap();
    assert!(!first.wait().unwrap().success());
    assert!(dir.join("left").exists());
    let mut next = launch("idle", &dir, false, Vec::new());
    assert_eq!(line(&next), "up\n");
    assert!(next.stop(PATIENCE).unwrap().success());
    supervisor::clear(&dir, PATIENCE).unwrap();

    // What is not the sandbox's is not touched.
    let foreign = dir.with_extension("foreign");
    std::fs::create_dir(&foreign).unwrap();
    std::fs::write(foreign.join("thesis.txt"), "years of work").unwrap();
    let refused = supervisor::StateDir::acquire(&foreign).unwrap_err();
    assert!(refused.to_string().contains("choose an empty one"), "{refused}");
    assert!(foreign.join("thesis.txt").exists());
    std::fs::remove_dir_all(&foreign).unwrap();
}

fn nothing_left(name: &str) {
    let dir = dir(name);
    let mut supervisor = launch("idle", &dir, false, Vec::new());
    assert_eq!(line(&supervisor), "up\n");
    // The story started a process with this marker as its argument.
    let marker = dir.to_str().unwrap().to_owned();
    let alive = || processes_with(&marker);
    assert!(alive() >= 2, "supervisor and its process");
    // What the kernel does with the descriptors of a parent that is killed.
    supervisor.cut_lifeline();
    let until = Instant::now() + PATIENCE;
    while alive() > 0 {
        assert!(Instant::now() < until, "processes are left");
        let _ = supervisor.try_wait();
        std::thread::sleep(Duration::from_millis(20));
    }
    supervisor::clear(&dir, PATIENCE).unwrap();
}

/// How many processes have this argument.
fn processes_with(argument: &str) -> usize {
    std::fs::read_dir("/proc")
        .unwrap()
        .flatten()
        .filter(|e| {
            std::fs::read(e.path().join("cmdline"))
                .is_ok_and(|c| c.split(|b| *b == 0).any(|a| a == argument.as_bytes()))
        })
        .count()
}
