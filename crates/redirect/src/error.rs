//! What went wrong, on which object, and what helps.

use nix::errno::Errno;

/// Result of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// A refusal by the kernel or by our own checks.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel refused an operation.
    #[error("{operation} {object}: {errno}{detail}{}", remedy(*.errno).map(|r| format!(" ({r})")).unwrap_or_default())]
    Kernel {
        /// What was tried: "add link", "program table".
        operation: &'static str,
        /// On what: a link, an address, a table.
        object: String,
        /// The kernel's answer.
        errno: Errno,
        /// The kernel's own words (extended ACK), with a leading separator; may be empty.
        detail: String,
    },
    /// What the kernel sent cannot be read.
    #[error("netlink message: {0}")]
    Malformed(&'static str),
    /// A message would exceed what netlink can carry.
    #[error("netlink message: {what} is {size} bytes, at most {limit} fit")]
    TooLong {
        /// The attribute or message.
        what: &'static str,
        /// Its size, bytes.
        size: usize,
        /// The limit, bytes.
        limit: usize,
    },
    /// A link that should exist does not.
    #[error("link {0}: there is no such link in this network namespace")]
    NoLink(String),
    /// A name that the kernel would not take.
    #[error("{what} {name:?}: {reason}")]
    Name {
        /// Kind of object.
        what: &'static str,
        /// The name given.
        name: String,
        /// Why it cannot be.
        reason: &'static str,
    },
    /// An annotation that cannot be read.
    #[error("annotation {annotation}: {value:?}: {reason}")]
    Annotation {
        /// Full name of the annotation.
        annotation: String,
        /// The part of its value that is wrong.
        value: String,
        /// What would be right.
        reason: &'static str,
    },
    /// A program that makes no sense, found before the kernel is asked.
    #[error("nf_tables table {table}: {reason}")]
    Program {
        /// The table.
        table: String,
        /// What is wrong with it.
        reason: String,
    },
    /// What the kernel holds is not what was programmed.
    #[error("nf_tables table {table}: {difference}; apply the rules again")]
    Differs {
        /// The table.
        table: String,
        /// The first difference found.
        difference: String,
    },
    /// A file or a system call other than netlink failed.
    #[error("{operation}: {source}")]
    Io {
        /// What was tried, with the path or name.
        operation: String,
        /// Why it failed.
        source: std::io::Error,
    },
}

impl Error {
    pub(crate) fn io(operation: impl Into<String>) -> impl FnOnce(std::io::Error) -> Self {
        let operation = operation.into();
        move |source| Self::Io { operation, source }
    }

    pub(crate) fn call(operation: impl Into<String>) -> impl FnOnce(Errno) -> Self {
        let operation = operation.into();
        move |errno| Self::Io {
            operation,
            source: errno.into(),
        }
    }

    /// The kernel's error number, when there is one.
    pub fn errno(&self) -> Option<Errno> {
        match self {
            Self::Kernel { errno, .. } => Some(*errno),
            Self::Io { source, .. } => source.raw_os_error().map(Errno::from_raw),
            _ => None,
        }
    }
}

/// What a person can do about an error number, where the number alone does not say it.
fn remedy(errno: Errno) -> Option<&'static str> {
    match errno {
        Errno::EPERM | Errno::EACCES => {
            Some("needs CAP_NET_ADMIN in this network namespace: run as root or in a user namespace")
        }
        Errno::EOPNOTSUPP => {
            Some("the kernel lacks this feature: load its module (modprobe nf_tables, veth, bridge)")
        }
        Errno::EAFNOSUPPORT | Errno::EPROTONOSUPPORT => {
            Some("the kernel lacks this protocol: load its module (modprobe nf_tables)")
        }
        Errno::ENOENT => Some("it does not exist, or a kernel module that provides it is not loaded"),
        Errno::EEXIST => Some("something of this name is already there; delete it first"),
        Errno::ENETUNREACH => {
            Some("no route leads to the gateway: add its address and bring its link up first")
        }
        Errno::ENOBUFS | Errno::EMSGSIZE => {
            Some("the message is larger than the socket's buffer: raise net.core.wmem_max")
        }
        _ => None,
    }
}
