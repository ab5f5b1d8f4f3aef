//! The fields of a type as its decoder asks for them, found by asking it.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fmt;

use serde::de::{self, DeserializeOwned, DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};

/// Paths of all fields that hold no further fields, as in `http.match.uri.exact`; `*` is a key of a map.
pub fn leaves<T: DeserializeOwned>() -> BTreeSet<String> {
    let mut leaves = BTreeSet::new();
    let mut pending: Vec<Vec<String>> = vec![Vec::new()];
    while let Some(path) = pending.pop() {
        assert!(path.len() < 16, "a type within itself: {path:?}");
        let found = RefCell::new(None);
        // What comes of it does not matter, only what it asked for.
        let _ = T::deserialize(Probe {
            steps: &path,
            found: &found,
        });
        match found.into_inner() {
            Some(fields) => {
                for field in fields {
                    pending.push(path.iter().cloned().chain([field]).collect());
                }
            }
            None => {
                let named = path.strip_suffix(&["*".to_owned()]).unwrap_or(&path);
                leaves.insert(named.join("."));
            }
        }
    }
    leaves
}

/// Follows `steps` into a type and remembers which fields stand at their end.
#[derive(Clone, Copy)]
struct Probe<'p> {
    steps: &'p [String],
    found: &'p RefCell<Option<Vec<String>>>,
}

#[derive(Debug)]
struct Leaf;

impl fmt::Display for Leaf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("no further fields")
    }
}

impl std::error::Error for Leaf {}

impl de::Error for Leaf {
    fn custom<T: fmt::Display>(_: T) -> Self {
        Self
    }
}

impl<'p> Probe<'p> {
    fn fields<'de, V: Visitor<'de>>(self, names: Vec<String>, visitor: V) -> Result<V::Value, Leaf> {
        match self.steps.split_first() {
            None => {
                *self.found.borrow_mut() = Some(names);
                Err(Leaf)
            }
            Some((name, steps)) => visitor.visit_map(One {
                name: Some(name.clone()),
                value: Probe { steps, ..self },
            }),
        }
    }
}

impl<'de> Deserializer<'de> for Probe<'_> {
    type Error = Leaf;

    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Leaf> {
        Err(Leaf)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Leaf> {
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Leaf> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Leaf> {
        visitor.visit_seq(Once(Some(self)))
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Leaf> {
        self.fields(vec!["*".to_owned()], visitor)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Leaf> {
        self.fields(fields.iter().map(|f| (*f).to_owned()).collect(), visitor)
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit unit_struct
        tuple tuple_struct enum identifier ignored_any
    }
}

/// A mapping of one field.
struct One<'p> {
    name: Option<String>,
    value: Probe<'p>,
}

impl<'de> MapAccess<'de> for One<'_> {
    type Error = Leaf;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Leaf> {
        match self.name.take() {
            None => Ok(None),
            // A map's keys may be numbers.
            Some(name) if name == "*" => seed.deserialize(AnyKey).map(Some),
            Some(name) => seed
                .deserialize(de::value::StringDeserializer::new(name))
                .map(Some),
        }
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Leaf> {
        seed.deserialize(self.value)
    }
}

struct AnyKey;

impl<'de> Deserializer<'de> for AnyKey {
    type Error = Leaf;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Leaf> {
        visitor.visit_str("key")
    }

    fn deserialize_u16<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Leaf> {
        visitor.visit_u16(1)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Leaf> {
        visitor.visit_newtype_struct(self)
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit unit_struct
        seq tuple tuple_struct map struct enum identifier ignored_any
    }
}

/// A list of one item.
struct Once<'p>(Option<Probe<'p>>);

impl<'de> SeqAccess<'de> for Once<'_> {
    type Error = Leaf;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Leaf> {
        self.0.take().map(|probe| seed.deserialize(probe)).transpose()
    }
}
