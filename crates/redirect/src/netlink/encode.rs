//! Writes messages. Lengths are filled in when a nest is closed, so they cannot disagree with the content.

use super::{ATTRIBUTE_HEADER, HEADER, align};
use crate::{Error, Result};

/// Flag of an attribute that holds attributes.
const NLA_F_NESTED: u16 = 1 << 15;

/// One netlink message under construction.
#[derive(Debug, Clone)]
pub struct Message {
    bytes: Vec<u8>,
    /// First attribute that did not fit: what and its size.
    too_long: Option<(&'static str, usize)>,
}

impl Message {
    /// A message of `kind` (`nlmsg_type`) with `flags` besides `NLM_F_REQUEST`.
    pub fn new(kind: u16, flags: u16) -> Self {
        let mut bytes = vec![0; HEADER];
        bytes[4..6].copy_from_slice(&kind.to_ne_bytes());
        bytes[6..8].copy_from_slice(&(flags | libc::NLM_F_REQUEST as u16).to_ne_bytes());
        Self {
            bytes,
            too_long: None,
        }
    }

    /// Fixed part that follows the header (`ifinfomsg`, `nfgenmsg`, ...).
    pub fn fixed(&mut self, bytes: &[u8]) -> &mut Self {
        self.bytes.extend_from_slice(bytes);
        self.pad();
        self
    }

    /// An attribute with raw bytes.
    pub fn bytes(&mut self, kind: u16, value: &[u8]) -> &mut Self {
        let length = ATTRIBUTE_HEADER + value.len();
        let Ok(encoded) = u16::try_from(length) else {
            self.too_long.get_or_insert(("an attribute", length));
            return self;
        };
        self.bytes.extend_from_slice(&encoded.to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(value);
        self.pad();
        self
    }

    /// A NUL-terminated string.
    pub fn text(&mut self, kind: u16, value: &str) -> &mut Self {
        let mut v = Vec::with_capacity(value.len() + 1);
        v.extend_from_slice(value.as_bytes());
        v.push(0);
        self.bytes(kind, &v)
    }

    /// 32 bits in the host's order, as rtnetlink has them.
    pub fn u32(&mut self, kind: u16, value: u32) -> &mut Self {
        self.bytes(kind, &value.to_ne_bytes())
    }

    /// 32 bits in network order, as nf_tables has them.
    pub fn be32(&mut self, kind: u16, value: u32) -> &mut Self {
        self.bytes(kind, &value.to_be_bytes())
    }

    /// 64 bits in network order.
    pub fn be64(&mut self, kind: u16, value: u64) -> &mut Self {
        self.bytes(kind, &value.to_be_bytes())
    }

    /// An attribute that holds what `content` writes.
    pub fn nest(&mut self, kind: u16, content: impl FnOnce(&mut Self)) -> &mut Self {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&[0; ATTRIBUTE_HEADER]);
        content(self);
        let length = self.bytes.len() - start;
        match u16::try_from(length) {
            Ok(l) => {
                self.bytes[start..start + 2].copy_from_slice(&l.to_ne_bytes());
                self.bytes[start + 2..start + 4].copy_from_slice(&(kind | NLA_F_NESTED).to_ne_bytes());
            }
            Err(_) => {
                self.too_long.get_or_insert(("a nested attribute", length));
            }
        }
        self
    }

    /// The message with its length and sequence number; an error when something did not fit.
    pub fn finish(mut self, sequence: u32) -> Result<Vec<u8>> {
        if let Some((what, size)) = self.too_long {
            return Err(Error::TooLong {
                what,
                size,
                limit: u16::MAX as usize,
            });
        }
        let length = u32::try_from(self.bytes.len()).map_err(|_| Error::TooLong {
            what: "a message",
            size: self.bytes.len(),
            limit: u32::MAX as usize,
        })?;
        self.bytes[0..4].copy_from_slice(&length.to_ne_bytes());
        self.bytes[8..12].copy_from_slice(&sequence.to_ne_bytes());
        Ok(self.bytes)
    }

    /// Bytes so far.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Never: the header is always there.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// The attributes written after a fixed part of `fixed` bytes, as the kernel will read them.
    pub fn attributes(&self, fixed: usize) -> super::Attributes<'_> {
        super::Attributes::new(self.bytes.get(HEADER + align(fixed)..).unwrap_or_default())
    }

    /// Sets flags besides those given at the start.
    pub(crate) fn add_flags(&mut self, flags: u16) {
        let old = u16::from_ne_bytes([self.bytes[6], self.bytes[7]]);
        self.bytes[6..8].copy_from_slice(&(old | flags).to_ne_bytes());
    }

    fn pad(&mut self) {
        self.bytes.resize(align(self.bytes.len()), 0);
    }
}

/// Several messages sent as one datagram, which nf_tables takes or refuses as a whole.
#[derive(Debug, Default, Clone)]
pub struct Batch {
    messages: Vec<Message>,
}

impl Batch {
    /// Appends a message.
    pub fn push(&mut self, message: Message) {
        self.messages.push(message);
    }

    /// Asks the kernel to confirm the message appended last.
    pub(crate) fn confirm_last(&mut self) {
        if let Some(m) = self.messages.last_mut() {
            m.add_flags(libc::NLM_F_ACK as u16);
        }
    }

    /// How many messages.
    pub fn len(&self) -> usize {
        self.messages.len()
    }

    /// Whether nothing was appended.
    pub fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }

    /// All messages, numbered from `sequence`.
    pub(crate) fn finish(self, sequence: u32) -> Result<Vec<u8>> {
        let mut all = Vec::new();
        for (i, m) in self.messages.into_iter().enumerate() {
            all.extend_from_slice(&m.finish(sequence.wrapping_add(i as u32))?);
        }
        Ok(all)
    }
}
