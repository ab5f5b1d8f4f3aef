//! Delta without I/O.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use super::book::{Book, Verdict};
use super::{Nonce, Received, ResponseError, Update, Wanted};
use crate::envoy::core::Node;
use crate::envoy::service::discovery::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};
use crate::resource::TypeUrl;

/// The client's end of delta ADS, over any number of streams.
///
/// Remembers the names and versions of what was accepted, not the resources: those belong to the caller.
#[derive(Debug)]
pub struct DeltaClient {
    node: Node,
    /// Most resources of one type.
    limit: usize,
    types: BTreeMap<TypeUrl, Book>,
    /// What is held from an earlier life, of types that are not subscribed to yet.
    earlier: BTreeMap<TypeUrl, BTreeMap<Arc<str>, Arc<str>>>,
    /// Which stream this is; 0 before the first.
    stream: u64,
    connected: bool,
    /// Whether the node was sent on this stream; only the first request has to carry it.
    introduced: bool,
    requests: VecDeque<DeltaDiscoveryRequest>,
}

impl DeltaClient {
    /// A client that has asked for nothing. `limit` bounds the resources of each type.
    pub fn new(node: Node, limit: usize) -> Self {
        Self {
            node,
            limit,
            types: BTreeMap::new(),
            earlier: BTreeMap::new(),
            stream: 0,
            connected: false,
            introduced: false,
            requests: VecDeque::new(),
        }
    }

    /// Notes a resource that is held from an earlier life, before its type is subscribed to.
    pub fn hold(&mut self, ty: TypeUrl, name: Arc<str>, version: Arc<str>) {
        self.earlier.entry(ty).or_default().insert(name, version);
    }

    /// Asks for more of a type, now and on every later stream.
    pub fn subscribe(&mut self, ty: TypeUrl, wanted: Wanted) {
        let known = self.types.contains_key(&ty);
        let subscription = self.types.entry(ty.clone()).or_default();
        if let Some(held) = self.earlier.remove(&ty) {
            subscription.held.extend(held);
        }
        let fresh: Vec<Arc<str>> = match wanted {
            Wanted::All if subscription.all => return,
            Wanted::All => {
                subscription.all = true;
                vec!["*".into()]
            }
            Wanted::Names(names) => names
                .into_iter()
                .filter(|n| subscription.names.insert(n.clone()))
                .collect(),
        };
        if !self.connected || fresh.is_empty() {
            return;
        }
        if known {
            let request = DeltaDiscoveryRequest {
                resource_names_subscribe: texts(&fresh),
                ..Default::default()
            };
            self.push(&ty, request);
        } else {
            self.open(&ty);
        }
    }

    /// Asks for less of a type. What was received under these names is forgotten here; so the caller should.
    pub fn unsubscribe(&mut self, ty: &TypeUrl, names: &[Arc<str>]) {
        let Some(subscription) = self.types.get_mut(ty) else {
            return;
        };
        let mut dropped = Vec::new();
        for name in names {
            if subscription.names.remove(name) {
                dropped.push(name.clone());
                if !subscription.all {
                    subscription.held.remove(name);
                }
            }
        }
        if self.connected && !dropped.is_empty() {
            let request = DeltaDiscoveryRequest {
                resource_names_unsubscribe: texts(&dropped),
                ..Default::default()
            };
            self.push(ty, request);
        }
    }

    /// A new stream is open: everything is asked for again, less what is held.
    pub fn connected(&mut self) {
        self.stream += 1;
        self.connected = true;
        self.introduced = false;
        self.requests.clear();
        let types: Vec<TypeUrl> = self.types.keys().cloned().collect();
        for ty in types {
            self.open(&ty);
        }
    }

    /// The stream is gone. Updates that were handed out may still be answered: what is accepted is held.
    pub fn disconnected(&mut self) {
        self.connected = false;
        self.requests.clear();
    }

