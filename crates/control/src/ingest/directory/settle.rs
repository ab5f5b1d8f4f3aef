//! When a changed file may be read: not while it is being written, not between an editor's deletion and
//! its new version, and not for ever later.
//!
//! No clock and no file system: it is told the time and what stands there.

use std::collections::BTreeMap;
use std::fs::Metadata;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

/// A file that did not change for this long is read.
const QUIET: Duration = Duration::from_millis(40);
/// A file that is missing for this long is gone. Editors and tools delete and make again.
const MISSING: Duration = Duration::from_millis(150);
/// A file that became empty is believed after this long: most writers truncate first.
const EMPTY: Duration = Duration::from_millis(1000);
/// A file that never comes to rest is read after this long all the same.
const RESTLESS: Duration = Duration::from_millis(500);

/// What distinguishes two versions of a file without reading it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stamp {
    length: u64,
    modified: Option<SystemTime>,
    inode: u64,
    changed: (i64, i64),
}

impl Stamp {
    pub(super) fn of(meta: &Metadata) -> Self {
        use std::os::unix::fs::MetadataExt;
        Self {
            length: meta.len(),
            modified: meta.modified().ok(),
            inode: meta.ino(),
            changed: (meta.ctime(), meta.ctime_nsec()),
        }
    }
}

/// Which versions were read, and which changes wait.
#[derive(Debug, Default)]
pub(super) struct Settle {
    read: BTreeMap<PathBuf, Stamp>,
    waiting: BTreeMap<PathBuf, Waiting>,
}

#[derive(Debug, Clone, Copy)]
struct Waiting {
    /// First seen different from what was read.
    since: Instant,
    /// Last seen to change.
    still_since: Instant,
    stamp: Option<Stamp>,
}

/// What to do now.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Settled {
    /// Files to read (or to find gone), by path.
    pub ripe: Vec<PathBuf>,
    /// When to look again.
    pub again: Option<Duration>,
}

impl Settle {
    /// Counts a file as read in some earlier version of this length.
    pub(super) fn assume(&mut self, path: PathBuf, length: u64) {
        let stamp = Stamp {
            length,
            modified: None,
            inode: 0,
            changed: (0, 0),
        };
        self.read.insert(path, stamp);
    }

    /// Takes in what stands there `now`. With `at_once`, as at the start, what was never read does not wait.
    pub(super) fn look(&mut self, now: Instant, stamps: BTreeMap<PathBuf, Stamp>, at_once: bool) -> Settled {
        for (path, stamp) in &stamps {
            if self.read.get(path) == Some(stamp) {
                self.waiting.remove(path);
            } else {
                self.wait(path, Some(*stamp), now);
            }
        }
        let missing: Vec<PathBuf> = self
            .read
            .keys()
            .filter(|p| !stamps.contains_key(*p))
            .cloned()
            .collect();
        for path in missing {
            self.wait(&path, None, now);
        }
        // What was neither read nor still stands there came and went unread.
        self.waiting
            .retain(|path, _| stamps.contains_key(path) || self.read.contains_key(path));

        let mut settled = Settled::default();
        let mut pending = Vec::new();
        let mut slow = Vec::new();
        for (path, waiting) in &self.waiting {
            let left = if at_once && !self.read.contains_key(path) {
                Duration::ZERO
            } else {
                self.left(path, waiting, now)
            };
            if left.is_zero() {
                settled.ripe.push(path.clone());
            } else if self.became_empty(path, waiting) {
                slow.push(left);
            } else {
                pending.push(left);
            }
        }
        // Changes that are made together (a rename is two) are read together.
        if let Some(longest) = pending.iter().max() {
            if !at_once {
                settled.ripe.clear();
            }
            settled.again = Some(*longest);
        } else {
            settled.again = slow.into_iter().min();
        }
        for path in &settled.ripe {
            match self.waiting.remove(path).and_then(|w| w.stamp) {
                Some(stamp) => self.read.insert(path.clone(), stamp),
                None => self.read.remove(path),
            };
        }
        settled
    }

    fn wait(&mut self, path: &Path, stamp: Option<Stamp>, now: Instant) {
        let waiting = self.waiting.entry(path.to_path_buf()).or_insert(Waiting {
            since: now,
            still_since: now,
            stamp,
        });
        if waiting.stamp != stamp {
            waiting.stamp = stamp;
            waiting.still_since = now;
        }
    }

    /// How long until the change may be believed.
    fn left(&self, path: &Path, waiting: &Waiting, now: Instant) -> Duration {
        let still = now.saturating_duration_since(waiting.still_since);
        let needed = match waiting.stamp {
            None => MISSING,
            Some(_) if self.became_empty(path, waiting) => EMPTY,
            Some(_) => {
                let in_all = now.saturating_duration_since(waiting.since);
                return QUIET.saturating_sub(still).min(RESTLESS.saturating_sub(in_all));
            }
        };
        needed.saturating_sub(still)
    }

