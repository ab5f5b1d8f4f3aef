//! What a DestinationRule says of one port and subset, and what it becomes in a cluster.

use std::time::Duration;

use isthmus_api::istio::DestinationRule;
use isthmus_api::istio::destination_rule::{
    ClientTlsSettings, ConnectionPoolSettings, ConsistentHashLb, LoadBalancerSettings, OutlierDetection,
    SimpleLb, TrafficPolicy,
};
use isthmus_xds::envoy::cluster::{self as envoy, circuit_breakers::Thresholds, cluster as inner};
use isthmus_xds::envoy::core;

use crate::generate::wire;
use crate::mesh::{LocalitySetting, Mesh};

/// The policy that holds for one port of one subset.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Policy {
    /// How an endpoint is chosen.
    pub balancer: Option<LoadBalancerSettings>,
    /// Limits.
    pub pool: Option<ConnectionPoolSettings>,
    /// When an endpoint is ejected.
    pub outlier: Option<OutlierDetection>,
    /// TLS.
    pub tls: Option<ClientTlsSettings>,
}

impl Policy {
    /// The subset's policy over the host's; a port's replaces both and inherits nothing (Istio's
    /// `MergeTrafficPolicy`).
    pub fn of<'a>(rules: impl Iterator<Item = &'a DestinationRule> + Clone, subset: &str, port: u16) -> Self {
        let mut policy = Self::default();
        if let Some(base) = rules.clone().find_map(|r| r.traffic_policy.as_ref()) {
            policy.lay_over(base, port);
        }
        if !subset.is_empty() {
            let found = rules.flat_map(|r| &r.subsets).find(|s| s.name == subset);
            if let Some(over) = found.and_then(|s| s.traffic_policy.as_ref()) {
                policy.lay_over(over, port);
            }
        }
        policy
    }

    fn lay_over(&mut self, over: &TrafficPolicy, port: u16) {
        self.balancer = over.load_balancer.clone().or(self.balancer.take());
        self.pool = over.connection_pool.clone().or(self.pool.take());
        self.outlier = over.outlier_detection.clone().or(self.outlier.take());
        self.tls = over.tls.clone().or(self.tls.take());
        let at_port = over
            .port_level_settings
            .iter()
            .find(|s| s.port.as_ref().is_some_and(|p| p.number == port));
        if let Some(at_port) = at_port {
            *self = Self {
                balancer: at_port.load_balancer.clone(),
                pool: at_port.connection_pool.clone(),
                outlier: at_port.outlier_detection.clone(),
                tls: at_port.tls.clone(),
            };
        }
    }

    /// How locality is regarded: the rule's setting, else the mesh's; `None` when it is not.
    pub fn locality(&self, mesh: &Mesh) -> Option<LocalitySetting> {
        let own = self
            .balancer
            .as_ref()
            .and_then(|b| b.locality_lb_setting.as_ref())
            .map(LocalitySetting::from);
        let setting = own.unwrap_or_else(|| mesh.locality.clone());
        if setting.enabled == Some(false) {
            return None;
        }
        // Upstream fails over only where failures are noticed.
        let blind = mesh.istio_compatible && self.outlier.is_none() && setting.distribute.is_empty();
        (!blind).then_some(setting)
    }

    /// What requests are hashed by.
    pub fn hash(&self) -> Option<&ConsistentHashLb> {
        self.balancer.as_ref()?.consistent_hash.as_ref()
    }

    /// Whether connections go to where the caller addressed them.
    pub fn is_passthrough(&self) -> bool {
        self.balancer.as_ref().and_then(|b| b.simple) == Some(SimpleLb::Passthrough)
    }

    /// Whether HTTP/1.1 becomes HTTP/2.
    pub fn upgrades(&self, mesh: &Mesh) -> bool {
        use isthmus_api::istio::destination_rule::H2UpgradePolicy;
        match self.http().map(|h| h.h2_upgrade_policy).unwrap_or_default() {
            H2UpgradePolicy::Default => mesh.upgrades_to_h2,
            said => said == H2UpgradePolicy::Upgrade,
        }
    }

    /// Whether the caller's HTTP version is kept.
    pub fn keeps_protocol(&self) -> bool {
        self.http().is_some_and(|h| h.use_client_protocol)
    }

    /// Request limits.
    pub fn http(&self) -> Option<&isthmus_api::istio::destination_rule::HttpSettings> {
        self.pool.as_ref()?.http.as_ref()
    }

    /// Connection limits.
    pub fn tcp(&self) -> Option<&isthmus_api::istio::destination_rule::TcpSettings> {
        self.pool.as_ref()?.tcp.as_ref()
    }

    /// Puts the policy into a cluster, TLS and protocol left out.
    pub fn apply(&self, cluster: &mut envoy::Cluster, mesh: &Mesh) {
        self.apply_balancer(cluster, mesh);
        self.apply_pool(cluster, mesh);
        self.apply_outlier(cluster, mesh);
    }

    fn apply_balancer(&self, cluster: &mut envoy::Cluster, mesh: &Mesh) {
        use inner::LbPolicy;
        let slow_start = self.slow_start();
        let simple = self.balancer.as_ref().and_then(|b| b.simple).unwrap_or_default();
        let (policy, config) = match (self.hash(), simple) {
            (Some(hash), _) if hash.maglev.is_some() => {
                let size = hash.maglev.as_ref().and_then(|m| m.table_size);
                (
                    LbPolicy::Maglev,
                    size.map(|s| {
                        inner::LbConfig::MaglevLbConfig(inner::MaglevLbConfig {
                            table_size: wire::uint64(s),
                        })
                    }),
                )
            }
            (Some(hash), _) => {
                let ring = hash.ring_hash.as_ref().and_then(|r| r.minimum_ring_size);
                let least = ring.or(hash.minimum_ring_size).unwrap_or(1024);
                (
                    LbPolicy::RingHash,
                    Some(inner::LbConfig::RingHashLbConfig(inner::RingHashLbConfig {
                        minimum_ring_size: wire::uint64(least),
                        ..Default::default()
                    })),
                )
            }
            (None, SimpleLb::RoundRobin) => (
                LbPolicy::RoundRobin,
                slow_start.map(|s| {
                    inner::LbConfig::RoundRobinLbConfig(inner::RoundRobinLbConfig {
                        slow_start_config: Some(s),
                    })
                }),
            ),
            (None, SimpleLb::Random) => (LbPolicy::Random, None),
            (None, SimpleLb::Passthrough) => (LbPolicy::ClusterProvided, None),
            (None, SimpleLb::Unspecified | SimpleLb::LeastConn | SimpleLb::LeastRequest) => (
                LbPolicy::LeastRequest,
                slow_start.map(|s| {
                    inner::LbConfig::LeastRequestLbConfig(inner::LeastRequestLbConfig {
                        slow_start_config: Some(s),
                        ..Default::default()
                    })
                }),
            ),
        };
        cluster.lb_policy = policy as i32;
        cluster.lb_config = config;
        let distributes = self.locality(mesh).is_some_and(|l| !l.distribute.is_empty());
        let health = self
            .outlier
            .as_ref()
            .and_then(|o| o.min_health_percent)
            .unwrap_or(0);
        cluster.common_lb_config = Some(inner::CommonLbConfig {
            healthy_panic_threshold: wire::percent(f64::from(health.clamp(0, 100))),
            locality_config_specifier: distributes.then_some(
                inner::common_lb_config::LocalityConfigSpecifier::LocalityWeightedLbConfig(
                    inner::common_lb_config::LocalityWeightedLbConfig {},
                ),
            ),
            ..Default::default()
        });
    }

    fn slow_start(&self) -> Option<inner::SlowStartConfig> {
        let balancer = self.balancer.as_ref()?;
        let warmup = balancer.warmup.as_ref();
        let window = warmup
            .and_then(|w| w.duration)
            .or(balancer.warmup_duration_secs)?;
        Some(inner::SlowStartConfig {
            slow_start_window: wire::duration(*window),
            aggression: Some(core::RuntimeDouble {
                default_value: warmup.and_then(|w| w.aggression).unwrap_or(1.0),
                runtime_key: "upstream.slow_start.aggression".to_owned(),
            }),
            min_weight_percent: wire::percent(warmup.and_then(|w| w.minimum_percent).unwrap_or(10.0)),
        })
    }

    /// Limits of connections and requests.
    pub(super) fn apply_pool(&self, cluster: &mut envoy::Cluster, mesh: &Mesh) {
        let limit = |said: Option<i32>| {
            wire::uint(
                said.filter(|n| *n > 0)
                    .and_then(|n| u32::try_from(n).ok())
                    .unwrap_or(u32::MAX),
            )
        };
        let (tcp, http) = (self.tcp(), self.http());
        cluster.circuit_breakers = Some(envoy::CircuitBreakers {
            thresholds: vec![Thresholds {
                max_connections: limit(tcp.and_then(|t| t.max_connections)),
                max_pending_requests: limit(http.and_then(|h| h.http1_max_pending_requests)),
                max_requests: limit(http.and_then(|h| h.http2_max_requests)),
                max_retries: limit(http.and_then(|h| h.max_retries)),
                track_remaining: true,
                ..Default::default()
            }],
            ..Default::default()
        });
        let connect = tcp
            .and_then(|t| t.connect_timeout)
            .map_or(mesh.connect_timeout, |d| *d);
        cluster.connect_timeout = wire::duration(connect);
        let said = tcp.and_then(|t| t.tcp_keepalive.as_ref());
        if let Some(keepalive) = said.or(mesh.tcp_keepalive.as_ref()) {
            let seconds = |d: &isthmus_api::Duration| isthmus_xds::envoy::google::protobuf::UInt32Value {
                value: u32::try_from(d.as_secs().max(1)).unwrap_or(u32::MAX),
            };
            cluster.upstream_connection_options = Some(envoy::UpstreamConnectionOptions {
                tcp_keepalive: Some(core::TcpKeepalive {
                    keepalive_probes: keepalive.probes.and_then(wire::uint),
                    keepalive_time: keepalive.time.as_ref().map(seconds),
                    keepalive_interval: keepalive.interval.as_ref().map(seconds),
                }),
                ..Default::default()
            });
        }
    }

    fn apply_outlier(&self, cluster: &mut envoy::Cluster, mesh: &Mesh) {
        let full = |on: bool| wire::uint(if on { 100 } else { 0 });
        if let Some(written) = &self.outlier {
            let old = written.consecutive_errors.and_then(|n| u32::try_from(n).ok());
            let consecutive_5xx = written.consecutive_5xx_errors.or(old).unwrap_or(5);
            let gateway = written.consecutive_gateway_errors.unwrap_or(0);
            let local = written.consecutive_local_origin_failures.unwrap_or(5);
            let span = |d: Option<isthmus_api::Duration>, default: u64| {
                wire::duration(d.map_or(Duration::from_secs(default), |d| *d))
            };
            let percent = written
                .max_ejection_percent
                .and_then(|p| u32::try_from(p).ok())
                .unwrap_or(10);
            cluster.outlier_detection = Some(envoy::OutlierDetection {
                consecutive_5xx: wire::uint(consecutive_5xx.max(1)),
                enforcing_consecutive_5xx: full(consecutive_5xx > 0),
                consecutive_gateway_failure: wire::uint(gateway.max(1)),
                enforcing_consecutive_gateway_failure: full(gateway > 0),
                split_external_local_origin_errors: written.split_external_local_origin_errors,
                consecutive_local_origin_failure: wire::uint(local.max(1)),
                enforcing_consecutive_local_origin_failure: full(
                    written.split_external_local_origin_errors && local > 0,
                ),
                interval: span(written.interval, 10),
                base_ejection_time: span(written.base_ejection_time, 30),
                max_ejection_percent: wire::uint(percent.min(100)),
                enforcing_success_rate: full(false),
                enforcing_local_origin_success_rate: full(false),
                ..Default::default()
            });
        } else if !mesh.istio_compatible {
            cluster.outlier_detection = Some(local_origin_only());
        }
    }
}

