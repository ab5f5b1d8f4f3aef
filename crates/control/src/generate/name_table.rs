//! NDS: the names that a workload may resolve, and to what.

use std::collections::BTreeMap;
use std::net::IpAddr;

use isthmus_model::{EndpointAddress, EndpointHealth, ServiceOrigin};
use isthmus_xds::{NameInfo, NameTable};

use super::context::Context;
use crate::registry::MeshService;

/// The name table of a proxy.
pub fn table(context: &Context<'_>) -> NameTable {
    let mut table = BTreeMap::new();
    for (service, _) in context.scope.services.values() {
        let ips = addresses(context, service);
        let kubernetes = service.service.origin == ServiceOrigin::Kubernetes;
        let info = |ips: Vec<String>, shortname: String| NameInfo {
            ips,
            registry: if kubernetes { "Kubernetes" } else { "External" }.to_owned(),
            shortname: if kubernetes { shortname } else { String::new() },
            namespace: if kubernetes {
                service.namespace().to_owned()
            } else {
                String::new()
            },
        };
        if ips.is_empty() {
            continue;
        }
        let host = service.host();
        let short = host.as_str().split('.').next().unwrap_or_default().to_owned();
        if service.service.headless {
            for (name, ip) in pods(context, service) {
                table.insert(
                    format!("{name}.{host}"),
                    info(vec![ip.to_string()], format!("{name}.{short}")),
                );
            }
        }
        let ips: Vec<String> = ips.iter().map(IpAddr::to_string).collect();
        for alias in &service.aliases {
            table.insert(
                alias.to_string(),
                NameInfo {
                    ips: ips.clone(),
                    registry: "External".to_owned(),
                    ..NameInfo::default()
                },
            );
        }
        table.insert(host.to_string(), info(ips, short));
    }
    NameTable { table }
}

/// Virtual addresses of a service here, or its pods' for a headless one.
fn addresses(context: &Context<'_>, service: &MeshService) -> Vec<IpAddr> {
    if let Some(own) = service.service.addresses.get(&context.mesh().cluster) {
        return own.clone();
    }
    pods(context, service).into_values().collect()
}

/// Pods of a headless service that can be reached directly, by their host names.
fn pods(context: &Context<'_>, service: &MeshService) -> BTreeMap<String, IpAddr> {
    if !service.service.headless {
        return BTreeMap::new();
    }
    let instances = &context.snapshot.registry.instances;
    let listed = context.snapshot.aside.listed.get(&service.service.key);
    let here = listed.into_iter().flatten().filter(|e| {
        e.health == EndpointHealth::Healthy && (e.network == context.network || e.network.is_empty())
    });
    here.filter_map(|e| {
        let EndpointAddress::Ip(ip) = e.address else {
            return None;
        };
        let dns = instances.by_ip(&ip).and_then(|i| i.dns.as_ref());
        Some((
            dns.map_or_else(|| e.workload.clone(), |(hostname, _)| hostname.clone()),
            ip,
        ))
    })
    .collect()
}
