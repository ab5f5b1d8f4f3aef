//! The pages that Kiali, istioctl and people read. Nothing secret is on them.

use std::sync::Arc;
use std::time::SystemTime;

use http::StatusCode;
use isthmus_runtime::metrics::CONTENT_TYPE;
use isthmus_runtime::server::{self, Request, Response, Router};
use isthmus_xds::reflect::to_json;
use isthmus_xds::server::TypeStatus;
use isthmus_xds::{Resources, TypeUrl};
use serde_json::{Map, Value, json};

use super::metrics::Meters;
use super::streams::{Open, Streams};
use super::{Configuration, Page, Parts};
use crate::proxy::ProxyKind;

/// What the pages show.
pub(super) struct Pages<C> {
    pub parts: Parts<C>,
    pub streams: Arc<Streams<C>>,
    pub meters: Arc<Meters>,
}

/// 8080: readiness and debug pages.
pub(super) fn http_router<C: Configuration>(pages: &Arc<Pages<C>>) -> Router {
    let of = pages.clone();
    let ready = move |_: Request| {
        let pending = of.parts.readiness.pending();
        async move {
            if pending.is_empty() {
                return server::text(StatusCode::OK, "ready\n");
            }
            let names: Vec<&str> = pending.iter().map(|p| &**p).collect();
            server::text(
                StatusCode::SERVICE_UNAVAILABLE,
                format!("not ready, waiting for: {}\n", names.join(", ")),
            )
        }
    };
    debug_router(pages).get("/ready", ready)
}

/// 15014: metrics, version and debug pages.
pub(super) fn monitoring_router<C: Configuration>(pages: &Arc<Pages<C>>) -> Router {
    let of = pages.clone();
    let metrics = move |_: Request| {
        let of = of.clone();
        async move {
            let peers = of.parts.peering.as_ref().map_or(0, |p| p.links().len());
            let remote = peers + of.parts.remotes.as_ref().map_or(0, |r| r.count());
            let authority = of.parts.authority.load();
            of.meters
                .refresh(of.parts.configuration.services(), remote, &authority);
            server::with_type(StatusCode::OK, CONTENT_TYPE, of.parts.metrics.render().await)
        }
    };
    debug_router(pages).get("/metrics", metrics)
}

fn debug_router<C: Configuration>(pages: &Arc<Pages<C>>) -> Router {
    fn page<C: Configuration>(
        router: Router,
        path: &str,
        pages: &Arc<Pages<C>>,
        show: fn(&Pages<C>, &Request) -> Response,
    ) -> Router {
        let pages = pages.clone();
        router.get(path, move |request| std::future::ready(show(&pages, &request)))
    }
    let known = |path: &str, router: Router, which: Page| {
        let pages = pages.clone();
        router.get(path, move |_| {
            std::future::ready(server::json(&pages.parts.configuration.page(which)))
        })
    };
    let router = page(Router::new(), "/version", pages, |p, _| {
        server::json(&p.parts.version)
    });
    let router = page(router, "/debug/syncz", pages, |p, _| {
        server::json(&syncz(&p.streams.list()))
    });
    let router = page(router, "/debug/config_dump", pages, config_dump);
    let router = page(router, "/debug/clusterz", pages, |p, _| {
        server::json(&clusterz(p))
    });
    let router = page(router, "/debug/peersz", pages, |p, _| match &p.parts.peering {
        Some(peering) => server::json(&peering.page()),
        None => server::json(&json!({ "cluster": p.parts.cluster, "peers": [], "listeners": [] })),
    });
    let router = known("/debug/registryz", router, Page::Registry);
    let router = known("/debug/endpointz", router, Page::Endpoints);
    let router = known("/debug/configz", router, Page::Config);
    known("/debug/networkz", router, Page::Networks)
}

/// Istio's `SyncStatus` of every proxy, with what else is known.
fn syncz(streams: &[Open]) -> Value {
    streams.iter().map(sync_of).collect()
}

fn sync_of(open: &Open) -> Value {
    let proxy = &open.proxy;
    let mut status = Map::from_iter([
        (
            "proxy".to_owned(),
            json!(format!("{}.{}", proxy.name, proxy.namespace)),
        ),
        (
            "proxy_type".to_owned(),
            match proxy.kind {
                ProxyKind::Sidecar => "sidecar".into(),
                ProxyKind::Router => "router".into(),
            },
        ),
        ("node_id".to_owned(), json!(proxy.id)),
        ("cluster_id".to_owned(), json!(proxy.cluster)),
        ("istio_version".to_owned(), json!(open.version)),
        ("service_account".to_owned(), json!(proxy.service_account)),
        ("remote".to_owned(), json!(open.remote.map(|r| r.to_string()))),
        ("protocol".to_owned(), super::metrics::protocol(open.kind).into()),
        ("connected_seconds".to_owned(), json!(since(open.since))),
        ("synced".to_owned(), json!(open.types.iter().all(|t| t.synced))),
    ]);
    for ty in &open.types {
        let name = long_name(&ty.ty);
        // A proxy that came back with everything was sent nothing: what it holds stands for a nonce.
        let held = if ty.sent.is_none() && ty.synced && ty.resources > 0 {
            "held"
        } else {
            ""
        };
        let nonce = |sent: &Option<(isthmus_xds::Version, String)>| {
            json!(sent.as_ref().map_or(held, |(_, nonce)| nonce.as_str()))
        };
        status.insert(format!("{name}_sent"), nonce(&ty.sent));
        status.insert(format!("{name}_acked"), nonce(&ty.acked));
        if let Some(error) = &ty.error {
            status.insert(format!("{name}_error"), json!(error));
        }
    }
    status.insert("types".to_owned(), open.types.iter().map(type_of).collect());
    Value::Object(status)
}

