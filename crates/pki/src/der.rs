//! Just enough DER to assemble a certificate and to wrap a private key (X.690, RFC 5280).
//!
//! Reading is left to `x509-parser` and `rustls-webpki`.

use std::time::SystemTime;

use time::OffsetDateTime;

pub(crate) const BOOLEAN_TRUE: &[u8] = &[0x01, 0x01, 0xff];
/// rsaEncryption, 1.2.840.113549.1.1.1, with its NULL parameter.
pub(crate) const RSA_ENCRYPTION: &[u8] = &[
    0x30, 0x0d, 0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01, 0x05, 0x00,
];
/// sha256WithRSAEncryption, 1.2.840.113549.1.1.11.
pub(crate) const SHA256_WITH_RSA: &[u8] = &[
    0x30, 0x0d, 0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x0b, 0x05, 0x00,
];
/// ecdsa-with-SHA256, 1.2.840.10045.4.3.2.
pub(crate) const ECDSA_WITH_SHA256: &[u8] = &[
    0x30, 0x0a, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x02,
];
/// ecdsa-with-SHA384, 1.2.840.10045.4.3.3.
pub(crate) const ECDSA_WITH_SHA384: &[u8] = &[
    0x30, 0x0a, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x03,
];
/// Ed25519, 1.3.101.112.
pub(crate) const ED25519: &[u8] = &[0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70];
/// id-ecPublicKey on prime256v1.
pub(crate) const EC_P256: &[u8] = &[
    0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce,
    0x3d, 0x03, 0x01, 0x07,
];
/// id-ecPublicKey on secp384r1.
pub(crate) const EC_P384: &[u8] = &[
    0x30, 0x10, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x05, 0x2b, 0x81, 0x04, 0x00,
    0x22,
];

/// Attribute types of a name, as encoded OIDs.
pub(crate) mod attribute {
    pub(crate) const COMMON_NAME: &[u8] = &[0x06, 0x03, 0x55, 0x04, 0x03];
    pub(crate) const LOCALITY: &[u8] = &[0x06, 0x03, 0x55, 0x04, 0x07];
    pub(crate) const ORGANIZATION: &[u8] = &[0x06, 0x03, 0x55, 0x04, 0x0a];
}

/// Extension identifiers, as encoded OIDs.
pub(crate) mod extension {
    pub(crate) const SUBJECT_KEY_ID: &[u8] = &[0x06, 0x03, 0x55, 0x1d, 0x0e];
    pub(crate) const KEY_USAGE: &[u8] = &[0x06, 0x03, 0x55, 0x1d, 0x0f];
    pub(crate) const SUBJECT_ALT_NAME: &[u8] = &[0x06, 0x03, 0x55, 0x1d, 0x11];
    pub(crate) const BASIC_CONSTRAINTS: &[u8] = &[0x06, 0x03, 0x55, 0x1d, 0x13];
    pub(crate) const AUTHORITY_KEY_ID: &[u8] = &[0x06, 0x03, 0x55, 0x1d, 0x23];
    pub(crate) const EXTENDED_KEY_USAGE: &[u8] = &[0x06, 0x03, 0x55, 0x1d, 0x25];
    /// serverAuth, 1.3.6.1.5.5.7.3.1.
    pub(crate) const SERVER_AUTH: &[u8] = &[0x06, 0x08, 0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x03, 0x01];
    /// clientAuth, 1.3.6.1.5.5.7.3.2.
    pub(crate) const CLIENT_AUTH: &[u8] = &[0x06, 0x08, 0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x03, 0x02];
}

/// One tag, length and value; the value is the concatenation of `parts`.
pub(crate) fn tlv(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let length: usize = parts.iter().map(|p| p.len()).sum();
    let mut out = Vec::with_capacity(length + 6);
    out.push(tag);
    if length < 0x80 {
        out.push(length as u8);
    } else {
        let bytes = length.to_be_bytes();
        let skip = bytes.iter().take_while(|b| **b == 0).count();
        out.push(0x80 | (bytes.len() - skip) as u8);
        out.extend_from_slice(&bytes[skip..]);
    }
    for part in parts {
        out.extend_from_slice(part);
    }
    out
}

pub(crate) fn sequence(parts: &[&[u8]]) -> Vec<u8> {
    tlv(0x30, parts)
}

pub(crate) fn set(parts: &[&[u8]]) -> Vec<u8> {
    tlv(0x31, parts)
}

pub(crate) fn octet_string(value: &[u8]) -> Vec<u8> {
    tlv(0x04, &[value])
}

pub(crate) fn utf8_string(value: &str) -> Vec<u8> {
    tlv(0x0c, &[value.as_bytes()])
}

/// A BIT STRING of whole bytes.
pub(crate) fn bit_string(value: &[u8]) -> Vec<u8> {
    tlv(0x03, &[&[0], value])
}

/// A BIT STRING of named flags, trailing zero bits left out as DER demands.
pub(crate) fn flags(bits: u8) -> Vec<u8> {
    tlv(0x03, &[&[bits.trailing_zeros().min(7) as u8, bits]])
}

/// A non-negative INTEGER from big-endian bytes.
pub(crate) fn integer(value: &[u8]) -> Vec<u8> {
    let skip = value.iter().take_while(|b| **b == 0).count();
    let digits = &value[skip..];
    match digits.first() {
        None => tlv(0x02, &[&[0]]),
        Some(first) if first & 0x80 != 0 => tlv(0x02, &[&[0], digits]),
        Some(_) => tlv(0x02, &[digits]),
    }
}

/// UTCTime until 2049, GeneralizedTime from 2050 (RFC 5280 section 4.1.2.5).
pub(crate) fn time(at: SystemTime) -> Vec<u8> {
    let t = OffsetDateTime::from(at);
    let rest = format!(
        "{:02}{:02}{:02}{:02}{:02}Z",
        u8::from(t.month()),
        t.day(),
        t.hour(),
        t.minute(),
        t.second()
    );
    if (1950..2050).contains(&t.year()) {
        tlv(0x17, &[format!("{:02}{rest}", t.year() % 100).as_bytes()])
    } else {
        tlv(0x18, &[format!("{:04}{rest}", t.year()).as_bytes()])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, UNIX_EPOCH};

    #[test]
    fn lengths_take_the_shortest_form() {
        assert_eq!(tlv(4, &[&[7; 3]])[..2], [4, 3]);
        assert_eq!(tlv(4, &[&[7; 0x80]])[..3], [4, 0x81, 0x80]);
        assert_eq!(tlv(4, &[&[7; 0x1234]])[..4], [4, 0x82, 0x12, 0x34]);
    }

    #[test]
    fn integers_stay_positive_and_minimal() {
        assert_eq!(integer(&[0, 0, 1]), [2, 1, 1]);
        assert_eq!(integer(&[0x80]), [2, 2, 0, 0x80]);
        assert_eq!(integer(&[]), [2, 1, 0]);
    }

    #[test]
    fn times_change_form_in_2050() {
        let last = UNIX_EPOCH + Duration::from_secs(2_524_607_999);
        assert_eq!(time(last)[2..], *b"491231235959Z");
        assert_eq!(time(last + Duration::from_secs(1))[2..], *b"20500101000000Z");
    }
}
