//! A tree of nodes into a message, field by field (proto3's JSON mapping).

use std::fmt;

use base64::Engine;
use base64::alphabet::{STANDARD, URL_SAFE};
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use prost::Message;
use prost_reflect::{
    Cardinality, DynamicMessage, FieldDescriptor, Kind, MapKey, MessageDescriptor, ReflectMessage, Value,
};

use super::Position;
use super::yaml::{Content, Key, Node};
use crate::any;

const TYPE: &str = "@type";

/// What is wrong, and where.
pub(super) struct Fault {
    pub(super) position: Position,
    pub(super) path: String,
    pub(super) reason: String,
}

/// The way from the document to a node; written out only when something is wrong there.
#[derive(Clone, Copy)]
struct Place<'a> {
    parent: Option<&'a Place<'a>>,
    step: Step<'a>,
}

#[derive(Clone, Copy)]
enum Step<'a> {
    Root,
    Field(&'a str),
    Item(usize),
    Entry(&'a str),
}

impl<'a> Place<'a> {
    fn then(&'a self, step: Step<'a>) -> Self {
        Self {
            parent: Some(self),
            step,
        }
    }

    fn fault(&self, position: Position, reason: impl Into<String>) -> Fault {
        Fault {
            position,
            path: self.to_string(),
            reason: reason.into(),
        }
    }
}

impl fmt::Display for Place<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(parent) = self.parent {
            parent.fmt(f)?;
        }
        match self.step {
            Step::Root => Ok(()),
            Step::Field(name) => {
                let top = self.parent.is_none_or(|p| matches!(p.step, Step::Root));
                write!(f, "{}{name}", if top { "" } else { "." })
            }
            Step::Item(index) => write!(f, "[{index}]"),
            Step::Entry(key) => write!(f, "[{key:?}]"),
        }
    }
}

/// Reads the message that `descriptor` describes.
pub(super) fn message(descriptor: &MessageDescriptor, node: &Node) -> Result<DynamicMessage, Fault> {
    let root = Place {
        parent: None,
        step: Step::Root,
    };
    read_message(descriptor, node, &root)
}

fn read_message(
    descriptor: &MessageDescriptor,
    node: &Node,
    place: &Place<'_>,
) -> Result<DynamicMessage, Fault> {
    let name = descriptor.full_name();
    if name == "google.protobuf.Any" {
        return read_any(descriptor, node, place);
    }
    if has_own_json(name) {
        return DynamicMessage::deserialize(descriptor.clone(), node.content.to_json())
            .map_err(|e| place.fault(node.position, e.to_string()));
    }
    let mut out = DynamicMessage::new(descriptor.clone());
    read_fields(&mut out, entries(node, name, place)?, place)?;
    Ok(out)
}

/// Google's messages whose JSON is not that of their fields.
pub(super) fn has_own_json(name: &str) -> bool {
    name.strip_prefix("google.protobuf.").is_some_and(|short| {
        matches!(
            short,
            "Duration"
                | "Timestamp"
                | "FieldMask"
                | "Struct"
                | "Value"
                | "ListValue"
                | "Empty"
                | "BoolValue"
                | "BytesValue"
                | "DoubleValue"
                | "FloatValue"
                | "Int32Value"
                | "Int64Value"
                | "StringValue"
                | "UInt32Value"
                | "UInt64Value"
        )
    })
}

fn entries<'n>(node: &'n Node, name: &str, place: &Place<'_>) -> Result<&'n [(Key, Node)], Fault> {
    match &node.content {
        Content::Map(entries) => Ok(entries),
        other => Err(place.fault(
            node.position,
            format!("expected the fields of {name}, found {}", other.kind()),
        )),
    }
}

fn read_any(descriptor: &MessageDescriptor, node: &Node, place: &Place<'_>) -> Result<DynamicMessage, Fault> {
    let fields = entries(node, "a typed message", place)?;
    let type_url = fields.iter().find(|(key, _)| key.text == TYPE);
    let Some((_, Node { position, content })) = type_url else {
        return Err(place.fault(
            node.position,
            "\"@type\" is missing: it names the message, as in type.googleapis.com/envoy...",
        ));
    };
    let Content::Text(type_url) = content else {
        return Err(place.fault(*position, "\"@type\" must be a string"));
    };
    let name = any::full_name(type_url);
    let inner = descriptor
        .parent_pool()
        .get_message_by_name(name)
        .ok_or_else(|| place.fault(*position, format!("{name:?} is not a message that Isthmus knows")))?;
    let rest: Vec<(Key, Node)> = fields
        .iter()
        .filter(|(key, _)| key.text != TYPE)
        .cloned()
        .collect();
    let message = if has_own_json(name) || name == "google.protobuf.Any" {
        // Such a message stands in a field of its own, named `value`.
        match rest.as_slice() {
            [(key, value)] if key.text == "value" => read_message(&inner, value, place)?,
            _ => {
                return Err(place.fault(
                    node.position,
                    format!("{name} beside \"@type\" has one field, \"value\""),
                ));
            }
        }
    } else {
        let mut message = DynamicMessage::new(inner);
        read_fields(&mut message, &rest, place)?;
        message
    };
    let mut out = DynamicMessage::new(descriptor.clone());
    out.set_field_by_number(1, Value::String(type_url.clone()));
    out.set_field_by_number(2, Value::Bytes(message.encode_to_vec().into()));
    Ok(out)
}

