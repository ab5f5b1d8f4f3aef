//! One container: started, probed, started again.

use std::convert::Infallible;
use std::os::unix::process::ExitStatusExt;
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use nix::fcntl::OFlag;
use nix::sys::signal::Signal;
use nix::unistd::pipe2;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use super::{Context, log, probe};
use crate::Error;
use crate::plan::{ContainerPlan, ContainerStatus, Probe, Program, Restart, Termination};
use crate::supervisor::{Exit, Process};

/// Wait before the second restart; the first is at once. It doubles with each.
const BACKOFF_FIRST: Duration = Duration::from_secs(1);
/// Longest wait before a restart.
const BACKOFF_MAX: Duration = Duration::from_secs(30);
/// A container that ran this long has recovered: the next restart is at once again.
const RECOVERED: Duration = Duration::from_secs(60);

/// Whether the pod is to end.
pub(super) type Stop = watch::Receiver<Option<Ending>>;

/// A pod's, or a sidecar's, end.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ending {
    /// How long the processes have in all.
    pub(super) grace: Duration,
    /// Since when.
    pub(super) since: Instant,
}

impl Ending {
    pub(super) fn now(grace: Duration) -> Self {
        Self {
            grace,
            since: Instant::now(),
        }
    }

    /// What is left of the grace.
    pub(super) fn left(&self) -> Duration {
        self.grace.saturating_sub(self.since.elapsed())
    }
}

/// How far a container has come, for those that wait for it.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Stage {
    pub(super) started: bool,
    pub(super) ready: bool,
    /// It will not run again; whether it ended well.
    pub(super) ended: Option<bool>,
}

/// Why there is no process.
enum NotStarted {
    /// What it should run is not on this machine.
    Unavailable { reason: String, message: String },
    /// The machine refuses.
    Failed(Error),
}

impl From<Error> for NotStarted {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

/// Keeps the container at `index` running until the pod stops or its work is done. `stage` says how far it is.
pub(super) async fn supervise(
    context: Arc<Context>,
    index: usize,
    mut stop: Stop,
    stage: watch::Sender<Stage>,
) {
    let container = Container {
        plan: &context.plan.containers[index],
        context: &context,
        stage,
    };
    let mut failures = 0_u32;
    let mut held = context.held.subscribe();
    while stop.borrow().is_none() {
        if held.borrow_and_update().contains(&container.plan.name) {
            container.set(|s| {
                s.ready = false;
                s.reason = "stopped on purpose".to_owned();
            });
            tokio::select! {
                _ = held.wait_for(|held| !held.contains(&container.plan.name)) => {}
                _ = stop.wait_for(Option::is_some) => return,
            }
            failures = 0;
        }
        let (started, from) = (Instant::now(), unix_time());
        let (reason, waiting, code) = match container.start() {
            Ok(process) => {
                let (exit, why) = container.run(process, &mut stop).await;
                container.context.processes().remove(&container.plan.name);
                let how = describe(exit);
                (
                    why.map_or(how.clone(), |why| format!("{why}; {how}")),
                    BACK_OFF,
                    Some(exit_code(exit)),
                )
            }
            Err(NotStarted::Failed(e)) => (e.to_string(), BACK_OFF, Some(NOT_STARTED)),
            Err(NotStarted::Unavailable { reason, message }) => {
                container.set(|s| s.waiting = reason);
                (message, "", None)
            }
        };
        let again = stop.borrow().is_none()
            && match (container.plan.restart, code) {
                (_, None) | (Restart::Always, _) => true,
                (Restart::OnFailure, Some(code)) => code != 0,
                (Restart::Never, _) => false,
            };
        container.set(|s| {
            (s.pid, s.since) = (None, None);
            (s.ready, s.started) = (false, false);
            s.reason.clone_from(&reason);
            if let Some(code) = code {
                s.last = Some(Termination {
                    code,
                    from,
                    until: unix_time(),
                });
            }
            if again && !waiting.is_empty() {
                s.waiting = waiting.to_owned();
            }
            if !again {
                s.ended = true;
                s.done = code == Some(0);
            }
        });
        if !again {
            return;
        }
        if held.borrow().contains(&container.plan.name) {
            container.set(|s| s.restarts += 1);
            continue;
        }
        if started.elapsed() >= RECOVERED {
            failures = 0;
        }
        let wait = backoff(failures);
        failures += 1;
        // What is not on this machine is not there a second later either, and its status says so.
        if code.is_some() {
            tracing::info!(pod = %context.plan.key, container = container.plan.name, reason, ?wait, "restart");
        }
        tokio::select! {
            () = sleep(wait) => {}
            _ = stop.wait_for(Option::is_some) => return,
        }
        if code.is_some() {
            container.set(|s| s.restarts += 1);
        }
    }
}

/// `waiting.reason` of a container that will be started again.
const BACK_OFF: &str = "CrashLoopBackOff";
/// Exit code of a process that could not be started, as container runtimes have it.
const NOT_STARTED: i32 = 128;

fn unix_time() -> i64 {
    SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |d| i64::try_from(d.as_secs()).unwrap_or(i64::MAX))
}

