//! The rules of each kind, one file per kind; what they have in common in files of their own.
//!
//! A rule looks at one object. What needs several objects is in [`crate::analyze`].

pub mod metadata;

use std::cell::RefCell;
use std::fmt::Display;

use crate::codes::{self, Code};
use crate::finding::{Finding, Level};
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
impl Validate for crate::kubernetes::Namespace {
    fn validate(&self, _: &Context<'_>) {}
}
impl Validate for crate::kubernetes::Node {
    fn validate(&self, _: &Context<'_>) {}
}
impl Validate for crate::kubernetes::Service {
    fn validate(&self, _: &Context<'_>) {}
}
impl Validate for crate::kubernetes::Pod {
    fn validate(&self, _: &Context<'_>) {}
}
impl Validate for crate::kubernetes::ServiceAccount {
    fn validate(&self, _: &Context<'_>) {}
}
impl Validate for crate::kubernetes::ConfigMap {
    fn validate(&self, _: &Context<'_>) {}
}
impl Validate for crate::kubernetes::Secret {
    fn validate(&self, _: &Context<'_>) {}
}
impl Validate for crate::kubernetes::EndpointSlice {
    fn validate(&self, _: &Context<'_>) {}
}
impl Validate for crate::kubernetes::Deployment {
    fn validate(&self, _: &Context<'_>) {}
}
impl Validate for crate::istio::VirtualService {
    fn validate(&self, _: &Context<'_>) {}
}
impl Validate for crate::istio::DestinationRule {
    fn validate(&self, _: &Context<'_>) {}
}
impl Validate for crate::istio::Gateway {
    fn validate(&self, _: &Context<'_>) {}
}
impl Validate for crate::istio::ServiceEntry {
    fn validate(&self, _: &Context<'_>) {}
}
impl Validate for crate::istio::WorkloadEntry {
    fn validate(&self, _: &Context<'_>) {}
}
impl Validate for crate::istio::WorkloadGroup {
    fn validate(&self, _: &Context<'_>) {}
}
impl Validate for crate::istio::Sidecar {
    fn validate(&self, _: &Context<'_>) {}
}
impl Validate for crate::istio::ProxyConfig {
    fn validate(&self, _: &Context<'_>) {}
}
impl Validate for crate::istio::EnvoyFilter {
    fn validate(&self, _: &Context<'_>) {}
}
impl Validate for crate::istio::PeerAuthentication {
    fn validate(&self, _: &Context<'_>) {}
}
impl Validate for crate::istio::AuthorizationPolicy {
    fn validate(&self, _: &Context<'_>) {}
}
impl Validate for crate::istio::RequestAuthentication {
    fn validate(&self, _: &Context<'_>) {}
}
impl Validate for crate::istio::Telemetry {
    fn validate(&self, _: &Context<'_>) {}
}
impl Validate for crate::istio::WasmPlugin {
    fn validate(&self, _: &Context<'_>) {}
}
impl Validate for crate::istio::IstioOperator {
    fn validate(&self, _: &Context<'_>) {}
}
