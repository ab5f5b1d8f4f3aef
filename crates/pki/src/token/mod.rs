//! Who asks: proofs of identity, and what checks them.
//!
//! ```text
//!   Proof {token, verified peer certificates, claimed cluster} ── Authenticator ──> Caller | AuthError
//! ```
//!
//! A name that a caller gives itself is never taken; namespace, account and member cluster come from the
//! proof. Checking a token by asking the API server (TokenReview) is the business of the crate that talks
//! to Kubernetes; it implements [`Authenticator`] as well.

mod jwks;
mod mint;
mod peer;
#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use isthmus_model::{ClusterId, SpiffeId, TrustDomain};
use rustls_pki_types::CertificateDer;

use crate::verify::Refusal;

pub use jwks::{JwksAuthenticator, JwksConfig};
pub use mint::{TokenIssuer, TokenRequest};
pub use peer::{Members, PeerAuthenticator};

/// Audience of the tokens that workloads show to the control plane (Istio).
pub const AUDIENCE: &str = "istio-ca";
/// Where a workload's token is mounted (Istio).
pub const TOKEN_PATH: &str = "/var/run/secrets/tokens/istio-token";

/// The chain that the peer presented and the handshake verified, leaf first; empty when it presented none.
///
/// The acceptor of a connection puts it into every request's extensions. It must come from a handshake
/// with one of [`crate::verify::Verifier`]'s mesh configurations, never from anything the peer says.
#[derive(Clone, Default)]
pub struct PeerCertificates(pub Arc<[CertificateDer<'static>]>);

impl fmt::Debug for PeerCertificates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PeerCertificates({})", self.0.len())
    }
}

/// What a caller brings to show who it is.
#[derive(Clone, Default)]
pub struct Proof {
    /// Bearer token.
    pub token: Option<String>,
    /// Verified certificates of the connection.
    pub certificates: PeerCertificates,
    /// gRPC metadata `ClusterID`: only ever compared.
    pub claimed_cluster: Option<ClusterId>,
}

impl Proof {
    /// Reads the proof of a gRPC call from its metadata and extensions.
    pub fn of_request<T>(request: &tonic::Request<T>) -> Self {
        let metadata = |key: &str| request.metadata().get(key).and_then(|v| v.to_str().ok());
        let bearer = |value: &str| {
            let (scheme, token) = value.split_once(' ')?;
            let token = token.trim();
            (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then(|| token.to_owned())
        };
        Self {
            token: metadata("authorization").and_then(bearer),
            certificates: request
                .extensions()
                .get::<PeerCertificates>()
                .cloned()
                .unwrap_or_default(),
            claimed_cluster: metadata("clusterid")
                .filter(|c| !c.is_empty())
                .map(ClusterId::from),
        }
    }
}

impl fmt::Debug for Proof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Proof")
            .field("token", &self.token.as_ref().map(|_| "[secret]"))
            .field("certificates", &self.certificates)
            .field("claimed_cluster", &self.claimed_cluster)
            .finish()
    }
}

/// How a caller proved itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Means {
    /// A service-account token.
    Token,
    /// Its present certificate, by mutual TLS.
    Certificate,
}

/// The pod a token is bound to.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct PodReference {
    /// Name of the pod.
    pub name: String,
    /// Its uid.
    pub uid: String,
}

/// Who asks, proved.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Caller {
    /// Kubernetes namespace.
    pub namespace: String,
    /// Kubernetes service account.
    pub service_account: String,
    /// The pod, when the proof says so.
    pub pod: Option<PodReference>,
    /// The member cluster that vouches for it, when the proof says so.
    pub cluster: Option<ClusterId>,
    /// How it was proved.
    pub means: Means,
}

impl Caller {
    /// Its identity in `domain`.
    pub fn identity(&self, domain: &TrustDomain) -> SpiffeId {
        SpiffeId::new(domain.clone(), &self.namespace, &self.service_account)
    }
}

