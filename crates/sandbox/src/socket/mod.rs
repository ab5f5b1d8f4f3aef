//! The control socket of a running sandbox: one JSON line asks, JSON lines answer.
//!
//! A Unix stream socket in the sandbox's directory, reachable by its owner alone. `exec` passes the
//! caller's standard input, output and error along (`SCM_RIGHTS`), so that programs in a pod talk to the
//! user's terminal and nothing is copied in between.

mod client;
mod frame;
mod protocol;
mod server;

pub use client::{Client, ClientError, Execution};
pub use protocol::{
    Answer, Applied, ClusterReport, Exec, Fault, Part, PodReport, Published, Report, Request, Resources,
    Workload, WorkloadError,
};
pub use server::{Handler, HandlerFuture, Process, serve};

/// File name of the socket in the sandbox's directory.
pub const FILE: &str = "control.sock";