fn type_of(status: &TypeStatus) -> Value {
    json!({
        "type": status.ty.short(),
        "synced": status.synced,
        "wildcard": status.wildcard,
        "names": status.names,
        "resources": status.resources,
        "version": status.sent.as_ref().map(|(version, _)| version.to_string()),
    })
}

/// Istio's names of the types in `SyncStatus`.
fn long_name(ty: &TypeUrl) -> &str {
    match ty {
        TypeUrl::Cds => "cluster",
        TypeUrl::Eds => "endpoint",
        TypeUrl::Lds => "listener",
        TypeUrl::Rds => "route",
        TypeUrl::Sds => "secret",
        TypeUrl::Nds => "nametable",
        TypeUrl::Other(_) => ty.short(),
    }
}

fn since(moment: SystemTime) -> u64 {
    SystemTime::now()
        .duration_since(moment)
        .unwrap_or_default()
        .as_secs()
}

/// Everything one proxy is told, as Envoy's `/config_dump` shows it.
fn config_dump<C: Configuration>(pages: &Pages<C>, request: &Request) -> Response {
    let wanted = server::query(request, "proxyID")
        .unwrap_or_default()
        .replace("%7E", "~")
        .replace("%7e", "~");
    let streams = pages.streams.list();
    let named = |open: &&Open| {
        let short = format!("{}.{}", open.proxy.name, open.proxy.namespace);
        !wanted.is_empty() && (open.proxy.id == wanted || short == wanted)
    };
    let Some(open) = streams.iter().rev().find(named) else {
        let mut ids: Vec<String> = streams
            .iter()
            .map(|o| format!("{}.{}", o.proxy.name, o.proxy.namespace))
            .collect();
        ids.sort();
        let reason = format!(
            "no proxy {wanted:?} is connected; ask with ?proxyID= one of:\n{}\n",
            ids.join("\n")
        );
        return server::text(StatusCode::NOT_FOUND, reason);
    };
    let resources = open.resources.borrow().clone();
    server::json(&dump(&resources))
}

pub(super) fn dump(resources: &Resources) -> Value {
    let configs = resources.iter().map(|(ty, set)| {
        let (dump, list, field) = match ty {
            TypeUrl::Cds => ("ClustersConfigDump", "dynamic_active_clusters", "cluster"),
            TypeUrl::Eds => (
                "EndpointsConfigDump",
                "dynamic_endpoint_configs",
                "endpoint_config",
            ),
            TypeUrl::Lds => ("ListenersConfigDump", "dynamic_listeners", "listener"),
            TypeUrl::Rds => ("RoutesConfigDump", "dynamic_route_configs", "route_config"),
            TypeUrl::Sds => ("SecretsConfigDump", "dynamic_active_secrets", "secret"),
            TypeUrl::Nds | TypeUrl::Other(_) => ("EcdsConfigDump", "ecds_filters", "ecds_filter"),
        };
        let members = set.iter().map(|resource| {
            let version = resource.version.to_string();
            let body = match ty {
                // Keys stay where they are.
                TypeUrl::Sds => json!({ "@type": resource.body.type_url, "name": &*resource.name }),
                _ => to_json(&resource.body),
            };
            match ty {
                TypeUrl::Lds => json!({
                    "name": &*resource.name,
                    "active_state": { "version_info": version, field: body },
                }),
                TypeUrl::Sds => json!({ "name": &*resource.name, "version_info": version, field: body }),
                _ => json!({ "version_info": version, field: body }),
            }
        });
        json!({
            "@type": format!("type.googleapis.com/envoy.admin.v3.{dump}"),
            list: members.collect::<Vec<_>>(),
        })
    });
    json!({ "configs": configs.collect::<Vec<_>>() })
}

/// Istio's list of member clusters with the state of each.
fn clusterz<C: Configuration>(pages: &Pages<C>) -> Value {
    let ready = pages.parts.readiness.is_ready();
    let mut clusters = vec![json!({
        "id": pages.parts.cluster,
        "secretName": "",
        "syncStatus": if ready { "synced" } else { "syncing" },
    })];
    if let Some(peering) = &pages.parts.peering {
        clusters.extend(peering.links().iter().map(|(cluster, link)| {
            let status = match link.phase {
                crate::peering::Phase::Connected => "synced",
                crate::peering::Phase::Connecting => "connecting",
                crate::peering::Phase::Silent => "silent",
            };
            json!({ "id": cluster, "secretName": "", "syncStatus": status, "error": link.error })
        }));
    }
    if let Some(remotes) = &pages.parts.remotes {
        clusters.extend(remotes.page());
    }
    clusters.into()
}
