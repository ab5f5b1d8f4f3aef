//! Netlink as bytes: a bounded encoder, a checked decoder, and a socket that asks and waits for the answer.
//!
//! It knows the frame (RFC 3549, `nlmsghdr`, `nlattr`) and acknowledgements; `rtnetlink` and `nft` know
//! what goes inside.

mod decode;
mod encode;
mod socket;
#[cfg(test)]
mod tests;

pub use decode::{Attribute, Attributes, Frame, Frames};
pub use encode::{Batch, Message};
pub use socket::{Protocol, Socket, Subject};

/// Netlink aligns messages and attributes to this many bytes.
pub(crate) const ALIGN: usize = 4;
/// Size of `nlmsghdr`.
pub(crate) const HEADER: usize = 16;
/// Size of `nlattr`.
pub(crate) const ATTRIBUTE_HEADER: usize = 4;

pub(crate) const fn align(n: usize) -> usize {
    (n + ALIGN - 1) & !(ALIGN - 1)
}
