//! Hosts that several VirtualServices claim on the mesh gateway.

use std::collections::BTreeMap;

use super::{Set, finding, resolve};
use crate::codes;
use crate::finding::Finding;
use crate::istio::VirtualService;
use crate::object::Object;

pub(super) fn analyze(set: &Set<'_>, findings: &mut Vec<Finding>) {
    let mut claims: BTreeMap<(String, String), Vec<(&Object, usize)>> = BTreeMap::new();
    for (object, service) in set.each::<VirtualService>() {
        if !service.gateways.is_empty() && !service.gateways.iter().any(|g| g == "mesh") {
            continue;
        }
        for (i, name) in service.hosts.iter().enumerate() {
            let Some(host) = resolve(name, &object.meta.namespace, set) else {
                continue;
            };
            // A rule for its own namespace alone does not meet those of others.
            let private = service.export_to.iter().any(|e| e == ".");
            let scope = if private {
                object.meta.namespace.clone()
            } else {
                "*".to_owned()
            };
            claims
                .entry((host.to_string(), scope))
                .or_default()
                .push((object, i));
        }
    }
    for ((host, _), claimants) in claims {
        let Some(((first, _), others)) = claimants.split_first() else {
            continue;
        };
        for (object, i) in others {
            let message = format!(
                "{} at {} has the host {host} already",
                first.key(),
                first.reference("spec.hosts")
            );
            let at = format!("spec.hosts[{i}]");
            findings.push(finding(
                object,
                &at,
                &codes::CONFLICTING_MESH_HOSTS,
                message,
                "merge the two VirtualServices",
            ));
        }
    }
}