/// Takes the warm-up of new endpoints out of a cluster, for proxies that have none: they refuse a cluster
/// that asks for it. Validation says so to whoever wrote it.
pub fn forget_slow_start(cluster: &mut envoy::Cluster) {
    match &mut cluster.lb_config {
        Some(inner::LbConfig::RoundRobinLbConfig(config)) => config.slow_start_config = None,
        Some(inner::LbConfig::LeastRequestLbConfig(config)) => config.slow_start_config = None,
        _ => {}
    }
}

/// Ejection on failures of local origin alone (connect, handshake, reset, time-out before headers), which
/// makes locality failover work without a word of configuration. An answer, whatever its status, never
/// ejects; everybody may be ejected, since the panic threshold is 0 and the next priority takes over.
fn local_origin_only() -> envoy::OutlierDetection {
    envoy::OutlierDetection {
        split_external_local_origin_errors: true,
        consecutive_local_origin_failure: wire::uint(3),
        enforcing_consecutive_local_origin_failure: wire::uint(100),
        enforcing_consecutive_5xx: wire::uint(0),
        enforcing_consecutive_gateway_failure: wire::uint(0),
        enforcing_success_rate: wire::uint(0),
        enforcing_local_origin_success_rate: wire::uint(0),
        interval: wire::duration(Duration::from_secs(1)),
        base_ejection_time: wire::duration(Duration::from_secs(5)),
        max_ejection_time: wire::duration(Duration::from_secs(30)),
        max_ejection_percent: wire::uint(100),
        ..Default::default()
    }
}
