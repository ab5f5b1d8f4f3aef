//! The resources of one type: what is held, and what was refused.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;

use isthmus_xds::envoy::Any;

/// A resource in its last good version.
#[derive(Debug)]
pub struct Held<T> {
    /// Version of the resource.
    pub version: Arc<str>,
    /// When this version came.
    pub updated: SystemTime,
    /// The message as it came, for `/config_dump`; empty where it holds a private key.
    pub body: Any,
    /// What it says.
    pub value: Arc<T>,
    /// Part of the bootstrap: no control plane changes it.
    pub fixed: bool,
}

/// A version that was refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// Version of the refused resource.
    pub version: Arc<str>,
    /// When it came.
    pub at: SystemTime,
    /// Field and reason.
    pub reason: String,
}

/// All resources of one type.
#[derive(Debug)]
pub struct Store<T> {
    held: BTreeMap<Arc<str>, Held<T>>,
    refused: BTreeMap<Arc<str>, Refused>,
    /// The server's version of the whole type.
    pub version: String,
    /// Whether an update of this type has come at all.
    pub received: bool,
}

impl<T> Default for Store<T> {
    fn default() -> Self {
        Self {
            held: BTreeMap::new(),
            refused: BTreeMap::new(),
            version: String::new(),
            received: false,
        }
    }
}

impl<T> Store<T> {
    /// The resource of this name.
    pub fn held(&self, name: &str) -> Option<&Held<T>> {
        self.held.get(name)
    }

    /// What it says.
    pub fn value(&self, name: &str) -> Option<&Arc<T>> {
        self.held.get(name).map(|h| &h.value)
    }

    /// All, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&Arc<str>, &Held<T>)> {
        self.held.iter()
    }

    /// What was refused and has not been mended or removed since.
    pub fn refused(&self) -> &BTreeMap<Arc<str>, Refused> {
        &self.refused
    }

    /// Takes a good version.
    pub fn accept(&mut self, name: Arc<str>, held: Held<T>) {
        self.refused.remove(&name);
        self.held.insert(name, held);
    }

    /// The same content came under another version.
    pub fn same(&mut self, name: &str, version: &Arc<str>) {
        self.refused.remove(name);
        if let Some(held) = self.held.get_mut(name) {
            held.version = version.clone();
        }
    }

    /// Notes a bad version; the last good one stays.
    pub fn refuse(&mut self, name: Arc<str>, refused: Refused) {
        self.refused.insert(name, refused);
    }

    /// Forgets a resource; one of the bootstrap stays.
    pub fn remove(&mut self, name: &str) {
        self.refused.remove(name);
        if self.held.get(name).is_some_and(|h| !h.fixed) {
            self.held.remove(name);
        }
    }

    /// Forgets everything that `wanted` says no to.
    pub fn retain(&mut self, wanted: impl Fn(&str) -> bool) {
        self.held.retain(|name, h| h.fixed || wanted(name));
        self.refused.retain(|name, _| wanted(name));
    }
}

impl<T> Store<T> {
    /// Makes all that is held part of the bootstrap.
    pub(super) fn fix_all(&mut self) {
        for held in self.held.values_mut() {
            held.fixed = true;
        }
    }

    /// Drops the messages, which hold private keys.
    pub(super) fn forget_bodies(&mut self) {
        for held in self.held.values_mut() {
            held.body = Any::default();
        }
    }
}
