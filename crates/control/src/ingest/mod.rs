//! How objects come in.

pub mod store;
