//! WorkloadEntry, also as the endpoint of a ServiceEntry.

use std::net::IpAddr;

use super::field::{host, port};
use super::metadata::{clip, is_dns_label, labels};
use super::{At, Context, Validate};
use crate::istio::WorkloadEntry;

impl Validate for WorkloadEntry {
    fn validate(&self, context: &Context<'_>) {
        validate(self, false, &context.at("spec"));
    }
}

/// Checks a workload; one within a ServiceEntry or a WorkloadGroup may be without address.
pub(super) fn validate(entry: &WorkloadEntry, inner: bool, at: &At<'_>) {
    let address = entry.address.as_str();
    if let Some(path) = address.strip_prefix("unix://") {
        if !path.starts_with(['/', '@']) {
            at.field("address").error(
                "the path of the Unix socket is not absolute",
                "write unix:///path",
            );
        }
        if !entry.ports.is_empty() {
            at.field("ports")
                .error("a Unix socket has no ports", "remove them");
        }
    } else if address.is_empty() {
        // Reached through the gateways of its network.
        if entry.network.is_empty() {
            at.error("the workload has neither address nor network", "add address");
        }
    } else if address.contains(['<', '>', '$', '{']) {
        at.field("address").error(
            format_args!("{:?} is a placeholder", clip(address)),
            "write the address or DNS name that it stands for",
        );
    } else if address.parse::<IpAddr>().is_err() {
        host(address, false, &at.field("address"));
        if !inner && !address.contains('.') {
            at.field("address").error(
                format_args!("{:?} is neither an IP nor a full name", clip(address)),
                "correct it",
            );
        }
    } else if address.parse::<IpAddr>().is_ok_and(|ip| ip.is_unspecified()) {
        at.field("address").error(
            format_args!("{address} stands for no workload"),
            "write its address",
        );
    }
    for (name, number) in &entry.ports {
        port(*number, &at.field("ports").field(name));
    }
    labels(&entry.labels, &at.field("labels"));
    let parts: Vec<&str> = entry.locality.split('/').collect();
    if !entry.locality.is_empty() && (parts.len() > 3 || parts[0].is_empty() || entry.locality.contains('*'))
    {
        at.field("locality").error(
            format_args!("{:?} is not a locality", clip(&entry.locality)),
            "write region/zone/subzone",
        );
    }
    if !entry.service_account.is_empty() && !entry.service_account.split('.').all(is_dns_label) {
        at.field("serviceAccount").error(
            format_args!("{:?} is not a service account", clip(&entry.service_account)),
            "write its name alone",
        );
    }
}
