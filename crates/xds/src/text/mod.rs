//! Envoy's messages as people write and read them: YAML or JSON in, JSON out.
//!
//! ```text
//!   file ── yaml (nodes with positions) ── decode (by descriptor) ──> message    isthmus proxy -c FILE
//!   message ── encode (by descriptor, secrets left out) ──> JSON                 /config_dump
//! ```
//!
//! The rules are proto3's JSON mapping, as Envoy reads its configuration: either spelling of field names,
//! durations as `1.5s`, `@type` in every `typed_config`; an unknown field is an error with its path and line.
//! What the messages mean is not checked here.

mod decode;
mod encode;
#[cfg(test)]
mod tests;
mod yaml;

use std::fmt;

use prost::{Message, Name};

pub use encode::{Printer, to_json};

/// Longest text that is read, in bytes.
pub const LONGEST: usize = 16 << 20;

/// Where in a text something is; lines and columns count from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Position {
    /// Line; 0 when it is not known.
    pub line: u64,
    /// Column.
    pub column: u64,
}

/// Why a text is not the message it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TextError {
    /// Name of the text: the file's path.
    pub origin: String,
    /// Where.
    pub position: Position,
    /// Field path, `static_resources.listeners[0].name`; empty for the whole.
    pub path: String,
    /// What is wrong.
    pub reason: String,
}

impl fmt::Display for TextError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.origin)?;
        if self.position.line > 0 {
            write!(f, ":{}:{}", self.position.line, self.position.column)?;
        }
        if !self.path.is_empty() {
            write!(f, ": {}", self.path)?;
        }
        write!(f, ": {}", self.reason)
    }
}

impl std::error::Error for TextError {}

/// Reads a message from YAML or JSON; `origin` names the text in errors.
pub fn read<M: Message + Name + Default>(origin: &str, text: &str) -> Result<M, TextError> {
    let failed = |position: Position, path: String, reason: String| TextError {
        origin: origin.to_owned(),
        position,
        path,
        reason,
    };
    let whole = |reason: String| failed(Position::default(), String::new(), reason);
    if text.len() > LONGEST {
        return Err(whole(format!("longer than {LONGEST} bytes")));
    }
    let node = yaml::parse(text).map_err(|(position, reason)| failed(position, String::new(), reason))?;
    let name = M::full_name();
    let descriptor = crate::reflect::pool()
        .get_message_by_name(&name)
        .ok_or_else(|| whole(format!("{name} is not a message that Isthmus knows")))?;
    let message = decode::message(&descriptor, &node).map_err(|f| failed(f.position, f.path, f.reason))?;
    M::decode(message.encode_to_vec().as_slice()).map_err(|e| whole(e.to_string()))
}
