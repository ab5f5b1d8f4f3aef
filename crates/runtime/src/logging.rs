//! Log lines as text or JSON, with a level per scope that can be changed while running.
//!
//! A scope is a part of Isthmus: the target `isthmus_dns::server` belongs to scope `dns`. Levels are
//! given as Istio does, `dns:debug,xds:trace,warn`; `=` may stand for `:`, a level alone is the
//! default, and a full target (`hyper=debug`) is taken as it is.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};
use std::io;
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::{Map, Value};
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, reload};

/// How a line looks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Format {
    /// `time<TAB>level<TAB>scope<TAB>message key=value`, as Istio's components write.
    #[default]
    Text,
    /// One JSON object a line: `time`, `level`, `scope`, `msg` and the fields.
    Json,
}

/// Where lines go.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Output {
    /// Standard error: for commands, whose standard output is their answer.
    #[default]
    Stderr,
    /// Standard output: for long-running roles in a container.
    Stdout,
}

/// Why logging could not be set up or a level was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LoggingError {
    /// Not one of the levels.
    #[error("{0:?} is not a log level: use none, error, warn, info, debug or trace")]
    Level(String),
    /// Another subscriber was installed before.
    #[error("logging is already set up in this process")]
    AlreadySet,
}

/// A default level and levels per scope.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Levels {
    default: LevelFilter,
    scopes: BTreeMap<String, LevelFilter>,
}

impl Default for Levels {
    fn default() -> Self {
        Self {
            default: LevelFilter::INFO,
            scopes: BTreeMap::new(),
        }
    }
}

impl FromStr for Levels {
    type Err = LoggingError;

    fn from_str(s: &str) -> Result<Self, LoggingError> {
        let mut levels = Self::default();
        for part in s.split(',').map(str::trim).filter(|p| !p.is_empty()) {
            match part.rsplit_once(['=', ':']) {
                None => levels.default = level(part)?,
                Some(("default", l)) => levels.default = level(l)?,
                Some((scope, l)) => {
                    levels
                        .scopes
                        .insert(scope.trim_end_matches(':').to_owned(), level(l)?);
                }
            }
        }
        Ok(levels)
    }
}

impl fmt::Display for Levels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "default:{}", name(self.default))?;
        self.scopes
            .iter()
            .try_for_each(|(scope, level)| write!(f, ",{scope}:{}", name(*level)))
    }
}

impl Levels {
    fn targets(&self) -> Targets {
        let mut targets = Targets::new().with_default(self.default);
        // They say of every request that fails what `isthmus_kube` says once, in words.
        for library in ["kube_client", "kube_runtime"] {
            targets = targets.with_target(library, LevelFilter::OFF);
        }
        for (scope, level) in &self.scopes {
            targets = targets.with_target(format!("isthmus_{scope}"), *level);
            targets = targets.with_target(scope.clone(), *level);
        }
        targets
    }
}

fn level(s: &str) -> Result<LevelFilter, LoggingError> {
    match s.trim().to_ascii_lowercase().as_str() {
        "none" | "off" => Ok(LevelFilter::OFF),
        "error" | "critical" => Ok(LevelFilter::ERROR),
        "warn" | "warning" => Ok(LevelFilter::WARN),
        "info" => Ok(LevelFilter::INFO),
        "debug" => Ok(LevelFilter::DEBUG),
        "trace" => Ok(LevelFilter::TRACE),
        _ => Err(LoggingError::Level(s.to_owned())),
    }
}

fn name(level: LevelFilter) -> &'static str {
    match level.into_level() {
        None => "none",
        Some(level) => level_name(level),
    }
}

fn level_name(level: tracing::Level) -> &'static str {
    match level {
        tracing::Level::ERROR => "error",
        tracing::Level::WARN => "warn",
        tracing::Level::INFO => "info",
        tracing::Level::DEBUG => "debug",
        tracing::Level::TRACE => "trace",
    }
}

