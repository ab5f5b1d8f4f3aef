//! What can go wrong in the sandbox, and what helps.

use std::net::Ipv4Addr;
use std::path::PathBuf;

use isthmus_model::ClusterId;

use crate::plan::PodKey;

/// Result of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// A failure of the sandbox itself; what its programs do wrong is in their status and logs.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Namespaces are not to be had here.
    #[error(transparent)]
    Forbidden(#[from] isthmus_redirect::netns::Forbidden),
    /// A sandbox runs in this directory already.
    #[error(
        "a sandbox is already running in {dir} (process {pid}); stop it with `isthmus demo down --dir {dir}`, \
         or start another with --dir",
        dir = .dir.display()
    )]
    Running {
        /// Its state directory.
        dir: PathBuf,
        /// Its supervisor, or 0 when it did not say.
        pid: i32,
    },
    /// The state directory cannot be used.
    #[error("state directory {}: {reason}", .dir.display())]
    StateDir {
        /// The directory.
        dir: PathBuf,
        /// Why not, and what helps.
        reason: String,
    },
    /// The supervisor was started by hand.
    #[error("the sandbox's supervisor is started by `isthmus demo`, not by hand")]
    NotSupervisor,
    /// The supervisor could not be started.
    #[error("start the supervisor: {step}: {source}")]
    Launch {
        /// The step that failed.
        step: &'static str,
        /// Why.
        source: std::io::Error,
    },
    /// A cluster of which the network knows nothing.
    #[error("cluster {0}: there is none of this name in the sandbox")]
    NoCluster(ClusterId),
    /// A cluster that is there already, or one too many.
    #[error("cluster {cluster}: {reason}")]
    Cluster {
        /// The cluster.
        cluster: ClusterId,
        /// Why it cannot be added.
        reason: String,
    },
    /// All addresses of a cluster are in use.
    #[error("cluster {0}: all pod addresses are in use")]
    AddressesUsedUp(ClusterId),
    /// An address that is not of the kind that was asked for.
    #[error("address {address}: {reason}")]
    Address {
        /// The address.
        address: Ipv4Addr,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A pod of which nothing is known.
    #[error("pod {0}: there is none of this name in the sandbox")]
    NoPod(PodKey),
    /// A pod that is there already.
    #[error("pod {0}: there is one of this name already")]
    PodExists(PodKey),
    /// A pod that cannot be.
    #[error("pod {pod}: {reason}")]
    Pod {
        /// The pod.
        pod: PodKey,
        /// What is wrong with it, and what helps.
        reason: String,
    },
    /// A certificate of the mesh cannot be made.
    #[error("the certificate of {what} cannot be made: {reason}")]
    Certificate {
        /// `root`, or the cluster.
        what: String,
        /// Why.
        reason: String,
    },
    /// The programs of a Kubernetes control plane are not to be had.
    #[error(
        "the programs of a Kubernetes control plane: {reason}; install Go 1.26 (https://go.dev/dl) to have them built, \
         or set KUBEBUILDER_ASSETS or ISTHMUS_ASSETS to a directory that has them"
    )]
    Assets {
        /// What is missing.
        reason: String,
    },
    /// An API server does not take what a cluster needs.
    #[error("cluster {cluster}: its API server: {reason}; its logs are below {}", .logs.display())]
    ApiServer {
        /// The cluster.
        cluster: ClusterId,
        /// What was tried and why it failed.
        reason: String,
        /// Where the control plane's logs are.
        logs: PathBuf,
    },
    /// Pods did not become ready in time.
    #[error(
        "not ready after {seconds} s: {}; the logs are below {}",
        .pods.join("; "), .dir.display()
    )]
    NotReady {
        /// How long was waited.
        seconds: u64,
        /// Pods, and why.
        pods: Vec<String>,
        /// State directory.
        dir: PathBuf,
    },
    /// Rules, links or namespaces were refused.
    #[error("{what}: {source}")]
    Kernel {
        /// Pod, cluster or part of the network.
        what: String,
        /// The refusal.
        source: isthmus_redirect::Error,
    },
    /// A file or process could not be handled.
    #[error("{operation}: {source}")]
    Io {
        /// What was tried.
        operation: String,
        /// Why it failed.
        source: std::io::Error,
    },
}

impl Error {
    pub(crate) fn io(operation: impl Into<String>) -> impl FnOnce(std::io::Error) -> Self {
        let operation = operation.into();
        move |source| Self::Io { operation, source }
    }

    pub(crate) fn kernel(what: impl Into<String>) -> impl FnOnce(isthmus_redirect::Error) -> Self {
        let what = what.into();
        move |source| Self::Kernel { what, source }
    }
}
