//! The source against an API server that misbehaves on demand.

#![allow(clippy::unwrap_used)]

mod server;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use isthmus_api::source::{Change, ClusterConnector, Source};
use isthmus_api::{Finding, Kind, Object, ObjectKey};
use isthmus_kube::source::{ApiServer, Connector, Scope};
use isthmus_model::ClusterId;
use serde_json::{Value, json};
use server::Api;

/// What a sink has been told.
#[derive(Default)]
struct Told {
    objects: BTreeMap<ObjectKey, Arc<Object>>,
    findings: BTreeMap<String, Vec<Finding>>,
    synced: usize,
    batches: Vec<Vec<Change>>,
}

#[derive(Clone, Default)]
struct Listener(Arc<Mutex<Told>>);

impl Listener {
    fn to(source: Box<dyn Source>) -> (Self, tokio::task::JoinHandle<()>) {
        let listener = Self::default();
        let told = listener.clone();
        let run = source.run(Box::new(move |changes: Vec<Change>| {
            let mut told = told.0.lock().unwrap();
            for change in &changes {
                match change.clone() {
                    Change::Put(object) => drop(told.objects.insert(object.key(), object)),
                    Change::Delete(key) => drop(told.objects.remove(&key)),
                    Change::Findings { scope, findings } if findings.is_empty() => {
                        told.findings.remove(&*scope);
                    }
                    Change::Findings { scope, findings } => {
                        told.findings.insert(scope.to_string(), findings);
                    }
                    Change::Synced => told.synced += 1,
                }
            }
            told.batches.push(changes);
            true
        }));
        let task = tokio::spawn(async move { run.await.unwrap() });
        (listener, task)
    }

