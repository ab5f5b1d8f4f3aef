//! When to build: after a quiet moment, but never too long after the first change.

use std::time::Duration;

use tokio::time::Instant;

/// Changes closer together than this are taken together (Istio `PILOT_DEBOUNCE_AFTER`).
pub const QUIET: Duration = Duration::from_millis(100);
/// A change waits no longer than this, however many follow (Istio `PILOT_DEBOUNCE_MAX`).
pub const LONGEST: Duration = Duration::from_secs(10);

/// Gathers changes.
#[derive(Debug, Default)]
pub struct Debounce {
    first: Option<Instant>,
    last: Option<Instant>,
}

impl Debounce {
    /// A change came.
    pub fn changed(&mut self, now: Instant) {
        self.first.get_or_insert(now);
        self.last = Some(now);
    }

    /// When it is time; `None` while nothing has changed.
    pub fn due(&self) -> Option<Instant> {
        let (first, last) = (self.first?, self.last?);
        Some((last + QUIET).min(first + LONGEST))
    }

    /// What was gathered has been taken.
    pub fn taken(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quiet_ends_the_wait_and_so_does_its_length() {
        let start = Instant::now();
        let at = |ms: u64| start + Duration::from_millis(ms);
        let mut debounce = Debounce::default();
        assert_eq!(debounce.due(), None);
        debounce.changed(at(0));
        assert_eq!(debounce.due(), Some(at(100)));
        debounce.changed(at(60));
        assert_eq!(debounce.due(), Some(at(160)));
        for ms in (100..12_000).step_by(50) {
            debounce.changed(at(ms));
        }
        assert_eq!(debounce.due(), Some(at(10_000)));
        debounce.taken();
        assert_eq!(debounce.due(), None);
    }
}
