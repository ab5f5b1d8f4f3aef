//! What a stock Envoy is told otherwise than the mesh's own proxy, and what it would refuse.

use isthmus_xds::envoy::cluster::cluster::{LbConfig, LbPolicy};
use isthmus_xds::envoy::core::config_source::ConfigSourceSpecifier;

use crate::proxy::ProxyKind::{Router, Sidecar};
use crate::test_told::*;

const RULE: &str = "
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: reviews, namespace: default}
spec:
  host: reviews
  trafficPolicy: {loadBalancer: {simple: ROUND_ROBIN, warmup: {duration: 30s}}}
  subsets:
  - {name: v1, labels: {version: v1}, trafficPolicy: {loadBalancer: {simple: PASSTHROUGH}}}
";

#[test]
fn a_gateway_picks_an_endpoint_of_a_passthrough_subset_itself() {
    let told = us().apply(RULE).told(Router, "eastwest-1.istio-system");
    let cluster = told.cluster("outbound_.9080_.v1_.reviews.default.svc.cluster.local");
    assert_ne!(cluster.lb_policy(), LbPolicy::ClusterProvided);
}

#[test]
fn only_a_stock_envoy_is_asked_to_warm_endpoints_up() {
    let mut us = us();
    let snapshot = us.apply(RULE).snapshot();
    for stock_envoy in [false, true] {
        let mut proxy = proxy(&snapshot, Sidecar, "sleep-1.default");
        proxy.stock_envoy = stock_envoy;
        let cluster =
            Told::new(&snapshot, &proxy).cluster("outbound|9080||reviews.default.svc.cluster.local");
        assert_eq!(cluster.lb_policy(), LbPolicy::RoundRobin);
        let slow = match cluster.lb_config {
            Some(LbConfig::RoundRobinLbConfig(config)) => config.slow_start_config.is_some(),
            _ => false,
        };
        assert_eq!(slow, stock_envoy);
    }
}

#[test]
fn keys_come_from_the_agent_beside_the_proxy() {
    let told = us().told(Sidecar, "sleep-1.default");
    let tls = upstream_tls(&told.cluster("outbound|9080||reviews.default.svc.cluster.local"));
    let own = &tls.common_tls_context.unwrap().tls_certificate_sds_secret_configs[0];
    assert_eq!(own.name, "default");
    let source = own.sds_config.as_ref().unwrap().config_source_specifier.as_ref();
    assert!(
        matches!(source, Some(ConfigSourceSpecifier::ApiConfigSource(api))
            if format!("{api:?}").contains("sds-grpc")),
        "{source:?}"
    );
}
