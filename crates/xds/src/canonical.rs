//! One content, one encoding: the entries of protobuf maps in the order of their keys.
//!
//! Rust's hash maps give their entries in another order each time, so the same message would be other bytes
//! at every generation, another version, and one more push to everybody. Only the order of entries is
//! changed, so no length changes and everything happens in place. Which fields are maps is known from
//! Envoy's descriptors (`build.rs`); what is not known is left as it is, and so is anything malformed.

use crate::any;

/// A field that is a map, or in which one can occur.
#[derive(Debug, Clone, Copy)]
enum Field {
    /// A map; its values are messages with this index, or of no interest.
    Map(Option<u16>),
    /// A message, repeated or not.
    Message(u16),
}

mod table {
    use super::Field;
    include!(concat!(env!("OUT_DIR"), "/maps.rs"));
}

/// Deeper nesting than any decoder takes (prost's limit).
const DEPTH: u32 = 100;

/// Brings the encoding of a message, named by its type URL, into its canonical order.
pub(crate) fn order(type_url: &str, bytes: &mut [u8]) {
    if let Some(message) = find(type_url) {
        let _ = order_message(message, bytes, DEPTH);
    }
}

fn find(type_url: &str) -> Option<u16> {
    let name = any::full_name(type_url);
    let at = table::MESSAGES
        .binary_search_by(|(candidate, _)| (*candidate).cmp(name))
        .ok()?;
    u16::try_from(at).ok()
}

/// `None` when the bytes make no sense; what came before is in order then.
fn order_message(message: u16, bytes: &mut [u8], depth: u32) -> Option<()> {
    let depth = depth.checked_sub(1)?;
    if message == table::ANY {
        return order_any(bytes, depth);
    }
    let (_, fields) = table::MESSAGES.get(usize::from(message))?;
    // Start and end of the entries of the map that is being read: entries of one map follow each other.
    let mut run: Vec<(usize, usize)> = Vec::new();
    let mut run_of = 0;
    let mut at = 0;
    while at < bytes.len() {
        let start = at;
        let (number, payload) = field(bytes, &mut at)?;
        if number != run_of {
            sort(bytes, &mut run);
            run_of = number;
        }
        let Some((from, to)) = payload else { continue };
        let Ok(known) = fields.binary_search_by_key(&number, |(n, _)| *n) else {
            continue;
        };
        match fields[known].1 {
            Field::Message(inner) => order_message(inner, &mut bytes[from..to], depth)?,
            Field::Map(value) => {
                if let Some(value) = value {
                    order_entry(value, &mut bytes[from..to], depth)?;
                }
                run.push((start, to));
            }
        }
    }
    sort(bytes, &mut run);
    Some(())
}

fn order_entry(value: u16, bytes: &mut [u8], depth: u32) -> Option<()> {
    let mut at = 0;
    while at < bytes.len() {
        if let (2, Some((from, to))) = field(bytes, &mut at)? {
            order_message(value, &mut bytes[from..to], depth)?;
        }
    }
    Some(())
}

fn order_any(bytes: &mut [u8], depth: u32) -> Option<()> {
    let (mut url, mut value) = (None, None);
    let mut at = 0;
    while at < bytes.len() {
        match field(bytes, &mut at)? {
            (1, Some(range)) => url = Some(range),
            (2, Some(range)) => value = Some(range),
            _ => {}
        }
    }
    // A message of defaults alone is encoded as nothing.
    let (Some((url_from, url_to)), Some((from, to))) = (url, value) else {
        return Some(());
    };
    // A message without maps is in order, and what stands beside it has still to be put in order.
    match find(std::str::from_utf8(&bytes[url_from..url_to]).ok()?) {
        Some(message) => order_message(message, &mut bytes[from..to], depth),
        None => Some(()),
    }
}

fn sort(bytes: &mut [u8], run: &mut Vec<(usize, usize)>) {
    if let (true, Some(&(start, _)), Some(&(_, end))) = (run.len() > 1, run.first(), run.last()) {
        // The tag is the same for all, then comes the length, then the key: any fixed order will do.
        let mut entries: Vec<Vec<u8>> = run.iter().map(|(from, to)| bytes[*from..*to].to_vec()).collect();
        entries.sort_unstable();
        bytes[start..end].copy_from_slice(&entries.concat());
    }
    run.clear();
}

