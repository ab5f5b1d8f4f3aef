//! Certificates as facts: what a DER certificate says, read once.
//!
//! Nothing here verifies a signature; see [`crate::verify`].

use std::fmt;
use std::net::IpAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::digest::{SHA256, digest};
use isthmus_model::SpiffeId;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::{FromDer, X509Certificate};
use x509_parser::x509::X509Name;

/// Most certificates read from one PEM text.
const MOST_IN_ONE_FILE: usize = 256;

/// Why bytes are not a certificate.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CertificateError {
    /// The DER is malformed.
    #[error("not a certificate: {0}")]
    Encoding(String),
    /// The text has no PEM block `CERTIFICATE`.
    #[error("no certificate found: expected a PEM block CERTIFICATE")]
    None,
    /// The text has more certificates than are ever needed.
    #[error("more than {MOST_IN_ONE_FILE} certificates in one file")]
    TooMany,
}

/// SHA-256 of something, shown as `AA:BB:...`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Fingerprint(pub [u8; 32]);

impl Fingerprint {
    /// Hashes `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        let mut out = [0; 32];
        out.copy_from_slice(digest(&SHA256, bytes).as_ref());
        Self(out)
    }

    /// Lower-case hexadecimal without colons (the `Hash` of x-forwarded-client-cert).
    pub fn hex(&self) -> String {
        self.0.iter().map(|b| format!("{b:02x}")).collect()
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&colon_hex(&self.0))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// An X.509 certificate and what it says.
#[derive(Clone, PartialEq, Eq)]
pub struct Certificate {
    /// The certificate itself.
    pub der: CertificateDer<'static>,
    /// Subject, e.g. `O=Istio, CN=Root CA`; empty for workloads.
    pub subject: String,
    /// Issuer, in the same form.
    pub issuer: String,
    /// Subject as encoded, for comparing and for issuing below it.
    pub subject_der: Vec<u8>,
    /// Issuer as encoded.
    pub issuer_der: Vec<u8>,
    /// SubjectPublicKeyInfo as encoded.
    pub public_key_info: Vec<u8>,
    /// Serial number in upper-case hexadecimal, `AA:BB:...`.
    pub serial: String,
    /// First moment of validity.
    pub not_before: SystemTime,
    /// Last moment of validity.
    pub not_after: SystemTime,
    /// Whether basicConstraints say CA.
    pub is_ca: bool,
    /// basicConstraints pathLenConstraint.
    pub path_length: Option<u32>,
    /// Whether keyUsage, if present, allows signing certificates.
    pub may_sign_certificates: bool,
    /// Subject alternative names of kind URI.
    pub uris: Vec<String>,
    /// Subject alternative names of kind DNS.
    pub dns_names: Vec<String>,
    /// Subject alternative names of kind IP address.
    pub addresses: Vec<IpAddr>,
    /// `L=` of the subject: the member cluster of an intermediate.
    pub locality: Option<String>,
    /// `L=` of the issuer's name: the member cluster that issued this certificate.
    pub issuer_locality: Option<String>,
    /// subjectKeyIdentifier.
    pub subject_key_id: Option<Vec<u8>>,
    /// authorityKeyIdentifier, its key id.
    pub authority_key_id: Option<Vec<u8>>,
}

impl Certificate {
    /// Reads a DER certificate; trailing bytes are an error.
    pub fn parse(der: &[u8]) -> Result<Self, CertificateError> {
        let encoding = |e: &dyn fmt::Display| CertificateError::Encoding(e.to_string());
        let (rest, cert) = X509Certificate::from_der(der).map_err(|e| encoding(&e))?;
        if !rest.is_empty() {
            return Err(encoding(&"bytes after its end"));
        }
        let mut out = Self {
            der: CertificateDer::from(der.to_vec()),
            subject: cert.subject().to_string(),
            issuer: cert.issuer().to_string(),
            subject_der: cert.subject().as_raw().to_vec(),
            issuer_der: cert.issuer().as_raw().to_vec(),
            public_key_info: cert.public_key().raw.to_vec(),
            serial: colon_hex(cert.raw_serial()),
            not_before: system_time(cert.validity().not_before.timestamp()),
            not_after: system_time(cert.validity().not_after.timestamp()),
            is_ca: false,
            path_length: None,
            may_sign_certificates: true,
            uris: Vec::new(),
            dns_names: Vec::new(),
            addresses: Vec::new(),
            locality: locality(cert.subject()),
            issuer_locality: locality(cert.issuer()),
            subject_key_id: None,
            authority_key_id: None,
        };
        for extension in cert.extensions() {
            match extension.parsed_extension() {
                ParsedExtension::BasicConstraints(b) => {
                    out.is_ca = b.ca;
                    out.path_length = b.path_len_constraint;
                }
                ParsedExtension::KeyUsage(k) => out.may_sign_certificates = k.key_cert_sign(),
                ParsedExtension::SubjectAlternativeName(san) => {
                    for name in &san.general_names {
                        out.add_name(name);
                    }
                }
                ParsedExtension::SubjectKeyIdentifier(k) => out.subject_key_id = Some(k.0.to_vec()),
                ParsedExtension::AuthorityKeyIdentifier(k) => {
                    out.authority_key_id = k.key_identifier.as_ref().map(|k| k.0.to_vec());
                }
                _ => {}
            }
        }
        Ok(out)
    }

