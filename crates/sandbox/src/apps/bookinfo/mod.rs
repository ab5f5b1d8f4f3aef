//! Bookinfo: a page about a book, made of three services, with the paths and the JSON of Istio's sample.
//!
//! ```text
//!   productpage /productpage ──> details /details/ID
//!                             └> reviews /reviews/ID  (v1 alone; v2 black, v3 red stars) ──> ratings /ratings/ID
//! ```
//!
//! Every answer also says who gave it (`served_by`), so that the page can show the way it took.

mod details;
mod page;
mod productpage;
mod ratings;
mod reviews;

use std::time::Duration;

use http::{HeaderMap, HeaderName, StatusCode};
use serde_json::Value;

pub use details::Details;
pub use productpage::Productpage;
pub use ratings::Ratings;
pub use reviews::Reviews;

use super::http as web;

/// How long one part of the page may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// Headers that are passed on, so that traces hang together and routes by user work.
const PASSED_ON: [&str; 19] = [
    "x-request-id",
    "traceparent",
    "tracestate",
    "b3",
    "x-b3-traceid",
    "x-b3-spanid",
    "x-b3-parentspanid",
    "x-b3-sampled",
    "x-b3-flags",
    "x-ot-span-context",
    "x-datadog-trace-id",
    "x-datadog-parent-id",
    "x-datadog-sampling-priority",
    "x-cloud-trace-context",
    "sw8",
    "end-user",
    "user-agent",
    "authorization",
    "cookie",
];

/// Where the other services are, as `HOST:PORT`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Backends {
    /// The details service.
    pub details: String,
    /// The reviews service.
    pub reviews: String,
    /// The ratings service.
    pub ratings: String,
}

impl Backends {
    /// Short names, unless the environment says otherwise, as Istio's Bookinfo reads it.
    pub(super) fn from_environment() -> Self {
        Self::of(|name| std::env::var(name).ok().filter(|v| !v.is_empty()))
    }

    fn of(variable: impl Fn(&str) -> Option<String>) -> Self {
        let domain = variable("SERVICES_DOMAIN")
            .map(|d| format!(".{d}"))
            .unwrap_or_default();
        let at = |service: &str, prefix: &str| {
            let host = variable(&format!("{prefix}_HOSTNAME")).unwrap_or_else(|| service.to_owned());
            // Kubernetes itself sets NAME_SERVICE_PORT for the Services of a namespace.
            let port = variable(&format!("{prefix}_SERVICE_PORT")).unwrap_or_else(|| "9080".to_owned());
            format!("{host}{domain}:{port}")
        };
        Self {
            details: at("details", "DETAILS"),
            reviews: at("reviews", "REVIEWS"),
            ratings: at("ratings", "RATINGS"),
        }
    }
}

/// Headers of `from` that belong to the next request.
fn passed_on(from: &HeaderMap) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for name in PASSED_ON.map(HeaderName::from_static) {
        for value in from.get_all(&name) {
            headers.append(name.clone(), value.clone());
        }
    }
    headers
}

/// Asks another service for JSON; the error is a sentence for the page.
async fn fetch(authority: &str, path: &str, headers: &HeaderMap) -> Result<Value, String> {
    let called = web::get(authority, path, headers, PATIENCE)
        .await
        .map_err(|error| error.to_string())?;
    let text = || {
        String::from_utf8_lossy(&called.body)
            .trim()
            .chars()
            .take(160)
            .collect::<String>()
    };
    if called.status != StatusCode::OK {
        let said = text();
        let said = if said.is_empty() {
            said
        } else {
            format!(": {said}")
        };
        return Err(format!("it answered {}{said}", called.status));
    }
    serde_json::from_slice(&called.body).map_err(|_| "its answer is no JSON".to_owned())
}

#[cfg(test)]
mod tests;
