//! What a user sees while objects are applied: on a terminal one line for each component that tells what it
//! waits for, elsewhere one line whenever something is done or the reason to wait changes.

use std::io::{IsTerminal, Write};

/// Shows where an operation stands.
pub struct Progress {
    terminal: bool,
    /// The component that is worked on.
    title: String,
    /// What was said of it last.
    last: String,
}

impl Progress {
    /// To standard error.
    pub fn new() -> Self {
        Self {
            terminal: std::io::stderr().is_terminal(),
            title: String::new(),
            last: String::new(),
        }
    }

    /// A component is begun.
    pub fn begin(&mut self, title: &str) {
        title.clone_into(&mut self.title);
        self.last.clear();
        if self.terminal {
            self.line("…", "", false);
        }
    }

    /// What is done or waited for now.
    pub fn doing(&mut self, what: &str) {
        if self.last == what {
            return;
        }
        what.clone_into(&mut self.last);
        self.line("…", what, !self.terminal);
    }

    /// What is over in a moment: worth a terminal's line, not one of a log.
    pub fn passing(&mut self, what: &str) {
        if self.terminal {
            self.line("…", what, false);
        }
    }

    /// The component is done.
    pub fn done(&mut self, what: &str) {
        self.line("✔", what, true);
    }

    /// The component could not be done.
    pub fn failed(&mut self, why: &str) {
        self.line("✘", why, true);
    }

    fn line(&self, mark: &str, what: &str, ends: bool) {
        let mut out = std::io::stderr().lock();
        let separator = if what.is_empty() { "" } else { ": " };
        let _ = if self.terminal {
            // A line that wraps could not be overwritten.
            let text = format!("{mark} {}{separator}{}", self.title, what.replace('\n', "; "));
            let text: String = if ends {
                text
            } else {
                text.chars().take(width()).collect()
            };
            write!(out, "\r\x1b[K{text}{}", if ends { "\n" } else { "" })
        } else {
            writeln!(out, "{mark} {}{separator}{what}", self.title)
        };
        let _ = out.flush();
    }
}

/// Columns of the terminal, or those of the oldest ones.
fn width() -> usize {
    std::env::var("COLUMNS")
        .ok()
        .and_then(|c| c.parse().ok())
        .unwrap_or(80)
        .max(20)
        - 1
}
