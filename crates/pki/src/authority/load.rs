//! Reads an authority from the files of the `cacerts` secret, and says precisely what is wrong with them.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;
use std::time::{Duration, SystemTime};

use isthmus_model::{SpiffeId, TrustDomain};
use rustls_pki_types::UnixTime;

use super::{Authority, IssueError};
use crate::bundle::{BundleError, Roots};
use crate::certificate::{Certificate, CertificateError, Fingerprint};
use crate::key::{KeyAlgorithm, KeyError, PrivateKey};
use crate::moment;
use crate::verify::{Side, verify_chain};

/// Longest file that is read, in bytes.
const LONGEST_FILE: u64 = 1024 * 1024;

/// Why files do not make an authority.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// A file cannot be read.
    #[error("{file} cannot be read: {source}")]
    Read {
        /// The file.
        file: String,
        /// Why.
        source: std::io::Error,
    },
    /// Neither of the two sets of names is complete.
    #[error(
        "{origin} holds no certificate authority: {missing} is missing; expected ca-cert.pem, ca-key.pem, cert-chain.pem and root-cert.pem, or tls.crt, tls.key and ca.crt"
    )]
    Missing {
        /// Directory or secret.
        origin: String,
        /// The first file that is not there.
        missing: &'static str,
    },
    /// No root that stands alone.
    #[error(
        "{origin} holds no root: root-cert.pem and root-key.pem are expected; make one with `isthmus certs root`"
    )]
    NoRoot {
        /// The directory.
        origin: String,
    },
    /// A file does not hold certificates.
    #[error("{file}: {source}")]
    Certificate {
        /// The file.
        file: String,
        /// Why.
        source: CertificateError,
    },
    /// A file does not hold a private key.
    #[error("{file}: {source}")]
    Key {
        /// The file.
        file: String,
        /// Why.
        source: KeyError,
    },
    /// A file does not hold roots or revocation lists.
    #[error("{file}: {source}")]
    Bundle {
        /// The file.
        file: String,
        /// Why.
        source: BundleError,
    },
    /// Certificate and key do not belong together.
    #[error(
        "the key in {key_file} (public key SHA-256 {key}) does not belong to the certificate in {cert_file} (public key SHA-256 {cert}): use the pair that was made together"
    )]
    KeyMismatch {
        /// File of the certificate.
        cert_file: String,
        /// Fingerprint of the certificate's public key.
        cert: Fingerprint,
        /// File of the key.
        key_file: String,
        /// Fingerprint of the key's public half.
        key: Fingerprint,
    },
    /// The certificate may not sign.
    #[error("{file}: {subject} is not a certificate authority: {why}")]
    NotAuthority {
        /// File of the certificate.
        file: String,
        /// Its subject.
        subject: String,
        /// What is missing.
        why: &'static str,
    },
    /// Expired, or not valid yet.
    #[error("{file}: {subject} is not valid now: valid from {not_before} to {not_after}; make a new one")]
    Validity {
        /// File of the certificate.
        file: String,
        /// Its subject.
        subject: String,
        /// Start of validity.
        not_before: String,
        /// End of validity.
        not_after: String,
    },
    /// No way from the certificate to a root.
    #[error(transparent)]
    Chain(Box<BrokenChain>),
    /// Signing itself fails.
    #[error("{file}: the authority cannot sign: {source}")]
    Signing {
        /// File of the certificate.
        file: String,
        /// Why.
        source: IssueError,
    },
}

/// An authority's certificate that does not lead to its roots.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{cert_file} ({subject}, SHA-256 {cert}) does not chain to {root_file} ({}): {reason}; put the certificates between them into {chain_file}, or use the root that signed it",
    fingerprints(roots)
)]
pub struct BrokenChain {
    /// File of the certificate.
    pub cert_file: String,
    /// Its subject.
    pub subject: String,
    /// Its fingerprint.
    pub cert: Fingerprint,
    /// File of the intermediates.
    pub chain_file: String,
    /// File of the roots.
    pub root_file: String,
    /// The roots' fingerprints.
    pub roots: Vec<Fingerprint>,
    /// What verification says.
    pub reason: String,
}

fn fingerprints(roots: &[Fingerprint]) -> String {
    let all: Vec<String> = roots.iter().map(|f| format!("SHA-256 {f}")).collect();
    all.join(", ")
}

/// The files of an authority by name, as a directory or a Kubernetes secret holds them.
#[derive(Clone)]
pub struct FileSet {
    /// Where they come from, for messages: a directory, or `Secret istio-system/cacerts`.
    pub origin: String,
    /// Content by file name.
    pub files: BTreeMap<String, Vec<u8>>,
}

/// File names of one form of the secret.
struct Names {
    certificate: &'static str,
    key: &'static str,
    chain: Option<&'static str>,
    roots: &'static str,
}

