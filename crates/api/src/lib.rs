//! What users write: Istio's and Kubernetes' resources, from YAML to validated types.
//!
//! It parses with file and line, validates each object, and analyses sets of objects. It does no I/O
//! but reading the files it is pointed at, watches nothing, and knows neither xDS nor proxies.
//!
//! ```text
//!   text ─ yaml ─> tree with lines ─ kinds, decode ─> istio::*, kubernetes::* ─ validate ─> Object
//!                                                                                   │
//!                                    Finding {code, file:line, message, remedy} <───┴── analyze
//! ```

pub mod analyze;
pub mod annotation;
pub mod codes;
mod decode;
pub mod describe;
pub mod duration;
pub mod effect;
pub mod enforcement;
pub mod finding;
pub mod istio;
pub mod kinds;
pub mod kubernetes;
pub mod load;
pub mod mesh_config;
mod message;
pub mod object;
pub mod parse;
pub mod position;
pub mod source;
pub mod status;
pub mod suggest;
pub mod validate;
pub mod yaml;

pub use analyze::analyze;
pub use duration::Duration;
pub use finding::{Finding, Level};
pub use kinds::{Kind, Spec, Typed};
pub use load::{load, load_all};
pub use mesh_config::{MeshConfig, MeshNetworks};
pub use object::{Meta, Object, ObjectKey, Origin};
pub use parse::{Parsed, parse, parse_json};
pub use source::{Change, ClusterConnector, Source};
