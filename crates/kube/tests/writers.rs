//! What a control plane writes, and who may: leases, root certificates, CA bundles, statuses; and whose tokens
//! it believes.

#![allow(clippy::unwrap_used)]

mod server;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use isthmus_api::status::{Status, Statuses};
use isthmus_api::{Finding, Kind, ObjectKey, codes};
use isthmus_kube::{Lease, ServiceAccounts, TokenConfig, Writers};
use isthmus_model::ClusterId;
use isthmus_pki::token::{AUDIENCE, TokenIssuer, TokenRequest};
use isthmus_pki::{AuthError, Authenticator, Proof};
use isthmus_runtime::drain;
use serde_json::{Value, json};
use server::Api;
use tokio::sync::watch;

async fn until(what: &str, holds: impl Fn() -> bool) {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < Duration::from_secs(60), "{what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn namespace(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
}

fn root_of(api: &Api, namespace: &str) -> Option<String> {
    let map = api.object("configmaps", namespace, "istio-ca-root-cert")?;
    map["data"]["root-cert.pem"].as_str().map(str::to_owned)
}

struct Written {
    api: Api,
    roots: watch::Sender<Arc<str>>,
    statuses: watch::Sender<Arc<Statuses>>,
    _trigger: drain::Trigger,
}

async fn writers() -> Written {
    let api = Api::start().await;
    let (roots, seen) = watch::channel(Arc::from("ROOT 1"));
    let (statuses, wanted) = watch::channel(Arc::new(Statuses::new()));
    let (trigger, watcher) = drain::channel();
    let writers = Writers {
        cluster: api.cluster().await,
        namespace: "istio-system".into(),
        revision: String::new(),
        identity: "istiod-1".into(),
        roots: seen,
        statuses: wanted,
    };
    writers.start(&watcher);
    Written {
        api,
        roots,
        statuses,
        _trigger: trigger,
    }
}

#[tokio::test]
async fn every_namespace_has_the_root_whatever_happens_to_it() {
    let w = writers().await;
    w.api.put(namespace("shop"));
    until("shop", || root_of(&w.api, "shop").as_deref() == Some("ROOT 1")).await;
    w.api.put(namespace("later"));
    until("later", || root_of(&w.api, "later").as_deref() == Some("ROOT 1")).await;

    w.api.delete("configmaps", "shop", "istio-ca-root-cert");
    until("deleted", || root_of(&w.api, "shop").is_some()).await;
    let mut edited = w.api.object("configmaps", "shop", "istio-ca-root-cert").unwrap();
    edited["data"]["root-cert.pem"] = "OTHER".into();
    w.api.put(edited);
    until("edited", || root_of(&w.api, "shop").as_deref() == Some("ROOT 1")).await;

    w.roots.send_replace(Arc::from("ROOT 2"));
    until("a new root", || {
        ["shop", "later"]
            .iter()
            .all(|n| root_of(&w.api, n).as_deref() == Some("ROOT 2"))
    })
    .await;
    // A namespace on its way out is left alone.
    let mut ending = namespace("ending");
    ending["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
    w.api.put(ending);
    w.api.put(namespace("last"));
    until("last", || root_of(&w.api, "last").is_some()).await;
    assert_eq!(root_of(&w.api, "ending"), None);
}

#[tokio::test]
async fn our_webhooks_are_told_whom_to_trust() {
    let w = writers().await;
    let webhook = |revision: &str| {
        json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": "MutatingWebhookConfiguration",
            "metadata": {"name": format!("injector-{revision}"), "labels": {"app": "sidecar-injector", "istio.io/rev": revision}},
            "webhooks": [{"name": "inject.istio.io", "sideEffects": "None", "admissionReviewVersions": ["v1"], "clientConfig":
                {"service": {"namespace": "istio-system", "name": "istiod"}}}]})
    };
    w.api.put(webhook("canary"));
    w.api.put(webhook("default"));
    let bundle = |revision: &str| {
        let object = w
            .api
            .object(
                "mutatingwebhookconfigurations",
                "",
                &format!("injector-{revision}"),
            )
            .unwrap();
        object["webhooks"][0]["clientConfig"]["caBundle"]
            .as_str()
            .map(str::to_owned)
    };
    // Base64 of ROOT 1 and ROOT 2.
    until("patched", || bundle("default").as_deref() == Some("Uk9PVCAx")).await;
    // An installer that applies it again takes the bundle away.
    w.api.put(webhook("default"));
    until("patched again", || bundle("default").is_some()).await;
    w.roots.send_replace(Arc::from("ROOT 2"));
    until("a new root", || bundle("default").as_deref() == Some("Uk9PVCAy")).await;
    assert_eq!(bundle("canary"), None, "another revision's");
}

