//! Several sources as one: where two have the same object, the later source's content counts, and the
//! earlier source's file and lines.
//!
//! A cluster in directories has two: what users wrote, and what Kubernetes would have made of it (a Service
//! with its address). What is found out about such an object is of use to a user only at the place that the
//! user wrote. Over an API server there is one source, and this passes everything through.

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
        let key = match change {
            Change::Put(object) => {
                let key = object.key();
                self.layers.get_mut(layer)?.insert(key.clone(), object);
                key
            }
            Change::Delete(key) => {
                self.layers.get_mut(layer)?.remove(&key)?;
                key
            }
            other @ (Change::Findings { .. } | Change::Synced) => return Some(other),
        };
        Some(match self.whole(&key) {
            Some(object) => Change::Put(object),
            None => Change::Delete(key),
        })
    }

    /// The object as all sources together have it.
    fn whole(&self, key: &ObjectKey) -> Option<Arc<Object>> {
        let mut all = self.layers.iter().filter_map(|layer| layer.get(key));
        let first = all.next()?;
        let Some(last) = all.next_back() else {
            return Some(Arc::clone(first));
        };
        Some(Arc::new(Object {
            origin: first.origin.clone(),
            positions: first.positions.clone(),
            ..(**last).clone()
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(file: &str, address: &str) -> Arc<Object> {
        let yaml = format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: a, namespace: b}}\nspec: {{clusterIP: '{address}', ports: [{{port: 80}}]}}\n"
        );
        Arc::clone(&isthmus_api::parse(&yaml, file).objects[0])
    }

    fn put(overlay: &mut Overlay, layer: usize, object: &Arc<Object>) -> (String, Arc<Object>) {
        match &overlay.apply(layer, vec![Change::Put(Arc::clone(object))])[..] {
            [Change::Put(o)] => (o.origin.file.to_string(), Arc::clone(o)),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_later_content_counts_at_the_earlier_place_in_whatever_order_they_speak() {
        let (written, completed) = (service("user.yaml", ""), service("state.json", "10.0.0.1"));
        let mut overlay = Overlay::new(2);
        assert_eq!(put(&mut overlay, 1, &completed).0, "state.json");
        for (layer, object) in [(0, &written), (1, &completed), (0, &written)] {
            let (file, whole) = put(&mut overlay, layer, object);
            assert_eq!(file, "user.yaml");
            assert!(whole.same_content(&completed));
        }

        let back = overlay.apply(1, vec![Change::Delete(completed.key())]);
        assert!(
            matches!(&back[..], [Change::Put(o)] if Arc::ptr_eq(o, &written)),
            "{back:?}"
        );
        let gone = overlay.apply(0, vec![Change::Delete(written.key())]);
        assert!(matches!(&gone[..], [Change::Delete(_)]), "{gone:?}");
        assert!(overlay.apply(0, vec![Change::Delete(written.key())]).is_empty());
        assert!(matches!(
            &overlay.apply(0, vec![Change::Synced])[..],
            [Change::Synced]
        ));
    }
}
