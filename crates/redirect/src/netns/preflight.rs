//! Whether this machine lets us have namespaces, and when not, what forbids them and what allows them.

use std::fmt;
use std::fs;
use std::process::{Command, Stdio};

use nix::errno::Errno;
use nix::sched::CloneFlags;
use nix::unistd::geteuid;

use super::isolate;

/// What forbids namespaces here.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct Forbidden {
    /// The answer to the attempt.
    pub errno: Errno,
    /// What is in the way, in words, most likely first.
    pub causes: Vec<Cause>,
}

/// One thing that stands in the way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cause {
    /// What forbids.
    pub what: String,
    /// The command, or change, that allows.
    pub remedy: String,
}

impl fmt::Display for Forbidden {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "this machine does not allow namespaces ({})",
            self.errno.desc()
        )?;
        for c in &self.causes {
            write!(f, "\n  {}\n    to allow it: {}", c.what, c.remedy)?;
        }
        Ok(())
    }
}

/// Tries to have the namespaces a sandbox needs, in a process that ends at once.
pub fn preflight() -> Result<(), Forbidden> {
    let flags = CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWPID;
    // The attempt is made between fork and exec; that `true` may be missing does not matter then.
    let mut command = Command::new("/proc/self/exe/never-a-directory");
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    isolate(&mut command, flags);
    let error = match command.spawn() {
        Ok(mut child) => {
            let _ = child.wait();
            return Ok(());
        }
        Err(e) => e,
    };
    match error.raw_os_error().map(Errno::from_raw) {
        // The exec, and nothing before it, failed: a file is not a directory.
        Some(Errno::ENOTDIR) => Ok(()),
        Some(errno) => Err(explain(errno, geteuid().is_root(), |path| {
            fs::read_to_string(path).ok().map(|s| s.trim().to_owned())
        })),
        None => Err(Forbidden {
            errno: Errno::UnknownErrno,
            causes: Vec::new(),
        }),
    }
}

/// Files by which a distribution forbids user namespaces to others than root, and the forbidding value.
const SWITCHES: [(&str, &str); 2] = [
    ("/proc/sys/kernel/unprivileged_userns_clone", "0"),
    ("/proc/sys/kernel/apparmor_restrict_unprivileged_userns", "1"),
];

/// Finds the causes from the error and what the kernel's files say.
pub(super) fn explain(errno: Errno, root: bool, read: impl Fn(&str) -> Option<String>) -> Forbidden {
    let mut causes: Vec<Cause> = Vec::new();
    let mut add = |what: &str, remedy: &str| {
        causes.push(Cause {
            what: what.to_owned(),
            remedy: remedy.to_owned(),
        });
    };
    let is = |path: &str, value: &str| read(path).is_some_and(|v| v == value);
    if !root {
        if is(SWITCHES[0].0, SWITCHES[0].1) {
            add(
                "kernel.unprivileged_userns_clone is 0: users other than root may not create user namespaces",
                "sudo sysctl -w kernel.unprivileged_userns_clone=1",
            );
        }
        if is(SWITCHES[1].0, SWITCHES[1].1) {
            add(
                "kernel.apparmor_restrict_unprivileged_userns is 1: AppArmor takes all rights inside user namespaces (Ubuntu 23.10 and later)",
                "sudo sysctl -w kernel.apparmor_restrict_unprivileged_userns=0",
            );
        }
    }
    let mut found = !root && SWITCHES.iter().any(|(path, off)| is(path, off));
    for kind in ["user", "net", "mnt", "pid"] {
        let path = format!("/proc/sys/user/max_{kind}_namespaces");
        let limit = read(&path);
        let exhausted = errno == Errno::ENOSPC && limit.as_deref().is_some_and(|l| l != "0");
        if limit.as_deref() == Some("0") && (kind != "user" || !root) {
            found = true;
            add(
                &format!("user.max_{kind}_namespaces is 0: nobody may create {kind} namespaces"),
                &format!("sudo sysctl -w user.max_{kind}_namespaces=15000"),
            );
        } else if exhausted && kind == "user" {
            add(
                "user.max_user_namespaces, or one of its sisters, is used up",
                "sudo sysctl -w user.max_user_namespaces=15000 user.max_net_namespaces=15000",
            );
        }
    }
    if matches!(errno, Errno::EPERM | Errno::ENOSYS | Errno::EACCES) && !found {
        let filtered = read("/proc/self/status").is_some_and(|s| {
            s.lines()
                .any(|l| l.strip_prefix("Seccomp:").is_some_and(|v| v.trim() == "2"))
        });
        if filtered {
            add(
                "a seccomp filter forbids unshare (a container runtime sets one)",
                "docker run --security-opt seccomp=unconfined --security-opt apparmor=unconfined --cap-add SYS_ADMIN --cap-add NET_ADMIN ...",
            );
        } else if root {
            add(
                "this root lacks CAP_SYS_ADMIN (a container without privileges)",
                "docker run --cap-add SYS_ADMIN --cap-add NET_ADMIN --security-opt apparmor=unconfined ..., or run it outside of the container",
            );
        } else {
            add(
                "a security module forbids it (SELinux, AppArmor, or a chroot)",
                "run it as root, or see `journalctl -k` for the module that refused",
            );
        }
    }
    if errno == Errno::EINVAL {
        add(
            "the kernel is built without namespaces (CONFIG_USER_NS, CONFIG_NET_NS, CONFIG_PID_NS)",
            "use a kernel that has them",
        );
    }
    Forbidden { errno, causes }
}
