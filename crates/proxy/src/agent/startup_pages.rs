//! Gives back the pages of the program that only its start needed.
//!
//! Reading flags and the first configuration, and setting up logging and TLS, touches most of the binary once.
//! Those pages stay mapped, and count as resident memory of every sidecar, until memory runs short. They are
//! the file's own, so nothing is lost when the kernel may forget them: what is used again is mapped again from
//! the page cache, in microseconds.
#![allow(unsafe_code)]

use std::io::{self, BufRead as _, BufReader};
use std::time::Duration;

use isthmus_runtime::readiness::Readiness;
use nix::libc;

/// How long after the start: its first connections belong to it.
const SETTLED: Duration = Duration::from_secs(5);

/// Waits until the proxy is ready and has settled, then unmaps what it no longer uses.
pub async fn release_when_settled(readiness: Readiness) {
    readiness.ready().await;
    tokio::time::sleep(SETTLED).await;
    match release() {
        Ok(bytes) => tracing::debug!(kilobytes = bytes / 1024, "pages of the start released"),
        Err(error) => tracing::debug!(%error, "pages of the start stay mapped"),
    }
}

/// Releases every mapping of a file that is read-only and of which nothing was copied. Gives the bytes that
/// were resident there.
///
/// # Errors
/// `/proc` is not there, or the kernel refuses.
fn release() -> io::Result<usize> {
    let smaps = BufReader::new(std::fs::File::open("/proc/self/smaps")?);
    let mut released = 0;
    for mapping in pristine(smaps.lines())? {
        // SAFETY: the range is one whole mapping of a file, read-only and without private copies, so whoever
        // reads it next gets the same bytes from the file. Nobody unmaps parts of the program meanwhile.
        let result = unsafe {
            libc::madvise(
                mapping.start as *mut libc::c_void,
                mapping.length,
                libc::MADV_DONTNEED,
            )
        };
        if result != 0 {
            return Err(io::Error::last_os_error());
        }
        released += mapping.resident;
    }
    Ok(released)
}

/// A mapping; sizes in bytes.
#[derive(Debug, PartialEq, Eq)]
struct Mapping {
    start: usize,
    length: usize,
    resident: usize,
}

/// The mappings of files that cannot be written and hold no page of this process's own (`proc_pid_smaps(5)`).
fn pristine(lines: impl Iterator<Item = io::Result<String>>) -> io::Result<Vec<Mapping>> {
    let mut found = Vec::new();
    let mut present: Option<Mapping> = None;
    for line in lines {
        let line = line?;
        let mut words = line.split_ascii_whitespace();
        let (Some(first), Some(second)) = (words.next(), words.next()) else {
            continue;
        };
        match first {
            "Rss:" => {
                if let (Some(mapping), Ok(kilobytes)) = (&mut present, second.parse::<usize>()) {
                    mapping.resident = kilobytes * 1024;
                }
            }
            // The last of a mapping's lines that matters here.
            "Anonymous:" => found.extend(present.take().filter(|m| second == "0" && m.resident > 0)),
            _ if first.ends_with(':') => {}
            _ => {
                let of_a_file = words.nth(3).is_some_and(|path| path.starts_with('/'));
                let read_only = matches!(second, "r-xp" | "r--p");
                present = range(first).filter(|_| of_a_file && read_only);
            }
        }
    }
    Ok(found)
}

/// `START-END`, both in hexadecimal.
fn range(text: &str) -> Option<Mapping> {
    let (start, end) = text.split_once('-')?;
    let (start, end) = (
        usize::from_str_radix(start, 16).ok()?,
        usize::from_str_radix(end, 16).ok()?,
    );
    Some(Mapping {
        start,
        length: end.checked_sub(start)?,
        resident: 0,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMAPS: &str = "\
55a7fba81000-55a7fba83000 r--p 00000000 fe:00 9977959                    /usr/bin/isthmus
Size:                  8 kB
Rss:                   4 kB
Private_Dirty:         0 kB
Anonymous:             0 kB
VmFlags: rd mr mw me
55a7fba83000-55a7fba85000 r--p 00002000 fe:00 9977959                    /usr/bin/isthmus
Rss:                   8 kB
Anonymous:             8 kB
55a80ca3b000-55a80cb2b000 rw-p 00000000 00:00 0                          [heap]
Rss:                   8 kB
Anonymous:             8 kB
7ffd0b7f5000-7ffd0b7f7000 r-xp 00000000 00:00 0                          [vdso]
Rss:                   8 kB
Anonymous:             0 kB
";

    #[test]
    fn only_untouched_copies_of_files_are_released() {
        let lines = SMAPS.lines().map(|l| Ok(l.to_owned()));
        let wanted = Mapping {
            start: 0x55a7_fba8_1000,
            length: 0x2000,
            resident: 4096,
        };
        assert_eq!(pristine(lines).unwrap(), [wanted]);
    }

    #[test]
    fn the_program_goes_on_and_is_smaller() {
        let resident = || {
            let status = std::fs::read_to_string("/proc/self/status").unwrap();
            let line = status.lines().find(|l| l.starts_with("RssFile:")).unwrap();
            line.split_ascii_whitespace()
                .nth(1)
                .unwrap()
                .parse::<usize>()
                .unwrap()
        };
        let before = resident();
        let released = release().unwrap();
        assert!(released > 0);
        // What the test itself and its neighbours touch meanwhile comes back at once.
        assert!(resident() < before, "{before} kB before, {} after", resident());
    }
}
