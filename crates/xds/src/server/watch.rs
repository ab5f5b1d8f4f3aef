//! A subscription to one type: what is wanted, what the client has, and so what it lacks.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::report::Limits;
use crate::resource::{Resource, ResourceSet, TypeUrl, Version};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    Sotw,
    Delta,
}

/// How much of a type may travel now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scope {
    /// Everything that is new.
    All,
    /// While clusters wait for their answer (or listeners, for routes), only what the client asked for: it
    /// may give that answer only when it has the endpoints of those clusters ("Resource warming").
    Asked,
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
    pub retry: BTreeSet<Arc<str>>,
    /// A response is owed, even an empty one.
    pub owed: bool,
    /// Version of the state for which nothing was left to send.
    pub clean: Option<Version>,
    /// Response that waits for its answer.
    pub outstanding: Option<Outstanding>,
    /// Clusters that went away, repeated in complete responses until listeners and routes no longer name
    /// them (state of the world; delta withholds the removal and needs no bodies).
    pub held: BTreeMap<Arc<str>, Arc<Resource>>,
    /// A cluster was sent: the next request for endpoints is answered in full, because Envoy drops and
    /// asks again for the endpoints of a cluster that changed, without saying so (state of the world).
    pub rewarm: bool,
    pub last: Option<(Version, String)>,
    pub acked: Option<(Version, String)>,
    pub error: Option<String>,
}

#[derive(Debug)]
pub(super) struct Outstanding {
    pub nonce: String,
    pub version: Version,
    pub names: Vec<Arc<str>>,
}

/// What a watch has to send.
#[derive(Debug, Default)]
pub(super) struct Difference {
    pub changed: Vec<Arc<Resource>>,
    pub removed: Vec<Arc<str>>,
    /// Whether removals are left out that have to wait.
    withheld: bool,
}

impl Difference {
    fn is_empty(&self) -> bool {
        self.changed.is_empty() && self.removed.is_empty()
    }
}

impl Watch {
    pub fn new() -> Self {
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

    pub fn has_news(&self, mode: Mode, ty: &TypeUrl, set: &ResourceSet, hold: bool) -> bool {
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
    pub fn take(
        &mut self,
        mode: Mode,
        ty: &TypeUrl,
        set: &ResourceSet,
        hold: bool,
        scope: Scope,
        limits: &Limits,
    ) -> Option<(Version, Difference)> {
        if !self.owed && self.clean == Some(set.version()) {
            return None;
        }
        let mut difference = self.difference(mode, ty, set, hold);
        if scope == Scope::Asked {
            difference.changed.retain(|r| self.force.contains(&r.name));
            difference.removed.retain(|name| self.gone.contains(name));
            if difference.is_empty() && !self.owed {
                return None;
            }
        }
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
