//! Changes to input: of bytes, of text, of trees.

use serde_json::Value;

/// Numbers that follow from a seed (xorshift64*, Vigna 2016).
#[derive(Debug, Clone)]
pub struct Numbers(u64);

impl Numbers {
    /// The same seed gives the same numbers.
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// The next number.
    pub fn number(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// A number below `bound`, 0 for a bound of 0.
    pub fn below(&mut self, bound: usize) -> usize {
        if bound == 0 {
            0
        } else {
            (self.number() >> 16) as usize % bound
        }
    }

    /// One of a list.
    pub fn one<'a, T>(&mut self, list: &'a [T]) -> Option<&'a T> {
        list.get(self.below(list.len()))
    }
}

/// Bytes that readers treat specially.
const BYTES: [&[u8]; 30] = [
    b"\0",
    b"\xff",
    b"\xff\xff",
    b"\x7f\xff\xff\xff",
    b"\x80\0\0\0",
    b"\x80\x80\x80\x80\x80\x80\x80\x80\x80\x01",
    b"\r\n",
    b"\r\n\r\n",
    b" ",
    b"\t",
    b":",
    b"%",
    b"%00",
    b"%2e%2e",
    b"/../",
    b"//",
    b"\\",
    b"\"",
    b"{",
    b"}",
    b"[",
    b"]",
    b"---\n",
    b"&a ",
    b"*a",
    b"!!binary ",
    b"| ",
    b"\xc3\x28",
    b"-----BEGIN CERTIFICATE-----\n",
    b"\xe2\x80\xa8",
];

/// Changes bytes in one to eight places.
pub fn bytes(input: &mut Vec<u8>, other: &[u8], numbers: &mut Numbers) {
    for _ in 0..=numbers.below(8) {
        let at = numbers.below(input.len() + 1);
        let end = (at + 1 + numbers.below(16)).min(input.len());
        match numbers.below(9) {
            0 if at < input.len() => input[at] ^= 1 << numbers.below(8),
            1 if at < input.len() => input[at] = numbers.number() as u8,
            2 => drop(input.drain(at..end)),
            3 => {
                let piece = input[at..end].to_vec();
                let to = numbers.below(input.len() + 1);
                input.splice(to..to, piece);
            }
            4 => {
                let special = numbers.one(&BYTES).copied().unwrap_or_default();
                input.splice(at..at, special.iter().copied());
            }
            5 => {
                let special = numbers.one(&BYTES).copied().unwrap_or_default();
                let end = (at + special.len()).min(input.len());
                input.splice(at..end, special.iter().copied());
            }
            6 => input.truncate(at),
            7 => {
                // A piece of other input of the same kind.
                let from = numbers.below(other.len() + 1);
                let to = (from + numbers.below(64)).min(other.len());
                input.splice(at..at, other[from..to].iter().copied());
            }
            _ => {
                let piece = input[at..end].to_vec();
                for _ in 0..numbers.below(200) {
                    input.splice(at..at, piece.iter().copied());
                }
            }
        }
        input.truncate(1 << 16);
    }
}

/// Values that validation is for.
const TEXTS: [&str; 44] = [
    "",
    " ",
    "*",
    ".",
    "..",
    "*.",
    "*.*",
    "-",
    "/",
    "a/b",
    "a/b/c/d",
    "0",
    "-1",
    "1",
    "65535",
    "65536",
    "4294967296",
    "1e400",
    "NaN",
    "true",
    "null",
    "~",
    "0s",
    "-1s",
    "1.5s",
    "315576000001s",
    "9999999999999h",
    "10.0.0.0/33",
    "::/0",
    "::1",
    "0.0.0.0",
    "255.255.255.255",
    "[::]:80",
    "unix:///a",
    "%",
    "%REQ(",
    "%DOWNSTREAM_REMOTE_ADDRESS%",
    "(",
    "[a-",
    "(a*)*b",
    "ü\u{2028}",
    "a\nb",
    "spiffe://corp.local/ns/a/sa/b",
    "outbound|80||a.b",
];

/// Changes a tree in one to three places.
pub fn tree(value: &mut Value, other: &Value, numbers: &mut Numbers) {
    for _ in 0..=numbers.below(3) {
        let size = count(value);
        let at = numbers.below(size);
        if let Some(node) = nth(value, &mut at.clone()) {
            change(node, other, numbers);
        }
    }
}

fn change(node: &mut Value, other: &Value, numbers: &mut Numbers) {
    let text = |numbers: &mut Numbers| Value::from(numbers.one(&TEXTS).copied().unwrap_or_default());
    match numbers.below(8) {
        0 => *node = text(numbers),
        1 => {
            let number = [
                0,
                1,
                -1,
                80,
                443,
                15443,
                65536,
                i64::MAX,
                i64::MIN,
                1 << 32,
                100,
                101,
            ];
            *node = numbers.one(&number).copied().unwrap_or_default().into();
        }
        2 => {
            *node =
                [Value::Null, true.into(), false.into(), 0.1.into(), 1e300.into()][numbers.below(5)].clone()
        }
        3 => *node = [serde_json::json!([]), serde_json::json!({})][numbers.below(2)].clone(),
        // What stands elsewhere stands here.
        4 => {
            let size = count(other);
            let from = numbers.below(size);
            if let Some(found) = nth(&mut other.clone(), &mut from.clone()) {
                *node = found.take();
            }
        }
        _ => match node {
            Value::Array(list) if !list.is_empty() => {
                let at = numbers.below(list.len());
                match numbers.below(3) {
                    0 => drop(list.remove(at)),
                    1 => list.swap(0, at),
                    _ => {
                        let member = list[at].clone();
                        list.extend(std::iter::repeat_n(member, 1 + numbers.below(40)));
                    }
                }
            }
            Value::Object(map) if !map.is_empty() => {
                let at = numbers.below(map.len());
                let Some(key) = map.keys().nth(at).cloned() else {
                    return;
                };
                match numbers.below(3) {
                    0 => drop(map.remove(&key)),
                    1 => {
                        let member = map.remove(&key).unwrap_or_default();
                        map.insert(format!("{key}x"), member);
                    }
                    _ => {
                        let name = numbers.one(&TEXTS).copied().unwrap_or_default();
                        map.insert(name.to_owned(), text(numbers));
                    }
                }
            }
            Value::String(said) => {
                let mut raw = std::mem::take(said).into_bytes();
                bytes(&mut raw, b"", numbers);
                raw.truncate(4096);
                *said = String::from_utf8_lossy(&raw).into_owned();
            }
            node => *node = text(numbers),
        },
    }
}

fn count(value: &Value) -> usize {
    1 + match value {
        Value::Array(list) => list.iter().map(count).sum(),
        Value::Object(map) => map.values().map(count).sum(),
        _ => 0,
    }
}

/// The node that `at` counts down to, parents first.
fn nth<'v>(value: &'v mut Value, at: &mut usize) -> Option<&'v mut Value> {
    if *at == 0 {
        return Some(value);
    }
    *at -= 1;
    let members: Box<dyn Iterator<Item = &'v mut Value>> = match value {
        Value::Array(list) => Box::new(list.iter_mut()),
        Value::Object(map) => Box::new(map.values_mut()),
        _ => return None,
    };
    for member in members {
        let size = count(member);
        if *at < size {
            return nth(member, at);
        }
        *at -= size;
    }
    None
}
