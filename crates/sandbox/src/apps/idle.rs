//! `sleep`: a pod to run commands in. It does nothing until it is told to end; given a command, it runs
//! that and passes signals on to it.

use std::process::ExitCode;

use isthmus_runtime::signals::{Signal, Signals};
use nix::sys::signal::{Signal as Unix, kill};
use nix::unistd::Pid;
use tokio::process::Command;

use super::AppError;

pub(super) async fn run(args: &[String]) -> Result<ExitCode, AppError> {
    let mut signals = Signals::install()?;
    let command = match args {
        [dashes, command @ ..] if dashes == "--" => command,
        command => command,
    };
    let Some((program, arguments)) = command.split_first() else {
        tracing::info!("sample sleep does nothing until SIGTERM");
        signals.end().await;
        return Ok(ExitCode::SUCCESS);
    };
    let mut child = Command::new(program).args(arguments).kill_on_drop(true).spawn()?;
    loop {
        let signal = tokio::select! {
            ended = child.wait() => {
                let code = ended?.code().and_then(|c| u8::try_from(c).ok());
                return Ok(code.map_or(ExitCode::FAILURE, ExitCode::from));
            }
            signal = signals.next() => signal,
        };
        let signal = match signal {
            Signal::Terminate => Unix::SIGTERM,
            Signal::Interrupt => Unix::SIGINT,
            Signal::Hangup => Unix::SIGHUP,
        };
        if let Some(pid) = child.id().and_then(|id| i32::try_from(id).ok()) {
            // It may have ended just now; then there is nobody to tell.
            let _ = kill(Pid::from_raw(pid), signal);
        }
    }
}