    async fn until(&self, what: &str, holds: impl Fn(&Told) -> bool) {
        let began = Instant::now();
        while !holds(&self.0.lock().unwrap()) {
            if began.elapsed() > Duration::from_secs(60) {
                let told = self.0.lock().unwrap();
                let keys: Vec<String> = told.objects.keys().map(ToString::to_string).collect();
                panic!("{what}: objects {keys:?}, findings {:?}", told.findings);
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

impl Told {
    fn names(&self, kind: Kind) -> Vec<&str> {
        let of_kind = self.objects.keys().filter(|k| k.kind == kind);
        of_kind.map(|k| k.name.as_str()).collect()
    }

    fn codes(&self, scope: &str) -> Vec<&str> {
        let found = self.findings.get(scope).map(Vec::as_slice).unwrap_or_default();
        found.iter().map(|f| f.code.id).collect()
    }
}

fn scope(kinds: &[Kind]) -> Scope {
    Scope {
        kinds: kinds.to_vec(),
        root_namespace: "istio-system".into(),
    }
}

async fn follow(api: &Api, kinds: &[Kind]) -> Listener {
    let source = ApiServer::new(api.cluster().await, scope(kinds));
    Listener::to(Box::new(source)).0
}

fn service(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": "shop"},
           "spec": {"clusterIP": "10.0.0.1", "ports": [{"name": "http", "port": 80}]}})
}

fn entry(name: &str, host: &str) -> Value {
    json!({"apiVersion": "networking.istio.io/v1", "kind": "ServiceEntry",
           "metadata": {"name": name, "namespace": "shop"},
           "spec": {"hosts": [host], "ports": [{"name": "http", "number": 80, "protocol": "HTTP"}], "resolution": "DNS"}})
}

#[tokio::test]
async fn everything_is_listed_in_pages_and_then_followed() {
    let api = Api::start().await;
    for i in 0..1203 {
        api.put(service(&format!("s{i:04}")));
    }
    let told = follow(&api, &[Kind::Service, Kind::Namespace]).await;
    told.until("synced", |t| t.synced == 1).await;
    assert_eq!(told.0.lock().unwrap().names(Kind::Service).len(), 1203);
    let pages = |api: &Api| {
        let state = api.lock();
        let lists = state
            .requests
            .iter()
            .filter(|r| r.contains("/services?limit=500"));
        lists.count()
    };
    assert_eq!(pages(&api), 3);

    api.put(service("new"));
    api.delete("services", "shop", "s0007");
    told.until("followed", |t| {
        let names = t.names(Kind::Service);
        names.contains(&"new") && !names.contains(&"s0007")
    })
    .await;

    // A watch that ends is taken up where it was, after a bookmark as well; nothing is listed again.
    api.bookmark();
    api.cut();
    api.put(service("newer"));
    told.until("taken up", |t| t.names(Kind::Service).contains(&"newer"))
        .await;
    assert_eq!(pages(&api), 3);
    assert_eq!(told.0.lock().unwrap().synced, 1);
}

#[tokio::test]
async fn a_gap_is_closed_by_one_batch() {
    let api = Api::start().await;
    for name in ["a", "b", "c"] {
        api.put(service(name));
    }
    let told = follow(&api, &[Kind::Service]).await;
    told.until("synced", |t| t.synced == 1).await;

    // While nobody looks, one goes, one comes, and the API server forgets how.
    api.set_down(true);
    api.delete("services", "shop", "a");
    api.put(service("d"));
    api.compact();
    api.set_down(false);
    told.until("the gap", |t| t.names(Kind::Service) == ["b", "c", "d"])
        .await;
    let told = told.0.lock().unwrap();
    let closing = told
        .batches
        .iter()
        .find(|b| b.iter().any(|c| matches!(c, Change::Delete(_))));
    let closing = closing.unwrap();
    assert!(
        matches!(&closing[..], [Change::Put(new), Change::Delete(old)] if new.meta.name == "d" && old.name == "a"),
        "{closing:?}"
    );
}

#[tokio::test]
async fn what_is_not_served_or_not_permitted_is_named_and_waited_for() {
    let api = Api::start().await;
    api.put(service("a"));
    api.put(entry("e", "example.com"));
    api.put(json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n"}}));
    let entries = {
        let mut state = api.lock();
        state.forbidden.insert("nodes");
        state.served.remove("serviceentries").unwrap()
    };
    let began = Instant::now();
    let told = follow(&api, &[Kind::Service, Kind::Node, Kind::ServiceEntry]).await;
    told.until("synced", |t| t.synced == 1).await;
    assert!(began.elapsed() < Duration::from_secs(9), "{:?}", began.elapsed());
    {
        let told = told.0.lock().unwrap();
        assert_eq!(told.names(Kind::Service), ["a"]);
        assert_eq!(told.codes("serviceentries"), ["ISM0110"]);
        assert_eq!(told.codes("nodes"), ["ISM0111"]);
        let said = &told.findings["nodes"][0];
        assert!(said.message.contains("cannot list resource \"nodes\""), "{said}");
        assert!(said.remedy.contains("list and watch on nodes"), "{said}");
    }

    api.lock().forbidden.clear();
    // Only an old version of the schema is served; it is the same schema.
    let old = server::Served {
        versions: vec!["v1alpha3"],
        ..entries
    };
    api.lock().served.insert("serviceentries", old);
    told.until("read without a restart", |t| {
        t.findings.is_empty() && t.names(Kind::Node) == ["n"] && t.names(Kind::ServiceEntry) == ["e"]
    })
    .await;

    // A permission that is revoked takes nothing away.
    api.lock().forbidden.insert("nodes");
    api.compact();
    api.cut();
    told.until("revoked", |t| t.codes("nodes") == ["ISM0111"]).await;
    assert_eq!(told.0.lock().unwrap().names(Kind::Node), ["n"]);
}

#[tokio::test]
async fn an_outage_deletes_nothing_and_is_made_up_for() {
    let api = Api::start().await;
    api.set_down(true);
    api.lock().served.remove("virtualservices");
    let told = follow(&api, &[Kind::Service, Kind::VirtualService]).await;
    let scope = format!("API server http://{}/", api.address);
    told.until("said", |t| t.codes(&scope) == ["ISM0112"]).await;
    assert_eq!(told.0.lock().unwrap().synced, 0, "nothing is known yet");

    api.put(service("a"));
    api.set_down(false);
    told.until("up", |t| {
        t.synced == 1 && t.names(Kind::Service) == ["a"] && t.codes(&scope).is_empty()
    })
    .await;
    api.set_down(true);
    told.until("down again", |t| !t.codes(&scope).is_empty()).await;
    assert_eq!(told.0.lock().unwrap().names(Kind::Service), ["a"]);
    api.put(service("b"));
    api.set_down(false);
    told.until("made up for", |t| {
        t.names(Kind::Service) == ["a", "b"] && t.codes(&scope).is_empty()
    })
    .await;
}

#[tokio::test]
async fn an_object_that_is_refused_leaves_its_last_good_version() {
    let api = Api::start().await;
    api.put(entry("e", "example.com"));
    api.put(entry("never", "not a host"));
    let told = follow(&api, &[Kind::ServiceEntry]).await;
    told.until("synced", |t| t.synced == 1).await;
    {
        let told = told.0.lock().unwrap();
        assert_eq!(told.names(Kind::ServiceEntry), ["e"]);
        assert!(told.codes("ServiceEntry shop/never").contains(&"IST0106"));
        assert_eq!(
            told.findings["ServiceEntry shop/never"][0].origin,
            "ServiceEntry shop/never"
        );
    }
    api.put(entry("e", "not a host"));
    told.until("refused", |t| {
        t.codes("ServiceEntry shop/e").ends_with(&["ISM0010"])
    })
    .await;
    assert_eq!(told.0.lock().unwrap().names(Kind::ServiceEntry), ["e"]);
    api.put(entry("e", "other.example.com"));
    api.delete("serviceentries", "shop", "never");
    told.until("well", |t| t.findings.is_empty()).await;
    api.delete("serviceentries", "shop", "e");
    told.until("gone", |t| t.objects.is_empty()).await;
}

#[tokio::test]
async fn a_kind_that_is_deleted_takes_its_objects_along() {
    let api = Api::start().await;
    api.put(entry("e", "example.com"));
    let told = follow(&api, &[Kind::ServiceEntry]).await;
    told.until("synced", |t| t.synced == 1 && t.objects.len() == 1)
        .await;
    // The watch does not live to hear of the deletion.
    let served = api.lock().served.remove("serviceentries").unwrap();
    api.lock().objects.clear();
    api.compact();
    api.cut();
    told.until("named", |t| t.codes("serviceentries") == ["ISM0110"])
        .await;
    assert_eq!(
        told.0.lock().unwrap().objects.len(),
        1,
        "discovery alone may err for a moment"
    );
    told.until("gone", |t| t.objects.is_empty()).await;
    api.lock().served.insert("serviceentries", served);
    api.put(entry("again", "example.com"));
    told.until("back", |t| {
        t.names(Kind::ServiceEntry) == ["again"] && t.findings.is_empty()
    })
    .await;
}

#[tokio::test]
async fn remote_clusters_are_read_with_credentials_that_run_nothing() {
    let api = Api::start().await;
    api.put(service("a"));
    api.lock().forbidden.insert("gateways");
    let connector = Connector {
        root_namespace: "istio-system".into(),
    };
    let eu = ClusterId::from("eu");
    let source = connector.connect(&eu, api.kubeconfig().as_bytes()).unwrap();
    let (told, _) = Listener::to(source);
    told.until("synced", |t| t.synced == 1 && t.names(Kind::Service) == ["a"])
        .await;

    let harmful = api.kubeconfig().replace(
        "token: t",
        "exec: {command: /bin/sh, apiVersion: client.authentication.k8s.io/v1}",
    );
    let refusal = |text: &str| match connector.connect(&eu, text.as_bytes()) {
        Err(error) => error.to_string(),
        Ok(_) => panic!("accepted"),
    };
    assert!(refusal(&harmful).contains("has exec"), "{}", refusal(&harmful));
    assert!(refusal("a: [").contains("kubeconfig of cluster eu"));
    assert!(refusal("current-context: x").contains("leads to no server"));
}
