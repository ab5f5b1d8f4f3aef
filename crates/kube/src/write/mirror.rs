//! What is there now, followed by a watch.

use std::collections::BTreeMap;

use kube::Resource;
use kube::runtime::watcher::Event;

/// Something of each object, by namespace and name.
pub struct Mirror<V> {
    now: BTreeMap<(String, String), V>,
    /// What a list that is not complete yet has shown.
    coming: BTreeMap<(String, String), V>,
    /// Whether everything has been seen.
    pub complete: bool,
}

impl<V> Default for Mirror<V> {
    fn default() -> Self {
        Self {
            now: BTreeMap::new(),
            coming: BTreeMap::new(),
            complete: false,
        }
    }
}

impl<V> Mirror<V> {
    /// Takes over an event; `of` is what is remembered of an object.
    pub fn take<K: Resource>(&mut self, event: Event<K>, of: impl Fn(K) -> V) {
        match event {
            Event::Init => self.coming.clear(),
            Event::InitApply(object) => drop(self.coming.insert(key(&object), of(object))),
            Event::InitDone => {
                self.now = std::mem::take(&mut self.coming);
                self.complete = true;
            }
            Event::Apply(object) => drop(self.now.insert(key(&object), of(object))),
            Event::Delete(object) => drop(self.now.remove(&key(&object))),
        }
    }

    pub fn get(&self, namespace: &str, name: &str) -> Option<&V> {
        self.now.get(&(namespace.to_owned(), name.to_owned()))
    }

    /// What we have made ourselves and shall hear of.
    pub fn expect(&mut self, namespace: &str, name: &str, value: V) {
        self.now.insert((namespace.to_owned(), name.to_owned()), value);
    }

    pub fn iter(&self) -> impl Iterator<Item = (&(String, String), &V)> {
        self.now.iter()
    }
}

fn key<K: Resource>(object: &K) -> (String, String) {
    let meta = object.meta();
    (
        meta.namespace.clone().unwrap_or_default(),
        meta.name.clone().unwrap_or_default(),
    )
}
