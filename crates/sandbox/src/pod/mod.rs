//! Pods: namespaces of their own, processes that are started again, probes, logs.
//!
//! ```text
//!  PodPlan ── start ──> network attachment, mounts, capture ──> a task per pod
//!                         └─ a container after another while one holds the others
//!                              └─ process ── exit ──> back-off ──> process ...
//!                                   ├─ output ──> DIR/CLUSTER/logs/POD.NS/CONTAINER.log
//!                                   └─ readiness probe, from inside the pod, past the sidecar
//!  every change ──> statuses(): what is ready is what has answered
//! ```
//!
//! It does not decide what runs (`cluster` does), and knows nothing of Kubernetes or of the mesh.

mod board;
mod container;
mod files;
mod log;
mod namespaces;
mod probe;
mod volumes;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ffi::CString;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nix::sys::signal::Signal;
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

use crate::network::Network;
use crate::plan::{ContainerPlan, Order, PodKey, PodPlan, PodStatus, Program};
use crate::supervisor::{Process, Reaper, SignalTarget};
use crate::{Error, Result};
use board::Board;
use container::{Ending, Stage};
use namespaces::Namespaces;

/// Statuses of all pods.
pub type Statuses = Arc<BTreeMap<PodKey, PodStatus>>;

/// All pods of the sandbox. Clones are the same. Needs a tokio runtime.
#[derive(Debug, Clone)]
pub struct Pods {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    dir: PathBuf,
    program: PathBuf,
    network: Network,
    reaper: Reaper,
    board: Board,
    pods: Mutex<HashMap<PodKey, Pod>>,
}

/// One pod that runs.
#[derive(Debug)]
struct Pod {
    context: Arc<Context>,
    /// Set once, to how long the containers have.
    stop: watch::Sender<Option<Ending>>,
    /// Ends when all containers have.
    task: JoinHandle<()>,
}

/// What a pod's containers share.
#[derive(Debug)]
struct Context {
    plan: PodPlan,
    address: std::net::Ipv4Addr,
    namespaces: Namespaces,
    logs: PathBuf,
    network: Network,
    reaper: Reaper,
    board: Board,
    /// Processes of containers, by name.
    running: Mutex<HashMap<String, SignalTarget>>,
    /// Containers that must not run now, by name.
    held: watch::Sender<BTreeSet<String>>,
}

/// A command that runs in a pod besides its containers.
#[derive(Debug)]
pub struct Exec {
    process: Process,
}

impl Exec {
    /// Waits for its end: its exit code, or 128 and the number of the signal that ended it. Cancel safe.
    pub async fn wait(&mut self) -> i32 {
        use std::os::unix::process::ExitStatusExt;
        let status = self.process.wait().await;
        status
            .code()
            .or_else(|| status.signal().map(|s| 128 + s))
            .unwrap_or(255)
    }

    /// Sends a signal to it and its group; false when it has ended or there is no such signal.
    pub fn signal(&self, number: i32) -> bool {
        Signal::try_from(number).is_ok_and(|s| self.process.target().signal_group(s))
    }
}

impl Pods {
    /// None yet. `dir` is the state directory, `program` this binary ([`crate::supervisor::Entered::program`]).
    pub fn new(dir: PathBuf, program: PathBuf, network: Network, reaper: Reaper) -> Self {
        let shared = Shared {
            dir,
            program,
            network,
            reaper,
            board: Board::default(),
            pods: Mutex::new(HashMap::new()),
        };
        Self {
            shared: Arc::new(shared),
        }
    }

    /// Starts a pod. Its namespaces, mounts and capture are in place when this returns, with its address
    /// in the status; its containers start in their order from then on.
    pub fn start(&self, plan: PodPlan) -> Result<PodStatus> {
        let key = plan.key.clone();
        let mut pods = self.shared.lock();
        if pods.contains_key(&key) {
            return Err(Error::PodExists(key));
        }
        let attachment = self.shared.network.attach_pod(&key.cluster)?;
        let address = attachment.address;
        let result = self.shared.prepare(plan, attachment);
        let context = match result {
            Ok(context) => Arc::new(context),
            Err(e) => {
                // The first failure is the one to tell.
                let _ = self.shared.network.detach_pod(&key.cluster, address);
                return Err(e);
            }
        };
        let status = PodStatus {
            key: key.clone(),
            address,
            containers: context
                .plan
                .containers
                .iter()
                .map(|c| {
                    let waiting = crate::plan::ContainerStatus {
                        reason: "waiting".to_owned(),
                        waiting: "PodInitializing".to_owned(),
                        ..Default::default()
                    };
                    (c.name.clone(), waiting)
                })
                .collect(),
            terminating: false,
            finished: false,
        };
        self.shared.board.put(status.clone());
        let (stop, stopped) = watch::channel(None);
        let task = tokio::spawn(run(context.clone(), stopped));
        pods.insert(key, Pod { context, stop, task });
        Ok(status)
    }