    fn became_empty(&self, path: &Path, waiting: &Waiting) -> bool {
        waiting.stamp.is_some_and(|s| s.length == 0) && self.read.get(path).is_some_and(|s| s.length > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Story {
        settle: Settle,
        start: Instant,
        files: BTreeMap<PathBuf, Stamp>,
    }

    impl Story {
        /// Begins with file `a`, read.
        fn new() -> Self {
            let mut story = Self {
                settle: Settle::default(),
                start: Instant::now(),
                files: BTreeMap::new(),
            };
            story.write("a", 10, 1);
            let files = story.files.clone();
            assert_eq!(
                story.settle.look(story.start, files, true).ripe,
                [PathBuf::from("a")]
            );
            story
        }

        fn write(&mut self, path: &str, length: u64, version: u64) {
            let modified = Some(SystemTime::UNIX_EPOCH + Duration::from_secs(version));
            let stamp = Stamp {
                length,
                modified,
                inode: version,
                changed: (0, 0),
            };
            self.files.insert(path.into(), stamp);
        }

        fn remove(&mut self, path: &str) {
            self.files.remove(&PathBuf::from(path));
        }

        /// What is ripe after so many milliseconds.
        fn at(&mut self, milliseconds: u64) -> Vec<String> {
            let now = self.start + Duration::from_millis(milliseconds);
            let settled = self.settle.look(now, self.files.clone(), false);
            settled.ripe.iter().map(|p| p.display().to_string()).collect()
        }
    }

    const NOTHING: [&str; 0] = [];

    #[test]
    fn a_saved_file_is_read_once_when_it_rests() {
        let mut story = Story::new();
        assert_eq!(story.at(0), NOTHING);
        story.write("a", 5, 2);
        assert_eq!(story.at(10), NOTHING);
        story.write("a", 11, 3);
        assert_eq!(story.at(40), NOTHING);
        assert_eq!(story.at(85), ["a"]);
        assert_eq!(story.at(200), NOTHING);
    }

    #[test]
    fn a_file_that_never_rests_is_read_all_the_same() {
        let mut story = Story::new();
        let mut reads = 0;
        for i in 0..60 {
            story.write("a", 100 + i, 100 + i);
            reads += story.at(i * 20).len();
        }
        assert_eq!(reads, 2);
    }

    #[test]
    fn deleting_and_making_again_is_one_change_and_deleting_is_believed_later() {
        let mut story = Story::new();
        story.remove("a");
        assert_eq!(story.at(10), NOTHING);
        story.write("a", 12, 2);
        assert_eq!(story.at(100), NOTHING);
        assert_eq!(story.at(145), ["a"]);
        story.remove("a");
        assert_eq!(story.at(200), NOTHING);
        assert_eq!(story.at(351), ["a"]);
        assert_eq!(story.at(400), NOTHING);
    }

    #[test]
    fn a_rename_is_read_as_one() {
        let mut story = Story::new();
        story.remove("a");
        story.write("b", 10, 1);
        assert_eq!(story.at(10), NOTHING);
        assert_eq!(story.at(60), NOTHING);
        assert_eq!(story.at(161), ["a", "b"]);
    }

    #[test]
    fn a_truncated_file_waits_for_its_content_and_holds_up_nobody() {
        let mut story = Story::new();
        story.write("a", 0, 2);
        story.write("b", 10, 2);
        assert_eq!(story.at(10), NOTHING);
        assert_eq!(story.at(60), ["b"]);
        assert_eq!(story.at(900), NOTHING);
        assert_eq!(story.at(1011), ["a"]);
    }

    #[test]
    fn at_the_start_only_what_was_never_read_is_read_at_once() {
        let mut story = Story::new();
        story.settle = Settle::default();
        for (path, length) in [("a", 10), ("c", 10), ("d", 10)] {
            story.settle.assume(path.into(), length);
        }
        story.write("b", 10, 1);
        story.write("c", 0, 1);
        let settled = story.settle.look(story.start, story.files.clone(), true);
        assert_eq!(settled.ripe, [PathBuf::from("b")]);
        assert!(settled.again.is_some());
        assert_eq!(
            story.at(160),
            ["a", "d"],
            "d is gone, and c was truncated and awaits its content"
        );
        assert_eq!(story.at(1010), ["c"]);
    }

    #[test]
    fn what_comes_and_goes_unread_is_forgotten() {
        let mut story = Story::new();
        story.write("c", 10, 1);
        assert_eq!(story.at(10), NOTHING);
        story.remove("c");
        assert_eq!(story.at(500), NOTHING);
        assert!(story.settle.waiting.is_empty());
    }
}
