//! Objects of any kind written by server-side apply, found again by their labels, deleted, and waited for.
//!
//! ```text
//!   Value ─ discovery (kind ─▶ path) ─▶ GET resourceVersion ─▶ PATCH apply ─▶ Created | Changed | Unchanged
//!                                                              └ 409 ─▶ Conflict, who owns which field
//! ```
//!
//! Server-side apply changes the fields of its manager alone: what others added to an object stays, and a field
//! that is no longer applied goes. It does not order, wait or prune: that is the caller's plan.

mod ready;

use std::time::Duration;

use futures_util::{StreamExt, TryStreamExt, stream};
use http::Method;
use serde_json::{Value, json};
use tokio::sync::Mutex;

use crate::connect::Cluster;
use crate::resources::{Resource, Resources};
use crate::rest::{APPLY, Call, JSON, RequestError, encoded};

/// Only `metadata` of an object.
const METADATA: &str = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1,application/json";
/// A kind whose CRD was just applied appears in discovery within this time.
const APPEARS: Duration = Duration::from_secs(10);
/// How often discovery is asked meanwhile.
const ASK_AGAIN: Duration = Duration::from_millis(250);
/// Objects of one page of a list.
const PAGE: usize = 500;
/// Lists that are read at the same time.
const LISTS: usize = 8;

/// How an object is applied.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Options {
    /// Nothing is kept; the answer is as if it were.
    pub dry_run: bool,
    /// Take over fields that another manager owns. Otherwise that is [`ApplyError::Conflict`].
    pub force: bool,
}

/// What an apply did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// There was no such object.
    Created,
    /// It is another now.
    Changed,
    /// It was so already.
    Unchanged,
}

/// Whether an object does its work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Readiness {
    /// It does.
    Ready,
    /// It does not yet; the reason in words.
    Not(String),
}

/// Why an object could not be written, read or deleted.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// It names no kind or has no name.
    #[error("this is no object: {0}; it needs apiVersion, kind and metadata.name")]
    NotAnObject(String),
    /// The API server does not serve its kind.
    #[error("{object}: the cluster does not serve {api_version}{}; install its CRD or write a served version",
        if served.is_empty() { String::new() } else { format!(" (it serves {})", served.join(", ")) })]
    NoSuchKind {
        /// `Kind namespace/name`.
        object: String,
        /// As written.
        api_version: String,
        /// Versions of the kind that are served.
        served: Vec<String>,
    },
    /// Another field manager owns fields that are applied with another value.
    #[error("{object}: {message}; apply with force to take them over")]
    Conflict {
        /// `Kind namespace/name`.
        object: String,
        /// Which fields and whose, in the API server's words.
        message: String,
    },
    /// The API server does not answer or refuses.
    #[error("{object}: {source}")]
    Request {
        /// `Kind namespace/name`, or what was done.
        object: String,
        /// Why.
        source: RequestError,
    },
}

/// Writes objects to one cluster under one field manager.
pub struct Applier {
    cluster: Cluster,
    manager: String,
    /// What the server is known to serve; read when first needed and when a kind is missing.
    resources: Mutex<Option<Resources>>,
    /// Group and kind of the CRDs that were applied here and may still be about to appear.
    expected: Mutex<Vec<(String, String)>>,
}

impl Applier {
    /// Writes under this name of a field manager.
    pub fn new(cluster: Cluster, field_manager: impl Into<String>) -> Self {
        Self {
            cluster,
            manager: field_manager.into(),
            resources: Mutex::new(None),
            expected: Mutex::new(Vec::new()),
        }
    }

    /// The cluster that is written to.
    pub fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    /// Makes the object so. Unknown fields are refused, not dropped.
    ///
    /// # Errors
    /// The kind is not served, another manager owns a field, or the API server refuses or is away.
    pub async fn apply(&self, object: &Value, options: Options) -> Result<Outcome, ApplyError> {
        let deadline = tokio::time::Instant::now() + APPEARS;
        let (before, after) = loop {
            match self.patch(object, options).await {
                // Discovery names a new kind a moment before it is served.
                Err(ApplyError::Request { source, .. })
                    if source.is_not_found()
                        && self.is_expected(object).await
                        && tokio::time::Instant::now() < deadline =>
                {
                    *self.resources.lock().await = None;
                    tokio::time::sleep(ASK_AGAIN).await;
                }
                done => break done?,
            }
        };
        if object["kind"] == "CustomResourceDefinition" && !options.dry_run {
            let of = |pointer: &str| text(object, pointer).to_owned();
            let kind = (of("/spec/group"), of("/spec/names/kind"));
            self.expected.lock().await.push(kind);
        }
        Ok(match before {
            None => Outcome::Created,
            Some(before) if options.dry_run && said(before.clone()) == said(after.clone()) => {
                Outcome::Unchanged
            }
            Some(before) if !options.dry_run && version(&before) == version(&after) => Outcome::Unchanged,
            Some(_) => Outcome::Changed,
        })
    }

