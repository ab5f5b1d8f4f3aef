//! Destinations of routes that nothing declares, or whose port is not said.

use super::{Set, destinations_of, finding, resolve};
use crate::codes;
use crate::finding::{Finding, Level};
use crate::istio::VirtualService;

pub(super) fn analyze(set: &Set<'_>, findings: &mut Vec<Finding>) {
    for (object, service) in set.each::<VirtualService>() {
        for (path, destination) in destinations_of(service) {
            let Some(host) = resolve(&destination.host, &object.meta.namespace, set) else {
                continue;
            };
            let Some(ports) = set.hosts.get(&host) else {
                if !set.knows(&host) && !set.incomplete {
                    // It may well exist in another file or in another cluster.
                    let at = format!("{path}.host");
                    let remedy = "correct the name, or add the Service or ServiceEntry; a service of another cluster alone is fine";
                    let found = finding(
                        object,
                        &at,
                        &codes::REFERENCED_RESOURCE_NOT_FOUND,
                        format_args!("nothing declares the host {host}"),
                        remedy,
                    );
                    findings.push(found.level(Level::Warning));
                }
                continue;
            };
            match &destination.port {
                None if ports.len() > 1 => findings.push(finding(
                    object,
                    &path,
                    &codes::PORT_REQUIRED,
                    format_args!("{host} has the ports {ports:?}, and the destination names none"),
                    "add port.number",
                )),
                Some(port) if !ports.is_empty() && !ports.contains(&port.number) => {
                    let at = format!("{path}.port.number");
                    let message = format!("{host} has no port {}, only {ports:?}", port.number);
                    findings.push(finding(
                        object,
                        &at,
                        &codes::REFERENCED_RESOURCE_NOT_FOUND,
                        message,
                        "correct the number",
                    ));
                }
                _ => {}
            }
        }
    }
}
