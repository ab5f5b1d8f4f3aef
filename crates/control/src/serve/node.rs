//! From a stream's proof and its node to the proxy that is meant.

use std::net::IpAddr;

use isthmus_model::{ClusterId, Labels, Locality, NetworkId, TrustDomain};
use isthmus_pki::Caller;
use isthmus_xds::envoy::core::Node;
use isthmus_xds::envoy::google::protobuf::value::Kind;
use isthmus_xds::envoy::{Struct, Value};
use tonic::Status;

use crate::proxy::{ProxyDescription, ProxyKind};

/// Most labels that are taken from a node.
const MOST_LABELS: usize = 256;
/// Most addresses that are taken from a node.
const MOST_ADDRESSES: usize = 64;

/// Why a node is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NodeError {
    /// Not a node id of Istio's form.
    #[error("node id {0:?} is not of the form sidecar~IP~POD.NAMESPACE~NAMESPACE.svc.DOMAIN (or router~...)")]
    Id(String),
    /// It claims what its proof denies.
    #[error("the stream proves {what} {proven:?}, but its node says {claimed:?} ({field})")]
    Claim {
        /// Namespace, service account, pod or cluster.
        what: &'static str,
        /// What is proven.
        proven: String,
        /// What is claimed.
        claimed: String,
        /// Where it is claimed.
        field: &'static str,
    },
}

impl From<NodeError> for Status {
    fn from(error: NodeError) -> Self {
        match error {
            NodeError::Id(_) => Status::invalid_argument(error.to_string()),
            NodeError::Claim { .. } => Status::permission_denied(error.to_string()),
        }
    }
}

/// The proxy that a stream is of. What it says of its namespace, account, pod or cluster must be what it
/// proves; what it says of its labels, addresses and place is taken as said.
pub(super) fn describe(
    node: &Node,
    caller: &Caller,
    own: &ClusterId,
    domain: &TrustDomain,
) -> Result<ProxyDescription, NodeError> {
    let bad_id = || NodeError::Id(node.id.chars().take(256).collect());
    let mut parts = node.id.split('~');
    let (Some(kind), Some(ip), Some(workload), Some(suffix), None) = (
        parts.next(),
        parts.next(),
        parts.next(),
        parts.next(),
        parts.next(),
    ) else {
        return Err(bad_id());
    };
    let kind = match kind {
        "sidecar" => ProxyKind::Sidecar,
        "router" => ProxyKind::Router,
        _ => return Err(bad_id()),
    };
    let ip: IpAddr = ip.parse().map_err(|_| bad_id())?;
    // A pod's name may have dots, a namespace may not.
    let (name, namespace) = workload.rsplit_once('.').ok_or_else(bad_id)?;
    let suffix_namespace = suffix.split('.').next().unwrap_or_default();

    let metadata = Metadata(node.metadata.as_ref());
    let own_cluster = caller.cluster.as_ref().unwrap_or(own).as_str();
    let pod = caller.pod.as_ref().map_or("", |pod| pod.name.as_str());
    for (what, proven, claimed, field) in [
        ("namespace", caller.namespace.as_str(), namespace, "node id"),
        (
            "namespace",
            &caller.namespace,
            suffix_namespace,
            "node id, last part",
        ),
        (
            "namespace",
            &caller.namespace,
            metadata.text("NAMESPACE"),
            "metadata NAMESPACE",
        ),
        (
            "service account",
            &caller.service_account,
            metadata.text("SERVICE_ACCOUNT"),
            "metadata SERVICE_ACCOUNT",
        ),
        ("pod", pod, name, "node id"),
        (
            "cluster",
            own_cluster,
            metadata.text("CLUSTER_ID"),
            "metadata CLUSTER_ID",
        ),
    ] {
        // Nothing claimed, or (a token without a pod) nothing proven that it could be held against.
        if claimed.is_empty() || proven.is_empty() || claimed == proven {
            continue;
        }
        return Err(NodeError::Claim {
            what,
            proven: proven.to_owned(),
            claimed: claimed.chars().take(256).collect(),
            field,
        });
    }

    let mut addresses: Vec<IpAddr> = metadata
        .text("INSTANCE_IPS")
        .split(',')
        .filter_map(|a| a.trim().parse().ok())
        .collect();
    addresses.truncate(MOST_ADDRESSES);
    if addresses.is_empty() {
        addresses.push(ip);
    }
    let locality = node.locality.as_ref().map(|l| Locality {
        region: l.region.clone(),
        zone: l.zone.clone(),
        subzone: l.sub_zone.clone(),
    });
    Ok(ProxyDescription {
        id: node.id.clone(),
        kind,
        addresses,
        name: name.to_owned(),
        namespace: caller.namespace.clone(),
        service_account: caller.service_account.clone(),
        identity: Some(caller.identity(domain)),
        labels: metadata.labels("LABELS"),
        cluster: ClusterId::from(metadata.text("CLUSTER_ID")),
        network: NetworkId::from(metadata.text("NETWORK")),
        locality: locality.unwrap_or_default(),
        dns_capture: metadata.flag("DNS_CAPTURE"),
        // Every proxy that has Istio's filters says Istio's version, and so does ours.
        stock_envoy: metadata.text("ISTIO_VERSION").is_empty(),
    })
}

