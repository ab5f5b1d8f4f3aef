//! What a control plane, a peer or a bootstrap file says to a proxy.

use std::sync::{Arc, OnceLock};
use std::time::{Instant, SystemTime};

use isthmus_api::source::Change;
use isthmus_control::generate::{self, cache::Cache};
use isthmus_control::ingest::store::Store;
use isthmus_control::peering::wire;
use isthmus_control::proxy::ProxyKind;
use isthmus_proxy::state::State;
use isthmus_xds::client::{DeltaClient, SotwClient, Wanted};
use isthmus_xds::envoy::bootstrap::Bootstrap;
use isthmus_xds::envoy::core::Node;
use isthmus_xds::envoy::service::discovery::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse, Resource as Wire,
};
use isthmus_xds::envoy::{Any, cluster, endpoint, listener, route};
use isthmus_xds::reflect::{from_json, to_json};
use isthmus_xds::server::{DeltaSession, Limits, SotwSession};
use isthmus_xds::{NameTable, Resources, TypeUrl, pack, text as xds_text};
use prost::{Message, Name};
use serde_json::Value;

use super::compile::{files, proxy, snapshot};
use super::{Kind, Target, file, text};

/// A static bootstrap as text.
pub const BOOTSTRAP: Target = Target {
    name: "bootstrap",
    kind: Kind::Text,
    inputs: 60,
    seeds: || {
        let mut all = vec![file("tests/interop/envoy/same.yaml").into_bytes()];
        all.push(
            br#"{"admin": {"address": {"pipe": {"path": "@a", "mode": 1}}}, "node": {"id": "\u00fc"}}"#
                .to_vec(),
        );
        all
    },
    run: |input| {
        hold_descriptors();
        if let Ok(read) = xds_text::read::<Bootstrap>("fuzz.yaml", text(input)) {
            let resources = read.static_resources.unwrap_or_default();
            let mut state = State::default();
            for cluster in &resources.clusters {
                let _ = state.fix(pack(cluster), SystemTime::now());
            }
            for listener in &resources.listeners {
                let _ = state.fix(pack(listener), SystemTime::now());
            }
            state.settle(Instant::now());
        }
    },
};

/// Single resources: mutated as JSON, and as bytes.
pub const RESOURCES: Target = Target {
    name: "resources",
    kind: Kind::Tree,
    inputs: 150,
    seeds: || {
        hold_descriptors();
        let told = told(ProxyKind::Sidecar, "reviews-1")
            .into_iter()
            .chain(told(ProxyKind::Router, "gateway-1"));
        let bodies: Vec<Any> = told.collect();
        assert!(bodies.len() > 50, "{}", bodies.len());
        bodies
            .iter()
            .map(|b| to_json(b).to_string().into_bytes())
            .collect()
    },
    run: resource,
};

/// Whole messages of the discovery service, from either side.
pub const DISCOVERY: Target = Target {
    name: "discovery",
    kind: Kind::Bytes,
    inputs: 2000,
    seeds: || {
        let bodies: Vec<Any> = told(ProxyKind::Sidecar, "reviews-1")
            .into_iter()
            .take(6)
            .collect();
        let cds = "type.googleapis.com/envoy.config.cluster.v3.Cluster";
        let wired = |b: &Any| Wire {
            name: "n".into(),
            version: "1".into(),
            resource: Some(b.clone()),
            ..Default::default()
        };
        vec![
            DeltaDiscoveryResponse {
                type_url: cds.into(),
                nonce: "1".into(),
                resources: bodies.iter().map(wired).collect(),
                removed_resources: vec!["gone".into()],
                ..Default::default()
            }
            .encode_to_vec(),
            DiscoveryResponse {
                type_url: cds.into(),
                nonce: "1".into(),
                version_info: "2".into(),
                resources: bodies,
                ..Default::default()
            }
            .encode_to_vec(),
            DeltaDiscoveryRequest {
                type_url: cds.into(),
                resource_names_subscribe: vec!["*".into(), "a".into()],
                resource_names_unsubscribe: vec!["a".into()],
                initial_resource_versions: [("a".to_owned(), "1".to_owned())].into(),
                ..Default::default()
            }
            .encode_to_vec(),
            DiscoveryRequest {
                type_url: cds.into(),
                resource_names: vec!["a".into(), "b".into()],
                response_nonce: "1".into(),
                ..Default::default()
            }
            .encode_to_vec(),
        ]
    },
    run: discovery,
};

