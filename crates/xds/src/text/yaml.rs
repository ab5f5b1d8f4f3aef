//! A YAML (or JSON, which is YAML) document as a tree whose nodes know where they stand.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::Spanned;

use super::Position;

/// A value and where it begins.
#[derive(Debug, Clone)]
pub(super) struct Node {
    pub(super) position: Position,
    pub(super) content: Content,
}

#[derive(Debug, Clone)]
pub(super) enum Content {
    Null,
    Bool(bool),
    Signed(i64),
    Unsigned(u64),
    Float(f64),
    Text(String),
    List(Vec<Node>),
    Map(Vec<(Key, Node)>),
}

/// A key of a map.
#[derive(Debug, Clone)]
pub(super) struct Key {
    pub(super) text: String,
    pub(super) position: Position,
}

/// Stack for reading. The parser bounds the depth (64), but a level takes it tens of kilobytes without
/// optimisation, which is more than a thread of a test or of a runtime has.
const STACK: usize = 16 << 20;

/// Reads exactly one document. Depth, size and the growth of aliases are bounded by the parser.
pub(super) fn parse(text: &str) -> Result<Node, (Position, String)> {
    std::thread::scope(|scope| {
        let reader = std::thread::Builder::new().stack_size(STACK);
        let reader = reader.spawn_scoped(scope, || read(text)).map_err(|e| {
            (
                Position::default(),
                format!("cannot be read: no thread for it: {e}"),
            )
        })?;
        reader
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

fn read(text: &str) -> Result<Node, (Position, String)> {
    let options = serde_saphyr::options! {
        with_snippet: false,
        // Enough for any configuration, and little enough that a text of aliases of aliases ends at once.
        alias_limits: serde_saphyr::alias_limits! {
            max_total_replayed_events: 100_000,
        },
    };
    match serde_saphyr::from_str_with_options::<Spanned<Content>>(text, options) {
        Ok(node) => Ok(node.into()),
        Err(error) => {
            let position = error.location().map(position).unwrap_or_default();
            Err((position, error.without_snippet().to_string()))
        }
    }
}

impl Content {
    /// What it is, for messages.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Bool(_) => "a boolean",
            Self::Signed(_) | Self::Unsigned(_) | Self::Float(_) => "a number",
            Self::Text(_) => "a string",
            Self::List(_) => "a list",
            Self::Map(_) => "a map",
        }
    }

    /// Without positions, for Google's well-known messages, whose form JSON defines.
    pub(super) fn to_json(&self) -> serde_json::Value {
        match self {
            Self::Null => serde_json::Value::Null,
            Self::Bool(b) => (*b).into(),
            Self::Signed(n) => (*n).into(),
            Self::Unsigned(n) => (*n).into(),
            Self::Float(n) => (*n).into(),
            Self::Text(text) => text.as_str().into(),
            Self::List(items) => items.iter().map(|n| n.content.to_json()).collect(),
            Self::Map(entries) => entries
                .iter()
                .map(|(key, node)| (key.text.clone(), node.content.to_json()))
                .collect(),
        }
    }
}

impl From<Spanned<Content>> for Node {
    fn from(spanned: Spanned<Content>) -> Self {
        Self {
            position: position(spanned.referenced),
            content: spanned.value,
        }
    }
}

fn position(location: serde_saphyr::Location) -> Position {
    Position {
        line: location.line(),
        column: location.column(),
    }
}

/// A key as text, however it is written: `200:` is the key "200".
struct KeyText(String);

impl<'de> Deserialize<'de> for KeyText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(KeyVisitor)
    }
}

struct KeyVisitor;

impl Visitor<'_> for KeyVisitor {
    type Value = KeyText;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a field name")
    }

    fn visit_str<E>(self, text: &str) -> Result<KeyText, E> {
        Ok(KeyText(text.to_owned()))
    }
}

impl<'de> Deserialize<'de> for Content {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ContentVisitor)
    }
}

struct ContentVisitor;

impl<'de> Visitor<'de> for ContentVisitor {
    type Value = Content;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E>(self) -> Result<Content, E> {
        Ok(Content::Null)
    }

    fn visit_none<E>(self) -> Result<Content, E> {
        Ok(Content::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Content, D::Error> {
        deserializer.deserialize_any(self)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Content, E> {
        Ok(Content::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Content, E> {
        Ok(u64::try_from(value).map_or(Content::Signed(value), Content::Unsigned))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Content, E> {
        Ok(Content::Unsigned(value))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Content, E> {
        Ok(Content::Float(value))
    }

    fn visit_str<E>(self, value: &str) -> Result<Content, E> {
        Ok(Content::Text(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Content, E> {
        Ok(Content::Text(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Content, A::Error> {
        let mut out = Vec::new();
        while let Some(item) = items.next_element::<Spanned<Content>>()? {
            out.push(item.into());
        }
        Ok(Content::List(out))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Content, A::Error> {
        let mut out = Vec::new();
        while let Some(key) = entries.next_key::<Spanned<KeyText>>()? {
            let value = entries.next_value::<Spanned<Content>>()?;
            let key = Key {
                position: position(key.referenced),
                text: key.value.0,
            };
            out.push((key, value.into()));
        }
        Ok(Content::Map(out))
    }
}
