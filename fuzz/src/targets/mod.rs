//! What is fed.

mod admission;
mod compile;
mod network;
mod security;
mod xds;

/// What a target reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Bytes.
    Bytes,
    /// Text.
    Text,
    /// A tree, written as JSON (which is YAML as well).
    Tree,
}

/// A reader.
#[derive(Debug)]
pub struct Target {
    /// Its name, also of its corpus.
    pub name: &'static str,
    /// What it reads.
    pub kind: Kind,
    /// How many inputs `cargo test` gives it: what a few seconds allow.
    pub inputs: usize,
    /// Valid input to begin with.
    pub seeds: fn() -> Vec<Vec<u8>>,
    /// Reads one input; panics when something is not as it has to be.
    pub run: fn(&[u8]),
}

/// All of them.
pub const TARGETS: &[Target] = &[
    compile::YAML,
    compile::COMPILE,
    admission::ADMISSION,
    xds::BOOTSTRAP,
    xds::RESOURCES,
    xds::DISCOVERY,
    xds::PEERING,
    network::CLIENT_HELLO,
    network::SNIFF,
    network::PROXY_PROTOCOL,
    network::DNS,
    network::PATHS,
    network::FORMATS,
    security::CERTIFICATES,
    security::TOKENS,
    security::SANDBOX,
    security::NAMES,
];

/// A file of this repository.
fn file(path: &str) -> String {
    let path = format!("{}/../{path}", env!("CARGO_MANIFEST_DIR"));
    std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{path}: {e}"))
}

/// The text of an input whose kind is not [`Kind::Bytes`].
fn text(input: &[u8]) -> &str {
    std::str::from_utf8(input).unwrap_or_default()
}
