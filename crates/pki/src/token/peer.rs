//! A caller's present certificate as its proof.

use futures_util::future::BoxFuture;
use isthmus_model::{ClusterId, TrustDomain};

use super::{AuthError, Authenticator, Caller, Means, Proof};
use crate::verify::{member_cluster, peer_identity};

/// Whose workloads are accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Members {
    /// Those of every member cluster (between control planes).
    All,
    /// Those of one: certificates of another cluster's intermediate are refused.
    ///
    /// An intermediate without `L=` in its subject names no cluster; it is taken for this cluster's own,
    /// as it is in meshes whose certificates were not made per cluster.
    Only(ClusterId),
}

/// Accepts the identity in a certificate that the handshake has verified.
#[derive(Debug, Clone)]
pub struct PeerAuthenticator {
    /// Trust domains of this mesh, its aliases among them.
    pub trust_domains: Vec<TrustDomain>,
    /// Whose workloads are accepted.
    pub members: Members,
}

impl PeerAuthenticator {
    fn check(&self, proof: &Proof) -> Result<Caller, AuthError> {
        let presented = &proof.certificates.0;
        if presented.is_empty() {
            return Err(AuthError::NoProof);
        }
        let identity = peer_identity(presented)?;
        if !self.trust_domains.contains(&identity.trust_domain) {
            return Err(AuthError::TrustDomain {
                identity: identity.to_string(),
                accepted: self.trust_domains.iter().map(ToString::to_string).collect(),
            });
        }
        let mut cluster = member_cluster(presented);
        if let Members::Only(own) = &self.members {
            let named = [&cluster, &proof.claimed_cluster];
            if let Some(found) = named.into_iter().flatten().find(|found| *found != own) {
                return Err(AuthError::OtherCluster {
                    found: found.clone(),
                    own: own.clone(),
                });
            }
            cluster = Some(own.clone());
        }
        Ok(Caller {
            namespace: identity.namespace,
            service_account: identity.service_account,
            pod: None,
            cluster,
            means: Means::Certificate,
        })
    }
}

impl Authenticator for PeerAuthenticator {
    fn authenticate<'a>(&'a self, proof: &'a Proof) -> BoxFuture<'a, Result<Caller, AuthError>> {
        Box::pin(std::future::ready(self.check(proof)))
    }
}
