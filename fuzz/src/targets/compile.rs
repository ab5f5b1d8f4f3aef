//! What users write: parsed, validated, and compiled into what proxies are told.

use std::cell::RefCell;
use std::sync::Arc;
use std::time::SystemTime;

use isthmus_api::Kind as ObjectKind;
use isthmus_api::source::Change;
use isthmus_control::generate::{self, cache::Cache};
use isthmus_control::ingest::store::Store;
use isthmus_control::member::PeerState;
use isthmus_control::mesh::Identity;
use isthmus_control::proxy::{ProxyDescription, ProxyKind};
use isthmus_control::snapshot::Snapshot;
use isthmus_control::snapshot::builder::{Builder, Dirty};
use isthmus_model::Labels;
use isthmus_proxy::state::State;
use isthmus_xds::{Resources, TypeUrl};
use serde_json::Value;

use super::{Kind, Target, file, text};

/// Parsing and validation of YAML.
pub const YAML: Target = Target {
    name: "yaml",
    kind: Kind::Text,
    inputs: 800,
    seeds: || {
        let mut all: Vec<Vec<u8>> = files()
            .iter()
            .flat_map(|f| f.split("\n---\n"))
            .map(|d| d.as_bytes().to_vec())
            .collect();
        all.push(b"a: &a [*a, !!binary aGk=, {? x : y}, |\n  text\n, >-\n  folded\n]".to_vec());
        all
    },
    run: |input| {
        let parsed = isthmus_api::parse(text(input), "fuzz.yaml");
        for finding in &parsed.findings {
            assert!(!finding.to_string().is_empty());
        }
    },
};

/// Objects, each valid or not, compiled for a sidecar, a gateway and a stock Envoy. Our own proxy must take
/// what comes of objects in which validation saw no error.
pub const COMPILE: Target = Target {
    name: "compile",
    kind: Kind::Tree,
    inputs: 20,
    seeds: || {
        let objects = objects();
        let kinds = |kinds: &[&str]| {
            let chosen = objects
                .iter()
                .filter(|o| kinds.contains(&o["kind"].as_str().unwrap_or_default()));
            Value::from(chosen.cloned().collect::<Vec<_>>())
                .to_string()
                .into_bytes()
        };
        vec![
            kinds(&["VirtualService"]),
            kinds(&["DestinationRule"]),
            kinds(&["ServiceEntry", "WorkloadEntry"]),
            kinds(&["Gateway", "Sidecar"]),
            kinds(&["AuthorizationPolicy", "PeerAuthentication"]),
            kinds(&["Service", "Pod", "EndpointSlice", "Secret"]),
            kinds(&["Namespace", "Node", "ConfigMap", "Deployment"]),
        ]
    },
    run: compile,
};

/// The YAML of this repository that says most.
pub fn files() -> Vec<String> {
    [
        "tests/interop/envoy/everything.yaml",
        "fuzz/seeds/kubernetes.yaml",
        "samples/two-clusters/us/service-entries.yaml",
        "samples/two-clusters/us/bookinfo-gateway.yaml",
        "samples/two-clusters/us/east-west.yaml",
        "samples/scenarios/canary.yaml",
        "samples/scenarios/allow-productpage.yaml",
        "samples/scenarios/route-by-user.yaml",
    ]
    .map(file)
    .into()
}

fn objects() -> Vec<Value> {
    files()
        .iter()
        .flat_map(|text| text.split("\n---\n"))
        .filter_map(|document| serde_saphyr::from_str::<Value>(document).ok())
        .filter(Value::is_object)
        .collect()
}

fn compile(input: &[u8]) {
    thread_local! {
        static AROUND: RefCell<Option<Vec<Arc<isthmus_api::Object>>>> = const { RefCell::new(None) };
    }
    let mut written = String::new();
    match serde_json::from_slice::<Value>(input) {
        Ok(Value::Array(list)) => {
            for object in list {
                written.push_str(&format!("---\n{object}\n"));
            }
        }
        _ => text(input).clone_into(&mut written),
    }
    let parsed = isthmus_api::parse(&written, "fuzz.yaml");
    let mut store = Store::default();
    AROUND.with_borrow_mut(|around| {
        let around =
            around.get_or_insert_with(|| isthmus_api::parse(&files().join("\n---\n"), "around.yaml").objects);
        for object in around {
            store.apply(Change::Put(object.clone()));
        }
    });
    for object in &parsed.objects {
        store.apply(Change::Put(object.clone()));
    }
    store.apply(Change::Synced);
    let snapshot = snapshot(&store);
    for (kind, pod, stock) in [
        (ProxyKind::Sidecar, "reviews-1", false),
        (ProxyKind::Router, "gateway-1", false),
        (ProxyKind::Sidecar, "reviews-1", true),
    ] {
        let told = generate::all(&snapshot, &proxy(kind, pod, stock), &mut Cache::default());
        if !stock && !parsed.has_errors() {
            accepted(&told.resources);
        }
    }
}

/// A snapshot of a member cluster with these objects.
pub fn snapshot(store: &Store) -> Arc<Snapshot> {
    let identity = Identity {
        cluster: "us".into(),
        network: "us-net".into(),
        mesh_id: "training-mesh".into(),
        trust_domain: Some("corp.local".parse().expect("a trust domain")),
        root_namespace: "istio-system".into(),
    };
    let dirty = Dirty {
        kinds: ObjectKind::ALL.iter().copied().collect(),
        peers: true,
    };
    Builder::new(identity, Default::default(), None).build(
        store,
        &Arc::new(PeerState::default()),
        &Default::default(),
        &dirty,
    )
}

/// A proxy of the seeds.
pub fn proxy(kind: ProxyKind, pod: &str, stock_envoy: bool) -> ProxyDescription {
    let ip = if kind == ProxyKind::Sidecar {
        "10.0.1.1"
    } else {
        "10.0.1.2"
    };
    let label = if kind == ProxyKind::Sidecar {
        ("app", "reviews")
    } else {
        ("istio", "envoy-gateway")
    };
    ProxyDescription {
        id: format!("proxy~{ip}~{pod}.default~default.svc.cluster.local"),
        kind,
        addresses: vec![ip.parse().expect("an address")],
        name: pod.to_owned(),
        namespace: "default".to_owned(),
        service_account: "default".to_owned(),
        identity: "spiffe://corp.local/ns/default/sa/default".parse().ok(),
        labels: [label].into_iter().collect::<Labels>(),
        cluster: "us".into(),
        network: "us-net".into(),
        locality: Default::default(),
        dns_capture: true,
        stock_envoy,
    }
}

/// Our proxy takes everything that our control plane says.
fn accepted(resources: &Resources) {
    let mut state = State::default();
    for (ty, set) in resources.iter() {
        if matches!(ty, TypeUrl::Cds | TypeUrl::Eds | TypeUrl::Lds | TypeUrl::Rds) {
            for resource in set.iter() {
                let taken = state.fix(resource.body.clone(), SystemTime::now());
                assert!(taken.is_ok(), "{}: {taken:?}", resource.name);
            }
        }
    }
}
