//! A worker's answer to [`crate::orders::Order::Report`].

use std::time::Instant;

use crate::orders::{EndpointReport, Report};

use super::Worker;

/// Copies every counter.
pub fn report(cx: &Worker) -> Report {
    let now = Instant::now();
    let mut endpoints = Vec::new();
    cx.upstreams.each(|cluster| {
        cluster.each_host(|host| {
            let Some(address) = host.socket_address() else {
                return;
            };
            endpoints.push(EndpointReport {
                cluster: cluster.config.name.clone(),
                address,
                connections_total: host.totals.connections.get(),
                connections_active: host.totals.connections_active.get(),
                connect_failures: host.totals.connect_failures.get(),
                requests_total: host.totals.requests.get(),
                requests_active: u64::from(host.active.get()),
                requests_success: host.totals.success.get(),
                requests_error: host.totals.error.get(),
                requests_timeout: host.totals.timeout.get(),
                ejected: host.outlier.is_ejected(now),
            });
        });
    });
    Report {
        metrics: cx.telemetry.metrics(),
        endpoints,
        connections: cx.connections.get(),
        requests: cx.requests.get(),
    }
}
