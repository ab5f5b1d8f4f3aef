//! The messages between control planes, package `isthmus.dev.peering.v1`.
//!
//! Fields are only ever added. No message says which cluster its endpoints belong to: they belong to the
//! cluster that the sender's certificate proves.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::str::FromStr;
use std::sync::Arc;

use isthmus_model as model;
use isthmus_model::{ClusterId, EndpointHealth, ExportTo, Resolution, ServiceKey, ServiceOrigin, TlsMode};
use isthmus_xds::TypeUrl;

use crate::member::{MemberHead, MemberService};

/// Most endpoints of one service that are believed.
const MOST_ENDPOINTS: usize = 20_000;
/// Most gateways of one cluster that are believed.
const MOST_GATEWAYS: usize = 1_000;

macro_rules! named {
    ($message:ident, $function:ident, $doc:literal) => {
        impl prost::Name for $message {
            const NAME: &'static str = stringify!($message);
            const PACKAGE: &'static str = "isthmus.dev.peering.v1";
        }

        #[doc = $doc]
        pub fn $function() -> TypeUrl {
            const URL: &str = concat!(
                "type.googleapis.com/isthmus.dev.peering.v1.",
                stringify!($message)
            );
            TypeUrl::from(URL)
        }
    };
}

named!(Cluster, cluster_type, "Type URL of [`Cluster`].");
named!(Service, service_type, "Type URL of [`Service`].");
named!(Vitals, vitals_type, "Type URL of [`Vitals`].");

/// Why a message of a peer is not believed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// A value is not what its field demands.
    #[error("{field}: {reason}")]
    Field {
        /// The field.
        field: &'static str,
        /// What is wrong.
        reason: String,
    },
    /// A value that a later version may have added.
    #[error("{field}: {value} is not known here; upgrade this control plane")]
    Unknown {
        /// The field.
        field: &'static str,
        /// Its value.
        value: i32,
    },
    /// Too much.
    #[error("{field}: more than {limit}")]
    TooMany {
        /// The field.
        field: &'static str,
        /// The bound.
        limit: usize,
    },
}

/// What holds for the whole cluster.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Cluster {
    /// Its name; has to be the proven one.
    #[prost(string, tag = "1")]
    pub cluster: String,
    /// Its own network.
    #[prost(string, tag = "2")]
    pub network: String,
    /// Root of its identities.
    #[prost(string, tag = "3")]
    pub trust_domain: String,
    /// Where its networks are entered.
    #[prost(message, repeated, tag = "4")]
    pub gateways: Vec<Gateway>,
    /// Its other gateways with a passthrough port.
    #[prost(message, repeated, tag = "5")]
    pub passthrough: Vec<Address>,
}

/// A passthrough gateway.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Gateway {
    /// The network behind it.
    #[prost(string, tag = "1")]
    pub network: String,
    /// Address or name.
    #[prost(string, tag = "2")]
    pub address: String,
    /// Port.
    #[prost(uint32, tag = "3")]
    pub port: u32,
    /// `region/zone/subzone`.
    #[prost(string, tag = "4")]
    pub locality: String,
}

/// An address and a port.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Address {
    /// Address or name.
    #[prost(string, tag = "1")]
    pub address: String,
    /// Port.
    #[prost(uint32, tag = "2")]
    pub port: u32,
}

/// A service with the endpoints that the sender's cluster runs.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Service {
    /// Namespace.
    #[prost(string, tag = "1")]
    pub namespace: String,
    /// Host name.
    #[prost(string, tag = "2")]
    pub host: String,
    /// 1 Kubernetes, 2 MESH_INTERNAL, 3 MESH_EXTERNAL.
    #[prost(int32, tag = "3")]
    pub origin: i32,
    /// Ports by number.
    #[prost(message, repeated, tag = "4")]
    pub ports: Vec<Port>,
    /// Virtual addresses in the sender's cluster.
    #[prost(string, repeated, tag = "5")]
    pub addresses: Vec<String>,
    /// Without a cluster IP.
    #[prost(bool, tag = "6")]
    pub headless: bool,
    /// 1 STATIC, 2 DNS, 3 DNS_ROUND_ROBIN, 4 DYNAMIC_DNS, 5 passthrough.
    #[prost(int32, tag = "7")]
    pub resolution: i32,
    /// Labels.
    #[prost(btree_map = "string, string", tag = "8")]
    pub labels: BTreeMap<String, String>,
    /// Whether all namespaces see it.
    #[prost(bool, tag = "9")]
    pub exported_to_all: bool,
    /// Namespaces that see it, unless all do.
    #[prost(string, repeated, tag = "10")]
    pub exported_to: Vec<String>,
    /// SPIFFE ids that a server may prove besides those of the endpoints.
    #[prost(string, repeated, tag = "11")]
    pub subject_alt_names: Vec<String>,
    /// Endpoints of all ports.
    #[prost(message, repeated, tag = "12")]
    pub endpoints: Vec<Endpoint>,
}

