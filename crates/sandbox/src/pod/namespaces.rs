//! A pod's namespaces: network, mounts and host name, held by descriptors.

use std::ffi::CString;
use std::fs::{self, File};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use isthmus_redirect::capture::{Plan, resolvers};
use isthmus_redirect::netns::{MountNs, NetNs};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::files::{self, Files};
use crate::network::Attachment;
use crate::plan::PodPlan;
use crate::sys::join_before_exec;
use crate::{Error, Result};

#[derive(Debug)]
pub(super) struct Namespaces {
    pub(super) net: NetNs,
    /// What a process joins, in this order.
    joined: Arc<[(Held, CloneFlags)]>,
    /// Where the files of the plan lie.
    pub(super) files: Files,
}

/// A descriptor that holds a namespace.
#[derive(Debug)]
enum Held {
    Net(NetNs),
    Mount(MountNs),
    Other(OwnedFd),
}

impl AsFd for Held {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Net(n) => n.as_fd(),
            Self::Mount(m) => m.as_fd(),
            Self::Other(fd) => fd.as_fd(),
        }
    }
}

impl Namespaces {
    /// Programs capture and arranges mounts, before any process of the pod runs.
    pub(super) fn create(plan: &PodPlan, attachment: Attachment, program: &Path) -> Result<Self> {
        let what = || format!("pod {}", plan.key);
        let Attachment {
            namespace: net,
            address,
        } = attachment;
        let resolv_conf = files::resolv_conf(&plan.dns);
        if let Some(annotations) = &plan.capture {
            let capture = Plan {
                resolvers: resolvers(&resolv_conf),
                ipv6: false,
                ..Plan::default()
            };
            let capture = capture
                .with_annotations(annotations)
                .map_err(Error::kernel(what()))?;
            net.run(|| capture.apply())
                .and_then(|r| r)
                .map_err(Error::kernel(what()))?;
        }

        let hosts = files::hosts(address, &plan.key.name);
        let mut uts = None;
        let mut held = None;
        let mut arranged = Ok(());
        let mounts = MountNs::create(|| {
            uts = Some(own_host_name(&plan.key.name));
            match files::arrange(plan, program, &resolv_conf, &hosts) {
                Ok(f) => held = Some(f),
                Err(e) => arranged = Err(e),
            }
            Ok(())
        })
        .map_err(Error::kernel(what()))?;
        arranged.map_err(|e| Error::Pod {
            pod: plan.key.clone(),
            reason: e.to_string(),
        })?;
        let (Some(uts), Some(files)) = (uts, held) else {
            return Err(Error::Pod {
                pod: plan.key.clone(),
                reason: "its mounts were not arranged".to_owned(),
            });
        };
        let uts = uts.map_err(Error::io(format!("{}: set its host name", what())))?;
        let net_again = net.try_clone().map_err(Error::kernel(what()))?;
        Ok(Self {
            net,
            joined: Arc::new([
                (Held::Net(net_again), CloneFlags::CLONE_NEWNET),
                (Held::Other(uts), CloneFlags::CLONE_NEWUTS),
                // Last: the way to the other descriptors does not lead through paths.
                (Held::Mount(mounts), CloneFlags::CLONE_NEWNS),
            ]),
            files,
        })
    }

    /// Has a command run in the pod, in a directory as the pod sees it.
    pub(super) fn join(&self, command: &mut Command, directory: CString) {
        join_before_exec(command, self.joined.clone(), directory);
    }

    /// Kills every process in the pod's network namespace, those that left their group included.
    pub(super) fn kill_all(&self) {
        let Ok(own) = nix::sys::stat::fstat(&self.net) else {
            return;
        };
        let Ok(processes) = fs::read_dir("/proc") else {
            return;
        };
        for entry in processes.flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|n| n.parse::<i32>().ok()) else {
                continue;
            };
            let same = fs::metadata(format!("/proc/{pid}/ns/net"))
                .is_ok_and(|m| m.ino() == own.st_ino && m.dev() == own.st_dev);
            if same && pid != 1 {
                // It may have ended meanwhile.
                let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
            }
        }
    }
}

/// Gives the calling thread a host name of its own.
fn own_host_name(name: &str) -> std::io::Result<OwnedFd> {
    unshare(CloneFlags::CLONE_NEWUTS)?;
    // The kernel takes 64 bytes.
    let end = name
        .char_indices()
        .map(|(i, c)| i + c.len_utf8())
        .take_while(|e| *e <= 63)
        .last()
        .unwrap_or(0);
    nix::unistd::sethostname(&name[..end])?;
    Ok(File::open("/proc/thread-self/ns/uts")?.into())
}
