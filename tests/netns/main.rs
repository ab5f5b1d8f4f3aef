//! The mesh end to end: whole clusters in network namespaces, started by `isthmus demo` and seen as a
//! user sees them, through the commands of the binary.
//!
//! ```text
//!   test ─▶ Mesh::shared()     many readers of one demo, started once
//!        ─▶ Mesh::exclusive()  alone with it; what was applied or broken is undone at the end
//! ```
//!
//! Stories are one file each. They wait for conditions, never for times. Where namespaces are forbidden
//! every story fails with the words of the preflight.

// These are tests; a broken expectation is how they fail.
#![allow(clippy::expect_used)]

mod access_log;
mod authority;
mod config;
mod cors;
mod ejection;
mod failover;
mod gateways;
mod harness;
mod identity;
mod ingress;
mod leftovers;
mod load;
mod locality;
mod names;
mod origination;
mod outages;
mod restarts;
mod roots;
mod routing;
mod security;
mod steady;
mod survival;
mod turns;