/// What the control plane of another cluster tells.
pub const PEERING: Target = Target {
    name: "peering",
    kind: Kind::Bytes,
    inputs: 4000,
    seeds: || {
        let service = wire::Service {
            namespace: "default".into(),
            host: "reviews.default.svc.cluster.local".into(),
            ports: vec![wire::Port {
                number: 9080,
                name: "http".into(),
                protocol: "HTTP".into(),
            }],
            addresses: vec!["10.20.0.1".into(), "fd00::1".into()],
            labels: [("app".to_owned(), "reviews".to_owned())].into(),
            exported_to: vec!["default".into()],
            endpoints: vec![wire::Endpoint {
                address: "10.20.1.1".into(),
                port: 9080,
                port_name: "http".into(),
                locality: "eu/eu-a/1".into(),
                network: "eu-net".into(),
                identity: "spiffe://corp.local/ns/default/sa/reviews".into(),
                mtls: true,
                weight: 3,
                ..Default::default()
            }],
            ..Default::default()
        };
        let cluster = wire::Cluster {
            cluster: "eu".into(),
            network: "eu-net".into(),
            trust_domain: "corp.local".into(),
            gateways: vec![wire::Gateway {
                network: "eu-net".into(),
                address: "198.51.100.2".into(),
                port: 15443,
                locality: "eu".into(),
            }],
            passthrough: vec![wire::Address {
                address: "ingress.eu.example.net".into(),
                port: 15443,
            }],
        };
        vec![
            service.encode_to_vec(),
            cluster.encode_to_vec(),
            wire::Vitals::default().encode_to_vec(),
        ]
    },
    run: |input| {
        if let Ok(service) = wire::Service::decode(input) {
            let _ = service.import(&"eu".into());
        }
        if let Ok(cluster) = wire::Cluster::decode(input) {
            let _ = cluster.import(&"eu".into());
        }
        let _ = wire::Vitals::decode(input);
        let _ = NameTable::decode(input);
    },
};

/// All that a proxy of the seeds is told.
fn told(kind: ProxyKind, pod: &str) -> Vec<Any> {
    let mut store = Store::default();
    for object in isthmus_api::parse(&files().join("\n---\n"), "seeds.yaml").objects {
        store.apply(Change::Put(object));
    }
    store.apply(Change::Synced);
    let all = generate::all(&snapshot(&store), &proxy(kind, pod, false), &mut Cache::default());
    let wanted = [TypeUrl::Cds, TypeUrl::Eds, TypeUrl::Lds, TypeUrl::Rds];
    let sets = wanted.iter().filter_map(|ty| all.resources.set(ty));
    sets.flat_map(|s| s.iter().map(|r| r.body.clone()).collect::<Vec<_>>())
        .collect()
}

/// Descriptors are dropped when nobody uses them and take long to read: here somebody always does.
fn hold_descriptors() {
    static HELD: OnceLock<Box<dyn std::any::Any + Send + Sync>> = OnceLock::new();
    HELD.get_or_init(|| Box::new(isthmus_xds::reflect::pool()));
}

fn resource(input: &[u8]) {
    hold_descriptors();
    let Ok(mut tree) = serde_json::from_slice::<Value>(input) else {
        // Not JSON any more: bytes of a resource of each type.
        for ty in [
            &TypeUrl::Cds,
            &TypeUrl::Eds,
            &TypeUrl::Lds,
            &TypeUrl::Rds,
            &TypeUrl::Sds,
        ] {
            take(Any {
                type_url: ty.as_str().to_owned(),
                value: input.to_vec(),
            });
        }
        return;
    };
    let ty = tree.as_object_mut().and_then(|o| o.remove("@type"));
    let ty = ty.as_ref().and_then(Value::as_str).unwrap_or_default();
    fn packed<M: Message + Name + Default>(ty: &str, tree: &Value) -> Option<Any> {
        if ty.rsplit('/').next() != Some(M::full_name().as_str()) {
            return None;
        }
        Some(pack(&from_json::<M>(tree).ok()?))
    }
    let body = packed::<cluster::Cluster>(ty, &tree)
        .or_else(|| packed::<endpoint::ClusterLoadAssignment>(ty, &tree))
        .or_else(|| packed::<listener::Listener>(ty, &tree))
        .or_else(|| packed::<route::RouteConfiguration>(ty, &tree));
    if let Some(body) = body {
        take(body);
    }
}

/// The proxy takes or refuses it, and can show it.
fn take(body: Any) {
    let mut state = State::default();
    if let Err(refused) = state.fix(body.clone(), SystemTime::now()) {
        assert!(
            !refused.reason.is_empty(),
            "{} is refused without a reason",
            refused.name
        );
    }
    state.settle(Instant::now());
    let _ = to_json(&body);
}

fn discovery(input: &[u8]) {
    let types = [TypeUrl::Cds, TypeUrl::Eds];
    if let Ok(response) = DeltaDiscoveryResponse::decode(input) {
        let mut client = DeltaClient::new(Node::default(), 100);
        for ty in &types {
            client.subscribe(ty.clone(), Wanted::All);
        }
        client.connected();
        while client.next_request().is_some() {}
        if let Ok(update) = client.response(response) {
            client.ack(&update.ty, &update.nonce);
        }
        while client.next_request().is_some() {}
    }
    if let Ok(response) = DiscoveryResponse::decode(input) {
        let mut client = SotwClient::new(Node::default(), 100);
        for ty in &types {
            client.subscribe(ty.clone(), Wanted::All);
        }
        client.connected();
        while client.next_request().is_some() {}
        if let Ok(update) = client.response(response) {
            client.ack(&update.ty, &update.nonce);
        }
        while client.next_request().is_some() {}
    }
    if let Ok(request) = DeltaDiscoveryRequest::decode(input) {
        let mut session = DeltaSession::new(Limits::default());
        session.publish(Arc::new(Resources::new()));
        let _ = session.request(request);
        while session.next_response().is_some() {}
    }
    if let Ok(request) = DiscoveryRequest::decode(input) {
        let mut session = SotwSession::new(Limits::default());
        session.publish(Arc::new(Resources::new()));
        let _ = session.request(request);
        while session.next_response().is_some() {}
    }
}
