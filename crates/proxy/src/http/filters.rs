//! Filters before the router: authorisation, faults, CORS. Each looks at the request and lets it on or
//! answers it.

use std::net::IpAddr;
use std::time::Duration;

use http::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE,
    ACCESS_CONTROL_REQUEST_METHOD, ORIGIN, VARY,
};
use http::{HeaderMap, HeaderValue, Method, StatusCode, response};

use crate::config::http_filter::{Abort, Cors, Fault};
use crate::config::rbac::Rbac;
use crate::listener::Facts;
use crate::rbac::{self, Verdict};
use crate::telemetry::flags::Flags;
use crate::upstream::rng::Rng;

use super::head::HeadView;
use super::headers::insert;
use super::local_reply::LocalReply;
use super::stream::{RequestHead, answer};

/// Authorisation: `None` lets the request on.
pub fn authorize(rules: &Rbac, facts: &Facts, head: &HeadView<'_>, client: IpAddr) -> Option<LocalReply> {
    let decision = rbac::request(rules, facts, head, client);
    if let Some(Verdict::Denied(policy)) = decision.shadow {
        tracing::info!(
            listener = %facts.listener, path = head.path_only(),
            "dry run: would be refused by {}", rbac::denied_by(policy)
        );
    }
    match decision.enforced {
        Verdict::Allowed => None,
        Verdict::Denied(policy) => Some(LocalReply::new(
            StatusCode::FORBIDDEN,
            "RBAC: access denied",
            rbac::denied_by(policy),
            Flags::default(),
        )),
    }
}

/// What a fault does to this request: a delay, then perhaps an answer.
pub fn fault(fault: &Fault, rng: &Rng) -> (Option<Duration>, Option<LocalReply>) {
    let delay = fault.delay.filter(|(_, ppm)| rng.happens(*ppm)).map(|(d, _)| d);
    let abort = fault.abort.as_ref().filter(|(_, ppm)| rng.happens(*ppm));
    let reply = abort.map(|(abort, _)| {
        let status = match abort {
            Abort::Http(status) => *status,
            Abort::Grpc(_) => StatusCode::OK,
        };
        let mut reply = LocalReply::new(status, "fault filter abort", "fault_filter_abort", Flags::FI);
        if let Abort::Grpc(code) = abort {
            reply.grpc_status = Some(*code);
        }
        reply
    });
    (delay, reply)
}

/// What CORS makes of a request.
#[derive(Debug)]
pub enum CorsVerdict {
    /// No cross-origin request, or one whose origin is not allowed.
    Pass,
    /// Allowed: the answer gets headers.
    Allow(HeaderValue),
    /// A preflight that is answered here.
    Answer(Box<response::Parts>),
}

/// Looks at a request's origin.
pub fn cors(policy: &Cors, head: &RequestHead) -> CorsVerdict {
    let Some(origin) = head.headers.get(ORIGIN) else {
        return CorsVerdict::Pass;
    };
    let preflight =
        head.method == Method::OPTIONS && head.headers.contains_key(ACCESS_CONTROL_REQUEST_METHOD);
    let text = String::from_utf8_lossy(origin.as_bytes());
    let allowed = policy.origins.iter().any(|m| m.matches(&text));
    if !allowed {
        return match preflight && !policy.forward_unmatched_preflights {
            true => CorsVerdict::Answer(Box::new(answer(StatusCode::OK))),
            false => CorsVerdict::Pass,
        };
    }
    if !preflight {
        return CorsVerdict::Allow(origin.clone());
    }
    let mut parts = answer(StatusCode::OK);
    let headers = &mut parts.headers;
    headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
    for (name, value) in [
        (ACCESS_CONTROL_ALLOW_METHODS, &policy.methods),
        (ACCESS_CONTROL_ALLOW_HEADERS, &policy.headers),
        (ACCESS_CONTROL_MAX_AGE, &policy.max_age),
        (ACCESS_CONTROL_EXPOSE_HEADERS, &policy.expose),
    ] {
        if !value.is_empty() {
            insert(headers, name, value);
        }
    }
    if policy.credentials {
        headers.insert(ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
    }
    headers.insert(http::header::CONTENT_LENGTH, 0.into());
    CorsVerdict::Answer(Box::new(parts))
}

/// Headers for the answer to an allowed origin.
pub fn allow_origin(policy: &Cors, origin: HeaderValue, headers: &mut HeaderMap) {
    headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    headers.append(VARY, HeaderValue::from_static("Origin"));
    if policy.credentials {
        headers.insert(ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
    }
    if !policy.expose.is_empty() {
        insert(headers, ACCESS_CONTROL_EXPOSE_HEADERS, &policy.expose);
    }
}
