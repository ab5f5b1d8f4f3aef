//! Short forms of Envoy's messages: wrappers, addresses, config sources, metadata.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;

use isthmus_model::{EndpointAddress, Locality};
use isthmus_xds::envoy::google::protobuf::{
    Any, BoolValue, Duration as ProtoDuration, ListValue, Struct, UInt32Value, UInt64Value, Value,
    value::Kind,
};
use isthmus_xds::envoy::pb::envoy::r#type::v3::Int32Range;
use isthmus_xds::envoy::pb::xds;
use isthmus_xds::envoy::{core, listener, matcher, types};
use prost::{Message, Name};

/// `google.protobuf.UInt32Value`.
pub fn uint(value: u32) -> Option<UInt32Value> {
    Some(UInt32Value { value })
}

/// `google.protobuf.UInt64Value`.
pub fn uint64(value: u64) -> Option<UInt64Value> {
    Some(UInt64Value { value })
}

/// `google.protobuf.BoolValue`.
pub fn boolean(value: bool) -> Option<BoolValue> {
    Some(BoolValue { value })
}

/// `google.protobuf.Duration`.
pub fn duration(value: Duration) -> Option<ProtoDuration> {
    Some(ProtoDuration {
        seconds: i64::try_from(value.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(value.subsec_nanos()).unwrap_or_default(),
    })
}

/// `envoy.type.v3.Percent`.
pub fn percent(value: f64) -> Option<types::Percent> {
    Some(types::Percent { value })
}

/// A share of all requests, `percent` from 0 to 100, in millionths as Istio sends it.
pub fn fraction(percent: f64) -> types::FractionalPercent {
    types::FractionalPercent {
        numerator: (percent.clamp(0.0, 100.0) * 10_000.0).round() as u32,
        denominator: types::fractional_percent::DenominatorType::Million as i32,
    }
}

/// [`fraction`] where Envoy wants a runtime key beside it.
pub fn runtime_fraction(percent: f64) -> Option<core::RuntimeFractionalPercent> {
    Some(core::RuntimeFractionalPercent {
        default_value: Some(fraction(percent)),
        runtime_key: String::new(),
    })
}

/// Packs a message.
pub fn any<M: Message + Name>(message: &M) -> Any {
    isthmus_xds::pack(message)
}

/// A message of a type that has no generated struct here, with no field set.
pub fn any_empty(type_name: &str) -> Any {
    Any {
        type_url: format!("type.googleapis.com/{type_name}"),
        value: Vec::new(),
    }
}

/// A TCP socket address.
pub fn socket(address: impl Into<String>, port: u16) -> core::Address {
    core::Address {
        address: Some(core::address::Address::SocketAddress(socket_address(
            address, port,
        ))),
    }
}

/// A TCP socket address where Envoy wants no other kind.
pub fn socket_address(address: impl Into<String>, port: u16) -> core::SocketAddress {
    core::SocketAddress {
        address: address.into(),
        port_specifier: Some(core::socket_address::PortSpecifier::PortValue(u32::from(port))),
        ..Default::default()
    }
}

/// An endpoint's address.
pub fn endpoint_address(address: &EndpointAddress, port: u16) -> core::Address {
    match address {
        EndpointAddress::Ip(ip) => socket(ip.to_string(), port),
        EndpointAddress::Host(host) => socket(host.as_str(), port),
        EndpointAddress::Unix(path) => core::Address {
            address: Some(core::address::Address::Pipe(core::Pipe {
                path: path.clone(),
                mode: 0,
            })),
        },
    }
}

/// One address as a range.
pub fn host_range(ip: IpAddr) -> core::CidrRange {
    core::CidrRange {
        address_prefix: ip.to_string(),
        prefix_len: uint(if ip.is_ipv4() { 32 } else { 128 }),
    }
}

/// A range of addresses.
pub fn range(net: &ipnet::IpNet) -> core::CidrRange {
    core::CidrRange {
        address_prefix: net.network().to_string(),
        prefix_len: uint(u32::from(net.prefix_len())),
    }
}

/// Envoy `core.v3.Locality`.
pub fn locality(locality: &Locality) -> core::Locality {
    core::Locality {
        region: locality.region.clone(),
        zone: locality.zone.clone(),
        sub_zone: locality.subzone.clone(),
    }
}

/// The same ADS stream.
pub fn ads() -> Option<core::ConfigSource> {
    Some(core::ConfigSource {
        authorities: Vec::<xds::core::v3::Authority>::new(),
        initial_fetch_timeout: duration(Duration::ZERO),
        resource_api_version: core::ApiVersion::V3 as i32,
        config_source_specifier: Some(core::config_source::ConfigSourceSpecifier::Ads(
            core::AggregatedConfigSource {},
        )),
    })
}

/// The agent beside the proxy: Istio's bootstraps know it as cluster `sds-grpc`. The proxy of this
/// repository is its own agent.
pub fn agent() -> Option<core::ConfigSource> {
    use core::{api_config_source, grpc_service};
    let service = core::GrpcService {
        target_specifier: Some(grpc_service::TargetSpecifier::EnvoyGrpc(
            grpc_service::EnvoyGrpc {
                cluster_name: "sds-grpc".to_owned(),
                ..Default::default()
            },
        )),
        ..Default::default()
    };
    let source = core::ApiConfigSource {
        api_type: api_config_source::ApiType::Grpc as i32,
        transport_api_version: core::ApiVersion::V3 as i32,
        set_node_on_first_message_only: true,
        grpc_services: vec![service],
        ..Default::default()
    };
    Some(core::ConfigSource {
        initial_fetch_timeout: duration(Duration::ZERO),
        resource_api_version: core::ApiVersion::V3 as i32,
        config_source_specifier: Some(core::config_source::ConfigSourceSpecifier::ApiConfigSource(
            source,
        )),
        ..Default::default()
    })
}

/// A transport socket by its Envoy name.
pub fn transport_socket(name: &str, config: Any) -> core::TransportSocket {
    core::TransportSocket {
        name: name.to_owned(),
        config_type: Some(core::transport_socket::ConfigType::TypedConfig(config)),
    }
}

/// A network filter by its Envoy name.
pub fn network_filter(name: &str, config: Any) -> listener::Filter {
    listener::Filter {
        name: name.to_owned(),
        config_type: Some(listener::filter::ConfigType::TypedConfig(config)),
    }
}

/// A listener filter by its Envoy name and type.
pub fn listener_filter(name: &str, type_name: &str) -> listener::ListenerFilter {
    listener::ListenerFilter {
        name: name.to_owned(),
        filter_disabled: None,
        config_type: Some(listener::listener_filter::ConfigType::TypedConfig(any_empty(
            type_name,
        ))),
    }
}

/// A listener filter that does not look at connections to some ports.
pub fn listener_filter_except(name: &str, type_name: &str, ports: &[u16]) -> listener::ListenerFilter {
    use listener::ListenerFilterChainMatchPredicate as Predicate;
    use listener::listener_filter_chain_match_predicate::{MatchSet, Rule};
    let one = |port: &u16| Predicate {
        rule: Some(Rule::DestinationPortRange(Int32Range {
            start: i32::from(*port),
            end: i32::from(*port) + 1,
        })),
    };
    listener::ListenerFilter {
        filter_disabled: match ports {
            [] => None,
            [only] => Some(one(only)),
            several => Some(Predicate {
                rule: Some(Rule::OrMatch(MatchSet {
                    rules: several.iter().map(one).collect(),
                })),
            }),
        },
        ..listener_filter(name, type_name)
    }
}

/// `exact` of a string matcher.
pub fn exact(value: impl Into<String>) -> matcher::StringMatcher {
    string_matcher(matcher::string_matcher::MatchPattern::Exact(value.into()))
}

/// `prefix` of a string matcher.
pub fn prefix(value: impl Into<String>) -> matcher::StringMatcher {
    string_matcher(matcher::string_matcher::MatchPattern::Prefix(value.into()))
}

/// `suffix` of a string matcher.
pub fn suffix(value: impl Into<String>) -> matcher::StringMatcher {
    string_matcher(matcher::string_matcher::MatchPattern::Suffix(value.into()))
}

/// `safe_regex` of a string matcher, anchored at both ends by Envoy.
pub fn regex_matcher(value: impl Into<String>) -> matcher::StringMatcher {
    string_matcher(matcher::string_matcher::MatchPattern::SafeRegex(regex(value)))
}

/// A regular expression.
pub fn regex(value: impl Into<String>) -> matcher::RegexMatcher {
    matcher::RegexMatcher {
        regex: value.into(),
        ..Default::default()
    }
}

fn string_matcher(pattern: matcher::string_matcher::MatchPattern) -> matcher::StringMatcher {
    matcher::StringMatcher {
        ignore_case: false,
        match_pattern: Some(pattern),
    }
}

/// A text value.
pub fn text(value: impl Into<String>) -> Value {
    Value {
        kind: Some(Kind::StringValue(value.into())),
    }
}

/// A number value.
pub fn number(value: f64) -> Value {
    Value {
        kind: Some(Kind::NumberValue(value)),
    }
}

/// A truth value.
pub fn truth(value: bool) -> Value {
    Value {
        kind: Some(Kind::BoolValue(value)),
    }
}

/// A list value.
pub fn list(values: impl IntoIterator<Item = Value>) -> Value {
    Value {
        kind: Some(Kind::ListValue(ListValue {
            values: values.into_iter().collect(),
        })),
    }
}

/// A struct as a value.
pub fn nested(value: Struct) -> Value {
    Value {
        kind: Some(Kind::StructValue(value)),
    }
}

/// A struct from its fields.
pub fn structure<K: Into<String>>(fields: impl IntoIterator<Item = (K, Value)>) -> Struct {
    Struct {
        fields: fields
            .into_iter()
            .map(|(k, v)| (k.into(), v))
            .collect::<HashMap<_, _>>(),
    }
}

/// `filter_metadata` from its namespaces.
pub fn metadata<K: Into<String>>(
    namespaces: impl IntoIterator<Item = (K, Struct)>,
) -> Option<core::Metadata> {
    let filter_metadata: HashMap<_, _> = namespaces.into_iter().map(|(k, v)| (k.into(), v)).collect();
    (!filter_metadata.is_empty()).then(|| core::Metadata {
        filter_metadata,
        ..Default::default()
    })
}

/// `filter_metadata["isthmus"].because`: the object and line behind a decision.
pub fn because(reason: &str) -> Option<core::Metadata> {
    if reason.is_empty() {
        return None;
    }
    metadata([("isthmus", structure([("because", text(reason))]))])
}
