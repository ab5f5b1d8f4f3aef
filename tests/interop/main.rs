//! Against programs that others wrote: openssl for certificates and TLS, dig for DNS, curl for HTTP, a browser,
//! Envoy as another data plane, and gRPC's own library.
//!
//! `just interop` installs them (`tests/interop/install.sh`) and runs this suite. A program that is
//! missing is a failure, never a reason to skip.

// These are tests; a broken expectation is how they fail.
#![allow(clippy::expect_used)]

mod browser;
mod certificates;
mod demo;
mod envoy;
mod grpc;
// The netns suite uses all of it, this one a part.
#[allow(dead_code)]
#[path = "../netns/harness.rs"]
mod harness;
mod program;
#[allow(dead_code)]
#[path = "../netns/turns.rs"]
mod turns;
mod wire;
