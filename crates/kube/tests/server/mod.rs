//! An API server small enough to be told to misbehave: lists in pages, watches with bookmarks, expired versions,
//! refusals, dropped connections, server-side apply as a merge, and updates that conflict.

#![allow(dead_code, clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use isthmus_kube::{Cluster, Credentials};
use serde_json::{Value, json};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;

type Body = BoxBody<Bytes, Infallible>;

/// A kind as discovery tells it.
#[derive(Clone)]
pub struct Served {
    pub group: &'static str,
    pub versions: Vec<&'static str>,
    pub kind: &'static str,
    pub namespaced: bool,
}

pub struct State {
    pub version: u64,
    /// By plural, namespace and name.
    pub objects: BTreeMap<(String, String, String), Value>,
    /// What happened: version, plural, event.
    log: Vec<(u64, String, Value)>,
    /// Watches from before this version are told that it expired.
    pub oldest: u64,
    pub served: BTreeMap<&'static str, Served>,
    pub forbidden: BTreeSet<&'static str>,
    /// Connections are dropped without an answer.
    pub down: bool,
    /// `METHOD path?query` of every request that was answered.
    pub requests: Vec<String>,
    /// What TokenReview says of each token.
    pub tokens: BTreeMap<String, Value>,
    /// `/openid/v1/jwks`.
    pub jwks: Value,
    /// Watches end when this grows.
    cuts: u64,
}

#[derive(Clone)]
pub struct Api {
    state: Arc<Mutex<State>>,
    changed: watch::Sender<u64>,
    pub address: SocketAddr,
}

fn kinds() -> BTreeMap<&'static str, Served> {
    let core = |kind, namespaced| Served {
        group: "",
        versions: vec!["v1"],
        kind,
        namespaced,
    };
    let istio = |kind| Served {
        group: "networking.istio.io",
        versions: vec!["v1", "v1beta1"],
        kind,
        namespaced: true,
    };
    let other = |group, kind, namespaced| Served {
        group,
        versions: vec!["v1"],
        kind,
        namespaced,
    };
    BTreeMap::from([
        ("namespaces", core("Namespace", false)),
        ("nodes", core("Node", false)),
        ("services", core("Service", true)),
        ("pods", core("Pod", true)),
        ("configmaps", core("ConfigMap", true)),
        ("secrets", core("Secret", true)),
        ("events", core("Event", true)),
        ("endpointslices", other("discovery.k8s.io", "EndpointSlice", true)),
        ("deployments", other("apps", "Deployment", true)),
        ("replicasets", other("apps", "ReplicaSet", true)),
        ("leases", other("coordination.k8s.io", "Lease", true)),
        (
            "customresourcedefinitions",
            other("apiextensions.k8s.io", "CustomResourceDefinition", false),
        ),
        (
            "mutatingwebhookconfigurations",
            other(
                "admissionregistration.k8s.io",
                "MutatingWebhookConfiguration",
                false,
            ),
        ),
        (
            "validatingwebhookconfigurations",
            other(
                "admissionregistration.k8s.io",
                "ValidatingWebhookConfiguration",
                false,
            ),
        ),
        ("virtualservices", istio("VirtualService")),
        ("serviceentries", istio("ServiceEntry")),
        ("gateways", istio("Gateway")),
    ])
}

