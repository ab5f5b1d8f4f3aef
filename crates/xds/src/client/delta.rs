//! Delta without I/O.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use super::{Nonce, Received, ResponseError, Update, Wanted};
use crate::envoy::core::Node;
use crate::envoy::google::rpc;
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
    types: BTreeMap<TypeUrl, Subscription>,
    /// What is held from an earlier life, of types that are not subscribed to yet.
    earlier: BTreeMap<TypeUrl, BTreeMap<Arc<str>, Arc<str>>>,
    /// Which stream this is; 0 before the first.
    stream: u64,
    connected: bool,
    /// Whether the node was sent on this stream; only the first request has to carry it.
    introduced: bool,
    requests: VecDeque<DeltaDiscoveryRequest>,
}

#[derive(Debug, Default)]
struct Subscription {
    all: bool,
    names: BTreeSet<Arc<str>>,
    /// Version of each resource that was accepted.
    held: BTreeMap<Arc<str>, Arc<str>>,
    /// Responses that the caller has not answered.
    unanswered: VecDeque<Unanswered>,
}

#[derive(Debug)]
struct Unanswered {
    nonce: Nonce,
    added: Vec<(Arc<str>, Arc<str>)>,
    removed: Vec<Arc<str>>,
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
        subscription.unanswered.push_back(Unanswered {
            nonce: nonce.clone(),
            added: added
                .iter()
                .map(|r| (r.name.clone(), r.version.clone()))
                .collect(),
            removed: removed.clone(),
        });
        Ok(Update {
            ty,
            added,
            removed,
            nonce,
            version: response.system_version_info,
        })
    }

    /// Accepts an update as a whole.
    pub fn ack(&mut self, ty: &TypeUrl, nonce: &Nonce) {
        self.answer(ty, nonce, None, |_| true);
    }

    /// Refuses an update. What is not `refused` of it counts as accepted; nothing named refuses all.
    pub fn nack(&mut self, ty: &TypeUrl, nonce: &Nonce, error: &str, refused: &[Arc<str>]) {
        let error = rpc::Status {
            code: 3,
            message: error.to_owned(),
            details: Vec::new(),
        };
        self.answer(ty, nonce, Some(error), |name| {
            !refused.is_empty() && !refused.contains(name)
        });
    }

    /// The next request to send.
    pub fn next_request(&mut self) -> Option<DeltaDiscoveryRequest> {
        self.requests.pop_front()
    }

    /// Names and versions that are held of a type.
    pub fn held(&self, ty: &TypeUrl) -> impl Iterator<Item = (&Arc<str>, &Arc<str>)> {
        self.types.get(ty).into_iter().flat_map(|s| s.held.iter())
    }

    fn answer(
        &mut self,
        ty: &TypeUrl,
        nonce: &Nonce,
        error_detail: Option<rpc::Status>,
        accepted: impl Fn(&Arc<str>) -> bool,
    ) {
        let Some(subscription) = self.types.get_mut(ty) else {
            return;
        };
        let Some(at) = subscription.unanswered.iter().position(|u| u.nonce == *nonce) else {
            return;
        };
        let Some(answered) = subscription.unanswered.remove(at) else {
            return;
        };
        let (all, names) = (subscription.all, &subscription.names);
        for (name, version) in answered.added {
            if accepted(&name) && (all || names.contains(&name)) {
                subscription.held.insert(name, version);
            }
        }
        for name in answered.removed {
            if accepted(&name) {
                subscription.held.remove(&name);
            }
        }
        if self.connected && nonce.stream == self.stream {
            let request = DeltaDiscoveryRequest {
                response_nonce: nonce.nonce.to_string(),
                error_detail,
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
        let mut subscribe = texts(subscription.names.iter());
        // Where the bare request means the same, the star is left out: istiod knows only the bare one.
        if subscription.all && !(ty.is_wildcard_by_default() && subscribe.is_empty()) {
            subscribe.push("*".to_owned());
        }
        let held = subscription
            .held
            .iter()
            .map(|(n, v)| (n.to_string(), v.to_string()))
            .collect();
        let request = DeltaDiscoveryRequest {
            resource_names_subscribe: subscribe,
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