/// Reads one field at `at` and steps over it. Gives its number and, if it has a length, its payload.
fn field(bytes: &[u8], at: &mut usize) -> Option<(u32, Option<(usize, usize)>)> {
    let tag = varint(bytes, at)?;
    let number = u32::try_from(tag >> 3).ok()?;
    let skip = match tag & 7 {
        0 => {
            varint(bytes, at)?;
            return Some((number, None));
        }
        1 => 8,
        5 => 4,
        2 => {
            let length = usize::try_from(varint(bytes, at)?).ok()?;
            let from = *at;
            *at = from.checked_add(length).filter(|end| *end <= bytes.len())?;
            return Some((number, Some((from, *at))));
        }
        _ => return None,
    };
    *at = at.checked_add(skip).filter(|end| *end <= bytes.len())?;
    Some((number, None))
}

fn varint(bytes: &[u8], at: &mut usize) -> Option<u64> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let byte = *bytes.get(*at)?;
        *at += 1;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use prost::Message;

    use crate::envoy::core::Metadata;
    use crate::envoy::google::protobuf::value::Kind;
    use crate::envoy::listener::{Filter, FilterChain, Listener, filter::ConfigType};
    use crate::envoy::listener_filters::tls_inspector::TlsInspector;
    use crate::envoy::route::{RouteConfiguration, VirtualHost};
    use crate::envoy::{Struct, Value, hcm};
    use crate::{Resource, pack, unpack};

    fn metadata() -> Metadata {
        let value = |text: &str| Value {
            kind: Some(Kind::StringValue(text.into())),
        };
        let fields = || (0..9).map(|i| (format!("key{i}"), value(&"v".repeat(i))));
        let nested = Struct {
            fields: fields()
                .chain([(
                    "n".to_owned(),
                    Value {
                        kind: Some(Kind::StructValue(Struct {
                            fields: fields().collect(),
                        })),
                    },
                )])
                .collect(),
        };
        Metadata {
            filter_metadata: (0..9).map(|i| (format!("m{i}"), nested.clone())).collect(),
            ..Default::default()
        }
    }

    /// A listener with maps at several depths, one of them in an `Any` in an `Any`.
    fn listener() -> Listener {
        let manager = hcm::HttpConnectionManager {
            route_specifier: Some(hcm::http_connection_manager::RouteSpecifier::RouteConfig(
                RouteConfiguration {
                    virtual_hosts: vec![VirtualHost {
                        name: "host".into(),
                        metadata: Some(metadata()),
                        typed_per_filter_config: (0..9)
                            .map(|i| (format!("filter{i}"), pack(&metadata())))
                            .collect(),
                        ..Default::default()
                    }],
                    ..Default::default()
                },
            )),
            ..Default::default()
        };
        let filter = |name: &str, config| Filter {
            name: name.into(),
            config_type: Some(ConfigType::TypedConfig(config)),
        };
        // One without maps stands before the one with them.
        let filters = vec![
            filter("echo", pack(&TlsInspector::default())),
            filter("hcm", pack(&manager)),
        ];
        Listener {
            name: "l".into(),
            metadata: Some(metadata()),
            filter_chains: vec![FilterChain {
                filters,
                ..Default::default()
            }],
            ..Default::default()
        }
    }

    #[test]
    fn the_same_content_is_the_same_bytes() {
        let raw: BTreeSet<Vec<u8>> = (0..8).map(|_| listener().encode_to_vec()).collect();
        assert!(raw.len() > 1, "hash maps have no order of their own");
        let ordered: BTreeSet<Vec<u8>> = (0..8)
            .map(|_| Resource::new("l", &listener()).body.value.clone())
            .collect();
        assert_eq!(ordered.len(), 1);
        let resource = Resource::new("l", &listener());
        assert_eq!(
            unpack::<Listener>(&resource.body).unwrap().metadata,
            Some(metadata())
        );
        let mut other = listener();
        if let Some(m) = other
            .metadata
            .as_mut()
            .and_then(|m| m.filter_metadata.get_mut("m1"))
        {
            m.fields.remove("key1");
        }
        assert_ne!(Resource::new("l", &other).version, resource.version);
    }

    #[test]
    fn whatever_the_bytes_are_nothing_breaks() {
        let whole = listener().encode_to_vec();
        let url = "type.googleapis.com/envoy.config.listener.v3.Listener";
        for end in 0..whole.len().min(4000) {
            super::order(url, &mut whole[..end].to_vec());
        }
        let mut seed = 1u64;
        for _ in 0..2000 {
            let mut bytes = whole.clone();
            for _ in 0..8 {
                seed = seed
                    .wrapping_mul(6364136223846793005)
                    .wrapping_add(1442695040888963407);
                let at = (seed >> 33) as usize % bytes.len();
                bytes[at] = seed as u8;
            }
            super::order(url, &mut bytes);
        }
        super::order(url, &mut [0xff; 64]);
        super::order("unknown", &mut [1, 2, 3]);
    }
}
