//! The whole configuration as the data path sees it, at one moment.

use std::collections::HashMap;
use std::sync::Arc;

use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use rustls::sign::CertifiedKey;

use crate::config::tls::SecretRef;
use crate::config::{Cluster, Endpoints, Listener, RouteTable};

/// Everything the data path reads. Immutable; a change makes a new one that shares what did not change,
/// so `Arc::ptr_eq` tells a worker what it may keep.
#[derive(Debug, Default)]
pub struct Live {
    /// Grows by one with every change.
    pub version: u64,
    /// Listeners that are warm, by resource name in ascending order.
    pub listeners: Vec<Arc<Listener>>,
    /// Route tables by RDS name.
    pub routes: HashMap<Arc<str>, Arc<RouteTable>>,
    /// Clusters that are warm, by name.
    pub clusters: HashMap<Arc<str>, Arc<Cluster>>,
    /// Endpoints by cluster name: EDS joined, DNS resolved, static ones copied. Every address is a socket
    /// or a Unix one; names are gone.
    pub endpoints: HashMap<Arc<str>, Arc<Endpoints>>,
    /// Secrets by SDS name. `default` and `ROOTCA` follow the renewal of the workload's own certificate.
    pub secrets: HashMap<Arc<str>, Secret>,
}

impl Live {
    /// The certificate and key a TLS context refers to; `None` while it has not come, or when the name
    /// stands for trusted roots.
    pub fn certificate(&self, reference: &SecretRef) -> Option<Arc<CertifiedKey>> {
        match reference {
            SecretRef::Sds(name) => match self.secrets.get(name)? {
                Secret::Certificate(key) => Some(key.clone()),
                Secret::Roots(_) => None,
            },
            SecretRef::Inline { certificates, key } => certified_key(certificates, key).ok().map(Arc::new),
        }
    }

    /// The roots a TLS context trusts; `None` while they have not come, or when the name stands for a
    /// certificate.
    pub fn roots(&self, reference: &SecretRef) -> Option<Arc<Roots>> {
        match reference {
            SecretRef::Sds(name) => match self.secrets.get(name)? {
                Secret::Roots(roots) => Some(roots.clone()),
                Secret::Certificate(_) => None,
            },
            SecretRef::Inline { certificates, .. } => Roots::from_pem(certificates).ok().map(Arc::new),
        }
    }
}

/// What an SDS name stands for.
#[derive(Debug, Clone)]
pub enum Secret {
    /// Certificate chain and key.
    Certificate(Arc<CertifiedKey>),
    /// Trusted roots.
    Roots(Arc<Roots>),
}

impl Secret {
    /// Whether both are one and the same.
    pub fn is(&self, other: &Secret) -> bool {
        match (self, other) {
            (Self::Certificate(a), Self::Certificate(b)) => Arc::ptr_eq(a, b),
            (Self::Roots(a), Self::Roots(b)) => Arc::ptr_eq(a, b) || a == b,
            _ => false,
        }
    }
}

/// Roots that peers are verified against.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Roots {
    /// Certificates, at least one.
    pub certificates: Vec<CertificateDer<'static>>,
}

impl Roots {
    /// Reads a PEM bundle.
    pub fn from_pem(pem: &str) -> Result<Self, SecretError> {
        let certificates = certificates(pem)?;
        Ok(Self { certificates })
    }
}

/// Why a secret was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SecretError {
    /// The text has no certificate in it.
    #[error("no CERTIFICATE block in the PEM text")]
    NoCertificate,
    /// A block could not be read.
    #[error("the PEM text cannot be read: {0}")]
    Pem(String),
    /// No key, or one of a form that is not known.
    #[error("the private key cannot be read: {0}")]
    Key(String),
    /// The key is not the certificate's.
    #[error("certificate and private key do not belong together: {0}")]
    Mismatch(String),
}

/// Reads a chain, leaf first, and its key from PEM, and checks that they belong together.
pub fn certified_key(chain: &str, key: &str) -> Result<CertifiedKey, SecretError> {
    let chain = certificates(chain)?;
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).map_err(|e| SecretError::Key(e.to_string()))?;
    CertifiedKey::from_der(chain, key, &rustls::crypto::aws_lc_rs::default_provider()).map_err(|e| match e {
        rustls::Error::InconsistentKeys(_) => SecretError::Mismatch(e.to_string()),
        _ => SecretError::Key(e.to_string()),
    })
}

fn certificates(pem: &str) -> Result<Vec<CertificateDer<'static>>, SecretError> {
    let certificates = CertificateDer::pem_slice_iter(pem.as_bytes())
        .collect::<Result<Vec<_>, _>>()
        .map_err(|e| SecretError::Pem(e.to_string()))?;
    if certificates.is_empty() {
        return Err(SecretError::NoCertificate);
    }
    Ok(certificates)
}
