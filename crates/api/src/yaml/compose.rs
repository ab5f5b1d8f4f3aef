//! Builds nodes from the YAML reader's events, with anchors, merge keys and bounds.

use std::collections::{HashMap, HashSet};

use serde_saphyr::granit_parser::{Event, Options, Parser, ScalarStyle, Tag};

use super::split::Chunk;
use super::{Key, Limits, Malformed, Node, Scalar, ScalarKind, Value, scalar};

/// Reads the documents of one chunk and appends each, or the reason why it could not be read.
pub(super) fn compose(chunk: Chunk<'_>, limits: &Limits, found: &mut Vec<Result<Node, Malformed>>) {
    let mut options = Options::default();
    options.set_emit_comments(false);
    let parser = Parser::new_from_str_with_options(chunk.text, options);
    let line = |marker: &serde_saphyr::granit_parser::Marker| {
        let within = u32::try_from(marker.line().max(1) - 1).unwrap_or(u32::MAX);
        chunk.first_line.saturating_add(within)
    };
    let mut composer = Composer::new(limits);
    for event in parser {
        let step = match event {
            Ok((event, span)) => composer.take(event, line(&span.start)),
            Err(e) => Err(Malformed {
                line: line(e.marker()),
                message: e.info(),
                remedy: "correct the YAML; indentation, quotes and colons are the usual causes",
            }),
        };
        match step {
            Ok(None) => {}
            Ok(Some(node)) => {
                if !node.is_null() {
                    found.push(Ok(node));
                }
                composer = Composer::new(limits);
            }
            Err(malformed) => {
                found.push(Err(malformed));
                return;
            }
        }
    }
}

/// A list or mapping that is still open.
enum Open {
    Sequence {
        line: u32,
        anchor: usize,
        items: Vec<Node>,
    },
    Mapping {
        line: u32,
        anchor: usize,
        entries: Vec<(Key, Node)>,
        key: Option<Key>,
        merged: Vec<(Key, Node)>,
    },
}

/// What an alias costs each time it is used.
#[derive(Clone, Copy, Default)]
struct Weight {
    nodes: usize,
    bytes: usize,
}

struct Composer<'l> {
    limits: &'l Limits,
    open: Vec<Open>,
    anchors: HashMap<usize, (Node, Weight)>,
    spent: Weight,
    root: Option<Node>,
}

impl<'l> Composer<'l> {
    fn new(limits: &'l Limits) -> Self {
        Self {
            limits,
            open: Vec::new(),
            anchors: HashMap::new(),
            spent: Weight::default(),
            root: None,
        }
    }

    /// Takes one event; gives the document when it is complete.
    fn take(&mut self, event: Event<'_>, line: u32) -> Result<Option<Node>, Malformed> {
        match event {
            Event::Scalar(text, style, anchor, tag) => {
                self.spend(
                    Weight {
                        nodes: 1,
                        bytes: text.len(),
                    },
                    line,
                )?;
                let kind = match (style, tag.as_deref().and_then(Tag::core_suffix)) {
                    (_, Some("str" | "binary")) => ScalarKind::Text,
                    (ScalarStyle::Plain, _) | (_, Some(_)) => scalar::resolve(&text),
                    _ => ScalarKind::Text,
                };
                let value = Value::Scalar(Scalar {
                    text: text.into(),
                    kind,
                });
                self.place(Node { line, value }, anchor)?;
            }
            Event::SequenceStart(_, anchor, _) => {
                self.enter(line)?;
                self.open.push(Open::Sequence {
                    line,
                    anchor,
                    items: Vec::new(),
                });
            }
            Event::MappingStart(_, anchor, _) => {
                self.enter(line)?;
                self.open.push(Open::Mapping {
                    line,
                    anchor,
                    entries: Vec::new(),
                    key: None,
                    merged: Vec::new(),
                });
            }
            Event::SequenceEnd | Event::MappingEnd => self.close()?,
            Event::Alias(id) => {
                let Some((node, weight)) = self.anchors.get(&id) else {
                    return Err(Malformed {
                        line,
                        message: "an alias stands inside the value that it names".into(),
                        remedy: "write the value out",
                    });
                };
                let weight = *weight;
                // Copied only once the budget is known to allow it.
                let copy = self.affords(weight).then(|| node.clone());
                self.spend(weight, line)?;
                let Some(mut node) = copy else {
                    return Err(too_large(line, self.limits));
                };
                node.line = line;
                self.place(node, 0)?;
            }
            Event::DocumentEnd => return Ok(self.root.take()),
            _ => {}
        }
        Ok(None)
    }

    fn enter(&mut self, line: u32) -> Result<(), Malformed> {
        if self.open.len() >= self.limits.depth {
            return Err(Malformed {
                line,
                message: format!(
                    "lists and mappings are nested more than {} deep",
                    self.limits.depth
                ),
                remedy: "no resource needs that; flatten it",
            });
        }
        self.spend(Weight { nodes: 1, bytes: 0 }, line)
    }

