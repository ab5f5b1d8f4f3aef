//! The system calls that have no safe wrapper: netlink socket options, and what a child does between
//! `fork` and `exec`. Everything unsafe of this crate is here.
#![allow(unsafe_code)]

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::Command;

use nix::errno::Errno;
use nix::sched::CloneFlags;

/// Sets an integer option of a netlink socket (`NETLINK_EXT_ACK`, `NETLINK_CAP_ACK`).
pub(crate) fn set_netlink_option(fd: BorrowedFd<'_>, option: i32, value: i32) -> Result<(), Errno> {
    // SAFETY: the pointer and the length describe `value`, which lives over the call.
    let r = unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            libc::SOL_NETLINK,
            option,
            (&raw const value).cast(),
            size_of::<i32>() as libc::socklen_t,
        )
    };
    Errno::result(r).map(drop)
}

/// Files to be written by a process about itself, prepared before it is forked: after `fork` nothing
/// may be allocated.
pub(crate) struct SelfWrites(pub(crate) Vec<(&'static CStr, Vec<u8>)>);

impl SelfWrites {
    fn write_all(&self) -> io::Result<()> {
        for (path, content) in &self.0 {
            // SAFETY: the path is a C string; open, write and close are async-signal-safe.
            let fd = unsafe { libc::open(path.as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC) };
            if fd < 0 {
                return Err(io::Error::last_os_error());
            }
            // SAFETY: `fd` was just opened and nobody else owns it.
            let fd = unsafe { OwnedFd::from_raw_fd(fd) };
            // SAFETY: pointer and length are those of `content`.
            let n = unsafe { libc::write(fd.as_raw_fd(), content.as_ptr().cast(), content.len()) };
            if n < 0 {
                return Err(io::Error::last_os_error());
            }
        }
        Ok(())
    }
}

/// Makes `command`'s child leave for new namespaces before it executes, then write `maps`.
pub(crate) fn unshare_before_exec(command: &mut Command, flags: CloneFlags, maps: SelfWrites) {
    // SAFETY: the closure calls unshare, open, write and close alone, all async-signal-safe, and
    // allocates nothing.
    unsafe {
        command.pre_exec(move || {
            nix::sched::unshare(flags)?;
            maps.write_all()
        });
    }
}
