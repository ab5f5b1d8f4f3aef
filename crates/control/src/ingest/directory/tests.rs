//! Real files, as editors and tools treat them.

use std::fs;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use isthmus_api::istio::WorkloadEntry;
use tempfile::TempDir;

use super::*;
use crate::ingest::store::Store;

/// Long enough for any machine; nothing waits this long when all is well.
const PATIENCE: Duration = Duration::from_secs(30);

struct Watching {
    dir: TempDir,
    kept: TempDir,
    store: Store,
    changes: Receiver<Vec<Change>>,
    deletions: Vec<String>,
    _runtime: tokio::runtime::Runtime,
}

impl Watching {
    fn over(files: &[(&str, &str)]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in files {
            fs::write(dir.path().join(name), text).unwrap();
        }
        Self::start(dir, tempfile::tempdir().unwrap())
    }

    fn start(dir: TempDir, kept: TempDir) -> Self {
        let (send, changes) = channel();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let source = Box::new(Directory::new(dir.path()).keeping_in(kept.path()));
        runtime.spawn(source.run(Box::new(move |batch| send.send(batch).is_ok())));
        let mut watching = Self {
            dir,
            kept,
            store: Store::default(),
            changes,
            deletions: Vec::new(),
            _runtime: runtime,
        };
        watching.until("synced", |w| w.store.is_synced());
        watching
    }

    /// Another process over the same files, `meanwhile` having happened to them.
    fn restarted(self, meanwhile: impl FnOnce(&Path)) -> Self {
        let Self {
            dir, kept, _runtime, ..
        } = self;
        drop(_runtime);
        meanwhile(dir.path());
        Self::start(dir, kept)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
    }

    /// Takes changes until the condition holds.
    #[track_caller]
    fn until(&mut self, what: &str, holds: impl Fn(&Self) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !holds(self) {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.changes.recv_timeout(left) {
                Ok(batch) => self.take(batch),
                Err(e) => panic!(
                    "{what}: {e}; findings {:?}",
                    self.store.findings().collect::<Vec<_>>()
                ),
            }
        }
    }

    fn take(&mut self, batch: Vec<Change>) {
        for change in batch {
            if let Change::Delete(key) = &change {
                self.deletions.push(key.name.clone());
            }
            self.store.apply(change);
        }
    }

    fn address(&self, name: &str) -> Option<String> {
        self.store
            .iter::<WorkloadEntry>()
            .find(|(o, _)| o.meta.name == name)
            .map(|(_, e)| e.address.clone())
    }

    fn codes(&self) -> Vec<&'static str> {
        self.store.findings().map(|f| f.code.id).collect()
    }

    #[track_caller]
    fn until_address(&mut self, name: &str, address: Option<&str>) {
        self.until(&format!("{name} at {address:?}"), |w| {
            w.address(name).as_deref() == address
        });
    }
}

fn entry(name: &str, address: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1\nkind: WorkloadEntry\nmetadata: {{name: {name}}}\nspec: {{address: {address}}}\n"
    )
}

#[test]
fn files_come_change_and_go() {
    let mut w = Watching::over(&[("a.yaml", &entry("x", "10.0.0.1"))]);
    assert_eq!(w.address("x").as_deref(), Some("10.0.0.1"));
    w.write("a.yaml", &entry("x", "10.0.0.2"));
    w.until_address("x", Some("10.0.0.2"));
    fs::create_dir(w.path("more")).unwrap();
    w.write("more/b.yaml", &entry("y", "10.0.0.3"));
    w.until_address("y", Some("10.0.0.3"));
    fs::remove_file(w.path("a.yaml")).unwrap();
    w.until_address("x", None);
    assert_eq!(w.deletions, ["x"]);
}

#[test]
fn replacing_by_rename_and_swapping_like_an_editor_deletes_nothing() {
    let mut w = Watching::over(&[("a.yaml", &entry("x", "10.0.0.1"))]);
    w.write(".a.yaml.new", &entry("x", "10.0.0.2"));
    fs::rename(w.path(".a.yaml.new"), w.path("a.yaml")).unwrap();
    w.until_address("x", Some("10.0.0.2"));

    // As vim does: the old file becomes a backup, the new one is made, the backup goes.
    fs::rename(w.path("a.yaml"), w.path("a.yaml~")).unwrap();
    w.write("4913", "");
    fs::remove_file(w.path("4913")).unwrap();
    w.write("a.yaml", &entry("x", "10.0.0.3"));
    fs::remove_file(w.path("a.yaml~")).unwrap();
    w.until_address("x", Some("10.0.0.3"));

    fs::rename(w.path("a.yaml"), w.path("b.yaml")).unwrap();
    w.until("moved", |w| {
        w.store
            .iter::<WorkloadEntry>()
            .any(|(o, _)| o.origin.file.ends_with("b.yaml"))
    });
    assert_eq!(w.deletions, [""; 0]);
}

