//! Hosts that several ServiceEntries, or a ServiceEntry and a Service, declare for one namespace.

use std::collections::BTreeMap;

use isthmus_model::Hostname;

use super::{DOMAIN, Set, finding};
use crate::codes;
use crate::finding::{Finding, Level};
use crate::istio::ServiceEntry;
use crate::kubernetes::Service;
use crate::object::Object;

pub(super) fn analyze(set: &Set<'_>, findings: &mut Vec<Finding>) {
    let mut first: BTreeMap<(String, String), &Object> = BTreeMap::new();
    for (object, _) in set.each::<Service>() {
        if let Ok(host) = Hostname::qualified(&object.meta.name, &object.meta.namespace, DOMAIN) {
            first.insert((String::new(), host.to_string()), object);
        }
    }
    for (object, entry) in set.each::<ServiceEntry>() {
        for (i, name) in entry.hosts.iter().enumerate() {
            let Ok(host) = name.parse::<Hostname>() else {
                continue;
            };
            let everywhere = (String::new(), host.to_string());
            let here = (object.meta.namespace.clone(), host.to_string());
            let earlier = first.get(&everywhere).or_else(|| first.get(&here));
            if let Some(earlier) = earlier.filter(|o| o.key() != object.key()) {
                // Istio merges endpoints of entries in one namespace, so this is no error by itself.
                let message = format!(
                    "{} at {} declares the host {host} already",
                    earlier.key(),
                    earlier.origin
                );
                let at = format!("spec.hosts[{i}]");
                let found = finding(
                    object,
                    &at,
                    &codes::DUPLICATE_HOST,
                    message,
                    "keep one declaration of the host",
                );
                findings.push(found.level(Level::Warning));
                continue;
            }
            let private = !entry.export_to.is_empty() && entry.export_to.iter().all(|e| e == ".");
            first.insert(if private { here } else { everywhere }, object);
        }
    }
}
