//! Pauses between attempts to reach a server.

use std::time::Duration;

use rand::Rng;

/// Doubling pauses with jitter, so that clients of a restarted server do not come back all at once.
#[derive(Debug, Clone)]
pub struct Backoff {
    first: Duration,
    most: Duration,
    next: Duration,
}

impl Backoff {
    /// Pauses from about `first` up to about `most`.
    pub fn new(first: Duration, most: Duration) -> Self {
        Self {
            first,
            most,
            next: first,
        }
    }

    /// How long to wait now: between half of the current step and all of it.
    pub fn pause(&mut self) -> Duration {
        let step = self.next;
        self.next = (step * 2).min(self.most);
        step.mul_f64(rand::rng().random_range(0.5..=1.0))
    }

    /// The server answered: the next pause is short again.
    pub fn reset(&mut self) {
        self.next = self.first;
    }
}

impl Default for Backoff {
    /// From 0.2 s to 10 s.
    fn default() -> Self {
        Self::new(Duration::from_millis(200), Duration::from_secs(10))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_the_bound_and_start_again() {
        let ms = Duration::from_millis;
        let mut backoff = Backoff::new(ms(100), ms(400));
        for most in [100, 200, 400, 400] {
            let pause = backoff.pause();
            assert!(pause >= ms(most / 2) && pause <= ms(most), "{pause:?}");
        }
        backoff.reset();
        assert!(backoff.pause() <= ms(100));
    }
}
