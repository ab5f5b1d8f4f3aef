//! Traffic policies of a DestinationRule and what Sidecars and the MeshConfig share with them.

use std::collections::HashSet;

use super::At;
use super::field::{header_name, percent, port, positive, repeated, whole_milliseconds};
use super::metadata::clip;
use crate::codes;
use crate::enforcement;
use crate::istio::destination_rule::{
    ClientTlsMode, ClientTlsSettings, ConnectionPoolSettings, ConsistentHashLb, LoadBalancerSettings,
    LocalityLoadBalancerSetting, OutlierDetection, SimpleLb, TrafficPolicy, TunnelSettings,
};

/// A policy of a host or subset.
pub(super) fn validate(policy: &TrafficPolicy, at: &At<'_>) {
    if *policy == TrafficPolicy::default() {
        at.error("the traffic policy says nothing", "add a field, or remove it");
    }
    parts(
        policy.load_balancer.as_ref(),
        policy.connection_pool.as_ref(),
        policy.outlier_detection.as_ref(),
        policy.tls.as_ref(),
        at,
    );
    for (i, settings) in policy.port_level_settings.iter().enumerate() {
        let at = at.field("portLevelSettings").index(i);
        match &settings.port {
            None => at.error("the settings name no port", "add port.number"),
            Some(p) => port(p.number, &at.field("port").field("number")),
        }
        parts(
            settings.load_balancer.as_ref(),
            settings.connection_pool.as_ref(),
            settings.outlier_detection.as_ref(),
            settings.tls.as_ref(),
            &at,
        );
    }
    for i in repeated(
        policy
            .port_level_settings
            .iter()
            .map(|s| s.port.as_ref().map(|p| p.number)),
    ) {
        at.field("portLevelSettings")
            .index(i)
            .error("the port has settings already", "merge them");
    }
    if let Some(t) = &policy.tunnel {
        tunnel(t, &at.field("tunnel"));
        enforcement::require("DestinationRule.tunnel", &at.field("tunnel"));
    }
    if policy.proxy_protocol.is_some() {
        enforcement::require("DestinationRule.proxyProtocol", &at.field("proxyProtocol"));
    }
    if let Some(budget) = &policy.retry_budget
        && let Some(p) = &budget.percent
    {
        percent(p.value, &at.field("retryBudget").field("percent").field("value"));
    }
}

fn parts(
    lb: Option<&LoadBalancerSettings>,
    pool: Option<&ConnectionPoolSettings>,
    outliers: Option<&OutlierDetection>,
    tls: Option<&ClientTlsSettings>,
    at: &At<'_>,
) {
    if let Some(lb) = lb {
        load_balancer(lb, &at.field("loadBalancer"));
    }
    if let Some(pool) = pool {
        connection_pool(pool, &at.field("connectionPool"));
    }
    if let Some(outliers) = outliers {
        outlier_detection(outliers, &at.field("outlierDetection"));
    }
    if let Some(tls) = tls {
        client_tls(tls, &at.field("tls"));
    }
}

fn load_balancer(lb: &LoadBalancerSettings, at: &At<'_>) {
    if lb.simple.is_some() && lb.consistent_hash.is_some() {
        at.field("consistentHash")
            .error("simple and consistentHash exclude each other", "keep one of them");
    }
    if let Some(hash) = &lb.consistent_hash {
        consistent_hash(hash, &at.field("consistentHash"));
    }
    if let Some(locality) = &lb.locality_lb_setting {
        locality_lb(locality, &at.field("localityLbSetting"));
    }
    let slow = lb.warmup.is_some() || lb.warmup_duration_secs.is_some();
    let allows = matches!(
        lb.simple,
        None | Some(
            SimpleLb::Unspecified | SimpleLb::RoundRobin | SimpleLb::LeastRequest | SimpleLb::LeastConn
        )
    ) && lb.consistent_hash.is_none();
    if slow && !allows {
        at.field("warmup").error(
            "only ROUND_ROBIN and LEAST_REQUEST have a warm-up",
            "change simple, or remove warmup",
        );
    }
    if slow && allows {
        at.field("warmup").finding(
            &codes::NO_EFFECT,
            "the mesh's own proxies give new endpoints their full share at once; stock Envoys warm them up",
            "remove it, unless it is for stock Envoys",
        );
    }
    positive(lb.warmup_duration_secs, &at.field("warmupDurationSecs"));
    if let Some(warmup) = &lb.warmup {
        let at = at.field("warmup");
        match warmup.duration {
            None => at.error("the warm-up has no duration", "add duration"),
            duration => positive(duration, &at.field("duration")),
        }
        if let Some(p) = warmup.minimum_percent {
            percent(p, &at.field("minimumPercent"));
        }
        if warmup.aggression.is_some_and(|a| a.is_nan() || a < 1.0) {
            at.field("aggression")
                .error("the aggression is below 1", "write 1 or more");
        }
    }
}

