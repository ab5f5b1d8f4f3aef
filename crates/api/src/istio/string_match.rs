//! Istio's `StringMatch`: exactly one of exact, prefix and regex.

use serde::{Deserialize, Serialize};

/// How a piece of a request is compared.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "Written", into = "Written")]
pub enum StringMatch {
    /// `{}`: it is there, whatever it is. Only for headers and query parameters.
    #[default]
    Present,
    /// Equal.
    Exact(String),
    /// Begins with.
    Prefix(String),
    /// Matches as a whole (RE2).
    Regex(String),
}

#[derive(Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Written {
    exact: Option<String>,
    prefix: Option<String>,
    regex: Option<String>,
}

impl TryFrom<Written> for StringMatch {
    type Error = &'static str;

    fn try_from(written: Written) -> Result<Self, Self::Error> {
        match written {
            Written {
                exact: None,
                prefix: None,
                regex: None,
            } => Ok(Self::Present),
            Written {
                exact: Some(s),
                prefix: None,
                regex: None,
            } => Ok(Self::Exact(s)),
            Written {
                exact: None,
                prefix: Some(s),
                regex: None,
            } => Ok(Self::Prefix(s)),
            Written {
                exact: None,
                prefix: None,
                regex: Some(s),
            } => Ok(Self::Regex(s)),
            _ => Err("exact, prefix and regex exclude each other; keep one of them"),
        }
    }
}

impl From<StringMatch> for Written {
    fn from(m: StringMatch) -> Self {
        let mut written = Written::default();
        match m {
            StringMatch::Present => {}
            StringMatch::Exact(s) => written.exact = Some(s),
            StringMatch::Prefix(s) => written.prefix = Some(s),
            StringMatch::Regex(s) => written.regex = Some(s),
        }
        written
    }
}