/// How long to wait before the restart that follows `failures` earlier ones.
fn backoff(failures: u32) -> Duration {
    match failures {
        0 => Duration::ZERO,
        n => BACKOFF_FIRST
            .saturating_mul(1 << (n - 1).min(16))
            .min(BACKOFF_MAX),
    }
}

struct Container<'a> {
    plan: &'a ContainerPlan,
    context: &'a Arc<Context>,
    stage: watch::Sender<Stage>,
}

impl Container<'_> {
    fn start(&self) -> Result<Process, NotStarted> {
        if let Program::Unavailable { reason, message } = &self.plan.program {
            return Err(NotStarted::Unavailable {
                reason: reason.clone(),
                message: message.clone(),
            });
        }
        let (read, write) = pipe2(OFlag::O_CLOEXEC).map_err(|e| Error::io("open a pipe")(e.into()))?;
        let errors = write.try_clone().map_err(Error::io("duplicate a pipe"))?;
        let mut command = self.context.container_command(self.plan)?;
        command.stdin(Stdio::null()).stdout(write).stderr(errors);
        // Before the start: a process whose output nobody takes must not run. When it does not start, the
        // pipe's writing ends go with the command, and the log ends.
        log::keep(read, self.context.logs.join(format!("{}.log", self.plan.name)))?;
        Ok(self
            .context
            .reaper
            .spawn(&mut command)
            .map_err(Error::io(format!(
                "run {}",
                command.get_program().to_string_lossy()
            )))?)
    }

    /// Until the process ends; probes it meanwhile. With the end comes why it was ended, unless by itself.
    async fn run(&self, mut process: Process, stop: &mut Stop) -> (Exit, Option<String>) {
        let target = process.target().clone();
        self.context
            .processes()
            .insert(self.plan.name.clone(), target.clone());
        if self.context.held.borrow().contains(&self.plan.name) {
            // It was held in the moment of its start.
            target.signal_group(Signal::SIGKILL);
        }
        self.set(|s| {
            s.pid = Some(target.pid);
            s.since = Some(unix_time());
            s.waiting.clear();
            s.reason = "not ready yet".to_owned();
        });
        let why = tokio::select! {
            exit = process.wait() => return (exit, None),
            why = self.attend() => Some(why),
            _ = stop.wait_for(Option::is_some) => None,
        };
        let ending = (*stop.borrow()).unwrap_or_else(|| Ending::now(self.context.plan.grace));
        self.set(|s| {
            s.ready = false;
            s.reason = why.clone().unwrap_or_else(|| "terminating".to_owned());
        });
        if !ending.left().is_zero() {
            if let Some(hook) = &self.plan.pre_stop {
                tokio::select! {
                    exit = process.wait() => return (exit, why),
                    result = timeout(ending.left(), probe::hook(self.context, self.plan, hook)) => {
                        if let Ok(Err(reason)) = result {
                            tracing::warn!(pod = %self.context.plan.key, container = self.plan.name, reason, "preStop");
                        }
                    }
                }
            }
            target.signal(Signal::SIGTERM);
            if let Ok(exit) = timeout(ending.left(), process.wait()).await {
                return (exit, why);
            }
        }
        target.signal_group(Signal::SIGKILL);
        (process.wait().await, why)
    }

    /// Takes it through its start, then probes it; returns when and why it is to be killed.
    async fn attend(&self) -> String {
        if let Some(hook) = &self.plan.post_start
            && let Err(why) = probe::hook(self.context, self.plan, hook).await
        {
            return format!("postStart: {why}");
        }
        if let Some(startup) = &self.plan.startup
            && let Err(why) = self.await_startup(startup).await
        {
            return why;
        }
        let probed = self.plan.readiness.is_some();
        self.set(|s| {
            s.started = true;
            s.ready = !probed;
            if !probed {
                s.reason.clear();
            }
        });
        tokio::select! {
            why = self.probe_liveness() => why,
            never = self.probe_readiness() => match never {},
        }
    }

    async fn await_startup(&self, plan: &Probe) -> Result<(), String> {
        // Asked more often than its period says, it has as long as its period and threshold say.
        let until = Instant::now() + plan.initial_delay + plan.period * plan.failures.max(1);
        sleep(plan.initial_delay).await;
        loop {
            match probe::once(self.context, plan).await {
                Ok(()) => return Ok(()),
                Err(why) if Instant::now() >= until => return Err(format!("startup probe: {why}")),
                Err(why) => self.set(|s| s.reason = format!("startup probe: {why}")),
            }
            sleep(plan.period.min(STARTING_PERIOD)).await;
        }
    }

    /// Returns when the process is no longer alive by the word of its probe.
    async fn probe_liveness(&self) -> String {
        let Some(plan) = &self.plan.liveness else {
            return std::future::pending().await;
        };
        sleep(plan.initial_delay).await;
        let mut failures = 0_u32;
        loop {
            sleep(plan.period.max(SHORTEST_PERIOD)).await;
            match probe::once(self.context, plan).await {
                Ok(()) => failures = 0,
                Err(why) => {
                    failures += 1;
                    if failures >= plan.failures.max(1) {
                        return format!("liveness probe: {why}");
                    }
                }
            }
        }
    }

    /// Probes forever, or does nothing forever.
    async fn probe_readiness(&self) -> Infallible {
        let Some(plan) = &self.plan.readiness else {
            return std::future::pending().await;
        };
        sleep(plan.initial_delay).await;
        let (mut successes, mut failures) = (0_u32, 0_u32);
        loop {
            let began = Instant::now();
            let is_ready = self.stage.borrow().ready;
            match probe::once(self.context, plan).await {
                Ok(()) => {
                    (successes, failures) = (successes.saturating_add(1), 0);
                    if !is_ready && successes >= plan.successes.max(1) {
                        self.set(|s| {
                            s.ready = true;
                            s.reason.clear();
                        });
                    }
                }
                Err(reason) => {
                    (successes, failures) = (0, failures.saturating_add(1));
                    let fell = failures >= plan.failures.max(1);
                    self.set(|s| {
                        s.ready = is_ready && !fell;
                        s.reason = format!("readiness probe: {reason}");
                    });
                }
            }
            // While a container starts it is asked more often than its period says: who waits for it waits less.
            let period = if self.stage.borrow().ready {
                plan.period
            } else {
                plan.period.min(STARTING_PERIOD)
            };
            sleep(period.saturating_sub(began.elapsed()).max(SHORTEST_PERIOD)).await;
        }
    }

    fn set(&self, f: impl FnOnce(&mut ContainerStatus)) {
        let mut stage = Stage::default();
        self.context.board.change(&self.context.plan.key, |pod| {
            let status = pod.containers.entry(self.plan.name.clone()).or_default();
            f(status);
            stage = Stage {
                started: status.started,
                ready: status.ready,
                ended: status.ended.then_some(status.done),
            };
        });
        self.stage.send_replace(stage);
    }
}

/// How often a container that is not ready is probed.
const STARTING_PERIOD: Duration = Duration::from_millis(200);
/// No probe runs without a pause.
const SHORTEST_PERIOD: Duration = Duration::from_millis(20);

fn exit_code(exit: Exit) -> i32 {
    exit.code()
        .or_else(|| exit.signal().map(|s| 128 + s))
        .unwrap_or(255)
}

fn describe(exit: Exit) -> String {
    match (exit.code(), exit.signal()) {
        (Some(code), _) => format!("exited with code {code}"),
        (None, Some(signal)) => match Signal::try_from(signal) {
            Ok(s) => format!("ended by {}", s.as_str()),
            Err(_) => format!("ended by signal {signal}"),
        },
        _ => "ended".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_restart_is_at_once_and_later_ones_wait_longer() {
        let waits: Vec<u64> = (0..8).map(|n| backoff(n).as_secs()).collect();
        assert_eq!(waits, [0, 1, 2, 4, 8, 16, 30, 30]);
        assert_eq!(backoff(u32::MAX), BACKOFF_MAX);
    }
}