fn read_fields(out: &mut DynamicMessage, entries: &[(Key, Node)], place: &Place<'_>) -> Result<(), Fault> {
    let descriptor = out.descriptor();
    let mut given: Vec<(u32, &str)> = Vec::with_capacity(entries.len());
    for (key, node) in entries {
        let field = descriptor
            .get_field_by_name(&key.text)
            .or_else(|| descriptor.get_field_by_json_name(&key.text));
        let Some(field) = field else {
            return Err(place.fault(key.position, unknown_field(&key.text, &descriptor)));
        };
        let place = place.then(Step::Field(field.name()));
        if let Some((_, other)) = given.iter().find(|(number, _)| *number == field.number()) {
            return Err(place.fault(key.position, format!("given twice, as {other} and {}", key.text)));
        }
        if matches!(node.content, Content::Null) && !takes_null(&field) {
            continue;
        }
        if let Some(oneof) = field
            .containing_oneof()
            .filter(|_| !field.field_descriptor_proto().proto3_optional())
        {
            let other = oneof
                .fields()
                .find(|f| given.iter().any(|(number, _)| *number == f.number()));
            if let Some(other) = other {
                let reason = format!(
                    "{} is given as well; {} takes one of them",
                    other.name(),
                    oneof.name()
                );
                return Err(place.fault(key.position, reason));
            }
        }
        given.push((field.number(), &key.text));
        let value = read_field(&field, node, &place)?;
        out.set_field(&field, value);
    }
    Ok(())
}

fn takes_null(field: &FieldDescriptor) -> bool {
    match field.kind() {
        Kind::Message(message) => message.full_name() == "google.protobuf.Value",
        Kind::Enum(values) => values.full_name() == "google.protobuf.NullValue",
        _ => false,
    }
}

fn read_field(field: &FieldDescriptor, node: &Node, place: &Place<'_>) -> Result<Value, Fault> {
    if field.is_map() {
        return read_map(field, node, place);
    }
    if field.cardinality() != Cardinality::Repeated {
        return read_value(&field.kind(), node, place);
    }
    let Content::List(items) = &node.content else {
        return Err(place.fault(
            node.position,
            format!("expected a list, found {}", node.content.kind()),
        ));
    };
    let items = items.iter().enumerate();
    items
        .map(|(i, item)| read_value(&field.kind(), item, &place.then(Step::Item(i))))
        .collect::<Result<_, _>>()
        .map(Value::List)
}

fn read_map(field: &FieldDescriptor, node: &Node, place: &Place<'_>) -> Result<Value, Fault> {
    let Kind::Message(entry) = field.kind() else {
        return Err(place.fault(node.position, "a map whose descriptor is none"));
    };
    let (key_kind, value_kind) = (
        entry.map_entry_key_field().kind(),
        entry.map_entry_value_field().kind(),
    );
    let entries = entries(node, "a map", place)?;
    entries
        .iter()
        .map(|(key, value)| {
            let place = place.then(Step::Entry(&key.text));
            let text = &key.text;
            let parsed = match key_kind {
                Kind::String => Some(MapKey::String(text.clone())),
                Kind::Bool => text.parse().ok().map(MapKey::Bool),
                Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => text.parse().ok().map(MapKey::I32),
                Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => text.parse().ok().map(MapKey::I64),
                Kind::Uint32 | Kind::Fixed32 => text.parse().ok().map(MapKey::U32),
                Kind::Uint64 | Kind::Fixed64 => text.parse().ok().map(MapKey::U64),
                _ => None,
            };
            let parsed = parsed.ok_or_else(|| {
                place.fault(
                    key.position,
                    format!("{text:?} is not a key of kind {key_kind:?}"),
                )
            })?;
            Ok((parsed, read_value(&value_kind, value, &place)?))
        })
        .collect::<Result<_, _>>()
        .map(Value::Map)
}

