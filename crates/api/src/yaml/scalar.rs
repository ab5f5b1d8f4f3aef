//! The type of a plain scalar, by the rules of the reader that `kubectl` uses (YAML 1.1 core, Go).

use super::ScalarKind;

/// The type of an unquoted scalar.
pub(super) fn resolve(text: &str) -> ScalarKind {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return ScalarKind::Null,
        "true" | "True" | "TRUE" | "yes" | "Yes" | "YES" | "on" | "On" | "ON" => {
            return ScalarKind::Bool(true);
        }
        "false" | "False" | "FALSE" | "no" | "No" | "NO" | "off" | "Off" | "OFF" => {
            return ScalarKind::Bool(false);
        }
        ".inf" | ".Inf" | ".INF" | "+.inf" => return ScalarKind::Float(f64::INFINITY),
        "-.inf" | "-.Inf" | "-.INF" => return ScalarKind::Float(f64::NEG_INFINITY),
        ".nan" | ".NaN" | ".NAN" => return ScalarKind::Float(f64::NAN),
        _ => {}
    }
    let Some(first) = text.bytes().next() else {
        return ScalarKind::Null;
    };
    if !(first.is_ascii_digit() || matches!(first, b'+' | b'-' | b'.')) {
        return ScalarKind::Text;
    }
    integer(text).or_else(|| float(text)).unwrap_or(ScalarKind::Text)
}

fn integer(text: &str) -> Option<ScalarKind> {
    let (sign, digits) = match text.as_bytes().first()? {
        b'-' => (-1i128, &text[1..]),
        b'+' => (1, &text[1..]),
        _ => (1, text),
    };
    let (radix, digits) = match digits.as_bytes() {
        [b'0', b'x' | b'X', ..] => (16, &digits[2..]),
        [b'0', b'o', ..] => (8, &digits[2..]),
        [b'0', b'b', ..] => (2, &digits[2..]),
        [b'0', _, ..] => (8, &digits[1..]),
        _ => (10, digits),
    };
    if digits.is_empty() || digits.len() > 40 || !digits.bytes().all(|b| b.is_ascii_hexdigit() || b == b'_') {
        return None;
    }
    let magnitude = i128::from_str_radix(&digits.replace('_', ""), radix).ok()?;
    let value = sign.checked_mul(magnitude)?;
    Some(match i64::try_from(value) {
        Ok(i) => ScalarKind::Int(i),
        Err(_) => ScalarKind::Float(value as f64),
    })
}

fn float(text: &str) -> Option<ScalarKind> {
    let legal = |b: u8| b.is_ascii_digit() || matches!(b, b'.' | b'e' | b'E' | b'+' | b'-');
    if !text.bytes().all(legal) || !text.bytes().any(|b| b.is_ascii_digit()) {
        return None;
    }
    text.parse().ok().map(ScalarKind::Float)
}