    /// Ends a pod: SIGTERM to its containers, SIGKILL after `grace` to whatever is left in it. Returns
    /// when its network is gone. With no grace its processes are killed at once.
    pub async fn stop(&self, key: &PodKey, grace: Duration) -> Result<()> {
        let pod = self
            .shared
            .lock()
            .remove(key)
            .ok_or_else(|| Error::NoPod(key.clone()))?;
        self.shared.board.change(key, |s| s.terminating = true);
        pod.stop.send_replace(Some(Ending::now(grace)));
        if let Err(e) = pod.task.await {
            tracing::error!(pod = %key, error = %e, "the pod's task failed");
        }
        pod.context.namespaces.kill_all();
        let detached = self.shared.network.detach_pod(&key.cluster, pod.context.address);
        self.shared.board.remove(key);
        detached
    }

    /// Ends all pods at once, each with the grace of its plan but at most `grace`.
    pub async fn stop_all(&self, grace: Duration) {
        let pods: Vec<(PodKey, Duration)> = self
            .shared
            .lock()
            .iter()
            .map(|(k, p)| (k.clone(), p.context.plan.grace.min(grace)))
            .collect();
        let mut tasks = JoinSet::new();
        for (key, grace) in pods {
            let pods = self.clone();
            tasks.spawn(async move {
                if let Err(e) = pods.stop(&key, grace).await {
                    tracing::warn!(pod = %key, error = %e, "stop");
                }
            });
        }
        tasks.join_all().await;
    }

    /// Statuses, now and whenever one changes.
    pub fn statuses(&self) -> watch::Receiver<Statuses> {
        self.shared.board.subscribe()
    }

    /// What a pod was started from.
    pub fn plan(&self, key: &PodKey) -> Option<PodPlan> {
        self.shared.lock().get(key).map(|p| p.context.plan.clone())
    }

    /// Replaces the content of files that the plan named, such as a renewed token; others are refused.
    pub fn update_files(&self, key: &PodKey, changed: &BTreeMap<PathBuf, Vec<u8>>) -> Result<()> {
        let context = self.shared.context(key)?;
        if let Some(path) = changed.keys().find(|p| !context.plan.files.contains_key(*p)) {
            return Err(Error::Pod {
                pod: key.clone(),
                reason: format!("{} is not a file of its plan", path.display()),
            });
        }
        files::update(&context.namespaces.files, changed)
    }

    /// Replaces the files of a volume that its plan gave files, all at once for whoever reads them.
    pub fn update_volume(&self, key: &PodKey, volume: &str, files: &BTreeMap<String, Vec<u8>>) -> Result<()> {
        let context = self.shared.context(key)?;
        let position = context
            .plan
            .volumes
            .iter()
            .position(|v| v.name == volume && v.files.is_some());
        let number = position.ok_or_else(|| Error::Pod {
            pod: key.clone(),
            reason: format!("it has no volume {volume} of files"),
        })?;
        context.namespaces.files.volumes.update(number, files)
    }

    /// Runs a command inside a pod with these as its standard input, output and error. A command without
    /// a slash is looked for in `PATH`; `isthmus` is this binary. `env` adds to the application's;
    /// `directory` is as the pod sees it, `/` when none is given.
    pub fn exec(
        &self,
        key: &PodKey,
        command: &[String],
        env: &[(String, String)],
        directory: Option<PathBuf>,
        [stdin, stdout, stderr]: [OwnedFd; 3],
    ) -> Result<Exec> {
        let context = self.shared.context(key)?;
        // The application's environment: a sidecar comes first and holds the others.
        let all = &context.plan.containers;
        let plan = all.iter().find(|c| c.order == Order::Beside).or(all.last());
        let directory = directory.as_deref().unwrap_or(Path::new("/"));
        let mut process = context.command_in(directory, command, plan.map_or(&[], |c| &c.env))?;
        process
            .envs(env.iter().map(|(k, v)| (k, v)))
            .stdin(Stdio::from(stdin))
            .stdout(Stdio::from(stdout))
            .stderr(Stdio::from(stderr));
        let process = context.reaper.spawn(&mut process).map_err(Error::io(format!(
            "run {} in pod {key}",
            command.first().map_or("nothing", String::as_str)
        )))?;
        Ok(Exec { process })
    }

