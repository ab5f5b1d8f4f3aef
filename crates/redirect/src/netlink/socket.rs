//! A netlink socket that asks and waits for the kernel's answer.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::sockopt::{RcvBuf, ReceiveTimeout, SndBuf};
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, sendto, setsockopt,
    socket,
};
use nix::sys::time::{TimeVal, TimeValLike};

use super::decode::u32_at;
use super::{Attributes, Batch, Frame, Frames, HEADER, Message};
use crate::{Error, Result};

/// Largest datagram read at once; the kernel's dumps use at most 32 KiB.
const BUFFER: usize = 64 * 1024;
/// A batch may be this large; the socket's buffer is raised to it as far as the kernel permits.
const SEND_BUFFER: usize = 1024 * 1024;
/// The kernel answers at once; whoever waits longer waits for nothing. Seconds.
const ANSWER_SECONDS: i64 = 10;
/// A dump that never ends is cut off here.
const MAX_DUMPED: usize = 1 << 20;

/// Which part of the kernel is spoken to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// Links, addresses, routes, neighbours.
    Route,
    /// nf_tables.
    Netfilter,
}

/// What is being done and to what, for errors.
#[derive(Debug, Clone, Copy)]
pub struct Subject<'a> {
    pub(crate) operation: &'static str,
    pub(crate) object: &'a str,
}

impl Subject<'_> {
    fn refused(&self, errno: Errno, detail: String) -> Error {
        Error::Kernel {
            operation: self.operation,
            object: self.object.to_owned(),
            errno,
            detail,
        }
    }
}

/// A socket bound to the network namespace in which it was opened.
#[derive(Debug)]
pub struct Socket {
    fd: OwnedFd,
    sequence: u32,
}

impl Socket {
    /// Opens a socket in the calling thread's network namespace.
    pub fn open(protocol: Protocol) -> Result<Self> {
        let (number, object) = match protocol {
            Protocol::Route => (SockProtocol::NetlinkRoute, "NETLINK_ROUTE"),
            Protocol::Netfilter => (SockProtocol::NetlinkNetFilter, "NETLINK_NETFILTER"),
        };
        let subject = Subject {
            operation: "open socket",
            object,
        };
        let refused = |e| subject.refused(e, String::new());
        let fd = socket(
            AddressFamily::Netlink,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC,
            number,
        )
        .map_err(refused)?;
        bind(fd.as_raw_fd(), &NetlinkAddr::new(0, 0)).map_err(refused)?;
        setsockopt(&fd, ReceiveTimeout, &TimeVal::seconds(ANSWER_SECONDS)).map_err(refused)?;
        setsockopt(&fd, SndBuf, &SEND_BUFFER).map_err(refused)?;
        setsockopt(&fd, RcvBuf, &SEND_BUFFER).map_err(refused)?;
        // Older kernels lack these: answers then carry no words and echo the request.
        let _ = crate::sys::set_netlink_option(fd.as_fd(), libc::NETLINK_EXT_ACK, 1);
        let _ = crate::sys::set_netlink_option(fd.as_fd(), libc::NETLINK_CAP_ACK, 1);
        Ok(Self { fd, sequence: 1 })
    }

    /// Sends one message and waits for its acknowledgement.
    pub fn acknowledged(&mut self, mut message: Message, subject: Subject<'_>) -> Result<()> {
        message.add_flags(libc::NLM_F_ACK as u16);
        let sequence = self.next(1);
        self.send(&message.finish(sequence)?, subject)?;
        self.until(sequence, sequence, subject, |_| Ok(()))
    }

