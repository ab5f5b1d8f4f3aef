//! How objects come in: from a directory of YAML, or from any other [`isthmus_api::Source`].
//!
//! ```text
//!   directory ── Change ──► store ──► registry, snapshot
//! ```

pub mod directory;
pub mod overlay;
pub mod store;
