//! Mutated input for everything that reads the network or a user's file.
//!
//! It needs a stable compiler alone. Input is valid input changed a little, by a generator whose numbers
//! follow from a seed, so that what fails fails again. A target fails when it panics, when it uses more
//! processor time or memory than its input can be worth, or when what it promises does not hold.
//!
//! ```text
//!   seeds + corpus/TARGET/* ─▶ mutate ─▶ run under limits ─▶ failure: input and reason
//! ```
//!
//! `cargo test -p isthmus-fuzz` runs each target for a fixed number of inputs, and everything in `corpus`;
//! `just fuzz [TARGET] [SECONDS]` runs with a new seed for as long as one likes and keeps what fails.

// What is here only ever tests; a broken expectation is how it fails.
#![allow(clippy::unwrap_used, clippy::expect_used)]

pub mod meter;
pub mod mutate;
pub mod run;
pub mod targets;

pub use run::{Failure, fuzz};
pub use targets::{TARGETS, Target};
