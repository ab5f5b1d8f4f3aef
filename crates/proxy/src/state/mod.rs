//! From validated resources to what the workers see.
//!
//! It knows which resources stand, which still wait for others, and which were refused; it opens no
//! connection to a control plane and carries no traffic.
//!
//! ```text
//!   config ──▶ cascade ──▶ warming ──▶ live ──watch──▶ workers
//!              one type      waits for     Arc<Live>, unchanged parts shared
//!              at a time     what it names
//! ```

mod build;
pub mod cascade;
pub mod live;
pub mod references;
pub mod resolution;
pub mod store;
#[cfg(test)]
mod tests;
pub mod warming;

pub use cascade::{Rejection, State, Wanted};
pub use live::{Live, Roots, Secret};
pub use resolution::{Answer, Resolutions};
