//! From parsed files to changes of objects: which file an object comes from, and what stays in force.
//!
//! No file system. An object that stands in several files comes from the first by path, so that a restart
//! sees the same as a long-lived process.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use isthmus_api::finding::Finding;
use isthmus_api::object::{Object, ObjectKey};
use isthmus_api::source::Change;
use isthmus_api::{Parsed, codes, parse::duplicate};

/// What a file turned out to be.
#[derive(Debug)]
pub(super) enum Observed {
    /// It was read, perhaps with errors.
    Parsed(Parsed),
    /// It is not there any more.
    Gone,
}

/// The objects of every file.
#[derive(Debug, Default)]
pub(super) struct Tree {
    files: BTreeMap<Arc<str>, File>,
    /// Every object by key, with the files that hold it.
    claims: BTreeMap<ObjectKey, BTreeMap<Arc<str>, Arc<Object>>>,
    /// Findings by file, as last told.
    told: BTreeMap<Arc<str>, Vec<Finding>>,
}

#[derive(Debug, Default)]
struct File {
    keys: BTreeSet<ObjectKey>,
    /// What is wrong with the file itself.
    findings: Vec<Finding>,
}

impl Tree {
    /// Takes in files that were read together; what changed by that.
    pub(super) fn apply(&mut self, observed: Vec<(Arc<str>, Observed)>) -> Vec<Change> {
        if observed.is_empty() {
            return Vec::new();
        }
        let mut touched: BTreeSet<ObjectKey> = BTreeSet::new();
        let mut files: BTreeSet<Arc<str>> = BTreeSet::new();
        let mut before: BTreeMap<ObjectKey, Arc<Object>> = BTreeMap::new();
        for (name, seen) in observed {
            let (objects, findings) = self.in_force(&name, seen);
            let old = self.files.remove(&name).unwrap_or_default();
            for key in old.keys.iter().chain(objects.keys()) {
                if touched.insert(key.clone())
                    && let Some(object) = self.winner(key)
                {
                    before.insert(key.clone(), Arc::clone(object));
                }
            }
            for key in &old.keys {
                if let Some(claims) = self.claims.get_mut(key) {
                    claims.remove(&name);
                    files.extend(claims.keys().cloned());
                }
            }
            let keys: BTreeSet<ObjectKey> = objects.keys().cloned().collect();
            for (key, object) in objects {
                let claims = self.claims.entry(key).or_default();
                files.extend(claims.keys().cloned());
                claims.insert(Arc::clone(&name), object);
            }
            if !keys.is_empty() || !findings.is_empty() {
                self.files.insert(Arc::clone(&name), File { keys, findings });
            }
            files.insert(name);
        }
        self.claims.retain(|_, claims| !claims.is_empty());

        let mut changes = Vec::new();
        for key in touched {
            match (before.get(&key), self.winner(&key)) {
                (Some(old), Some(new)) => {
                    if !(old.same_content(new) && old.origin == new.origin && old.positions == new.positions)
                    {
                        changes.push(Change::Put(Arc::clone(new)));
                    }
                }
                (None, Some(new)) => changes.push(Change::Put(Arc::clone(new))),
                (Some(_), None) => changes.push(Change::Delete(key)),
                (None, None) => {}
            }
        }
        for file in files {
            let findings = self.findings_of(&file);
            self.tell(file, findings, &mut changes);
        }
        changes
    }

    /// What is in force of a file.
    pub(super) fn objects(&self, name: &str) -> Vec<Arc<Object>> {
        let keys = self.files.get(name).into_iter().flat_map(|f| &f.keys);
        keys.filter_map(|key| self.claims.get(key)?.get(name).cloned())
            .collect()
    }

    /// The file's objects from now on: what it says, and the last good version of what it fails to say.
    fn in_force(&self, name: &Arc<str>, seen: Observed) -> (BTreeMap<ObjectKey, Arc<Object>>, Vec<Finding>) {
        let parsed = match seen {
            Observed::Gone => return (BTreeMap::new(), Vec::new()),
            Observed::Parsed(parsed) => parsed,
        };
        let mut objects: BTreeMap<_, _> = parsed.objects.into_iter().map(|o| (o.key(), o)).collect();
        let mut findings = parsed.findings;
        let mut kept = Vec::new();
        for key in self.files.get(name).iter().flat_map(|f| &f.keys) {
            // Broken YAML does not say which objects it holds: whatever is missing may be one of them.
            if objects.contains_key(key) || !(parsed.unattributed || parsed.refused.contains(key)) {
                continue;
            }
            if let Some(object) = self.claims.get(key).and_then(|claims| claims.get(name)) {
                objects.insert(key.clone(), Arc::clone(object));
                kept.push(key.to_string());
            }
        }
        if !kept.is_empty() {
            let more = kept.len().saturating_sub(5);
            kept.truncate(5);
            let more = if more > 0 {
                format!(" and {more} more")
            } else {
                String::new()
            };
            findings.push(
                Finding::new(
                    &codes::LAST_GOOD,
                    format!(
                        "the last good version stays in force of {}{more}",
                        kept.join(", ")
                    ),
                    "correct the errors of this file",
                )
                .at(name, 0),
            );
        }
        (objects, findings)
    }

