//! How the structs of the APIs are declared: camelCase in YAML, every field with its zero as default.

/// Declares structs whose fields all default, as proto messages do.
macro_rules! message {
    ($(
        $(#[$meta:meta])*
        pub struct $name:ident { $($(#[$field_meta:meta])* $field:ident: $ty:ty),* $(,)? }
    )*) => {$(
        $(#[$meta])*
        #[derive(Debug, Clone, Default, PartialEq, serde::Serialize, serde::Deserialize)]
        #[serde(rename_all = "camelCase", default)]
        pub struct $name { $($(#[$field_meta])* pub $field: $ty),* }

        impl crate::describe::Describe for $name {
            fn describe() -> serde_json::Value {
                crate::describe::object(vec![$((
                    stringify!($field),
                    &[$(stringify!($field_meta)),*][..],
                    <$ty as crate::describe::Describe>::describe(),
                )),*])
            }
        }
    )*};
}

/// Declares enums whose values are written in capitals, as proto enums are; the first is the default.
macro_rules! choice {
    ($(
        $(#[$meta:meta])*
        pub enum $name:ident {
            $(#[$first_meta:meta])* $first:ident,
            $($(#[$value_meta:meta])* $value:ident),* $(,)?
        }
    )*) => {$(
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
        #[serde(rename_all = "SCREAMING_SNAKE_CASE")]
        pub enum $name {
            #[default]
            $(#[$first_meta])* $first,
            $($(#[$value_meta])* $value),*
        }

        impl crate::describe::Describe for $name {
            fn describe() -> serde_json::Value {
                crate::describe::choice(&[
                    (stringify!($first), &[$(stringify!($first_meta)),*][..]),
                    $((stringify!($value), &[$(stringify!($value_meta)),*][..])),*
                ])
            }
        }
    )*};
}

pub(crate) use {choice, message};