/// What the proxy says it runs, for `/debug/syncz`.
pub(super) fn version(node: &Node) -> String {
    let version = Metadata(node.metadata.as_ref()).text("ISTIO_VERSION");
    version.chars().take(64).collect()
}

struct Metadata<'a>(Option<&'a Struct>);

impl<'a> Metadata<'a> {
    fn kind(&self, key: &str) -> Option<&'a Kind> {
        self.0?.fields.get(key)?.kind.as_ref()
    }

    fn text(&self, key: &str) -> &'a str {
        match self.kind(key) {
            Some(Kind::StringValue(text)) => text,
            _ => "",
        }
    }

    fn flag(&self, key: &str) -> bool {
        match self.kind(key) {
            Some(Kind::BoolValue(flag)) => *flag,
            Some(Kind::StringValue(text)) => text == "true" || text == "1",
            _ => false,
        }
    }

    fn labels(&self, key: &str) -> Labels {
        let Some(Kind::StructValue(labels)) = self.kind(key) else {
            return Labels::default();
        };
        let text = |(key, value): (&'a String, &'a Value)| match &value.kind {
            Some(Kind::StringValue(text)) => Some((key.clone(), text.clone())),
            _ => None,
        };
        let mut labels: Vec<_> = labels.fields.iter().filter_map(text).collect();
        labels.sort();
        labels.into_iter().take(MOST_LABELS).collect()
    }
}

#[cfg(test)]
mod tests {
    use isthmus_pki::token::{Means, PodReference};

    use super::*;

    fn text(value: &str) -> Value {
        Value {
            kind: Some(Kind::StringValue(value.to_owned())),
        }
    }

    fn node(id: &str, metadata: &[(&str, &str)]) -> Node {
        let fields = metadata.iter().map(|(k, v)| (k.to_string(), text(v))).collect();
        Node {
            id: id.to_owned(),
            metadata: Some(Struct { fields }),
            ..Default::default()
        }
    }

    fn caller(pod: Option<&str>) -> Caller {
        Caller {
            namespace: "default".into(),
            service_account: "sleep".into(),
            pod: pod.map(|name| PodReference {
                name: name.into(),
                uid: "u".into(),
            }),
            cluster: Some("us".into()),
            means: Means::Token,
        }
    }

    fn described(node: &Node, pod: Option<&str>) -> Result<ProxyDescription, NodeError> {
        describe(node, &caller(pod), &"us".into(), &"corp.local".parse().unwrap())
    }

    const ID: &str = "sidecar~10.0.0.7~sleep-1.default~default.svc.cluster.local";

    #[test]
    fn a_proxy_is_described_by_its_proof_first() {
        let mut said = node(
            ID,
            &[
                ("INSTANCE_IPS", "10.0.0.7,fd00::7"),
                ("DNS_CAPTURE", "true"),
                ("ISTIO_VERSION", "1.29"),
            ],
        );
        let labels = Struct {
            fields: [("app".to_owned(), text("sleep"))].into(),
        };
        let fields = &mut said.metadata.as_mut().unwrap().fields;
        fields.insert(
            "LABELS".into(),
            Value {
                kind: Some(Kind::StructValue(labels)),
            },
        );
        let proxy = described(&said, Some("sleep-1")).unwrap();
        assert_eq!(
            (proxy.kind, proxy.name.as_str(), proxy.addresses.len()),
            (ProxyKind::Sidecar, "sleep-1", 2)
        );
        assert_eq!(
            proxy.identity.unwrap().to_string(),
            "spiffe://corp.local/ns/default/sa/sleep"
        );
        assert_eq!(proxy.labels.value("app"), Some("sleep"));
        assert!(proxy.dns_capture && !proxy.stock_envoy);
        assert!(described(&node(ID, &[]), None).unwrap().stock_envoy);
    }

    #[test]
    fn a_node_that_claims_another_name_is_refused() {
        let other = "sidecar~10.0.0.7~sleep-1.bank~bank.svc.cluster.local";
        let half = "sidecar~10.0.0.7~sleep-1.default~bank.svc.cluster.local";
        for (said, pod, what) in [
            (node(other, &[]), None, "namespace"),
            (node(half, &[]), None, "namespace"),
            (node(ID, &[("NAMESPACE", "bank")]), None, "namespace"),
            (node(ID, &[("SERVICE_ACCOUNT", "vault")]), None, "service account"),
            (node(ID, &[("CLUSTER_ID", "eu")]), None, "cluster"),
            (node(ID, &[]), Some("sleep-2"), "pod"),
        ] {
            match described(&said, pod) {
                Err(NodeError::Claim { what: refused, .. }) => assert_eq!(refused, what),
                accepted => panic!("{what}: {accepted:?}"),
            }
        }
    }

    #[test]
    fn malformed_ids_are_refused() {
        for bad in [
            "",
            "sidecar",
            "waypoint~1.1.1.1~a.b~b.svc",
            "sidecar~x~a.b~b.svc",
            "sidecar~1.1.1.1~a~b.svc",
            &"~".repeat(9000),
        ] {
            assert!(
                matches!(described(&node(bad, &[]), None), Err(NodeError::Id(_))),
                "{bad}"
            );
        }
    }
}
