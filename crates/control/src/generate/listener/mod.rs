//! LDS: where a proxy listens and what it does with a connection.

pub mod filters;
pub mod gateway;
pub mod inbound;
pub mod outbound;
pub mod tcp;

/// Reads SNI and ALPN of a client hello.
pub const TLS_INSPECTOR: &str = "envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector";
/// Recognises plaintext HTTP.
pub const HTTP_INSPECTOR: &str = "envoy.extensions.filters.listener.http_inspector.v3.HttpInspector";
/// Finds where a redirected connection went.
pub const ORIGINAL_DST: &str = "envoy.extensions.filters.listener.original_dst.v3.OriginalDst";
