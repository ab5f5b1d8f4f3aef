//! Node tree to typed structs, with a position for everything that does not fit.
//!
//! A serde deserializer over [`Node`] with the leniency of proto JSON (snake_case names, numbers as
//! text) and the strictness of a mesh: a field that no struct knows is reported with its line and the
//! nearest name, and decoding goes on, so that one run shows every typo. A value of a wrong type ends
//! the document.

mod name;

use std::cell::RefCell;
use std::fmt;

use serde::de::{self, DeserializeOwned, DeserializeSeed, IntoDeserializer, Visitor};

use crate::suggest::nearest;
use crate::yaml::{Key, Node, ScalarKind, Value};
use name::{Name, canonical};

/// How one kind is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Strictness {
    /// What a field means that no struct knows.
    pub unknown: Unknown,
    /// Whether numbers may be written as text (proto JSON).
    pub numbers_as_text: bool,
}

/// What a field means that no struct knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unknown {
    /// An error: the user asked for something that will not happen.
    Error,
    /// A warning: another reader of the object may know it.
    Warn,
    /// Nothing: we read a part of a large object.
    Ignore,
}

/// A field that no struct knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnknownField {
    /// Line of the field's name.
    pub line: u32,
    /// Full path, as in `spec.http[0].rout`.
    pub path: String,
    /// The name as written.
    pub name: String,
    /// The known name that is nearest.
    pub meant: Option<&'static str>,
    /// Every name that is known there.
    pub known: &'static [&'static str],
}

/// A value that does not fit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Misfit {
    /// Line of the value; 0 when not known.
    pub line: u32,
    /// Full path of the field.
    pub path: String,
    /// What is wrong and what to do.
    pub message: String,
}

/// Decodes `node`, which stands at `path`; `skip` names fields that the caller reads itself.
pub fn decode<T: DeserializeOwned>(
    node: &Node,
    path: &str,
    skip: &[&str],
    strictness: Strictness,
    unknown: &mut Vec<UnknownField>,
) -> Result<T, Misfit> {
    let sink = Sink {
        strictness,
        skip,
        unknown: RefCell::new(Vec::new()),
    };
    let at = At {
        parent: None,
        segment: Segment::Root(path),
    };
    let result = T::deserialize(Decoder {
        node,
        at: &at,
        sink: &sink,
    })
    .map_err(|e| e.0.placed(node.line, &at));
    unknown.append(&mut sink.unknown.into_inner());
    result
}

struct Sink<'a> {
    strictness: Strictness,
    skip: &'a [&'a str],
    unknown: RefCell<Vec<UnknownField>>,
}

/// Where the decoder stands; lives on the stack, becomes text only when something is wrong.
struct At<'a> {
    parent: Option<&'a At<'a>>,
    segment: Segment<'a>,
}

enum Segment<'a> {
    Root(&'a str),
    Field(&'a str),
    Index(usize),
}

impl fmt::Display for At<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(parent) = self.parent {
            parent.fmt(f)?;
        }
        match self.segment {
            Segment::Root(path) => f.write_str(path),
            Segment::Index(i) => write!(f, "[{i}]"),
            Segment::Field(name) if name.contains(['.', '/', '[']) => write!(f, "[{name:?}]"),
            Segment::Field(name) => {
                let first = self.parent.is_none_or(|p| matches!(p.segment, Segment::Root("")));
                if first {
                    f.write_str(name)
                } else {
                    write!(f, ".{name}")
                }
            }
        }
    }
}

/// The error that passes through serde; unplaced until the nearest value is known.
#[derive(Debug)]
struct Problem(Misfit);

impl Misfit {
    fn placed(mut self, line: u32, at: &At<'_>) -> Self {
        if self.path.is_empty() {
            self.line = line;
            self.path = at.to_string();
        }
        self
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)
    }
}

impl std::error::Error for Problem {}