fn consistent_hash(hash: &ConsistentHashLb, at: &At<'_>) {
    let keys = [
        hash.http_header_name.is_some(),
        hash.http_cookie.is_some(),
        hash.use_source_ip.is_some(),
        hash.http_query_parameter_name.is_some(),
    ];
    if keys.into_iter().filter(|set| *set).count() != 1 {
        at.error(
            "the hash needs exactly one key",
            "write one of httpHeaderName, httpCookie, useSourceIp and httpQueryParameterName",
        );
    }
    if let Some(name) = &hash.http_header_name {
        header_name(name, &at.field("httpHeaderName"));
    }
    if let Some(cookie) = &hash.http_cookie {
        let at = at.field("httpCookie");
        if cookie.name.is_empty() {
            at.error("the cookie has no name", "add name");
        }
        if cookie.ttl.is_none() {
            at.error("the cookie has no ttl", "add ttl; 0s makes a session cookie");
        }
    }
    if hash.ring_hash.is_some() && hash.maglev.is_some() {
        at.field("maglev")
            .error("ringHash and maglev exclude each other", "keep one of them");
    }
    let ring = hash
        .ring_hash
        .as_ref()
        .and_then(|r| r.minimum_ring_size)
        .or(hash.minimum_ring_size);
    if ring.is_some_and(|n| n > 8 << 20) {
        at.error(
            "the ring has more than 8388608 points",
            "write a smaller minimumRingSize",
        );
    }
    let table = hash.maglev.as_ref().and_then(|m| m.table_size);
    if let Some(size) = table
        && (size > 5_000_011 || !is_prime(size))
    {
        at.field("maglev").field("tableSize").error(
            format_args!("{size} is not a prime of at most 5000011"),
            "write a prime such as 65537",
        );
    }
}

fn is_prime(n: u64) -> bool {
    n > 1 && (2..).take_while(|d| d * d <= n).all(|d| !n.is_multiple_of(d))
}

/// Locality rules, of a DestinationRule and of the mesh.
pub(super) fn locality_lb(settings: &LocalityLoadBalancerSetting, at: &At<'_>) {
    if !settings.distribute.is_empty() && !settings.failover.is_empty() {
        at.field("failover")
            .error("distribute and failover exclude each other", "keep one of them");
    }
    let topology = |l: &String| {
        matches!(
            l.split('=').next().unwrap_or_default(),
            "topology.kubernetes.io/region" | "topology.kubernetes.io/zone" | "topology.istio.io/subzone"
        )
    };
    if !settings.failover.is_empty()
        && let Some(i) = settings.failover_priority.iter().position(topology)
    {
        at.field("failoverPriority").index(i).error(
            "failover and a locality label in failoverPriority exclude each other",
            "keep one of them",
        );
    }
    let mut origins = HashSet::new();
    for (i, distribute) in settings.distribute.iter().enumerate() {
        let at = at.field("distribute").index(i);
        locality(&distribute.from, &at.field("from"));
        if !origins.insert(&distribute.from) {
            at.field("from").error(
                format_args!("{:?} is distributed already", clip(&distribute.from)),
                "merge the two",
            );
        }
        let mut sum = 0u64;
        for (to, weight) in &distribute.to {
            let at = at.field("to").field(to);
            locality(to, &at);
            if !(1..=100).contains(weight) {
                at.error(format_args!("{weight} is not a share"), "write 1 to 100");
            }
            sum += u64::from(*weight);
        }
        if sum != 100 {
            at.field("to").error(
                format_args!("the shares add up to {sum}"),
                "make them add up to 100",
            );
        }
    }
    let mut regions = HashSet::new();
    for (i, failover) in settings.failover.iter().enumerate() {
        let at = at.field("failover").index(i);
        for (name, region) in [("from", &failover.from), ("to", &failover.to)] {
            if region.is_empty() || region.contains(['/', '*']) {
                at.field(name).error(
                    format_args!("{:?} is not a region", clip(region)),
                    "name one region",
                );
            }
        }
        if failover.from == failover.to {
            at.error(
                format_args!("{:?} fails over to itself", clip(&failover.from)),
                "name another region in to",
            );
        }
        if !regions.insert(&failover.from) {
            at.field("from").error(
                format_args!("{:?} fails over already", clip(&failover.from)),
                "keep one",
            );
        }
    }
    for (i, label) in settings.failover_priority.iter().enumerate() {
        if label.is_empty() {
            at.field("failoverPriority")
                .index(i)
                .error("the label is empty", "name a label");
        }
    }
}

