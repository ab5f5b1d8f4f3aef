//! `splice(2)` between two sockets through pooled pipes.
//!
//! A user may hold only so many pages in pipes (`pipe-user-pages-soft`, 16,384 pages: 64 pipes of 1 MB);
//! beyond that enlarging fails with EPERM. So pipes are pooled per worker, and one that could not be
//! enlarged works at its own size.

use std::cell::RefCell;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, SpliceFFlags, fcntl, splice};
use nix::unistd::pipe2;

/// What a pipe is enlarged to, bytes.
const PIPE_BYTES: usize = 1 << 20;
/// Pipes kept for the next use on each worker.
const POOLED: usize = 32;

thread_local! {
    static POOL: RefCell<Vec<Pipe>> = const { RefCell::new(Vec::new()) };
}

/// A pipe that is empty between uses.
#[derive(Debug)]
pub struct Pipe {
    read: OwnedFd,
    write: OwnedFd,
    capacity: usize,
    /// Bytes inside.
    held: usize,
}

impl Pipe {
    /// From the pool, or a new one.
    pub fn take() -> io::Result<Self> {
        if let Some(pipe) = POOL.with_borrow_mut(Vec::pop) {
            return Ok(pipe);
        }
        let (read, write) = pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)?;
        let capacity = [PIPE_BYTES, PIPE_BYTES / 4]
            .into_iter()
            .find_map(|size| fcntl(&write, FcntlArg::F_SETPIPE_SZ(size as i32)).ok())
            .map_or(65_536, |n| n.max(4096) as usize);
        Ok(Self {
            read,
            write,
            capacity,
            held: 0,
        })
    }

    /// Bytes inside.
    pub fn held(&self) -> usize {
        self.held
    }

    /// Moves what the socket has into the pipe. 0 is the end of the stream; `WouldBlock` that nothing is
    /// there. Call with an empty pipe, so that a full pipe cannot look like an empty socket.
    pub fn fill(&mut self, from: impl AsFd) -> io::Result<usize> {
        let n = moved(|| {
            splice(
                from.as_fd(),
                None,
                self.write.as_fd(),
                None,
                self.capacity,
                SpliceFFlags::SPLICE_F_MOVE | SpliceFFlags::SPLICE_F_NONBLOCK,
            )
        })?;
        self.held += n;
        Ok(n)
    }

    /// Moves what the pipe has into the socket, as far as the socket takes it.
    pub fn empty(&mut self, to: impl AsFd) -> io::Result<usize> {
        let n = moved(|| {
            splice(
                self.read.as_fd(),
                None,
                to.as_fd(),
                None,
                self.held,
                SpliceFFlags::SPLICE_F_MOVE | SpliceFFlags::SPLICE_F_NONBLOCK,
            )
        })?;
        self.held -= n.min(self.held);
        Ok(n)
    }

    /// Back into the pool, when it is empty and there is room.
    pub fn give_back(self) {
        if self.held == 0 {
            POOL.with_borrow_mut(|pool| {
                if pool.len() < POOLED {
                    pool.push(self);
                }
            });
        }
    }
}

fn moved(mut call: impl FnMut() -> nix::Result<usize>) -> io::Result<usize> {
    loop {
        match call() {
            Err(Errno::EINTR) => {}
            Err(e) => return Err(e.into()),
            Ok(n) => return Ok(n),
        }
    }
}
