use std::cell::Cell;
use std::sync::Arc;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family as Labelled;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;

use super::*;

#[tokio::test]
async fn names_are_exposed_exactly_as_registered() {
    let metrics = Metrics::new();
    let requests: Labelled<Vec<(String, String)>, Counter> =
        metrics.register("istio_requests_total", "Requests.", Default::default());
    requests
        .get_or_create(&vec![("path".to_owned(), "/a # {b}\"\n".to_owned())])
        .inc_by(3);
    let pushes: Counter = metrics.register("pilot_xds_pushes", "Pushes.", Default::default());
    pushes.inc();
    let services: Gauge = metrics.register("pilot_services", "Services.", Default::default());
    services.set(7);
    let times: Histogram = metrics.register("t_seconds", "Times.", Histogram::new([0.1, 1.0]));
    times.observe(0.5);

    let page = metrics.render().await;
    let expected = "\
# HELP istio_requests_total Requests.
# TYPE istio_requests_total counter
istio_requests_total{path=\"/a # {b}\\\"\\n\"} 3
# HELP pilot_xds_pushes Pushes.
# TYPE pilot_xds_pushes counter
pilot_xds_pushes 1
# HELP pilot_services Services.
# TYPE pilot_services gauge
pilot_services 7
# HELP t_seconds Times.
# TYPE t_seconds histogram
t_seconds_sum 0.5
t_seconds_count 1
t_seconds_bucket{le=\"0.1\"} 0
t_seconds_bucket{le=\"1.0\"} 1
t_seconds_bucket{le=\"+Inf\"} 1
";
    assert_eq!(page, expected);
}

#[test]
fn exemplars_units_and_eof_are_left_out() {
    let mut page = String::new();
    let text = "# HELP a A.\n# TYPE a counter\n# UNIT a seconds\na_total{x=\"}# \"} 1 # {id=\"7\"} 0.5\n# TYPE b info\nb_info{v=\"1\"} 1\n# EOF\n";
    exposition::from_open_metrics(text, &Default::default(), &mut page);
    assert_eq!(
        page,
        "# HELP a_total A.\n# TYPE a_total counter\na_total{x=\"}# \"} 1\n# TYPE b_info gauge\nb_info{v=\"1\"} 1\n"
    );
}

fn snapshot(n: u64) -> Vec<Family> {
    let labels = LabelText::new([("code", "200"), ("who", "a\"b")]);
    let bounds: Arc<[f64]> = Arc::new([1.0, 5.0]);
    let histogram = Value::Histogram(Distribution {
        bounds,
        counts: vec![n, 1, 0],
        sum: 2.5,
    });
    vec![
        Family {
            name: "w_total",
            help: "W.",
            kind: Kind::Counter,
            series: vec![Series {
                labels: labels.clone(),
                value: Value::Counter(n),
            }],
        },
        Family {
            name: "h",
            help: "H.",
            kind: Kind::Histogram,
            series: vec![Series {
                labels,
                value: histogram,
            }],
        },
    ]
}

#[tokio::test]
async fn workers_cells_are_merged_and_never_go_back() {
    let metrics = Metrics::new();
    let local = tokio::task::LocalSet::new();
    let first = metrics.worker();
    let second = metrics.worker();
    local
        .run_until(async {
            // Cells, neither Send nor Sync: nothing but the worker's own thread touches them.
            let cell = std::rc::Rc::new(Cell::new(2));
            let inner = cell.clone();
            let one = tokio::task::spawn_local(first.serve(move || snapshot(inner.get())));
            tokio::task::spawn_local(second.serve(|| snapshot(5)));
            let page = metrics.render().await;
            assert!(
                page.contains("w_total{code=\"200\",who=\"a\\\"b\"} 7\n"),
                "{page}"
            );
            assert!(
                page.contains("h_bucket{code=\"200\",who=\"a\\\"b\",le=\"1\"} 7\n"),
                "{page}"
            );
            assert!(
                page.contains("le=\"5\"} 9\n") && page.contains("le=\"+Inf\"} 9\n"),
                "{page}"
            );
            assert!(page.contains("h_sum{code=\"200\",who=\"a\\\"b\"} 5\n"), "{page}");
            cell.set(4);
            assert!(metrics.render().await.contains("} 9\n"));
            one.abort();
            let _ = one.await;
            let page = metrics.render().await;
            assert!(
                page.contains("w_total{code=\"200\",who=\"a\\\"b\"} 9\n"),
                "a dead worker's counts stay: {page}"
            );
        })
        .await;
}