/// `region[/zone[/subzone]]`, where `*` may stand last.
fn locality(text: &str, at: &At<'_>) {
    let parts: Vec<&str> = text.split('/').collect();
    let star = parts.iter().position(|p| p.contains('*'));
    let fine = parts.len() <= 3
        && parts.iter().all(|p| !p.is_empty())
        && star.is_none_or(|i| parts[i] == "*" && i == parts.len() - 1);
    if !fine {
        at.error(
            format_args!("{:?} is not a locality", clip(text)),
            "write region/zone/subzone; * may stand last",
        );
    }
}

/// Limits, of DestinationRules and Sidecars.
pub(super) fn connection_pool(pool: &ConnectionPoolSettings, at: &At<'_>) {
    if pool.tcp.is_none() && pool.http.is_none() {
        at.error(
            "the connection pool says nothing",
            "add tcp or http, or remove it",
        );
    }
    let not_negative = |value: Option<i32>, at: At<'_>| {
        if value.is_some_and(|v| v < 0) {
            at.error("the limit is negative", "write a positive number");
        }
    };
    if let Some(tcp) = &pool.tcp {
        let at = at.field("tcp");
        not_negative(tcp.max_connections, at.field("maxConnections"));
        positive(tcp.connect_timeout, &at.field("connectTimeout"));
        positive(tcp.max_connection_duration, &at.field("maxConnectionDuration"));
        whole_milliseconds(tcp.idle_timeout, &at.field("idleTimeout"));
        if let Some(keepalive) = &tcp.tcp_keepalive {
            for (name, d) in [("time", keepalive.time), ("interval", keepalive.interval)] {
                if d.is_some_and(|d| d.as_secs() == 0 || d.subsec_nanos() != 0) {
                    at.field("tcpKeepalive")
                        .field(name)
                        .error("keep-alive counts in whole seconds", "write 1s or more");
                }
            }
        }
    }
    if let Some(http) = &pool.http {
        let at = at.field("http");
        not_negative(
            http.http1_max_pending_requests,
            at.field("http1MaxPendingRequests"),
        );
        not_negative(http.http2_max_requests, at.field("http2MaxRequests"));
        not_negative(
            http.max_requests_per_connection,
            at.field("maxRequestsPerConnection"),
        );
        not_negative(http.max_retries, at.field("maxRetries"));
        not_negative(http.max_concurrent_streams, at.field("maxConcurrentStreams"));
        whole_milliseconds(http.idle_timeout, &at.field("idleTimeout"));
        if http.use_client_protocol
            && http.h2_upgrade_policy == crate::istio::destination_rule::H2UpgradePolicy::Upgrade
        {
            at.field("useClientProtocol").error(
                "useClientProtocol and h2UpgradePolicy UPGRADE exclude each other",
                "keep one",
            );
        }
    }
}

