//! Sidecar: listeners in both directions.

use super::field::{host, namespaced_host, port, protocol, repeated, workload_selector};
use super::gateway::bind;
use super::metadata::clip;
use super::traffic_policy::connection_pool;
use super::{At, Context, Validate, server_tls};
use crate::enforcement;
use crate::istio::Sidecar;
use crate::mesh_config::ROOT_NAMESPACE;

impl Validate for Sidecar {
    fn validate(&self, context: &Context<'_>) {
        let at = context.at("spec");
        workload_selector(self.workload_selector.as_ref(), &at.field("workloadSelector"));
        let selects = self
            .workload_selector
            .as_ref()
            .is_some_and(|s| !s.labels.is_empty());
        if selects && context.meta().namespace == ROOT_NAMESPACE {
            at.field("workloadSelector").error(
                format_args!("a Sidecar in {ROOT_NAMESPACE} is the mesh's default and selects no workloads"),
                "remove workloadSelector, or move the Sidecar",
            );
        }
        if self.ingress.is_empty()
            && self.egress.is_empty()
            && self.outbound_traffic_policy.is_none()
            && self.inbound_connection_pool.is_none()
        {
            at.error(
                "the Sidecar says nothing",
                "add egress, ingress or outboundTrafficPolicy",
            );
        }
        self.inbound(&at.field("ingress"));
        self.outbound(&at.field("egress"));
        if let Some(pool) = &self.inbound_connection_pool {
            connection_pool(pool, &at.field("inboundConnectionPool"));
        }
        if let Some(proxy) = self
            .outbound_traffic_policy
            .as_ref()
            .and_then(|p| p.egress_proxy.as_ref())
        {
            let at = at.field("outboundTrafficPolicy").field("egressProxy");
            host(&proxy.host, false, &at.field("host"));
            enforcement::require("Sidecar.outboundTrafficPolicy.egressProxy", &at);
        }
    }
}

impl Sidecar {
    fn inbound(&self, at: &At<'_>) {
        for (i, listener) in self.ingress.iter().enumerate() {
            let at = at.index(i);
            match &listener.port {
                None => at.error("the listener has no port", "add port"),
                Some(p) => {
                    port(p.number, &at.field("port").field("number"));
                    protocol(&p.protocol, &at.field("port").field("protocol"));
                }
            }
            bind(&listener.bind, &at.field("bind"));
            default_endpoint(&listener.default_endpoint, &at.field("defaultEndpoint"));
            if let Some(tls) = &listener.tls {
                enforcement::require("Sidecar.ingress.tls", &at.field("tls"));
                server_tls::validate(tls, &at.field("tls"));
            }
            if let Some(pool) = &listener.connection_pool {
                connection_pool(pool, &at.field("connectionPool"));
            }
        }
        for i in repeated(self.ingress.iter().map(|l| l.port.as_ref().map(|p| p.number))) {
            at.index(i)
                .field("port")
                .error("the port has a listener already", "merge the two");
        }
    }

    fn outbound(&self, at: &At<'_>) {
        for (i, listener) in self.egress.iter().enumerate() {
            let at = at.index(i);
            if let Some(p) = &listener.port {
                port(p.number, &at.field("port").field("number"));
                protocol(&p.protocol, &at.field("port").field("protocol"));
            } else if i + 1 != self.egress.len() {
                at.error(
                    "a listener without port takes the rest and must stand last",
                    "move it to the end",
                );
            }
            bind(&listener.bind, &at.field("bind"));
            if listener.hosts.is_empty() {
                at.error("the listener has no hosts", "add hosts, as in */* or ./*");
            }
            for (j, name) in listener.hosts.iter().enumerate() {
                namespaced_host(name, true, &at.field("hosts").index(j));
            }
        }
    }
}

/// Where the application listens.
fn default_endpoint(text: &str, at: &At<'_>) {
    if text.is_empty() {
        return;
    }
    if let Some(path) = text.strip_prefix("unix://") {
        if !path.starts_with(['/', '@']) {
            at.error(
                "the path of the Unix socket is not absolute",
                "write unix:///path",
            );
        }
        return;
    }
    let known = ["127.0.0.1:", "0.0.0.0:", "[::1]:", "[::]:"];
    let number = known
        .iter()
        .find_map(|prefix| text.strip_prefix(prefix))
        .and_then(|n| n.parse::<u16>().ok());
    if number.is_none_or(|n| n == 0) {
        at.error(
            format_args!("{:?} is not an endpoint of the workload", clip(text)),
            "write 127.0.0.1:PORT or unix:///path",
        );
    }
}