const ISTIO: Names = Names {
    certificate: "ca-cert.pem",
    key: "ca-key.pem",
    chain: Some("cert-chain.pem"),
    roots: "root-cert.pem",
};
const KUBERNETES_TLS: Names = Names {
    certificate: "tls.crt",
    key: "tls.key",
    chain: None,
    roots: "ca.crt",
};
/// A root as `isthmus certs root` and Istio's `make root-ca` leave it.
const ROOT: Names = Names {
    certificate: FileSet::ROOT_CERTIFICATE,
    key: FileSet::ROOT_KEY,
    chain: None,
    roots: FileSet::ROOT_CERTIFICATE,
};
const REVOCATION_LIST: &str = "ca-crl.pem";

impl FileSet {
    /// The certificate of a root that stands alone.
    pub const ROOT_CERTIFICATE: &'static str = "root-cert.pem";
    /// The key of a root that stands alone.
    pub const ROOT_KEY: &'static str = "root-key.pem";

    /// Reads those files of a directory that belong to an authority.
    ///
    /// A root that stands alone is not taken for one: it is not meant to lie in a cluster. See
    /// [`Self::read_root`].
    pub fn read(directory: &Path) -> Result<Self, AuthorityError> {
        Self::read_named(directory, &[&ISTIO, &KUBERNETES_TLS])
    }

    /// Reads a root that stands alone, `root-cert.pem` and `root-key.pem`, for making intermediates from it.
    pub fn read_root(directory: &Path) -> Result<Self, AuthorityError> {
        let set = Self::read_named(directory, &[&ROOT])?;
        if !set.files.contains_key(Self::ROOT_KEY) {
            return Err(AuthorityError::NoRoot { origin: set.origin });
        }
        Ok(set)
    }

    /// Whether the certificate of an authority is among the files.
    pub fn has_authority(&self) -> bool {
        [&ISTIO, &KUBERNETES_TLS]
            .iter()
            .any(|names| self.files.contains_key(names.certificate))
    }

    fn read_named(directory: &Path, names: &[&Names]) -> Result<Self, AuthorityError> {
        let mut files = BTreeMap::new();
        let names = names
            .iter()
            .flat_map(|n| [Some(n.certificate), Some(n.key), n.chain, Some(n.roots)]);
        for name in names.flatten().chain([REVOCATION_LIST]) {
            let path = directory.join(name);
            let failed = |source| AuthorityError::Read {
                file: path.display().to_string(),
                source,
            };
            match std::fs::File::open(&path) {
                Ok(file) => {
                    let mut content = Vec::new();
                    file.take(LONGEST_FILE)
                        .read_to_end(&mut content)
                        .map_err(failed)?;
                    files.insert(name.to_owned(), content);
                }
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
                Err(e) => return Err(failed(e)),
            }
        }
        Ok(Self {
            origin: directory.display().to_string(),
            files,
        })
    }

    fn get(&self, name: &'static str) -> Result<&[u8], AuthorityError> {
        self.files
            .get(name)
            .map(Vec::as_slice)
            .ok_or_else(|| AuthorityError::Missing {
                origin: self.origin.clone(),
                missing: name,
            })
    }

    fn names(&self) -> &'static Names {
        let has = |name| self.files.contains_key(name);
        if has(ISTIO.certificate) {
            &ISTIO
        } else if has(KUBERNETES_TLS.certificate) {
            &KUBERNETES_TLS
        } else if has(ROOT.key) {
            &ROOT
        } else {
            &ISTIO
        }
    }

    fn path(&self, name: &str) -> String {
        format!("{}/{name}", self.origin)
    }

    fn certificates(&self, name: &'static str) -> Result<Vec<Certificate>, AuthorityError> {
        Certificate::parse_pem(self.get(name)?).map_err(|source| AuthorityError::Certificate {
            file: self.path(name),
            source,
        })
    }

    fn roots(&self, names: &Names) -> Result<Roots, AuthorityError> {
        let bundle_error = |name: &str, source| AuthorityError::Bundle {
            file: self.path(name),
            source,
        };
        let roots = Roots::from_pem(self.get(names.roots)?).map_err(|e| bundle_error(names.roots, e))?;
        match self.files.get(REVOCATION_LIST) {
            Some(text) => roots
                .with_revocation_lists(text)
                .map_err(|e| bundle_error(REVOCATION_LIST, e)),
            None => Ok(roots),
        }
    }
}

impl Authority {
    /// Reads and checks the authority in a directory of `cacerts` files.
    pub fn load(directory: &Path) -> Result<Self, AuthorityError> {
        Self::from_files(&FileSet::read(directory)?)
    }

