//! Private keys: generated here, read from PEM, written as PKCS#8. Never shown by `Debug`.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use rcgen::{PublicKeyData, RsaKeySize, SigningKey};
use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use zeroize::{Zeroize, Zeroizing};

use crate::certificate::{Fingerprint, spki};
use crate::der;
use isthmus_model::SpiffeId;

/// Longest PEM file a key is read from, in bytes; RSA 8192 needs 7 KiB.
const LONGEST_PEM: usize = 64 * 1024;

/// Why a key could not be made, read or used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// The text holds no private key.
    #[error(
        "no private key found: expected a PEM block PRIVATE KEY, RSA PRIVATE KEY or EC PRIVATE KEY (unencrypted)"
    )]
    NoKey,
    /// The key is of a kind or size that is not supported.
    #[error(
        "the private key cannot be used: expected RSA (2048 bits or more), ECDSA P-256, P-384 or Ed25519"
    )]
    Unsupported,
    /// The name of an algorithm is unknown.
    #[error("{0:?} is not a key algorithm: use ecdsa-p256, ecdsa-p384, rsa-2048 or rsa-4096")]
    Algorithm(String),
    /// The cryptographic library failed.
    #[error("key operation failed: {0}")]
    Crypto(String),
}

/// What kind of key to make.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum KeyAlgorithm {
    /// ECDSA on P-256: workloads.
    #[default]
    EcdsaP256,
    /// ECDSA on P-384.
    EcdsaP384,
    /// RSA of 2048 bits.
    Rsa2048,
    /// RSA of 4096 bits: Istio's roots and intermediates.
    Rsa4096,
}

impl FromStr for KeyAlgorithm {
    type Err = KeyError;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        match s.to_ascii_lowercase().as_str() {
            "ecdsa-p256" | "ecdsa" => Ok(Self::EcdsaP256),
            "ecdsa-p384" => Ok(Self::EcdsaP384),
            "rsa-2048" => Ok(Self::Rsa2048),
            "rsa-4096" | "rsa" => Ok(Self::Rsa4096),
            _ => Err(KeyError::Algorithm(s.to_owned())),
        }
    }
}

impl fmt::Display for KeyAlgorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::EcdsaP256 => "ecdsa-p256",
            Self::EcdsaP384 => "ecdsa-p384",
            Self::Rsa2048 => "rsa-2048",
            Self::Rsa4096 => "rsa-4096",
        })
    }
}

/// A private key with its public half.
pub struct PrivateKey {
    /// Holds the PKCS#8 form as well; wiped when dropped.
    pair: rcgen::KeyPair,
}

