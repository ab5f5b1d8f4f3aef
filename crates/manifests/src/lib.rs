//! Every Kubernetes object that Isthmus owns, as pure functions: from profiles, IstioOperator files and
//! `--set` paths to a list of objects in dependency order, from a pod to the same pod with its sidecar.
//! Nothing here talks to an API server.
//!
//! ```text
//!   profile ◀─ IstioOperator files ◀─ --set   ─▶ operator ─▶ values ─▶ deploy/charts ─▶ objects
//!                                                                       └▶ Helm, the same charts
//!   api::kinds ─▶ crd                         pod + namespace + injection config ─▶ inject ─▶ JSON patch
//! ```

pub mod chart;
pub mod crd;
pub mod inject;
pub mod merge;
pub mod operator;
pub mod order;
pub mod profile;
pub mod remote_secret;
pub mod schema;
pub mod stub_domains;
mod template;
pub mod yaml;