    /// Sends a signal to a container's process (SIGKILL for a crash); it is started again when it ends.
    pub fn kill_container(&self, key: &PodKey, container: &str, signal: i32) -> Result<()> {
        let context = self.shared.context(key)?;
        context.chosen(Some(container))?;
        let wrong = |reason: String| Error::Pod {
            pod: key.clone(),
            reason,
        };
        let signal = Signal::try_from(signal).map_err(|_| wrong(format!("there is no signal {signal}")))?;
        if context.signal(container, signal) {
            Ok(())
        } else {
            Err(wrong(format!("container {container} is not running")))
        }
    }

    /// Kills a container's process, or those of all containers when none is named, and starts none again
    /// until it is [released](Self::release).
    pub fn hold(&self, key: &PodKey, container: Option<&str>) -> Result<()> {
        let context = self.shared.context(key)?;
        let chosen = context.chosen(container)?;
        context
            .held
            .send_modify(|held| held.extend(chosen.iter().cloned()));
        let processes = context.processes();
        for process in chosen.iter().filter_map(|name| processes.get(name)) {
            process.signal_group(Signal::SIGKILL);
        }
        Ok(())
    }

    /// Lets containers run again that were [held](Self::hold): this one, or all of the pod's.
    pub fn release(&self, key: &PodKey, container: Option<&str>) -> Result<()> {
        let context = self.shared.context(key)?;
        let chosen = context.chosen(container)?;
        context
            .held
            .send_modify(|held| held.retain(|name| !chosen.contains(name)));
        Ok(())
    }

    /// Lets everything run again that was [held](Self::hold).
    pub fn release_all(&self) {
        for pod in self.shared.lock().values() {
            pod.context.held.send_modify(BTreeSet::clear);
        }
    }

