//! The control plane's metrics, under Istio's names.

use std::time::SystemTime;

use isthmus_pki::Authority;
use isthmus_runtime::metrics::Metrics;
use isthmus_runtime::metrics::prometheus_client::metrics::counter::Counter;
use isthmus_runtime::metrics::prometheus_client::metrics::family::Family;
use isthmus_runtime::metrics::prometheus_client::metrics::gauge::Gauge;
use isthmus_runtime::metrics::prometheus_client::metrics::histogram::Histogram;
use isthmus_xds::server::service::Kind;

/// One label and its value.
type Label = [(&'static str, String); 1];

/// What is counted.
pub(super) struct Meters {
    pushes: Family<Label, Counter>,
    resources: Family<[(&'static str, String); 2], Counter>,
    rejects: Family<Label, Counter>,
    /// Streams of proxies.
    pub proxies: Gauge,
    /// Streams without proof, or with another's name.
    pub refused_streams: Counter,
    /// Seconds from the first response of a change to its last answer.
    pub convergence: Histogram,
    services: Gauge,
    clusters: Family<Label, Gauge>,
    root_expiry: Gauge,
    chain_expiry: Gauge,
}

impl Meters {
    pub fn new(metrics: &Metrics) -> Self {
        let buckets = [0.1, 0.5, 1.0, 3.0, 5.0, 10.0, 20.0, 30.0];
        Self {
            pushes: metrics.register(
                "pilot_xds_pushes",
                "Responses sent to proxies, by type of resource",
                Family::default(),
            ),
            resources: metrics.register(
                "isthmus_xds_resources_sent",
                "Resources sent to proxies, by type and protocol",
                Family::default(),
            ),
            rejects: metrics.register(
                "pilot_total_xds_rejects",
                "Responses that proxies refused, by type of resource",
                Family::default(),
            ),
            proxies: metrics.register("pilot_xds", "Proxies connected by ADS", Gauge::default()),
            refused_streams: metrics.register(
                "isthmus_xds_refused_streams_total",
                "ADS streams refused for want of proof or for a false name",
                Counter::default(),
            ),
            convergence: metrics.register(
                "pilot_proxy_convergence_time",
                "Seconds from sending a change to a proxy until it has taken all of it",
                Histogram::new(buckets),
            ),
            services: metrics.register("pilot_services", "Services known", Gauge::default()),
            clusters: metrics.register(
                "istiod_managed_clusters",
                "Member clusters that configuration is drawn from",
                Family::default(),
            ),
            root_expiry: metrics.register(
                "citadel_server_root_cert_expiry_seconds",
                "Seconds until the root certificate expires",
                Gauge::default(),
            ),
            chain_expiry: metrics.register(
                "citadel_server_cert_chain_expiry_seconds",
                "Seconds until the first certificate of the authority's chain expires",
                Gauge::default(),
            ),
        }
    }

    /// A response with so many resources.
    pub fn push(&self, ty: &str, kind: Kind, resources: usize) {
        self.pushes.get_or_create(&[("type", ty.to_owned())]).inc();
        let labels = [("type", ty.to_owned()), ("protocol", protocol(kind).to_owned())];
        let sent = self.resources.get_or_create(&labels);
        sent.inc_by(u64::try_from(resources).unwrap_or(u64::MAX));
    }

    pub fn reject(&self, ty: &str) {
        self.rejects.get_or_create(&[("type", ty.to_owned())]).inc();
    }

    /// Brings up to date what is looked up only when somebody asks.
    pub fn refresh(&self, services: usize, remote_clusters: usize, authority: &Authority) {
        self.services.set(i64::try_from(services).unwrap_or(i64::MAX));
        for (kind, count) in [("local", 1), ("remote", remote_clusters)] {
            let gauge = self.clusters.get_or_create(&[("cluster_type", kind.to_owned())]);
            gauge.set(i64::try_from(count).unwrap_or(i64::MAX));
        }
        self.root_expiry.set(seconds_until(authority.anchor().not_after));
        self.chain_expiry.set(seconds_until(authority.expires()));
    }
}

/// What a stream speaks, in words.
pub(super) fn protocol(kind: Kind) -> &'static str {
    match kind {
        Kind::Delta => "delta",
        Kind::Sotw => "state-of-the-world",
    }
}

fn seconds_until(moment: SystemTime) -> i64 {
    let seconds = |d: std::time::Duration| i64::try_from(d.as_secs()).unwrap_or(i64::MAX);
    match moment.duration_since(SystemTime::now()) {
        Ok(left) => seconds(left),
        Err(past) => -seconds(past.duration()),
    }
}
