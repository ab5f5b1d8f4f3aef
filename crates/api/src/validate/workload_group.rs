//! WorkloadGroup: template and probe.

use super::field::port;
use super::metadata::labels;
use super::{Context, Validate, workload_entry};
use crate::codes;
use crate::istio::{WorkloadEntry, WorkloadGroup};

impl Validate for WorkloadGroup {
    fn validate(&self, context: &Context<'_>) {
        let at = context.at("spec");
        at.finding(
            &codes::NO_EFFECT,
            "workloads cannot register themselves yet",
            "write WorkloadEntries",
        );
        if let Some(metadata) = &self.metadata {
            labels(&metadata.labels, &at.field("metadata").field("labels"));
        }
        match &self.template {
            None => at.error("the WorkloadGroup has no template", "add template"),
            Some(template) => {
                // The address comes with the workload.
                let network = "template".to_owned();
                let with_place = WorkloadEntry {
                    network,
                    ..template.clone()
                };
                workload_entry::validate(&with_place, true, &at.field("template"));
            }
        }
        let Some(probe) = &self.probe else { return };
        let at = at.field("probe");
        let ways = [
            probe.http_get.is_some(),
            probe.tcp_socket.is_some(),
            probe.exec.is_some(),
            probe.grpc.is_some(),
        ];
        if ways.into_iter().filter(|set| *set).count() != 1 {
            at.error(
                "a probe has exactly one way",
                "write one of httpGet, tcpSocket, exec and grpc",
            );
        }
        for (name, value) in [
            ("initialDelaySeconds", probe.initial_delay_seconds),
            ("timeoutSeconds", probe.timeout_seconds),
            ("periodSeconds", probe.period_seconds),
            ("successThreshold", probe.success_threshold),
            ("failureThreshold", probe.failure_threshold),
        ] {
            if value < 0 {
                at.field(name).error("the value is negative", "write 0 or more");
            }
        }
        for (name, number) in [
            ("httpGet", probe.http_get.as_ref().map(|h| h.port)),
            ("tcpSocket", probe.tcp_socket.as_ref().map(|t| t.port)),
            ("grpc", probe.grpc.as_ref().map(|g| g.port)),
        ] {
            if let Some(number) = number {
                port(number, &at.field(name).field("port"));
            }
        }
    }
}