    /// Reads every certificate of a PEM text, in order; at least one.
    pub fn parse_pem(text: &[u8]) -> Result<Vec<Self>, CertificateError> {
        let mut out = Vec::new();
        for der in CertificateDer::pem_slice_iter(text) {
            let der = der.map_err(|e| CertificateError::Encoding(e.to_string()))?;
            if out.len() == MOST_IN_ONE_FILE {
                return Err(CertificateError::TooMany);
            }
            out.push(Self::parse(&der)?);
        }
        if out.is_empty() {
            return Err(CertificateError::None);
        }
        Ok(out)
    }

    /// The certificate as a PEM block.
    pub fn to_pem(&self) -> String {
        pem_block("CERTIFICATE", &self.der)
    }

    /// SHA-256 of the DER.
    pub fn fingerprint(&self) -> Fingerprint {
        Fingerprint::of(&self.der)
    }

    /// Whether issuer and subject are the same name: a root, if its signature holds.
    pub fn is_self_issued(&self) -> bool {
        self.subject_der == self.issuer_der
    }

    /// The workload identity, when the only URI SAN is a SPIFFE id of Istio's form.
    pub fn spiffe_id(&self) -> Option<SpiffeId> {
        match self.uris.as_slice() {
            [uri] => uri.parse().ok(),
            _ => None,
        }
    }

    /// What to call it in a message: its SPIFFE id or first name, else its subject, else its serial.
    pub fn name(&self) -> String {
        if let Some(name) = self.uris.first().or(self.dns_names.first()) {
            name.clone()
        } else if !self.subject.is_empty() {
            self.subject.clone()
        } else {
            format!("serial {}", self.serial)
        }
    }

    fn add_name(&mut self, name: &GeneralName<'_>) {
        match name {
            GeneralName::URI(uri) => self.uris.push((*uri).to_owned()),
            GeneralName::DNSName(dns) => self.dns_names.push((*dns).to_owned()),
            GeneralName::IPAddress(bytes) => {
                let address = <[u8; 4]>::try_from(*bytes)
                    .map(IpAddr::from)
                    .or_else(|_| <[u8; 16]>::try_from(*bytes).map(IpAddr::from));
                self.addresses.extend(address.ok());
            }
            _ => {}
        }
    }
}

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Certificate({}, {})", self.name(), self.fingerprint())
    }
}

/// SubjectPublicKeyInfo.
pub(crate) mod spki {
    use x509_parser::prelude::{FromDer, SubjectPublicKeyInfo};

    /// The bits of the key, without its algorithm.
    pub(crate) fn key_bits(info: &[u8]) -> Option<Vec<u8>> {
        let (_, info) = SubjectPublicKeyInfo::from_der(info).ok()?;
        Some(info.subject_public_key.data.to_vec())
    }
}

/// A PEM block with lines of 64 characters and `\n`, as openssl writes it.
pub(crate) fn pem_block(tag: &str, der: &[u8]) -> String {
    let config = pem::EncodeConfig::new().set_line_ending(pem::LineEnding::LF);
    pem::encode_config(&pem::Pem::new(tag, der), config)
}

pub(crate) fn colon_hex(bytes: &[u8]) -> String {
    let pairs: Vec<String> = bytes.iter().map(|b| format!("{b:02X}")).collect();
    pairs.join(":")
}

/// Seconds since 1970; times before that are taken as 1970.
fn system_time(seconds: i64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(u64::try_from(seconds).unwrap_or(0))
}

fn locality(name: &X509Name<'_>) -> Option<String> {
    let mut values = name.iter_locality();
    let value = values.next()?.as_str().ok()?.to_owned();
    // Two localities would let a name mean two clusters; it then means none.
    values.next().is_none().then_some(value)
}
