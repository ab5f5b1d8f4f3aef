//! ServiceEntry: hosts, addresses, ports, and endpoints as the resolution needs them.

use std::collections::HashSet;
use std::net::IpAddr;

use isthmus_model::Hostname;

use super::field::{
    address_or_cidr, export_to, host, optional_port, port, port_name, protocol, repeated, workload_selector,
};
use super::metadata::clip;
use super::{At, Context, Validate, workload_entry};
use crate::codes;
use crate::enforcement;
use crate::istio::ServiceEntry;
use crate::istio::service_entry::{Location, Resolution};

impl Validate for ServiceEntry {
    fn validate(&self, context: &Context<'_>) {
        let at = context.at("spec");
        self.hosts(&at);
        self.ports(&at.field("ports"));
        self.addresses(&at.field("addresses"));
        workload_selector(self.workload_selector.as_ref(), &at.field("workloadSelector"));
        if self.workload_selector.is_some() && !self.endpoints.is_empty() {
            at.field("workloadSelector").error(
                "workloadSelector and endpoints exclude each other",
                "keep one of them",
            );
        }
        self.endpoints(&at.field("endpoints"));
        self.resolution(&at);
        if !self.subject_alt_names.is_empty() {
            enforcement::require("ServiceEntry.subjectAltNames", &at.field("subjectAltNames"));
        }
        for (i, name) in self.subject_alt_names.iter().enumerate() {
            if name.is_empty() {
                at.field("subjectAltNames")
                    .index(i)
                    .error("the name is empty", "write a DNS name or a SPIFFE id");
            }
        }
        export_to(&self.export_to, &at.field("exportTo"));
    }
}

impl ServiceEntry {
    fn hosts(&self, at: &At<'_>) {
        if self.hosts.is_empty() {
            at.error("the ServiceEntry has no hosts", "add hosts");
        }
        let at = at.field("hosts");
        for (i, name) in self.hosts.iter().enumerate() {
            if name == "*" {
                at.index(i).error("\"*\" would take every host", "name the hosts");
            } else {
                host(name, true, &at.index(i));
                if !name.contains('.') {
                    at.index(i).warn(
                        format_args!("{name:?} is a short name and is taken as it is, in every namespace"),
                        "write a name with a domain",
                    );
                }
            }
        }
        for i in repeated(self.hosts.iter().map(|h| h.to_ascii_lowercase())) {
            at.index(i).finding(
                &codes::DUPLICATE_HOST,
                format_args!("the host {:?} stands here twice", clip(&self.hosts[i])),
                "remove one",
            );
        }
    }

    fn ports(&self, at: &At<'_>) {
        if self.ports.is_empty() {
            at.error(
                "the ServiceEntry has no ports",
                "add ports with number, name and protocol",
            );
        }
        for (i, p) in self.ports.iter().enumerate() {
            let at = at.index(i);
            port(p.number, &at.field("number"));
            port_name(&p.name, &at.field("name"));
            if !p.protocol.is_empty() {
                protocol(&p.protocol, &at.field("protocol"));
            }
            optional_port(p.target_port, &at.field("targetPort"));
        }
        for i in repeated(self.ports.iter().map(|p| p.number)) {
            at.index(i).field("number").error(
                format_args!("the port {} stands here twice", self.ports[i].number),
                "remove one",
            );
        }
        for i in repeated(self.ports.iter().map(|p| &p.name)) {
            at.index(i).field("name").error(
                format_args!("the port name {:?} is taken", clip(&self.ports[i].name)),
                "give each port a name of its own",
            );
        }
    }

    fn addresses(&self, at: &At<'_>) {
        for (i, text) in self.addresses.iter().enumerate() {
            let Some(net) = address_or_cidr(text, &at.index(i)) else {
                continue;
            };
            let whole = net.prefix_len() == net.max_prefix_len();
            if !whole && !matches!(self.resolution, Resolution::None | Resolution::Static) {
                at.index(i).error(
                    format_args!("{net} is more than one address, which only NONE and STATIC can serve"),
                    "write one address, or change resolution",
                );
            }
            if net.addr().is_unspecified() || net.addr().is_multicast() || net.addr().is_loopback() {
                at.index(i).error(
                    format_args!("{net} cannot be a virtual address"),
                    "write one such as 240.0.0.2",
                );
            }
        }
    }

