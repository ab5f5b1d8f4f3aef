//! State of the world without I/O.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use prost::Message;

use super::book::{Book, Verdict};
use super::{Nonce, Received, ResponseError, Update, Wanted};
use crate::any;
use crate::envoy::Any;
use crate::envoy::core::Node;
use crate::envoy::google::rpc::Status;
use crate::envoy::service::discovery::{DiscoveryRequest, DiscoveryResponse, Resource as WireResource};
use crate::resource::{Resource, TypeUrl};

/// The client's end of state-of-the-world ADS, over any number of streams.
///
/// Its updates say what changed, as those of delta do: complete responses are compared with what was held,
/// so one that repeats what is known changes nothing.
#[derive(Debug)]
pub struct SotwClient {
    node: Node,
    limit: usize,
    types: BTreeMap<TypeUrl, Subscription>,
    stream: u64,
    connected: bool,
    introduced: bool,
    requests: VecDeque<DiscoveryRequest>,
}

#[derive(Debug, Default)]
struct Subscription {
    book: Book,
    /// Version of the last response that was accepted, over streams.
    accepted: String,
    /// Nonce of the last response on this stream that was answered.
    nonce: String,
}

impl SotwClient {
    /// A client that has asked for nothing. `limit` bounds the resources of each type.
    pub fn new(node: Node, limit: usize) -> Self {
        Self {
            node,
            limit,
            types: BTreeMap::new(),
            stream: 0,
            connected: false,
            introduced: false,
            requests: VecDeque::new(),
        }
    }

    /// Asks for more of a type, now and on every later stream.
    pub fn subscribe(&mut self, ty: TypeUrl, wanted: Wanted) {
        let known = self.types.contains_key(&ty);
        let book = &mut self.types.entry(ty.clone()).or_default().book;
        let before = (book.all, book.names.len());
        match wanted {
            Wanted::All => book.all = true,
            Wanted::Names(names) => book.names.extend(names),
        }
        if !known || before != (book.all, book.names.len()) {
            self.ask(&ty);
        }
    }

    /// Asks for less of a type.
    pub fn unsubscribe(&mut self, ty: &TypeUrl, names: &[Arc<str>]) {
        let Some(subscription) = self.types.get_mut(ty) else {
            return;
        };
        let book = &mut subscription.book;
        let before = book.names.len();
        for name in names {
            if book.names.remove(name) && !book.all {
                book.held.remove(name);
            }
        }
        if before != book.names.len() {
            self.ask(ty);
        }
    }

    /// A new stream is open: everything is asked for again, with the versions that are held.
    pub fn connected(&mut self) {
        self.stream += 1;
        self.connected = true;
        self.introduced = false;
        self.requests.clear();
        let types: Vec<TypeUrl> = self.types.keys().cloned().collect();
        for ty in types {
            if let Some(subscription) = self.types.get_mut(&ty) {
                subscription.nonce.clear();
            }
            self.ask(&ty);
        }
    }

    /// The stream is gone. Updates that were handed out may still be answered.
    pub fn disconnected(&mut self) {
        self.connected = false;
        self.requests.clear();
    }

    /// Takes a response and makes an update of it, which [`Self::ack`] or [`Self::nack`] must answer.
    pub fn response(&mut self, response: DiscoveryResponse) -> Result<Update, ResponseError> {
        let ty = TypeUrl::from(response.type_url.as_str());
        let Some(subscription) = self.types.get_mut(&ty) else {
            return Err(ResponseError::Unsubscribed(ty));
        };
        let book = &mut subscription.book;
        if response.resources.len() > self.limit {
            return Err(ResponseError::TooMany {
                ty,
                limit: self.limit,
            });
        }
        let mut added = Vec::new();
        let mut seen = BTreeSet::new();
        for body in response.resources {
            let (name, body) = named(body);
            if !seen.insert(name.clone()) {
                return Err(ResponseError::Twice {
                    ty,
                    name: name.to_string(),
                });
            }
            let resource = Resource::packed(name.clone(), body);
            let version: Arc<str> = resource.version.to_string().into();
            if book.held.get(&name) != Some(&version) {
                added.push(Received {
                    name,
                    version,
                    body: resource.body.clone(),
                });
            }
        }
        let mut removed = Vec::new();
        if ty.is_full_state() {
            removed.extend(book.held.keys().filter(|n| !seen.contains(*n)).cloned());
        } else if book.held.len() + added.len() > self.limit {
            return Err(ResponseError::TooMany {
                ty,
                limit: self.limit,
            });
        }
        let nonce = Nonce {
            stream: self.stream,
            nonce: response.nonce.as_str().into(),
        };
        let update = Update {
            ty,
            added,
            removed,
            nonce,
            version: response.version_info,
        };
        book.await_answer(&update);
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
    pub fn next_request(&mut self) -> Option<DiscoveryRequest> {
        self.requests.pop_front()
    }

    fn answer(&mut self, ty: &TypeUrl, nonce: &Nonce, verdict: Verdict<'_>) {
        let Some(subscription) = self.types.get_mut(ty) else {
            return;
        };
        let Some(version) = subscription.book.answered(nonce, verdict) else {
            return;
        };
        if matches!(verdict, Verdict::Accepted) {
            subscription.accepted = version;
        }
        if nonce.stream == self.stream {
            subscription.nonce = nonce.nonce.to_string();
            self.send(ty, verdict.error_detail());
        }
    }

    /// Says what is wanted now, unless a response waits for its answer: the answer will say it. Before it,
    /// the request would be taken for the answer.
    fn ask(&mut self, ty: &TypeUrl) {
        let waits = |s: &Subscription| s.book.awaits_answer(self.stream);
        if !self.types.get(ty).is_some_and(waits) {
            self.send(ty, None);
        }
    }

    /// Every request says the whole: what is wanted, what was accepted, which response was the last.
    fn send(&mut self, ty: &TypeUrl, error_detail: Option<Status>) {
        if !self.connected {
            return;
        }
        let Some(subscription) = self.types.get(ty) else {
            return;
        };
        let node = (!self.introduced).then(|| self.node.clone());
        self.introduced = true;
        self.requests.push_back(DiscoveryRequest {
            version_info: subscription.accepted.clone(),
            node,
            resource_names: subscription.book.wanted(ty),
            type_url: ty.as_str().to_owned(),
            response_nonce: subscription.nonce.clone(),
            error_detail,
            ..Default::default()
        });
    }
}

/// The name of a resource that travels without one.
///
/// It may be wrapped in a `Resource` (xds.config.supports-resource-in-sotw); else the messages of all types
/// that Envoy knows have their name in field 1, which is what is read here. A name table has none.
fn named(body: Any) -> (Arc<str>, Any) {
    if let Ok(WireResource {
        name,
        resource: Some(inner),
        ..
    }) = any::unpack(&body)
    {
        return (name.into(), inner);
    }
    let name = match TypeUrl::from(body.type_url.as_str()) {
        TypeUrl::Nds => String::new(),
        _ => Named::decode(body.value.as_slice())
            .map(|n| n.name)
            .unwrap_or_default(),
    };
    (name.into(), body)
}

#[derive(Clone, PartialEq, prost::Message)]
struct Named {
    #[prost(string, tag = "1")]
    name: String,
}
