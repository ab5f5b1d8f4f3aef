//! Kubernetes as a source and as a place to write. The only crate that knows `kube`; everybody else sees
//! the seams of `api::source` and `pki`.
//!
//! ```text
//!   kubeconfig, in-cluster account, remote secret ─▶ Cluster ─┬▶ source   watches ─▶ api::source::Change
//!                                                             ├▶ apply    server-side apply, prune, wait
//!                                                             ├▶ review   TokenReview ─▶ pki::Authenticator
//!                                                             └▶ lease    one writer among replicas
//! ```

pub mod apply;
mod connect;
mod resources;
mod rest;

pub use apply::{Applier, ApplyError};
pub use connect::{Cluster, ConnectError, Credentials};
pub use resources::{Resource, Resources};
pub use rest::RequestError;
