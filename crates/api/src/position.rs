//! The line of every field of an object, kept small: twelve bytes a field.

use crate::yaml::{Node, Value};

/// Lines of an object's fields, found by path (`spec.http[0].route[1].destination.host`).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Positions {
    /// The tree in pre-order.
    entries: Box<[Entry]>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Entry {
    line: u32,
    /// Entries of the subtree, this one included.
    size: u32,
    /// Hash of the field's camelCase name; list items have none and are counted.
    name: u32,
}

impl Positions {
    /// Remembers the lines of a tree.
    pub fn of(node: &Node) -> Self {
        let mut entries = Vec::new();
        if node.line != 0 {
            append(node, 0, node.line, &mut entries);
        }
        Self {
            entries: entries.into_boxed_slice(),
        }
    }

    /// The same fields, further down: a text that stands within another.
    #[must_use]
    pub fn shifted(mut self, lines: u32) -> Self {
        for entry in &mut self.entries {
            entry.line = entry.line.saturating_add(lines);
        }
        self
    }

    /// The line of a field, or of the nearest enclosing field that is written; 0 when nothing is known.
    pub fn line(&self, path: &str) -> u32 {
        let Some(root) = self.entries.first() else {
            return 0;
        };
        let mut at = 0;
        let mut line = root.line;
        for step in steps(path) {
            let Some(next) = self.child(at, step) else {
                break;
            };
            at = next;
            line = self.entries[at].line;
        }
        line
    }

    fn child(&self, at: usize, step: Step<'_>) -> Option<usize> {
        let end = at + self.entries[at].size as usize;
        let mut child = at + 1;
        let mut index = 0;
        while child < end {
            let found = match step {
                Step::Index(wanted) => index == wanted,
                Step::Name(name) => self.entries[child].name == hash(name),
            };
            if found {
                return Some(child);
            }
            index += 1;
            child += self.entries[child].size as usize;
        }
        None
    }
}

fn append(node: &Node, name: u32, line: u32, entries: &mut Vec<Entry>) {
    let at = entries.len();
    entries.push(Entry { line, size: 1, name });
    match &node.value {
        Value::Scalar(_) => {}
        Value::Sequence(items) => {
            for item in items {
                append(item, 0, item.line, entries);
            }
        }
        Value::Mapping(fields) => {
            for (key, value) in fields {
                append(value, hash(&key.text), key.line, entries);
            }
        }
    }
    entries[at].size = u32::try_from(entries.len() - at).unwrap_or(u32::MAX);
}

#[derive(Clone, Copy)]
enum Step<'a> {
    Name(&'a str),
    Index(usize),
}

/// `a.b[3]["x.y"]` to its steps.
fn steps(path: &str) -> impl Iterator<Item = Step<'_>> {
    let mut rest = path;
    std::iter::from_fn(move || {
        rest = rest.strip_prefix('.').unwrap_or(rest);
        if rest.is_empty() {
            return None;
        }
        if let Some(quoted) = rest.strip_prefix("[\"") {
            let (name, tail) = quoted.split_once("\"]").unwrap_or((quoted, ""));
            rest = tail;
            return Some(Step::Name(name));
        }
        if let Some(bracket) = rest.strip_prefix('[') {
            let (index, tail) = bracket.split_once(']').unwrap_or((bracket, ""));
            rest = tail;
            return Some(index.parse().map_or(Step::Name(index), Step::Index));
        }
        let end = rest.find(['.', '[']).unwrap_or(rest.len());
        let (name, tail) = rest.split_at(end);
        rest = tail;
        Some(Step::Name(name))
    })
}

/// FNV-1a over the name without underscores and case, so that `snake_case` is found as `camelCase`.
fn hash(name: &str) -> u32 {
    name.bytes().filter(|b| *b != b'_').fold(0x811c_9dc5, |h, b| {
        (h ^ u32::from(b.to_ascii_lowercase())).wrapping_mul(0x0100_0193)
    })
}
