//! Signs a request for an identity that was proved beforehand.

use std::time::{Duration, SystemTime};

use isthmus_model::SpiffeId;
use rustls_pki_types::CertificateSigningRequestDer;
use rustls_pki_types::pem::PemObject;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::FromDer;
use x509_parser::public_key::PublicKey;

use super::assemble::{self, Blueprint, Name, Role, usage};
use super::{Authority, CLOCK_SKEW, DEFAULT_WORKLOAD_TTL, MAX_WORKLOAD_TTL};
use crate::certificate::{Certificate, CertificateError};
use crate::der;
use crate::key::KeyError;

/// Longest request that is read, in bytes of PEM; one with an RSA 8192 key needs 3 KiB.
pub const LONGEST_REQUEST: usize = 16 * 1024;

/// Why a request was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IssueError {
    /// Not a certificate signing request.
    #[error("not a certificate signing request: {0}")]
    Encoding(String),
    /// Longer than any sane request.
    #[error("the certificate signing request is longer than {LONGEST_REQUEST} bytes")]
    TooLong,
    /// Whoever made the request does not hold the key in it.
    #[error("the certificate signing request is not signed by the key it holds")]
    Signature,
    /// The key is too weak or of a kind that peers do not accept.
    #[error(
        "the key in the request cannot be used: {0}; use ECDSA P-256 or P-384, or RSA of 2048 to 8192 bits"
    )]
    Key(String),
    /// The request names somebody else.
    #[error(
        "the request asks for {requested} but the caller proved to be {proved}: names are given by proof alone"
    )]
    OtherName {
        /// What the request has as SAN.
        requested: String,
        /// Who the caller is.
        proved: String,
    },
    /// The authority itself has expired.
    #[error("the authority {name} has expired: replace its certificate (isthmus certs intermediate)")]
    Expired {
        /// Subject of the authority.
        name: String,
    },
    /// Signing failed.
    #[error(transparent)]
    Signing(#[from] KeyError),
    /// What was signed cannot be read back.
    #[error(transparent)]
    Certificate(#[from] CertificateError),
}

/// A new certificate and the way up from it.
#[derive(Debug, Clone)]
pub struct Issued {
    /// The new certificate.
    pub leaf: Certificate,
    /// PEM texts as the CSR service answers them: leaf, intermediates, and all roots as the last.
    pub chain: Vec<String>,
}

impl Authority {
    /// Signs the request (PEM) for `identity`, which the caller has proved.
    ///
    /// `ttl` counts from now; zero means the default of 24 h, and the authority's own end cuts it short.
    pub fn issue(&self, request: &str, identity: &SpiffeId, ttl: Duration) -> Result<Issued, IssueError> {
        self.issue_with_names(request, identity, &[], ttl)
    }

    /// Signs the request for `identity` with DNS names besides: a control plane's serving certificate.
    pub fn issue_with_names(
        &self,
        request: &str,
        identity: &SpiffeId,
        dns_names: &[String],
        ttl: Duration,
    ) -> Result<Issued, IssueError> {
        let public_key_info = verified_request(request, identity, dns_names)?;
        let now = SystemTime::now();
        if self.expires() <= now {
            return Err(IssueError::Expired {
                name: self.certificate.name(),
            });
        }
        let ttl = if ttl.is_zero() { DEFAULT_WORKLOAD_TTL } else { ttl };
        let uri = Name::Uri(identity.to_string());
        let names: Vec<Name> = [uri]
            .into_iter()
            .chain(dns_names.iter().cloned().map(Name::Dns))
            .collect();
        let blueprint = Blueprint {
            subject: &der::sequence(&[]),
            public_key_info: &public_key_info,
            names: &names,
            not_before: now - CLOCK_SKEW,
            not_after: (now + ttl.min(MAX_WORKLOAD_TTL)).min(self.expires()),
            key_usage: usage::DIGITAL_SIGNATURE | usage::KEY_ENCIPHERMENT,
            role: Role::Leaf,
        };
        let leaf = Certificate::parse(&assemble::sign(&blueprint, &self.as_issuer())?)?;
        let chain = [leaf.to_pem()]
            .into_iter()
            .chain(self.intermediates().map(Certificate::to_pem))
            .chain([self.roots.to_pem()])
            .collect();
        Ok(Issued { leaf, chain })
    }
}

/// Checks a request and gives back its SubjectPublicKeyInfo.
fn verified_request(request: &str, identity: &SpiffeId, dns_names: &[String]) -> Result<Vec<u8>, IssueError> {
    if request.len() > LONGEST_REQUEST {
        return Err(IssueError::TooLong);
    }
    let encoding = |e: &dyn std::fmt::Display| IssueError::Encoding(e.to_string());
    let der = CertificateSigningRequestDer::from_pem_slice(request.as_bytes()).map_err(|e| encoding(&e))?;
    let (rest, csr) = X509CertificationRequest::from_der(&der).map_err(|e| encoding(&e))?;
    if !rest.is_empty() {
        return Err(encoding(&"bytes after its end"));
    }
    let info = &csr.certification_request_info;
    match info.subject_pki.parsed() {
        Ok(PublicKey::EC(point)) if matches!(point.key_size(), 256 | 384) => {}
        Ok(PublicKey::RSA(key)) if (2048..=8192).contains(&key.key_size()) => {}
        Ok(PublicKey::RSA(key)) => return Err(IssueError::Key(format!("RSA of {} bits", key.key_size()))),
        _ => return Err(IssueError::Key("its kind is not supported".to_owned())),
    }
    csr.verify_signature().map_err(|_| IssueError::Signature)?;

    let identity = identity.to_string();
    for extension in csr.requested_extensions().into_iter().flatten() {
        let ParsedExtension::SubjectAlternativeName(san) = extension else {
            continue;
        };
        for name in &san.general_names {
            let own = match name {
                GeneralName::URI(uri) => *uri == identity,
                GeneralName::DNSName(dns) => dns_names.iter().any(|n| n == dns),
                _ => false,
            };
            if !own {
                return Err(IssueError::OtherName {
                    requested: name.to_string(),
                    proved: identity,
                });
            }
        }
    }
    Ok(info.subject_pki.raw.to_vec())
}
