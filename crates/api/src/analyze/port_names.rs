//! Ports of Services whose protocol has to be sniffed because nothing says it.

use isthmus_model::Protocol;

use super::{Set, finding};
use crate::codes;
use crate::finding::Finding;
use crate::kubernetes::Service;

pub(super) fn analyze(set: &Set<'_>, findings: &mut Vec<Finding>) {
    for (object, service) in set.each::<Service>() {
        if service.is_external_name()
            || matches!(object.meta.namespace.as_str(), "kube-system" | "istio-system")
        {
            continue;
        }
        for (i, port) in service.spec.ports.iter().enumerate() {
            let transport = Some(port.protocol.as_str()).filter(|p| !p.is_empty());
            let protocol = Protocol::select(&port.name, port.app_protocol.as_deref(), transport);
            if protocol == Protocol::Auto && port.protocol != "SCTP" {
                let message = format!(
                    "neither name {:?} nor appProtocol says the protocol of port {}",
                    port.name, port.port
                );
                let at = format!("spec.ports[{i}]");
                let remedy = "name it http-..., grpc-... or tcp-..., or add appProtocol";
                findings.push(finding(object, &at, &codes::PORT_NAME, message, remedy));
            }
        }
    }
}
