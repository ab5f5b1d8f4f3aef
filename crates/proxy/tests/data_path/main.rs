//! The data path as a whole: a configuration built by hand, real sockets on loopback, real TLS.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod build;
mod client;
mod flags;
mod net;
mod passthrough;
mod reload;
mod resilience;
mod routing;
mod security;
mod silence;
mod tcp;
mod telemetry;
mod upgrade;
