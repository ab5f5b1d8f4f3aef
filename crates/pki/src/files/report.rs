//! What certificates on disk say, and whether they hold.

use std::io;
use std::path::Path;
use std::time::SystemTime;

use rustls_pki_types::{CertificateDer, UnixTime};
use serde::Serialize;

use crate::authority::{Authority, FileSet, path_to_root};
use crate::bundle::{BundleError, Roots};
use crate::certificate::{Certificate, CertificateError};
use crate::moment;
use crate::verify::{Side, verify_chain};

/// Longest file that is shown, in bytes.
const LONGEST_FILE: u64 = 1024 * 1024;

/// Why there is nothing to show.
#[derive(Debug, thiserror::Error)]
pub enum ReportError {
    /// A file cannot be read.
    #[error("{file} cannot be read: {source}")]
    Read {
        /// The file.
        file: String,
        /// Why.
        source: io::Error,
    },
    /// A file holds no certificates.
    #[error("{file}: {source}; give a PEM file, or a directory with the files of a cacerts secret")]
    Certificate {
        /// The file.
        file: String,
        /// Why.
        source: CertificateError,
    },
    /// The roots to check against are none.
    #[error("{file}: {source}")]
    Roots {
        /// The file.
        file: String,
        /// Why.
        source: BundleError,
    },
}

/// Whether a chain holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "status", rename_all = "kebab-case")]
pub enum Check {
    /// It leads to this root.
    Ok {
        /// SHA-256 of the root.
        root: String,
    },
    /// It does not.
    Failed {
        /// Why, in words.
        reason: String,
    },
    /// It cannot be told.
    Unknown {
        /// What is missing.
        reason: String,
    },
}

/// One certificate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct CertificateReport {
    /// File it is in.
    pub file: String,
    /// Subject; empty for workloads.
    pub subject: String,
    /// Issuer.
    pub issuer: String,
    /// SPIFFE and other URI names.
    pub uris: Vec<String>,
    /// DNS names.
    pub dns_names: Vec<String>,
    /// Whether it may sign others.
    pub authority: bool,
    /// Serial number.
    pub serial: String,
    /// Start of validity, RFC 3339.
    pub not_before: String,
    /// End of validity, RFC 3339.
    pub not_after: String,
    /// Whether it is valid at the moment.
    pub valid_now: bool,
    /// SHA-256.
    pub fingerprint: String,
}

/// A file or directory of certificates.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Report {
    /// The path.
    pub path: String,
    /// What is in it.
    pub certificates: Vec<CertificateReport>,
    /// The member cluster that the authority is for (`L=`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cluster: Option<String>,
    /// Whether the chain holds.
    pub chain: Check,
}

impl Report {
    /// Reads a PEM file, or a directory with an authority. `roots` is a PEM file to check against; without
    /// it, the roots that lie beside the certificate count.
    pub fn of(path: &Path, roots: Option<&Path>) -> Result<Self, ReportError> {
        let roots = roots.map(read_roots).transpose()?;
        if path.is_dir() {
            Self::of_directory(path, roots.as_ref())
        } else {
            Self::of_file(path, roots)
        }
    }

    fn of_directory(path: &Path, roots: Option<&Roots>) -> Result<Self, ReportError> {
        let shown = path.display().to_string();
        let set = match FileSet::read(path) {
            Ok(set) if set.has_authority() => Ok(set),
            _ => FileSet::read_root(path),
        };
        let set = set.map_err(|e| unreadable(&shown, io::Error::other(e.to_string())))?;
        let mut certificates = Vec::new();
        for (name, text) in &set.files {
            if name.contains("key") || name.contains("crl") {
                continue;
            }
            let file = format!("{shown}/{name}");
            let parsed = Certificate::parse_pem(text);
            let parsed = parsed.map_err(|source| ReportError::Certificate {
                file: file.clone(),
                source,
            })?;
            certificates.extend(parsed.iter().map(|c| CertificateReport::of(&file, c)));
        }
        let loaded = Authority::from_files(&set);
        let cluster = loaded.as_ref().ok().and_then(Authority::cluster);
        let chain = match (loaded, roots) {
            (Err(e), _) => Check::Failed {
                reason: e.to_string(),
            },
            (Ok(authority), Some(roots))
                if !roots.fingerprints().contains(&authority.anchor().fingerprint()) =>
            {
                Check::Failed {
                    reason: format!(
                        "it chains to root {} but the roots to check against are {:?}",
                        authority.anchor().fingerprint(),
                        roots.fingerprints()
                    ),
                }
            }
            (Ok(authority), _) => Check::Ok {
                root: authority.anchor().fingerprint().to_string(),
            },
        };
        Ok(Self {
            path: shown,
            certificates,
            cluster: cluster.map(|c| c.0),
            chain,
        })
    }

