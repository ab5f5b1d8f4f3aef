//! Service-account tokens as the API server mints them: ES256 JWTs bound to a pod (RFC 7519;
//! Kubernetes bound service account tokens), and the JWKS (RFC 7517) that verifies them.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::json;

use crate::plan::PodKey;

/// Audience of the tokens that prove a workload to the mesh's CA.
pub const AUDIENCE: &str = "istio-ca";
/// `iss` of every token.
pub const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";

/// The signing key of one cluster's API server.
pub struct Minter {
    key: EcdsaKeyPair,
    kid: String,
}

/// The key cannot be made or used; a fault of the crypto library or of the system's randomness.
#[derive(Debug, thiserror::Error)]
#[error("the service-account key of cluster {0} cannot be made or used")]
pub struct MintError(String);

impl Minter {
    /// A new key for a cluster.
    ///
    /// # Errors
    /// The system has no randomness.
    pub fn new(cluster: &str) -> Result<Self, MintError> {
        let failed = |_| MintError(cluster.to_owned());
        let key = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).map_err(failed)?;
        Ok(Self {
            key,
            kid: format!("{cluster}-1"),
        })
    }

    /// The public key as a JWK set.
    pub fn jwks(&self) -> serde_json::Value {
        // An uncompressed point (SEC 1): 0x04, then x and y of 32 bytes each.
        let point = self.key.public_key().as_ref();
        let (x, y) = point.get(1..).unwrap_or_default().split_at(point.len() / 2);
        json!({"keys": [{
            "kty": "EC", "crv": "P-256", "alg": "ES256", "use": "sig", "kid": self.kid,
            "x": URL_SAFE_NO_PAD.encode(x), "y": URL_SAFE_NO_PAD.encode(y),
        }]})
    }

    /// A token for a pod's service account.
    ///
    /// # Errors
    /// The system has no randomness.
    pub fn mint(
        &self,
        pod: &PodKey,
        uid: &str,
        service_account: &str,
        audience: &str,
        life: Duration,
    ) -> Result<String, MintError> {
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |d| d.as_secs());
        let header = json!({"alg": "ES256", "typ": "JWT", "kid": self.kid});
        let claims = json!({
            "iss": ISSUER,
            "sub": format!("system:serviceaccount:{}:{service_account}", pod.namespace),
            "aud": [audience],
            "iat": now, "nbf": now, "exp": now + life.as_secs(),
            "kubernetes.io": {
                "namespace": pod.namespace,
                "serviceaccount": {"name": service_account, "uid": format!("sa-{service_account}")},
                "pod": {"name": pod.name, "uid": uid},
            },
        });
        let signed = format!(
            "{}.{}",
            URL_SAFE_NO_PAD.encode(header.to_string()),
            URL_SAFE_NO_PAD.encode(claims.to_string())
        );
        let signature = self
            .key
            .sign(&SystemRandom::new(), signed.as_bytes())
            .map_err(|_| MintError(self.kid.clone()))?;
        Ok(format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature)))
    }
}