impl de::Error for Problem {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self(Misfit {
            line: 0,
            path: String::new(),
            message: message.to_string(),
        })
    }

    fn missing_field(field: &'static str) -> Self {
        Self::custom(format_args!("{field} is missing; add it"))
    }
}

struct Decoder<'a> {
    node: &'a Node,
    at: &'a At<'a>,
    sink: &'a Sink<'a>,
}

impl Decoder<'_> {
    fn problem(&self, message: impl fmt::Display) -> Problem {
        Problem(Misfit {
            line: self.node.line,
            path: self.at.to_string(),
            message: message.to_string(),
        })
    }

    fn expected(&self, what: &str) -> Problem {
        let hint = match (&self.node.value, what) {
            (Value::Scalar(s), "text") if s.kind != ScalarKind::Text => {
                format!("; put it in quotes: \"{}\"", s.text)
            }
            (Value::Scalar(s), "true or false") if matches!(&*s.text, "true" | "false") => {
                "; remove the quotes".to_owned()
            }
            (Value::Scalar(_) | Value::Mapping(_), "a list") => "; begin each item with `- `".to_owned(),
            (Value::Sequence(_), "a mapping") => "; remove the `- ` in front of its fields".to_owned(),
            _ => String::new(),
        };
        self.problem(format_args!("expected {what}, found {}{hint}", self.node))
    }

    fn integer(&self) -> Result<i64, Problem> {
        let Value::Scalar(s) = &self.node.value else {
            return Err(self.expected("a whole number"));
        };
        match s.kind {
            ScalarKind::Null => Ok(0),
            ScalarKind::Int(i) => Ok(i),
            ScalarKind::Float(f) if f.fract() == 0.0 && f.abs() < 9e15 => Ok(f as i64),
            ScalarKind::Text if self.sink.strictness.numbers_as_text => {
                s.text.parse().map_err(|_| self.expected("a whole number"))
            }
            _ => Err(self.expected("a whole number")),
        }
    }

    fn float(&self) -> Result<f64, Problem> {
        let Value::Scalar(s) = &self.node.value else {
            return Err(self.expected("a number"));
        };
        match s.kind {
            ScalarKind::Null => Ok(0.0),
            ScalarKind::Int(i) => Ok(i as f64),
            ScalarKind::Float(f) => Ok(f),
            ScalarKind::Text if self.sink.strictness.numbers_as_text => {
                s.text.parse().map_err(|_| self.expected("a number"))
            }
            _ => Err(self.expected("a number")),
        }
    }

    fn string(&self) -> Result<&str, Problem> {
        match &self.node.value {
            Value::Scalar(s) if s.kind == ScalarKind::Text => Ok(&s.text),
            Value::Scalar(s) if s.kind == ScalarKind::Null => Ok(""),
            _ => Err(self.expected("text")),
        }
    }
}

macro_rules! integers {
    ($($method:ident $visit:ident $ty:ty, $range:expr;)*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Self::Error> {
            let i = self.integer()?;
            match <$ty>::try_from(i) {
                Ok(n) => visitor.$visit(n),
                Err(_) => Err(self.problem(format_args!("{i} is out of range; write {}", $range))),
            }
        }
    )*};
}