#[test]
fn a_broken_file_keeps_the_last_good_objects_and_says_where_it_is_broken() {
    let two = format!("{}---\n{}", entry("x", "10.0.0.1"), entry("y", "10.0.0.2"));
    let mut w = Watching::over(&[("a.yaml", &two)]);
    w.write(
        "a.yaml",
        &two.replace("10.0.0.1}", "10.0.0.1")
            .replace("10.0.0.2", "10.0.0.9"),
    );
    w.until_address("y", Some("10.0.0.9"));
    assert_eq!(
        w.address("x").as_deref(),
        Some("10.0.0.1"),
        "the last good version serves on"
    );
    w.until("a finding", |w| w.codes() == ["ISM0001", "ISM0010"]);
    let finding = w.store.findings().next().unwrap().to_string();
    assert!(
        finding.contains("a.yaml:") && finding.contains("error [ISM0001]"),
        "{finding}"
    );
    w.write("a.yaml", &two);
    w.until("in order again", |w| w.codes().is_empty());
    assert_eq!(w.deletions, [""; 0]);
}

#[test]
fn a_process_that_starts_over_a_broken_file_has_its_last_good_version() {
    let two = |x: &str, y: &str| format!("{}---\n{}", entry("x", x), entry("y", y));
    let w = Watching::over(&[
        ("a.yaml", &two("10.0.0.1", "10.0.0.2")),
        ("b.yaml", &entry("z", "10.0.0.3")),
    ]);
    // Torn in the middle of a word, as by an editor that was killed.
    let whole = two("10.0.0.7", "10.0.0.8");
    let mut w = w.restarted(|dir| fs::write(dir.join("a.yaml"), &whole[..whole.len() - 40]).unwrap());
    w.until("a finding", |w| w.codes().contains(&"ISM0010"));
    assert_eq!(
        w.address("x").as_deref(),
        Some("10.0.0.7"),
        "the whole document counts"
    );
    assert_eq!(
        w.address("y").as_deref(),
        Some("10.0.0.2"),
        "the torn one is what it was"
    );
    assert_eq!(w.deletions, [""; 0]);

    // Once more, broken still: what was in force is known, and not only what was once a whole file.
    let mut w = w.restarted(|dir| fs::write(dir.join("a.yaml"), "kind: [").unwrap());
    w.until("a finding", |w| w.codes().contains(&"ISM0010"));
    assert_eq!(w.address("x").as_deref(), Some("10.0.0.7"));
    assert_eq!(w.address("y").as_deref(), Some("10.0.0.2"));

    // What was put in order or deleted meanwhile counts.
    let mut w = w.restarted(|dir| {
        fs::write(dir.join("a.yaml"), entry("x", "10.0.0.9")).unwrap();
        fs::remove_file(dir.join("b.yaml")).unwrap();
    });
    w.until_address("x", Some("10.0.0.9"));
    w.until_address("y", None);
    w.until_address("z", None);
    let w = w.restarted(|_| {});
    assert_eq!(w.address("x").as_deref(), Some("10.0.0.9"));
    assert_eq!(
        (w.address("y"), w.address("z")),
        (None, None),
        "nothing comes back"
    );
}

#[test]
fn a_file_written_in_pieces_never_takes_its_objects_away() {
    use std::io::Write as _;
    let two = format!("{}---\n{}", entry("x", "10.0.0.1"), entry("y", "10.0.0.2"));
    let mut w = Watching::over(&[("a.yaml", &two)]);
    let mut file = fs::File::create(w.path("a.yaml")).unwrap();
    std::thread::sleep(Duration::from_millis(200));
    for piece in two.replace("10.0.0.2", "10.0.0.7").as_bytes().chunks(20) {
        file.write_all(piece).unwrap();
        file.flush().unwrap();
        std::thread::sleep(Duration::from_millis(5));
    }
    drop(file);
    w.until_address("y", Some("10.0.0.7"));
    assert_eq!(w.deletions, [""; 0]);
}

#[test]
fn a_directory_that_is_swapped_as_a_whole_is_followed() {
    let mut w = Watching::over(&[]);
    let (live, aside, old) = (w.path("live"), w.path("aside"), w.path("old"));
    fs::create_dir(&live).unwrap();
    fs::write(live.join("a.yaml"), entry("x", "10.0.0.1")).unwrap();
    let (send, changes) = channel();
    let source = Box::new(Directory::new(&live));
    w._runtime
        .spawn(source.run(Box::new(move |batch| send.send(batch).is_ok())));
    (w.changes, w.store) = (changes, Store::default());
    w.until_address("x", Some("10.0.0.1"));

    fs::rename(&live, &old).unwrap();
    w.until("the directory is missed", |w| w.codes() == ["ISM0007"]);
    assert_eq!(w.address("x").as_deref(), Some("10.0.0.1"));
    fs::create_dir(&aside).unwrap();
    fs::write(aside.join("a.yaml"), entry("x", "10.0.0.2")).unwrap();
    fs::rename(&aside, &live).unwrap();
    w.until_address("x", Some("10.0.0.2"));
    assert!(w.codes().is_empty());
    fs::write(live.join("a.yaml"), entry("x", "10.0.0.3")).unwrap();
    w.until_address("x", Some("10.0.0.3"));
    assert_eq!(w.deletions, [""; 0]);
}

#[test]
fn a_directory_that_never_was_is_an_error_with_a_remedy() {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let source = Box::new(Directory::new("/nonexistent/isthmus"));
    let error = runtime
        .block_on(source.run(Box::new(|_| true)))
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("/nonexistent/isthmus") && error.contains("create the directory"),
        "{error}"
    );
}
