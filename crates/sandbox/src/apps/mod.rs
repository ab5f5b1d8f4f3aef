//! The sample applications: small programs of our own, so that a mesh has something to carry.
//!
//! They know nothing of the mesh. Each listens on plain ports, says truthfully who answered (cluster, pod,
//! version from the environment), has `/healthz` for probes, and ends in order on SIGTERM.
//!
//! ```text
//!   isthmus sample echo         8080 HTTP/1.1, h2c   7070 gRPC   9000 TCP echo   9001 banner first
//!   isthmus sample httpbin      8080
//!   isthmus sample sleep        nothing
//!   isthmus sample productpage  9080 ──> details 9080
//!                                    └─> reviews 9080 (v1, v2, v3) ──> ratings 9080
//! ```
//!
//! | variable | meaning |
//! |---|---|
//! | `POD_NAME`, `POD_NAMESPACE` | identity; the host's name when unset |
//! | `CLUSTER` | member cluster; empty when unset |
//! | `VERSION` | `v1`, `v2`, `v3`; `reviews` behaves by it |
//! | `SERVICES_DOMAIN`, `DETAILS_HOSTNAME`, `REVIEWS_HOSTNAME`, `RATINGS_HOSTNAME` (and `…_SERVICE_PORT`) | as in Istio's Bookinfo |

pub mod bookinfo;
pub mod echo;
pub mod fetch;
pub mod http;
pub mod httpbin;
mod idle;
pub mod tcp;
mod websocket;

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use isthmus_runtime::bind::{self, BindError};
use isthmus_runtime::drain;
use isthmus_runtime::signals::Signals;

/// How long open requests may take after SIGTERM; below Kubernetes' 30 s of grace.
const PATIENCE: Duration = Duration::from_secs(20);

/// The samples there are.
pub const NAMES: [&str; 7] = [
    "echo",
    "httpbin",
    "sleep",
    "productpage",
    "details",
    "reviews",
    "ratings",
];

/// Why a sample did not run.
#[derive(Debug, thiserror::Error)]
pub enum AppError {
    /// No sample has this name.
    #[error("there is no sample {0:?}; there are {names}", names = NAMES.join(", "))]
    Unknown(String),
    /// An argument is not understood.
    #[error("sample {app}: {argument:?} is not understood; it takes {takes}")]
    Argument {
        /// The sample.
        app: &'static str,
        /// What was given.
        argument: String,
        /// What could be given.
        takes: &'static str,
    },
    /// A port could not be taken.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// The runtime, a signal handler or a child process failed.
    #[error("cannot start: {0}")]
    Start(#[from] io::Error),
}

/// Who answers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Identity {
    /// Member cluster.
    pub cluster: String,
    /// Kubernetes namespace.
    pub namespace: String,
    /// Pod name.
    pub pod: String,
    /// Version of the application.
    pub version: String,
}

impl Identity {
    /// Reads `CLUSTER`, `POD_NAMESPACE`, `POD_NAME` and `VERSION`.
    fn from_environment() -> Self {
        let variable = |name: &str| std::env::var(name).unwrap_or_default();
        let host = || {
            std::fs::read_to_string("/proc/sys/kernel/hostname")
                .unwrap_or_default()
                .trim()
                .to_owned()
        };
        let or = |value: String, other: &dyn Fn() -> String| if value.is_empty() { other() } else { value };
        Self {
            cluster: variable("CLUSTER"),
            namespace: variable("POD_NAMESPACE"),
            pod: or(variable("POD_NAME"), &host),
            version: or(variable("VERSION"), &|| "v1".to_owned()),
        }
    }

    /// The identity as fields of a JSON answer.
    fn json(&self) -> serde_json::Value {
        serde_json::json!({
            "cluster": self.cluster, "namespace": self.namespace, "pod": self.pod, "version": self.version,
        })
    }
}

/// Runs a sample until SIGTERM or SIGINT: `isthmus sample NAME [ARGS]`.
///
/// Samples that listen take `--port N`, their main port. A host name that an environment variable gives
/// is resolved by the system's own resolver, as any application would.
pub fn run(name: &str, args: &[String]) -> Result<ExitCode, AppError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let me = Identity::from_environment();
    let code = runtime.block_on(async {
        match name {
            "sleep" => return idle::run(args).await,
            "echo" => echo::run(me, port("echo", args, 8080)?).await,
            "httpbin" => {
                listen_and_serve("httpbin", httpbin::Httpbin::new(me), port("httpbin", args, 8080)?).await
            }
            "productpage" => {
                let page = bookinfo::Productpage::new(me, bookinfo::Backends::from_environment());
                listen_and_serve("productpage", page, port("productpage", args, 9080)?).await
            }
            "details" => {
                listen_and_serve(
                    "details",
                    bookinfo::Details::new(me),
                    port("details", args, 9080)?,
                )
                .await
            }
            "reviews" => {
                let reviews = bookinfo::Reviews::new(me, bookinfo::Backends::from_environment());
                listen_and_serve("reviews", reviews, port("reviews", args, 9080)?).await
            }
            "ratings" => {
                listen_and_serve(
                    "ratings",
                    bookinfo::Ratings::new(me),
                    port("ratings", args, 9080)?,
                )
                .await
            }
            other => Err(AppError::Unknown(other.to_owned())),
        }?;
        Ok(ExitCode::SUCCESS)
    });
    // A name that is just being looked up on the blocking pool must not hold up the end.
    runtime.shutdown_background();
    code
}

fn port(app: &'static str, args: &[String], default: u16) -> Result<u16, AppError> {
    match args {
        [] => Ok(default),
        [flag, port] if flag == "--port" && port.parse::<u16>().is_ok() => {
            Ok(port.parse().unwrap_or(default))
        }
        [argument, ..] => Err(AppError::Argument {
            app,
            argument: argument.clone(),
            takes: "--port N",
        }),
    }
}

async fn listen_and_serve(name: &'static str, app: impl http::App, port: u16) -> Result<(), AppError> {
    let listeners = listen(port, name)?;
    until_signalled(name, &[port], |watcher| {
        let app = Arc::new(app);
        for listener in listeners {
            watcher.spawn(http::serve(listener, app.clone(), watcher.clone()));
        }
    })
    .await
}

/// Starts tasks, waits for the signal to end, and drains them.
async fn until_signalled(
    name: &str,
    ports: &[u16],
    start: impl FnOnce(&drain::Watcher),
) -> Result<(), AppError> {
    let mut signals = Signals::install()?;
    let (trigger, watcher) = drain::channel();
    start(&watcher);
    drop(watcher);
    tracing::info!(?ports, "sample {name} is listening");
    let signal = signals.end().await;
    tracing::info!(?signal, "sample {name} ends");
    if let drain::Outcome::DeadlinePassed { held } = trigger.drain(PATIENCE).await {
        tracing::warn!(held, "connections were cut at the end");
    }
    Ok(())
}

/// All IPv4 addresses, and all IPv6 ones where there is IPv6.
fn listen(port: u16, purpose: &str) -> Result<Vec<std::net::TcpListener>, BindError> {
    let v4 = bind::tcp(SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), port), purpose)?;
    let v6 = bind::tcp(SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), port), purpose);
    Ok([Some(v4), v6.ok()].into_iter().flatten().collect())
}

#[cfg(test)]
mod tests;
