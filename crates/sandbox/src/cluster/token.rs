//! Service-account tokens as the cluster's API server mints them, by the key of [`isthmus_pki::TokenIssuer`].

use std::time::Duration;

use isthmus_pki::key::KeyError;
use isthmus_pki::token::PodReference;
use isthmus_pki::{TokenIssuer, TokenRequest};

use crate::plan::PodKey;

/// Audience of the tokens that prove a workload to the mesh's CA.
pub use isthmus_pki::token::AUDIENCE;

/// `iss` of every token.
pub const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";

/// A new key for a cluster's tokens.
///
/// # Errors
/// The system has no randomness.
pub fn issuer() -> Result<TokenIssuer, KeyError> {
    TokenIssuer::generate(ISSUER)
}

/// A token for a pod's service account.
///
/// # Errors
/// The system has no randomness.
pub fn mint(
    issuer: &TokenIssuer,
    pod: &PodKey,
    uid: &str,
    service_account: &str,
    audience: &str,
    life: Duration,
) -> Result<String, KeyError> {
    issuer.mint(&TokenRequest {
        namespace: pod.namespace.clone(),
        service_account: service_account.to_owned(),
        pod: Some(PodReference {
            name: pod.name.clone(),
            uid: uid.to_owned(),
        }),
        audiences: vec![audience.to_owned()],
        validity: life,
    })
}
