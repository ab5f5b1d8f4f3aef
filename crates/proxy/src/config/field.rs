//! Fields that many Envoy messages share: durations, addresses, ranges, shares, files, metadata.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use http::HeaderName;
use ipnet::IpNet;
use isthmus_xds::envoy::google::protobuf::{self as pb, value::Kind};
use isthmus_xds::envoy::{core, types};

use super::endpoint::Address;
use super::refusal::{At, Refusal, refuse_set};

/// Longest duration protobuf allows, in seconds.
const MAX_SECONDS: i64 = 315_576_000_000;
/// Files that a configuration names are read up to this size.
const MAX_FILE: u64 = 1 << 20;

/// A duration, which may be zero and not negative.
pub fn duration(field: &str, d: &pb::Duration) -> Result<Duration, Refusal> {
    let nanos = u32::try_from(d.nanos).ok().filter(|n| *n < 1_000_000_000);
    match (u64::try_from(d.seconds), nanos) {
        (Ok(seconds), Some(nanos)) if d.seconds <= MAX_SECONDS => Ok(Duration::new(seconds, nanos)),
        _ => Err(Refusal::new(
            field,
            format!(
                "{}s {}ns is no duration from 0 to 10000 years",
                d.seconds, d.nanos
            ),
        )),
    }
}

/// A duration or the default.
pub fn duration_or(field: &str, d: Option<&pb::Duration>, default: Duration) -> Result<Duration, Refusal> {
    d.map_or(Ok(default), |d| duration(field, d))
}

/// A timeout: absent is the default, zero switches it off.
pub fn timeout(
    field: &str,
    d: Option<&pb::Duration>,
    default: Option<Duration>,
) -> Result<Option<Duration>, Refusal> {
    match d {
        None => Ok(default),
        Some(d) => Ok(Some(duration(field, d)?).filter(|d| !d.is_zero())),
    }
}

/// A duration above zero, or the default.
pub fn positive_or(field: &str, d: Option<&pb::Duration>, default: Duration) -> Result<Duration, Refusal> {
    let d = duration_or(field, d, default)?;
    if d.is_zero() {
        return Err(Refusal::new(field, "must be greater than 0s"));
    }
    Ok(d)
}

/// A wrapped number or the default.
pub fn number_or(v: &Option<pb::UInt32Value>, default: u32) -> u32 {
    v.as_ref().map_or(default, |v| v.value)
}

/// A wrapped boolean or the default.
pub fn bool_or(v: &Option<pb::BoolValue>, default: bool) -> bool {
    v.as_ref().map_or(default, |v| v.value)
}

/// A port from 0 to 65535.
pub fn port(field: &str, v: u32) -> Result<u16, Refusal> {
    u16::try_from(v).map_err(|_| Refusal::new(field, format!("{v} is no port; it must be at most 65535")))
}

/// An enum's value, or a refusal that names the number.
pub fn variant<E: TryFrom<i32>>(field: &str, v: i32) -> Result<E, Refusal> {
    E::try_from(v)
        .map_err(|_| Refusal::new(field, format!("{v} is no value of this enum that is known here")))
}

/// A required sub-message.
pub fn required<'a, T>(field: &str, v: &'a Option<T>) -> Result<&'a T, Refusal> {
    v.as_ref()
        .ok_or_else(|| Refusal::new(field, "is required and not set"))
}

/// A text that may not be empty.
pub fn name(field: &str, v: &str) -> Result<Arc<str>, Refusal> {
    if v.is_empty() {
        return Err(Refusal::new(field, "may not be empty"));
    }
    Ok(v.into())
}

/// `None` when empty.
pub fn optional_text(v: &str) -> Option<Arc<str>> {
    (!v.is_empty()).then(|| v.into())
}

/// A header's name.
pub fn header_name(field: &str, v: &str) -> Result<HeaderName, Refusal> {
    v.parse()
        .map_err(|_| Refusal::new(field, format!("{v:?} is no header name that can be used here")))
}

/// Where something is.
pub fn address(a: &core::Address) -> Result<Address, Refusal> {
    match &a.address {
        Some(core::address::Address::SocketAddress(s)) => socket_or_name(s).at("socket_address"),
        Some(core::address::Address::Pipe(p)) => {
            if p.path.is_empty() || p.path.starts_with('@') {
                return Err(Refusal::new("pipe.path", format!("{:?} is no file path", p.path)));
            }
            Ok(Address::Unix(p.path.as_str().into()))
        }
        Some(core::address::Address::EnvoyInternalAddress(_)) => {
            Err(Refusal::unsupported("envoy_internal_address"))
        }
        None => Err(Refusal::new("", "holds no address")),
    }
}