    /// Sends a dump request and gives every frame of the answer to `each`.
    pub fn dump(
        &mut self,
        mut message: Message,
        subject: Subject<'_>,
        each: impl FnMut(Frame<'_>) -> Result<()>,
    ) -> Result<()> {
        message.add_flags(libc::NLM_F_DUMP as u16);
        let sequence = self.next(1);
        self.send(&message.finish(sequence)?, subject)?;
        self.until(sequence, sequence, subject, each)
    }

    /// Sends a request for one object and gives the answer to `each`.
    pub fn query(
        &mut self,
        mut message: Message,
        subject: Subject<'_>,
        each: impl FnMut(Frame<'_>) -> Result<()>,
    ) -> Result<()> {
        message.add_flags(libc::NLM_F_ACK as u16);
        let sequence = self.next(1);
        self.send(&message.finish(sequence)?, subject)?;
        self.until(sequence, sequence, subject, each)
    }

    /// Sends a batch whose message at index `confirmed` asks for an acknowledgement; an error for any
    /// message of it is the batch's error. `describe` names the message at an index.
    pub(crate) fn batch(
        &mut self,
        batch: Batch,
        confirmed: usize,
        subject: Subject<'_>,
        describe: impl Fn(usize) -> String,
    ) -> Result<()> {
        let count = batch.len() as u32;
        let first = self.next(count);
        self.send(&batch.finish(first)?, subject)?;
        let wanted = first.wrapping_add(confirmed as u32);
        let mut failure = None;
        let mut buffer = vec![0; BUFFER];
        // One error may arrive per message; the acknowledgement, if the batch is taken, arrives after them.
        for _ in 0..=count {
            let n = match self.receive(&mut buffer, subject) {
                Ok(n) => n,
                Err(e) => return Err(failure.unwrap_or(e)),
            };
            for frame in Frames::new(&buffer[..n]) {
                let frame = frame?;
                if frame.kind != libc::NLMSG_ERROR as u16 {
                    continue;
                }
                let index = frame.sequence.wrapping_sub(first);
                if index >= count {
                    continue;
                }
                let Some((errno, detail)) = refusal(&frame)? else {
                    if frame.sequence == wanted {
                        return failure.map_or(Ok(()), Err);
                    }
                    continue;
                };
                // A refusal of the batch itself (index 0) ends it; the rest repeats or never comes.
                failure.get_or_insert_with(|| {
                    let object = format!("{}, {}", subject.object, describe(index as usize));
                    Error::Kernel {
                        operation: subject.operation,
                        object,
                        errno,
                        detail,
                    }
                });
            }
            if let Some(e) = failure.take() {
                return Err(e);
            }
        }
        Err(failure.unwrap_or(Error::Malformed("a batch was not acknowledged")))
    }

    fn next(&mut self, count: u32) -> u32 {
        let first = self.sequence;
        self.sequence = self.sequence.wrapping_add(count).max(1);
        first
    }

    fn send(&self, bytes: &[u8], subject: Subject<'_>) -> Result<()> {
        let kernel = NetlinkAddr::new(0, 0);
        let n = sendto(self.fd.as_raw_fd(), bytes, &kernel, MsgFlags::empty())
            .map_err(|e| subject.refused(e, String::new()))?;
        if n == bytes.len() {
            Ok(())
        } else {
            Err(Error::Malformed("the kernel took only part of a message"))
        }
    }

    fn receive(&self, buffer: &mut [u8], subject: Subject<'_>) -> Result<usize> {
        loop {
            match recv(self.fd.as_raw_fd(), buffer, MsgFlags::MSG_TRUNC) {
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => {
                    return Err(subject.refused(Errno::ETIMEDOUT, ": the kernel did not answer".to_owned()));
                }
                Err(e) => return Err(subject.refused(e, String::new())),
                Ok(n) if n > buffer.len() => return Err(Error::Malformed("a datagram exceeds the buffer")),
                Ok(n) => return Ok(n),
            }
        }
    }

    /// Reads frames of `first..=last` until the end of a dump or the acknowledgement of `last`.
    fn until(
        &self,
        first: u32,
        last: u32,
        subject: Subject<'_>,
        mut each: impl FnMut(Frame<'_>) -> Result<()>,
    ) -> Result<()> {
        let mut buffer = vec![0; BUFFER];
        let mut seen = 0_usize;
        loop {
            let n = self.receive(&mut buffer, subject)?;
            for frame in Frames::new(&buffer[..n]) {
                let frame = frame?;
                if frame.sequence.wrapping_sub(first) > last.wrapping_sub(first) {
                    continue;
                }
                match i32::from(frame.kind) {
                    libc::NLMSG_ERROR => {
                        if let Some((errno, detail)) = refusal(&frame)? {
                            return Err(subject.refused(errno, detail));
                        }
                        if frame.sequence == last {
                            return Ok(());
                        }
                    }
                    libc::NLMSG_DONE => return Ok(()),
                    _ => {
                        seen += 1;
                        if seen > MAX_DUMPED {
                            return Err(Error::Malformed("a dump does not end"));
                        }
                        each(frame)?;
                    }
                }
            }
        }
    }
}

/// The error inside an `NLMSG_ERROR`, `None` for an acknowledgement, with the kernel's words if it gave any.
fn refusal(frame: &Frame<'_>) -> Result<Option<(Errno, String)>> {
    const NLM_F_CAPPED: u16 = 0x100;
    const NLM_F_ACK_TLVS: u16 = 0x200;
    const NLMSGERR_ATTR_MSG: u16 = 1;
    let code = u32_at(frame.payload, 0).ok_or(Error::Malformed("an error is cut short"))? as i32;
    if code == 0 {
        return Ok(None);
    }
    let mut detail = String::new();
    if frame.flags & NLM_F_ACK_TLVS != 0 {
        let echoed = match u32_at(frame.payload, 4) {
            Some(l) if frame.flags & NLM_F_CAPPED == 0 => super::align(l as usize),
            _ => HEADER,
        };
        let words = Attributes::new(frame.payload.get(4 + echoed..).unwrap_or_default());
        if let Some(m) = words.find(NLMSGERR_ATTR_MSG)? {
            detail = format!(": {}", m.text()?);
        }
    }
    Ok(Some((Errno::from_raw(code.wrapping_neg()), detail)))
}
