//! One kind of one cluster: found, listed, watched, for as long as somebody listens.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use http_body_util::BodyExt as _;
use isthmus_api::source::Change;
use isthmus_api::{Finding, Kind, Object, ObjectKey, codes, parse_json};
use serde::Deserialize;
use serde_json::Value;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::backoff::Backoff;
use super::discovery::Discovery;
use super::reduce::{field_selector, reduce};
use super::{Report, Scope};
use crate::connect::Cluster;
use crate::resources::Resource;
use crate::rest::{Call, RequestError, encoded};

/// Objects of one page of a list.
const PAGE: usize = 500;
/// The API server ends a watch after this; it is taken up where it was.
const WATCH: Duration = Duration::from_secs(290);
/// A watch on which nothing came for so long is taken for dead; bookmarks come every minute.
const IDLE: Duration = Duration::from_secs(100);
/// A watch that lasts less is no success.
const LASTED: Duration = Duration::from_secs(5);
/// Longest line of a watch, in bytes; etcd's largest object is 1.5 MiB.
const LINE: usize = 16 << 20;
/// Between two tries while nobody answers.
const AWAY: Duration = Duration::from_secs(5);
/// Between two tries after any other refusal.
const REFUSED: Duration = Duration::from_secs(30);
/// Between two looks for a kind that is not served or not permitted.
const ABSENT: Duration = Duration::from_secs(5);
/// A kind that was served is gone, with its objects, when discovery leaves it out for so long.
const GONE: Duration = Duration::from_secs(12);
/// Watches that end at once before everything is listed anew.
const RELIST: u32 = 5;

/// Why a kind cannot be followed at the moment.
#[derive(Debug)]
enum Trouble {
    /// Nobody listens to this source any more.
    Closed,
    /// The API server does not serve the kind, or only in these versions, which are not ours.
    NotServed(Vec<String>),
    /// It refuses, does not answer, or answers nonsense.
    Request(RequestError),
    /// A watch ended too soon.
    Short,
}

impl From<RequestError> for Trouble {
    fn from(error: RequestError) -> Self {
        Self::Request(error)
    }
}

/// Follows one kind.
pub struct Watcher {
    kind: Kind,
    cluster: Cluster,
    discovery: Arc<Discovery>,
    scope: Arc<Scope>,
    out: mpsc::Sender<Report>,
    /// What was told and not taken back, with its version.
    known: HashMap<ObjectKey, Box<str>>,
    /// Objects about which something is said.
    said: HashSet<ObjectKey>,
    /// What is said of the kind as a whole.
    said_of_kind: Option<String>,
    /// Where the next watch begins; `None` lists first.
    version: Option<String>,
    /// Since when the kind is not served.
    absent_since: Option<Instant>,
    /// Whether trouble to reach the API server was reported.
    away: bool,
    backoff: Backoff,
}

impl Watcher {
    pub fn new(
        kind: Kind,
        cluster: Cluster,
        discovery: Arc<Discovery>,
        scope: Arc<Scope>,
        out: mpsc::Sender<Report>,
    ) -> Self {
        Self {
            kind,
            cluster,
            discovery,
            scope,
            out,
            known: HashMap::new(),
            said: HashSet::new(),
            said_of_kind: None,
            version: None,
            absent_since: None,
            away: false,
            backoff: Backoff::default(),
        }
    }

    /// Runs until nobody listens.
    pub async fn run(mut self) {
        loop {
            let trouble = self.follow().await;
            let wait = match self.told(trouble).await {
                Ok(wait) => wait,
                Err(_) => return,
            };
            tokio::time::sleep(wait).await;
        }
    }

    /// Finds, lists and watches until something is wrong.
    async fn follow(&mut self) -> Trouble {
        loop {
            if let Err(trouble) = self.turn().await {
                return trouble;
            }
        }
    }