    fn endpoints(&self, at: &At<'_>) {
        let names: HashSet<&str> = self.ports.iter().map(|p| p.name.as_str()).collect();
        for (i, endpoint) in self.endpoints.iter().enumerate() {
            let at = at.index(i);
            workload_entry::validate(endpoint, true, &at);
            for name in endpoint.ports.keys() {
                if !names.contains(name.as_str()) {
                    let meant = crate::suggest::nearest(name, names.iter().copied());
                    let remedy = meant.map_or_else(
                        || "use the name of one of the ServiceEntry's ports".to_owned(),
                        |m| format!("did you mean {m}?"),
                    );
                    at.field("ports")
                        .field(name)
                        .error(format_args!("there is no port {:?}", clip(name)), remedy);
                }
            }
        }
    }

    fn resolution(&self, at: &At<'_>) {
        let at_endpoints = at.field("endpoints");
        let wildcard = self.hosts.iter().position(|h| h.starts_with('*'));
        match self.resolution {
            Resolution::None => {
                if !self.endpoints.is_empty() {
                    at_endpoints.error(
                        "resolution NONE has no endpoints",
                        "remove them, or set resolution to STATIC or DNS",
                    );
                }
                let opaque = |p: &str| {
                    matches!(
                        p.to_ascii_uppercase().as_str(),
                        "" | "TCP" | "MONGO" | "MYSQL" | "REDIS"
                    )
                };
                if self.addresses.is_empty() && self.ports.iter().any(|p| opaque(&p.protocol)) {
                    at.finding(
                        &codes::ADDRESSES_REQUIRED,
                        "without addresses a TCP port takes all traffic to that port",
                        "add addresses",
                    );
                }
            }
            Resolution::Static => {
                if self.endpoints.is_empty() && self.workload_selector.is_none() {
                    at.error(
                        "resolution STATIC needs endpoints",
                        "add endpoints or workloadSelector",
                    );
                }
                for (i, endpoint) in self.endpoints.iter().enumerate() {
                    let address = &endpoint.address;
                    let fixed = address.is_empty()
                        || address.starts_with("unix://")
                        || address.parse::<IpAddr>().is_ok();
                    if !fixed {
                        at_endpoints.index(i).field("address").error(
                            format_args!("{:?} is a name, and resolution is STATIC", clip(address)),
                            "write an IP address, or set resolution to DNS",
                        );
                    }
                }
            }
            Resolution::Dns | Resolution::DnsRoundRobin => {
                if let (Some(i), true, None) = (wildcard, self.endpoints.is_empty(), &self.workload_selector)
                {
                    at.field("hosts").index(i).error(
                        "a wildcard cannot be resolved by DNS",
                        "add endpoints, or set resolution to NONE or DYNAMIC_DNS",
                    );
                }
                if self.resolution == Resolution::DnsRoundRobin && self.endpoints.len() > 1 {
                    at_endpoints.error(
                        "DNS_ROUND_ROBIN resolves a single name",
                        "keep one endpoint, or use DNS",
                    );
                }
                for (i, endpoint) in self.endpoints.iter().enumerate() {
                    if endpoint.address.starts_with("unix://") {
                        at_endpoints
                            .index(i)
                            .field("address")
                            .error("a Unix socket is not resolved by DNS", "use STATIC");
                    }
                }
            }
            Resolution::DynamicDns => {
                if self.location != Location::MeshExternal {
                    at.field("location").error(
                        "DYNAMIC_DNS is for hosts outside of the mesh",
                        "set location to MESH_EXTERNAL",
                    );
                }
                if !self.endpoints.is_empty() || self.workload_selector.is_some() {
                    at_endpoints.error("DYNAMIC_DNS has no endpoints", "remove them, or use DNS");
                }
                let plain = self
                    .hosts
                    .iter()
                    .position(|h| h.parse::<Hostname>().is_ok_and(|h| !h.is_wildcard()));
                if let Some(i) = plain {
                    at.field("hosts")
                        .index(i)
                        .error("DYNAMIC_DNS is for wildcards", "use DNS for a single host");
                }
            }
        }
    }
}