#[tokio::test]
async fn objects_say_what_is_wrong_with_them() {
    let w = writers().await;
    w.api.put(
        json!({"apiVersion": "networking.istio.io/v1", "kind": "ServiceEntry",
        "metadata": {"name": "e", "namespace": "shop", "generation": 4}, "spec": {}}),
    );
    let key = ObjectKey {
        kind: Kind::ServiceEntry,
        namespace: "shop".into(),
        name: "e".into(),
    };
    let status = || w.api.object("serviceentries", "shop", "e").unwrap()["status"].clone();
    let wrong = Status {
        addresses: Vec::new(),
        findings: vec![Finding::new(&codes::SCHEMA, "spec.hosts: is empty", "add a host")],
    };
    w.statuses
        .send_replace(Arc::new(BTreeMap::from([(key.clone(), wrong)])));
    until("said", || status()["conditions"][0]["status"] == "False").await;
    assert_eq!(status()["observedGeneration"], 4);
    w.statuses.send_replace(Arc::default());
    until("taken back", || status()["conditions"][0]["status"] == "True").await;
}

#[tokio::test]
async fn of_two_replicas_one_writes_and_hands_over_when_it_drains() {
    let api = Api::start().await;
    let seek = async |name: &str| {
        let (trigger, watcher) = drain::channel();
        let lease = Lease {
            cluster: api.cluster().await,
            namespace: "istio-system".into(),
            name: "istiod-leader".into(),
            identity: name.into(),
        };
        (lease.seek(&watcher), trigger)
    };
    let (first, trigger) = seek("a").await;
    until("a holds", || *first.borrow()).await;
    let (second, _kept) = seek("b").await;
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert!(!*second.borrow(), "there is one writer");

    trigger.drain(Duration::from_secs(10)).await;
    assert!(!*first.borrow());
    let began = Instant::now();
    until("b holds", || *second.borrow()).await;
    assert!(
        began.elapsed() < Duration::from_secs(10),
        "given back, not expired"
    );
    let lease = api.object("leases", "istio-system", "istiod-leader").unwrap();
    assert_eq!(lease["spec"]["holderIdentity"], "b");
    assert_eq!(lease["spec"]["leaseTransitions"], 1);
}

#[tokio::test]
async fn a_lease_that_nobody_renews_is_taken_after_its_duration() {
    let api = Api::start().await;
    api.put(json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
        "metadata": {"name": "istiod-leader", "namespace": "istio-system"},
        "spec": {"holderIdentity": "dead", "leaseDurationSeconds": 2, "renewTime": "2999-01-01T00:00:00.000000Z"}}));
    let (_trigger, watcher) = drain::channel();
    let lease = Lease {
        cluster: api.cluster().await,
        namespace: "istio-system".into(),
        name: "istiod-leader".into(),
        identity: "b".into(),
    };
    let held = lease.seek(&watcher);
    // Its clock is in the year 2999, and nobody compares clocks.
    until("taken", || *held.borrow()).await;
}

