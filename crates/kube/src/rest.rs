//! One request to an API server, and its answer in words that help.

use std::time::Duration;

use http::{Method, Request, StatusCode, header};
use http_body_util::{BodyExt, Limited};
use kube::client::Body;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::connect::Cluster;

/// An answer that is not a stream arrives within this time.
const PATIENCE: Duration = Duration::from_secs(30);
/// Largest answer that is read, in bytes; a page of 500 objects of etcd's largest is larger and is refused.
const LARGEST: usize = 256 << 20;
/// Objects with every field.
pub(crate) const JSON: &str = "application/json";
/// A key set (RFC 7517), which an API server hands out under no other name.
pub(crate) const KEY_SET: &str = "application/jwk-set+json,application/json";
/// A server-side apply.
pub(crate) const APPLY: &str = "application/apply-patch+yaml";
/// RFC 7386.
pub(crate) const MERGE: &str = "application/merge-patch+json";

/// Why a request to an API server came to nothing.
#[derive(Debug, Clone, thiserror::Error)]
pub enum RequestError {
    /// No answer: nobody listens, no way, no time, or TLS that fails.
    #[error("the API server {server} cannot be reached: {why}")]
    Unreachable {
        /// Address of the API server.
        server: String,
        /// The system's reason.
        why: String,
    },
    /// An answer that says no.
    #[error("{message}")]
    Refused {
        /// HTTP status.
        code: u16,
        /// `status.reason`, such as `Forbidden`, `NotFound`, `Conflict`, `Expired`.
        reason: String,
        /// `status.message`.
        message: String,
    },
    /// An answer that cannot be read.
    #[error("the API server {server} answers what cannot be read: {why}")]
    Malformed {
        /// Address of the API server.
        server: String,
        /// What is wrong with it.
        why: String,
    },
}

impl RequestError {
    /// The HTTP status of a refusal.
    pub fn code(&self) -> Option<u16> {
        match self {
            Self::Refused { code, .. } => Some(*code),
            Self::Unreachable { .. } | Self::Malformed { .. } => None,
        }
    }

    /// Whether there is no such object, kind or path.
    pub fn is_not_found(&self) -> bool {
        self.code() == Some(404)
    }

    /// Whether credentials or permissions do not suffice.
    pub fn is_forbidden(&self) -> bool {
        matches!(self.code(), Some(401 | 403))
    }

    /// Whether a version or continuation is too old (410).
    pub fn is_gone(&self) -> bool {
        self.code() == Some(410)
    }
}

/// What is sent.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Call<'a> {
    pub method: &'a Method,
    /// Path and query, both encoded.
    pub path: &'a str,
    pub accept: &'a str,
    /// Media type and content.
    pub body: Option<(&'a str, &'a Value)>,
}

impl<'a> Call<'a> {
    pub fn get(path: &'a str) -> Self {
        Self {
            method: &Method::GET,
            path,
            accept: JSON,
            body: None,
        }
    }

    pub fn with(method: &'a Method, path: &'a str, media: &'a str, body: &'a Value) -> Self {
        Self {
            method,
            path,
            accept: JSON,
            body: Some((media, body)),
        }
    }
}

impl Cluster {
    /// Sends a request and reads the whole answer.
    pub(crate) async fn call<T: DeserializeOwned>(
        &self,
        call: Call<'_>,
    ) -> Result<(StatusCode, T), RequestError> {
        let (status, bytes) = self.bytes(call).await?;
        let read = serde_json::from_slice(&bytes).map_err(|e| self.malformed(&e))?;
        Ok((status, read))
    }

    /// Reads one path.
    pub(crate) async fn get(&self, path: &str) -> Result<Value, RequestError> {
        Ok(self.call(Call::get(path)).await?.1)
    }

    /// Sends a request and reads the whole answer as it is.
    pub(crate) async fn bytes(&self, call: Call<'_>) -> Result<(StatusCode, Vec<u8>), RequestError> {
        let whole = async {
            let response = self.send(call).await?;
            let status = response.status();
            let body = Limited::new(response.into_body(), LARGEST).collect().await;
            let body = body.map_err(|e| self.unreachable(&*e))?;
            Ok((status, body.to_bytes().to_vec()))
        };
        match tokio::time::timeout(PATIENCE, whole).await {
            Ok(answered) => answered,
            Err(_) => Err(RequestError::Unreachable {
                server: self.server().to_owned(),
                why: format!("no answer within {} s", PATIENCE.as_secs()),
            }),
        }
    }

    /// Sends a request; the answer's head says yes, its body is still to come.
    pub(crate) async fn send(&self, call: Call<'_>) -> Result<http::Response<Body>, RequestError> {
        let request = Request::builder()
            .method(call.method)
            .uri(call.path)
            .header(header::ACCEPT, call.accept);
        let request = match call.body {
            Some((media, value)) => {
                let bytes = serde_json::to_vec(value).map_err(|e| self.malformed(&e))?;
                request
                    .header(header::CONTENT_TYPE, media)
                    .body(Body::from(bytes))
            }
            None => request.body(Body::empty()),
        };
        let request = request.map_err(|e| self.malformed(&e))?;
        let response = self
            .client()
            .send(request)
            .await
            .map_err(|e| self.unreachable(&e))?;
        if response.status().is_success() {
            return Ok(response);
        }
        let status = response.status();
        let body = Limited::new(response.into_body(), LARGEST).collect().await;
        let body = body.map(|b| b.to_bytes()).unwrap_or_default();
        Err(refusal(status, &body))
    }

    pub(crate) fn unreachable(&self, error: &(dyn std::error::Error + 'static)) -> RequestError {
        RequestError::Unreachable {
            server: self.server().to_owned(),
            why: chain(error),
        }
    }

    fn malformed(&self, error: &dyn std::fmt::Display) -> RequestError {
        RequestError::Malformed {
            server: self.server().to_owned(),
            why: error.to_string(),
        }
    }
}

/// A refusal from a `Status` object, or from whatever text stands in its place.
fn refusal(status: StatusCode, body: &[u8]) -> RequestError {
    let json: Value = serde_json::from_slice(body).unwrap_or_default();
    let text = |name: &str| json.get(name).and_then(Value::as_str).unwrap_or_default();
    let message = match text("message") {
        "" => {
            let body: String = String::from_utf8_lossy(body).trim().chars().take(500).collect();
            if body.is_empty() {
                status.to_string()
            } else {
                format!("{status}: {body}")
            }
        }
        message => message.to_owned(),
    };
    RequestError::Refused {
        code: status.as_u16(),
        reason: text("reason").to_owned(),
        message,
    }
}

/// An error with its causes, each said once.
pub(crate) fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut said = error.to_string();
    // kube's names of its own layers, before what went wrong.
    for layer in ["ServiceError: ", "HyperError: "] {
        if let Some(rest) = said.strip_prefix(layer) {
            said = rest.to_owned();
        }
    }
    let mut next = error.source();
    while let Some(cause) = next {
        let text = cause.to_string();
        if !said.contains(&text) {
            said.push_str(": ");
            said.push_str(&text);
        }
        next = cause.source();
    }
    said
}

/// A path segment or query value, percent-encoded (RFC 3986 section 2.3).
pub(crate) fn encoded(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(byte as char);
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}