fn socket_or_name(s: &core::SocketAddress) -> Result<Address, Refusal> {
    refuse_set!(s; protocol, resolver_name, network_namespace_filepath);
    let port = match &s.port_specifier {
        Some(core::socket_address::PortSpecifier::PortValue(p)) => port("port_value", *p)?,
        Some(core::socket_address::PortSpecifier::NamedPort(_)) => {
            return Err(Refusal::unsupported("named_port"));
        }
        None => 0,
    };
    match s.address.parse::<IpAddr>() {
        Ok(ip) => Ok(Address::Socket(SocketAddr::new(ip, port))),
        Err(_) if is_dns_name(&s.address) => Ok(Address::Name(s.address.to_ascii_lowercase().into(), port)),
        Err(_) => Err(Refusal::new(
            "address",
            format!("{:?} is neither an IP address nor a host name", s.address),
        )),
    }
}

fn is_dns_name(name: &str) -> bool {
    let name = name.strip_suffix('.').unwrap_or(name);
    (1..=253).contains(&name.len())
        && name.split('.').all(|label| {
            (1..=63).contains(&label.len())
                && label
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
        })
}

/// An IP address and port; names are refused.
pub fn socket_address(a: &core::Address) -> Result<SocketAddr, Refusal> {
    match address(a)? {
        Address::Socket(s) => Ok(s),
        Address::Name(name, _) => Err(Refusal::new(
            "socket_address.address",
            format!("{name:?} must be an IP address"),
        )),
        Address::Unix(_) => Err(Refusal::unsupported("pipe")),
    }
}

/// A range of addresses; an absent length is 0, as in Envoy.
pub fn cidr(c: &core::CidrRange) -> Result<IpNet, Refusal> {
    let ip: IpAddr = c.address_prefix.parse().map_err(|_| {
        Refusal::new(
            "address_prefix",
            format!("{:?} is no IP address", c.address_prefix),
        )
    })?;
    let length = number_or(&c.prefix_len, 0);
    u8::try_from(length)
        .ok()
        .and_then(|l| IpNet::new(ip, l).ok())
        .map(|n| n.trunc())
        .ok_or_else(|| Refusal::new("prefix_len", format!("{length} is too long for {ip}")))
}

/// Several ranges.
pub fn cidrs(field: &str, ranges: &[core::CidrRange]) -> Result<Vec<IpNet>, Refusal> {
    ranges
        .iter()
        .enumerate()
        .map(|(i, c)| cidr(c).nth(field, i))
        .collect()
}

/// A share in parts per million, at most all.
pub fn fraction(field: &str, f: &types::FractionalPercent) -> Result<u32, Refusal> {
    use types::fractional_percent::DenominatorType;
    let scale = match variant::<DenominatorType>(field, f.denominator).at("denominator")? {
        DenominatorType::Hundred => 10_000,
        DenominatorType::TenThousand => 100,
        DenominatorType::Million => 1,
    };
    Ok(f.numerator.saturating_mul(scale).min(1_000_000))
}

/// The default of a share that could be overridden at run time; there is no run-time layer here.
pub fn runtime_fraction(
    field: &str,
    f: Option<&core::RuntimeFractionalPercent>,
) -> Result<Option<u32>, Refusal> {
    f.and_then(|f| f.default_value.as_ref())
        .map(|d| fraction(field, d))
        .transpose()
}

/// Percent as parts per million.
pub fn percent(field: &str, p: &types::Percent) -> Result<u32, Refusal> {
    if !(0.0..=100.0).contains(&p.value) {
        return Err(Refusal::new(
            field,
            format!("{} must be from 0 to 100 percent", p.value),
        ));
    }
    Ok((p.value * 10_000.0).round() as u32)
}

/// The text of a data source: inline, from a file, from the environment.
pub fn data(d: &core::DataSource) -> Result<Vec<u8>, Refusal> {
    use core::data_source::Specifier;
    match &d.specifier {
        Some(Specifier::InlineString(s)) => Ok(s.clone().into_bytes()),
        Some(Specifier::InlineBytes(b)) => Ok(b.clone()),
        Some(Specifier::Filename(path)) => read_file(path).at("filename"),
        Some(Specifier::EnvironmentVariable(name)) => std::env::var(name)
            .map(String::into_bytes)
            .map_err(|_| Refusal::new("environment_variable", format!("{name:?} is not set or no text"))),
        None => Err(Refusal::new("", "holds no data")),
    }
}

