//! Bytes without meaning: the TCP proxy, its copy loop, and `splice(2)` for what needs no look.
//!
//! ```text
//!   accepted stream ─▶ proxy (cluster, host, connect) ─▶ copy ⇄ upstream stream
//!                                                          └ plain to plain and full reads ─▶ splice
//! ```

pub mod copy;
pub mod proxy;
pub mod splice;
pub mod stream;
