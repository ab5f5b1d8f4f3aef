//! Service: ports, addresses, type.

use super::field::{host, port, repeated};
use super::kubernetes::ip;
use super::metadata::{clip, labels};
use super::{Context, Validate};
use crate::kubernetes::{IntOrString, Service};

impl Validate for Service {
    fn validate(&self, context: &Context<'_>) {
        let spec = &self.spec;
        let at = context.at("spec");
        labels(&spec.selector, &at.field("selector"));
        match spec.service_type.as_str() {
            "" | "ClusterIP" | "NodePort" | "LoadBalancer" => {}
            "ExternalName" => host(&spec.external_name, false, &at.field("externalName")),
            other => at.field("type").error(
                format_args!("{:?} is not a type of Service", clip(other)),
                "write ClusterIP, NodePort, LoadBalancer or ExternalName",
            ),
        }
        for (name, address) in std::iter::once(("clusterIP", &spec.cluster_ip))
            .chain(spec.cluster_ips.iter().map(|ip| ("clusterIPs", ip)))
            .chain(spec.external_ips.iter().map(|ip| ("externalIPs", ip)))
        {
            if !address.is_empty() && address != "None" {
                ip(address, &at.field(name));
            }
        }
        for (i, ingress) in self.status.load_balancer.ingress.iter().enumerate() {
            if !ingress.ip.is_empty() {
                ip(
                    &ingress.ip,
                    &context.at("status.loadBalancer.ingress").index(i).field("ip"),
                );
            }
        }
        self.ports(context);
    }
}

impl Service {
    fn ports(&self, context: &Context<'_>) {
        let ports = &self.spec.ports;
        let at = context.at("spec.ports");
        for (i, p) in ports.iter().enumerate() {
            let at = at.index(i);
            port(p.port, &at.field("port"));
            if p.target_port == Some(IntOrString::Number(0)) {
                at.field("targetPort")
                    .error("0 is not a port", "write a port from 1 to 65535, or a name");
            }
            if !matches!(p.protocol.as_str(), "" | "TCP" | "UDP" | "SCTP") {
                at.field("protocol").error(
                    format_args!("{:?} is not a transport protocol", clip(&p.protocol)),
                    "write TCP, UDP or SCTP; the application's protocol belongs into appProtocol",
                );
            }
            if p.name.is_empty() && ports.len() > 1 {
                at.error("one of several ports has no name", "add name");
            }
        }
        for i in repeated(ports.iter().map(|p| &p.name)) {
            if !ports[i].name.is_empty() {
                at.index(i)
                    .field("name")
                    .error(format_args!("the name {:?} is taken", ports[i].name), "rename it");
            }
        }
        let transport = |p: &str| {
            if p.is_empty() {
                "TCP".to_owned()
            } else {
                p.to_owned()
            }
        };
        for i in repeated(ports.iter().map(|p| (p.port, transport(&p.protocol)))) {
            at.index(i).field("port").error(
                format_args!("the port {} stands here twice", ports[i].port),
                "remove one",
            );
        }
    }
}
