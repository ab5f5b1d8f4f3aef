//! The rules of each kind, one file per kind; what they have in common in files of their own.
//!
//! A rule looks at one object. What needs several objects is in [`crate::analyze`].

mod authorization_policy;
mod config_map;
mod destination_rule;
mod endpoint_slice;
mod envoy_filter;
mod field;
mod gateway;
mod istio_operator;
mod kubernetes;
mod mesh_config;
pub mod metadata;
mod peer_authentication;
mod proxy_config;
mod request_authentication;
mod server_tls;
mod service;
mod service_entry;
mod sidecar;
mod telemetry;
#[cfg(test)]
mod tests;
mod traffic_policy;
mod virtual_service;
mod wasm_plugin;
mod workload_entry;
mod workload_group;

use std::cell::RefCell;
use std::fmt::Display;
use std::sync::Arc;

use crate::codes::{self, Code};
use crate::finding::{Finding, Level};
use crate::kinds::Kind;
use crate::object::{Meta, ObjectKey, Origin};
use crate::position::Positions;

/// Content that can be checked.
pub trait Validate {
    /// Reports what is wrong.
    fn validate(&self, context: &Context<'_>);
}

/// The object under validation and what was found so far.
pub struct Context<'a> {
    key: &'a ObjectKey,
    meta: &'a Meta,
    positions: &'a Positions,
    origin: &'a Origin,
    findings: RefCell<Vec<Finding>>,
}

/// More findings about one object would help nobody.
const MOST_FINDINGS: usize = 100;

impl<'a> Context<'a> {
    /// Begins the validation of an object.
    pub fn new(key: &'a ObjectKey, meta: &'a Meta, positions: &'a Positions, origin: &'a Origin) -> Self {
        Self {
            key,
            meta,
            positions,
            origin,
            findings: RefCell::default(),
        }
    }

    /// The object's kind.
    pub fn kind(&self) -> Kind {
        self.key.kind
    }

    /// The object's metadata.
    pub fn meta(&self) -> &'a Meta {
        self.meta
    }

    /// A place in the object, by path.
    pub fn at(&self, path: &str) -> At<'_> {
        At {
            context: self,
            path: path.to_owned(),
        }
    }

    /// The line of a field, or of the nearest enclosing one.
    pub fn line(&self, path: &str) -> u32 {
        self.positions.line(path)
    }

    /// The file of the object.
    pub fn file(&self) -> &'a Arc<str> {
        &self.origin.file
    }

    /// Takes over findings that were made elsewhere.
    pub fn extend(&self, findings: Vec<Finding>) {
        self.findings.borrow_mut().extend(findings);
    }

    /// The findings.
    pub fn into_findings(self) -> Vec<Finding> {
        self.findings.into_inner()
    }
}

/// A place in the object under validation.
#[derive(Clone)]
pub struct At<'c> {
    context: &'c Context<'c>,
    path: String,
}

impl<'c> At<'c> {
    /// The field `name` of what stands here.
    #[must_use]
    pub fn field(&self, name: &str) -> Self {
        let path = if name.contains(['.', '/', '[']) {
            format!("{}[{name:?}]", self.path)
        } else if self.path.is_empty() {
            name.to_owned()
        } else {
            format!("{}.{name}", self.path)
        };
        Self {
            context: self.context,
            path,
        }
    }

    /// The item `i` of the list that stands here.
    #[must_use]
    pub fn index(&self, i: usize) -> Self {
        Self {
            context: self.context,
            path: format!("{}[{i}]", self.path),
        }
    }

    /// Breaks the schema or a rule of the kind.
    pub fn error(&self, message: impl Display, remedy: impl Display) {
        self.report(&codes::SCHEMA, Level::Error, message, remedy);
    }

    /// Valid, but perhaps not as meant.
    pub fn warn(&self, message: impl Display, remedy: impl Display) {
        self.report(&codes::SCHEMA_WARNING, Level::Warning, message, remedy);
    }

    /// Anything else, at the code's own level.
    pub fn finding(&self, code: &'static Code, message: impl Display, remedy: impl Display) {
        self.report(code, code.level, message, remedy);
    }

    /// The object's metadata.
    pub fn meta(&self) -> &'c Meta {
        self.context.meta
    }

    fn report(&self, code: &'static Code, level: Level, message: impl Display, remedy: impl Display) {
        let mut findings = self.context.findings.borrow_mut();
        if findings.len() >= MOST_FINDINGS {
            return;
        }
        let line = match self.context.positions.line(&self.path) {
            0 => self.context.origin.line,
            line => line,
        };
        let message = if self.path.is_empty() {
            message.to_string()
        } else {
            format!("{}: {message}", self.path)
        };
        findings.push(
            Finding::new(code, message, remedy.to_string())
                .level(level)
                .at(&self.context.origin.file, line)
                .about(self.context.key),
        );
    }
}
