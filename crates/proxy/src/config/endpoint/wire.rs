//! From Envoy's cluster load assignment.

use std::sync::Arc;

use isthmus_model::Locality;
use isthmus_xds::envoy::{core, endpoint as e};

use super::{Address, Endpoint, Endpoints, Health, LocalityEndpoints};
use crate::config::field::{
    address, fraction, metadata, name, number_or, optional_text, struct_bool, struct_labels, struct_number,
    struct_text, variant,
};
use crate::config::refusal::{At, Refusal, refuse_set};

/// Envoy's bound on priorities.
const MAX_PRIORITY: u32 = 128;
/// `overprovisioning_factor` when none is given, percent.
const OVERPROVISIONING: u32 = 140;

impl TryFrom<&e::ClusterLoadAssignment> for Endpoints {
    type Error = Refusal;

    fn try_from(a: &e::ClusterLoadAssignment) -> Result<Self, Refusal> {
        refuse_set!(a; named_endpoints);
        let mut drop = 0u32;
        let mut overprovisioning = OVERPROVISIONING;
        if let Some(p) = a.policy.as_ref() {
            for (i, d) in p.drop_overloads.iter().enumerate() {
                if let Some(f) = d.drop_percentage.as_ref() {
                    drop += fraction("drop_percentage", f).nth("policy.drop_overloads", i)?;
                    drop = drop.min(1_000_000);
                }
            }
            overprovisioning = number_or(&p.overprovisioning_factor, OVERPROVISIONING);
            if overprovisioning == 0 {
                return Err(Refusal::new(
                    "policy.overprovisioning_factor",
                    "must be greater than 0",
                ));
            }
        }
        let mut localities = Vec::with_capacity(a.endpoints.len());
        for (i, l) in a.endpoints.iter().enumerate() {
            localities.push(locality(l).nth("endpoints", i)?);
        }
        let sum: u64 = localities.iter().map(|l| u64::from(l.weight)).sum();
        if sum > u64::from(u32::MAX) {
            return Err(Refusal::new(
                "endpoints",
                "the weights of the localities add up to more than 4294967295",
            ));
        }
        Ok(Self {
            cluster: name("cluster_name", &a.cluster_name)?,
            localities,
            overprovisioning,
            drop,
        })
    }
}

fn locality(l: &e::LocalityLbEndpoints) -> Result<LocalityEndpoints, Refusal> {
    refuse_set!(l; lb_config);
    if l.priority > MAX_PRIORITY {
        return Err(Refusal::new(
            "priority",
            format!("{} is greater than {MAX_PRIORITY}", l.priority),
        ));
    }
    let mut endpoints = Vec::with_capacity(l.lb_endpoints.len());
    for (i, e) in l.lb_endpoints.iter().enumerate() {
        endpoints.push(Arc::new(endpoint(e).nth("lb_endpoints", i)?));
    }
    let sum: u64 = endpoints.iter().map(|e| u64::from(e.weight)).sum();
    if sum > u64::from(u32::MAX) {
        return Err(Refusal::new(
            "lb_endpoints",
            "their weights add up to more than 4294967295",
        ));
    }
    Ok(LocalityEndpoints {
        locality: l.locality.as_ref().map(place).unwrap_or_default(),
        priority: l.priority,
        weight: number_or(&l.load_balancing_weight, 0),
        endpoints,
    })
}

fn place(l: &core::Locality) -> Locality {
    Locality {
        region: l.region.clone(),
        zone: l.zone.clone(),
        subzone: l.sub_zone.clone(),
    }
}

fn endpoint(e: &e::LbEndpoint) -> Result<Endpoint, Refusal> {
    let inner = match e.host_identifier.as_ref() {
        Some(e::lb_endpoint::HostIdentifier::Endpoint(inner)) => inner,
        Some(e::lb_endpoint::HostIdentifier::EndpointName(_)) => {
            return Err(Refusal::unsupported("endpoint_name"));
        }
        None => return Err(Refusal::new("endpoint", "is required and not set")),
    };
    let at = "endpoint.address";
    let place = inner
        .address
        .as_ref()
        .ok_or_else(|| Refusal::new(at, "is required and not set"))?;
    let address = address(place).at(at)?;
    match &address {
        Address::Socket(s) if s.port() == 0 => {
            return Err(Refusal::new(at, format!("{} has no port", s.ip())));
        }
        Address::Name(n, 0) => return Err(Refusal::new(at, format!("{n} has no port"))),
        _ => {}
    }
    let weight = number_or(&e.load_balancing_weight, 1);
    if weight == 0 {
        return Err(Refusal::new("load_balancing_weight", "must be at least 1"));
    }
    use core::HealthStatus as H;
    let health = match variant::<H>("health_status", e.health_status)? {
        H::Unknown | H::Healthy => Health::Healthy,
        H::Degraded => Health::Degraded,
        H::Unhealthy | H::Timeout => Health::Unhealthy,
        H::Draining => Health::Draining,
    };
    let transport_labels = metadata(&e.metadata, "envoy.transport_socket_match")
        .map(|s| struct_labels("metadata.filter_metadata[\"envoy.transport_socket_match\"]", s))
        .transpose()?
        .unwrap_or_default();
    let workload = metadata(&e.metadata, "istio")
        .and_then(|s| struct_text(s, "workload"))
        .map(Into::into);
    let gateway = metadata(&e.metadata, "isthmus")
        .filter(|s| struct_bool(s, "gateway") == Some(true))
        .map(|s| struct_number(s, "behind").map_or(1, |n| n.clamp(0.0, f64::from(u32::MAX)) as u32));
    Ok(Endpoint {
        address,
        hostname: optional_text(&inner.hostname),
        weight,
        health,
        transport_labels,
        workload,
        gateway,
    })
}