    /// The log of a container; the one before it, if any, has `.1` behind its name.
    pub fn log(&self, key: &PodKey, container: &str) -> PathBuf {
        self.shared.logs(key).join(format!("{container}.log"))
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, HashMap<PodKey, Pod>> {
        self.pods.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn context(&self, key: &PodKey) -> Result<Arc<Context>> {
        self.lock()
            .get(key)
            .map(|p| p.context.clone())
            .ok_or_else(|| Error::NoPod(key.clone()))
    }

    fn logs(&self, key: &PodKey) -> PathBuf {
        self.dir
            .join(key.cluster.as_str())
            .join("logs")
            .join(format!("{}.{}", key.name, key.namespace))
    }

    fn prepare(&self, plan: PodPlan, attachment: crate::network::Attachment) -> Result<Context> {
        check(&plan)?;
        let logs = self.logs(&plan.key);
        std::fs::create_dir_all(&logs).map_err(Error::io(format!("create {}", logs.display())))?;
        let address = attachment.address;
        let namespaces = Namespaces::create(&plan, attachment, &self.program)?;
        Ok(Context {
            plan,
            address,
            namespaces,
            logs,
            network: self.network.clone(),
            reaper: self.reaper.clone(),
            board: self.board.clone(),
            running: Mutex::new(HashMap::new()),
            held: watch::Sender::default(),
        })
    }
}

impl Context {
    /// A command inside the pod with its environment, not yet started.
    fn command(&self, argv: &[String], env: &[(String, String)]) -> Result<Command> {
        self.command_in(Path::new("/"), argv, env)
    }

    /// A command with a container's environment and in its directory.
    fn command_of(&self, plan: &ContainerPlan, argv: &[String]) -> Result<Command> {
        self.command_in(&plan.directory, argv, &plan.env)
    }

    fn command_in(&self, directory: &Path, argv: &[String], env: &[(String, String)]) -> Result<Command> {
        let wrong = |reason: &str| Error::Pod {
            pod: self.plan.key.clone(),
            reason: reason.to_owned(),
        };
        let (program, arguments) = argv.split_first().ok_or_else(|| wrong("the command is empty"))?;
        let directory = CString::new(directory.as_os_str().as_bytes())
            .map_err(|_| wrong("the directory's name holds a NUL"))?;
        let address = self.address.to_string();
        let expand = |s: &str| s.replace("$(POD_IP)", &address);
        let mut command = Command::new(program);
        command
            .args(arguments.iter().map(|a| expand(a)))
            .env_clear()
            .env("PATH", files::path())
            .env("HOME", "/")
            .env("HOSTNAME", &self.plan.key.name)
            .env("POD_IP", &address)
            .envs(env.iter().map(|(k, v)| (k, expand(v))));
        self.namespaces.join(&mut command, directory);
        Ok(command)
    }

    fn container_command(&self, plan: &ContainerPlan) -> Result<Command> {
        match &plan.program {
            Program::Isthmus(arguments) => {
                let mut argv = vec![files::PROGRAM.to_owned()];
                argv.extend(arguments.iter().cloned());
                self.command_of(plan, &argv)
            }
            Program::Host(argv) => self.command_of(plan, argv),
            Program::Unavailable { message, .. } => Err(Error::Pod {
                pod: self.plan.key.clone(),
                reason: message.clone(),
            }),
        }
    }

    /// The name of this container if the pod has it; without a name, those of all.
    fn chosen(&self, container: Option<&str>) -> Result<Vec<String>> {
        let all = self.plan.containers.iter().map(|c| c.name.clone());
        let chosen: Vec<_> = all.filter(|n| container.is_none_or(|c| c == n)).collect();
        match container {
            Some(name) if chosen.is_empty() => Err(Error::Pod {
                pod: self.plan.key.clone(),
                reason: format!("it has no container {name}"),
            }),
            _ => Ok(chosen),
        }
    }

    fn signal(&self, container: &str, signal: Signal) -> bool {
        self.processes().get(container).is_some_and(|r| r.signal(signal))
    }

    fn processes(&self) -> MutexGuard<'_, HashMap<String, SignalTarget>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The pod's task: its containers, one behind the other while one holds the others.
async fn run(context: Arc<Context>, stop: watch::Receiver<Option<Ending>>) {
    let mut containers = JoinSet::new();
    let mut sidecars = Vec::new();
    for (index, plan) in context.plan.containers.iter().enumerate() {
        let (stage, mut reached) = watch::channel(Stage::default());
        if plan.order == Order::HoldsUntilStarted {
            // It ends when the others have.
            let (end, ending) = watch::channel(None);
            let task = tokio::spawn(container::supervise(context.clone(), index, ending, stage));
            sidecars.push((end, task));
        } else {
            containers.spawn(container::supervise(context.clone(), index, stop.clone(), stage));
        }
        let held = |s: &Stage| match plan.order {
            Order::Beside => false,
            Order::HoldsUntilReady => !s.ready,
            Order::BesideOnceStarted | Order::HoldsUntilStarted => !s.started,
            Order::HoldsUntilDone => s.ended.is_none(),
        };
        let mut stopped = stop.clone();
        tokio::select! {
            biased;
            _ = reached.wait_for(|s| !held(s)) => {}
            _ = stopped.wait_for(Option::is_some) => break,
        }
        if reached.borrow().ended == Some(false) {
            // An init container has failed for good.
            break;
        }
    }
    containers.join_all().await;
    for (end, task) in sidecars.into_iter().rev() {
        let grace = match *stop.borrow() {
            Some(ending) if ending.grace.is_zero() => Duration::ZERO,
            Some(ending) => ending.left().max(SIDECAR_GRACE),
            None => context.plan.grace,
        };
        end.send_replace(Some(Ending::now(grace)));
        if let Err(e) = task.await {
            tracing::error!(pod = %context.plan.key, error = %e, "a sidecar's task failed");
        }
    }
    context
        .board
        .change(&context.plan.key, |pod| pod.finished = !pod.terminating);
}

/// What a native sidecar has to end when the others took all of the pod's grace (the kubelet's).
const SIDECAR_GRACE: Duration = Duration::from_secs(2);

fn check(plan: &PodPlan) -> Result<()> {
    let wrong = |reason: String| {
        Err(Error::Pod {
            pod: plan.key.clone(),
            reason,
        })
    };
    let name_ok = |n: &str| {
        !n.is_empty()
            && n.len() <= 253
            && !n.starts_with('.')
            && !n.contains(['/', '\0'])
            && !n.contains(char::is_whitespace)
    };
    for n in [plan.key.cluster.as_str(), &plan.key.namespace, &plan.key.name] {
        if !name_ok(n) {
            return wrong(format!("{n:?} cannot be part of its name"));
        }
    }
    for (i, c) in plan.containers.iter().enumerate() {
        if !name_ok(&c.name) {
            return wrong(format!("{:?} cannot be the name of a container", c.name));
        }
        if plan.containers[..i].iter().any(|o| o.name == c.name) {
            return wrong(format!("two containers are called {}", c.name));
        }
    }
    Ok(())
}
