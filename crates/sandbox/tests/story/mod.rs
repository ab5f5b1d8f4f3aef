//! What happens inside.

mod clusters;
mod pods;

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use isthmus_model::ClusterId;
use isthmus_sandbox::network::{Network, publish};
use isthmus_sandbox::plan::{
    Check, ContainerPlan, DnsPlan, PodKey, PodPlan, PodStatus, Probe, Program, VirtualAddress, VirtualPort,
};
use isthmus_sandbox::pod::Pods;
use isthmus_sandbox::supervisor::{Entered, enter};
use tokio::signal::unix::{SignalKind, signal};

pub struct Sandbox {
    pub entered: Entered,
    pub network: Network,
    pub pods: Pods,
}

pub fn supervise(story: &str, dir: &Path) -> ExitCode {
    let entered = enter(dir).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let network = Network::new().unwrap();
        let pods = Pods::new(
            entered.dir.path().to_owned(),
            entered.program.clone(),
            network.clone(),
            entered.reaper.clone(),
        );
        let sandbox = Sandbox {
            entered,
            network,
            pods,
        };
        match story {
            "idle" => idle(sandbox).await,
            "published_listeners_lead_into_the_sandbox" => published(sandbox).await,
            "two_clusters_meet_only_through_public_addresses" => clusters::tell(sandbox).await,
            "pods_live_and_die" => pods::live_and_die(sandbox).await,
            "a_sidecar_comes_first_and_is_captured_for" => pods::sidecar_first(sandbox).await,
            _ => panic!("there is no story {story}"),
        }
    });
    ExitCode::SUCCESS
}

impl Sandbox {
    pub fn cluster(&self, name: &str) -> ClusterId {
        let id = ClusterId::from(name);
        self.network.add_cluster(&id).unwrap();
        id
    }

    /// Starts a pod that serves its name on port 80, and waits until it is ready.
    pub async fn serving(&self, cluster: &ClusterId, name: &str) -> PodStatus {
        let plan = plan(cluster, name, vec![server(name)]);
        let key = plan.key.clone();
        self.pods.start(plan).unwrap();
        self.until(&key, PodStatus::ready).await
    }

    pub async fn until(&self, key: &PodKey, condition: impl Fn(&PodStatus) -> bool) -> PodStatus {
        let mut statuses = self.pods.statuses();
        let found = statuses.wait_for(|all| all.get(key).is_some_and(&condition));
        let all = tokio::time::timeout(Duration::from_secs(60), found).await;
        match all {
            Ok(all) => all.unwrap()[key].clone(),
            Err(_) => panic!("{:?}", self.pods.statuses().borrow().get(key)),
        }
    }

    /// What `command` prints in a pod, and its exit code.
    pub async fn exec(&self, key: &PodKey, command: &[&str]) -> (String, i32) {
        let command: Vec<String> = command.iter().map(|s| (*s).to_owned()).collect();
        let (out, into) = std::io::pipe().unwrap();
        let null = || std::fs::File::open("/dev/null").unwrap().into();
        let err = into.try_clone().unwrap();
        let mut exec = self
            .pods
            .exec(key, &command, &[], None, [null(), into.into(), err.into()])
            .unwrap();
        let text = tokio::task::spawn_blocking(move || {
            let mut text = String::new();
            BufReader::new(out).read_to_string(&mut text).unwrap();
            text
        });
        let code = exec.wait().await;
        (text.await.unwrap(), code)
    }

    /// The body that a pod gets from a URL, or why it gets none.
    pub async fn get(&self, from: &PodKey, url: &str) -> String {
        self.exec(from, &["isthmus", "get", url]).await.0
    }
}

pub fn plan(cluster: &ClusterId, name: &str, containers: Vec<ContainerPlan>) -> PodPlan {
    PodPlan {
        key: PodKey {
            cluster: cluster.clone(),
            namespace: "default".into(),
            name: name.into(),
        },
        dns: DnsPlan {
            nameserver: Ipv4Addr::new(10, 10, 128, 10).into(),
            search: vec!["default.svc.cluster.local".into(), "svc.cluster.local".into()],
            ndots: 5,
        },
        files: BTreeMap::new(),
        volumes: Vec::new(),
        containers,
        capture: None,
        grace: Duration::from_secs(5),
    }
}

pub fn container(name: &str, arguments: &[&str]) -> ContainerPlan {
    let arguments = arguments.iter().map(|a| (*a).to_owned()).collect();
    ContainerPlan::new(name, Program::Isthmus(arguments))
}

pub fn server(name: &str) -> ContainerPlan {
    let mut c = container("app", &["serve", "80", name]);
    c.readiness = Some(http(80));
    c
}

pub fn http(port: u16) -> Probe {
    Probe {
        check: Check::Http {
            port,
            path: "/ready".into(),
        },
        period: Duration::from_millis(100),
        timeout: Duration::from_secs(5),
        initial_delay: Duration::ZERO,
        failures: 1,
        successes: 1,
        from_node: false,
    }
}