fn read_value(kind: &Kind, node: &Node, place: &Place<'_>) -> Result<Value, Fault> {
    let wrong = |expected: &str| {
        place.fault(
            node.position,
            format!("expected {expected}, found {}", show(&node.content)),
        )
    };
    let content = &node.content;
    match kind {
        Kind::Message(descriptor) => read_message(descriptor, node, place).map(Value::Message),
        Kind::Bool => match content {
            Content::Bool(b) => Ok(Value::Bool(*b)),
            _ => Err(wrong("true or false")),
        },
        Kind::String => match content {
            Content::Text(text) => Ok(Value::String(text.clone())),
            Content::List(_) | Content::Map(_) | Content::Null => Err(wrong("a string")),
            _ => Err(wrong("a string (in quotes)")),
        },
        Kind::Bytes => match content {
            Content::Text(text) => base64_bytes(text)
                .map(|bytes| Value::Bytes(bytes.into()))
                .ok_or_else(|| wrong("base64")),
            _ => Err(wrong("base64 in a string")),
        },
        Kind::Float => float(content)
            .map(|n| Value::F32(n as f32))
            .ok_or_else(|| wrong("a number")),
        Kind::Double => float(content).map(Value::F64).ok_or_else(|| wrong("a number")),
        Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => integer(content)
            .map(Value::I32)
            .ok_or_else(|| wrong("an integer of 32 bits")),
        Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => integer(content)
            .map(Value::I64)
            .ok_or_else(|| wrong("an integer of 64 bits")),
        Kind::Uint32 | Kind::Fixed32 => integer(content)
            .map(Value::U32)
            .ok_or_else(|| wrong("an integer from 0 to 4294967295")),
        Kind::Uint64 | Kind::Fixed64 => integer(content)
            .map(Value::U64)
            .ok_or_else(|| wrong("an integer that is not negative")),
        Kind::Enum(values) => {
            let number = match content {
                Content::Text(name) => values.get_value_by_name(name).map(|v| v.number()),
                _ => integer(content).filter(|n: &i32| values.get_value(*n).is_some()),
            };
            number.map(Value::EnumNumber).ok_or_else(|| {
                let names: Vec<String> = values.values().map(|v| v.name().to_owned()).collect();
                wrong(&format!("one of {}", names.join(", ")))
            })
        }
    }
}

fn integer<T: TryFrom<i128>>(content: &Content) -> Option<T> {
    let wide: i128 = match content {
        Content::Signed(n) => (*n).into(),
        Content::Unsigned(n) => (*n).into(),
        // 1e3 and 1.0 are integers; beyond 2^53 a float no longer says which.
        Content::Float(n) if n.fract() == 0.0 && n.abs() <= 9_007_199_254_740_992.0 => *n as i128,
        Content::Text(text) => text.parse().ok()?,
        _ => return None,
    };
    T::try_from(wide).ok()
}

fn float(content: &Content) -> Option<f64> {
    match content {
        Content::Signed(n) => Some(*n as f64),
        Content::Unsigned(n) => Some(*n as f64),
        Content::Float(n) => Some(*n),
        Content::Text(text) => match text.as_str() {
            "Infinity" => Some(f64::INFINITY),
            "-Infinity" => Some(f64::NEG_INFINITY),
            text => text.parse().ok(),
        },
        _ => None,
    }
}

/// Either alphabet, with or without padding, as proto3's JSON allows.
fn base64_bytes(text: &str) -> Option<Vec<u8>> {
    let config = GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
    [&STANDARD, &URL_SAFE]
        .iter()
        .find_map(|alphabet| GeneralPurpose::new(alphabet, config).decode(text).ok())
}

fn show(content: &Content) -> String {
    match content {
        Content::Text(text) if text.chars().count() <= 64 => format!("{text:?}"),
        Content::Bool(b) => b.to_string(),
        Content::Signed(n) => n.to_string(),
        Content::Unsigned(n) => n.to_string(),
        Content::Float(n) => n.to_string(),
        other => other.kind().to_owned(),
    }
}

fn unknown_field(name: &str, descriptor: &MessageDescriptor) -> String {
    let full = descriptor.full_name();
    let nearest = descriptor
        .fields()
        .map(|f| (distance(name, f.name()), f.name().to_owned()))
        .min()
        .filter(|(distance, _)| *distance <= 2.max(name.len() / 4));
    match nearest {
        Some((_, near)) => format!("{full} has no field {name:?}; did you mean {near:?}?"),
        None => format!("{full} has no field {name:?}"),
    }
}

/// Levenshtein distance; names longer than any field's are simply far away.
fn distance(a: &str, b: &str) -> usize {
    if a.len() > 128 {
        return usize::MAX;
    }
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let change = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = change.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}