/// A port of a service.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Port {
    /// Number.
    #[prost(uint32, tag = "1")]
    pub number: u32,
    /// Name.
    #[prost(string, tag = "2")]
    pub name: String,
    /// Istio's name: HTTP, HTTP2, GRPC, HTTPS, TLS, TCP, UDP; anything else is sniffed.
    #[prost(string, tag = "3")]
    pub protocol: String,
}

/// An endpoint.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Endpoint {
    /// Address or name.
    #[prost(string, tag = "1")]
    pub address: String,
    /// Port.
    #[prost(uint32, tag = "2")]
    pub port: u32,
    /// Name of the service port.
    #[prost(string, tag = "3")]
    pub port_name: String,
    /// Labels of the workload.
    #[prost(btree_map = "string, string", tag = "4")]
    pub labels: BTreeMap<String, String>,
    /// `region/zone/subzone`.
    #[prost(string, tag = "5")]
    pub locality: String,
    /// Network on which the address is valid.
    #[prost(string, tag = "6")]
    pub network: String,
    /// SPIFFE id; empty: it has none.
    #[prost(string, tag = "7")]
    pub identity: String,
    /// Whether it takes mesh mTLS.
    #[prost(bool, tag = "8")]
    pub mtls: bool,
    /// Share of requests.
    #[prost(uint32, tag = "9")]
    pub weight: u32,
    /// 1 healthy, 2 unhealthy, 3 draining.
    #[prost(int32, tag = "10")]
    pub health: i32,
    /// Name of the workload.
    #[prost(string, tag = "11")]
    pub workload: String,
    /// Owner of the workload.
    #[prost(string, tag = "12")]
    pub owner: String,
    /// Namespace of the workload.
    #[prost(string, tag = "13")]
    pub namespace: String,
}

/// A sign of life.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Vitals {
    /// Counts up from the sender's start.
    #[prost(uint64, tag = "1")]
    pub beat: u64,
    /// The sender's clock, milliseconds since 1970.
    #[prost(uint64, tag = "2")]
    pub sent: u64,
    /// How often it comes, milliseconds.
    #[prost(uint64, tag = "3")]
    pub pulse: u64,
}

/// The resource name of a service, `NAMESPACE/HOST`.
pub fn service_name(key: &ServiceKey) -> String {
    format!("{}/{}", key.namespace, key.host)
}

/// Reads a resource name.
pub fn service_key(name: &str) -> Option<ServiceKey> {
    let (namespace, host) = name.split_once('/')?;
    Some(ServiceKey {
        namespace: namespace.to_owned(),
        host: host.parse().ok()?,
    })
}

impl From<&MemberHead> for Cluster {
    fn from(head: &MemberHead) -> Self {
        let gateways = head.gateways.iter().filter(|g| g.cluster == head.cluster);
        Self {
            cluster: head.cluster.to_string(),
            network: head.network.to_string(),
            trust_domain: head.trust_domain.to_string(),
            gateways: gateways
                .map(|g| Gateway {
                    network: g.network.to_string(),
                    address: g.address.to_string(),
                    port: g.port.into(),
                    locality: g.locality.to_string(),
                })
                .collect(),
            passthrough: head
                .passthrough
                .iter()
                .map(|(address, port)| Address {
                    address: address.to_string(),
                    port: (*port).into(),
                })
                .collect(),
        }
    }
}

