//! A whole mesh on one machine: without Kubernetes, or with its own control plane and nothing else of it
//! ([`kubernetes`]). The two users are `isthmus demo` and the end-to-end tests.
//!
//! ```text
//!   samples/two-clusters/us/*.yaml ─▶ cluster (kubelet, controllers, cloud)  ─▶ plan::PodPlan
//!                                        │ writes state/*.yaml                      │
//!                                        ▼                                          ▼
//!                                 control plane reads               pod (namespaces, processes, probes)
//!                                                                   network (bridges, routers, balancers)
//!   isthmus exec|apply|get|demo status ─▶ socket ─▶ supervisor (PID 1 of the sandbox) owns all of it
//! ```
//!
//! It stands in for the kubelet, the endpoint controller, kube-proxy and the cloud's load balancer, and
//! for nothing of the mesh itself: control planes and proxies are the real roles of this binary.

pub mod apps;
pub mod cluster;
pub mod demo;
mod error;
pub mod kubernetes;
pub mod network;
pub mod plan;
pub mod pod;
pub mod socket;
pub mod supervisor;
mod sys;

pub use error::{Error, Result};