type Apply = dyn Fn(&Levels) + Send + Sync;

/// Changes levels while running. Cheap to clone.
#[derive(Clone)]
pub struct Handle {
    levels: Arc<Mutex<Levels>>,
    apply: Arc<Apply>,
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handle")
            .field("levels", &self.levels().to_string())
            .finish()
    }
}

impl Handle {
    /// The levels as they are now; `Display` gives the form that `Levels` parses.
    pub fn levels(&self) -> Levels {
        self.levels.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Sets the level of one scope, or the default for `None`; takes effect with the next event.
    pub fn set(&self, scope: Option<&str>, to: &str) -> Result<(), LoggingError> {
        let to = level(to)?;
        self.change(|levels| match scope {
            None | Some("default") => levels.default = to,
            Some(scope) => {
                levels.scopes.insert(scope.to_owned(), to);
            }
        });
        Ok(())
    }

    /// Replaces all levels.
    pub fn replace(&self, levels: Levels) {
        self.change(|current| *current = levels);
    }

    fn change(&self, edit: impl FnOnce(&mut Levels)) {
        let mut levels = self.levels.lock().unwrap_or_else(PoisonError::into_inner);
        edit(&mut levels);
        (self.apply)(&levels);
    }
}

/// Installs the process's subscriber. Once per process; a second call is an error and changes nothing.
pub fn init(levels: Levels, format: Format, output: Output) -> Result<Handle, LoggingError> {
    let (filter, reload) = reload::Layer::new(levels.targets());
    let lines = tracing_subscriber::fmt::layer().event_format(Lines {
        format,
        time: SystemTime,
    });
    let layer = match output {
        Output::Stderr => lines.with_writer(io::stderr).boxed(),
        Output::Stdout => lines.with_writer(io::stdout).boxed(),
    };
    tracing_subscriber::registry()
        .with(layer.with_filter(filter))
        .try_init()
        .map_err(|_| LoggingError::AlreadySet)?;
    Ok(Handle {
        levels: Arc::new(Mutex::new(levels)),
        apply: Arc::new(move |levels| {
            // Fails only when the subscriber is gone, and it lives as long as the process.
            let _ = reload.reload(levels.targets());
        }),
    })
}

/// Scope of a target: the crate's name without `isthmus_`, other crates as they are.
fn scope(target: &str) -> &str {
    let krate = target.split("::").next().unwrap_or(target);
    krate.strip_prefix("isthmus_").unwrap_or(krate)
}

struct Lines {
    format: Format,
    time: SystemTime,
}

impl<S, N> FormatEvent<S, N> for Lines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, _: &FmtContext<'_, S, N>, mut out: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let mut time = String::with_capacity(32);
        self.time.format_time(&mut Writer::new(&mut time))?;
        let meta = event.metadata();
        let mut fields = Fields::default();
        event.record(&mut fields);
        match self.format {
            Format::Text => {
                write!(
                    out,
                    "{time}\t{}\t{}\t",
                    level_name(*meta.level()),
                    scope(meta.target())
                )?;
                text(&mut out, &fields)?;
                writeln!(out)
            }
            Format::Json => {
                let mut object = Map::new();
                object.insert("level".to_owned(), level_name(*meta.level()).into());
                object.insert("time".to_owned(), time.into());
                object.insert("scope".to_owned(), scope(meta.target()).into());
                object.insert("msg".to_owned(), fields.message.into());
                for (key, value) in fields.others {
                    object.entry(key).or_insert(value);
                }
                writeln!(out, "{}", Value::Object(object))
            }
        }
    }
}

/// Message and fields on one line: what a peer sent must not be able to start a line of its own.
fn text(out: &mut Writer<'_>, fields: &Fields) -> fmt::Result {
    for c in fields.message.chars() {
        if c.is_control() {
            write!(out, "{}", c.escape_default())?
        } else {
            out.write_char(c)?
        }
    }
    for (key, value) in &fields.others {
        match value {
            Value::String(s)
                if !s.is_empty()
                    && !s.contains(|c: char| c.is_whitespace() || c.is_control() || c == '"') =>
            {
                write!(out, " {key}={s}")?;
            }
            other => write!(out, " {key}={other}")?,
        }
    }
    Ok(())
}

