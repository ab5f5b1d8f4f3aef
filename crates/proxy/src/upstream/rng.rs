//! A worker's own randomness: fast, not secret.

use std::cell::Cell;
use std::hash::{BuildHasher, Hasher, RandomState};

/// xorshift64*, seeded by the process's hash keys.
#[derive(Debug)]
pub struct Rng(Cell<u64>);

impl Default for Rng {
    fn default() -> Self {
        Self::new(RandomState::new().build_hasher().finish())
    }
}

impl Rng {
    /// With this seed; the same seed gives the same numbers.
    pub fn new(seed: u64) -> Self {
        Self(Cell::new(seed | 1))
    }

    /// The next number.
    pub fn next(&self) -> u64 {
        let mut x = self.0.get();
        x ^= x >> 12;
        x ^= x << 25;
        x ^= x >> 27;
        self.0.set(x);
        x.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    /// Uniform in `0..n`; 0 for `n` of 0.
    pub fn below(&self, n: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(n)) >> 64) as u64
    }

    /// Uniform in `[0, 1)`.
    pub fn fraction(&self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Whether an event of this probability, in parts per million, happens.
    pub fn happens(&self, ppm: u32) -> bool {
        ppm >= 1_000_000 || self.below(1_000_000) < u64::from(ppm)
    }
}