impl PrivateKey {
    /// Makes a new key. RSA 4096 takes seconds: call it where blocking is allowed.
    pub fn generate(algorithm: KeyAlgorithm) -> Result<Self, KeyError> {
        let rsa = |size| rcgen::KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, size);
        match algorithm {
            KeyAlgorithm::EcdsaP256 => rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256),
            KeyAlgorithm::EcdsaP384 => rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384),
            KeyAlgorithm::Rsa2048 => rsa(RsaKeySize::_2048),
            KeyAlgorithm::Rsa4096 => rsa(RsaKeySize::_4096),
        }
        .map(|pair| Self { pair })
        .map_err(|e| KeyError::Crypto(e.to_string()))
    }

    /// Reads the first private key of a PEM text: PKCS#8, PKCS#1 (RSA) or SEC1 (EC).
    ///
    /// Other blocks, such as the `EC PARAMETERS` that openssl writes, are skipped.
    pub fn from_pem(text: &[u8]) -> Result<Self, KeyError> {
        if text.len() > LONGEST_PEM {
            return Err(KeyError::NoKey);
        }
        let key = PrivateKeyDer::from_pem_slice(text).map_err(|_| KeyError::NoKey)?;
        let pair = rcgen::KeyPair::try_from(&key).map_err(|_| KeyError::Unsupported)?;
        let pair = Self { pair };
        pair.signature_algorithm()?;
        let inner = key.secret_der();
        let algorithm = match &key {
            PrivateKeyDer::Pkcs8(_) => return Ok(pair),
            PrivateKeyDer::Pkcs1(_) => der::RSA_ENCRYPTION,
            _ if pair.pair.algorithm() == &rcgen::PKCS_ECDSA_P256_SHA256 => der::EC_P256,
            _ => der::EC_P384,
        };
        let wrapped = Zeroizing::new(der::sequence(&[
            &der::integer(&[0]),
            algorithm,
            &Zeroizing::new(der::octet_string(inner)),
        ]));
        let pkcs8 = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(wrapped.as_slice()));
        let pair = rcgen::KeyPair::try_from(&pkcs8).map_err(|_| KeyError::Unsupported)?;
        Ok(Self { pair })
    }

    /// The key as a PEM block `PRIVATE KEY` (PKCS#8), wiped when dropped.
    pub fn to_pem(&self) -> Zeroizing<String> {
        Zeroizing::new(self.pair.serialize_pem())
    }

    /// A copy that shares nothing with the original.
    pub fn duplicate(&self) -> Result<Self, KeyError> {
        let pkcs8 = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(self.pair.serialized_der()));
        rcgen::KeyPair::try_from(&pkcs8)
            .map(|pair| Self { pair })
            .map_err(|_| KeyError::Unsupported)
    }

    /// SubjectPublicKeyInfo (RFC 5280) of the public half.
    pub fn public_key_info(&self) -> Vec<u8> {
        self.pair.subject_public_key_info()
    }

    /// SHA-256 of the public half's SubjectPublicKeyInfo.
    pub fn fingerprint(&self) -> Fingerprint {
        Fingerprint::of(&self.public_key_info())
    }

    /// Whether `spki`, a SubjectPublicKeyInfo, is this key's public half.
    pub fn matches(&self, info: &[u8]) -> bool {
        spki::key_bits(info).is_some_and(|bits| bits == self.pair.der_bytes())
    }

    /// Signs with the key's own algorithm, see [`Self::signature_algorithm`].
    pub fn sign(&self, message: &[u8]) -> Result<Vec<u8>, KeyError> {
        self.pair
            .sign(message)
            .map_err(|e| KeyError::Crypto(e.to_string()))
    }

    /// AlgorithmIdentifier (DER) of the signatures that [`Self::sign`] makes.
    pub fn signature_algorithm(&self) -> Result<&'static [u8], KeyError> {
        let algorithm = self.pair.algorithm();
        if algorithm == &rcgen::PKCS_ECDSA_P256_SHA256 {
            Ok(der::ECDSA_WITH_SHA256)
        } else if algorithm == &rcgen::PKCS_ECDSA_P384_SHA384 {
            Ok(der::ECDSA_WITH_SHA384)
        } else if algorithm == &rcgen::PKCS_RSA_SHA256 {
            Ok(der::SHA256_WITH_RSA)
        } else if algorithm == &rcgen::PKCS_ED25519 {
            Ok(der::ED25519)
        } else {
            Err(KeyError::Unsupported)
        }
    }

    /// The key as rustls uses it in handshakes.
    pub fn tls_key(&self) -> Result<Arc<dyn rustls::sign::SigningKey>, KeyError> {
        let pkcs8 = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(self.pair.serialized_der()));
        any_supported_type(&pkcs8).map_err(|_| KeyError::Unsupported)
    }

    /// A certificate signing request (PEM) that names `identity` as its only SAN.
    pub fn certificate_request(&self, identity: &SpiffeId) -> Result<String, KeyError> {
        let crypto = |e: rcgen::Error| KeyError::Crypto(e.to_string());
        let mut params = rcgen::CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        let uri = identity.to_string().try_into().map_err(crypto)?;
        params.subject_alt_names.push(rcgen::SanType::URI(uri));
        params
            .serialize_request(&self.pair)
            .and_then(|csr| csr.pem())
            .map_err(crypto)
    }
}

impl Drop for PrivateKey {
    fn drop(&mut self) {
        self.pair.zeroize();
    }
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PrivateKey(public {})", self.fingerprint())
    }
}