impl Api {
    pub async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (changed, _) = watch::channel(0);
        let api = Self {
            state: Arc::new(Mutex::new(State {
                version: 100,
                objects: BTreeMap::new(),
                log: Vec::new(),
                oldest: 0,
                served: kinds(),
                forbidden: BTreeSet::new(),
                down: false,
                requests: Vec::new(),
                tokens: BTreeMap::new(),
                jwks: json!({"keys": []}),
                cuts: 0,
            })),
            changed,
            address: listener.local_addr().unwrap(),
        };
        let serving = api.clone();
        tokio::spawn(async move {
            loop {
                let Ok((stream, _)) = listener.accept().await else {
                    return;
                };
                let api = serving.clone();
                tokio::spawn(async move {
                    let service = service_fn(|request| api.clone().answer(request));
                    let connection = hyper::server::conn::http1::Builder::new();
                    let _ = connection.serve_connection(TokioIo::new(stream), service).await;
                });
            }
        });
        api
    }

    pub fn kubeconfig(&self) -> String {
        format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: c\nclusters: [{{name: c, cluster: {{server: \"http://{}\"}}}}]\n\
             users: [{{name: u, user: {{token: t}}}}]\ncontexts: [{{name: c, context: {{cluster: c, user: u}}}}]\n",
            self.address
        )
    }

    pub async fn cluster(&self) -> Cluster {
        let credentials = Credentials::Inline(self.kubeconfig().into_bytes());
        Cluster::connect(&credentials).await.unwrap()
    }

    pub fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// Creates or replaces an object, given as YAML-like JSON with apiVersion and kind.
    pub fn put(&self, object: Value) -> Value {
        let mut state = self.lock();
        let plural = state.plural(object["kind"].as_str().unwrap());
        let stored = state.store(&plural, object);
        drop(state);
        self.wake();
        stored
    }

    pub fn delete(&self, plural: &str, namespace: &str, name: &str) {
        self.lock().remove(plural, namespace, name);
        self.wake();
    }

    pub fn object(&self, plural: &str, namespace: &str, name: &str) -> Option<Value> {
        let key = (plural.to_owned(), namespace.to_owned(), name.to_owned());
        self.lock().objects.get(&key).cloned()
    }

    /// Ends every watch.
    pub fn cut(&self) {
        self.lock().cuts += 1;
        self.wake();
    }

    /// Forgets what happened, so that watches must begin anew.
    pub fn compact(&self) {
        let mut state = self.lock();
        state.version += 1;
        state.oldest = state.version;
        state.log.clear();
    }

    pub fn bookmark(&self) {
        let mut state = self.lock();
        state.version += 1;
        let version = state.version;
        let event =
            json!({"type": "BOOKMARK", "object": {"metadata": {"resourceVersion": version.to_string()}}});
        state.log.push((version, String::new(), event));
        drop(state);
        self.wake();
    }

    pub fn set_down(&self, down: bool) {
        self.lock().down = down;
        self.cut();
    }

    pub fn wake(&self) {
        self.changed.send_modify(|n| *n += 1);
    }

    async fn answer(self, request: Request<Incoming>) -> Result<Response<Body>, std::io::Error> {
        let method = request.method().clone();
        let uri = request.uri().clone();
        let body = request
            .into_body()
            .collect()
            .await
            .map_err(std::io::Error::other)?
            .to_bytes();
        let body: Value = serde_json::from_slice(&body).unwrap_or_default();
        if self.lock().down {
            return Err(std::io::Error::other("down"));
        }
        self.lock().requests.push(format!("{method} {uri}"));
        let query: BTreeMap<String, String> = uri
            .query()
            .unwrap_or_default()
            .split('&')
            .filter_map(|pair| pair.split_once('='))
            .map(|(k, v)| (k.to_owned(), decoded(v)))
            .collect();
        let parts: Vec<&str> = uri.path().split('/').filter(|p| !p.is_empty()).collect();
        Ok(match parts.as_slice() {
            ["readyz"] => text(StatusCode::OK, "ok".into()),
            ["api"] => self.discovery(true),
            ["apis"] => self.discovery(false),
            ["openid", "v1", "jwks"] => answer(StatusCode::OK, self.lock().jwks.clone()),
            [".well-known", "openid-configuration"] => {
                answer(StatusCode::OK, json!({"issuer": "https://issuer.test"}))
            }
            ["apis", "authentication.k8s.io", "v1", "tokenreviews"] => {
                let token = body["spec"]["token"].as_str().unwrap_or_default().to_owned();
                let known = self.lock().tokens.get(&token).cloned();
                let status = known.unwrap_or(json!({"authenticated": false, "error": "invalid token"}));
                answer(
                    StatusCode::CREATED,
                    json!({"kind": "TokenReview", "status": status}),
                )
            }
            ["api", "v1", rest @ ..] => self.resource(&method, "", rest, &query, body),
            ["apis", group, _, rest @ ..] => self.resource(&method, group, rest, &query, body),
            _ => refused(
                404,
                "NotFound",
                "the server could not find the requested resource",
            ),
        })
    }

    fn discovery(&self, core: bool) -> Response<Body> {
        let state = self.lock();
        let mut groups: BTreeMap<&str, BTreeMap<usize, (&str, Vec<Value>)>> = BTreeMap::new();
        for (plural, served) in &state.served {
            if served.group.is_empty() != core {
                continue;
            }
            for (i, version) in served.versions.iter().enumerate() {
                let versions = groups.entry(served.group).or_default();
                versions
                    .entry(i)
                    .or_insert_with(|| (version, Vec::new()))
                    .1
                    .push(json!({
                        "resource": plural,
                        "responseKind": {"kind": served.kind},
                        "scope": if served.namespaced { "Namespaced" } else { "Cluster" },
                        "verbs": ["create", "delete", "get", "list", "patch", "update", "watch"],
                    }));
            }
        }
        let items: Vec<Value> = groups
            .into_iter()
            .map(|(name, versions)| {
                let versions: Vec<Value> = versions
                    .into_values()
                    .map(|(version, resources)| json!({"version": version, "resources": resources}))
                    .collect();
                json!({"metadata": {"name": name}, "versions": versions})
            })
            .collect();
        answer(
            StatusCode::OK,
            json!({"kind": "APIGroupDiscoveryList", "items": items}),
        )
    }

    fn resource(
        &self,
        method: &Method,
        group: &str,
        rest: &[&str],
        query: &BTreeMap<String, String>,
        body: Value,
    ) -> Response<Body> {
        let (namespace, plural, name) = match rest {
            ["namespaces", namespace, plural, tail @ ..] => {
                (Some(*namespace), *plural, tail.first().copied())
            }
            [plural, tail @ ..] => (None, *plural, tail.first().copied()),
            [] => {
                return refused(
                    404,
                    "NotFound",
                    "the server could not find the requested resource",
                );
            }
        };
        let mut state = self.lock();
        if state.served.get(plural).is_none_or(|s| s.group != group) {
            return refused(
                404,
                "NotFound",
                "the server could not find the requested resource",
            );
        }
        if state.forbidden.contains(plural) {
            let message = format!("{plural} is forbidden: User \"u\" cannot list resource \"{plural}\"");
            return refused(403, "Forbidden", &message);
        }
        let key = (
            plural.to_owned(),
            namespace.unwrap_or_default().to_owned(),
            decoded(name.unwrap_or_default()),
        );
        let stale = |present: &Value| {
            let said = body["metadata"]["resourceVersion"].as_str().unwrap_or_default();
            !said.is_empty() && present["metadata"]["resourceVersion"] != said
        };
        let answered = match (method.as_str(), name) {
            ("GET", None) if query.get("watch").is_some_and(|w| w == "1" || w == "true") => {
                drop(state);
                return self.watch(plural, namespace, query);
            }
            ("GET", None) => return list(&state, plural, namespace, query),
            ("GET", Some(_)) => match state.objects.get(&key) {
                Some(object) => return answer(StatusCode::OK, object.clone()),
                None => return missing(&key),
            },
            ("POST", None) => {
                let name = body["metadata"]["name"].as_str().unwrap_or_default().to_owned();
                let key = (key.0, key.1, name);
                if state.objects.contains_key(&key) {
                    return refused(409, "AlreadyExists", "it exists");
                }
                (
                    StatusCode::CREATED,
                    state.store(plural, with_namespace(body, &key.1)),
                )
            }
            ("PUT", Some(_)) => match state.objects.get(&key) {
                None => return missing(&key),
                Some(present) if stale(present) => return refused(409, "Conflict", "it has been modified"),
                Some(_) => (StatusCode::OK, state.store(plural, with_namespace(body, &key.1))),
            },
            ("PATCH", Some(_)) => {
                let before = state.objects.get(&key).cloned();
                let created = before.is_none();
                if created && query.get("fieldManager").is_none() {
                    return missing(&key);
                }
                if before.as_ref().is_some_and(stale) {
                    return refused(409, "Conflict", "it has been modified");
                }
                let mut merged = before.clone().unwrap_or(json!({}));
                let version = merged["metadata"]["resourceVersion"].clone();
                merge(&mut merged, body);
                if let (Some(metadata), false) = (merged["metadata"].as_object_mut(), version.is_null()) {
                    metadata.insert("resourceVersion".into(), version);
                }
                if Some(&merged) == before.as_ref() || query.contains_key("dryRun") {
                    return answer(
                        if created {
                            StatusCode::CREATED
                        } else {
                            StatusCode::OK
                        },
                        merged,
                    );
                }
                let code = if created {
                    StatusCode::CREATED
                } else {
                    StatusCode::OK
                };
                (code, state.store(plural, with_namespace(merged, &key.1)))
            }
            ("DELETE", Some(_)) => match state.remove(&key.0, &key.1, &key.2) {
                true => (StatusCode::OK, json!({"kind": "Status", "status": "Success"})),
                false => return missing(&key),
            },
            _ => return refused(405, "MethodNotAllowed", "no"),
        };
        drop(state);
        self.wake();
        answer(answered.0, answered.1)
    }

    fn watch(
        &self,
        plural: &str,
        namespace: Option<&str>,
        query: &BTreeMap<String, String>,
    ) -> Response<Body> {
        let mut since: u64 = query
            .get("resourceVersion")
            .and_then(|v| v.parse().ok())
            .unwrap_or(0);
        let (plural, namespace) = (plural.to_owned(), namespace.map(str::to_owned));
        let (sender, receiver) = mpsc::channel::<Result<Frame<Bytes>, Infallible>>(64);
        let api = self.clone();
        let cuts = self.lock().cuts;
        tokio::spawn(async move {
            let mut changed = api.changed.subscribe();
            loop {
                let mut lines = Vec::new();
                let mut end = false;
                {
                    let state = api.lock();
                    if since < state.oldest {
                        lines.push(json!({"type": "ERROR", "object": {"kind": "Status", "code": 410, "reason": "Expired", "message": "too old resource version"}}));
                        end = true;
                    }
                    for (version, of, event) in &state.log {
                        let mine = of.is_empty() || *of == plural;
                        let here = namespace.as_ref().is_none_or(|n| {
                            of.is_empty() || event["object"]["metadata"]["namespace"] == n.as_str()
                        });
                        if *version > since && mine && here {
                            lines.push(event.clone());
                        }
                    }
                    since = state.version.max(since);
                    end |= state.cuts != cuts;
                }
                for line in lines {
                    let frame = Frame::data(Bytes::from(format!("{line}\n")));
                    if sender.send(Ok(frame)).await.is_err() {
                        return;
                    }
                }
                if end || changed.changed().await.is_err() {
                    return;
                }
            }
        });
        let body = StreamBody::new(ReceiverStream::new(receiver));
        Response::new(BoxBody::new(body))
    }
}

impl State {
    fn plural(&self, kind: &str) -> String {
        let found = self.served.iter().find(|(_, s)| s.kind == kind);
        found
            .unwrap_or_else(|| panic!("{kind} is not served"))
            .0
            .to_string()
    }

    fn store(&mut self, plural: &str, mut object: Value) -> Value {
        self.version += 1;
        let version = self.version;
        let metadata = object["metadata"].as_object_mut().unwrap();
        metadata.insert("resourceVersion".into(), version.to_string().into());
        metadata
            .entry("uid")
            .or_insert_with(|| format!("uid-{version}").into());
        metadata
            .entry("creationTimestamp")
            .or_insert_with(|| "2026-01-01T00:00:00Z".into());
        let of = |name: &str| {
            metadata
                .get(name)
                .and_then(Value::as_str)
                .unwrap_or_default()
                .to_owned()
        };
        let key = (plural.to_owned(), of("namespace"), of("name"));
        let what = if self.objects.contains_key(&key) {
            "MODIFIED"
        } else {
            "ADDED"
        };
        self.log.push((
            version,
            plural.to_owned(),
            json!({"type": what, "object": object}),
        ));
        self.objects.insert(key, object.clone());
        object
    }

    fn remove(&mut self, plural: &str, namespace: &str, name: &str) -> bool {
        let key = (plural.to_owned(), namespace.to_owned(), name.to_owned());
        let Some(mut object) = self.objects.remove(&key) else {
            return false;
        };
        self.version += 1;
        object["metadata"]["resourceVersion"] = self.version.to_string().into();
        self.log.push((
            self.version,
            plural.to_owned(),
            json!({"type": "DELETED", "object": object}),
        ));
        true
    }
}

fn list(
    state: &State,
    plural: &str,
    namespace: Option<&str>,
    query: &BTreeMap<String, String>,
) -> Response<Body> {
    let limit: usize = query
        .get("limit")
        .and_then(|l| l.parse().ok())
        .unwrap_or(usize::MAX);
    let (start, version) = match query.get("continue") {
        Some(token) => {
            let (start, version) = token.split_once('@').unwrap();
            let version: u64 = version.parse().unwrap();
            if version < state.oldest {
                return refused(410, "Expired", "the continue token is too old");
            }
            (start.parse().unwrap(), version)
        }
        None => (0, state.version),
    };
    let labels = query.get("labelSelector").map(String::as_str).unwrap_or_default();
    let labelled = |o: &Value| {
        labels
            .split(',')
            .filter_map(|l| l.split_once('='))
            .all(|(k, v)| o["metadata"]["labels"][k] == v)
    };
    let all: Vec<&Value> = state
        .objects
        .iter()
        .filter(|((p, n, _), _)| p == plural && namespace.is_none_or(|wanted| wanted == n))
        .map(|(_, o)| o)
        .filter(|o| labelled(o))
        .collect();
    let items: Vec<Value> = all.iter().skip(start).take(limit).map(|o| (*o).clone()).collect();
    let end = start + items.len();
    let next = if end < all.len() {
        format!("{end}@{version}")
    } else {
        String::new()
    };
    answer(
        StatusCode::OK,
        json!({"kind": "List", "metadata": {"resourceVersion": version.to_string(), "continue": next}, "items": items}),
    )
}

fn with_namespace(mut object: Value, namespace: &str) -> Value {
    if !namespace.is_empty() {
        object["metadata"]["namespace"] = namespace.into();
    }
    object
}

fn merge(into: &mut Value, patch: Value) {
    match (into, patch) {
        (Value::Object(into), Value::Object(patch)) => {
            for (name, value) in patch {
                if value.is_null() {
                    into.remove(&name);
                } else {
                    merge(into.entry(name).or_insert(json!({})), value);
                }
            }
        }
        (into, patch) => *into = patch,
    }
}

fn decoded(text: &str) -> String {
    let mut out = Vec::new();
    let mut bytes = text.bytes();
    while let Some(b) = bytes.next() {
        if b == b'%' {
            let hex = [bytes.next().unwrap(), bytes.next().unwrap()];
            out.push(u8::from_str_radix(std::str::from_utf8(&hex).unwrap(), 16).unwrap());
        } else {
            out.push(b);
        }
    }
    String::from_utf8(out).unwrap()
}

fn missing(key: &(String, String, String)) -> Response<Body> {
    refused(404, "NotFound", &format!("{} \"{}\" not found", key.0, key.2))
}

fn refused(code: u16, reason: &str, message: &str) -> Response<Body> {
    let status =
        json!({"kind": "Status", "status": "Failure", "code": code, "reason": reason, "message": message});
    answer(StatusCode::from_u16(code).unwrap(), status)
}

fn answer(code: StatusCode, json: Value) -> Response<Body> {
    text(code, json.to_string())
}

fn text(code: StatusCode, text: String) -> Response<Body> {
    let body = BodyExt::boxed(Full::new(Bytes::from(text)));
    Response::builder().status(code).body(body).unwrap()
}