/// Why a proof was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AuthError {
    /// Neither token nor certificate.
    #[error(
        "no proof of identity: send a service-account token of audience {AUDIENCE} as `authorization: Bearer`, or connect with a mesh certificate"
    )]
    NoProof,
    /// Not a JSON web token.
    #[error("the token is malformed: {0}")]
    Malformed(String),
    /// An algorithm that the key is not for; `none` and shared secrets among them.
    #[error("the token is signed with {0}, which is not accepted for its key")]
    Algorithm(String),
    /// None of the cluster's keys has made it.
    #[error(
        "the token is signed by key {key:?}, which is none of cluster {cluster}'s: is it another cluster's token?"
    )]
    UnknownKey {
        /// Key id in the token.
        key: String,
        /// The cluster whose keys were tried.
        cluster: ClusterId,
    },
    /// The signature is wrong.
    #[error("the token's signature is wrong for cluster {cluster}")]
    Signature {
        /// The cluster whose keys were tried.
        cluster: ClusterId,
    },
    /// Minted by somebody else.
    #[error("the token was issued by {found:?}; cluster {cluster} accepts [{}]", accepted.join(", "))]
    Issuer {
        /// Issuer in the token.
        found: String,
        /// The cluster that refuses.
        cluster: ClusterId,
        /// Issuers that would do.
        accepted: Vec<String>,
    },
    /// Meant for somebody else.
    #[error("the token is for audience [{}], expected one of [{}]", found.join(", "), accepted.join(", "))]
    Audience {
        /// Audiences of the token.
        found: Vec<String>,
        /// Audiences that would do.
        accepted: Vec<String>,
    },
    /// Out of date.
    #[error("the token expired at {0}")]
    Expired(String),
    /// From the future.
    #[error("the token is valid only from {0}: check the clocks")]
    NotYetValid(String),
    /// A token of something that is no service account.
    #[error("the token is not a service account's: {0}")]
    NotServiceAccount(String),
    /// The caller belongs to, or says it belongs to, another member cluster.
    #[error("the caller belongs to cluster {found}; this control plane vouches for cluster {own} alone")]
    OtherCluster {
        /// Where it belongs.
        found: ClusterId,
        /// Who refuses.
        own: ClusterId,
    },
    /// The certificate names a trust domain that is not this mesh's.
    #[error("{identity} is not of this mesh's trust domains [{}]", accepted.join(", "))]
    TrustDomain {
        /// Who it is.
        identity: String,
        /// Trust domains of this mesh.
        accepted: Vec<String>,
    },
    /// The certificate is not a workload's.
    #[error(transparent)]
    Certificate(#[from] Refusal),
    /// The means to check it are missing at the moment; trying again may help.
    #[error("the proof cannot be checked now: {0}")]
    Unavailable(String),
}

impl From<AuthError> for tonic::Status {
    fn from(error: AuthError) -> Self {
        match error {
            AuthError::Unavailable(_) => Self::unavailable(error.to_string()),
            AuthError::OtherCluster { .. } | AuthError::TrustDomain { .. } => {
                Self::permission_denied(error.to_string())
            }
            _ => Self::unauthenticated(error.to_string()),
        }
    }
}

/// Finds out from a proof who asks.
pub trait Authenticator: Send + Sync {
    /// The caller that `proof` proves. [`AuthError::NoProof`] when it has nothing of the kind this one checks.
    fn authenticate<'a>(&'a self, proof: &'a Proof) -> BoxFuture<'a, Result<Caller, AuthError>>;
}

/// Asks one authenticator after the other until one finds its kind of proof.
///
/// A proof that is there and wrong is refused, whatever else the caller brings.
pub struct FirstOf(pub Vec<Arc<dyn Authenticator>>);

impl Authenticator for FirstOf {
    fn authenticate<'a>(&'a self, proof: &'a Proof) -> BoxFuture<'a, Result<Caller, AuthError>> {
        Box::pin(async move {
            for authenticator in &self.0 {
                match authenticator.authenticate(proof).await {
                    Err(AuthError::NoProof) => {}
                    decided => return decided,
                }
            }
            Err(AuthError::NoProof)
        })
    }
}
