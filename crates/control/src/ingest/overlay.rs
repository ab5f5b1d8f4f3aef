//! Several sources as one: where two have the same object, the later source's counts.
//!
//! A cluster in directories has two: what users wrote, and what Kubernetes would have made of it (a Service
//! with its address). Over an API server there is one, and this passes everything through.

use std::collections::HashMap;
use std::sync::Arc;

use isthmus_api::source::Change;
use isthmus_api::{Object, ObjectKey};

/// The objects of every source.
#[derive(Debug)]
pub struct Overlay {
    layers: Vec<HashMap<ObjectKey, Arc<Object>>>,
}

impl Overlay {
    /// One for this many sources.
    pub fn new(layers: usize) -> Self {
        Self {
            layers: vec![HashMap::new(); layers],
        }
    }

    /// What the changes of one source (by number, from 0) mean for the whole.
    pub fn apply(&mut self, layer: usize, changes: Vec<Change>) -> Vec<Change> {
        if self.layers.len() < 2 {
            return changes;
        }
        changes
            .into_iter()
            .filter_map(|change| self.one(layer, change))
            .collect()
    }

    fn one(&mut self, layer: usize, change: Change) -> Option<Change> {
        match change {
            Change::Put(object) => {
                let key = object.key();
                self.layers
                    .get_mut(layer)?
                    .insert(key.clone(), Arc::clone(&object));
                (!self.hidden(layer, &key)).then_some(Change::Put(object))
            }
            Change::Delete(key) => {
                self.layers.get_mut(layer)?.remove(&key);
                if self.hidden(layer, &key) {
                    return None;
                }
                let below = self.layers[..layer].iter().rev().find_map(|l| l.get(&key));
                Some(match below {
                    Some(object) => Change::Put(Arc::clone(object)),
                    None => Change::Delete(key),
                })
            }
            other => Some(other),
        }
    }

    /// Whether a later source has an object of this key.
    fn hidden(&self, layer: usize, key: &ObjectKey) -> bool {
        self.layers.iter().skip(layer + 1).any(|l| l.contains_key(key))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(address: &str) -> Arc<Object> {
        let yaml = format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: a, namespace: b}}\nspec: {{clusterIP: '{address}', ports: [{{port: 80}}]}}\n"
        );
        Arc::clone(&isthmus_api::parse(&yaml, "a.yaml").objects[0])
    }

    fn put(overlay: &mut Overlay, layer: usize, object: &Arc<Object>) -> usize {
        overlay.apply(layer, vec![Change::Put(Arc::clone(object))]).len()
    }

    #[test]
    fn the_later_source_counts_in_whatever_order_they_speak() {
        let (written, completed) = (service(""), service("10.0.0.1"));
        let mut overlay = Overlay::new(2);
        assert_eq!(put(&mut overlay, 0, &written), 1);
        assert_eq!(put(&mut overlay, 1, &completed), 1);
        assert_eq!(put(&mut overlay, 0, &written), 0, "hidden by the later one");

        let back = overlay.apply(1, vec![Change::Delete(completed.key())]);
        assert!(
            matches!(&back[..], [Change::Put(o)] if Arc::ptr_eq(o, &written)),
            "{back:?}"
        );
        let gone = overlay.apply(0, vec![Change::Delete(written.key())]);
        assert!(matches!(&gone[..], [Change::Delete(_)]), "{gone:?}");
        assert!(matches!(
            &overlay.apply(0, vec![Change::Synced])[..],
            [Change::Synced]
        ));
    }
}
