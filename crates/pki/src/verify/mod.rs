//! Who is at the other end of a connection, and may it be trusted.
//!
//! ```text
//!   presented chain ── exactly one URI SAN ── its trust domain's roots ── rustls-webpki ── Expected
//! ```
//!
//! [`Verifier`] plugs this into rustls for both directions. Each refusal is a [`Refusal`] with the reason
//! in words; rustls carries it and [`refusal_in`] or [`describe`] get it out again for the log.

mod expected;
mod refusal;
#[cfg(test)]
mod tests;

use std::sync::{Arc, LazyLock};

use isthmus_model::{ClusterId, SpiffeId};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{DigitallySignedStruct, DistinguishedName, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use webpki::{
    CertRevocationList, EndEntityCert, ExpirationPolicy, KeyUsage, RevocationOptionsBuilder,
    UnknownStatusPolicy,
};

use crate::bundle::{Roots, TrustBundle};
use crate::certificate::{Certificate, Fingerprint};

pub use expected::{Expected, PatternError, SanKind, SanMatcher, StringMatcher};
pub use refusal::{Refusal, Top, describe, refusal_in};

/// Most certificates that a peer may present.
const MOST_PRESENTED: usize = 16;

/// Which end of the connection is being verified.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// The peer is the server: the certificate must allow serverAuth.
    Server,
    /// The peer is the client: the certificate must allow clientAuth.
    Client,
}

/// The one cryptographic provider of the program: aws-lc.
pub fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: LazyLock<Arc<CryptoProvider>> =
        LazyLock::new(|| Arc::new(rustls::crypto::aws_lc_rs::default_provider()));
    PROVIDER.clone()
}

/// Whom the chain must lead to.
#[derive(Debug, Clone)]
enum Trust {
    /// The roots of the trust domain that the peer's SPIFFE id names.
    Mesh(Arc<TrustBundle>),
    /// These roots, whatever the names say.
    Roots(Arc<Roots>),
    /// Nobody: only the signature on the handshake is checked.
    Anyone,
}

/// What the names in the certificate must be.
#[derive(Debug, Clone)]
enum Names {
    /// Exactly one URI SAN, a SPIFFE id, among the expected.
    Spiffe(Expected),
    /// Any SAN among the expected.
    Alternative(Expected),
    /// The name that the client asked for (RFC 9525).
    ServerName,
}

/// Verifies peers for rustls, as client and as server.
#[derive(Debug, Clone)]
pub struct Verifier {
    trust: Trust,
    names: Names,
    mandatory: bool,
    provider: Arc<CryptoProvider>,
}

impl Verifier {
    /// Mesh mTLS: a SPIFFE id of a trusted domain, among the expected.
    pub fn mesh(bundle: Arc<TrustBundle>, expected: Expected) -> Self {
        Self::new(Trust::Mesh(bundle), Names::Spiffe(expected))
    }

    /// Envoy's `trusted_ca` with `match_typed_subject_alt_names`: SIMPLE or MUTUAL TLS with subjectAltNames.
    pub fn alt_names(roots: Arc<Roots>, expected: Expected) -> Self {
        Self::new(Trust::Roots(roots), Names::Alternative(expected))
    }

    /// The server must have the name that was asked for. For verifying servers only: a client has no such name.
    pub fn server_name(roots: Arc<Roots>) -> Self {
        Self::new(Trust::Roots(roots), Names::ServerName)
    }

    /// Takes any certificate (`insecureSkipVerify`); whoever uses it must have been told to.
    pub fn insecure() -> Self {
        Self::new(Trust::Anyone, Names::Alternative(Expected::anyone()))
    }

    /// Lets clients without a certificate in; one that is presented must still be right.
    pub fn optional(mut self) -> Self {
        self.mandatory = false;
        self
    }

    fn new(trust: Trust, names: Names) -> Self {
        Self {
            trust,
            names,
            mandatory: true,
            provider: provider(),
        }
    }

    /// Verifies a presented chain, leaf first, at a given time.
    pub fn verify(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: Option<&ServerName<'_>>,
        side: Side,
        now: UnixTime,
    ) -> Result<(), Refusal> {
        if intermediates.len() >= MOST_PRESENTED {
            return Err(Refusal::TooMany {
                count: intermediates.len() + 1,
            });
        }
        let certificate = Certificate::parse(leaf).map_err(|e| Refusal::Encoding(e.to_string()))?;
        let identity = match &self.names {
            Names::Spiffe(_) => Some(spiffe_id(&certificate)?),
            _ => None,
        };
        match &self.trust {
            Trust::Anyone => {}
            Trust::Roots(roots) => verify_chain(leaf, intermediates, roots, now, side)?,
            Trust::Mesh(bundle) => {
                // The domain is the peer's own claim; its roots decide whether it is true.
                let domain = identity.as_ref().map(|id| &id.trust_domain);
                let roots = domain.and_then(|d| bundle.roots(d));
                let Some(roots) = roots else {
                    return Err(Refusal::TrustDomain {
                        name: certificate.name(),
                        trusted: bundle.iter().map(|(d, _)| d.to_string()).collect(),
                    });
                };
                verify_chain(leaf, intermediates, roots, now, side)?;
            }
        }
        match &self.names {
            Names::Spiffe(expected) | Names::Alternative(expected) if expected.accepts(&certificate) => {
                Ok(())
            }
            Names::Spiffe(expected) | Names::Alternative(expected) => Err(Refusal::Identity {
                side,
                proved: names_of(&certificate),
                whom: expected.whom().to_owned(),
                expected: expected.to_string(),
            }),
            Names::ServerName => verify_server_name(leaf, &certificate, server_name),
        }
    }

