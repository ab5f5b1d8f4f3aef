//! On real API servers: clusters of `isthmus demo --kubernetes`, and in them what a user types, with the real
//! kubectl.
//!
//! ```text
//!   test ─▶ Clusters::shared()  two clusters, started once for all stories, one story at a time
//! ```
//!
//! `just kubernetes` builds what is missing of Kubernetes (`tests/kubernetes/assets`) and runs this suite.

// These are tests; a broken expectation is how they fail.
#![allow(clippy::expect_used)]

mod clusters;
mod first;
// The netns suite uses all of it, this one a part.
#[allow(dead_code)]
#[path = "../netns/harness.rs"]
mod harness;
mod install;
mod join;
mod platform;
mod sidecars;
#[allow(dead_code)]
#[path = "../netns/turns.rs"]
mod turns;
mod two;
