//! Who is at the other end, for labels: Istio's metadata exchange over HTTP headers, or what the endpoint's
//! metadata says.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderName, HeaderValue};
use prost::Message as _;
use prost_types::value::Kind;
use prost_types::{Struct, Value};

use crate::node::Node;

/// Header with the peer's metadata.
pub const METADATA: HeaderName = HeaderName::from_static("x-envoy-peer-metadata");
/// Header with the peer's node id.
pub const METADATA_ID: HeaderName = HeaderName::from_static("x-envoy-peer-metadata-id");
/// Peers remembered on each worker; metadata is what others send, so it is bounded.
const REMEMBERED: usize = 2048;
/// Longest metadata that is read.
const LONGEST: usize = 8 * 1024;

/// Labels of one workload. What is not known is `unknown`, as in Istio.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// Deployment or the like.
    pub workload: Arc<str>,
    /// Its namespace.
    pub namespace: Arc<str>,
    /// Label `app`.
    pub app: Arc<str>,
    /// Label `version`.
    pub version: Arc<str>,
    /// Member cluster.
    pub cluster: Arc<str>,
    /// Canonical service.
    pub canonical_service: Arc<str>,
    /// Canonical revision.
    pub canonical_revision: Arc<str>,
}

/// Two fields tell nearly all peers apart; the rest is left to equality, which is quick for the same `Rc`.
impl std::hash::Hash for Peer {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.workload.hash(state);
        self.cluster.hash(state);
    }
}

impl Peer {
    /// Nothing is known.
    pub fn unknown() -> Self {
        let unknown: Arc<str> = "unknown".into();
        Self {
            workload: unknown.clone(),
            namespace: unknown.clone(),
            app: unknown.clone(),
            version: unknown.clone(),
            cluster: unknown.clone(),
            canonical_service: unknown.clone(),
            canonical_revision: unknown,
        }
    }

    fn of_node(node: &Node) -> Self {
        let label = |name: &str| node.labels.get(name).map_or("unknown", String::as_str).into();
        Self {
            workload: node.workload.clone(),
            namespace: node.namespace.clone(),
            app: label("app"),
            version: label("version"),
            cluster: node.cluster_id.clone(),
            canonical_service: node.canonical_name().into(),
            canonical_revision: node.canonical_revision().into(),
        }
    }

    /// From an endpoint's `name;namespace;canonical name;revision;cluster`.
    fn of_endpoint(workload: &str) -> Self {
        let mut parts = workload
            .split(';')
            .map(|p| if p.is_empty() { "unknown" } else { p });
        let mut next = || -> Arc<str> { parts.next().unwrap_or("unknown").into() };
        let (workload, namespace, canonical_service, canonical_revision, cluster) =
            (next(), next(), next(), next(), next());
        Self {
            app: canonical_service.clone(),
            version: canonical_revision.clone(),
            workload,
            namespace,
            cluster,
            canonical_service,
            canonical_revision,
        }
    }

    fn of_metadata(header: &HeaderValue) -> Option<Self> {
        if header.len() > LONGEST {
            return None;
        }
        let bytes = STANDARD.decode(header.as_bytes()).ok()?;
        let metadata = Struct::decode(bytes.as_slice()).ok()?;
        let field = |name: &str| text(metadata.fields.get(name));
        let labels = match metadata.fields.get("LABELS").and_then(|v| v.kind.as_ref()) {
            Some(Kind::StructValue(labels)) => Some(labels),
            _ => None,
        };
        let label = |name: &str| labels.and_then(|l| text(l.fields.get(name)));
        let or_unknown = |v: Option<&str>| -> Arc<str> { v.unwrap_or("unknown").into() };
        let workload = field("WORKLOAD_NAME");
        Some(Self {
            workload: or_unknown(workload),
            namespace: or_unknown(field("NAMESPACE")),
            app: or_unknown(label("app")),
            version: or_unknown(label("version")),
            cluster: or_unknown(field("CLUSTER_ID")),
            canonical_service: or_unknown(
                label("service.istio.io/canonical-name")
                    .or_else(|| label("app"))
                    .or(workload),
            ),
            canonical_revision: label("service.istio.io/canonical-revision")
                .or_else(|| label("version"))
                .unwrap_or("latest")
                .into(),
        })
    }
}

