//! The Kubernetes resources that the mesh reads, one file per kind, with the fields that it uses.
//!
//! A struct holds the whole body of an object but `apiVersion`, `kind` and `metadata`.

pub mod config_map;
pub mod deployment;
pub mod endpoint_slice;
pub mod namespace;
pub mod node;
pub mod pod;
pub mod secret;
pub mod service;
pub mod service_account;

pub use config_map::ConfigMap;
pub use deployment::Deployment;
pub use endpoint_slice::EndpointSlice;
pub use namespace::Namespace;
pub use node::Node;
pub use pod::Pod;
pub use secret::{REMOTE_SECRET_LABEL, Secret};
pub use service::Service;
pub use service_account::ServiceAccount;

use serde::{Deserialize, Serialize};

/// A port by number or by name.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum IntOrString {
    /// By number.
    Number(u16),
    /// By the container port's name.
    Name(String),
}

impl Default for IntOrString {
    fn default() -> Self {
        Self::Name(String::new())
    }
}

impl Serialize for IntOrString {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Number(n) => serializer.serialize_u16(*n),
            Self::Name(s) => serializer.serialize_str(s),
        }
    }
}

impl<'de> Deserialize<'de> for IntOrString {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;

        impl serde::de::Visitor<'_> for Either {
            type Value = IntOrString;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a port number or name")
            }

            fn visit_i64<E: serde::de::Error>(self, n: i64) -> Result<IntOrString, E> {
                u16::try_from(n)
                    .map(IntOrString::Number)
                    .map_err(|_| E::custom(format_args!("{n} is out of range; write a port from 1 to 65535")))
            }

            fn visit_u64<E: serde::de::Error>(self, n: u64) -> Result<IntOrString, E> {
                self.visit_i64(i64::try_from(n).unwrap_or(i64::MAX))
            }

            fn visit_str<E: serde::de::Error>(self, s: &str) -> Result<IntOrString, E> {
                Ok(IntOrString::Name(s.to_owned()))
            }
        }

        deserializer.deserialize_any(Either)
    }
}