fn outlier_detection(outliers: &OutlierDetection, at: &At<'_>) {
    positive(outliers.interval, &at.field("interval"));
    positive(outliers.base_ejection_time, &at.field("baseEjectionTime"));
    for (name, value) in [
        ("maxEjectionPercent", outliers.max_ejection_percent),
        ("minHealthPercent", outliers.min_health_percent),
    ] {
        if let Some(value) = value {
            percent(f64::from(value), &at.field(name));
        }
    }
    if let Some(errors) = outliers.consecutive_errors {
        let at = at.field("consecutiveErrors");
        at.finding(
            &codes::DEPRECATED,
            "consecutiveErrors is deprecated",
            "use consecutive5xxErrors",
        );
        if errors < 0 {
            at.error("the number is negative", "write 0 or more");
        }
    }
    if outliers.consecutive_local_origin_failures.is_some() && !outliers.split_external_local_origin_errors {
        at.field("consecutiveLocalOriginFailures").error(
            "consecutiveLocalOriginFailures counts only with splitExternalLocalOriginErrors",
            "set splitExternalLocalOriginErrors: true",
        );
    }
    if outliers.consecutive_5xx_errors == Some(0) && outliers.consecutive_gateway_errors == Some(0) {
        at.warn(
            "5xx and gateway errors are both ignored",
            "set one of them, or remove outlierDetection",
        );
    }
}

/// TLS towards a host.
fn client_tls(tls: &ClientTlsSettings, at: &At<'_>) {
    let files = [
        ("clientCertificate", &tls.client_certificate),
        ("privateKey", &tls.private_key),
        ("caCertificates", &tls.ca_certificates),
    ];
    let given = || files.iter().filter(|(_, value)| !value.is_empty());
    match tls.mode {
        ClientTlsMode::IstioMutual => {
            for (name, _) in given() {
                at.field(name).error(
                    format_args!(
                        "{name} is not used with ISTIO_MUTUAL, whose certificates are the mesh's own"
                    ),
                    "remove it, or use MUTUAL",
                );
            }
            if !tls.credential_name.is_empty() {
                at.field("credentialName").error(
                    "credentialName is not used with ISTIO_MUTUAL",
                    "remove it, or use MUTUAL",
                );
            }
        }
        ClientTlsMode::Mutual if tls.credential_name.is_empty() => {
            for (name, value) in &files[..2] {
                if value.is_empty() {
                    at.error(
                        format_args!("MUTUAL needs {name}"),
                        format_args!("add {name}, or credentialName"),
                    );
                }
            }
        }
        ClientTlsMode::Disable => {
            for (name, _) in given() {
                at.field(name).error(
                    format_args!("{name} is given, and yet the mode is DISABLE"),
                    "set mode to SIMPLE or MUTUAL, or remove it",
                );
            }
        }
        ClientTlsMode::Simple | ClientTlsMode::Mutual => {}
    }
    if !tls.credential_name.is_empty() && given().next().is_some() {
        at.field("credentialName")
            .error("credentialName and files exclude each other", "keep one of them");
    }
    if tls.insecure_skip_verify == Some(true) {
        let at = at.field("insecureSkipVerify");
        if !tls.ca_certificates.is_empty() || !tls.subject_alt_names.is_empty() {
            at.error(
                "the server is to be verified and not to be verified",
                "remove insecureSkipVerify",
            );
        } else {
            at.finding(
                &codes::NO_SERVER_VERIFICATION,
                "the server's certificate is not verified; anybody in between can read the traffic",
                "remove insecureSkipVerify and set caCertificates",
            );
        }
    }
    for (i, name) in tls.subject_alt_names.iter().enumerate() {
        if name.is_empty() {
            at.field("subjectAltNames")
                .index(i)
                .error("the name is empty", "write a DNS name or a SPIFFE id");
        }
    }
    if !tls.subject_alt_names.is_empty() {
        enforcement::require(
            "DestinationRule.tls.subjectAltNames",
            &at.field("subjectAltNames"),
        );
    }
    if !tls.ca_crl.is_empty() {
        enforcement::require("DestinationRule.tls.caCrl", &at.field("caCrl"));
    }
}

fn tunnel(t: &TunnelSettings, at: &At<'_>) {
    if !matches!(t.protocol.as_str(), "" | "CONNECT" | "POST") {
        at.field("protocol").error(
            format_args!("{:?} cannot tunnel", clip(&t.protocol)),
            "write CONNECT or POST",
        );
    }
    if t.target_host.is_empty() {
        at.error("the tunnel has no target", "add targetHost");
    } else if t.target_host.parse::<std::net::IpAddr>().is_err() {
        super::field::host(&t.target_host, false, &at.field("targetHost"));
    }
    port(t.target_port.unwrap_or_default(), &at.field("targetPort"));
}
