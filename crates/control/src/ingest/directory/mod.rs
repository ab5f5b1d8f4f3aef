//! A directory of YAML, watched.
//!
//! It survives what editors and deployment tools do: files replaced by rename, deleted and made again,
//! written in pieces, swapped together with their directory. A document that is refused leaves the last
//! good version of its objects in force and the other documents of its file untouched. It resolves
//! nothing and merges nothing; that is the registry's part.
//!
//! ```text
//!   notify ─┐                         quiet for a moment?
//!           ├─► stat every file ─► settle ──────────────► read, parse ─► tree ─► Change
//!   poll  ──┘                                               ▲  │          └ last good objects
//!                                              at the start └ kept, on disk
//! ```

mod kept;
mod settle;
#[cfg(test)]
mod tests;
mod tree;

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use isthmus_api::finding::Finding;
use isthmus_api::source::{Change, Sink, Source, SourceError, SourceFuture};
use isthmus_api::{codes, load, parse};
use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::mpsc;

use kept::Kept;
use settle::{Settle, Stamp};
use tree::{Observed, Tree};

/// How often files are looked at although the system reports no change: network file systems and
/// overflowing queues lose reports.
const POLL: Duration = Duration::from_secs(2);
/// The same where the system reports nothing at all.
const POLL_ALONE: Duration = Duration::from_millis(250);
/// Reports that come together are looked at together.
const COALESCE: Duration = Duration::from_millis(10);

/// A source of objects: every `*.yaml`, `*.yml` and `*.json` below a directory.
#[derive(Debug)]
pub struct Directory {
    dir: PathBuf,
    kept: Option<Kept>,
}

impl Directory {
    /// The source of one directory; nothing is read before it runs.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self {
            dir: dir.into(),
            kept: None,
        }
    }

    /// Keeps the last good version of every file below `store`, and begins with those of an earlier life.
    pub fn keeping_in(mut self, store: &Path) -> Self {
        self.kept = Some(Kept::new(store, &self.dir));
        self
    }
}

impl Source for Directory {
    fn run(self: Box<Self>, sink: Box<dyn Sink>) -> SourceFuture {
        Box::pin(watch(self.dir, self.kept, sink))
    }
}

async fn watch(dir: PathBuf, kept: Option<Kept>, mut sink: Box<dyn Sink>) -> Result<(), SourceError> {
    if let Err(error) = std::fs::read_dir(&dir) {
        return Err(SourceError::Unreadable {
            what: dir.display().to_string(),
            why: format!("{error}; create the directory, or name another"),
        });
    }
    let (wake, mut woken) = mpsc::channel(1);
    let mut state = State::new(dir, kept);
    let mut watcher = Watched::new(&state.dir, wake.clone());
    let mut synced = false;
    loop {
        let step = tokio::task::spawn_blocking(move || {
            let step = state.step(Instant::now());
            (state, step)
        });
        let Ok((returned, step)) = step.await else {
            // The runtime is shutting down.
            return Ok(());
        };
        state = returned;
        state.remember(&step.changes);
        if !step.changes.is_empty() && !sink.send(step.changes) {
            return Ok(());
        }
        if !synced && state.listed {
            synced = true;
            if !sink.send(vec![Change::Synced]) {
                return Ok(());
            }
        }
        if watcher.is_stale(&state.dir) {
            watcher = Watched::new(&state.dir, wake.clone());
        }
        let poll = if watcher.reports() { POLL } else { POLL_ALONE };
        tokio::select! {
            _ = woken.recv() => tokio::time::sleep(COALESCE).await,
            () = tokio::time::sleep(step.again.unwrap_or(poll).min(poll)) => {}
        }
    }
}

/// The directory as it was last understood.
struct State {
    dir: PathBuf,
    settle: Settle,
    tree: Tree,
    kept: Option<Kept>,
    /// Whether the directory has been read once.
    listed: bool,
    /// Findings in force, so that each is told once.
    told: BTreeMap<Arc<str>, Vec<Finding>>,
}

/// What one look at the directory brought.
struct Step {
    changes: Vec<Change>,
    /// When to look again although nothing is reported.
    again: Option<Duration>,
}

impl State {
    fn new(dir: PathBuf, kept: Option<Kept>) -> Self {
        Self {
            dir,
            kept,
            settle: Settle::default(),
            tree: Tree::default(),
            listed: false,
            told: BTreeMap::new(),
        }
    }