#[derive(Default)]
struct Fields {
    message: String,
    others: Vec<(String, Value)>,
}

impl Fields {
    fn push(&mut self, field: &Field, value: Value) {
        self.others.push((field.name().to_owned(), value));
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "message" {
            let _ = write!(self.message, "{value:?}");
        } else {
            self.push(field, Value::String(format!("{value:?}")));
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "message" {
            self.message.push_str(value);
        } else {
            self.push(field, value.into());
        }
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.push(field, value.into());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.push(field, value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.push(field, value.into());
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.push(field, value.into());
    }

    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        let mut chain = value.to_string();
        let mut source = value.source();
        while let Some(error) = source {
            let _ = write!(chain, ": {error}");
            source = error.source();
        }
        self.push(field, chain.into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone, Default)]
    struct Buffer(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Buffer {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn lines(format: Format, log: impl FnOnce()) -> String {
        let buffer = Buffer::default();
        let writer = buffer.clone();
        let layer = tracing_subscriber::fmt::layer()
            .event_format(Lines {
                format,
                time: SystemTime,
            })
            .with_writer(move || writer.clone());
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), log);
        String::from_utf8(buffer.0.lock().unwrap().clone()).unwrap()
    }

    #[test]
    fn levels_parse_and_print() {
        let levels: Levels = "dns:debug, xds=trace,warn".parse().unwrap();
        assert_eq!(levels.to_string(), "default:warn,dns:debug,xds:trace");
        assert_eq!(levels.to_string().parse::<Levels>().unwrap(), levels);
        assert_eq!(
            "dns:loud".parse::<Levels>(),
            Err(LoggingError::Level("loud".to_owned()))
        );
        let targets = levels.targets();
        assert!(targets.would_enable("isthmus_dns::server", &tracing::Level::DEBUG));
        assert!(!targets.would_enable("isthmus_dns::server", &tracing::Level::TRACE));
        assert!(!targets.would_enable("isthmus_proxy", &tracing::Level::INFO));
    }

    #[test]
    fn text_lines_cannot_be_forged() {
        let out = lines(Format::Text, || {
            tracing::warn!(peer = "a\nb", port = 80, "refused\nerror\tfake")
        });
        assert_eq!(out.lines().count(), 1, "{out}");
        assert!(
            out.contains("\twarn\truntime\trefused\\nerror\\tfake peer=\"a\\nb\" port=80"),
            "{out}"
        );
    }

    #[test]
    fn json_lines_are_objects_that_keep_their_own_keys() {
        let out = lines(Format::Json, || {
            tracing::info!(level = "forged", ok = true, "it is {}", "up")
        });
        let object: Value = serde_json::from_str(out.trim()).unwrap();
        assert_eq!(object["msg"], "it is up");
        assert_eq!(object["level"], "info");
        assert_eq!(object["scope"], "runtime");
        assert_eq!(object["ok"], true);
    }

    #[test]
    fn a_level_is_changed_while_running() {
        let handle = init(Levels::default(), Format::Text, Output::Stderr).unwrap();
        assert!(!tracing::enabled!(target: "isthmus_dns::server", tracing::Level::DEBUG));
        handle.set(Some("dns"), "debug").unwrap();
        assert!(tracing::enabled!(target: "isthmus_dns::server", tracing::Level::DEBUG));
        handle.set(None, "error").unwrap();
        assert!(!tracing::enabled!(target: "isthmus_xds", tracing::Level::INFO));
        assert_eq!(handle.levels().to_string(), "default:error,dns:debug");
        assert!(handle.set(Some("dns"), "shout").is_err());
        assert!(init(Levels::default(), Format::Json, Output::Stdout).is_err());
    }
}
