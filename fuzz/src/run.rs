//! One target under its limits.

use std::cell::RefCell;
use std::panic::{self, AssertUnwindSafe};
use std::path::{Path, PathBuf};
use std::sync::Once;
use std::time::{Duration, Instant};

use nix::time::{ClockId, clock_gettime};

use crate::meter;
use crate::mutate::{self, Numbers};
use crate::targets::{Kind, Target};

/// Processor time that no input is worth, on a slow machine and without optimisation.
const MOST_TIME: Duration = Duration::from_secs(10);
/// Memory that no input is worth, beside a multiple of its size.
const MOST_BYTES: usize = 256 << 20;

thread_local! {
    static SAID: RefCell<String> = const { RefCell::new(String::new()) };
}

/// An input that a target cannot bear.
#[derive(Debug)]
pub struct Failure {
    /// The target.
    pub target: &'static str,
    /// The input.
    pub input: Vec<u8>,
    /// What happened.
    pub reason: String,
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{}: {}\ninput, {} bytes: {}",
            self.target,
            self.reason,
            self.input.len(),
            self.input.escape_ascii()
        )
    }
}

/// When to end.
#[derive(Debug, Clone, Copy)]
pub enum Until {
    /// After so many inputs.
    Inputs(usize),
    /// At this time.
    Time(Instant),
}

/// Feeds a target; gives how many inputs it took.
pub fn fuzz(target: &Target, seed: u64, until: Until) -> Result<usize, Failure> {
    let mut seeds = (target.seeds)();
    assert!(!seeds.is_empty(), "{} has no seeds", target.name);
    for seed in &seeds {
        one(target, seed)?;
    }
    for (_, input) in corpus(target) {
        one(target, &input)?;
        seeds.push(input);
    }
    let mut numbers = Numbers::new(seed);
    let mut count = 0;
    loop {
        match until {
            Until::Inputs(most) if count >= most => return Ok(count),
            Until::Time(end) if Instant::now() >= end => return Ok(count),
            _ => {}
        }
        let input = mutated(target.kind, &seeds, &mut numbers);
        let last = Last::of(target, &input);
        let outcome = one(target, &input);
        last.survived();
        outcome?;
        count += 1;
    }
}

/// The input that is being read, in a file: what kills the process or never ends is found there.
struct Last(PathBuf);

impl Last {
    fn of(target: &Target, input: &[u8]) -> Self {
        let path = std::env::temp_dir().join(format!("isthmus-fuzz-{}-{}", std::process::id(), target.name));
        // Where nothing can be written, there is nothing to be found.
        let _ = std::fs::write(&path, input);
        Self(path)
    }

    fn survived(self) {
        let _ = std::fs::remove_file(self.0);
    }
}

/// Where inputs of a target lie that failed once.
pub fn corpus_dir(target: &Target) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("corpus")
        .join(target.name)
}

fn corpus(target: &Target) -> Vec<(PathBuf, Vec<u8>)> {
    let Ok(entries) = std::fs::read_dir(corpus_dir(target)) else {
        return Vec::new();
    };
    let paths = entries.flatten().map(|e| e.path());
    let mut all: Vec<_> = paths
        .filter_map(|p| Some((p.clone(), std::fs::read(p).ok()?)))
        .collect();
    all.sort();
    all
}

fn mutated(kind: Kind, seeds: &[Vec<u8>], numbers: &mut Numbers) -> Vec<u8> {
    let pick = |numbers: &mut Numbers| numbers.one(seeds).cloned().unwrap_or_default();
    let (mut input, other) = (pick(numbers), pick(numbers));
    let parsed = |bytes: &[u8]| serde_json::from_slice::<serde_json::Value>(bytes);
    // A tree is broken up as text now and then, since its reader reads text.
    if kind == Kind::Tree
        && numbers.below(16) > 0
        && let (Ok(mut tree), Ok(other)) = (parsed(&input), parsed(&other))
    {
        mutate::tree(&mut tree, &other, numbers);
        return tree.to_string().into_bytes();
    }
    mutate::bytes(&mut input, &other, numbers);
    if kind != Kind::Bytes {
        input = String::from_utf8_lossy(&input).into_owned().into_bytes();
    }
    input
}

/// One input under the limits.
pub fn one(target: &Target, input: &[u8]) -> Result<(), Failure> {
    remember_panics();
    let failed = |reason: String| {
        Err(Failure {
            target: target.name,
            input: input.to_vec(),
            reason,
        })
    };
    let began = processor_time();
    let mut outcome = Ok(());
    let most = meter::most_bytes(|| {
        outcome = panic::catch_unwind(AssertUnwindSafe(|| (target.run)(input)));
    });
    if outcome.is_err() {
        return failed(SAID.take());
    }
    let spent = processor_time().saturating_sub(began);
    if spent > MOST_TIME {
        return failed(format!("took {spent:?} of processor time"));
    }
    if most > MOST_BYTES + 1000 * input.len() {
        return failed(format!("held {most} bytes"));
    }
    Ok(())
}

fn processor_time() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map_or(Duration::ZERO, Duration::from)
}

/// Panics of targets are kept, not printed: the report says them.
fn remember_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let print = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            let said = SAID.try_with(|s| s.replace(info.to_string()));
            if said.is_err() {
                print(info);
            }
        }));
    });
}