impl Cluster {
    /// What is believed of it, coming from the cluster that the certificate proves.
    pub fn import(self, proven: &ClusterId) -> Result<MemberHead, WireError> {
        if self.cluster != proven.as_str() {
            let reason = format!(
                "{:?} is not {proven}, whose certificate the sender has",
                self.cluster
            );
            return Err(WireError::Field {
                field: "cluster",
                reason,
            });
        }
        bound("gateways", self.gateways.len(), MOST_GATEWAYS)?;
        bound("passthrough", self.passthrough.len(), MOST_GATEWAYS)?;
        let gateways = self.gateways.into_iter().map(|g| {
            Ok(model::NetworkGateway {
                network: g.network.into(),
                cluster: proven.clone(),
                address: parse("gateways.address", &g.address)?,
                port: port("gateways.port", g.port)?,
                locality: g.locality.into(),
            })
        });
        let passthrough = self.passthrough.into_iter().map(|a| {
            Ok((
                parse("passthrough.address", &a.address)?,
                port("passthrough.port", a.port)?,
            ))
        });
        Ok(MemberHead {
            cluster: proven.clone(),
            network: self.network.into(),
            trust_domain: parse("trust_domain", &self.trust_domain)?,
            gateways: gateways.collect::<Result<_, WireError>>()?,
            passthrough: passthrough.collect::<Result<_, WireError>>()?,
        })
    }
}

impl Service {
    /// What is told of a service: the endpoints that `cluster` runs, and no others.
    pub fn export(member: &MemberService, cluster: &ClusterId) -> Self {
        let service = &member.service;
        let (exported_to_all, exported_to) = match &service.export_to {
            ExportTo::All => (true, Vec::new()),
            ExportTo::Nobody => (false, Vec::new()),
            ExportTo::Namespaces(names) => (false, names.clone()),
        };
        let addresses = service.addresses.get(cluster).into_iter().flatten();
        let own = member.endpoints.iter().filter(|e| e.cluster == *cluster);
        Self {
            namespace: service.key.namespace.clone(),
            host: service.key.host.to_string(),
            origin: match service.origin {
                ServiceOrigin::Kubernetes => 1,
                ServiceOrigin::MeshInternal => 2,
                ServiceOrigin::MeshExternal => 3,
            },
            ports: service
                .ports
                .iter()
                .map(|p| Port {
                    number: p.number.into(),
                    name: p.name.clone(),
                    protocol: p.protocol.to_string(),
                })
                .collect(),
            addresses: addresses.map(ToString::to_string).collect(),
            headless: service.headless,
            resolution: match service.resolution {
                Resolution::Static => 1,
                Resolution::Dns => 2,
                Resolution::DnsRoundRobin => 3,
                Resolution::DynamicDns => 4,
                Resolution::Passthrough => 5,
            },
            labels: service.labels.0.clone(),
            exported_to_all,
            exported_to,
            subject_alt_names: service
                .subject_alt_names
                .iter()
                .map(ToString::to_string)
                .collect(),
            endpoints: own.map(Endpoint::from).collect(),
        }
    }

    /// What is believed of it, coming from the cluster that the certificate proves.
    pub fn import(self, proven: &ClusterId) -> Result<Arc<MemberService>, WireError> {
        bound("endpoints", self.endpoints.len(), MOST_ENDPOINTS)?;
        let key = ServiceKey {
            namespace: self.namespace,
            host: parse("host", &self.host)?,
        };
        let origin = match self.origin {
            1 => ServiceOrigin::Kubernetes,
            2 => ServiceOrigin::MeshInternal,
            3 => ServiceOrigin::MeshExternal,
            value => {
                return Err(WireError::Unknown {
                    field: "origin",
                    value,
                });
            }
        };
        let resolution = match self.resolution {
            1 => Resolution::Static,
            2 => Resolution::Dns,
            3 => Resolution::DnsRoundRobin,
            4 => Resolution::DynamicDns,
            5 => Resolution::Passthrough,
            value => {
                return Err(WireError::Unknown {
                    field: "resolution",
                    value,
                });
            }
        };
        let mut ports = self
            .ports
            .into_iter()
            .map(|p| {
                Ok(model::Port {
                    number: port("ports.number", p.number)?,
                    name: p.name,
                    protocol: protocol(&p.protocol),
                })
            })
            .collect::<Result<Vec<_>, WireError>>()?;
        ports.sort_by_key(|p| p.number);
        let addresses = self
            .addresses
            .iter()
            .map(|a| parse("addresses", a))
            .collect::<Result<Vec<_>, _>>()?;
        let endpoints = self
            .endpoints
            .into_iter()
            .map(|e| e.import(proven))
            .collect::<Result<Vec<_>, WireError>>()?;
        let names = self
            .subject_alt_names
            .iter()
            .map(|n| parse("subject_alt_names", n));
        let service = model::Service {
            key,
            origin,
            ports,
            addresses: match addresses.is_empty() {
                true => BTreeMap::new(),
                false => BTreeMap::from([(proven.clone(), addresses)]),
            },
            headless: self.headless,
            resolution,
            labels: model::Labels(self.labels),
            export_to: match (self.exported_to_all, self.exported_to) {
                (true, _) => ExportTo::All,
                (false, names) if names.is_empty() => ExportTo::Nobody,
                (false, names) => ExportTo::Namespaces(names),
            },
            subject_alt_names: names.collect::<Result<_, _>>()?,
        };
        Ok(Arc::new(MemberService { service, endpoints }))
    }
}

