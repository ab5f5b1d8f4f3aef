//! The last good objects of one cluster.

use std::collections::BTreeMap;
use std::sync::Arc;

use isthmus_api::finding::Finding;
use isthmus_api::object::{Object, ObjectKey};
use isthmus_api::source::Change;
use isthmus_api::{Kind, Typed};

/// Objects by kind, namespace and name, and what is wrong with their files.
#[derive(Debug, Clone, Default)]
pub struct Store {
    objects: BTreeMap<ObjectKey, Arc<Object>>,
    findings: BTreeMap<Arc<str>, Vec<Finding>>,
    synced: bool,
}

impl Store {
    /// Takes over one change; the key of the object that it really changed.
    pub fn apply(&mut self, change: Change) -> Option<ObjectKey> {
        match change {
            Change::Put(object) => {
                let key = object.key();
                let same = self
                    .objects
                    .get(&key)
                    .is_some_and(|old| old.same_meaning(&object));
                // The new lines and status are taken over even when nothing else is new.
                self.objects.insert(key.clone(), object);
                (!same).then_some(key)
            }
            Change::Delete(key) => self.objects.remove(&key).map(|_| key),
            Change::Findings { scope, findings } => {
                if findings.is_empty() {
                    self.findings.remove(&scope);
                } else {
                    self.findings.insert(scope, findings);
                }
                None
            }
            Change::Synced => {
                self.synced = true;
                None
            }
        }
    }

    /// Whether everything that existed at the start has been read.
    pub fn is_synced(&self) -> bool {
        self.synced
    }

    /// Objects of one kind, by namespace and name.
    pub fn iter<T: Typed>(&self) -> impl Iterator<Item = (&Arc<Object>, &Arc<T>)> {
        let first = ObjectKey {
            kind: T::KIND,
            namespace: String::new(),
            name: String::new(),
        };
        self.objects
            .range(first..)
            .take_while(|(key, _)| key.kind == T::KIND)
            .filter_map(|(_, object)| Some((object, object.typed::<T>()?)))
    }

    /// One object.
    pub fn object(&self, kind: Kind, namespace: &str, name: &str) -> Option<&Arc<Object>> {
        self.objects.get(&ObjectKey {
            kind,
            namespace: namespace.to_owned(),
            name: name.to_owned(),
        })
    }

    /// Every object, by kind, namespace and name.
    pub fn objects(&self) -> impl Iterator<Item = &Arc<Object>> {
        self.objects.values()
    }

    /// What is wrong with the files, each by itself.
    pub fn findings(&self) -> impl Iterator<Item = &Finding> {
        self.findings.values().flatten()
    }
}
