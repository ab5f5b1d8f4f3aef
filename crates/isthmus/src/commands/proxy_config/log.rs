//! Log levels of a running proxy.

use std::process::ExitCode;

use super::Common;
use crate::commands::exit;
use crate::commands::sandbox::{Output, print, write_out};

/// Level of every scope after `--reset`.
const DEFAULT: &str = "info";

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    common: Common,
    /// Set levels first: one for everything as in debug, or by scope as in proxy:debug,dns:warn.
    #[arg(long, value_name = "LEVELS", conflicts_with = "reset")]
    level: Option<String>,
    /// Set everything back to info first.
    #[arg(long, short)]
    reset: bool,
}

pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let admin = args.common.admin()?;
    let ask = |path: &str| -> anyhow::Result<String> {
        Ok(String::from_utf8_lossy(&admin.post(path)?).into_owned())
    };
    let wanted = if args.reset {
        Some(DEFAULT)
    } else {
        args.level.as_deref()
    };
    let mut answer = ask(&path(wanted))?;
    if let Some(path) = wanted.and_then(|level| others(level, &answer)) {
        answer = ask(&path)?;
    }
    match args.common.output {
        Output::Table => write_out(&answer)?,
        output => print(&levels(&answer), output)?,
    }
    Ok(ExitCode::from(exit::OK))
}

/// `level` sets everything, `paths` one scope after another; Envoy's two parameters.
pub fn path(wanted: Option<&str>) -> String {
    match wanted {
        None => "/logging".to_owned(),
        Some(levels) if levels.contains(':') => format!("/logging?paths={levels}"),
        Some(level) => format!("/logging?level={level}"),
    }
}

/// Our proxy keeps the level of scopes that were set on their own when `level` changes; Envoy does not.
pub fn others(level: &str, answer: &str) -> Option<String> {
    let differing: Vec<String> = levels(answer)
        .into_iter()
        .filter(|(_, found)| found != level)
        .map(|(scope, _)| format!("{scope}:{level}"))
        .collect();
    let wanted = !level.contains(':') && !differing.is_empty();
    wanted.then(|| path(Some(&differing.join(","))))
}

/// Level by scope, from lines of the form `  scope: level`.
pub fn levels(answer: &str) -> std::collections::BTreeMap<String, String> {
    answer
        .lines()
        .filter(|line| line.starts_with(' '))
        .filter_map(|line| line.split_once(':'))
        .map(|(scope, level)| (scope.trim().to_owned(), level.trim().to_owned()))
        .collect()
}