    fn winner(&self, key: &ObjectKey) -> Option<&Arc<Object>> {
        self.claims.get(key)?.values().next()
    }

    /// The file's own findings, and its objects that another file has as well.
    fn findings_of(&self, name: &Arc<str>) -> Vec<Finding> {
        let Some(file) = self.files.get(name) else {
            return Vec::new();
        };
        let mut findings = file.findings.clone();
        for key in &file.keys {
            if let Some(claims) = self.claims.get(key)
                && let Some((first, winner)) = claims.first_key_value()
                && first != name
                && let Some(object) = claims.get(name)
            {
                findings.push(duplicate(object, key, &winner.origin));
            }
        }
        findings
    }

    fn tell(&mut self, scope: Arc<str>, findings: Vec<Finding>, changes: &mut Vec<Change>) {
        let before = self.told.get(&scope).map_or(&[][..], Vec::as_slice);
        if before == findings.as_slice() {
            return;
        }
        if findings.is_empty() {
            self.told.remove(&scope);
        } else {
            self.told.insert(Arc::clone(&scope), findings.clone());
        }
        changes.push(Change::Findings { scope, findings });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use isthmus_api::parse;

    fn entry(name: &str, address: &str) -> String {
        format!(
            "apiVersion: networking.istio.io/v1\nkind: WorkloadEntry\nmetadata: {{name: {name}}}\nspec: {{address: {address}}}\n"
        )
    }

    fn see(tree: &mut Tree, files: &[(&str, Option<&str>)]) -> Vec<String> {
        let observed = files.iter().map(|(name, text)| {
            let seen = text.map_or(Observed::Gone, |t| Observed::Parsed(parse(t, name)));
            (Arc::from(*name), seen)
        });
        let shown = |change: Change| match change {
            Change::Put(o) => format!("put {} from {}", o.meta.name, o.origin.file),
            Change::Delete(key) => format!("delete {}", key.name),
            Change::Findings { scope, findings } => {
                let codes: Vec<_> = findings.iter().map(|f| f.code.id).collect();
                format!("findings {scope} {}", codes.join(" "))
            }
            Change::Synced => "synced".to_owned(),
        };
        tree.apply(observed.collect()).into_iter().map(shown).collect()
    }

    #[test]
    fn only_what_changed_is_told() {
        let mut tree = Tree::default();
        let two = format!("{}---\n{}", entry("x", "10.0.0.1"), entry("y", "10.0.0.2"));
        assert_eq!(
            see(&mut tree, &[("a", Some(&two))]),
            ["put x from a", "put y from a"]
        );
        assert_eq!(see(&mut tree, &[("a", Some(&two))]), [""; 0]);
        assert_eq!(
            see(&mut tree, &[("a", Some(&two.replace("10.0.0.2", "10.0.0.3")))]),
            ["put y from a"]
        );
        assert_eq!(
            see(&mut tree, &[("a", Some(&entry("x", "10.0.0.1")))]),
            ["delete y"]
        );
        assert_eq!(see(&mut tree, &[("a", None)]), ["delete x"]);
    }

    #[test]
    fn a_rename_deletes_nothing() {
        let mut tree = Tree::default();
        see(&mut tree, &[("a", Some(&entry("x", "10.0.0.1")))]);
        assert_eq!(
            see(&mut tree, &[("a", None), ("b", Some(&entry("x", "10.0.0.1")))]),
            ["put x from b"]
        );
    }

    #[test]
    fn a_refused_document_keeps_its_last_good_version_and_its_neighbours_go_on() {
        let mut tree = Tree::default();
        let two = |x: &str, y: &str| format!("{}---\n{}", entry("x", x), entry("y", y));
        see(&mut tree, &[("a", Some(&two("10.0.0.1", "10.0.0.2")))]);
        let broken = two("10.0.0.1", "10.0.0.9").replacen("spec: {address", "spec: {adress", 1);
        assert_eq!(
            see(&mut tree, &[("a", Some(&broken))]),
            ["put y from a", "findings a IST0106 IST0106 ISM0010"]
        );
        let torn = format!("{}---\nkind: [", entry("y", "10.0.0.9"));
        assert_eq!(
            see(&mut tree, &[("a", Some(&torn))]),
            ["put y from a", "findings a ISM0001 ISM0010"]
        );
        assert_eq!(
            see(&mut tree, &[("a", Some(&two("10.0.0.1", "10.0.0.9")))]),
            ["put y from a", "findings a "],
            "x is what it was, y stands on other lines"
        );
    }

    #[test]
    fn of_two_files_the_first_by_path_counts_whichever_came_first() {
        let mut tree = Tree::default();
        see(&mut tree, &[("b", Some(&entry("x", "10.0.0.2")))]);
        assert_eq!(
            see(&mut tree, &[("a", Some(&entry("x", "10.0.0.1")))]),
            ["put x from a", "findings b ISM0005"]
        );
        assert_eq!(see(&mut tree, &[("a", None)]), ["put x from b", "findings b "]);
    }
}
