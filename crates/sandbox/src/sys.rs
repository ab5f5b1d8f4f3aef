//! The system calls that have no safe wrapper: a process cloned into new namespaces, and what a child
//! does between `fork` and `exec`. Everything unsafe of this crate is here.
#![allow(unsafe_code)]

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::Arc;

use nix::errno::Errno;
use nix::sched::CloneFlags;
use nix::unistd::Pid;

/// What a cloned process becomes; all of it allocated before the clone.
pub(crate) struct Exec {
    pub(crate) path: CString,
    pub(crate) arguments: Vec<CString>,
    pub(crate) environment: Vec<CString>,
    /// Files that the child writes first (its id maps).
    pub(crate) writes: Vec<(&'static CStr, Vec<u8>)>,
    /// Descriptors that the child gets as 0, 1, 2, ...; it gets no others.
    pub(crate) descriptors: Vec<OwnedFd>,
}

/// Steps of the child, reported by number over a pipe.
const STEPS: [&str; 4] = [
    "map user and group ids",
    "pass descriptors",
    "start a session",
    "execute",
];
/// Descriptors on their way to their places are parked from here on.
const PARKED: RawFd = 200;

/// Marks instead of closing (`linux/close_range.h`).
const CLOSE_RANGE_CLOEXEC: libc::c_uint = 4;
/// Descriptors looked at where there is no `close_range`.
const DESCRIPTORS_OLD: libc::c_uint = 4096;

/// Clones a process into new namespaces, where it executes `exec` with the inherited descriptors.
///
/// The error carries the step that failed.
pub(crate) fn clone_exec(flags: CloneFlags, exec: &Exec) -> Result<Pid, (&'static str, Errno)> {
    let pointers = |list: &[CString]| -> Vec<*const libc::c_char> {
        list.iter()
            .map(|s| s.as_ptr())
            .chain([std::ptr::null()])
            .collect()
    };
    let (argv, envp) = (pointers(&exec.arguments), pointers(&exec.environment));
    let descriptors: Vec<RawFd> = exec.descriptors.iter().map(AsRawFd::as_raw_fd).collect();
    let mut parked = descriptors.clone();
    let (report_in, report_out) =
        nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC).map_err(|e| ("open a pipe", e))?;

    let flags = flags.bits() as libc::c_ulong | libc::SIGCHLD as libc::c_ulong;
    // SAFETY: without CLONE_VM the child has a copy of the memory, as after fork; a null stack means
    // its copy of ours. The child calls only async-signal-safe functions, allocates nothing, and
    // leaves by execve or _exit.
    let pid = unsafe { libc::syscall(libc::SYS_clone, flags, 0_usize, 0_usize, 0_usize, 0_usize) };
    if pid == 0 {
        // SAFETY: as above; all pointers point into memory prepared before the clone.
        unsafe {
            child(
                exec,
                &argv,
                &envp,
                &descriptors,
                &mut parked,
                report_out.as_raw_fd(),
            )
        }
    }
    if pid < 0 {
        return Err(("create namespaces", Errno::last()));
    }
    drop(report_out);
    let pid = Pid::from_raw(pid as i32);
    let mut report = [0_u8; 5];
    let n = loop {
        match nix::unistd::read(&report_in, &mut report) {
            Err(Errno::EINTR) => {}
            other => break other,
        }
    };
    match n {
        Ok(0) => Ok(pid),
        Ok(5) => {
            let _ = nix::sys::wait::waitpid(pid, None);
            let errno = Errno::from_raw(i32::from_ne_bytes([report[1], report[2], report[3], report[4]]));
            Err((
                STEPS.get(usize::from(report[0])).copied().unwrap_or("start"),
                errno,
            ))
        }
        _ => Err(("start", Errno::EIO)),
    }
}

/// The child of [`clone_exec`]. Never returns.
unsafe fn child(
    exec: &Exec,
    argv: &[*const libc::c_char],
    envp: &[*const libc::c_char],
    descriptors: &[RawFd],
    parked: &mut [RawFd],
    report: RawFd,
) -> ! {
    // SAFETY: async-signal-safe calls alone, on descriptors and memory that the caller prepared.
    unsafe {
        let report = libc::fcntl(report, libc::F_DUPFD_CLOEXEC, PARKED);
        let fail = |step: u8| -> ! {
            let errno = Errno::last_raw().to_ne_bytes();
            let message = [step, errno[0], errno[1], errno[2], errno[3]];
            libc::write(report, message.as_ptr().cast(), message.len());
            libc::_exit(127)
        };
        for (path, content) in &exec.writes {
            let fd = libc::open(path.as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC);
            if fd < 0 || libc::write(fd, content.as_ptr().cast(), content.len()) < 0 {
                fail(0);
            }
            libc::close(fd);
        }
        for (place, fd) in parked.iter_mut().zip(descriptors) {
            *place = libc::fcntl(*fd, libc::F_DUPFD_CLOEXEC, PARKED);
            if *place < 0 {
                fail(1);
            }
        }
        for (number, fd) in parked.iter().enumerate() {
            if libc::dup2(*fd, number as RawFd) < 0 {
                fail(1);
            }
        }
        // Whatever else this process was started with ends at the exec.
        let first = descriptors.len() as libc::c_uint;
        if libc::syscall(
            libc::SYS_close_range,
            first,
            libc::c_uint::MAX,
            CLOSE_RANGE_CLOEXEC,
        ) < 0
        {
            // Kernels before 5.11 do it one by one.
            for fd in first..DESCRIPTORS_OLD {
                libc::fcntl(fd as RawFd, libc::F_SETFD, libc::FD_CLOEXEC);
            }
        }
        // A session of its own: the terminal's Ctrl-C is for the foreground process, which decides.
        if libc::setsid() < 0 {
            fail(2);
        }
        // What whoever started the demo ignores (nohup; a shell's background jobs) is not the pods' affair.
        for signal in [libc::SIGHUP, libc::SIGINT, libc::SIGQUIT, libc::SIGPIPE] {
            libc::signal(signal, libc::SIG_DFL);
        }
        let mut none: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut());
        libc::execve(exec.path.as_ptr(), argv.as_ptr(), envp.as_ptr());
        fail(3)
    }
}

/// Takes over a descriptor that this process was started with.
pub(crate) fn inherited(fd: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: F_GETFD reads a flag, or fails when the number is not open.
    if unsafe { libc::fcntl(fd, libc::F_GETFD) } < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: it is open, and by the launch protocol nobody else in this process uses the number.
    let owned = unsafe { OwnedFd::from_raw_fd(fd) };
    nix::fcntl::fcntl(
        &owned,
        nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::FD_CLOEXEC),
    )?;
    Ok(owned)
}

/// Has `command` run inside namespaces held by descriptors, in a session of its own, in `directory` as
/// it is there. (The directory of `Command` is entered before, and lost when the mounts change.)
pub(crate) fn join_before_exec<N: AsFd + Send + Sync + 'static>(
    command: &mut Command,
    namespaces: Arc<[(N, CloneFlags)]>,
    directory: CString,
) {
    // SAFETY: the closure calls setns, setsid and chdir alone, which are async-signal-safe, and allocates
    // nothing.
    unsafe {
        command.pre_exec(move || {
            for (ns, kind) in namespaces.iter() {
                nix::sched::setns(ns, *kind)?;
            }
            nix::unistd::setsid()?;
            nix::unistd::chdir(directory.as_c_str())?;
            Ok(())
        });
    }
}
