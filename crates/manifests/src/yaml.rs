//! JSON values to YAML that a human reads and every YAML reader understands alike, and back.
//!
//! Keys are sorted but for those that open an object (`apiVersion`, `kind`, `metadata`), so that the same
//! value always is the same text. Text that any reader of YAML 1.1 or 1.2 might take for something else
//! is quoted.

use isthmus_api::yaml::{Limits, Malformed, Node, Scalar, ScalarKind, Value as Tree, documents};
use serde_json::{Map, Number, Value};

/// A value as a YAML document without `---`, ended by a newline.
pub fn write(value: &Value) -> String {
    let mut out = String::new();
    match value {
        Value::Object(fields) if !fields.is_empty() => mapping(fields, 0, &mut out),
        Value::Array(items) if !items.is_empty() => sequence(items, 0, &mut out),
        other => {
            scalar(other, 0, &mut out);
            out.push('\n');
        }
    }
    out
}

/// Objects as a stream of documents.
pub fn write_all<'a>(objects: impl IntoIterator<Item = &'a Value>) -> String {
    let documents: Vec<String> = objects.into_iter().map(write).collect();
    documents.join("---\n")
}

/// JSON with sorted keys, whatever order the map keeps.
pub fn sorted_json(value: &Value) -> String {
    match value {
        Value::Object(fields) => {
            let fields: Vec<String> = in_order(fields, |_| 0)
                .into_iter()
                .map(|(k, v)| format!("{}:{}", Value::from(k.as_str()), sorted_json(v)))
                .collect();
            format!("{{{}}}", fields.join(","))
        }
        Value::Array(items) => {
            let items: Vec<String> = items.iter().map(sorted_json).collect();
            format!("[{}]", items.join(","))
        }
        other => other.to_string(),
    }
}

/// JSON for people, with sorted keys.
pub fn pretty_json(value: &Value) -> String {
    let mut out = String::new();
    pretty(value, 0, &mut out);
    out
}

fn pretty(value: &Value, depth: usize, out: &mut String) {
    let line = |depth: usize, out: &mut String| {
        out.push('\n');
        out.push_str(&"  ".repeat(depth));
    };
    match value {
        Value::Object(fields) if !fields.is_empty() => {
            out.push('{');
            for (i, (key, value)) in in_order(fields, |_| 0).into_iter().enumerate() {
                out.push_str(if i > 0 { "," } else { "" });
                line(depth + 1, out);
                out.push_str(&Value::from(key.as_str()).to_string());
                out.push_str(": ");
                pretty(value, depth + 1, out);
            }
            line(depth, out);
            out.push('}');
        }
        Value::Array(items) if !items.is_empty() => {
            out.push('[');
            for (i, item) in items.iter().enumerate() {
                out.push_str(if i > 0 { "," } else { "" });
                line(depth + 1, out);
                pretty(item, depth + 1, out);
            }
            line(depth, out);
            out.push(']');
        }
        other => out.push_str(&other.to_string()),
    }
}

/// Every document of a text.
///
/// # Errors
/// A document is malformed.
pub fn read(text: &str) -> Result<Vec<Value>, Malformed> {
    documents(text, &Limits::default())
        .into_iter()
        .map(|document| document.map(|node| to_json(&node)))
        .collect()
}

/// A tree without its lines.
pub fn to_json(node: &Node) -> Value {
    match &node.value {
        Tree::Scalar(Scalar { text, kind }) => match kind {
            ScalarKind::Null => Value::Null,
            ScalarKind::Bool(b) => Value::Bool(*b),
            ScalarKind::Int(i) => Value::from(*i),
            ScalarKind::Float(f) => Number::from_f64(*f).map_or(Value::Null, Value::Number),
            ScalarKind::Text => Value::from(&**text),
        },
        Tree::Sequence(items) => Value::Array(items.iter().map(to_json).collect()),
        Tree::Mapping(fields) => Value::Object(
            fields
                .iter()
                .map(|(key, value)| {
                    // The tag of an image is text, also where it looks like a number: 1.20 is not 1.2.
                    let json = match (&*key.text, value.text()) {
                        ("tag", Some(text)) => Value::from(text),
                        _ => to_json(value),
                    };
                    (key.text.to_string(), json)
                })
                .collect(),
        ),
    }
}

fn in_order(fields: &Map<String, Value>, rank: impl Fn(&str) -> u8) -> Vec<(&String, &Value)> {
    let mut entries: Vec<_> = fields.iter().collect();
    entries.sort_by(|a, b| (rank(a.0), a.0).cmp(&(rank(b.0), b.0)));
    entries
}

