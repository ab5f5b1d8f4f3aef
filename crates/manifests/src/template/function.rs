//! The functions that the charts call, as Go's `text/template` and Sprig define them.

use serde_json::{Map, Value};

use crate::yaml;

/// Go's truth: nothing, zero and emptiness are false.
pub(super) fn truth(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(b) => *b,
        Value::Number(n) => n.as_f64() != Some(0.0),
        Value::String(s) => !s.is_empty(),
        Value::Array(items) => !items.is_empty(),
        Value::Object(fields) => !fields.is_empty(),
    }
}

/// A value as it stands in the output.
pub(super) fn text(value: &Value) -> Result<String, String> {
    match value {
        Value::Null => Ok(String::new()),
        Value::Bool(b) => Ok(b.to_string()),
        Value::Number(n) => Ok(n.to_string()),
        Value::String(s) => Ok(s.clone()),
        Value::Array(_) | Value::Object(_) => Err(format!("{value} is printed without toYaml or toJson")),
    }
}

pub(super) fn call(name: &str, arguments: Vec<Value>) -> Result<Value, String> {
    let wrong = |arguments: &[Value]| {
        let shown: Vec<String> = arguments.iter().map(ToString::to_string).collect();
        format!("{name} cannot be called with {}", shown.join(", "))
    };
    Ok(match (name, arguments.as_slice()) {
        ("default", [default, value]) => (if truth(value) { value } else { default }).clone(),
        ("required", [Value::String(message), value]) if !truth(value) => return Err(message.clone()),
        ("required", [_, value]) => value.clone(),
        ("fail", [Value::String(message)]) => return Err(message.clone()),
        ("not", [value]) => Value::Bool(!truth(value)),
        ("eq", [first, rest @ ..]) if !rest.is_empty() => Value::Bool(rest.iter().any(|v| same(first, v))),
        ("ne", [a, b]) => Value::Bool(!same(a, b)),
        ("gt", [a, b]) => Value::Bool(a.as_f64() > b.as_f64()),
        ("quote", [value]) => Value::String(serde_json::to_string(&text(value)?).unwrap_or_default()),
        ("int", [value]) => match value {
            Value::Number(n) => Value::from(n.as_f64().unwrap_or_default() as i64),
            Value::String(s) => Value::from(s.parse::<i64>().unwrap_or_default()),
            _ => Value::from(0),
        },
        ("toString", [value]) => Value::String(text(value)?),
        ("toYaml", [value]) => Value::String(yaml::write(value).trim_end().to_owned()),
        ("toJson", [value]) => Value::String(yaml::sorted_json(value)),
        ("indent", [Value::Number(by), Value::String(s)]) => Value::String(indent(by, s)),
        ("nindent", [Value::Number(by), Value::String(s)]) => Value::String(format!("\n{}", indent(by, s))),
        ("trimSuffix", [Value::String(end), Value::String(s)]) => {
            Value::String(s.strip_suffix(end.as_str()).unwrap_or(s).to_owned())
        }
        ("trimPrefix", [Value::String(start), Value::String(s)]) => {
            Value::String(s.strip_prefix(start.as_str()).unwrap_or(s).to_owned())
        }
        ("replace", [Value::String(from), Value::String(to), Value::String(s)]) => {
            Value::String(s.replace(from.as_str(), to))
        }
        ("contains", [Value::String(part), Value::String(s)]) => Value::Bool(s.contains(part.as_str())),
        ("hasKey", [Value::Object(fields), Value::String(key)]) => Value::Bool(fields.contains_key(key)),
        ("hasPrefix", [Value::String(start), Value::String(s)]) => Value::Bool(s.starts_with(start.as_str())),
        ("kindIs", [Value::String(kind), value]) => Value::Bool(kind == kind_of(value)),
        ("list", items) => Value::Array(items.to_vec()),
        ("append", [Value::Array(items), item]) => {
            let mut items = items.clone();
            items.push(item.clone());
            Value::Array(items)
        }
        ("dict", pairs) if pairs.len() % 2 == 0 => {
            let mut fields = Map::new();
            for pair in pairs.chunks(2) {
                fields.insert(text(&pair[0])?, pair[1].clone());
            }
            Value::Object(fields)
        }
        ("omit", [Value::Object(fields), names @ ..]) => {
            let mut fields = fields.clone();
            fields.retain(|name, _| !names.iter().any(|n| n.as_str() == Some(name)));
            Value::Object(fields)
        }
        // The first dictionary wins in `merge`, the last in `mergeOverwrite`.
        ("merge", [Value::Object(_), ..]) => overlay(arguments.iter().rev()),
        ("mergeOverwrite", [Value::Object(_), ..]) => overlay(arguments.iter()),
        ("has", [item, Value::Array(items)]) => Value::Bool(items.iter().any(|i| same(i, item))),
        ("fromYaml", [Value::String(text)]) => match yaml::read(text).map(|mut all| all.pop()) {
            Ok(Some(value @ Value::Object(_))) => value,
            _ => return Err(format!("not a mapping: {text}")),
        },
        ("toPrettyJson", [value]) => Value::String(yaml::pretty_json(value)),
        ("Files.Get", [Value::Object(files), Value::String(path)]) => {
            files.get(path).cloned().unwrap_or_else(|| Value::from(""))
        }
        ("Files.Glob", [Value::Object(files), Value::String(pattern)]) => {
            let (start, end) = pattern.split_once('*').unwrap_or((pattern, ""));
            let matching = |path: &str| {
                path.strip_prefix(start)
                    .and_then(|p| p.strip_suffix(end))
                    .is_some_and(|p| !p.contains('/'))
            };
            Value::Object(
                files
                    .iter()
                    .filter(|(path, _)| matching(path))
                    .map(|(k, v)| (k.clone(), v.clone()))
                    .collect(),
            )
        }
        ("printf", [Value::String(format), rest @ ..]) => Value::String(printf(format, rest)?),
        ("get", [Value::Object(fields), Value::String(key)]) => fields.get(key).cloned().unwrap_or_default(),
        _ => return Err(wrong(&arguments)),
    })
}

fn overlay<'a>(layers: impl Iterator<Item = &'a Value>) -> Value {
    let mut result = Value::Object(Map::new());
    for layer in layers {
        crate::merge::merge(&mut result, layer);
    }
    result
}

fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "invalid",
        Value::Bool(_) => "bool",
        Value::Number(_) => "float64",
        Value::String(_) => "string",
        Value::Array(_) => "slice",
        Value::Object(_) => "map",
    }
}

fn same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => a.as_f64() == b.as_f64(),
        _ => a == b,
    }
}

fn indent(by: &serde_json::Number, text: &str) -> String {
    let blanks = " ".repeat(by.as_u64().unwrap_or_default().min(64) as usize);
    let lines: Vec<String> = text.split('\n').map(|line| format!("{blanks}{line}")).collect();
    lines.join("\n")
}

/// `%s`, `%d`, `%v` and `%%`.
fn printf(format: &str, arguments: &[Value]) -> Result<String, String> {
    let mut out = String::new();
    let mut arguments = arguments.iter();
    let mut chars = format.chars();
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        match chars.next() {
            Some('%') => out.push('%'),
            Some('s' | 'd' | 'v') => {
                out.push_str(&text(arguments.next().ok_or("printf has too few values")?)?)
            }
            other => return Err(format!("printf does not know %{}", other.unwrap_or(' '))),
        }
    }
    Ok(out)
}
