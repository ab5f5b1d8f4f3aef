//! What the kernel has to be told so that traffic reaches the proxy: nf_tables rules, links, routes
//! and namespaces, over netlink itself. No `ip`, `nft` or `iptables` binary is needed.
//!
//! ```text
//!  pod annotations ──> capture::Plan ──> nft::Table ──> netlink batch ──> kernel
//!                                          ├─ nft text        (--dry-run)
//!                                          └─ iptables text   (--dry-run)
//!  rtnetlink::Handle ──> links, addresses, routes of the calling thread's network namespace
//!  netns ──> network namespaces held by a file descriptor; user, mount and pid namespaces
//! ```
//!
//! Everything is synchronous and acts on the network namespace of the calling thread
//! ([`netns::NetNs::run`] chooses another). It does not carry traffic, watch for changes, or know what a
//! Service is: `sandbox` and the binary decide what is programmed.

pub mod capture;
mod error;
pub mod netlink;
pub mod netns;
pub mod nft;
pub mod rtnetlink;
mod sys;

pub use error::{Error, Result};
