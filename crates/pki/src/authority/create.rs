//! Makes roots and intermediates, shaped as Istio's `tools/certs` makes them.

use std::time::{Duration, SystemTime};

use isthmus_model::ClusterId;

use super::assemble::{self, Blueprint, Issuer, Name, Role, usage};
use super::{Authority, CLOCK_SKEW};
use crate::bundle::{BundleError, Roots};
use crate::certificate::{Certificate, CertificateError};
use crate::key::{KeyAlgorithm, KeyError, PrivateKey};

/// keyUsage of roots and intermediates.
const AUTHORITY_USAGE: u8 =
    usage::DIGITAL_SIGNATURE | usage::NON_REPUDIATION | usage::KEY_ENCIPHERMENT | usage::KEY_CERT_SIGN;

/// Ten years, the life of Istio's root.
const TEN_YEARS: Duration = Duration::from_secs(3650 * 24 * 3600);

/// Longest value of an attribute of a name (RFC 5280, ub-common-name and ub-organization-name).
const LONGEST_ATTRIBUTE: usize = 64;

/// Why an authority could not be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CreateError {
    /// The key could not be made or used.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// What was made cannot be read back.
    #[error(transparent)]
    Certificate(#[from] CertificateError),
    /// What was made cannot be a root.
    #[error(transparent)]
    Bundle(#[from] BundleError),
    /// A name is empty or too long.
    #[error("{field} {value:?} must have 1 to {LONGEST_ATTRIBUTE} characters")]
    Name {
        /// Which attribute.
        field: &'static str,
        /// What was given.
        value: String,
    },
    /// The parent may not sign authorities.
    #[error(
        "{0} may not sign an intermediate (its pathLenConstraint is 0): create it from the root's ca-cert.pem and ca-key.pem"
    )]
    PathLength(String),
    /// The parent is expired.
    #[error("{0} has expired: create a new root with `isthmus certs root`")]
    Expired(String),
}

/// What a new root looks like; the defaults are Istio's.
#[derive(Debug, Clone)]
pub struct RootRequest {
    /// `O=`
    pub organization: String,
    /// `CN=`
    pub common_name: String,
    /// Kind of key.
    pub algorithm: KeyAlgorithm,
    /// How long it is valid.
    pub validity: Duration,
}

impl Default for RootRequest {
    fn default() -> Self {
        Self {
            organization: "Istio".to_owned(),
            common_name: "Root CA".to_owned(),
            algorithm: KeyAlgorithm::Rsa4096,
            validity: TEN_YEARS,
        }
    }
}

/// What a new intermediate looks like; the defaults are Istio's.
#[derive(Debug, Clone)]
pub struct IntermediateRequest {
    /// `O=`
    pub organization: String,
    /// `CN=`
    pub common_name: String,
    /// `L=`, the member cluster that will sign with it.
    pub cluster: ClusterId,
    /// SAN of kind DNS: the control plane's service.
    pub dns_names: Vec<String>,
    /// Kind of key.
    pub algorithm: KeyAlgorithm,
    /// How long it is valid; cut short at the root's end.
    pub validity: Duration,
}

impl IntermediateRequest {
    /// Istio's intermediate for a member cluster.
    pub fn new(cluster: ClusterId) -> Self {
        Self {
            organization: "Istio".to_owned(),
            common_name: "Intermediate CA".to_owned(),
            cluster,
            dns_names: vec!["istiod.istio-system.svc".to_owned()],
            algorithm: KeyAlgorithm::Rsa4096,
            validity: TEN_YEARS,
        }
    }
}

impl Authority {
    /// Makes a self-signed root. Blocks for as long as its key takes to make.
    pub fn create_root(request: &RootRequest) -> Result<Self, CreateError> {
        attribute("organization", &request.organization)?;
        attribute("common name", &request.common_name)?;
        let key = PrivateKey::generate(request.algorithm)?;
        let name = assemble::distinguished_name(&request.organization, &request.common_name, None);
        let now = SystemTime::now();
        let info = key.public_key_info();
        let blueprint = Blueprint {
            subject: &name,
            public_key_info: &info,
            names: &[],
            not_before: now - CLOCK_SKEW,
            not_after: now + request.validity,
            key_usage: AUTHORITY_USAGE,
            role: Role::Authority { path_length: None },
        };
        let issuer = Issuer {
            name: &name,
            key_id: None,
            key: &key,
        };
        let certificate = Certificate::parse(&assemble::sign(&blueprint, &issuer)?)?;
        Ok(Self {
            roots: Roots::new([certificate.clone()])?,
            anchor: certificate.clone(),
            certificate,
            key,
            above: Vec::new(),
        })
    }

    /// Makes an intermediate below this authority (pathlen 0). Blocks for as long as its key takes to make.
    pub fn create_intermediate(&self, request: &IntermediateRequest) -> Result<Self, CreateError> {
        attribute("organization", &request.organization)?;
        attribute("common name", &request.common_name)?;
        attribute("cluster", request.cluster.as_str())?;
        let now = SystemTime::now();
        if self.expires() <= now {
            return Err(CreateError::Expired(self.certificate.name()));
        }
        if self.certificate.path_length == Some(0) {
            return Err(CreateError::PathLength(self.certificate.name()));
        }
        let key = PrivateKey::generate(request.algorithm)?;
        let subject = assemble::distinguished_name(
            &request.organization,
            &request.common_name,
            Some(request.cluster.as_str()),
        );
        let names: Vec<Name> = request.dns_names.iter().cloned().map(Name::Dns).collect();
        let info = key.public_key_info();
        let blueprint = Blueprint {
            subject: &subject,
            public_key_info: &info,
            names: &names,
            not_before: now - CLOCK_SKEW,
            not_after: (now + request.validity).min(self.expires()),
            key_usage: AUTHORITY_USAGE,
            role: Role::Authority { path_length: Some(0) },
        };
        let certificate = Certificate::parse(&assemble::sign(&blueprint, &self.as_issuer())?)?;
        Ok(Self {
            certificate,
            key,
            above: self.intermediates().cloned().collect(),
            roots: self.roots.clone(),
            anchor: self.anchor.clone(),
        })
    }

    pub(super) fn as_issuer(&self) -> Issuer<'_> {
        Issuer {
            name: &self.certificate.subject_der,
            key_id: self.certificate.subject_key_id.as_deref(),
            key: &self.key,
        }
    }
}

fn attribute(field: &'static str, value: &str) -> Result<(), CreateError> {
    if value.is_empty() || value.chars().count() > LONGEST_ATTRIBUTE {
        return Err(CreateError::Name {
            field,
            value: value.to_owned(),
        });
    }
    Ok(())
}
