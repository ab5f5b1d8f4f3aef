//! TLS with rustls: terminated for downstreams, originated to upstreams.
//!
//! Who is trusted and why somebody is refused comes from `isthmus-pki`; this turns contexts and secrets
//! into rustls configurations, one per context and state of its secrets, and keeps them. Sessions resume
//! within one configuration only, so a changed root or certificate is felt by the next handshake.

pub mod cache;
pub mod originate;
pub mod terminate;
use std::rc::Rc;

use isthmus_pki::certificate::{Certificate, Fingerprint};
use isthmus_pki::verify::{Expected, SanKind, SanMatcher, StringMatcher};
use rustls::pki_types::CertificateDer;
use rustls::{ProtocolVersion, SupportedProtocolVersion};

use crate::config;
use crate::config::tls::TlsVersion;

/// What the other end proved, and what was agreed.
#[derive(Debug, Clone, Default)]
pub struct TlsPeer {
    /// Whether the certificate was verified; names below are empty otherwise.
    pub verified: bool,
    /// URI SANs.
    pub uris: Vec<Rc<str>>,
    /// DNS SANs.
    pub dns_names: Vec<Rc<str>>,
    /// Subject, in RFC 2253 order as Envoy prints it.
    pub subject: String,
    /// SHA-256 of the certificate, lower-case hexadecimal.
    pub fingerprint: String,
    /// URI SANs of our own certificate.
    pub local_uris: Vec<Rc<str>>,
    /// Subject of our own certificate.
    pub local_subject: String,
    /// Agreed ALPN.
    pub alpn: Option<Vec<u8>>,
    /// SNI.
    pub server_name: Option<Rc<str>>,
    /// `TLSv1.3`.
    pub version: &'static str,
    /// Agreed cipher suite in IANA's name.
    pub cipher: String,
}

impl TlsPeer {
    /// Reads what a finished handshake agreed.
    fn of(connection: &rustls::CommonState, verified: bool, own: Option<&[CertificateDer<'static>]>) -> Self {
        let mut peer = Self {
            verified,
            alpn: connection.alpn_protocol().map(<[u8]>::to_vec),
            version: match connection.protocol_version() {
                Some(ProtocolVersion::TLSv1_3) => "TLSv1.3",
                Some(ProtocolVersion::TLSv1_2) => "TLSv1.2",
                _ => "",
            },
            cipher: connection
                .negotiated_cipher_suite()
                .map(|s| format!("{:?}", s.suite()).replace("TLS13_", "TLS_"))
                .unwrap_or_default(),
            ..Self::default()
        };
        if let Some(leaf) = connection.peer_certificates().and_then(<[_]>::first) {
            peer.fingerprint = Fingerprint::of(leaf).hex();
            if verified && let Ok(certificate) = Certificate::parse(leaf) {
                peer.uris = certificate.uris.iter().map(|u| Rc::from(u.as_str())).collect();
                peer.dns_names = certificate
                    .dns_names
                    .iter()
                    .map(|d| Rc::from(d.as_str()))
                    .collect();
                peer.subject = certificate.subject;
            }
        }
        if let Some(leaf) = own.and_then(<[_]>::first)
            && let Ok(certificate) = Certificate::parse(leaf)
        {
            peer.local_uris = certificate.uris.iter().map(|u| Rc::from(u.as_str())).collect();
            peer.local_subject = certificate.subject;
        }
        peer
    }
}

/// The versions of a context, newest first.
fn versions(min: TlsVersion, max: TlsVersion) -> Vec<&'static SupportedProtocolVersion> {
    let mut out = Vec::new();
    if max >= TlsVersion::V1_3 {
        out.push(&rustls::version::TLS13);
    }
    if min <= TlsVersion::V1_2 {
        out.push(&rustls::version::TLS12);
    }
    out
}

/// The provider, its TLS 1.2 suites restricted to those listed.
fn provider(ciphers: Option<&[rustls::CipherSuite]>) -> std::sync::Arc<rustls::crypto::CryptoProvider> {
    let all = isthmus_pki::verify::provider();
    let Some(ciphers) = ciphers else { return all };
    let mut some = (*all).clone();
    some.cipher_suites
        .retain(|s| s.tls13().is_some() || ciphers.contains(&s.suite()));
    std::sync::Arc::new(some)
}

/// The context's SAN matchers in the verifier's words.
fn expected(whom: &str, sans: &[config::tls::SanMatcher]) -> Expected {
    if sans.is_empty() {
        return Expected::anyone();
    }
    Expected::one_of(whom, sans.iter().map(san_matcher).collect())
}

fn san_matcher(matcher: &config::tls::SanMatcher) -> SanMatcher {
    use config::matcher::StringMatcher as Given;
    let kind = match matcher.kind {
        config::tls::SanKind::Uri => SanKind::Uri,
        config::tls::SanKind::Dns => SanKind::Dns,
        config::tls::SanKind::Ip => SanKind::IpAddress,
    };
    let (value, ignore_case) = match &matcher.value {
        Given::Exact(s) => (StringMatcher::Exact(s.clone()), false),
        Given::Prefix(s) => (StringMatcher::Prefix(s.clone()), false),
        Given::Suffix(s) => (StringMatcher::Suffix(s.clone()), false),
        Given::Contains(s) => (StringMatcher::Contains(s.clone()), false),
        Given::Regex(r) => (StringMatcher::Regex(r.clone()), false),
        Given::ExactIgnoreCase(s) => (StringMatcher::Exact(s.clone()), true),
        Given::PrefixIgnoreCase(s) => (StringMatcher::Prefix(s.clone()), true),
        Given::SuffixIgnoreCase(s) => (StringMatcher::Suffix(s.clone()), true),
        Given::ContainsIgnoreCase(s) => (StringMatcher::Contains(s.clone()), true),
    };
    let mut out = SanMatcher::new(kind, value);
    out.ignore_case = ignore_case;
    out
}