    fn spend(&mut self, weight: Weight, line: u32) -> Result<(), Malformed> {
        self.spent.nodes = self.spent.nodes.saturating_add(weight.nodes);
        self.spent.bytes = self.spent.bytes.saturating_add(weight.bytes);
        if self.spent.nodes > self.limits.nodes || self.spent.bytes > self.limits.scalar_bytes {
            return Err(too_large(line, self.limits));
        }
        Ok(())
    }

    fn affords(&self, weight: Weight) -> bool {
        self.spent.nodes.saturating_add(weight.nodes) <= self.limits.nodes
            && self.spent.bytes.saturating_add(weight.bytes) <= self.limits.scalar_bytes
    }

    fn close(&mut self) -> Result<(), Malformed> {
        let (node, anchor) = match self.open.pop() {
            Some(Open::Sequence { line, anchor, items }) => (
                Node {
                    line,
                    value: Value::Sequence(items),
                },
                anchor,
            ),
            Some(Open::Mapping {
                line,
                anchor,
                mut entries,
                merged,
                ..
            }) => {
                let mut seen: HashSet<Box<str>> = HashSet::with_capacity(entries.len());
                for (key, _) in &entries {
                    if !seen.insert(key.text.clone()) {
                        return Err(Malformed {
                            line: key.line,
                            message: format!("the field {:?} is set twice in the same mapping", key.text),
                            remedy: "keep one of them",
                        });
                    }
                }
                for (key, node) in merged {
                    if seen.insert(key.text.clone()) {
                        entries.push((key, node));
                    }
                }
                (
                    Node {
                        line,
                        value: Value::Mapping(entries),
                    },
                    anchor,
                )
            }
            None => return Ok(()),
        };
        self.place(node, anchor)
    }

    /// Puts a finished node where it belongs: in its parent, or at the root.
    fn place(&mut self, node: Node, anchor: usize) -> Result<(), Malformed> {
        if anchor != 0 {
            let weight = weigh(&node);
            // The copy kept for aliases costs as much as a use.
            self.spend(weight, node.line)?;
            self.anchors.insert(anchor, (node.clone(), weight));
        }
        match self.open.last_mut() {
            None => self.root = Some(node),
            Some(Open::Sequence { items, .. }) => items.push(node),
            Some(Open::Mapping {
                entries, key, merged, ..
            }) => match key.take() {
                None => {
                    let line = node.line;
                    let Value::Scalar(scalar) = node.value else {
                        return Err(Malformed {
                            line,
                            message: "a list or mapping stands where a field name belongs".into(),
                            remedy: "quote the text if it begins with { or [; render the template if this is one",
                        });
                    };
                    *key = Some(Key {
                        text: scalar.text,
                        line,
                    });
                }
                Some(k) if &*k.text == "<<" => merge(node, merged)?,
                Some(k) => entries.push((k, node)),
            },
        }
        Ok(())
    }
}

/// YAML 1.1 merge key: the first value wins, and what is written out wins over what is merged.
fn merge(node: Node, merged: &mut Vec<(Key, Node)>) -> Result<(), Malformed> {
    match node.value {
        Value::Mapping(entries) => merged.extend(entries),
        Value::Sequence(items) => {
            for item in items {
                match item.value {
                    Value::Mapping(entries) => merged.extend(entries),
                    _ => return Err(not_a_mapping(item.line)),
                }
            }
        }
        Value::Scalar(_) => return Err(not_a_mapping(node.line)),
    }
    Ok(())
}

fn not_a_mapping(line: u32) -> Malformed {
    Malformed {
        line,
        message: "`<<` merges something that is not a mapping".into(),
        remedy: "name the anchor of a mapping",
    }
}

fn too_large(line: u32, limits: &Limits) -> Malformed {
    Malformed {
        line,
        message: format!(
            "the document has more than {} values or {} bytes, counting what its aliases stand for",
            limits.nodes, limits.scalar_bytes
        ),
        remedy: "split it, or use fewer aliases",
    }
}

fn weigh(node: &Node) -> Weight {
    match &node.value {
        Value::Scalar(s) => Weight {
            nodes: 1,
            bytes: s.text.len(),
        },
        Value::Sequence(items) => items.iter().map(weigh).fold(Weight { nodes: 1, bytes: 0 }, add),
        Value::Mapping(entries) => entries.iter().fold(Weight { nodes: 1, bytes: 0 }, |sum, (k, v)| {
            add(
                add(
                    sum,
                    Weight {
                        nodes: 1,
                        bytes: k.text.len(),
                    },
                ),
                weigh(v),
            )
        }),
    }
}

fn add(a: Weight, b: Weight) -> Weight {
    Weight {
        nodes: a.nodes.saturating_add(b.nodes),
        bytes: a.bytes.saturating_add(b.bytes),
    }
}
