//! The seams through which resources arrive: a directory of YAML, an API server, another cluster.
//!
//! Implemented in `control::ingest::directory` and in `kube`; the binary wires them.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use isthmus_model::ClusterId;

use crate::finding::Finding;
use crate::object::{Object, ObjectKey};

/// One thing that happened to a cluster's resources.
#[derive(Debug, Clone)]
pub enum Change {
    /// The object is new or has new content.
    Put(Arc<Object>),
    /// The object is gone.
    Delete(ObjectKey),
    /// What is wrong with one file or object now; replaces what was said of `scope` before.
    Findings {
        /// The file (or object) that the findings are about.
        scope: Arc<str>,
        /// All of them; empty when everything is well again.
        findings: Vec<Finding>,
    },
    /// Everything that existed at the start has been sent.
    Synced,
}

/// Receives changes in the order in which they happened. Returns `false` when nobody listens any more.
pub trait Sink: Send {
    /// Takes a batch of changes that belong together, such as everything in one file.
    fn send(&mut self, changes: Vec<Change>) -> bool;
}

impl<F: FnMut(Vec<Change>) -> bool + Send> Sink for F {
    fn send(&mut self, changes: Vec<Change>) -> bool {
        self(changes)
    }
}

/// Why a source ended.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The directory, API server or kubeconfig cannot be read at all.
    #[error("{what} cannot be read: {why}")]
    Unreadable {
        /// Path or address.
        what: String,
        /// The system's reason and the remedy.
        why: String,
    },
}

/// A future that a source runs in.
pub type SourceFuture = Pin<Box<dyn Future<Output = Result<(), SourceError>> + Send>>;

/// Where one cluster's resources come from.
pub trait Source: Send {
    /// Sends everything there is, then [`Change::Synced`], then each change, until the sink closes or
    /// the future is dropped. Trouble that passes (a file that does not parse, a watch that breaks) is
    /// a finding, not an end.
    fn run(self: Box<Self>, sink: Box<dyn Sink>) -> SourceFuture;
}

/// Opens sources to other clusters from their credentials (a remote secret's kubeconfig).
pub trait ClusterConnector: Send + Sync {
    /// A source of the resources of `cluster`.
    ///
    /// # Errors
    /// The credentials cannot be read. An unreachable cluster is no error: its source keeps trying.
    fn connect(&self, cluster: &ClusterId, kubeconfig: &[u8]) -> Result<Box<dyn Source>, SourceError>;
}
