//! Annotations and labels that the mesh itself reads, by name.

/// On a ServiceEntry: the service behind a gateway endpoint, `name.namespace` or a full host name.
/// Without it the service is found by name (see the ServiceEntry's host).
pub const TARGET_SERVICE: &str = "isthmus.io/target-service";
/// On a Service: who sees it, comma-separated.
pub const EXPORT_TO: &str = "networking.istio.io/exportTo";
/// Label of namespaces, pods and gateway Services: the network.
pub const NETWORK: &str = "topology.istio.io/network";
/// Label of namespaces and pods: the member cluster.
pub const CLUSTER: &str = "topology.istio.io/cluster";
/// Label of nodes and pods: the sub-zone.
pub const SUBZONE: &str = "topology.istio.io/subzone";
/// Label of nodes: the region.
pub const REGION: &str = "topology.kubernetes.io/region";
/// Label of nodes: the zone.
pub const ZONE: &str = "topology.kubernetes.io/zone";
/// Label of pods: region, zone and sub-zone, with `.` for `/`.
pub const LOCALITY: &str = "istio-locality";
/// Label of a network's gateway Service: its passthrough port, 15443 when absent.
pub const GATEWAY_PORT: &str = "networking.istio.io/gatewayPort";
/// Label of pods and endpoints: `istio` when a sidecar takes mTLS.
pub const TLS_MODE: &str = "security.istio.io/tlsMode";
/// Label of pods: the name under which telemetry knows them.
pub const CANONICAL_NAME: &str = "service.istio.io/canonical-name";
/// Label of pods: the version under which telemetry knows them.
pub const CANONICAL_REVISION: &str = "service.istio.io/canonical-revision";

#[cfg(test)]
mod tests {
    use crate::parse;

    #[test]
    fn a_target_service_must_be_a_host_and_stand_on_a_service_entry() {
        let text = |kind: &str, target: &str, spec: &str| {
            format!(
                "apiVersion: networking.istio.io/v1\nkind: {kind}\nmetadata:\n  name: x\n  annotations:\n    \
                 isthmus.io/target-service: {target}\nspec: {spec}\n"
            )
        };
        let entry = "{hosts: [a.b], ports: [{number: 80, name: http, protocol: HTTP}], resolution: DNS}";
        assert_eq!(parse(&text("ServiceEntry", "echo.echo", entry), "f").findings, []);
        assert!(parse(&text("ServiceEntry", "'*.echo'", entry), "f").has_errors());
        let misplaced = parse(&text("WorkloadEntry", "echo.echo", "{address: 10.0.0.1}"), "f");
        assert_eq!(misplaced.findings[0].code.id, "IST0107");
        assert_eq!(misplaced.findings[0].line, 6);
    }
}
