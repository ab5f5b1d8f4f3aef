//! What one stream knows of its client, the same for both protocols.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::resource::{Resource, ResourceSet, Resources, TypeUrl, Version};

/// Bounds on what a client may make the server remember.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Types on one stream.
    pub types: usize,
    /// Names subscribed to, per type.
    pub names: usize,
    /// Bytes of one name.
    pub name_length: usize,
    /// Bytes of resources after which a response is closed and the rest travels in the next one. State of
    /// the world responses that must be complete are not split.
    pub response_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            types: 32,
            names: 100_000,
            name_length: 2048,
            response_bytes: 2 << 20,
        }
    }
}

/// The client broke the protocol or a bound; the stream has to end.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProtocolError {
    /// A request without a type URL.
    #[error("a request on an aggregated stream has no type_url")]
    NoType,
    /// Too many types.
    #[error("the stream subscribes to more than {0} resource types")]
    TooManyTypes(usize),
    /// Too many names.
    #[error("the stream subscribes to more than {limit} resources of type {ty}")]
    TooManyNames {
        /// Type of the resources.
        ty: TypeUrl,
        /// The bound.
        limit: usize,
    },
    /// A name is too long.
    #[error("a resource name of type {ty} is longer than {limit} bytes")]
    NameTooLong {
        /// Type of the resource.
        ty: TypeUrl,
        /// The bound.
        limit: usize,
    },
}

/// What a request said about an earlier response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// Nothing: a subscription, or the nonce of a response that was superseded.
    None,
    /// The last response of this type was taken.
    Ack {
        /// Type of the response.
        ty: TypeUrl,
        /// Its version.
        version: Version,
        /// Its nonce.
        nonce: String,
    },
    /// The last response of this type was refused; the client stays with what it had.
    Nack {
        /// Type of the response.
        ty: TypeUrl,
        /// Its version.
        version: Version,
        /// Its nonce.
        nonce: String,
        /// What the client says is wrong, cut to 4 KiB.
        error: String,
    },
}

/// Where one type stands on one stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TypeStatus {
    /// The type.
    pub ty: TypeUrl,
    /// Whether everything is subscribed to.
    pub wildcard: bool,
    /// How many names are subscribed to.
    pub names: usize,
    /// How many resources the client has been sent and has not been told to drop.
    pub resources: usize,
    /// Version and nonce of the last response.
    pub sent: Option<(Version, String)>,
    /// Version and nonce of the last response that was taken.
    pub acked: Option<(Version, String)>,
    /// Why the last response was refused; `None` when it was not.
    pub error: Option<String>,
    /// Whether the client has taken the newest state.
    pub synced: bool,
}

/// A response, before it is a message of either protocol.
#[derive(Debug, Clone, PartialEq)]
pub struct Sent {
    /// Its type.
    pub ty: TypeUrl,
    /// Version of the state that the client has after taking it.
    pub version: Version,
    /// Unique on the stream.
    pub nonce: String,
    /// What is new or changed; in a complete state-of-the-world response, everything.
    pub resources: Vec<Arc<Resource>>,
    /// What is no more.
    pub removed: Vec<Arc<str>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    Sotw,
    Delta,
}

/// One stream.
#[derive(Debug)]
pub(super) struct Session {
    mode: Mode,
    limits: Limits,
    /// What the client may have; empty until the first publication.
    resources: Arc<Resources>,
    /// Whether anything was published. Before that no response is sent, or "nothing" would be an answer.
    published: bool,
    watches: BTreeMap<TypeUrl, Watch>,
    /// Last nonce given.
    nonce: u64,
}

/// A subscription to one type.
#[derive(Debug)]
pub(super) struct Watch {
    /// All resources are wanted.
    pub wildcard: bool,
    /// Resources wanted by name.
    pub names: BTreeSet<Arc<str>>,
    /// Whether a name was ever given; the legacy wildcard ends with it.
    pub named: bool,
    /// What the client holds, as far as it was sent: names and versions.
    pub sent: BTreeMap<Arc<str>, Version>,
    /// To be sent whatever the client holds.
    pub force: BTreeSet<Arc<str>>,
    /// To be reported as removed even if never sent (delta: a name that does not exist).
    pub gone: BTreeSet<Arc<str>>,
    /// Part of a response that was refused: travels again with the next one that has cause of its own.
    retry: BTreeSet<Arc<str>>,
    /// A response is owed, even an empty one.
    pub owed: bool,
    /// Version of the state for which nothing was left to send.
    clean: Option<Version>,
    /// Response that waits for its answer.
    outstanding: Option<Outstanding>,
    /// Clusters that went away, repeated in complete responses until listeners and routes no longer name
    /// them (state of the world; delta withholds the removal and needs no bodies).
    held: BTreeMap<Arc<str>, Arc<Resource>>,
    /// A cluster was sent: the next request for endpoints is answered in full, because Envoy drops and
    /// asks again for the endpoints of a cluster that changed, without saying so (state of the world).
    rewarm: bool,
    last: Option<(Version, String)>,
    acked: Option<(Version, String)>,
    error: Option<String>,
}