#[tokio::test]
async fn tokens_are_checked_by_keys_that_outlive_the_api_server_and_else_by_review() {
    let api = Api::start().await;
    let issuer = TokenIssuer::generate("https://issuer.test").unwrap();
    api.lock().jwks = serde_json::from_str(&issuer.key_set()).unwrap();
    let request = TokenRequest {
        namespace: "shop".into(),
        service_account: "web".into(),
        pod: None,
        audiences: vec![AUDIENCE.into()],
        validity: Duration::from_secs(600),
    };
    let proof = |token: &str| Proof {
        token: Some(token.to_owned()),
        claimed_cluster: Some(ClusterId::from("us")),
        ..Proof::default()
    };
    let token = issuer.mint(&request).unwrap();
    let state = tempfile::tempdir().unwrap();
    let config = TokenConfig {
        cluster: api.cluster().await,
        name: ClusterId::from("us"),
        folder: state.path().join("tokens"),
        issuers: Vec::new(),
    };
    let reviews = |api: &Api| {
        api.lock()
            .requests
            .iter()
            .filter(|r| r.contains("tokenreviews"))
            .count()
    };

    let accounts = ServiceAccounts::start(config.clone());
    let began = Instant::now();
    loop {
        match accounts.authenticate(&proof(&token)).await {
            Ok(caller) => {
                assert_eq!(
                    (caller.namespace.as_str(), caller.service_account.as_str()),
                    ("shop", "web")
                );
                break;
            }
            Err(error) => assert!(began.elapsed() < Duration::from_secs(60), "{error}"),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    until("kept", || config.folder.join("issuer.json").exists()).await;

    // The API server goes away and the control plane starts again.
    api.set_down(true);
    drop(accounts);
    let accounts = ServiceAccounts::start(config);
    let before = reviews(&api);
    let began = Instant::now();
    while accounts.authenticate(&proof(&token)).await.is_err() {
        assert!(
            began.elapsed() < Duration::from_secs(60),
            "the kept keys are used"
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(reviews(&api), before, "nobody was asked");

    // A key of which nothing is known: the API server decides, while it can.
    let other = TokenIssuer::generate("https://issuer.test").unwrap();
    let unknown = other.mint(&request).unwrap();
    let refused = accounts.authenticate(&proof(&unknown)).await.unwrap_err();
    assert!(matches!(refused, AuthError::UnknownKey { .. }), "{refused}");
    api.set_down(false);
    let refused = accounts.authenticate(&proof(&unknown)).await.unwrap_err();
    assert!(refused.to_string().contains("invalid token"), "{refused}");
    api.lock().tokens.insert(
        unknown.clone(),
        json!({"authenticated": true, "audiences": [AUDIENCE], "user": {
            "username": "system:serviceaccount:shop:web",
            "extra": {"authentication.kubernetes.io/pod-name": ["web-1"]}}}),
    );
    let caller = accounts.authenticate(&proof(&unknown)).await.unwrap();
    assert_eq!(caller.pod.unwrap().name, "web-1");

    // The new key is published, and read without a restart.
    api.lock().jwks = serde_json::from_str(&other.key_set()).unwrap();
    api.lock().tokens.clear();
    let began = Instant::now();
    while accounts.authenticate(&proof(&unknown)).await.is_err() {
        assert!(began.elapsed() < Duration::from_secs(60), "the new key is read");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let elsewhere = Proof {
        claimed_cluster: Some(ClusterId::from("eu")),
        ..proof(&token)
    };
    let refused = accounts.authenticate(&elsewhere).await.unwrap_err();
    assert!(matches!(refused, AuthError::OtherCluster { .. }), "{refused}");
}

#[tokio::test]
async fn replicas_and_new_pods_share_one_root_of_their_own() {
    let api = Api::start().await;
    let domain = "corp.local".parse().unwrap();
    let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let root = |i: usize| std::fs::read_to_string(folders[i].path().join("root-cert.pem")).unwrap();
    for folder in &folders {
        let cluster = api.cluster().await;
        isthmus_kube::ensure_own_root(&cluster, "istio-system", folder.path(), &domain)
            .await
            .unwrap();
    }
    assert_eq!(root(0), root(1));
    for folder in &folders {
        isthmus_pki::Authority::load(folder.path()).unwrap();
    }
    let secret = api.object("secrets", "istio-system", "istio-ca-secret").unwrap();
    assert_eq!(secret["type"], "istio.io/ca-root");

    // With the API server away, what is on disk is used; an authority that was brought needs no root.
    api.set_down(true);
    let cluster = api.cluster().await;
    isthmus_kube::ensure_own_root(&cluster, "istio-system", folders[0].path(), &domain)
        .await
        .unwrap();
    api.set_down(false);
    api.put(
        json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "cacerts", "namespace": "other"}}),
    );
    let empty = tempfile::tempdir().unwrap();
    isthmus_kube::ensure_own_root(&cluster, "other", empty.path(), &domain)
        .await
        .unwrap();
    assert_eq!(std::fs::read_dir(empty.path()).unwrap().count(), 0);
    // A permission that is missing is said.
    api.lock().forbidden.insert("secrets");
    let error = isthmus_kube::ensure_own_root(&cluster, "third", empty.path(), &domain)
        .await
        .unwrap_err();
    assert!(error.to_string().contains("secrets is forbidden"), "{error}");
}