    /// Lists if need be, and watches until the API server ends the watch in good order.
    async fn turn(&mut self) -> Result<(), Trouble> {
        let resource = self.resource().await?;
        let version = match self.version.clone() {
            Some(version) => version,
            None => self.list(&resource).await?,
        };
        self.version = Some(version);
        let began = Instant::now();
        match self.watch(&resource).await {
            Ok(()) if began.elapsed() >= LASTED => {
                self.backoff.reset();
                Ok(())
            }
            // The version is from before a restore of etcd, or the server closes what it should not.
            Ok(()) => {
                if self.backoff.failures >= RELIST {
                    self.version = None;
                }
                Err(Trouble::Short)
            }
            Err(Trouble::Request(error)) if error.is_gone() => {
                self.version = None;
                Ok(())
            }
            Err(Trouble::Request(error)) => {
                if error.is_not_found() || self.backoff.failures >= RELIST && error.code().is_some() {
                    self.version = None;
                }
                Err(Trouble::Request(error))
            }
            other => other,
        }
    }

    /// The kind in the version that the API server prefers among those that are read.
    async fn resource(&mut self) -> Result<Resource, Trouble> {
        let versions = self.discovery.versions(self.kind).await?;
        let read = self.kind.info().versions;
        let found = versions.iter().find(|r| read.contains(&r.version.as_str()));
        match found {
            Some(resource) => {
                self.absent_since = None;
                Ok(resource.clone())
            }
            None => Err(Trouble::NotServed(
                versions.iter().map(|r| r.version.clone()).collect(),
            )),
        }
    }

    /// Tells what is wrong; how long to wait before the next try.
    async fn told(&mut self, trouble: Trouble) -> Result<Duration, Trouble> {
        let plural = self.kind.info().plural;
        match trouble {
            Trouble::Closed => Err(Trouble::Closed),
            Trouble::Short => Ok(self.backoff.failed(AWAY)),
            Trouble::NotServed(versions) => {
                let absent = *self.absent_since.get_or_insert_with(Instant::now);
                self.version = None;
                if absent.elapsed() >= GONE {
                    self.forget().await?;
                }
                let finding = Finding::new(
                    &codes::KIND_NOT_SERVED,
                    match versions.is_empty() {
                        true => format!("the API server does not serve {plural}"),
                        false => format!(
                            "the API server serves {plural} only in {}, which is not read",
                            versions.join(", ")
                        ),
                    },
                    "install the CRDs (isthmus install, or the chart base); it is read as soon as it is there",
                );
                self.reachable().await?;
                self.say_of_kind(Some(finding)).await?;
                self.settled().await?;
                Ok(ABSENT)
            }
            Trouble::Request(error) if error.code() == Some(403) => {
                let group = self.kind.info().group;
                let finding = Finding::new(
                    &codes::NOT_PERMITTED,
                    error.to_string(),
                    format!(
                        "grant get, list and watch on {plural}{} to the account of the control plane",
                        if group.is_empty() {
                            String::new()
                        } else {
                            format!(".{group}")
                        }
                    ),
                );
                self.reachable().await?;
                self.say_of_kind(Some(finding)).await?;
                self.settled().await?;
                Ok(ABSENT)
            }
            Trouble::Request(error) => {
                let wait = match error {
                    RequestError::Refused { code: ..500, .. } => REFUSED,
                    _ => AWAY,
                };
                let wait = self.backoff.failed(wait);
                // One broken connection is no news.
                if self.backoff.failures > 1 && !self.away {
                    self.away = true;
                    self.tell(Report::Away(self.kind, Some(error))).await?;
                }
                Ok(wait)
            }
        }
    }

    /// Reads everything and tells what is new, what is other and what is gone as one batch.
    async fn list(&mut self, resource: &Resource) -> Result<String, Trouble> {
        let mut batch = Vec::new();
        let mut gone: HashSet<ObjectKey> = self.known.keys().cloned().collect();
        let mut next = String::new();
        let version = loop {
            let mut path = format!("{}limit={PAGE}", self.path(resource));
            if !next.is_empty() {
                path.push_str("&continue=");
                path.push_str(&encoded(&next));
            }
            let (_, page): (_, Page) = self.cluster.call(Call::get(&path)).await?;
            for item in page.items {
                let version = text(&item, "/metadata/resourceVersion");
                let key = self.key(&item);
                gone.remove(&key);
                let same = self.known.get(&key).is_some_and(|v| **v == *version);
                if !same {
                    let version = version.to_owned();
                    self.take(resource, key, &version, item, &mut batch);
                }
            }
            next = page.metadata.next;
            if next.is_empty() {
                break page.metadata.resource_version;
            }
        };
        for key in gone {
            self.drop_one(key, &mut batch);
        }
        self.well().await?;
        if !batch.is_empty() {
            self.tell(Report::Changes(batch)).await?;
        }
        self.settled().await?;
        Ok(version)
    }

