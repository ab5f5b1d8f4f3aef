//! Names of fields: keys of mappings as serde asks for them.

use serde::de::{self, Visitor};

use super::{Problem, clip};

/// A mapping's key: text, or a number where the map is keyed by numbers.
pub(super) struct Name<'a>(pub &'a str);

macro_rules! numeric_names {
    ($($method:ident $visit:ident $ty:ty;)*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Problem> {
            match self.0.parse::<$ty>() {
                Ok(n) => visitor.$visit(n),
                Err(_) => Err(de::Error::custom(format_args!(
                    "{:?} is not a number from {} to {}", clip(self.0), <$ty>::MIN, <$ty>::MAX
                ))),
            }
        }
    )*};
}

impl<'de> de::Deserializer<'de> for Name<'_> {
    type Error = Problem;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Problem> {
        visitor.visit_str(self.0)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Problem> {
        visitor.visit_newtype_struct(self)
    }

    numeric_names! {
        deserialize_u16 visit_u16 u16;
        deserialize_u32 visit_u32 u32;
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u64 u128 f32 f64 char str string bytes byte_buf option unit
        unit_struct seq tuple tuple_struct map struct enum identifier ignored_any
    }
}

/// The known name that `written` stands for: itself, or its camelCase form (proto JSON takes both).
pub(super) fn canonical(written: &str, fields: &'static [&'static str]) -> Option<&'static str> {
    let exact = |name: &str| fields.iter().copied().find(|f| *f == name);
    exact(written).or_else(|| {
        if !written.contains('_') {
            return None;
        }
        let mut camel = String::with_capacity(written.len());
        let mut upper = false;
        for c in written.chars() {
            match c {
                '_' => upper = true,
                c if std::mem::take(&mut upper) => camel.push(c.to_ascii_uppercase()),
                c => camel.push(c),
            }
        }
        exact(&camel)
    })
}
