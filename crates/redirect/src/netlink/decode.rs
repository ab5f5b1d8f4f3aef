//! Reads messages. Every length is checked against what is there; nothing panics on what the kernel,
//! or something that claims to be the kernel, sends.

use super::{ATTRIBUTE_HEADER, HEADER, align};
use crate::{Error, Result};

/// Attribute number without its flag bits.
const NLA_TYPE_MASK: u16 = 0x3fff;

/// One message inside a datagram.
#[derive(Debug, Clone, Copy)]
pub struct Frame<'a> {
    /// `nlmsg_type`.
    pub kind: u16,
    /// `nlmsg_flags`.
    pub flags: u16,
    /// `nlmsg_seq`.
    pub sequence: u32,
    /// What follows the header.
    pub payload: &'a [u8],
}

impl<'a> Frame<'a> {
    /// The fixed part of `size` bytes, and the attributes behind it.
    pub fn split(&self, size: usize) -> Result<(&'a [u8], Attributes<'a>)> {
        if self.payload.len() < size {
            return Err(Error::Malformed("the fixed part is cut short"));
        }
        let rest = self.payload.get(align(size)..).unwrap_or_default();
        Ok((&self.payload[..size], Attributes::new(rest)))
    }
}

/// The messages of one datagram.
#[derive(Debug, Clone)]
pub struct Frames<'a> {
    rest: &'a [u8],
}

impl<'a> Frames<'a> {
    /// Over a datagram.
    pub fn new(datagram: &'a [u8]) -> Self {
        Self { rest: datagram }
    }
}

impl<'a> Iterator for Frames<'a> {
    type Item = Result<Frame<'a>>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let (Some(length), Some(kind), Some(flags), Some(sequence)) = (
            u32_at(self.rest, 0),
            u16_at(self.rest, 4),
            u16_at(self.rest, 6),
            u32_at(self.rest, 8),
        ) else {
            self.rest = &[];
            return Some(Err(Error::Malformed("a header is cut short")));
        };
        let length = length as usize;
        if length < HEADER || length > self.rest.len() {
            self.rest = &[];
            return Some(Err(Error::Malformed(
                "a message's length does not fit its datagram",
            )));
        }
        let payload = &self.rest[HEADER..length];
        self.rest = self.rest.get(align(length)..).unwrap_or_default();
        Some(Ok(Frame {
            kind,
            flags,
            sequence,
            payload,
        }))
    }
}

/// One attribute.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attribute<'a> {
    /// Number, without flag bits.
    pub kind: u16,
    /// Content.
    pub value: &'a [u8],
}

impl<'a> Attribute<'a> {
    /// 32 bits in the host's order.
    pub fn u32(&self) -> Result<u32> {
        u32_at(self.value, 0).ok_or(Error::Malformed("a 32-bit attribute is cut short"))
    }

    /// 32 bits in network order.
    pub fn be32(&self) -> Result<u32> {
        self.u32().map(u32::from_be)
    }

    /// Text up to its NUL.
    pub fn text(&self) -> Result<&'a str> {
        let end = self
            .value
            .iter()
            .position(|b| *b == 0)
            .unwrap_or(self.value.len());
        std::str::from_utf8(&self.value[..end]).map_err(|_| Error::Malformed("a name is not UTF-8"))
    }

    /// The attributes it holds.
    pub fn nested(&self) -> Attributes<'a> {
        Attributes::new(self.value)
    }
}

/// A run of attributes.
#[derive(Debug, Clone)]
pub struct Attributes<'a> {
    rest: &'a [u8],
}

impl<'a> Attributes<'a> {
    /// Over raw bytes.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// The first attribute of this number.
    pub fn find(self, kind: u16) -> Result<Option<Attribute<'a>>> {
        for a in self {
            let a = a?;
            if a.kind == kind {
                return Ok(Some(a));
            }
        }
        Ok(None)
    }
}

impl<'a> Iterator for Attributes<'a> {
    type Item = Result<Attribute<'a>>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let (Some(length), Some(kind)) = (u16_at(self.rest, 0), u16_at(self.rest, 2)) else {
            self.rest = &[];
            return Some(Err(Error::Malformed("an attribute's header is cut short")));
        };
        let length = length as usize;
        if length < ATTRIBUTE_HEADER || length > self.rest.len() {
            self.rest = &[];
            return Some(Err(Error::Malformed(
                "an attribute's length does not fit its message",
            )));
        }
        let value = &self.rest[ATTRIBUTE_HEADER..length];
        self.rest = self.rest.get(align(length)..).unwrap_or_default();
        Some(Ok(Attribute {
            kind: kind & NLA_TYPE_MASK,
            value,
        }))
    }
}

pub(crate) fn u16_at(b: &[u8], at: usize) -> Option<u16> {
    b.get(at..at + 2)
        .and_then(|s| s.try_into().ok())
        .map(u16::from_ne_bytes)
}

pub(crate) fn u32_at(b: &[u8], at: usize) -> Option<u32> {
    b.get(at..at + 4)
        .and_then(|s| s.try_into().ok())
        .map(u32::from_ne_bytes)
}