    /// Takes a response and makes an update of it, which [`Self::ack`] or [`Self::nack`] must answer.
    pub fn response(&mut self, response: DeltaDiscoveryResponse) -> Result<Update, ResponseError> {
        let ty = TypeUrl::from(response.type_url.as_str());
        let Some(subscription) = self.types.get_mut(&ty) else {
            return Err(ResponseError::Unsubscribed(ty));
        };
        let mut added = Vec::with_capacity(response.resources.len());
        let mut seen = BTreeSet::new();
        for resource in response.resources {
            let name: Arc<str> = resource.name.into();
            if !seen.insert(name.clone()) {
                return Err(ResponseError::Twice {
                    ty,
                    name: name.to_string(),
                });
            }
            // A resource without a body is a heartbeat of its time to live: nothing changed.
            let Some(body) = resource.resource else { continue };
            added.push(Received {
                name,
                version: resource.version.into(),
                body,
            });
        }
        let fresh = added
            .iter()
            .filter(|r| !subscription.held.contains_key(&r.name))
            .count();
        if subscription.held.len() + fresh > self.limit || response.removed_resources.len() > self.limit {
            return Err(ResponseError::TooMany {
                ty,
                limit: self.limit,
            });
        }
        let removed: Vec<Arc<str>> = response.removed_resources.into_iter().map(Arc::from).collect();
        let nonce = Nonce {
            stream: self.stream,
            nonce: response.nonce.into(),
        };
        let update = Update {
            ty,
            added,
            removed,
            nonce,
            version: response.system_version_info,
        };
        subscription.await_answer(&update);
        Ok(update)
    }

    /// Accepts an update as a whole.
    pub fn ack(&mut self, ty: &TypeUrl, nonce: &Nonce) {
        self.answer(ty, nonce, Verdict::Accepted);
    }

    /// Refuses an update. What is not `refused` of it counts as accepted; nothing named refuses all.
    pub fn nack(&mut self, ty: &TypeUrl, nonce: &Nonce, error: &str, refused: &[Arc<str>]) {
        self.answer(ty, nonce, Verdict::Refused(error, refused));
    }

    /// The next request to send.
    pub fn next_request(&mut self) -> Option<DeltaDiscoveryRequest> {
        self.requests.pop_front()
    }

    /// Names and versions that are held of a type.
    pub fn held(&self, ty: &TypeUrl) -> impl Iterator<Item = (&Arc<str>, &Arc<str>)> {
        self.types.get(ty).into_iter().flat_map(|s| s.held.iter())
    }

    fn answer(&mut self, ty: &TypeUrl, nonce: &Nonce, verdict: Verdict<'_>) {
        let Some(subscription) = self.types.get_mut(ty) else {
            return;
        };
        let known = subscription.answered(nonce, verdict).is_some();
        if known && self.connected && nonce.stream == self.stream {
            let request = DeltaDiscoveryRequest {
                response_nonce: nonce.nonce.to_string(),
                error_detail: verdict.error_detail(),
                ..Default::default()
            };
            self.push(ty, request);
        }
    }

    /// The first request of a type on this stream.
    fn open(&mut self, ty: &TypeUrl) {
        let Some(subscription) = self.types.get(ty) else {
            return;
        };
        let held = subscription
            .held
            .iter()
            .map(|(n, v)| (n.to_string(), v.to_string()))
            .collect();
        let request = DeltaDiscoveryRequest {
            resource_names_subscribe: subscription.wanted(ty),
            initial_resource_versions: held,
            ..Default::default()
        };
        self.push(ty, request);
    }

    fn push(&mut self, ty: &TypeUrl, mut request: DeltaDiscoveryRequest) {
        request.type_url = ty.as_str().to_owned();
        if !self.introduced {
            request.node = Some(self.node.clone());
            self.introduced = true;
        }
        self.requests.push_back(request);
    }
}

fn texts<'a>(names: impl IntoIterator<Item = &'a Arc<str>>) -> Vec<String> {
    names.into_iter().map(|n| n.to_string()).collect()
}
