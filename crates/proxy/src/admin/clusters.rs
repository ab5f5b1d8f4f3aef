//! `/clusters`: endpoints with their figures, as Envoy's text and as `admin.v3.Clusters`.

use std::collections::HashMap;
use std::fmt::Write;
use std::net::SocketAddr;
use std::sync::Arc;

use serde_json::{Value, json};

use crate::config::Cluster;
use crate::config::endpoint::{Address, Endpoint, Health, LocalityEndpoints};
use crate::orders::{EndpointReport, Report};
use crate::state::Live;

type Figures<'a> = HashMap<(&'a str, SocketAddr), &'a EndpointReport>;

fn figures(report: &Report) -> Figures<'_> {
    report
        .endpoints
        .iter()
        .map(|e| ((&*e.cluster, e.address), e))
        .collect()
}

fn by_name(live: &Live) -> Vec<(&Arc<str>, &Arc<Cluster>)> {
    let mut all: Vec<_> = live.clusters.iter().collect();
    all.sort_by_key(|(name, _)| *name);
    all
}

fn endpoints<'a>(
    live: &'a Live,
    name: &str,
) -> impl Iterator<Item = (&'a LocalityEndpoints, &'a Arc<Endpoint>)> {
    live.endpoints
        .get(name)
        .into_iter()
        .flat_map(|e| &e.localities)
        .flat_map(|l| l.endpoints.iter().map(move |e| (l, e)))
}

fn eds_health(health: Health) -> &'static str {
    match health {
        Health::Healthy => "HEALTHY",
        Health::Degraded => "DEGRADED",
        Health::Unhealthy => "UNHEALTHY",
        Health::Draining => "DRAINING",
    }
}

fn counters(e: Option<&&EndpointReport>) -> [(&'static str, &'static str, u64); 8] {
    let of = |f: fn(&EndpointReport) -> u64| e.map_or(0, |e| f(e));
    [
        ("cx_active", "GAUGE", of(|e| e.connections_active)),
        ("cx_connect_fail", "COUNTER", of(|e| e.connect_failures)),
        ("cx_total", "COUNTER", of(|e| e.connections_total)),
        ("rq_active", "GAUGE", of(|e| e.requests_active)),
        ("rq_error", "COUNTER", of(|e| e.requests_error)),
        ("rq_success", "COUNTER", of(|e| e.requests_success)),
        ("rq_timeout", "COUNTER", of(|e| e.requests_timeout)),
        ("rq_total", "COUNTER", of(|e| e.requests_total)),
    ]
}

/// Envoy's text, one figure a line.
pub fn text_page(live: &Live, report: &Report) -> String {
    let figures = figures(report);
    let mut out = String::new();
    for (name, cluster) in by_name(live) {
        let limits = &cluster.limits;
        for (key, value) in [
            ("max_connections", limits.connections),
            ("max_pending_requests", limits.pending),
            ("max_requests", limits.requests),
            ("max_retries", limits.retries),
        ] {
            let _ = writeln!(out, "{name}::default_priority::{key}::{value}");
        }
        for (locality, endpoint) in endpoints(live, name) {
            let (address, found) = match &endpoint.address {
                Address::Socket(a) => (a.to_string(), figures.get(&(&**name, *a))),
                Address::Unix(path) => (path.to_string(), None),
                Address::Name(host, port) => (format!("{host}:{port}"), None),
            };
            let mut line = |key: &str, value: &dyn std::fmt::Display| {
                let _ = writeln!(out, "{name}::{address}::{key}::{value}");
            };
            for (key, _, value) in counters(found) {
                line(key, &value);
            }
            line("hostname", &endpoint.hostname.as_deref().unwrap_or_default());
            line("health_flags", &flags(endpoint, found));
            line("weight", &endpoint.weight);
            line("region", &locality.locality.region);
            line("zone", &locality.locality.zone);
            line("sub_zone", &locality.locality.subzone);
            line("priority", &locality.priority);
        }
    }
    out
}

fn flags(endpoint: &Endpoint, found: Option<&&EndpointReport>) -> String {
    let mut flags = String::new();
    if found.is_some_and(|e| e.ejected) {
        flags.push_str("/failed_outlier_check");
    }
    match endpoint.health {
        Health::Healthy => {}
        Health::Degraded => flags.push_str("/degraded_eds_health"),
        Health::Unhealthy => flags.push_str("/failed_eds_health"),
        Health::Draining => flags.push_str("/eds_status_draining"),
    }
    if flags.is_empty() {
        flags.push_str("healthy");
    }
    flags
}

/// `admin.v3.Clusters`.
pub fn json_page(live: &Live, report: &Report) -> Value {
    let figures = figures(report);
    let statuses: Vec<Value> = by_name(live)
        .into_iter()
        .map(|(name, cluster)| {
            let limits = &cluster.limits;
            json!({
                "name": &**name,
                "added_via_api": true,
                "host_statuses": endpoints(live, name)
                    .map(|(l, e)| host(name, l, e, &figures))
                    .collect::<Vec<_>>(),
                "circuit_breakers": { "thresholds": [{
                    "max_connections": limits.connections,
                    "max_pending_requests": limits.pending,
                    "max_requests": limits.requests,
                    "max_retries": limits.retries,
                }] },
            })
        })
        .collect();
    json!({ "cluster_statuses": statuses })
}

fn host(cluster: &str, l: &LocalityEndpoints, e: &Endpoint, figures: &Figures<'_>) -> Value {
    let (address, found) = match &e.address {
        Address::Socket(a) => (
            json!({ "socket_address": { "address": a.ip().to_string(), "port_value": a.port() } }),
            figures.get(&(cluster, *a)),
        ),
        Address::Unix(path) => (json!({ "pipe": { "path": &**path } }), None),
        Address::Name(host, port) => (
            json!({ "socket_address": { "address": &**host, "port_value": port } }),
            None,
        ),
    };
    let mut health = json!({ "eds_health_status": eds_health(e.health) });
    if found.is_some_and(|f| f.ejected) {
        health["failed_outlier_check"] = true.into();
    }
    let stats: Vec<Value> = counters(found)
        .into_iter()
        .map(|(name, kind, value)| json!({ "name": name, "type": kind, "value": value.to_string() }))
        .collect();
    json!({
        "address": address,
        "stats": stats,
        "health_status": health,
        "weight": e.weight,
        "hostname": e.hostname.as_deref().unwrap_or_default(),
        "priority": l.priority,
        "locality": {
            "region": l.locality.region,
            "zone": l.locality.zone,
            "sub_zone": l.locality.subzone,
        },
    })
}
