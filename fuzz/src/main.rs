//! `just fuzz [TARGET] [SECONDS]`: feeds one target, or each in turn, until the time is up; what fails is
//! kept in the target's corpus and told.

use std::process::ExitCode;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use isthmus_fuzz::run::{Until, corpus_dir};
use isthmus_fuzz::{TARGETS, fuzz};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let seconds = arguments.iter().find_map(|a| a.parse().ok()).unwrap_or(60);
    let wanted = arguments.iter().find(|a| a.parse::<u64>().is_err());
    let chosen: Vec<_> = TARGETS
        .iter()
        .filter(|t| wanted.is_none_or(|w| w == t.name))
        .collect();
    if chosen.is_empty() {
        let names: Vec<_> = TARGETS.iter().map(|t| t.name).collect();
        eprintln!("targets: {}", names.join(", "));
        return ExitCode::from(64);
    }
    let seed = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |d| d.as_nanos() as u64);
    let share = Duration::from_secs(seconds) / u32::try_from(chosen.len()).unwrap_or(1);
    let mut failures = 0;
    for target in chosen {
        match fuzz(target, seed, Until::Time(Instant::now() + share)) {
            Ok(inputs) => println!("{}: {inputs} inputs", target.name),
            Err(failure) => {
                failures += 1;
                println!("{failure}");
                let directory = corpus_dir(target);
                let path = directory.join(format!("{seed:016x}"));
                let kept =
                    std::fs::create_dir_all(&directory).and_then(|()| std::fs::write(&path, &failure.input));
                match kept {
                    Ok(()) => println!("kept as {}", path.display()),
                    Err(e) => println!("not kept: {}: {e}", path.display()),
                }
            }
        }
    }
    if failures == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
