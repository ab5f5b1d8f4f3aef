//! `/stats` and the workers' part of `/stats/prometheus`.

use std::collections::BTreeMap;
use std::fmt::Write;

use serde_json::{Value, json};

use crate::orders::{Metric, MetricValue, Report};

/// Series by name, so that each name has its `# TYPE` once.
fn families(report: &Report) -> BTreeMap<&str, Vec<&Metric>> {
    let mut families: BTreeMap<&str, Vec<&Metric>> = BTreeMap::new();
    for metric in &report.metrics {
        families.entry(&metric.name).or_default().push(metric);
    }
    families
}

/// Labels between braces, or nothing; `more` is added as it is.
fn labels(metric: &Metric, more: &str) -> String {
    let mut out = String::new();
    for (name, value) in metric.labels.iter() {
        let separator = if out.is_empty() { "" } else { "," };
        let value = value
            .replace('\\', "\\\\")
            .replace('"', "\\\"")
            .replace('\n', "\\n");
        let _ = write!(out, "{separator}{name}=\"{value}\"");
    }
    if !more.is_empty() {
        let separator = if out.is_empty() { "" } else { "," };
        let _ = write!(out, "{separator}{more}");
    }
    if out.is_empty() { out } else { format!("{{{out}}}") }
}

/// Appends the workers' metrics in Prometheus' text form.
pub fn prometheus(report: &Report, connected: bool, page: &mut String) {
    for (name, value) in [
        ("envoy_server_live", 1),
        ("envoy_control_plane_connected_state", u64::from(connected)),
        ("envoy_server_total_connections", report.connections),
        ("envoy_http_downstream_rq_active", report.requests),
    ] {
        let _ = writeln!(page, "# TYPE {name} gauge\n{name} {value}");
    }
    for (name, series) in families(report) {
        let kind = match series.first().map(|m| &m.value) {
            Some(MetricValue::Gauge(_)) => "gauge",
            Some(MetricValue::Histogram { .. }) => "histogram",
            _ => "counter",
        };
        let _ = writeln!(page, "# TYPE {name} {kind}");
        for metric in series {
            write_series(name, metric, page);
        }
    }
}

fn write_series(name: &str, metric: &Metric, page: &mut String) {
    match &metric.value {
        MetricValue::Counter(v) => {
            let _ = writeln!(page, "{name}{} {v}", labels(metric, ""));
        }
        MetricValue::Gauge(v) => {
            let _ = writeln!(page, "{name}{} {v}", labels(metric, ""));
        }
        MetricValue::Histogram { bounds, counts, sum } => {
            let mut total = 0u64;
            for (i, count) in counts.iter().enumerate() {
                total = total.saturating_add(*count);
                let le = match bounds.get(i) {
                    Some(bound) => format!("le=\"{bound}\""),
                    None => "le=\"+Inf\"".to_owned(),
                };
                let _ = writeln!(page, "{name}_bucket{} {total}", labels(metric, &le));
            }
            let own = labels(metric, "");
            let _ = writeln!(page, "{name}_sum{own} {sum}\n{name}_count{own} {total}");
        }
    }
}

/// `NAME{LABELS}: VALUE`, one a line; a histogram by its count and sum.
pub fn text_page(report: &Report) -> String {
    let mut out = format!(
        "server.total_connections: {}\nserver.requests_active: {}\n",
        report.connections, report.requests
    );
    for (name, series) in families(report) {
        for metric in series {
            let labels = labels(metric, "");
            let _ = match &metric.value {
                MetricValue::Counter(v) => writeln!(out, "{name}{labels}: {v}"),
                MetricValue::Gauge(v) => writeln!(out, "{name}{labels}: {v}"),
                MetricValue::Histogram { counts, sum, .. } => {
                    let count: u64 = counts.iter().sum();
                    writeln!(out, "{name}{labels}: count={count} sum={sum}")
                }
            };
        }
    }
    out
}

/// `{"stats": [{name, value}]}`.
pub fn json_page(report: &Report) -> Value {
    let mut stats = vec![json!({ "name": "server.total_connections", "value": report.connections })];
    for (name, series) in families(report) {
        for metric in series {
            let value = match &metric.value {
                MetricValue::Counter(v) => json!(v),
                MetricValue::Gauge(v) => json!(v),
                MetricValue::Histogram { counts, sum, .. } => {
                    json!({ "count": counts.iter().sum::<u64>(), "sum": sum })
                }
            };
            stats.push(json!({ "name": format!("{name}{}", labels(metric, "")), "value": value }));
        }
    }
    json!({ "stats": stats })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn histograms_are_cumulated_and_labels_escaped() {
        let report = Report {
            metrics: vec![Metric {
                name: "istio_request_duration_milliseconds".into(),
                labels: Arc::new([("reporter".into(), "a\"b".into())]),
                value: MetricValue::Histogram {
                    bounds: Arc::new([1.0, 5.0]),
                    counts: vec![1, 2, 3],
                    sum: 40.5,
                },
            }],
            ..Report::default()
        };
        let mut page = String::new();
        prometheus(&report, true, &mut page);
        for line in [
            "# TYPE istio_request_duration_milliseconds histogram",
            r#"istio_request_duration_milliseconds_bucket{reporter="a\"b",le="1"} 1"#,
            r#"istio_request_duration_milliseconds_bucket{reporter="a\"b",le="5"} 3"#,
            r#"istio_request_duration_milliseconds_bucket{reporter="a\"b",le="+Inf"} 6"#,
            r#"istio_request_duration_milliseconds_sum{reporter="a\"b"} 40.5"#,
            r#"istio_request_duration_milliseconds_count{reporter="a\"b"} 6"#,
        ] {
            assert!(page.lines().any(|l| l == line), "{line} is not in\n{page}");
        }
    }
}
