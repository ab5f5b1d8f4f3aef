//! Cuts a file at its document markers, so that each document fails alone.

/// A piece of a file that begins at a document marker (or at the beginning).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Chunk<'a> {
    /// Line of the piece's first line in the file, from 1.
    pub first_line: u32,
    /// The piece.
    pub text: &'a str,
}

/// The pieces of `text`, in order.
pub(super) fn chunks(text: &str) -> Vec<Chunk<'_>> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut chunks = Vec::new();
    let (mut start, mut first_line) = (0, 1u32);
    let (mut offset, mut line) = (0, 1u32);
    for piece in text.split_inclusive('\n') {
        if offset > start && is_marker(piece) {
            chunks.push(Chunk {
                first_line,
                text: &text[start..offset],
            });
            (start, first_line) = (offset, line);
        }
        offset += piece.len();
        line = line.saturating_add(1);
    }
    if start < text.len() {
        chunks.push(Chunk {
            first_line,
            text: &text[start..],
        });
    }
    chunks
}

/// YAML forbids `---` in the first column anywhere but as a document marker, quoted text included.
fn is_marker(line: &str) -> bool {
    line.strip_prefix("---")
        .is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '\t', '\r', '\n']))
}