    fn of_file(path: &Path, roots: Option<Roots>) -> Result<Self, ReportError> {
        let file = path.display().to_string();
        let text = read(path)?;
        let certificates = Certificate::parse_pem(&text).map_err(|source| ReportError::Certificate {
            file: file.clone(),
            source,
        })?;
        let own = || Roots::new(certificates.iter().filter(|c| c.is_self_issued()).cloned());
        let chain = match roots.map_or_else(own, Ok) {
            Ok(roots) if roots.is_empty() => Check::Unknown {
                reason: "no root in the file: give one with --roots".to_owned(),
            },
            Ok(roots) => check(&certificates, &roots),
            Err(e) => Check::Failed {
                reason: e.to_string(),
            },
        };
        Ok(Self {
            certificates: certificates
                .iter()
                .map(|c| CertificateReport::of(&file, c))
                .collect(),
            cluster: certificates.first().and_then(|c| c.locality.clone()),
            path: file,
            chain,
        })
    }

    /// Whether the chain is known to be broken or a certificate is not valid now.
    pub fn is_bad(&self) -> bool {
        matches!(self.chain, Check::Failed { .. }) || self.certificates.iter().any(|c| !c.valid_now)
    }
}

impl CertificateReport {
    fn of(file: &str, certificate: &Certificate) -> Self {
        let now = SystemTime::now();
        Self {
            file: file.to_owned(),
            subject: certificate.subject.clone(),
            issuer: certificate.issuer.clone(),
            uris: certificate.uris.clone(),
            dns_names: certificate.dns_names.clone(),
            authority: certificate.is_ca,
            serial: certificate.serial.clone(),
            not_before: moment::rfc3339(certificate.not_before),
            not_after: moment::rfc3339(certificate.not_after),
            valid_now: certificate.not_before <= now && now <= certificate.not_after,
            fingerprint: certificate.fingerprint().to_string(),
        }
    }
}

/// Whether the first certificate leads to one of `roots` by way of the others.
fn check(certificates: &[Certificate], roots: &Roots) -> Check {
    let Some((first, others)) = certificates.split_first() else {
        return Check::Unknown {
            reason: "no certificate".to_owned(),
        };
    };
    let ok = |root: &Certificate| Check::Ok {
        root: root.fingerprint().to_string(),
    };
    let failed = |reason: String| Check::Failed { reason };
    let leads_to = path_to_root(first, others.to_vec(), roots);
    if first.is_ca {
        return match leads_to {
            Ok((_, root)) => ok(&root),
            Err(reason) => failed(reason),
        };
    }
    // A leaf is verified the way a peer does it.
    let between: Vec<CertificateDer<'_>> = others.iter().map(|c| c.der.clone()).collect();
    match verify_chain(&first.der, &between, roots, UnixTime::now(), Side::Server) {
        Ok(()) => leads_to.map_or_else(failed, |(_, root)| ok(&root)),
        Err(refusal) => failed(refusal.to_string()),
    }
}

fn read_roots(path: &Path) -> Result<Roots, ReportError> {
    Roots::from_pem(&read(path)?).map_err(|source| ReportError::Roots {
        file: path.display().to_string(),
        source,
    })
}

fn read(path: &Path) -> Result<Vec<u8>, ReportError> {
    use std::io::Read;
    let shown = path.display().to_string();
    let mut text = Vec::new();
    std::fs::File::open(path)
        .and_then(|file| file.take(LONGEST_FILE).read_to_end(&mut text))
        .map_err(|e| unreadable(&shown, e))?;
    Ok(text)
}

fn unreadable(file: &str, source: io::Error) -> ReportError {
    ReportError::Read {
        file: file.to_owned(),
        source,
    }
}
