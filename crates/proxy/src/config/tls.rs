//! TLS contexts (Envoy `transport_sockets.tls.v3`).

pub mod wire;

use std::sync::Arc;

use rustls::CipherSuite;

use super::matcher::StringMatcher;

/// Where certificates and trust come from.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum SecretRef {
    /// An SDS name: `default`, `ROOTCA`, `kubernetes://...`, `file-cert:...`.
    Sds(Arc<str>),
    /// Inline PEM or a file that was read: chain (or roots) and, for a certificate, its key.
    Inline {
        /// PEM certificates.
        certificates: Arc<str>,
        /// PEM key; empty for trusted roots.
        key: Arc<str>,
    },
}

/// A condition on a SAN of the peer's certificate.
#[derive(Debug, Clone)]
pub struct SanMatcher {
    /// URI, DNS or IP.
    pub kind: SanKind,
    /// The condition.
    pub value: StringMatcher,
}

/// Envoy `SubjectAltNameMatcher.SanType`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SanKind {
    /// URI, e.g. a SPIFFE id.
    Uri,
    /// DNS name.
    Dns,
    /// IP address.
    Ip,
}

/// How the peer's certificate is checked.
#[derive(Debug, Clone, Default)]
pub struct Validation {
    /// Trusted roots; `None`: the peer is not verified.
    pub trusted: Option<SecretRef>,
    /// One must match; empty: any certificate of the roots will do.
    pub sans: Vec<SanMatcher>,
}

/// TLS protocol versions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum TlsVersion {
    /// TLS 1.2.
    V1_2,
    /// TLS 1.3.
    V1_3,
}

/// Envoy `UpstreamTlsContext`.
#[derive(Debug, Clone)]
pub struct UpstreamTls {
    /// Own certificate; `None` for simple TLS.
    pub certificate: Option<SecretRef>,
    /// Check of the server.
    pub validation: Validation,
    /// SNI; `None`: none is sent, unless `auto_sni` takes the request's host.
    pub sni: Option<Arc<str>>,
    /// `auto_host_sni` / `HttpProtocolOptions.auto_sni`.
    pub auto_sni: bool,
    /// `auto_sni_san_validation` / `auto_san_validation`: the certificate must be for the SNI that was sent.
    pub auto_san: bool,
    /// ALPN in order of preference.
    pub alpn: Vec<Vec<u8>>,
    /// Lowest version.
    pub min_version: TlsVersion,
    /// Highest version.
    pub max_version: TlsVersion,
    /// `cipher_suites` of TLS 1.2; `None`: all that the proxy has.
    pub ciphers: Option<Vec<CipherSuite>>,
}

/// Envoy `DownstreamTlsContext`.
#[derive(Debug, Clone)]
pub struct DownstreamTls {
    /// Own certificates; the first whose names match the SNI, else the first.
    pub certificates: Vec<SecretRef>,
    /// Check of the client.
    pub validation: Validation,
    /// `require_client_certificate`.
    pub require_client_certificate: bool,
    /// ALPN in order of preference.
    pub alpn: Vec<Vec<u8>>,
    /// Lowest version.
    pub min_version: TlsVersion,
    /// Highest version.
    pub max_version: TlsVersion,
    /// `cipher_suites` of TLS 1.2; `None`: all that the proxy has.
    pub ciphers: Option<Vec<CipherSuite>>,
}
