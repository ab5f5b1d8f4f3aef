//! Gateways that claim the same host and port of the same pods.

use std::collections::BTreeMap;

use super::{Set, finding};
use crate::codes;
use crate::finding::Finding;
use crate::istio::Gateway;
use crate::object::Object;

pub(super) fn analyze(set: &Set<'_>, findings: &mut Vec<Finding>) {
    let mut claims: BTreeMap<(String, u16, String), &Object> = BTreeMap::new();
    for (object, gateway) in set.each::<Gateway>() {
        let selector: Vec<String> = gateway.selector.iter().map(|(k, v)| format!("{k}={v}")).collect();
        let selector = selector.join(",");
        for (i, server) in gateway.servers.iter().enumerate() {
            let Some(port) = &server.port else { continue };
            for (j, host) in server.hosts.iter().enumerate() {
                let key = (
                    selector.clone(),
                    port.number,
                    format!("{} {}", server.bind, host.to_ascii_lowercase()),
                );
                match claims.get(&key) {
                    // Within one Gateway validation has said it.
                    Some(first) if first.key() == object.key() => {}
                    Some(first) => {
                        let message = format!(
                            "{} at {} serves {host:?} on port {} of the pods {selector} already",
                            first.key(),
                            first.origin,
                            port.number
                        );
                        let at = format!("spec.servers[{i}].hosts[{j}]");
                        let remedy = "give the host to one of the two";
                        findings.push(finding(
                            object,
                            &at,
                            &codes::CONFLICTING_GATEWAYS,
                            message,
                            remedy,
                        ));
                    }
                    None => {
                        claims.insert(key, object);
                    }
                }
            }
        }
    }
}