    /// Checks the files and makes an authority of them.
    pub fn from_files(set: &FileSet) -> Result<Self, AuthorityError> {
        let names = set.names();
        let mut certificates = set.certificates(names.certificate)?.into_iter();
        let certificate = certificates.next().ok_or(AuthorityError::Certificate {
            file: set.path(names.certificate),
            source: CertificateError::None,
        })?;
        let key = PrivateKey::from_pem(set.get(names.key)?).map_err(|source| AuthorityError::Key {
            file: set.path(names.key),
            source,
        })?;
        check(set, names, &certificate, &key)?;

        let mut extra: Vec<Certificate> = certificates.collect();
        if let Some(chain) = names.chain.filter(|c| set.files.contains_key(*c)) {
            extra.extend(set.certificates(chain)?);
        }
        let roots = set.roots(names)?;
        let chain_error = |reason: String| {
            AuthorityError::Chain(Box::new(BrokenChain {
                cert_file: set.path(names.certificate),
                subject: certificate.name(),
                cert: certificate.fingerprint(),
                chain_file: set.path(names.chain.unwrap_or(names.certificate)),
                root_file: set.path(names.roots),
                roots: roots.fingerprints(),
                reason,
            }))
        };
        let (above, anchor) = path_to_root(&certificate, extra, &roots).map_err(chain_error)?;
        let authority = Self {
            certificate: certificate.clone(),
            key,
            above,
            anchor,
            roots: roots.clone(),
        };
        authority.probe(set, names, chain_error)?;
        Ok(authority)
    }

    /// Issues a certificate in memory and verifies it as a peer would: what passes here, passes there.
    fn probe(
        &self,
        set: &FileSet,
        names: &Names,
        chain_error: impl Fn(String) -> AuthorityError,
    ) -> Result<(), AuthorityError> {
        let signing = |source| AuthorityError::Signing {
            file: set.path(names.certificate),
            source,
        };
        let identity = SpiffeId::new(TrustDomain::default(), "istio-system", "probe");
        let issued = PrivateKey::generate(KeyAlgorithm::EcdsaP256)
            .and_then(|key| key.certificate_request(&identity))
            .map_err(|e| signing(e.into()))
            .and_then(|csr| self.issue(&csr, &identity, Duration::ZERO).map_err(signing))?;
        let between: Vec<_> = self.intermediates().map(|c| c.der.clone()).collect();
        let now = UnixTime::now();
        verify_chain(&issued.leaf.der, &between, &self.roots, now, Side::Server)
            .map_err(|refusal| chain_error(refusal.to_string()))
    }
}

fn check(
    set: &FileSet,
    names: &Names,
    certificate: &Certificate,
    key: &PrivateKey,
) -> Result<(), AuthorityError> {
    if !key.matches(&certificate.public_key_info) {
        return Err(AuthorityError::KeyMismatch {
            cert_file: set.path(names.certificate),
            cert: Fingerprint::of(&certificate.public_key_info),
            key_file: set.path(names.key),
            key: key.fingerprint(),
        });
    }
    let not_authority = |why| AuthorityError::NotAuthority {
        file: set.path(names.certificate),
        subject: certificate.name(),
        why,
    };
    if !certificate.is_ca {
        return Err(not_authority("basicConstraints CA:TRUE is missing"));
    }
    if !certificate.may_sign_certificates {
        return Err(not_authority("keyUsage does not allow keyCertSign"));
    }
    let now = SystemTime::now();
    if now < certificate.not_before || now > certificate.not_after {
        return Err(AuthorityError::Validity {
            file: set.path(names.certificate),
            subject: certificate.name(),
            not_before: moment::rfc3339(certificate.not_before),
            not_after: moment::rfc3339(certificate.not_after),
        });
    }
    Ok(())
}

/// Follows issuer names from `certificate` to a root; signatures are for [`Authority::probe`].
pub(crate) fn path_to_root(
    certificate: &Certificate,
    mut extra: Vec<Certificate>,
    roots: &Roots,
) -> Result<(Vec<Certificate>, Certificate), String> {
    let mut above: Vec<Certificate> = Vec::new();
    loop {
        let at = above.last().unwrap_or(certificate);
        if let Some(root) = roots.certificates().iter().find(|r| r.der == at.der) {
            let root = root.clone();
            above.pop();
            return Ok((above, root));
        }
        if let Some(root) = roots.certificates().iter().find(|r| signed(at, r)) {
            return Ok((above, root.clone()));
        }
        let next = extra.iter().position(|c| c.der != at.der && signed(at, c));
        match next {
            Some(i) => above.push(extra.swap_remove(i)),
            None => {
                return Err(format!(
                    "no certificate of its issuer {:?} that made the signature on {} was found",
                    at.issuer,
                    at.name()
                ));
            }
        }
    }
}

/// Whether `issuer` has the issuer's name of `certificate` and made its signature.
fn signed(certificate: &Certificate, issuer: &Certificate) -> bool {
    use x509_parser::prelude::{FromDer, X509Certificate};
    if certificate.issuer_der != issuer.subject_der {
        return false;
    }
    let (Ok((_, child)), Ok((_, parent))) = (
        X509Certificate::from_der(&certificate.der),
        X509Certificate::from_der(&issuer.der),
    ) else {
        return false;
    };
    child.verify_signature(Some(parent.public_key())).is_ok()
}
