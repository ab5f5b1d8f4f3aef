//! `isthmus`: the commands and the long-running roles, wired.
//!
//! Each command is one file under `commands/`: its arguments, and a `run` that returns the exit code.
//! Nothing is decided here; libraries do the work, this binary reads flags and environment once and
//! passes the resolved values down.

#![deny(clippy::print_stdout)]

// What a command says goes through it, and not through std's, which panic where nobody reads.
#[macro_use]
mod output;

mod commands;
mod http_get;
mod samples;

use std::process::ExitCode;

use clap::Parser;
use clap::error::ErrorKind;

use crate::commands::{Cli, exit};

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // A broken pipe while help is printed is nobody's problem.
            let _ = error.print();
            return match error.kind() {
                ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => ExitCode::from(exit::OK),
                _ => ExitCode::from(exit::USAGE),
            };
        }
    };
    match cli.command.run() {
        Ok(code) => code,
        Err(error) => {
            eprintln!("Error: {error:#}");
            ExitCode::from(exit::FAILURE)
        }
    }
}
