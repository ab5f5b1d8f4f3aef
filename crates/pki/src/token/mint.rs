//! Mints service-account tokens as an API server does, for clusters that have none (the embedded form).

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use rand::RngCore;
use serde_json::json;

use super::PodReference;
use crate::certificate::spki;
use crate::key::{KeyAlgorithm, KeyError, PrivateKey};

/// What a token says.
#[derive(Debug, Clone)]
pub struct TokenRequest {
    /// Kubernetes namespace.
    pub namespace: String,
    /// Kubernetes service account.
    pub service_account: String,
    /// The pod it is bound to.
    pub pod: Option<PodReference>,
    /// Whom it is for; [`super::AUDIENCE`] for the control plane.
    pub audiences: Vec<String>,
    /// How long it is good.
    pub validity: Duration,
}

/// A cluster's key for service-account tokens (ES256).
pub struct TokenIssuer {
    issuer: String,
    key: EncodingKey,
    key_id: String,
    /// Coordinates of the public point, base64url.
    point: (String, String),
}

impl TokenIssuer {
    /// Makes an issuer with a new key.
    pub fn generate(issuer: impl Into<String>) -> Result<Self, KeyError> {
        Self::new(issuer, &PrivateKey::generate(KeyAlgorithm::EcdsaP256)?)
    }

    /// An issuer with an ECDSA P-256 key, as kept over restarts.
    pub fn new(issuer: impl Into<String>, key: &PrivateKey) -> Result<Self, KeyError> {
        let info = key.public_key_info();
        // An uncompressed point: 4, x, y (SEC 1 section 2.3.3).
        let bits = spki::key_bits(&info).filter(|b| b.len() == 65 && b[0] == 4);
        let bits = bits.ok_or(KeyError::Unsupported)?;
        let pem = key.to_pem();
        Ok(Self {
            issuer: issuer.into(),
            key: EncodingKey::from_ec_pem(pem.as_bytes()).map_err(|e| KeyError::Crypto(e.to_string()))?,
            key_id: URL_SAFE_NO_PAD.encode(key.fingerprint().0),
            point: (
                URL_SAFE_NO_PAD.encode(&bits[1..33]),
                URL_SAFE_NO_PAD.encode(&bits[33..]),
            ),
        })
    }

    /// The `iss` of its tokens.
    pub fn issuer(&self) -> &str {
        &self.issuer
    }

    /// The public key as a JSON web key set, for [`super::JwksAuthenticator`].
    pub fn key_set(&self) -> String {
        json!({"keys": [{
            "kty": "EC", "crv": "P-256", "alg": "ES256", "use": "sig",
            "kid": self.key_id, "x": self.point.0, "y": self.point.1,
        }]})
        .to_string()
    }

    /// Mints a token, valid from now.
    pub fn mint(&self, request: &TokenRequest) -> Result<String, KeyError> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let mut id = [0u8; 16];
        rand::rng().fill_bytes(&mut id);
        let TokenRequest {
            namespace,
            service_account,
            ..
        } = request;
        let mut kubernetes = json!({
            "namespace": namespace,
            "serviceaccount": {"name": service_account},
        });
        if let Some(pod) = &request.pod {
            kubernetes["pod"] = json!({"name": pod.name, "uid": pod.uid});
        }
        let claims = json!({
            "iss": self.issuer,
            "sub": format!("system:serviceaccount:{namespace}:{service_account}"),
            "aud": request.audiences,
            "iat": now.as_secs(),
            "nbf": now.as_secs(),
            "exp": (now + request.validity).as_secs(),
            "jti": URL_SAFE_NO_PAD.encode(id),
            "kubernetes.io": kubernetes,
        });
        let mut header = Header::new(Algorithm::ES256);
        header.kid = Some(self.key_id.clone());
        jsonwebtoken::encode(&header, &claims, &self.key).map_err(|e| KeyError::Crypto(e.to_string()))
    }
}