#[derive(Debug)]
struct Outstanding {
    nonce: String,
    version: Version,
    names: Vec<Arc<str>>,
}

/// What a watch has to send.
#[derive(Debug, Default)]
struct Difference {
    changed: Vec<Arc<Resource>>,
    removed: Vec<Arc<str>>,
    /// Whether removals are left out that have to wait.
    withheld: bool,
}

impl Difference {
    fn is_empty(&self) -> bool {
        self.changed.is_empty() && self.removed.is_empty()
    }
}

impl Session {
    pub fn new(mode: Mode, limits: Limits) -> Self {
        Self {
            mode,
            limits,
            resources: Arc::default(),
            published: false,
            watches: BTreeMap::new(),
            nonce: 0,
        }
    }

    /// The watch for a type, made on its first request; says whether this is the first.
    pub fn watch(&mut self, type_url: &str) -> Result<(TypeUrl, &mut Watch, bool), ProtocolError> {
        if type_url.is_empty() {
            return Err(ProtocolError::NoType);
        }
        if type_url.len() > self.limits.name_length {
            return Err(ProtocolError::NameTooLong {
                ty: TypeUrl::Other("".into()),
                limit: self.limits.name_length,
            });
        }
        let ty = TypeUrl::from(type_url);
        let first = !self.watches.contains_key(&ty);
        if first && self.watches.len() >= self.limits.types {
            return Err(ProtocolError::TooManyTypes(self.limits.types));
        }
        let watch = self.watches.entry(ty.clone()).or_insert_with(Watch::new);
        Ok((ty, watch, first))
    }

