//! `v1` Secret. Its content never shows in debug output.

use std::collections::BTreeMap;
use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

/// Label of a Secret with the kubeconfig of another member cluster; its value is `true`.
pub const REMOTE_SECRET_LABEL: &str = "istio/multiCluster";

/// Named bytes that are to stay secret.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Secret {
    /// Base64 by key.
    pub data: BTreeMap<String, String>,
    /// Texts by key, which win over `data`.
    pub string_data: BTreeMap<String, String>,
    /// `kubernetes.io/tls`, `Opaque`, ...
    #[serde(rename = "type")]
    pub secret_type: String,
    /// Whether it may not change.
    pub immutable: Option<bool>,
}

impl Secret {
    /// The bytes under a key; `None` when there is no such key or its base64 is broken.
    pub fn bytes(&self, key: &str) -> Option<Vec<u8>> {
        if let Some(text) = self.string_data.get(key) {
            return Some(text.clone().into_bytes());
        }
        decode(self.data.get(key)?)
    }

    /// Every key, without its bytes.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        let more = self.string_data.keys().filter(|k| !self.data.contains_key(*k));
        self.data.keys().chain(more).map(String::as_str)
    }
}

/// Base64 with the line breaks that people's tools put in.
fn decode(text: &str) -> Option<Vec<u8>> {
    let compact: Vec<u8> = text.bytes().filter(|b| !b.is_ascii_whitespace()).collect();
    STANDARD.decode(compact).ok()
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Secret")
            .field("type", &self.secret_type)
            .field("keys", &self.keys().collect::<Vec<_>>())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_is_read_but_never_printed() {
        let mut secret = Secret::default();
        secret.data.insert("ca-key.pem".into(), "c2Vj\ncmV0".into());
        secret.string_data.insert("note".into(), "plain".into());
        assert_eq!(secret.bytes("ca-key.pem").unwrap(), b"secret");
        assert_eq!(secret.bytes("note").unwrap(), b"plain");
        assert_eq!(secret.bytes("other"), None);
        let shown = format!("{secret:?}");
        assert!(
            shown.contains("ca-key.pem") && !shown.contains("c2Vj") && !shown.contains("plain"),
            "{shown}"
        );
    }
}