pub fn service(address: Ipv4Addr, targets: &[(Ipv4Addr, u16)]) -> Vec<VirtualAddress> {
    let port = VirtualPort {
        udp: false,
        port: 80,
        targets: targets.to_vec(),
    };
    vec![VirtualAddress {
        address,
        ports: vec![port],
    }]
}

async fn idle(sandbox: Sandbox) {
    let us = sandbox.cluster("us");
    let dir = sandbox.entered.dir.path().to_owned();
    std::fs::write(dir.join("left"), "by a crash").unwrap();
    let mut sleeper = container("app", &["serve", "80"]);
    sleeper.program = Program::Isthmus(vec!["serve".into(), "80".into(), dir.to_str().unwrap().into()]);
    sleeper.readiness = Some(http(80));
    let plan = plan(&us, "sleeper", vec![sleeper]);
    let key = plan.key.clone();
    sandbox.pods.start(plan).unwrap();
    sandbox.until(&key, PodStatus::ready).await;
    until_terminated(&sandbox).await;
}

async fn published(mut sandbox: Sandbox) {
    let us = sandbox.cluster("us");
    let web = sandbox.serving(&us, "web").await;
    let public = sandbox
        .network
        .addresses(&us)
        .unwrap()
        .load_balancers()
        .next()
        .unwrap();
    sandbox
        .network
        .set_load_balancers(&us, service(public, &[(web.address, 80)]))
        .unwrap();
    let listener = sandbox.entered.listeners.remove(0);
    tokio::spawn(publish(listener, SocketAddr::from((public, 80))));
    until_terminated(&sandbox).await;
}

async fn until_terminated(sandbox: &Sandbox) {
    let mut terminate = signal(SignalKind::terminate()).unwrap();
    sandbox.entered.progress.say("up");
    terminate.recv().await;
    sandbox.pods.stop_all(Duration::from_secs(5)).await;
}

/// A program for pods: answers HTTP with its name and who asks. `/crash` ends it, `/ready` fails while
/// the file `/run/sick` exists, `/whoami` says what it sees around it.
pub fn serve(port: &str, name: &str) -> ExitCode {
    let listener = TcpListener::bind(("0.0.0.0", port.parse::<u16>().unwrap())).unwrap();
    println!("{name} listens");
    for stream in listener.incoming() {
        let mut stream = stream.unwrap();
        let name = name.to_owned();
        std::thread::spawn(move || {
            let from = stream.peer_addr().unwrap().ip();
            let mut lines = BufReader::new(stream.try_clone().unwrap());
            let mut first = String::new();
            // A caller that only connects is no reason to end.
            if lines.read_line(&mut first).unwrap_or(0) == 0 {
                return;
            }
            let mut header = String::new();
            while lines.read_line(&mut header).unwrap_or(0) > 2 {
                header.clear();
            }
            let path = first.split(' ').nth(1).unwrap_or("/");
            let sick = path == "/ready" && Path::new("/run/sick").exists();
            if path == "/crash" {
                println!("{name} crashes");
                std::process::exit(3);
            }
            let status = if sick { "503 Sick" } else { "200 OK" };
            let _ = write!(
                stream,
                "HTTP/1.1 {status}\r\nConnection: close\r\n\r\n{name} to {from}"
            );
        });
    }
    ExitCode::SUCCESS
}

/// A program for pods: prints the body of `http://A.B.C.D[:PORT]/PATH`, or the error.
pub fn get(url: &str) -> ExitCode {
    let rest = url.strip_prefix("http://").unwrap();
    let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
    let at: SocketAddr = host
        .parse()
        .unwrap_or_else(|_| SocketAddr::from((host.parse::<Ipv4Addr>().unwrap(), 80)));
    let answer = || -> std::io::Result<String> {
        let mut s = TcpStream::connect_timeout(&at, Duration::from_secs(3))?;
        s.set_read_timeout(Some(Duration::from_secs(3)))?;
        write!(
            s,
            "GET /{path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"
        )?;
        let mut text = String::new();
        s.read_to_string(&mut text)?;
        Ok(text)
    };
    match answer() {
        Ok(text) => {
            print!("{}", text.split_once("\r\n\r\n").map_or("", |(_, body)| body));
            ExitCode::SUCCESS
        }
        Err(e) => {
            print!("{:?}", e.kind());
            ExitCode::FAILURE
        }
    }
}

/// Waits until `condition` holds.
pub async fn eventually(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let until = Instant::now() + Duration::from_secs(60);
    while !condition().await {
        assert!(Instant::now() < until, "{what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

pub fn log_of(sandbox: &Sandbox, key: &PodKey) -> String {
    let path: PathBuf = sandbox.pods.log(key, "app");
    std::fs::read_to_string(path).unwrap_or_default()
}