impl From<&model::Endpoint> for Endpoint {
    fn from(endpoint: &model::Endpoint) -> Self {
        Self {
            address: endpoint.address.to_string(),
            port: endpoint.port.into(),
            port_name: endpoint.port_name.clone(),
            labels: endpoint.labels.0.clone(),
            locality: endpoint.locality.to_string(),
            network: endpoint.network.to_string(),
            identity: endpoint
                .identity
                .as_ref()
                .map(ToString::to_string)
                .unwrap_or_default(),
            mtls: endpoint.tls_mode == TlsMode::Istio,
            weight: endpoint.weight,
            health: match endpoint.health {
                EndpointHealth::Healthy => 1,
                EndpointHealth::Unhealthy => 2,
                EndpointHealth::Draining => 3,
            },
            workload: endpoint.workload.clone(),
            owner: endpoint.owner.clone(),
            namespace: endpoint.namespace.clone(),
        }
    }
}

impl Endpoint {
    fn import(self, proven: &ClusterId) -> Result<model::Endpoint, WireError> {
        Ok(model::Endpoint {
            address: parse("endpoints.address", &self.address)?,
            port: port("endpoints.port", self.port)?,
            port_name: self.port_name,
            labels: model::Labels(self.labels),
            locality: self.locality.into(),
            network: self.network.into(),
            cluster: proven.clone(),
            identity: match self.identity.as_str() {
                "" => None,
                id => Some(parse("endpoints.identity", id)?),
            },
            tls_mode: if self.mtls {
                TlsMode::Istio
            } else {
                TlsMode::Disabled
            },
            weight: self.weight,
            health: match self.health {
                1 => EndpointHealth::Healthy,
                2 => EndpointHealth::Unhealthy,
                3 => EndpointHealth::Draining,
                value => {
                    return Err(WireError::Unknown {
                        field: "endpoints.health",
                        value,
                    });
                }
            },
            workload: self.workload,
            owner: self.owner,
            namespace: self.namespace,
        })
    }
}

fn protocol(name: &str) -> model::Protocol {
    use model::Protocol::{Auto, Grpc, Http, Http2, Https, Tcp, Tls, Udp};
    [Http, Http2, Grpc, Https, Tls, Tcp, Udp]
        .into_iter()
        .find(|p| p.to_string() == name)
        .unwrap_or(Auto)
}

fn parse<T: FromStr<Err: Display>>(field: &'static str, text: &str) -> Result<T, WireError> {
    text.parse().map_err(|e: T::Err| WireError::Field {
        field,
        reason: format!("{text:?}: {e}"),
    })
}

fn port(field: &'static str, number: u32) -> Result<u16, WireError> {
    u16::try_from(number).map_err(|_| WireError::Field {
        field,
        reason: format!("{number} is not a port"),
    })
}

fn bound(field: &'static str, count: usize, limit: usize) -> Result<(), WireError> {
    if count > limit {
        Err(WireError::TooMany { field, limit })
    } else {
        Ok(())
    }
}