    /// Follows what happens from the known version on.
    async fn watch(&mut self, resource: &Resource) -> Result<(), Trouble> {
        let path = format!(
            "{}watch=1&allowWatchBookmarks=true&timeoutSeconds={}&resourceVersion={}",
            self.path(resource),
            WATCH.as_secs(),
            encoded(self.version.as_deref().unwrap_or_default())
        );
        let opening = tokio::time::timeout(IDLE, self.cluster.send(Call::get(&path)));
        let mut body = opening.await.map_err(|_| self.silent())??.into_body();
        self.well().await?;
        let mut buffer: Vec<u8> = Vec::new();
        loop {
            let frame = tokio::time::timeout(IDLE, body.frame()).await;
            let Some(frame) = frame.map_err(|_| self.silent())? else {
                return Ok(());
            };
            let frame = frame.map_err(|e| self.cluster.unreachable(&e))?;
            let Ok(data) = frame.into_data() else { continue };
            buffer.extend_from_slice(&data);
            let Some(end) = buffer.iter().rposition(|b| *b == b'\n') else {
                if buffer.len() > LINE {
                    return Err(self.nonsense("a line of a watch has no end").into());
                }
                continue;
            };
            let rest = buffer.split_off(end + 1);
            let lines = std::mem::replace(&mut buffer, rest);
            let mut batch = Vec::new();
            let ended = self.events(resource, &lines, &mut batch);
            if !batch.is_empty() {
                self.tell(Report::Changes(batch)).await?;
            }
            ended?;
        }
    }

    fn events(
        &mut self,
        resource: &Resource,
        lines: &[u8],
        batch: &mut Vec<Change>,
    ) -> Result<(), RequestError> {
        for line in lines.split(|b| *b == b'\n').filter(|l| !l.is_empty()) {
            let event: Event = serde_json::from_slice(line).map_err(|e| self.nonsense(&e.to_string()))?;
            let version = text(&event.object, "/metadata/resourceVersion").to_owned();
            let key = self.key(&event.object);
            match event.what.as_str() {
                "ADDED" | "MODIFIED" => self.take(resource, key, &version, event.object, batch),
                "DELETED" => self.drop_one(key, batch),
                "BOOKMARK" => {}
                _ => {
                    return Err(RequestError::Refused {
                        code: event.object["code"]
                            .as_u64()
                            .and_then(|c| c.try_into().ok())
                            .unwrap_or(500),
                        reason: text(&event.object, "/reason").to_owned(),
                        message: text(&event.object, "/message").to_owned(),
                    });
                }
            }
            if !version.is_empty() {
                self.version = Some(version);
            }
        }
        Ok(())
    }

    /// An object as it is now.
    fn take(
        &mut self,
        resource: &Resource,
        key: ObjectKey,
        version: &str,
        mut json: Value,
        batch: &mut Vec<Change>,
    ) {
        if !reduce(self.kind, &mut json, &self.scope) {
            if self.known.contains_key(&key) {
                self.drop_one(key, batch);
            }
            return;
        }
        if let Some(fields) = json.as_object_mut() {
            // Items of a list do not say what they are.
            fields.insert("apiVersion".to_owned(), resource.api_version().into());
            fields.insert("kind".to_owned(), self.kind.info().kind.into());
        }
        let parsed = parse_json(&json, "");
        let mut findings = parsed.findings;
        let object: Option<Arc<Object>> = parsed.objects.into_iter().next();
        if object.is_none() && self.known.contains_key(&key) {
            findings.push(
                Finding::new(
                    &codes::LAST_GOOD,
                    "the object is refused; its last good version stays in force",
                    "correct it",
                )
                .about(&key),
            );
        }
        if !findings.is_empty() || self.said.contains(&key) {
            if findings.is_empty() {
                self.said.remove(&key);
            } else {
                self.said.insert(key.clone());
            }
            batch.push(Change::Findings {
                scope: Arc::from(key.to_string()),
                findings,
            });
        }
        if let Some(object) = object {
            self.known.insert(key, Box::from(version));
            batch.push(Change::Put(object));
        }
    }

