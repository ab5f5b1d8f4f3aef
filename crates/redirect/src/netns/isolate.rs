//! A command in namespaces of its own, without privileges where the kernel allows that.

use std::ffi::CStr;
use std::process::Command;

use nix::sched::CloneFlags;
use nix::unistd::{Gid, Uid, getegid, geteuid};

use crate::sys::{SelfWrites, unshare_before_exec};

/// How the one user of a rootless namespace appears inside it: as root.
#[derive(Debug, Clone, Copy)]
pub struct IdMaps {
    uid: Uid,
    gid: Gid,
}

impl IdMaps {
    /// The calling process's own user and group, seen inside as 0. An unprivileged process may map no other.
    pub fn own_as_root() -> Self {
        Self {
            uid: geteuid(),
            gid: getegid(),
        }
    }

    /// What a process writes about itself right after it has entered its user namespace, in this order:
    /// path under `/proc/self` and content (user_namespaces(7): `setgroups` before `gid_map`).
    pub fn files(&self) -> [(&'static CStr, Vec<u8>); 3] {
        [
            (c"/proc/self/setgroups", b"deny".to_vec()),
            (c"/proc/self/uid_map", format!("0 {} 1\n", self.uid).into_bytes()),
            (c"/proc/self/gid_map", format!("0 {} 1\n", self.gid).into_bytes()),
        ]
    }
}

/// Has `command` run in new namespaces of the kinds in `flags`. Without root, or when asked for, one of
/// them is a user namespace in which the caller is root.
pub fn isolate(command: &mut Command, flags: CloneFlags) {
    if geteuid().is_root() && !flags.contains(CloneFlags::CLONE_NEWUSER) {
        unshare_before_exec(command, flags, SelfWrites(Vec::new()));
    } else {
        let maps = IdMaps::own_as_root().files().into();
        unshare_before_exec(command, flags | CloneFlags::CLONE_NEWUSER, SelfWrites(maps));
    }
}
