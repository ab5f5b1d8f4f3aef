//! Answers the proxy gives itself, in Envoy's words; to gRPC requests as a gRPC status.

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use http::{HeaderValue, StatusCode, response};

use crate::telemetry::flags::Flags;
use crate::upstream::PickError;
use crate::upstream::connect::ConnectError;

use super::grpc;
use super::headers::insert;
use super::stream::{Broken, answer};

/// A reply of the proxy's own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalReply {
    /// Status.
    pub status: StatusCode,
    /// Body; empty for none.
    pub body: String,
    /// `%RESPONSE_CODE_DETAILS%`.
    pub details: String,
    /// Flags.
    pub flags: Flags,
    /// gRPC status, when it is not the one that follows from `status`.
    pub grpc_status: Option<u32>,
}

impl LocalReply {
    /// A reply.
    pub fn new(
        status: StatusCode,
        body: impl Into<String>,
        details: impl Into<String>,
        flags: Flags,
    ) -> Self {
        Self {
            status,
            body: body.into(),
            details: details.into(),
            flags,
            grpc_status: None,
        }
    }

    /// Nothing to send to.
    pub fn no_upstream(error: PickError) -> Self {
        let details = match error {
            PickError::Dropped => "drop_overload",
            _ => "no_healthy_upstream",
        };
        Self::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "no healthy upstream",
            details,
            Flags::UH,
        )
    }

    /// The request took too long.
    pub fn timeout(details: &'static str) -> Self {
        Self::new(
            StatusCode::GATEWAY_TIMEOUT,
            "upstream request timeout",
            details,
            Flags::UT,
        )
    }

    /// No connection could be made.
    pub fn no_connection(error: &ConnectError, retried: bool) -> Self {
        let (reason, flags) = match error {
            ConnectError::Pick(e) => return Self::no_upstream(*e),
            ConnectError::Overflow => ("overflow".to_owned(), Flags::UO),
            ConnectError::Timeout(_) => ("connection timeout".to_owned(), Flags::UF),
            ConnectError::Tls(why) => (
                format!("remote connection failure, transport failure reason: TLS error: {why}"),
                Flags::UF,
            ),
            ConnectError::Io(why) => (
                format!("remote connection failure, transport failure reason: delayed connect error: {why}"),
                Flags::UF,
            ),
            ConnectError::Ending => ("local connection failure".to_owned(), Flags::UF),
        };
        Self::reset(&reason, flags, retried)
    }

    /// The attempt broke.
    pub fn broken(broken: &Broken, retried: bool) -> Self {
        match broken {
            Broken::Terminated => Self::reset("connection termination", Flags::UC, retried),
            Broken::NotSent => Self::reset(
                "connection termination, transport failure reason: not sent, the pooled connections had gone",
                Flags::UC,
                retried,
            ),
            Broken::Unacknowledged => Self::reset(
                "connection termination, transport failure reason: what was sent is not acknowledged",
                Flags::UC,
                retried,
            ),
            Broken::Refused | Broken::Reset => Self::reset("remote reset", Flags::UR, retried),
            Broken::Protocol => {
                let mut reply = Self::reset("protocol error", Flags::UPE, retried);
                reply.status = StatusCode::BAD_GATEWAY;
                reply
            }
            Broken::Downstream => Self::new(
                StatusCode::BAD_REQUEST,
                "",
                "downstream_remote_disconnect",
                Flags::DC,
            ),
        }
    }

    fn reset(reason: &str, flags: Flags, retried: bool) -> Self {
        let latest = if retried {
            "retried and the latest reset reason"
        } else {
            "reset reason"
        };
        let details = match reason.split_once(", transport failure reason: ") {
            Some((kind, why)) => {
                format!("upstream_reset_before_response_started{{{kind}|{why}}}")
            }
            None => format!("upstream_reset_before_response_started{{{reason}}}"),
        };
        Self::new(
            StatusCode::SERVICE_UNAVAILABLE,
            format!("upstream connect error or disconnect/reset before headers. {latest}: {reason}"),
            details,
            flags,
        )
    }

    /// Head and body as they are sent.
    pub fn into_parts(self, grpc: bool) -> (response::Parts, Bytes) {
        if grpc {
            let mut head = answer(StatusCode::OK);
            let status = self.grpc_status.unwrap_or_else(|| grpc::status_of(self.status));
            let headers = &mut head.headers;
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
            insert(
                headers,
                http::HeaderName::from_static("grpc-status"),
                &status.to_string(),
            );
            if !self.body.is_empty() {
                insert(
                    headers,
                    http::HeaderName::from_static("grpc-message"),
                    &grpc::encode_message(&self.body),
                );
            }
            return (head, Bytes::new());
        }
        let mut head = answer(self.status);
        let body = Bytes::from(self.body);
        if !body.is_empty() {
            head.headers
                .insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
        }
        let bodiless = self.status.is_informational() || self.status == StatusCode::NO_CONTENT;
        if !bodiless {
            head.headers.insert(CONTENT_LENGTH, body.len().into());
        }
        (head, body)
    }
}
