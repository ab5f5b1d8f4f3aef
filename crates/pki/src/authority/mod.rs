//! The certificate authority: a signing certificate, its key, the way up to the root, and the roots.
//!
//! ```text
//!   files (cacerts) ── load ──┐
//!   create root/intermediate ─┴─> Authority ── issue(CSR, who, ttl) ──> leaf, intermediates, roots
//! ```
//!
//! Who may have a certificate, and for which identity, is decided before it gets here (see
//! [`crate::token`] and [`crate::service`]); a request's own idea of its names is only ever compared.

mod assemble;
mod create;
mod issue;
mod load;
#[cfg(test)]
mod tests;

use std::fmt;
use std::time::{Duration, SystemTime};

use isthmus_model::{ClusterId, TrustDomain};

use crate::bundle::{Roots, TrustBundle};
use crate::certificate::Certificate;
use crate::key::{KeyAlgorithm, PrivateKey};

pub use create::{CreateError, IntermediateRequest, RootRequest};
pub use issue::{IssueError, Issued};
pub(crate) use load::path_to_root;
pub use load::{AuthorityError, BrokenChain, FileSet};

/// How long a workload's certificate lives unless asked otherwise (Istio: 24 h).
pub const DEFAULT_WORKLOAD_TTL: Duration = Duration::from_secs(24 * 3600);
/// The longest life a workload may ask for (Istio: MAX_WORKLOAD_CERT_TTL, 90 days).
pub const MAX_WORKLOAD_TTL: Duration = Duration::from_secs(90 * 24 * 3600);
/// How far notBefore is set back for clocks that run behind (Istio: two minutes).
pub const CLOCK_SKEW: Duration = Duration::from_secs(120);

/// A certificate authority that can sign.
pub struct Authority {
    certificate: Certificate,
    key: PrivateKey,
    /// Authorities above `certificate` up to but without the root, nearest first; empty for a root.
    above: Vec<Certificate>,
    roots: Roots,
    /// The root that `certificate` chains to.
    anchor: Certificate,
}

impl Authority {
    /// The certificate it signs with.
    pub fn certificate(&self) -> &Certificate {
        &self.certificate
    }

    /// Its private key; for writing it to a file that only its owner reads.
    pub fn key(&self) -> &PrivateKey {
        &self.key
    }

    /// Authorities between a leaf and the root, nearest first, without the root.
    pub fn intermediates(&self) -> impl Iterator<Item = &Certificate> {
        let own = (!self.is_root()).then_some(&self.certificate);
        own.into_iter().chain(&self.above)
    }

    /// The root that the signing certificate chains to.
    pub fn anchor(&self) -> &Certificate {
        &self.anchor
    }

    /// Every root its clients should trust: several while a root is being replaced.
    pub fn roots(&self) -> &Roots {
        &self.roots
    }

    /// Its roots as the bundle of `domain`.
    pub fn bundle(&self, domain: TrustDomain) -> TrustBundle {
        TrustBundle::new(domain, self.roots.clone())
    }

    /// The member cluster it signs for: `L=` of its subject.
    pub fn cluster(&self) -> Option<ClusterId> {
        self.certificate.locality.clone().map(ClusterId)
    }

    /// When the first certificate on the way to the root expires; nothing it issues outlives that.
    pub fn expires(&self) -> SystemTime {
        let above = self.above.iter().chain([&self.anchor]);
        let earliest = above.map(|c| c.not_after).min();
        earliest.map_or(self.certificate.not_after, |e| e.min(self.certificate.not_after))
    }

    /// Whether it signs with the root itself.
    pub fn is_root(&self) -> bool {
        self.certificate.der == self.anchor.der
    }

    /// A root of its own for a control plane that was given none (Istio: `istio-ca-secret`): `O=<domain>`.
    pub fn self_signed(domain: &TrustDomain, algorithm: KeyAlgorithm) -> Result<Self, CreateError> {
        Self::create_root(&RootRequest {
            organization: domain.to_string(),
            common_name: format!("{domain} self-signed CA"),
            algorithm,
            ..RootRequest::default()
        })
    }
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authority")
            .field("certificate", &self.certificate)
            .field("roots", &self.roots)
            .finish_non_exhaustive()
    }
}
