//! The roots that are trusted, per trust domain. Several at once while a root is being replaced.

use std::collections::BTreeMap;
use std::fmt;

use isthmus_model::TrustDomain;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateRevocationListDer, TrustAnchor};
use webpki::{CertRevocationList, OwnedCertRevocationList, anchor_from_trusted_cert};

use crate::certificate::{Certificate, CertificateError, Fingerprint};

/// Why roots or revocation lists cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BundleError {
    /// No certificate, or not one.
    #[error(transparent)]
    Certificate(#[from] CertificateError),
    /// A certificate in the bundle is not an authority's.
    #[error("{0} is not a CA certificate (basicConstraints CA:TRUE is missing): it cannot be a root")]
    NotAuthority(String),
    /// A certificate that cannot be a trust anchor.
    #[error("{0} cannot be used as a root: {1}")]
    Anchor(String, String),
    /// A revocation list that cannot be read.
    #[error("certificate revocation list cannot be used: {0}")]
    RevocationList(String),
}

/// Roots, and the revocation lists that go with them.
#[derive(Clone, Default)]
pub struct Roots {
    certificates: Vec<Certificate>,
    anchors: Vec<TrustAnchor<'static>>,
    /// In DER, for comparing and for the handing on.
    revocation_ders: Vec<CertificateRevocationListDer<'static>>,
    revocations: Vec<RevocationList>,
}

/// A parsed revocation list; shared, since the library's type does not clone.
type RevocationList = std::sync::Arc<CertRevocationList<'static>>;

impl Roots {
    /// Takes CA certificates as roots; duplicates count once.
    pub fn new(certificates: impl IntoIterator<Item = Certificate>) -> Result<Self, BundleError> {
        let mut roots = Self::default();
        for certificate in certificates {
            roots.add(certificate)?;
        }
        Ok(roots)
    }

    /// Reads every certificate of a PEM text as a root.
    pub fn from_pem(text: &[u8]) -> Result<Self, BundleError> {
        Self::new(Certificate::parse_pem(text)?)
    }

    /// Adds the revocation lists of a PEM text (blocks `X509 CRL`); every chain is then checked against them.
    pub fn with_revocation_lists(mut self, text: &[u8]) -> Result<Self, BundleError> {
        let unreadable = |e: &dyn fmt::Display| BundleError::RevocationList(e.to_string());
        let before = self.revocations.len();
        for der in CertificateRevocationListDer::pem_slice_iter(text) {
            let der = der.map_err(|e| unreadable(&e))?;
            let list = OwnedCertRevocationList::from_der(&der).map_err(|e| unreadable(&e))?;
            self.revocations.push(std::sync::Arc::new(list.into()));
            self.revocation_ders.push(der);
        }
        if self.revocations.len() == before {
            return Err(unreadable(&"expected a PEM block X509 CRL"));
        }
        Ok(self)
    }

    /// The root certificates.
    pub fn certificates(&self) -> &[Certificate] {
        &self.certificates
    }

    /// The roots as the verifier wants them.
    pub fn anchors(&self) -> &[TrustAnchor<'static>] {
        &self.anchors
    }

    /// The revocation lists; none means that nothing is checked for revocation.
    pub fn revocation_lists(&self) -> impl Iterator<Item = &CertRevocationList<'static>> {
        self.revocations.iter().map(|r| &**r)
    }

    /// SHA-256 of each root.
    pub fn fingerprints(&self) -> Vec<Fingerprint> {
        self.certificates.iter().map(Certificate::fingerprint).collect()
    }

    /// Whether no root is trusted.
    pub fn is_empty(&self) -> bool {
        self.certificates.is_empty()
    }

    /// The roots as PEM, one block after the other.
    pub fn to_pem(&self) -> String {
        self.certificates.iter().map(Certificate::to_pem).collect()
    }

    fn add(&mut self, certificate: Certificate) -> Result<(), BundleError> {
        if self.certificates.iter().any(|c| c.der == certificate.der) {
            return Ok(());
        }
        if !certificate.is_ca {
            return Err(BundleError::NotAuthority(certificate.name()));
        }
        let anchor = anchor_from_trusted_cert(&certificate.der)
            .map_err(|e| BundleError::Anchor(certificate.name(), e.to_string()))?
            .to_owned();
        self.anchors.push(anchor);
        self.certificates.push(certificate);
        Ok(())
    }

    fn absorb(&mut self, other: &Self) {
        for (certificate, anchor) in other.certificates.iter().zip(&other.anchors) {
            if !self.certificates.iter().any(|c| c.der == certificate.der) {
                self.certificates.push(certificate.clone());
                self.anchors.push(anchor.clone());
            }
        }
        for (der, list) in other.revocation_ders.iter().zip(&other.revocations) {
            if !self.revocation_ders.contains(der) {
                self.revocation_ders.push(der.clone());
                self.revocations.push(list.clone());
            }
        }
    }
}

impl PartialEq for Roots {
    fn eq(&self, other: &Self) -> bool {
        self.certificates == other.certificates && self.revocation_ders == other.revocation_ders
    }
}

impl Eq for Roots {}

impl fmt::Debug for Roots {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "Roots({:?}, {} revocation lists)",
            self.certificates,
            self.revocations.len()
        )
    }
}

/// Which roots vouch for which trust domain (SPIFFE trust bundle).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TrustBundle {
    by_domain: BTreeMap<TrustDomain, Roots>,
}

impl TrustBundle {
    /// A bundle of one trust domain.
    pub fn new(domain: TrustDomain, roots: Roots) -> Self {
        Self {
            by_domain: BTreeMap::from([(domain, roots)]),
        }
    }

    /// Adds roots for a trust domain to those it has (rotation, federation, aliases).
    pub fn add(&mut self, domain: TrustDomain, roots: &Roots) {
        self.by_domain.entry(domain).or_default().absorb(roots);
    }

    /// Both bundles' roots together.
    pub fn merged(mut self, other: &Self) -> Self {
        for (domain, roots) in &other.by_domain {
            self.add(domain.clone(), roots);
        }
        self
    }

    /// The roots of a trust domain; `None` when nothing is trusted for it.
    pub fn roots(&self, domain: &TrustDomain) -> Option<&Roots> {
        self.by_domain.get(domain).filter(|r| !r.is_empty())
    }

    /// The trust domains with their roots.
    pub fn iter(&self) -> impl Iterator<Item = (&TrustDomain, &Roots)> {
        self.by_domain.iter()
    }

    /// SHA-256 of every root, of all trust domains, each once.
    pub fn fingerprints(&self) -> Vec<Fingerprint> {
        let mut all: Vec<_> = self.by_domain.values().flat_map(Roots::fingerprints).collect();
        all.sort_unstable();
        all.dedup();
        all
    }
}
