//! The admin interface (15000) and the public status ports: what the proxy holds and how it is.
//!
//! Pages are Envoy's, so that istioctl, Kiali and `isthmus proxy-config` read them alike. What belongs to
//! the agent's state is asked for by a [`Query`], what belongs to workers by [`Order::Report`].
//!
//! [`Order::Report`]: crate::orders::Order::Report

mod certs;
mod clusters;
mod config_dump;
mod listeners;
mod server_info;
mod stats;

use std::sync::Arc;
use std::time::Instant;

use http::StatusCode;
use isthmus_runtime::logging;
use isthmus_runtime::metrics::{CONTENT_TYPE, Metrics};
use isthmus_runtime::readiness::Readiness;
use isthmus_runtime::server::{Request, Response, Router, json, query, text, with_type};
use serde_json::Value;
use tokio::sync::{mpsc, oneshot, watch};

use crate::agent::config::Config;
use crate::agent::workers::Orders;
use crate::orders::Order;
use crate::state::{Live, State};

/// What the pages are made of.
#[derive(Debug)]
pub struct Admin {
    /// How the proxy was started.
    pub config: Arc<Config>,
    /// When.
    pub started: Instant,
    /// What it waits for.
    pub readiness: Readiness,
    /// Metrics of the process.
    pub metrics: Metrics,
    /// The workers.
    pub orders: Orders,
    /// The agent.
    pub queries: mpsc::Sender<Query>,
    /// Log levels.
    pub logging: Option<logging::Handle>,
    /// Whether a control plane is there.
    pub connected: watch::Receiver<bool>,
    /// The configuration in use.
    pub live: watch::Receiver<Arc<Live>>,
}

/// What only the agent can answer.
#[derive(Debug)]
pub enum Query {
    /// `/config_dump`; with the endpoints when asked for.
    ConfigDump {
        /// `include_eds`.
        endpoints: bool,
        /// Where the answer goes.
        reply: oneshot::Sender<Value>,
    },
    /// `/certs`.
    Certificates(oneshot::Sender<Value>),
    /// End at once.
    Quit,
}

impl Query {
    /// Answers from the state.
    pub fn answer(self, state: &State, config: &Config) {
        match self {
            Self::ConfigDump { endpoints, reply } => {
                let _ = reply.send(config_dump::page(state, config, endpoints));
            }
            Self::Certificates(reply) => {
                let _ = reply.send(certs::page(state));
            }
            Self::Quit => {}
        }
    }
}

impl Admin {
    async fn ask(&self, query: impl FnOnce(oneshot::Sender<Value>) -> Query) -> Response {
        let (reply, answer) = oneshot::channel();
        let sent = self.queries.send(query(reply)).await;
        match (sent, answer.await) {
            (Ok(()), Ok(value)) => json(&value),
            _ => text(StatusCode::SERVICE_UNAVAILABLE, "the proxy is ending\n"),
        }
    }

    fn ready(&self) -> Response {
        let pending = self.readiness.pending();
        if pending.is_empty() {
            text(StatusCode::OK, "LIVE\n")
        } else {
            let words = format!("PRE_INITIALIZING\nwaiting for: {}\n", pending.join(", "));
            text(StatusCode::SERVICE_UNAVAILABLE, words)
        }
    }

    async fn prometheus(&self) -> Response {
        with_type(StatusCode::OK, CONTENT_TYPE, self.own_metrics().await)
    }

    /// The proxy's metrics, then those of the application, where the pod says that it has some.
    async fn merged(&self) -> Response {
        let (mut page, application) = tokio::join!(self.own_metrics(), self.config.application.metrics());
        page.push_str(application.as_deref().unwrap_or_default());
        with_type(StatusCode::OK, CONTENT_TYPE, page)
    }

    async fn own_metrics(&self) -> String {
        let mut page = self.metrics.render().await;
        stats::prometheus(&self.orders.report().await, *self.connected.borrow(), &mut page);
        page
    }

    fn log_levels(&self, request: &Request) -> Response {
        let Some(logging) = &self.logging else {
            return text(StatusCode::NOT_FOUND, "this process does not log by levels\n");
        };
        let pairs = request.uri().query().unwrap_or_default();
        for (name, level) in pairs.split('&').filter_map(|p| p.split_once('=')) {
            let changed = match name {
                "level" => logging.set(None, level),
                "paths" => level.split(',').try_for_each(|pair| {
                    let (scope, level) = pair.split_once(':').unwrap_or((pair, ""));
                    logging.set(Some(scope), level)
                }),
                scope => logging.set(Some(scope), level),
            };
            if let Err(error) = changed {
                return text(StatusCode::BAD_REQUEST, format!("{error}\n"));
            }
        }
        let levels = logging
            .levels()
            .to_string()
            .replace(',', "\n  ")
            .replace(':', ": ");
        text(StatusCode::OK, format!("active loggers:\n  {levels}\n"))
    }

