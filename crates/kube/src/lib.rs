//! Kubernetes as a source and as a place to write. The only crate that knows `kube`; everybody else sees
//! the seams of `api::source` and `pki`.
//!
//! ```text
//!   kubeconfig, in-cluster account, remote secret ─▶ Cluster ─┬▶ source   watches ─▶ api::source::Change
//!                                                             ├▶ apply    server-side apply, prune, wait
//!                                                             ├▶ tokens   JWKS, TokenReview ─▶ pki::Authenticator
//!                                                             └▶ lease ─▶ write   one writer among replicas
//! ```

pub mod apply;
mod connect;
mod lease;
mod own_root;
mod pages;
mod resources;
mod rest;
pub mod source;
mod tokens;
mod write;

pub use apply::{Applier, ApplyError};
pub use connect::{Cluster, ConnectError, Credentials};
pub use lease::Lease;
pub use own_root::{OwnRootError, SECRET as OWN_ROOT_SECRET, ensure as ensure_own_root};
pub use resources::{Resource, Resources};
pub use rest::RequestError;
pub use source::{ApiServer, Connector};
pub use tokens::{Config as TokenConfig, ServiceAccounts};
pub use write::{CONFIG_MAP as ROOT_CERT_CONFIG_MAP, KEY as ROOT_CERT_KEY, Writers};
