//! From an accepted socket to the filter chain that serves it.
//!
//! It reads at most a prefix of what the client sends, and consumes none of it except a PROXY protocol
//! header; what the bytes mean is the chain's affair.
//!
//! ```text
//!   accept ─▶ original destination ─▶ hand-over ─▶ sniff (SNI, ALPN, HTTP) ─▶ chain ─▶ TLS ─▶ RBAC ─▶ http | tcp
//!                                                                               └ none: refused, in words
//! ```

pub mod chain;
pub mod client_hello;
pub mod connection;
pub mod facts;
pub mod proxy_protocol;
pub mod refusal;
pub mod sniff;
pub mod socket;
#[cfg(test)]
mod tests;
pub use facts::Facts;