    async fn quit(&self) -> Response {
        // Only a proxy that ends already does not take it.
        let _ = self.queries.send(Query::Quit).await;
        text(StatusCode::OK, "OK\n")
    }
}

fn wants_json(request: &Request) -> bool {
    query(request, "format") == Some("json")
}

/// Everything, for loopback alone.
pub fn router(admin: &Arc<Admin>) -> Router {
    let a = || admin.clone();
    let (dump, certs, clusters, listeners, stats) = (a(), a(), a(), a(), a());
    let (prometheus, info, ready, logging, quit, drain) = (a(), a(), a(), a(), a(), a());
    Router::new()
        .get("/config_dump", move |request| {
            let (admin, endpoints) = (
                dump.clone(),
                request.uri().query().unwrap_or_default().contains("include_eds"),
            );
            async move {
                let query = |reply| Query::ConfigDump { endpoints, reply };
                admin.ask(query).await
            }
        })
        .get("/certs", move |_| {
            let admin = certs.clone();
            async move { admin.ask(Query::Certificates).await }
        })
        .get("/clusters", move |request| {
            let admin = clusters.clone();
            async move {
                let report = admin.orders.report().await;
                let live = admin.live.borrow().clone();
                if wants_json(&request) {
                    json(&clusters::json_page(&live, &report))
                } else {
                    text(StatusCode::OK, clusters::text_page(&live, &report))
                }
            }
        })
        .get("/listeners", move |request| {
            let live = listeners.live.borrow().clone();
            async move {
                if wants_json(&request) {
                    json(&listeners::json_page(&live))
                } else {
                    text(StatusCode::OK, listeners::text_page(&live))
                }
            }
        })
        .get("/stats", move |request| {
            let admin = stats.clone();
            async move {
                if query(&request, "format") == Some("prometheus") {
                    return admin.prometheus().await;
                }
                let report = admin.orders.report().await;
                if wants_json(&request) {
                    json(&stats::json_page(&report))
                } else {
                    text(StatusCode::OK, stats::text_page(&report))
                }
            }
        })
        .get("/stats/prometheus", move |_| {
            let admin = prometheus.clone();
            async move { admin.prometheus().await }
        })
        .get("/server_info", move |_| {
            let page = server_info::page(&info);
            async move { json(&page) }
        })
        .get("/ready", move |_| std::future::ready(ready.ready()))
        .post("/logging", move |request| {
            std::future::ready(logging.log_levels(&request))
        })
        .post("/quitquitquit", move |_| {
            let admin = quit.clone();
            async move { admin.quit().await }
        })
        .post("/drain_listeners", move |request| {
            let admin = drain.clone();
            async move {
                admin.orders.all(|| Order::Drain).await;
                if request.uri().query() != Some("graceful") {
                    admin.orders.all(|| Order::Close).await;
                }
                text(StatusCode::OK, "OK\n")
            }
        })
}

/// `/healthz/ready` (15021).
pub fn health_router(admin: &Arc<Admin>) -> Router {
    let admin = admin.clone();
    Router::new().get("/healthz/ready", move |_| std::future::ready(admin.ready()))
}

/// Istio's agent port (15020): readiness, metrics, probes and hooks of the application, and the end of a job's
/// sidecar.
pub fn merged_router(admin: &Arc<Admin>) -> Router {
    let quit = admin.clone();
    let mut router = health_router(admin);
    for path in ["/metrics", "/stats/prometheus"] {
        let admin = admin.clone();
        router = router.get(path, move |_| {
            let admin = admin.clone();
            async move { admin.merged().await }
        });
    }
    for path in ["/app-health/*", "/app-lifecycle/*"] {
        let admin = admin.clone();
        router = router.get(path, move |request| {
            let admin = admin.clone();
            async move { admin.config.application.probe(&request).await }
        });
    }
    router.post("/quitquitquit", move |_| {
        let admin = quit.clone();
        async move { admin.quit().await }
    })
}

/// `/stats/prometheus` (15090).
pub fn prometheus_router(admin: &Arc<Admin>) -> Router {
    let admin = admin.clone();
    Router::new().get("/stats/prometheus", move |_| {
        let admin = admin.clone();
        async move { admin.prometheus().await }
    })
}