fn text(value: Option<&Value>) -> Option<&str> {
    match value?.kind.as_ref()? {
        Kind::StringValue(s) if !s.is_empty() && s.len() <= 512 => Some(s),
        _ => None,
    }
}

/// A worker's memory of peers.
#[derive(Debug)]
pub struct Peers {
    /// Ourselves.
    pub own: Rc<Peer>,
    /// Nobody known.
    pub unknown: Rc<Peer>,
    /// What we tell: metadata and id.
    pub headers: Option<(HeaderValue, HeaderValue)>,
    by_header: RefCell<HashMap<HeaderValue, Rc<Peer>>>,
    by_endpoint: RefCell<HashMap<Arc<str>, Rc<Peer>>>,
}

impl Peers {
    /// What a node knows and tells of itself.
    pub fn new(node: &Node) -> Self {
        let id = HeaderValue::from_str(&node.id).ok();
        Self {
            own: Rc::new(Peer::of_node(node)),
            unknown: Rc::new(Peer::unknown()),
            headers: metadata_of(node).zip(id),
            by_header: RefCell::default(),
            by_endpoint: RefCell::default(),
        }
    }

    /// The peer that sent this metadata.
    pub fn of_header(&self, header: &HeaderValue) -> Rc<Peer> {
        if let Some(peer) = self.by_header.borrow().get(header) {
            return peer.clone();
        }
        let Some(peer) = Peer::of_metadata(header).map(Rc::new) else {
            return self.unknown.clone();
        };
        let mut known = self.by_header.borrow_mut();
        if known.len() >= REMEMBERED {
            known.clear();
        }
        known.insert(header.clone(), peer.clone());
        peer
    }

    /// The peer that an endpoint's metadata names.
    pub fn of_endpoint(&self, workload: Option<&Arc<str>>) -> Rc<Peer> {
        let Some(workload) = workload else {
            return self.unknown.clone();
        };
        if let Some(peer) = self.by_endpoint.borrow().get(workload) {
            return peer.clone();
        }
        let peer = Rc::new(Peer::of_endpoint(workload));
        let mut known = self.by_endpoint.borrow_mut();
        if known.len() >= REMEMBERED {
            known.clear();
        }
        known.insert(workload.clone(), peer.clone());
        peer
    }
}

/// Our metadata as a header value.
fn metadata_of(node: &Node) -> Option<HeaderValue> {
    let string = |s: &str| Value {
        kind: Some(Kind::StringValue(s.to_owned())),
    };
    let mut labels = BTreeMap::new();
    for name in ["app", "version"] {
        if let Some(value) = node.labels.get(name) {
            labels.insert(name.to_owned(), string(value));
        }
    }
    labels.insert(
        "service.istio.io/canonical-name".to_owned(),
        string(node.canonical_name()),
    );
    labels.insert(
        "service.istio.io/canonical-revision".to_owned(),
        string(node.canonical_revision()),
    );
    let mut fields = BTreeMap::new();
    for (name, value) in [
        ("NAME", &node.name),
        ("NAMESPACE", &node.namespace),
        ("WORKLOAD_NAME", &node.workload),
        ("OWNER", &node.owner),
        ("CLUSTER_ID", &node.cluster_id),
        ("MESH_ID", &node.mesh_id),
        ("SERVICE_ACCOUNT", &node.service_account),
    ] {
        if !value.is_empty() {
            fields.insert(name.to_owned(), string(value));
        }
    }
    let labels = Value {
        kind: Some(Kind::StructValue(Struct { fields: labels })),
    };
    fields.insert("LABELS".to_owned(), labels);
    let bytes = Struct { fields }.encode_to_vec();
    HeaderValue::from_str(&STANDARD.encode(bytes)).ok()
}