    /// Looks at every file, reads those that changed and have come to rest.
    fn step(&mut self, now: Instant) -> Step {
        let scope: Arc<str> = Arc::from(self.dir.display().to_string());
        let stamps = match stamps(&self.dir) {
            Ok(stamps) => stamps,
            Err(error) => {
                // A directory that is gone is being replaced, or unmounted: nothing was deleted on purpose.
                let finding = Finding::new(
                    &codes::UNREADABLE,
                    format!("the directory cannot be read: {error}"),
                    "restore it; what was read from it stays in force",
                );
                let findings = vec![finding.at(&scope, 0)];
                return Step {
                    changes: self.changed(scope, findings),
                    again: None,
                };
            }
        };
        let mut changes = self.changed(scope, Vec::new());
        if !self.listed {
            changes.extend(self.recall());
        }
        let settled = self.settle.look(now, stamps, !self.listed);
        self.listed = true;
        let (mut observed, mut in_order) = (Vec::new(), Vec::new());
        for path in &settled.ripe {
            let name: Arc<str> = Arc::from(path.display().to_string());
            let seen = match load::read(path) {
                Ok(text) => {
                    let parsed = parse(&text, &name);
                    if parsed.refused.is_empty() && !parsed.unattributed {
                        in_order.push((path, text));
                    }
                    Observed::Parsed(parsed)
                }
                Err(e) if e.kind() == io::ErrorKind::NotFound => Observed::Gone,
                Err(e) => Observed::Parsed(load::unreadable(path, &e)),
            };
            observed.push((name, seen));
        }
        changes.extend(self.tree.apply(observed));
        self.keep(&settled.ripe, &in_order);
        Step {
            changes,
            again: settled.again,
        }
    }

    /// Begins with the last good versions of an earlier life. The files count as read in those versions, so
    /// whatever stands there now is taken up by the rules for files that change.
    fn recall(&mut self) -> Vec<Change> {
        let versions = self.kept.iter().flat_map(Kept::all);
        let versions: Vec<_> = versions.filter(|v| v.path.starts_with(&self.dir)).collect();
        let mut observed = Vec::new();
        for version in versions {
            self.settle
                .assume(version.path.clone(), version.text.len() as u64);
            let name: Arc<str> = Arc::from(version.path.display().to_string());
            observed.push((name.clone(), Observed::Parsed(version.parse(&name))));
        }
        self.tree.apply(observed)
    }

    /// Keeps what is in force now of files that were read; `in_order` are those without an error.
    fn keep(&self, read: &[PathBuf], in_order: &[(&PathBuf, String)]) {
        let Some(kept) = &self.kept else { return };
        for path in read {
            if let Some((_, text)) = in_order.iter().find(|(p, _)| *p == path) {
                kept.keep(path, text);
                continue;
            }
            match self.tree.objects(&path.display().to_string()) {
                objects if objects.is_empty() => kept.forget(path),
                objects => kept.keep_objects(path, &objects),
            }
        }
    }

    /// The findings about the directory itself, when they are other than before.
    fn changed(&self, scope: Arc<str>, findings: Vec<Finding>) -> Vec<Change> {
        if self.told.get(&scope).map_or(&[][..], Vec::as_slice) == findings.as_slice() {
            Vec::new()
        } else {
            vec![Change::Findings { scope, findings }]
        }
    }

    fn remember(&mut self, changes: &[Change]) {
        for change in changes {
            if let Change::Findings { scope, findings } = change {
                if findings.is_empty() {
                    self.told.remove(scope);
                } else {
                    self.told.insert(Arc::clone(scope), findings.clone());
                }
            }
        }
    }
}

fn stamps(dir: &Path) -> io::Result<BTreeMap<PathBuf, Stamp>> {
    let mut stamps = BTreeMap::new();
    for path in load::list(dir)? {
        // A file that is gone by now is missing, as if it had not been listed.
        if let Ok(meta) = std::fs::metadata(&path) {
            stamps.insert(path, Stamp::of(&meta));
        }
    }
    Ok(stamps)
}

/// The system's reports about one directory, as long as it is the same directory.
struct Watched {
    watcher: Option<RecommendedWatcher>,
    identity: Option<(u64, u64)>,
}

impl Watched {
    fn new(dir: &Path, wake: mpsc::Sender<()>) -> Self {
        let report = move |event: notify::Result<notify::Event>| {
            // Reading a file is reported as well, and reading is all that we do.
            let reading = matches!(
                event.as_ref().map(|e| e.kind),
                Ok(EventKind::Access(
                    notify::event::AccessKind::Open(_) | notify::event::AccessKind::Read
                ))
            );
            if !reading {
                // A full channel holds a wake-up already.
                let _ = wake.try_send(());
            }
        };
        let watcher = notify::recommended_watcher(report).and_then(|mut watcher| {
            watcher.watch(dir, RecursiveMode::Recursive)?;
            Ok(watcher)
        });
        let watcher = match watcher {
            Ok(watcher) => Some(watcher),
            Err(error) => {
                tracing::info!(dir = %dir.display(), %error, "the system reports no changes here; looking every {POLL_ALONE:?}");
                None
            }
        };
        Self {
            watcher,
            identity: identity(dir),
        }
    }

    fn reports(&self) -> bool {
        self.watcher.is_some()
    }

    /// Whether another directory stands in the place of the one that is watched.
    fn is_stale(&self, dir: &Path) -> bool {
        let now = identity(dir);
        now.is_some() && now != self.identity
    }
}

fn identity(dir: &Path) -> Option<(u64, u64)> {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata(dir).ok().map(|m| (m.dev(), m.ino()))
}
