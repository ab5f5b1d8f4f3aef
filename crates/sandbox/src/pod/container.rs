//! One container: started, probed, started again.

use std::os::unix::process::ExitStatusExt;
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::fcntl::OFlag;
use nix::sys::signal::Signal;
use nix::unistd::pipe2;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use super::{Context, log, probe};
use crate::plan::{ContainerPlan, ContainerStatus};
use crate::supervisor::{Exit, Process};
use crate::{Error, Result};

/// Wait before the second restart; the first is at once. It doubles with each.
const BACKOFF_FIRST: Duration = Duration::from_secs(1);
/// Longest wait before a restart.
const BACKOFF_MAX: Duration = Duration::from_secs(30);
/// A container that ran this long has recovered: the next restart is at once again.
const RECOVERED: Duration = Duration::from_secs(60);

/// Whether the pod is to end, and with how much grace.
type Stop = watch::Receiver<Option<Duration>>;

/// Keeps the container at `index` running until the pod stops. `ready` says how its probe is doing.
pub(super) async fn supervise(
    context: Arc<Context>,
    index: usize,
    mut stop: Stop,
    ready: watch::Sender<bool>,
) {
    let container = Container {
        plan: &context.plan.containers[index],
        context: &context,
        ready,
    };
    let mut failures = 0_u32;
    let mut held = context.held.subscribe();
    while stop.borrow().is_none() {
        if held.borrow_and_update().contains(&container.plan.name) {
            container.set(false, |s| s.reason = "stopped on purpose".to_owned());
            tokio::select! {
                _ = held.wait_for(|held| !held.contains(&container.plan.name)) => {}
                _ = stop.wait_for(Option::is_some) => return,
            }
            failures = 0;
        }
        let started = Instant::now();
        let reason = match container.start() {
            Ok(process) => {
                let exit = container.run(process, &mut stop).await;
                container.context.processes().remove(&container.plan.name);
                describe(exit)
            }
            Err(e) => e.to_string(),
        };
        container.set(false, |s| {
            s.pid = None;
            s.reason.clone_from(&reason);
        });
        if stop.borrow().is_some() {
            return;
        }
        if held.borrow().contains(&container.plan.name) {
            container.set(false, |s| s.restarts += 1);
            continue;
        }
        if started.elapsed() >= RECOVERED {
            failures = 0;
        }
        let wait = backoff(failures);
        failures += 1;
        tracing::info!(pod = %context.plan.key, container = container.plan.name, reason, ?wait, "restart");
        tokio::select! {
            () = sleep(wait) => {}
            _ = stop.wait_for(Option::is_some) => return,
        }
        container.set(false, |s| s.restarts += 1);
    }
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
    ready: watch::Sender<bool>,
}

impl Container<'_> {
    fn start(&self) -> Result<Process> {
        let (read, write) = pipe2(OFlag::O_CLOEXEC).map_err(|e| Error::io("open a pipe")(e.into()))?;
        let errors = write.try_clone().map_err(Error::io("duplicate a pipe"))?;
        let mut command = self.context.container_command(self.plan)?;
        command.stdin(Stdio::null()).stdout(write).stderr(errors);
        // Before the start: a process whose output nobody takes must not run. When it does not start, the
        // pipe's writing ends go with the command, and the log ends.
        log::keep(read, self.context.logs.join(format!("{}.log", self.plan.name)))?;
        self.context.reaper.spawn(&mut command).map_err(Error::io(format!(
            "run {}",
            command.get_program().to_string_lossy()
        )))
    }

    /// Until the process ends; probes it meanwhile.
    async fn run(&self, mut process: Process, stop: &mut Stop) -> Exit {
        let target = process.target().clone();
        self.context
            .processes()
            .insert(self.plan.name.clone(), target.clone());
        if self.context.held.borrow().contains(&self.plan.name) {
            // It was held in the moment of its start.
            target.signal_group(Signal::SIGKILL);
        }
        let probed = self.plan.readiness.is_some();
        self.set(!probed, |s| {
            s.pid = Some(target.pid);
            s.reason = if probed {
                "not ready yet".to_owned()
            } else {
                String::new()
            };
        });
        tokio::select! {
            exit = process.wait() => return exit,
            () = self.probe() => {}
            _ = stop.wait_for(Option::is_some) => {}
        }
        let grace = stop.borrow().unwrap_or_default();
        self.set(false, |s| s.reason = "terminating".to_owned());
        if !grace.is_zero() {
            target.signal(Signal::SIGTERM);
            if let Ok(exit) = timeout(grace, process.wait()).await {
                return exit;
            }
        }
        target.signal_group(Signal::SIGKILL);
        process.wait().await
    }

    /// Probes forever, or does nothing forever.
    async fn probe(&self) {
        let Some(plan) = &self.plan.readiness else {
            return std::future::pending().await;
        };
        sleep(plan.initial_delay).await;
        let (mut successes, mut failures) = (0_u32, 0_u32);
        loop {
            let began = Instant::now();
            let is_ready = *self.ready.borrow();
            match probe::once(self.context, plan).await {
                Ok(()) => {
                    (successes, failures) = (successes.saturating_add(1), 0);
                    if !is_ready && successes >= plan.successes.max(1) {
                        self.set(true, |s| s.reason.clear());
                    }
                }
                Err(reason) => {
                    (successes, failures) = (0, failures.saturating_add(1));
                    let fell = failures >= plan.failures.max(1);
                    self.set(is_ready && !fell, |s| {
                        s.reason = format!("readiness probe: {reason}")
                    });
                }
            }
            // While a container starts it is asked more often than its period says: who waits for it waits less.
            let period = if *self.ready.borrow() {
                plan.period
            } else {
                plan.period.min(STARTING_PERIOD)
            };
            sleep(period.saturating_sub(began.elapsed()).max(SHORTEST_PERIOD)).await;
        }
    }

    fn set(&self, ready: bool, f: impl FnOnce(&mut ContainerStatus)) {
        self.context.board.change(&self.context.plan.key, |pod| {
            let status = pod.containers.entry(self.plan.name.clone()).or_default();
            status.ready = ready;
            f(status);
        });
        self.ready.send_replace(ready);
    }
}

/// How often a container that is not ready is probed.
const STARTING_PERIOD: Duration = Duration::from_millis(200);
/// No probe runs without a pause.
const SHORTEST_PERIOD: Duration = Duration::from_millis(20);

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
