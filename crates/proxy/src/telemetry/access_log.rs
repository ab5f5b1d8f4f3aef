//! Access logs: formatted on the worker, written by one thread for the whole process.

use std::cell::RefCell;
use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError, SyncSender};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use crate::config::listener::{AccessLog, AccessLogFormat};

use super::format::{self, Part};
use super::story::Story;

/// Lines that may wait for the writer; beyond that they are dropped and counted.
const WAITING: usize = 16 * 1024;
/// A quiet time after which buffers are flushed.
const FLUSH: Duration = Duration::from_millis(100);

/// Where to, and what.
type Line = (Arc<str>, String);

static DROPPED: AtomicU64 = AtomicU64::new(0);

/// Lines dropped since the start.
pub fn dropped() -> u64 {
    DROPPED.load(Ordering::Relaxed)
}

/// Formats parsed once, by the text they came from.
#[derive(Debug, Default)]
pub struct Formats {
    text: RefCell<HashMap<Arc<str>, Rc<Vec<Part>>>>,
}

impl Formats {
    fn parsed(&self, text: &Arc<str>) -> Rc<Vec<Part>> {
        if let Some(parts) = self.text.borrow().get(text) {
            return parts.clone();
        }
        let parts = Rc::new(format::parse(text));
        self.text.borrow_mut().insert(text.clone(), parts.clone());
        parts
    }

    /// One line of one log, with its line break.
    pub fn line(&self, format: &AccessLogFormat, story: &Story) -> String {
        let mut out = String::with_capacity(512);
        match format {
            AccessLogFormat::Default => {
                static DEFAULT: OnceLock<Vec<Part>> = OnceLock::new();
                format::write(
                    DEFAULT.get_or_init(|| format::parse(format::ISTIO_DEFAULT)),
                    story,
                    &mut out,
                );
            }
            AccessLogFormat::Text(text) => format::write(&self.parsed(text), story, &mut out),
            AccessLogFormat::Json(fields) => {
                let object: serde_json::Map<String, serde_json::Value> = fields
                    .iter()
                    .map(|(name, value)| (name.clone(), self.json(value, story)))
                    .collect();
                out = serde_json::Value::Object(object).to_string();
            }
        }
        if !out.ends_with('\n') {
            out.push('\n');
        }
        out
    }

    fn json(&self, value: &serde_json::Value, story: &Story) -> serde_json::Value {
        match value {
            serde_json::Value::String(text) => format::json(&self.parsed(&text.as_str().into()), story),
            serde_json::Value::Object(fields) => fields
                .iter()
                .map(|(k, v)| (k.clone(), self.json(v, story)))
                .collect::<serde_json::Map<_, _>>()
                .into(),
            serde_json::Value::Array(values) => values
                .iter()
                .map(|v| self.json(v, story))
                .collect::<Vec<_>>()
                .into(),
            other => other.clone(),
        }
    }

    /// Writes the story to every log.
    pub fn log(&self, logs: &[AccessLog], story: &Story) {
        for log in logs {
            send(&log.path, self.line(&log.format, story));
        }
    }
}

fn send(path: &Arc<str>, line: String) {
    static WRITER: OnceLock<Option<SyncSender<Line>>> = OnceLock::new();
    let writer = WRITER.get_or_init(|| {
        let (lines, taken) = mpsc::sync_channel(WAITING);
        let started = std::thread::Builder::new()
            .name("access-log".to_owned())
            .spawn(move || write_lines(&taken));
        match started {
            Ok(_) => Some(lines),
            Err(error) => {
                tracing::error!(%error, "access logs are off: the writer thread cannot be started");
                None
            }
        }
    });
    let sent = writer
        .as_ref()
        .is_some_and(|w| w.try_send((path.clone(), line)).is_ok());
    if !sent {
        DROPPED.fetch_add(1, Ordering::Relaxed);
    }
}

fn write_lines(taken: &mpsc::Receiver<Line>) {
    let mut files: HashMap<Arc<str>, Option<BufWriter<Output>>> = HashMap::new();
    let mut unflushed = false;
    loop {
        let (path, line) = if unflushed {
            match taken.recv_timeout(FLUSH) {
                Ok(next) => next,
                Err(RecvTimeoutError::Timeout) => {
                    for file in files.values_mut().flatten() {
                        let _ = file.flush();
                    }
                    unflushed = false;
                    continue;
                }
                Err(RecvTimeoutError::Disconnected) => return,
            }
        } else {
            match taken.recv() {
                Ok(next) => next,
                Err(_) => return,
            }
        };
        let file = files
            .entry(path)
            .or_insert_with_key(|path| match Output::open(path) {
                Ok(output) => Some(BufWriter::with_capacity(32 * 1024, output)),
                Err(error) => {
                    tracing::error!(%path, %error, "access log cannot be opened");
                    None
                }
            });
        let written = file.as_mut().map(|f| f.write_all(line.as_bytes()));
        if !matches!(written, Some(Ok(()))) {
            DROPPED.fetch_add(1, Ordering::Relaxed);
        }
        unflushed = true;
    }
}

#[derive(Debug)]
enum Output {
    Stdout(io::Stdout),
    Stderr(io::Stderr),
    File(File),
}

impl Output {
    fn open(path: &str) -> io::Result<Self> {
        match path {
            "/dev/stdout" => Ok(Self::Stdout(io::stdout())),
            "/dev/stderr" => Ok(Self::Stderr(io::stderr())),
            path => OpenOptions::new()
                .create(true)
                .append(true)
                .open(path)
                .map(Self::File),
        }
    }
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Stdout(o) => o.write(bytes),
            Self::Stderr(o) => o.write(bytes),
            Self::File(o) => o.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Stdout(o) => o.flush(),
            Self::Stderr(o) => o.flush(),
            Self::File(o) => o.flush(),
        }
    }
}