fn mapping(fields: &Map<String, Value>, depth: usize, out: &mut String) {
    let rank = |name: &str| match name {
        "apiVersion" => 0,
        "kind" => 1,
        "name" => 2,
        "metadata" => 3,
        _ => 4,
    };
    for (i, (key, value)) in in_order(fields, rank).into_iter().enumerate() {
        // The first key of an item stands behind its dash.
        if i > 0 || depth == 0 || out.ends_with('\n') {
            out.push_str(&"  ".repeat(depth));
        }
        out.push_str(&plain(key));
        out.push(':');
        match value {
            Value::Object(inner) if !inner.is_empty() => {
                out.push('\n');
                mapping(inner, depth + 1, out);
            }
            Value::Array(items) if !items.is_empty() => {
                out.push('\n');
                sequence(items, depth, out);
            }
            other => {
                out.push(' ');
                scalar(other, depth + 1, out);
                out.push('\n');
            }
        }
    }
}

fn sequence(items: &[Value], depth: usize, out: &mut String) {
    for item in items {
        if out.is_empty() || out.ends_with('\n') {
            out.push_str(&"  ".repeat(depth));
        }
        out.push_str("- ");
        match item {
            Value::Object(fields) if !fields.is_empty() => mapping(fields, depth + 1, out),
            Value::Array(inner) if !inner.is_empty() => sequence(inner, depth + 1, out),
            other => {
                scalar(other, depth + 1, out);
                out.push('\n');
            }
        }
    }
}

fn scalar(value: &Value, depth: usize, out: &mut String) {
    match value {
        Value::String(text) if is_block(text) => {
            out.push_str(if text.ends_with('\n') { "|" } else { "|-" });
            for line in text.strip_suffix('\n').unwrap_or(text).split('\n') {
                out.push('\n');
                if !line.is_empty() {
                    out.push_str(&"  ".repeat(depth));
                    out.push_str(line);
                }
            }
        }
        Value::String(text) => out.push_str(&plain(text)),
        Value::Object(_) => out.push_str("{}"),
        Value::Array(_) => out.push_str("[]"),
        other => out.push_str(&other.to_string()),
    }
}

/// Whether a text is best written as a literal block, and can be without loss.
fn is_block(text: &str) -> bool {
    text.trim_end_matches('\n').contains('\n')
        && !text.starts_with([' ', '\n', '\t'])
        && !text.ends_with("\n\n")
        && text.lines().all(|line| !line.ends_with([' ', '\t', '\r']))
        && text.chars().all(|c| c == '\n' || c == '\t' || !c.is_control())
}

/// The text as it is, or in quotes where a reader might take it for something else.
fn plain(text: &str) -> String {
    let first = text.chars().next();
    let harmless = first.is_some_and(|c| c.is_ascii_alphabetic() || matches!(c, '/' | '_' | '.'))
        && text.chars().all(|c| {
            c.is_ascii_alphanumeric()
                || matches!(
                    c,
                    '_' | '/' | '.' | ':' | '-' | ' ' | '(' | ')' | '=' | '$' | '~' | ';' | '+'
                )
        })
        && !text.contains(": ")
        && !text.ends_with([':', ' '])
        && !looks_typed(text);
    if harmless {
        text.to_owned()
    } else {
        // JSON's strings are YAML's double-quoted ones.
        Value::from(text).to_string()
    }
}

/// Booleans and nulls of YAML 1.1, and whatever begins like a number.
fn looks_typed(text: &str) -> bool {
    let lower = text.to_ascii_lowercase();
    matches!(
        lower.as_str(),
        "y" | "n" | "yes" | "no" | "on" | "off" | "true" | "false" | "null" | ".inf" | ".nan"
    ) || lower.starts_with('.') && lower[1..].starts_with(|c: char| c.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_is_written_is_read_back_whatever_the_text_looks_like() {
        let texts = [
            "",
            "plain",
            "with space",
            "yes",
            "No",
            "on",
            "~",
            "null",
            "0x1f",
            "1e3",
            "12:30:45",
            "1.20",
            ".5",
            "- a",
            "a: b",
            "a:",
            "#c",
            "a #c",
            "*",
            "&a",
            "{{x}}",
            "tab\there",
            "trailing ",
            " leading",
            "quote\"d",
            "back\\slash",
            "é",
            "two\nlines",
            "two\nlines\n",
            "a\n\n\nb",
            "a\n\n",
            "\nstart",
            "a\r\nb",
            "%d",
            "@x",
            "`",
            "!x",
            "|",
            ">",
            "?",
            "=",
            "<<",
            "-",
            "---",
        ];
        let value = json!({
            "texts": texts.to_vec(), "nested": [[1, [2, {"a": []}]], {}, {"b": {"c": null}}],
            "keys": {"yes": 1, "a b": 2, "": 3, "1": 4, "x: y": 5}, "n": [1, -2, 1.5, true, false, null],
        });
        let text = write(&value);
        assert_eq!(read(&text).unwrap_or_default(), [value], "{text}");
    }

    #[test]
    fn an_object_opens_with_what_it_is() {
        let value = json!({"spec": {"ports": [{"port": 80, "name": "http"}]}, "kind": "Service", "apiVersion": "v1", "metadata": {"name": "a"}});
        assert_eq!(
            write(&value),
            "apiVersion: v1\nkind: Service\nmetadata:\n  name: a\nspec:\n  ports:\n  - name: http\n    port: 80\n"
        );
    }
}
