//! PID 1 of the sandbox, and how it is started.
//!
//! ```text
//!  isthmus demo                        binds published listeners, takes the lock, clones
//!    └─ launch ──clone(user? mount pid net ipc uts)──> isthmus sandbox-supervisor
//!                                                        enter: /proc, lo, reaper, lifeline
//!                                                        └─ every process of every pod
//! ```
//!
//! Everything the sandbox makes lives in namespaces that this one process holds. When it ends, however
//! it ends, the kernel ends every process of its pid namespace and with them the namespaces, links and
//! rules: nothing can be left behind. In the foreground it ends when its parent does: it reads from a
//! pipe (the lifeline) whose other end only the parent has. A pipe, and not `PR_SET_PDEATHSIG`, which
//! fires when the *thread* that started it ends.

mod enter;
mod launch;
mod reaper;
mod state_dir;

pub use enter::{Entered, Progress, enter};
pub use launch::{Launch, Supervisor};
pub use reaper::{Exit, Process, Reaper, SignalTarget};
pub use state_dir::{StateDir, clear, default_dir, running};

/// Descriptors of the supervisor behind the standard three, in this order; published listeners follow.
const LOCK: i32 = 3;
const PROGRESS: i32 = 4;
const LIFELINE: i32 = 5;
const LISTENERS: i32 = 6;

/// Tells the supervisor what it inherited: the number of listeners, and whether it is detached.
const INHERITED: &str = "ISTHMUS_SANDBOX_INHERITED";