    /// Refuses names beyond the bounds before anything is remembered of them.
    pub fn check_names<'a>(
        &self,
        type_url: &str,
        names: impl ExactSizeIterator<Item = &'a String>,
    ) -> Result<(), ProtocolError> {
        let limits = &self.limits;
        if names.len() > limits.names {
            return Err(ProtocolError::TooManyNames {
                ty: type_url.into(),
                limit: limits.names,
            });
        }
        for name in names {
            if name.len() > limits.name_length {
                return Err(ProtocolError::NameTooLong {
                    ty: type_url.into(),
                    limit: limits.name_length,
                });
            }
        }
        Ok(())
    }

    /// Refuses a subscription that has grown beyond the bound.
    pub fn check_size(&self, ty: &TypeUrl) -> Result<(), ProtocolError> {
        match self.watches.get(ty) {
            Some(watch) if watch.names.len() > self.limits.names => Err(ProtocolError::TooManyNames {
                ty: ty.clone(),
                limit: self.limits.names,
            }),
            _ => Ok(()),
        }
    }

    pub fn set(&self, ty: &TypeUrl) -> Option<Arc<ResourceSet>> {
        self.resources.set(ty).cloned()
    }

    /// Takes a newer state. What is not sent yet of an older one is never sent.
    pub fn publish(&mut self, resources: Arc<Resources>) {
        let nothing = ResourceSet::default();
        for ty in [TypeUrl::Cds, TypeUrl::Eds] {
            let Some(watch) = self.watches.get_mut(&ty) else {
                continue;
            };
            let old = self.resources.set(&ty).map_or(&nothing, |s| s.as_ref());
            let new = resources.set(&ty).map_or(&nothing, |s| s.as_ref());
            if old.version() == new.version() {
                continue;
            }
            if self.mode == Mode::Delta || !ty.is_full_state() {
                continue;
            }
            watch.held.retain(|name, _| new.member(name).is_none());
            for resource in old.iter() {
                if new.member(&resource.name).is_none() && watch.sent.contains_key(&resource.name) {
                    watch.held.insert(resource.name.clone(), resource.clone());
                }
            }
        }
        self.resources = resources;
        self.published = true;
    }

    /// Settles the response that the nonce belongs to.
    pub fn answer(&mut self, ty: &TypeUrl, nonce: &str, error: Option<String>) -> Answer {
        let Some(watch) = self.watches.get_mut(ty) else {
            return Answer::None;
        };
        let Some(outstanding) = watch.outstanding.take_if(|o| o.nonce == nonce) else {
            return Answer::None;
        };
        let Outstanding {
            nonce,
            version,
            names,
        } = outstanding;
        match error {
            None => {
                watch.error = None;
                watch.acked = Some((version, nonce.clone()));
                Answer::Ack {
                    ty: ty.clone(),
                    version,
                    nonce,
                }
            }
            Some(error) => {
                let error = cut(error, 4096);
                watch.error = Some(error.clone());
                watch.retry.extend(names);
                Answer::Nack {
                    ty: ty.clone(),
                    version,
                    nonce,
                    error,
                }
            }
        }
    }

    /// The next response that may travel now. Call until `None` after every request and publication.
    pub fn next(&mut self) -> Option<Sent> {
        if !self.published {
            return None;
        }
        let hold = self.removals_must_wait();
        let mut blocked = false;
        let nothing = Arc::new(ResourceSet::default());
        for (ty, watch) in &mut self.watches {
            let set = self.resources.set(ty).unwrap_or(&nothing);
            let ordered = is_ordered(ty);
            if ordered && blocked {
                continue;
            }
            let hold = hold && matches!(ty, TypeUrl::Cds | TypeUrl::Eds);
            if watch.outstanding.is_some() {
                blocked |= ordered && watch.has_news(self.mode, ty, set, hold);
                continue;
            }
            let Some((version, difference)) = watch.take(self.mode, ty, set, hold, &self.limits) else {
                continue;
            };
            let Difference {
                changed: resources,
                removed,
                ..
            } = difference;
            self.nonce += 1;
            let nonce = self.nonce.to_string();
            watch.outstanding = Some(Outstanding {
                nonce: nonce.clone(),
                version,
                names: resources
                    .iter()
                    .map(|r| r.name.clone())
                    .chain(removed.iter().cloned())
                    .collect(),
            });
            watch.last = Some((version, nonce.clone()));
            let ty = ty.clone();
            if ty == TypeUrl::Cds
                && self.mode == Mode::Sotw
                && let Some(endpoints) = self.watches.get_mut(&TypeUrl::Eds)
            {
                endpoints.rewarm = true;
            }
            return Some(Sent {
                ty,
                version,
                nonce,
                resources,
                removed,
            });
        }
        None
    }

    /// Whether listeners or routes are on their way, or were refused so that older ones still serve.
    fn removals_must_wait(&self) -> bool {
        let nothing = ResourceSet::default();
        [TypeUrl::Lds, TypeUrl::Rds].iter().any(|ty| {
            self.watches.get(ty).is_some_and(|watch| {
                let set = self.resources.set(ty).map_or(&nothing, |s| s.as_ref());
                watch.outstanding.is_some()
                    || watch.error.is_some()
                    || watch.has_news(self.mode, ty, set, false)
            })
        })
    }

    pub fn status(&self) -> Vec<TypeStatus> {
        let nothing = ResourceSet::default();
        self.watches
            .iter()
            .map(|(ty, watch)| {
                let set = self.resources.set(ty).map_or(&nothing, |s| s.as_ref());
                TypeStatus {
                    ty: ty.clone(),
                    wildcard: watch.wildcard,
                    names: watch.names.len(),
                    resources: watch.sent.len(),
                    sent: watch.last.clone(),
                    acked: watch.acked.clone(),
                    error: watch.error.clone(),
                    synced: self.published
                        && watch.outstanding.is_none()
                        && watch.error.is_none()
                        && !watch.has_news(self.mode, ty, set, false),
                }
            })
            .collect()
    }
}

impl Watch {
    fn new() -> Self {
        Self {
            wildcard: false,
            names: BTreeSet::new(),
            named: false,
            sent: BTreeMap::new(),
            force: BTreeSet::new(),
            gone: BTreeSet::new(),
            retry: BTreeSet::new(),
            owed: false,
            clean: None,
            outstanding: None,
            held: BTreeMap::new(),
            rewarm: false,
            last: None,
            acked: None,
            error: None,
        }
    }

    /// The nonce of the last response, answered or not.
    pub fn last_nonce(&self) -> Option<&str> {
        self.last.as_ref().map(|(_, nonce)| nonce.as_str())
    }

    /// Whether the endpoints have to be sent again for clusters that are being replaced.
    pub fn take_rewarm(&mut self) -> bool {
        std::mem::take(&mut self.rewarm)
    }

    pub fn wants(&self, name: &str) -> bool {
        self.wildcard || self.names.contains(name)
    }

    /// The subscription changed: the cached answer to "is there news" is void.
    pub fn touched(&mut self) {
        self.clean = None;
    }

