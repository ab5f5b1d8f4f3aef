//! Puts a certificate together and signs it.
//!
//! Issuer and public key are copied byte for byte from the authority's certificate and the request, so
//! that names with repeated attributes or unusual string types, as openssl users have them, still chain.

use std::time::SystemTime;

use rand::RngCore;
use rustls_pki_types::CertificateDer;

use crate::certificate::Fingerprint;
use crate::certificate::spki::key_bits;
use crate::der::{self, attribute, extension};
use crate::key::{KeyError, PrivateKey};

/// keyUsage bits (RFC 5280 section 4.2.1.3), most significant first.
pub(crate) mod usage {
    pub(crate) const DIGITAL_SIGNATURE: u8 = 0x80;
    pub(crate) const NON_REPUDIATION: u8 = 0x40;
    pub(crate) const KEY_ENCIPHERMENT: u8 = 0x20;
    pub(crate) const KEY_CERT_SIGN: u8 = 0x04;
}

/// A subject alternative name.
pub(crate) enum Name {
    Uri(String),
    Dns(String),
}

/// What kind of certificate.
pub(crate) enum Role {
    /// An authority; at most so many authorities below it.
    Authority { path_length: Option<u8> },
    /// A workload: server and client.
    Leaf,
}

/// Everything that goes into a certificate, apart from the issuer.
pub(crate) struct Blueprint<'a> {
    /// Encoded Name; see [`distinguished_name`].
    pub(crate) subject: &'a [u8],
    /// Encoded SubjectPublicKeyInfo.
    pub(crate) public_key_info: &'a [u8],
    pub(crate) names: &'a [Name],
    pub(crate) not_before: SystemTime,
    pub(crate) not_after: SystemTime,
    pub(crate) key_usage: u8,
    pub(crate) role: Role,
}

/// Who signs.
pub(crate) struct Issuer<'a> {
    /// Encoded Name.
    pub(crate) name: &'a [u8],
    /// subjectKeyIdentifier; `None` leaves authorityKeyIdentifier out.
    pub(crate) key_id: Option<&'a [u8]>,
    pub(crate) key: &'a PrivateKey,
}

/// Identifier of a key: the first 160 bits of the SHA-256 of its bits (RFC 7093 section 2, method 1).
pub(crate) fn key_id(public_key_info: &[u8]) -> Vec<u8> {
    let bits = key_bits(public_key_info).unwrap_or_default();
    Fingerprint::of(&bits).0[..20].to_vec()
}

/// An encoded Name of organisation, common name and locality, in this order.
pub(crate) fn distinguished_name(organization: &str, common_name: &str, locality: Option<&str>) -> Vec<u8> {
    let part = |kind: &[u8], value: &str| der::set(&[&der::sequence(&[kind, &der::utf8_string(value)])]);
    let organization = part(attribute::ORGANIZATION, organization);
    let common_name = part(attribute::COMMON_NAME, common_name);
    let locality = locality.map_or_else(Vec::new, |l| part(attribute::LOCALITY, l));
    der::sequence(&[&organization, &common_name, &locality])
}

/// Assembles and signs; the serial number is 127 random bits.
pub(crate) fn sign(
    blueprint: &Blueprint<'_>,
    issuer: &Issuer<'_>,
) -> Result<CertificateDer<'static>, KeyError> {
    let mut serial = [0u8; 16];
    rand::rng().fill_bytes(&mut serial);
    // Positive, and of a length that does not vary.
    serial[0] = (serial[0] & 0x7f) | 0x40;

    let algorithm = issuer.key.signature_algorithm()?;
    let validity = der::sequence(&[&der::time(blueprint.not_before), &der::time(blueprint.not_after)]);
    let extensions = der::tlv(0xa3, &[&der::sequence(&[&extensions(blueprint, issuer)])]);
    let version = der::tlv(0xa0, &[&der::integer(&[2])]);
    let body = der::sequence(&[
        &version,
        &der::integer(&serial),
        algorithm,
        issuer.name,
        &validity,
        blueprint.subject,
        blueprint.public_key_info,
        &extensions,
    ]);
    let signature = issuer.key.sign(&body)?;
    let certificate = der::sequence(&[&body, algorithm, &der::bit_string(&signature)]);
    Ok(CertificateDer::from(certificate))
}

fn extensions(blueprint: &Blueprint<'_>, issuer: &Issuer<'_>) -> Vec<u8> {
    let mut out = Vec::new();
    let mut add = |id: &[u8], critical: bool, value: &[u8]| {
        let critical = if critical { der::BOOLEAN_TRUE } else { &[] };
        out.extend(der::sequence(&[id, critical, &der::octet_string(value)]));
    };

    add(extension::KEY_USAGE, true, &der::flags(blueprint.key_usage));
    match blueprint.role {
        Role::Leaf => {
            let both = der::sequence(&[extension::SERVER_AUTH, extension::CLIENT_AUTH]);
            add(extension::EXTENDED_KEY_USAGE, false, &both);
            add(extension::BASIC_CONSTRAINTS, true, &der::sequence(&[]));
        }
        Role::Authority { path_length } => {
            let length = path_length.map_or_else(Vec::new, |n| der::integer(&[n]));
            let value = der::sequence(&[der::BOOLEAN_TRUE, &length]);
            add(extension::BASIC_CONSTRAINTS, true, &value);
        }
    }
    let own_id = key_id(blueprint.public_key_info);
    add(extension::SUBJECT_KEY_ID, false, &der::octet_string(&own_id));
    if let Some(id) = issuer.key_id {
        let value = der::sequence(&[&der::tlv(0x80, &[id])]);
        add(extension::AUTHORITY_KEY_ID, false, &value);
    }
    if !blueprint.names.is_empty() {
        let names: Vec<u8> = blueprint
            .names
            .iter()
            .flat_map(|name| match name {
                Name::Dns(dns) => der::tlv(0x82, &[dns.as_bytes()]),
                Name::Uri(uri) => der::tlv(0x86, &[uri.as_bytes()]),
            })
            .collect();
        // RFC 5280 section 4.2.1.6: critical when the subject is empty.
        let critical = blueprint.subject == der::sequence(&[]);
        add(extension::SUBJECT_ALT_NAME, critical, &der::sequence(&[&names]));
    }
    out
}
