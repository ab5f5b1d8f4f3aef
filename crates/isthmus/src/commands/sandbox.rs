//! What the commands that talk to a running demo share: its directory, and how answers are shown.

use std::io::{self, Write};
use std::path::PathBuf;

use clap::ValueEnum;
use isthmus_sandbox::socket::{Client, ClientError};
use isthmus_sandbox::supervisor::default_dir;

/// Which demo is meant.
#[derive(Debug, Clone, clap::Args)]
pub struct Dir {
    /// Directory of the demo; two demos at once need two directories
    /// [default: $XDG_RUNTIME_DIR/isthmus, else /tmp/isthmus-UID].
    #[arg(long, value_name = "PATH", env = "ISTHMUS_DIR")]
    dir: Option<PathBuf>,
}

impl Dir {
    /// The directory, made absolute.
    pub fn path(&self) -> PathBuf {
        match &self.dir {
            Some(dir) => std::path::absolute(dir).unwrap_or_else(|_| dir.clone()),
            None => default_dir(std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from).as_deref()),
        }
    }

    /// A connection to the demo that runs there.
    pub fn connect(&self) -> Result<Client, ClientError> {
        Client::connect(&self.path())
    }
}

/// Form of an answer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// A table to read.
    #[default]
    Table,
    /// JSON.
    Json,
    /// YAML.
    Yaml,
}

/// Prints a value in a machine's form.
pub fn print(value: &impl serde::Serialize, output: Output) -> anyhow::Result<()> {
    match output {
        Output::Yaml => write_out(&serde_saphyr::to_string(value)?)?,
        Output::Json | Output::Table => write_out(&(serde_json::to_string_pretty(value)? + "\n"))?,
    }
    Ok(())
}

/// Prints rows in columns as wide as their widest cell.
pub fn table(header: &[&str], rows: &[Vec<String>]) {
    // Only a terminal that is gone does not take it, and then nobody reads a complaint either.
    let _ = write_out(table_text(header, rows));
}

/// Writes to standard output; a reader that has seen enough, such as `head`, is no error.
pub fn write_out(text: impl AsRef<[u8]>) -> io::Result<()> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_ref()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        result => result,
    }
}

/// Rows in columns as wide as their widest cell, a line each.
pub fn table_text(header: &[&str], rows: &[Vec<String>]) -> String {
    let mut out = String::new();
    let mut widths: Vec<usize> = header.iter().map(|h| h.chars().count()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut line = |cells: &mut dyn Iterator<Item = &str>| {
        let mut text = String::new();
        for (cell, width) in cells.zip(&widths) {
            text.push_str(cell);
            text.extend(std::iter::repeat_n(' ', width + 3 - cell.chars().count()));
        }
        out.push_str(text.trim_end());
        out.push('\n');
    };
    line(&mut header.iter().copied());
    for row in rows {
        line(&mut row.iter().map(String::as_str));
    }
    out
}
