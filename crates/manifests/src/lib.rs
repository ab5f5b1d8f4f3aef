//! Every Kubernetes object that Isthmus owns, as pure functions: from profiles, IstioOperator files and
//! `--set` paths to a list of objects in dependency order, from a pod to the same pod with its sidecar.
//! Nothing here talks to an API server.
//!
//! ```text
//!   profile ◀─ IstioOperator files ◀─ --set   ─▶ install ─▶ objects ─▶ `manifest generate`, `install`
//!                                                   └─────▶ Helm charts (generated, drift-checked)
//!   api::kinds ─▶ crds                          pod + namespace + injection config ─▶ inject ─▶ JSON patch
//! ```