    /// The object before, if there was one, and after.
    async fn patch(&self, object: &Value, options: Options) -> Result<(Option<Value>, Value), ApplyError> {
        let (named, path) = self.locate(object).await?;
        // A dry run answers with the present version whether or not something would change.
        let before = self.read(&named, &path, options.dry_run).await?;
        let query = format!(
            "{path}?fieldManager={}&force={}&fieldValidation=Strict{}",
            encoded(&self.manager),
            options.force,
            if options.dry_run { "&dryRun=All" } else { "" }
        );
        let call = Call::with(&Method::PATCH, &query, APPLY, object);
        match self.cluster.call::<Value>(call).await {
            Ok((_, after)) => Ok((before, after)),
            Err(RequestError::Refused {
                code: 409, message, ..
            }) => Err(ApplyError::Conflict {
                object: named,
                message,
            }),
            Err(source) => Err(ApplyError::Request {
                object: named,
                source,
            }),
        }
    }

    /// The object as it is now.
    ///
    /// # Errors
    /// As [`Self::apply`]. A kind that is not served is no error: then there is no such object.
    pub async fn get(&self, object: &Value) -> Result<Option<Value>, ApplyError> {
        match self.locate(object).await {
            Ok((named, path)) => self.read(&named, &path, true).await,
            Err(ApplyError::NoSuchKind { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Deletes the object and, in the background, what it owns; `false` when there was none.
    ///
    /// # Errors
    /// As [`Self::get`].
    pub async fn delete(&self, object: &Value) -> Result<bool, ApplyError> {
        let (named, path) = match self.locate(object).await {
            Ok(located) => located,
            Err(ApplyError::NoSuchKind { .. }) => return Ok(false),
            Err(error) => return Err(error),
        };
        let how = json!({ "apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": "Background" });
        match self
            .cluster
            .call::<Value>(Call::with(&Method::DELETE, &path, JSON, &how))
            .await
        {
            Ok(_) => Ok(true),
            Err(error) if error.is_not_found() => Ok(false),
            Err(source) => Err(ApplyError::Request {
                object: named,
                source,
            }),
        }
    }

    /// Every object with these labels, of all kinds that can be deleted; what another object's controller made
    /// (a ReplicaSet's pods, a Service's endpoints) is left out, since it goes with its owner. Kinds that may not be
    /// listed are named in the log and left out.
    ///
    /// # Errors
    /// The API server does not answer.
    pub async fn owned(&self, label_selector: &str) -> Result<Vec<Value>, ApplyError> {
        let kinds = self.refresh().await?;
        let kinds: Vec<Resource> = kinds
            .preferred()
            .filter(|r| r.can("list") && r.can("delete") && !r.plural.contains('/'))
            // Both copy the labels of others and are nobody's work.
            .filter(|r| !matches!(r.kind.as_str(), "Endpoints" | "Event"))
            .cloned()
            .collect();
        let lists =
            stream::iter(kinds).map(|kind| async move { self.list(&kind, None, label_selector).await });
        let found: Vec<Vec<Value>> = lists.buffered(LISTS).try_collect().await?;
        let mut seen = std::collections::BTreeSet::new();
        let controlled = |o: &Value| {
            let owners = o.pointer("/metadata/ownerReferences").and_then(Value::as_array);
            owners.is_some_and(|all| all.iter().any(|owner| owner["controller"] == true))
        };
        Ok(found
            .into_iter()
            .flatten()
            .filter(|o| !controlled(o))
            .filter(|o| seen.insert(text(o, "/metadata/uid").to_owned()))
            .collect())
    }

    /// Whether the object does its work: a Deployment, DaemonSet or StatefulSet has all its pods in their newest
    /// form, a CRD is served, a webhook has somebody who answers. Every other kind is ready once it exists.
    ///
    /// # Errors
    /// The API server does not answer.
    pub async fn ready(&self, object: &Value) -> Result<Readiness, ApplyError> {
        ready::of(self, object).await
    }

    async fn read(&self, named: &str, path: &str, whole: bool) -> Result<Option<Value>, ApplyError> {
        let call = Call {
            accept: if whole { JSON } else { METADATA },
            ..Call::get(path)
        };
        match self.cluster.call(call).await {
            Ok((_, object)) => Ok(Some(object)),
            Err(error) if error.is_not_found() => Ok(None),
            Err(source) => Err(ApplyError::Request {
                object: named.to_owned(),
                source,
            }),
        }
    }

    /// All objects of a kind, in one namespace or in all.
    async fn list(
        &self,
        kind: &Resource,
        namespace: Option<&str>,
        selector: &str,
    ) -> Result<Vec<Value>, ApplyError> {
        let mut all = Vec::new();
        let mut next = String::new();
        loop {
            let path = format!(
                "{}?limit={PAGE}&labelSelector={}{}",
                kind.path(namespace),
                encoded(selector),
                if next.is_empty() {
                    String::new()
                } else {
                    format!("&continue={}", encoded(&next))
                }
            );
            let page = match self.cluster.get(&path).await {
                Ok(page) => page,
                Err(RequestError::Refused {
                    code: code @ (403..=405),
                    message,
                    ..
                }) => {
                    if code == 403 {
                        tracing::warn!(
                            kind = kind.kind,
                            "objects of this kind cannot be listed: {message}"
                        );
                    }
                    return Ok(all);
                }
                Err(source) => {
                    return Err(ApplyError::Request {
                        object: format!("list of {}", kind.plural),
                        source,
                    });
                }
            };
            let (api_version, name) = (kind.api_version(), kind.kind.as_str());
            for item in page["items"].as_array().into_iter().flatten() {
                let mut item = item.clone();
                // Items of a list do not say what they are.
                item["apiVersion"] = api_version.clone().into();
                item["kind"] = name.into();
                all.push(item);
            }
            next = text(&page, "/metadata/continue").to_owned();
            if next.is_empty() {
                return Ok(all);
            }
        }
    }

    /// How errors call the object, and where it is.
    async fn locate(&self, object: &Value) -> Result<(String, String), ApplyError> {
        let named = name(object)?;
        let api_version = text(object, "/apiVersion");
        let (group, version) = api_version.rsplit_once('/').unwrap_or(("", api_version));
        let kind = text(object, "/kind");
        let deadline = tokio::time::Instant::now() + APPEARS;
        loop {
            let known = self.resources.lock().await.clone();
            let found = known.as_ref().and_then(|r| r.find(group, version, kind).cloned());
            if let Some(resource) = found {
                let namespace = match text(object, "/metadata/namespace") {
                    "" => self.cluster.namespace(),
                    namespace => namespace,
                };
                return Ok((named, resource.path_of(namespace, text(object, "/metadata/name"))));
            }
            let fresh = self.refresh().await?;
            if fresh.find(group, version, kind).is_some() {
                continue;
            }
            if !self.is_expected(object).await || tokio::time::Instant::now() >= deadline {
                return Err(ApplyError::NoSuchKind {
                    object: named,
                    api_version: format!("{api_version} {kind}"),
                    served: fresh.of(group, kind).map(Resource::api_version).collect(),
                });
            }
            tokio::time::sleep(ASK_AGAIN).await;
        }
    }

    /// Whether the CRD of its kind was applied here.
    async fn is_expected(&self, object: &Value) -> bool {
        let (group, _) = text(object, "/apiVersion").rsplit_once('/').unwrap_or_default();
        let kind = text(object, "/kind");
        let expected = self.expected.lock().await;
        expected.iter().any(|(g, k)| g == group && k == kind)
    }

    async fn refresh(&self) -> Result<Resources, ApplyError> {
        let fresh = Resources::read(&self.cluster)
            .await
            .map_err(|source| ApplyError::Request {
                object: "the list of served kinds".to_owned(),
                source,
            })?;
        *self.resources.lock().await = Some(fresh.clone());
        Ok(fresh)
    }
}

/// `Kind namespace/name`.
fn name(object: &Value) -> Result<String, ApplyError> {
    let (kind, name) = (text(object, "/kind"), text(object, "/metadata/name"));
    if kind.is_empty() || name.is_empty() || text(object, "/apiVersion").is_empty() {
        let shown: String = object.to_string().chars().take(80).collect();
        return Err(ApplyError::NotAnObject(shown));
    }
    Ok(match text(object, "/metadata/namespace") {
        "" => format!("{kind} {name}"),
        namespace => format!("{kind} {namespace}/{name}"),
    })
}

fn version(object: &Value) -> &str {
    text(object, "/metadata/resourceVersion")
}

/// What an object says, without what the API server counts.
fn said(mut object: Value) -> Value {
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        for counted in ["managedFields", "resourceVersion", "generation"] {
            metadata.remove(counted);
        }
    }
    object
}

fn text<'a>(object: &'a Value, pointer: &str) -> &'a str {
    object
        .pointer(pointer)
        .and_then(Value::as_str)
        .unwrap_or_default()
}
