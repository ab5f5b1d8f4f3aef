//! What is worth telling the user about a piece of configuration.

use std::fmt;
use std::sync::Arc;

use serde::ser::SerializeStruct;
use serde::{Serialize, Serializer};

use crate::codes::Code;

/// How bad a finding is. Ordered: `Info < Warning < Error`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Level {
    /// Good to know.
    Info,
    /// Works, but perhaps not as meant.
    Warning,
    /// Refused, or certain not to do what was asked.
    Error,
}

impl Level {
    /// As Istio's analyzer writes it: `Error`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Info => "Info",
            Self::Warning => "Warning",
            Self::Error => "Error",
        }
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One observation about one place in the configuration.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Finding {
    /// File, or empty when the object came from an API server.
    pub file: Arc<str>,
    /// Line, from 1; 0 when not known.
    pub line: u32,
    /// What it is, from the table in [`crate::codes`].
    pub code: &'static Code,
    /// How bad.
    pub level: Level,
    /// `Kind namespace/name`; empty when the document could not be read so far.
    pub origin: String,
    /// What is wrong here.
    pub message: String,
    /// What to do about it.
    pub remedy: String,
    /// Member cluster, when several are looked at.
    pub cluster: String,
}

impl Finding {
    /// A finding at the code's own level.
    pub fn new(code: &'static Code, message: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self {
            file: Arc::from(""),
            line: 0,
            code,
            level: code.level,
            origin: String::new(),
            message: message.into(),
            remedy: remedy.into(),
            cluster: String::new(),
        }
    }

    /// Says where it stands.
    #[must_use]
    pub fn at(mut self, file: &Arc<str>, line: u32) -> Self {
        self.file = Arc::clone(file);
        self.line = line;
        self
    }

    /// Says which object it is about.
    #[must_use]
    pub fn about(mut self, origin: impl fmt::Display) -> Self {
        self.origin = origin.to_string();
        self
    }

    /// Sets another level than the code's own.
    #[must_use]
    pub fn level(mut self, level: Level) -> Self {
        self.level = level;
        self
    }

    /// `file:line`, or as much of it as is known.
    pub fn reference(&self) -> String {
        match (self.file.is_empty(), self.line) {
            (true, _) => String::new(),
            (false, 0) => self.file.to_string(),
            (false, line) => format!("{}:{line}", self.file),
        }
    }

    /// Whether the object must not take effect.
    pub fn is_error(&self) -> bool {
        self.level == Level::Error
    }

    fn whole_message(&self) -> String {
        if self.remedy.is_empty() {
            self.message.clone()
        } else {
            format!("{}; {}", self.message, self.remedy)
        }
    }
}

impl fmt::Display for Finding {
    /// One line: `file:line: error [IST0106] (VirtualService default/reviews) message; remedy`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut line = String::new();
        let reference = self.reference();
        if !reference.is_empty() {
            line.push_str(&reference);
            line.push_str(": ");
        }
        line.push_str(&format!(
            "{} [{}] ",
            self.level.as_str().to_ascii_lowercase(),
            self.code.id
        ));
        if !self.origin.is_empty() {
            line.push_str(&format!("({}) ", self.origin));
        }
        line.push_str(&self.whole_message());
        // A name or value from the file must not forge a second line or move the cursor.
        for c in line.chars() {
            if c.is_control() {
                write!(f, "{}", c.escape_default())?
            } else {
                fmt::Write::write_char(f, c)?
            }
        }
        Ok(())
    }
}

impl Serialize for Finding {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut s = serializer.serialize_struct("Finding", 7)?;
        s.serialize_field("code", self.code.id)?;
        s.serialize_field("level", self.level.as_str())?;
        s.serialize_field("origin", &self.origin)?;
        s.serialize_field("reference", &self.reference())?;
        s.serialize_field("message", &self.whole_message())?;
        s.serialize_field("documentationUrl", &self.code.documentation_url())?;
        s.serialize_field("cluster", &self.cluster)?;
        s.end()
    }
}
