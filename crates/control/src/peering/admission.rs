//! Who may listen: control planes of other member clusters, by their certificate.

use isthmus_model::ClusterId;
use isthmus_pki::{PeerCertificates, member_cluster, peer_identity};
use isthmus_xds::envoy::core::Node;
use tonic::Status;

use super::{ACCOUNT, Config};

/// First part of the node id by which a control plane asks for another's exports instead of a proxy's
/// configuration. It decides what is asked for, not who asks.
pub(super) const NODE: &str = "control-plane~";

/// Whether a stream asks for exports.
pub fn is_peer(node: &Node) -> bool {
    node.id.starts_with(NODE)
}

/// The member cluster that the stream's certificate proves.
pub(super) fn admit(
    config: &Config,
    node: &Node,
    certificates: &PeerCertificates,
) -> Result<ClusterId, Status> {
    let presented = &certificates.0;
    if presented.is_empty() {
        return Err(Status::unauthenticated(
            "a peer proves itself by its control plane's mesh certificate: connect with mutual TLS",
        ));
    }
    let identity = peer_identity(presented).map_err(|e| Status::unauthenticated(e.to_string()))?;
    if !config.trust_domains.contains(&identity.trust_domain)
        || identity.namespace != config.namespace
        || identity.service_account != ACCOUNT
    {
        return Err(Status::permission_denied(format!(
            "{identity} is no control plane: exports are told to ns/{}/sa/{ACCOUNT} of another member cluster",
            config.namespace
        )));
    }
    let cluster = member_cluster(presented).ok_or_else(|| {
        Status::permission_denied(
            "the certificate does not say which member cluster it belongs to: make the cluster's intermediate \
             with `isthmus certs intermediate`, which puts L=CLUSTER into its subject",
        )
    })?;
    if cluster == config.cluster {
        return Err(Status::permission_denied(format!(
            "the certificate is of cluster {cluster}, which is this one: a cluster is no peer of itself"
        )));
    }
    if node.id.strip_prefix(NODE) != Some(cluster.as_str()) {
        return Err(Status::permission_denied(format!(
            "the stream says {:?}, but its certificate is of cluster {cluster}",
            node.id
        )));
    }
    Ok(cluster)
}