impl<'de> de::Deserializer<'de> for Decoder<'_> {
    type Error = Problem;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Problem> {
        match &self.node.value {
            Value::Scalar(s) => match s.kind {
                ScalarKind::Null => visitor.visit_unit(),
                ScalarKind::Bool(b) => visitor.visit_bool(b),
                ScalarKind::Int(i) => visitor.visit_i64(i),
                ScalarKind::Float(f) => visitor.visit_f64(f),
                ScalarKind::Text => visitor.visit_str(&s.text),
            },
            Value::Sequence(_) => self.deserialize_seq(visitor),
            Value::Mapping(_) => self.deserialize_map(visitor),
        }
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Problem> {
        match &self.node.value {
            Value::Scalar(s) => match s.kind {
                ScalarKind::Bool(b) => visitor.visit_bool(b),
                ScalarKind::Null => visitor.visit_bool(false),
                _ => Err(self.expected("true or false")),
            },
            _ => Err(self.expected("true or false")),
        }
    }

    integers! {
        deserialize_i8 visit_i8 i8, "-128 to 127";
        deserialize_i16 visit_i16 i16, "-32768 to 32767";
        deserialize_i32 visit_i32 i32, "a number that fits in 32 bits";
        deserialize_i64 visit_i64 i64, "a number that fits in 64 bits";
        deserialize_u8 visit_u8 u8, "0 to 255";
        // The only 16-bit numbers of these APIs are ports.
        deserialize_u16 visit_u16 u16, "a port from 1 to 65535";
        deserialize_u32 visit_u32 u32, "a number from 0 to 4294967295";
        deserialize_u64 visit_u64 u64, "a number that is not negative";
    }

    fn deserialize_f32<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Problem> {
        visitor.visit_f32(self.float()? as f32)
    }

    fn deserialize_f64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Problem> {
        visitor.visit_f64(self.float()?)
    }

    fn deserialize_char<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Problem> {
        self.deserialize_str(visitor)
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Problem> {
        visitor.visit_str(self.string()?)
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Problem> {
        self.deserialize_str(visitor)
    }

    fn deserialize_bytes<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Problem> {
        self.deserialize_str(visitor)
    }

    fn deserialize_byte_buf<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Problem> {
        self.deserialize_str(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Problem> {
        if self.node.is_null() {
            visitor.visit_none()
        } else {
            visitor.visit_some(self)
        }
    }

    fn deserialize_unit<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Problem> {
        visitor.visit_unit()
    }

    fn deserialize_unit_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Problem> {
        visitor.visit_unit()
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Problem> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Problem> {
        let items: &[Node] = match &self.node.value {
            Value::Sequence(items) => items,
            _ if self.node.is_null() => &[],
            _ => return Err(self.expected("a list")),
        };
        visitor.visit_seq(Items {
            items: items.iter().enumerate(),
            at: self.at,
            sink: self.sink,
        })
    }

    fn deserialize_tuple<V: Visitor<'de>>(self, _: usize, visitor: V) -> Result<V::Value, Problem> {
        self.deserialize_seq(visitor)
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: usize,
        visitor: V,
    ) -> Result<V::Value, Problem> {
        self.deserialize_seq(visitor)
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Problem> {
        self.entries(None, visitor)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Problem> {
        self.entries(Some(fields), visitor)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Problem> {
        let text = match &self.node.value {
            Value::Scalar(s) => &*s.text,
            _ => return Err(self.expected(&format!("one of {}", variants.join(", ")))),
        };
        if !variants.contains(&text) {
            let meant = match nearest(text, variants.iter().copied()) {
                Some(name) => format!("did you mean {name}?"),
                None => format!("write one of {}", variants.join(", ")),
            };
            return Err(self.problem(format_args!(
                "{:?} is not a value of this field; {meant}",
                clip(text)
            )));
        }
        visitor.visit_enum(text.into_deserializer())
    }

    fn deserialize_identifier<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Problem> {
        self.deserialize_str(visitor)
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Problem> {
        visitor.visit_unit()
    }
}

impl<'a> Decoder<'a> {
    fn entries<'de, V: Visitor<'de>>(
        self,
        fields: Option<&'static [&'static str]>,
        visitor: V,
    ) -> Result<V::Value, Problem> {
        let entries: &[(Key, Node)] = match &self.node.value {
            Value::Mapping(entries) => entries,
            _ if self.node.is_null() => &[],
            _ => return Err(self.expected("a mapping")),
        };
        let mut rest = Entries {
            entries: entries.iter(),
            fields,
            value: None,
            at: self.at,
            sink: self.sink,
        };
        rest.refuse_two_spellings(entries)?;
        visitor.visit_map(rest)
    }
}

struct Items<'a> {
    items: std::iter::Enumerate<std::slice::Iter<'a, Node>>,
    at: &'a At<'a>,
    sink: &'a Sink<'a>,
}

impl<'de> de::SeqAccess<'de> for Items<'_> {
    type Error = Problem;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Problem> {
        let Some((index, node)) = self.items.next() else {
            return Ok(None);
        };
        let at = At {
            parent: Some(self.at),
            segment: Segment::Index(index),
        };
        seed.deserialize(Decoder {
            node,
            at: &at,
            sink: self.sink,
        })
        .map(Some)
        .map_err(|e| Problem(e.0.placed(node.line, &at)))
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.items.len())
    }
}

struct Entries<'a> {
    entries: std::slice::Iter<'a, (Key, Node)>,
    /// Known names when a struct is read; `None` for a free mapping.
    fields: Option<&'static [&'static str]>,
    value: Option<(&'a str, &'a Node)>,
    at: &'a At<'a>,
    sink: &'a Sink<'a>,
}

impl<'a> Entries<'a> {
    /// serde would call `fooBar` and `foo_bar` together a duplicate field, without a line.
    fn refuse_two_spellings(&mut self, entries: &[(Key, Node)]) -> Result<(), Problem> {
        let Some(fields) = self.fields else {
            return Ok(());
        };
        for (key, _) in entries.iter().filter(|(k, _)| k.text.contains('_')) {
            let Some(name) = canonical(&key.text, fields) else {
                continue;
            };
            if *name != *key.text && entries.iter().any(|(other, _)| *other.text == *name) {
                return Err(Problem(Misfit {
                    line: key.line,
                    path: self.at.to_string(),
                    message: format!("{} and {name} are the same field; keep one", key.text),
                }));
            }
        }
        Ok(())
    }

    /// Whether the caller reads this field of the root itself.
    fn skipped(&self, name: &str) -> bool {
        self.at.parent.is_none() && self.sink.skip.contains(&name)
    }

    fn report(&self, key: &Key, fields: &'static [&'static str]) {
        if self.sink.strictness.unknown == Unknown::Ignore {
            return;
        }
        let path = At {
            parent: Some(self.at),
            segment: Segment::Field(&key.text),
        }
        .to_string();
        self.sink.unknown.borrow_mut().push(UnknownField {
            line: key.line,
            path,
            name: clip(&key.text),
            meant: nearest(&key.text, fields.iter().copied()),
            known: fields,
        });
    }
}

impl<'de> de::MapAccess<'de> for Entries<'_> {
    type Error = Problem;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Problem> {
        while let Some((key, node)) = self.entries.next() {
            let name = match self.fields {
                None => &*key.text,
                Some(fields) => match canonical(&key.text, fields) {
                    // In proto JSON and in Go, null is the same as not being there.
                    Some(_) if node.is_null() => continue,
                    Some(name) => name,
                    None => {
                        if !self.skipped(&key.text) {
                            self.report(key, fields);
                        }
                        continue;
                    }
                },
            };
            self.value = Some((&key.text, node));
            return seed.deserialize(Name(name)).map(Some).map_err(|e: Problem| {
                let at = At {
                    parent: Some(self.at),
                    segment: Segment::Field(&key.text),
                };
                Problem(e.0.placed(key.line, &at))
            });
        }
        Ok(None)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Problem> {
        let Some((name, node)) = self.value.take() else {
            return Err(de::Error::custom("a value was read before its key"));
        };
        let at = At {
            parent: Some(self.at),
            segment: Segment::Field(name),
        };
        seed.deserialize(Decoder {
            node,
            at: &at,
            sink: self.sink,
        })
        .map_err(|e| Problem(e.0.placed(node.line, &at)))
    }
}

fn clip(text: &str) -> String {
    text.chars().take(64).collect()
}