    /// An object that is no more.
    fn drop_one(&mut self, key: ObjectKey, batch: &mut Vec<Change>) {
        if self.said.remove(&key) {
            batch.push(Change::Findings {
                scope: Arc::from(key.to_string()),
                findings: Vec::new(),
            });
        }
        if self.known.remove(&key).is_some() {
            batch.push(Change::Delete(key));
        }
    }

    /// The kind itself is gone, and its objects with it.
    async fn forget(&mut self) -> Result<(), Trouble> {
        let mut batch = Vec::new();
        let all: HashSet<ObjectKey> = self.known.keys().chain(&self.said).cloned().collect();
        for key in all {
            self.drop_one(key, &mut batch);
        }
        if batch.is_empty() {
            return Ok(());
        }
        self.tell(Report::Changes(batch)).await
    }

    /// The API server answers and permits.
    async fn well(&mut self) -> Result<(), Trouble> {
        if self.version.is_none() {
            self.backoff.reset();
        }
        self.reachable().await?;
        self.say_of_kind(None).await
    }

    async fn reachable(&mut self) -> Result<(), Trouble> {
        if std::mem::take(&mut self.away) {
            self.tell(Report::Away(self.kind, None)).await?;
        }
        Ok(())
    }

    async fn say_of_kind(&mut self, finding: Option<Finding>) -> Result<(), Trouble> {
        let now = finding.as_ref().map(|f| f.message.clone());
        if now == self.said_of_kind {
            return Ok(());
        }
        self.said_of_kind = now;
        let finding = finding.map(|f| f.about(self.kind));
        self.tell(Report::Changes(vec![Change::Findings {
            scope: Arc::from(self.kind.info().plural),
            findings: finding.into_iter().collect(),
        }]))
        .await
    }

    async fn settled(&mut self) -> Result<(), Trouble> {
        self.tell(Report::Settled(self.kind)).await
    }

    async fn tell(&mut self, report: Report) -> Result<(), Trouble> {
        self.out.send(report).await.map_err(|_| Trouble::Closed)
    }

    /// Path of all objects that are read, up to the rest of the query.
    fn path(&self, resource: &Resource) -> String {
        let namespace = (self.kind == Kind::ConfigMap).then_some(self.scope.root_namespace.as_str());
        let selector = field_selector(self.kind).map(|s| format!("fieldSelector={}&", encoded(s)));
        format!("{}?{}", resource.path(namespace), selector.unwrap_or_default())
    }

    fn key(&self, object: &Value) -> ObjectKey {
        ObjectKey {
            kind: self.kind,
            namespace: text(object, "/metadata/namespace").to_owned(),
            name: text(object, "/metadata/name").to_owned(),
        }
    }

    fn silent(&self) -> Trouble {
        Trouble::Request(RequestError::Unreachable {
            server: self.cluster.server().to_owned(),
            why: format!(
                "nothing was heard of {} for {} s",
                self.kind.info().plural,
                IDLE.as_secs()
            ),
        })
    }

    fn nonsense(&self, why: &str) -> RequestError {
        RequestError::Malformed {
            server: self.cluster.server().to_owned(),
            why: why.to_owned(),
        }
    }
}

/// One page of a list.
#[derive(Deserialize)]
struct Page {
    metadata: PageHead,
    #[serde(default)]
    items: Vec<Value>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct PageHead {
    #[serde(default)]
    resource_version: String,
    /// Where the next page begins.
    #[serde(default, rename = "continue")]
    next: String,
}

/// One line of a watch.
#[derive(Deserialize)]
struct Event {
    #[serde(rename = "type")]
    what: String,
    #[serde(default)]
    object: Value,
}

fn text<'a>(json: &'a Value, pointer: &str) -> &'a str {
    json.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}