    fn algorithms(&self) -> &rustls::crypto::WebPkiSupportedAlgorithms {
        &self.provider.signature_verification_algorithms
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.verify(end_entity, intermediates, Some(server_name), Side::Server, now)
            .map(|()| ServerCertVerified::assertion())
            .map_err(Refusal::into_tls)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, self.algorithms())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, self.algorithms())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms().supported_schemes()
    }
}

impl ClientCertVerifier for Verifier {
    fn client_auth_mandatory(&self) -> bool {
        self.mandatory
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        self.verify(end_entity, intermediates, None, Side::Client, now)
            .map(|()| ClientCertVerified::assertion())
            .map_err(Refusal::into_tls)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, self.algorithms())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, self.algorithms())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms().supported_schemes()
    }
}

/// The SPIFFE id of the leaf of a presented chain. Proof only if the handshake verified the chain.
pub fn peer_identity(presented: &[CertificateDer<'_>]) -> Result<SpiffeId, Refusal> {
    let leaf = presented.first().ok_or(Refusal::NoCertificate)?;
    let certificate = Certificate::parse(leaf).map_err(|e| Refusal::Encoding(e.to_string()))?;
    spiffe_id(&certificate)
}

/// The member cluster whose authority issued the leaf: `L=` of the leaf's issuer.
///
/// Verification demands that the issuer's name on the leaf is the subject of the authority that signed it,
/// so the name is as good as the chain, and needs no look at the other certificates.
pub fn member_cluster(presented: &[CertificateDer<'_>]) -> Option<ClusterId> {
    let leaf = Certificate::parse(presented.first()?).ok()?;
    leaf.issuer_locality.map(ClusterId)
}

/// SHA-256 of the leaf of a presented chain.
pub fn peer_fingerprint(presented: &[CertificateDer<'_>]) -> Option<Fingerprint> {
    presented.first().map(|leaf| Fingerprint::of(leaf))
}

/// Verifies that `leaf` chains to one of `roots`, is valid, unrevoked, and good for its side.
pub fn verify_chain(
    leaf: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
    roots: &Roots,
    now: UnixTime,
    side: Side,
) -> Result<(), Refusal> {
    let usage = match side {
        Side::Server => KeyUsage::server_auth(),
        Side::Client => KeyUsage::client_auth(),
    };
    let provider = provider();
    let lists: Vec<&CertRevocationList<'_>> = roots.revocation_lists().collect();
    // A list covers its own issuer; authorities that publish none are not punished for it.
    let revocation = RevocationOptionsBuilder::new(&lists).ok().map(|options| {
        options
            .with_status_policy(UnknownStatusPolicy::Allow)
            .with_expiration_policy(ExpirationPolicy::Enforce)
            .build()
    });
    let end_entity = EndEntityCert::try_from(leaf).map_err(|e| Refusal::Encoding(e.to_string()))?;
    end_entity
        .verify_for_usage(
            provider.signature_verification_algorithms.all,
            roots.anchors(),
            intermediates,
            now,
            usage,
            revocation,
            None,
        )
        .map(|_| ())
        .map_err(|e| refusal::of_chain(e, leaf, intermediates, roots))
}

fn spiffe_id(certificate: &Certificate) -> Result<SpiffeId, Refusal> {
    match certificate.uris.as_slice() {
        [uri] => uri.parse().map_err(Refusal::NotSpiffe),
        uris => Err(Refusal::NotOneUri {
            name: certificate.name(),
            count: uris.len(),
        }),
    }
}

fn names_of(certificate: &Certificate) -> String {
    let addresses = certificate.addresses.iter().map(ToString::to_string);
    let names = certificate.uris.iter().chain(&certificate.dns_names).cloned();
    let all: Vec<String> = names.chain(addresses).collect();
    if all.is_empty() {
        certificate.name()
    } else {
        all.join(", ")
    }
}

fn verify_server_name(
    leaf: &CertificateDer<'_>,
    certificate: &Certificate,
    server_name: Option<&ServerName<'_>>,
) -> Result<(), Refusal> {
    let wrong = |asked: String| Refusal::ServerName {
        asked,
        proved: names_of(certificate),
    };
    let Some(name) = server_name else {
        return Err(wrong("no name".to_owned()));
    };
    EndEntityCert::try_from(leaf)
        .and_then(|cert| cert.verify_is_valid_for_subject_name(name))
        .map_err(|_| wrong(name.to_str().into_owned()))
}
