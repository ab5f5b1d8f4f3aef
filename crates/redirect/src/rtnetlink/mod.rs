//! Links, addresses and routes of one network namespace.
//!
//! Operations that a restart repeats are idempotent: an address or a route that is already there is
//! not an error, nor is deleting a link that is gone. Creating a link whose name is taken is an error,
//! since whose link that is cannot be known.

mod address;
mod link;
#[cfg(test)]
mod tests;

use std::os::fd::BorrowedFd;

pub(crate) use address::octets;
pub use link::Link;

use crate::Result;
use crate::netlink::{Protocol, Socket};

/// Where the other end of a veth pair is put.
#[derive(Debug, Clone, Copy)]
pub enum PeerNamespace<'a> {
    /// In the same namespace.
    Same,
    /// In the namespace that this descriptor holds.
    Fd(BorrowedFd<'a>),
}

/// A door to the links, addresses and routes of the namespace in which it was opened; it stays with
/// that namespace when the thread moves to another.
#[derive(Debug)]
pub struct Handle {
    socket: Socket,
}

impl Handle {
    /// Opens a handle in the calling thread's network namespace.
    pub fn open() -> Result<Self> {
        Ok(Self {
            socket: Socket::open(Protocol::Route)?,
        })
    }
}