/// The text of a data source that has to be UTF-8.
pub fn text(d: &core::DataSource) -> Result<Arc<str>, Refusal> {
    String::from_utf8(data(d)?)
        .map(Into::into)
        .map_err(|_| Refusal::new("", "is not UTF-8 text"))
}

/// Reads a regular file of bounded size.
pub fn read_file(path: &str) -> Result<Vec<u8>, Refusal> {
    let refuse = |why: String| Refusal::new("", format!("{path:?} cannot be read: {why}"));
    let metadata = std::fs::metadata(path).map_err(|e| refuse(e.to_string()))?;
    if !metadata.is_file() {
        return Err(refuse("it is no regular file".into()));
    }
    if metadata.len() > MAX_FILE {
        return Err(refuse(format!("it is larger than {MAX_FILE} bytes")));
    }
    std::fs::read(path).map_err(|e| refuse(e.to_string()))
}

/// One filter's metadata.
pub fn metadata<'a>(m: &'a Option<core::Metadata>, filter: &str) -> Option<&'a pb::Struct> {
    m.as_ref()?.filter_metadata.get(filter)
}

/// A text in a struct.
pub fn struct_text<'a>(s: &'a pb::Struct, key: &str) -> Option<&'a str> {
    match s.fields.get(key)?.kind.as_ref()? {
        Kind::StringValue(v) => Some(v),
        _ => None,
    }
}

/// A number in a struct.
pub fn struct_number(s: &pb::Struct, key: &str) -> Option<f64> {
    match s.fields.get(key)?.kind.as_ref()? {
        Kind::NumberValue(v) => Some(*v),
        _ => None,
    }
}

/// A boolean in a struct.
pub fn struct_bool(s: &pb::Struct, key: &str) -> Option<bool> {
    match s.fields.get(key)?.kind.as_ref()? {
        Kind::BoolValue(v) => Some(*v),
        _ => None,
    }
}

/// A struct in a struct.
pub fn struct_struct<'a>(s: &'a pb::Struct, key: &str) -> Option<&'a pb::Struct> {
    match s.fields.get(key)?.kind.as_ref()? {
        Kind::StructValue(v) => Some(v),
        _ => None,
    }
}

/// Every field as text.
pub fn struct_labels(field: &str, s: &pb::Struct) -> Result<Vec<(String, String)>, Refusal> {
    let mut labels = s
        .fields
        .iter()
        .map(|(k, v)| match &v.kind {
            Some(Kind::StringValue(v)) => Ok((k.clone(), v.clone())),
            _ => Err(Refusal::new(field, format!("the value of {k:?} must be text"))),
        })
        .collect::<Result<Vec<_>, _>>()?;
    labels.sort();
    Ok(labels)
}

/// `filter_metadata["isthmus"].because`: the object behind a part of the configuration.
pub fn because(m: &Option<core::Metadata>) -> Option<Arc<str>> {
    metadata(m, "isthmus")
        .and_then(|s| struct_text(s, "because"))
        .map(Into::into)
}

/// A protobuf value as JSON; numbers without a fraction become integers.
pub fn json(v: &pb::Value) -> serde_json::Value {
    use serde_json::Value as J;
    match &v.kind {
        None | Some(Kind::NullValue(_)) => J::Null,
        Some(Kind::BoolValue(b)) => J::Bool(*b),
        Some(Kind::StringValue(s)) => J::String(s.clone()),
        Some(Kind::NumberValue(n)) if n.fract() == 0.0 && n.abs() < 9e15 => J::from(*n as i64),
        Some(Kind::NumberValue(n)) => serde_json::Number::from_f64(*n).map_or(J::Null, J::Number),
        Some(Kind::ListValue(l)) => J::Array(l.values.iter().map(json).collect()),
        Some(Kind::StructValue(s)) => J::Object(json_object(s).into_iter().collect()),
    }
}

/// A protobuf struct as the members of a JSON object, by key.
pub fn json_object(s: &pb::Struct) -> Vec<(String, serde_json::Value)> {
    let mut members: Vec<_> = s.fields.iter().map(|(k, v)| (k.clone(), json(v))).collect();
    members.sort_by(|a, b| a.0.cmp(&b.0));
    members
}