    /// Forgets what the client holds of resources that it no longer wants.
    pub fn forget_unwanted(&mut self) {
        let (wildcard, names) = (self.wildcard, &self.names);
        if !wildcard {
            self.sent.retain(|name, _| names.contains(name));
            self.held.retain(|name, _| names.contains(name));
            self.force.retain(|name| names.contains(name));
            self.retry.retain(|name| names.contains(name));
        }
    }

    fn has_news(&self, mode: Mode, ty: &TypeUrl, set: &ResourceSet, hold: bool) -> bool {
        self.owed || self.clean != Some(set.version()) && !self.difference(mode, ty, set, hold).is_empty()
    }

    /// What the client lacks, and what it has to drop.
    fn difference(&self, mode: Mode, ty: &TypeUrl, set: &ResourceSet, hold: bool) -> Difference {
        let mut difference = Difference::default();
        let lacks =
            |r: &Arc<Resource>| self.force.contains(&r.name) || self.sent.get(&r.name) != Some(&r.version);
        if self.wildcard {
            difference
                .changed
                .extend(set.iter().filter(|r| lacks(r)).cloned());
        } else {
            let wanted = self.names.iter().filter_map(|n| set.member(n));
            difference.changed.extend(wanted.filter(|r| lacks(r)).cloned());
        }
        // State of the world has no word for the removal of a resource that is asked for by name.
        if mode == Mode::Delta || ty.is_full_state() {
            for name in self
                .sent
                .keys()
                .filter(|n| self.wants(n) && set.member(n).is_none())
            {
                if hold && (mode == Mode::Delta || self.held.contains_key(name)) {
                    difference.withheld = true;
                } else {
                    difference.removed.push(name.clone());
                }
            }
            let unknown = self
                .gone
                .iter()
                .filter(|n| set.member(n).is_none() && !self.sent.contains_key(*n));
            difference.removed.extend(unknown.cloned());
        }
        difference
    }

    /// Makes the next response and notes what the client has after it.
    fn take(
        &mut self,
        mode: Mode,
        ty: &TypeUrl,
        set: &ResourceSet,
        hold: bool,
        limits: &Limits,
    ) -> Option<(Version, Difference)> {
        if !self.owed && self.clean == Some(set.version()) {
            return None;
        }
        let mut difference = self.difference(mode, ty, set, hold);
        if !self.owed && difference.is_empty() {
            if !difference.withheld {
                self.clean = Some(set.version());
                self.held.clear();
            }
            return None;
        }
        self.clean = None;
        let again = std::mem::take(&mut self.retry);
        for name in again {
            let known = difference.changed.iter().any(|r| r.name == name);
            if let Some(resource) = set.member(&name).filter(|_| !known && self.wants(&name)) {
                difference.changed.push(resource.clone());
            }
        }
        for name in &difference.removed {
            self.sent.remove(name);
            self.held.remove(name);
            self.gone.remove(name);
        }
        if mode == Mode::Sotw && ty.is_full_state() {
            // Nothing is split: a missing resource is a removed one.
            let mut whole: Vec<_> = set.iter().filter(|r| self.wants(&r.name)).cloned().collect();
            if hold {
                whole.extend(self.held.values().cloned());
            }
            for resource in &whole {
                self.sent.insert(resource.name.clone(), resource.version);
            }
            self.force.clear();
            self.owed = false;
            let version = ResourceSet::new(whole.iter().cloned()).version();
            return Some((
                version,
                Difference {
                    changed: whole,
                    ..Difference::default()
                },
            ));
        }
        let mut bytes = 0;
        let fit = difference
            .changed
            .iter()
            .take_while(|r| {
                let fits = bytes == 0 || bytes + r.body.value.len() <= limits.response_bytes;
                bytes += r.body.value.len().max(1);
                fits
            })
            .count();
        difference.changed.truncate(fit);
        for resource in &difference.changed {
            self.sent.insert(resource.name.clone(), resource.version);
            self.force.remove(&resource.name);
            self.gone.remove(&resource.name);
        }
        self.owed = false;
        Some((set.version(), difference))
    }
}

/// Types between which references run, so that their order matters.
fn is_ordered(ty: &TypeUrl) -> bool {
    matches!(ty, TypeUrl::Cds | TypeUrl::Eds | TypeUrl::Lds | TypeUrl::Rds)
}

fn cut(mut text: String, limit: usize) -> String {
    if text.len() > limit {
        let end = (0..=limit).rev().find(|i| text.is_char_boundary(*i)).unwrap_or(0);
        text.truncate(end);
    }
    text
}
