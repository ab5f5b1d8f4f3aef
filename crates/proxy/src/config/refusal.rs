//! Why a resource was refused: which field, and what about it.

use std::fmt;

/// A refused field. `path` is Envoy's, outermost field first: `filter_chains[2].filters[0].cluster`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// Field path within the resource; empty when the whole resource is meant.
    pub path: String,
    /// What is wrong with it and what would be right.
    pub reason: String,
}

impl std::error::Error for Refusal {}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.path.is_empty() {
            f.write_str(&self.reason)
        } else {
            write!(f, "{}: {}", self.path, self.reason)
        }
    }
}

impl Refusal {
    /// Refuses `field`.
    pub fn new(field: impl Into<String>, reason: impl Into<String>) -> Self {
        Self {
            path: field.into(),
            reason: reason.into(),
        }
    }

    /// Refuses a field that this proxy does not act on, and that changes what happens to traffic.
    pub fn unsupported(field: &str) -> Self {
        Self::new(
            field,
            "is set, and this proxy does not do what it asks for; remove it",
        )
    }

    /// The same refusal seen from one message further out.
    pub fn within(mut self, outer: &str) -> Self {
        self.path = match self.path.as_str() {
            "" => outer.to_owned(),
            path if path.starts_with('[') => format!("{outer}{path}"),
            path => format!("{outer}.{path}"),
        };
        self
    }
}

/// Adds the outer field to the path of a refusal.
pub trait At<T> {
    /// `field.` before the path.
    fn at(self, field: &str) -> Result<T, Refusal>;
    /// `field[index].` before the path.
    fn nth(self, field: &str, index: usize) -> Result<T, Refusal>;
}

impl<T> At<T> for Result<T, Refusal> {
    fn at(self, field: &str) -> Result<T, Refusal> {
        self.map_err(|e| e.within(field))
    }

    fn nth(self, field: &str, index: usize) -> Result<T, Refusal> {
        self.map_err(|e| e.within(&format!("{field}[{index}]")))
    }
}

/// Whether a protobuf field says anything.
pub trait IsSet {
    /// Whether it differs from proto3's default.
    fn is_set(&self) -> bool;
}

impl<T> IsSet for Option<T> {
    fn is_set(&self) -> bool {
        self.is_some()
    }
}

impl<T> IsSet for Vec<T> {
    fn is_set(&self) -> bool {
        !self.is_empty()
    }
}

impl<K, V, S> IsSet for std::collections::HashMap<K, V, S> {
    fn is_set(&self) -> bool {
        !self.is_empty()
    }
}

impl IsSet for String {
    fn is_set(&self) -> bool {
        !self.is_empty()
    }
}

impl IsSet for bool {
    fn is_set(&self) -> bool {
        *self
    }
}

impl IsSet for i32 {
    fn is_set(&self) -> bool {
        *self != 0
    }
}

impl IsSet for u32 {
    fn is_set(&self) -> bool {
        *self != 0
    }
}

/// Refuses the message if one of the fields says anything.
macro_rules! refuse_set {
    ($message:expr; $($field:ident),+ $(,)?) => {
        $(if $crate::config::refusal::IsSet::is_set(&$message.$field) {
            return Err($crate::config::refusal::Refusal::unsupported(stringify!($field)));
        })+
    };
}
pub(crate) use refuse_set;
