//! Nothing silent: every field that a user may write changes what a proxy is told, or is refused or named
//! by a finding.
//!
//! An example holds a field if the object with it differs from the object without it in what the proxies of
//! a small mesh are told. A field that no example holds fails the test, so that a new field is noticed.

mod authorization_policy;
mod destination_rule;
mod gateway;
mod mesh_config;
mod paths;
mod peer_authentication;
mod service_entry;
mod sidecar;
mod virtual_service;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::OnceLock;

use isthmus_api::effect::WITHOUT_EFFECT;
use isthmus_api::{Kind, Typed};
use serde_json::{Value, json};

use crate::proxy::ProxyKind::{self, Router, Sidecar};
use crate::test_told::*;

/// What is written beside the example.
const AROUND: &str = "
apiVersion: v1
kind: Service
metadata: {name: ingress, namespace: istio-system}
spec:
  type: LoadBalancer
  clusterIP: 10.0.0.20
  selector: {istio: ingressgateway}
  ports: [{name: http, port: 80, targetPort: 8080}, {name: https, port: 443, targetPort: 8443}, {name: tcp, port: 31400}]
status: {loadBalancer: {ingress: [{ip: 198.51.100.30}]}}
---
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: public, namespace: default}
spec:
  selector: {istio: ingressgateway}
  servers:
  - {port: {number: 80, name: http, protocol: HTTP}, hosts: ['*']}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: subsets, namespace: echo}
spec: {host: echo, subsets: [{name: v1, labels: {version: v1}}]}
";

/// Proxies that are asked what they are told.
const CALLER: (ProxyKind, &str) = (Sidecar, "sleep-1.default");
const SERVER: (ProxyKind, &str) = (Sidecar, "reviews-v1.default");
const ELSEWHERE: (ProxyKind, &str) = (Sidecar, "echo-1.echo");
const INGRESS: (ProxyKind, &str) = (Router, "ingress-1.istio-system");

/// Names that tell people what they read, and of which nothing follows.
const FOR_PEOPLE: &[(Kind, &str)] = &[
    (Kind::Sidecar, "ingress.port.name"),
    (Kind::Sidecar, "egress.port.name"),
    // It repeats what the service says.
    (Kind::Sidecar, "egress.port.protocol"),
];

/// What injection works into a pod, before there is a proxy to be told: `isthmus-manifests` shows its effect.
const INJECTED: &[(Kind, &str)] = &[
    (Kind::ConfigMap, "enablePrometheusMerge"),
    (Kind::ConfigMap, "defaultConfig.discoveryAddress"),
    (Kind::ConfigMap, "defaultConfig.concurrency"),
    (Kind::ConfigMap, "defaultConfig.proxyMetadata"),
    (Kind::ConfigMap, "defaultConfig.proxyMetadata.*"),
    (Kind::ConfigMap, "defaultConfig.terminationDrainDuration"),
    (Kind::ConfigMap, "defaultConfig.holdApplicationUntilProxyStarts"),
    (Kind::ConfigMap, "defaultConfig.proxyAdminPort"),
];

fn around() -> Member {
    let mut us = us();
    us.apply(AROUND)
        .apply(&pod(
            "ingress-1",
            "istio-system",
            "10.0.1.20",
            "us-1",
            "istio: ingressgateway",
        ))
        .apply(&service(
            "echo",
            "echo",
            "10.0.0.2",
            "{name: http, port: 80, targetPort: 8080}",
        ))
        .apply(&pod(
            "echo-1",
            "echo",
            "10.0.1.3",
            "us-1",
            "app: echo, version: v1",
        ))
        .apply(&service("db", "default", "10.0.0.7", "{name: tcp, port: 5432}"))
        .apply(&pod("db-1", "default", "10.0.1.7", "us-1", "app: db"));
    us
}

/// Read once, since every example begins with it.
static AROUND_ALL: OnceLock<Member> = OnceLock::new();

/// What the proxies of the mesh are told, and what is found, with these objects added.
struct Seen {
    told: Vec<(String, String)>,
    /// Messages of findings.
    findings: Vec<String>,
    refused: bool,
}

fn see(proxies: &[(ProxyKind, &str)], objects: &[Value]) -> Seen {
    let mut us = AROUND_ALL.get_or_init(around).like();
    let mut findings = Vec::new();
    let mut refused = false;
    for object in objects {
        // On one line, so that no reference moves when a field is taken away.
        let parsed = isthmus_api::parse(&object.to_string(), "f.json");
        refused |= parsed.has_errors();
        findings.extend(parsed.findings.iter().map(|f| f.message.clone()));
        for object in parsed.objects {
            us.store.apply(isthmus_api::Change::Put(object));
        }
    }
    let snapshot = us.snapshot();
    findings.extend(snapshot.findings.iter().map(|f| f.message.clone()));
    let mut told = Vec::new();
    for (kind, pod) in proxies {
        let proxy = proxy(&snapshot, *kind, pod);
        let one = Told::new(&snapshot, &proxy);
        findings.extend(one.findings);
        for (ty, set) in one.resources.iter() {
            told.extend(
                set.iter()
                    .map(|r| (format!("{pod} {} {}", ty.short(), r.name), r.version.to_string())),
            );
        }
    }
    Seen {
        told,
        findings,
        refused,
    }
}

/// An object of a kind in a namespace.
fn object(kind: Kind, namespace: &str, name: &str, spec: &Value) -> Value {
    json!({
        "apiVersion": kind.info().api_version(),
        "kind": kind.info().kind,
        "metadata": {"name": name, "namespace": namespace},
        "spec": spec,
    })
}

/// Takes the field away wherever it stands; whether it stood anywhere.
fn take_away(value: &mut Value, steps: &[&str]) -> bool {
    let Some((first, rest)) = steps.split_first() else {
        return false;
    };
    match value {
        Value::Array(items) => items
            .iter_mut()
            .map(|item| take_away(item, steps))
            .fold(false, std::ops::BitOr::bitor),
        Value::Object(fields) if rest.is_empty() => fields.remove(*first).is_some(),
        Value::Object(fields) if *first == "*" => fields
            .values_mut()
            .map(|inner| take_away(inner, rest))
            .fold(false, std::ops::BitOr::bitor),
        Value::Object(fields) => fields.get_mut(*first).is_some_and(|inner| take_away(inner, rest)),
        _ => false,
    }
}

/// Examples of one kind: a spec, and what stands beside it.
struct Example {
    spec: Value,
    beside: Vec<Value>,
    namespace: &'static str,
    /// Who sees it, when it is not those who see the others.
    by: Option<(ProxyKind, &'static str)>,
}

fn example(spec: Value) -> Example {
    Example {
        spec,
        beside: Vec::new(),
        namespace: "default",
        by: None,
    }
}

/// Demands of every field of a kind that an example shows its effect, or that there is a finding for it.
fn demand<T: Typed + serde::de::DeserializeOwned>(
    kind: Kind,
    proxies: &[(ProxyKind, &str)],
    examples: &[Example],
) {
    let write = |example: &Example, spec: &Value| {
        let mut all = example.beside.clone();
        all.push(object(kind, example.namespace, "example", spec));
        all
    };
    demand_of(kind, proxies, &paths::leaves::<T>(), examples, &write);
}

fn demand_of(
    kind: Kind,
    proxies: &[(ProxyKind, &str)],
    leaves: &BTreeSet<String>,
    examples: &[Example],
    write: &dyn Fn(&Example, &Value) -> Vec<Value>,
) {
    let mut silent: BTreeMap<&str, &str> = (leaves.iter().map(String::as_str))
        .filter(|leaf| !FOR_PEOPLE.contains(&(kind, leaf)) && !INJECTED.contains(&(kind, leaf)))
        .map(|leaf| (leaf, "no example has it"))
        .collect();
    for example in examples {
        let own = example.by.as_slice();
        let proxies = if own.is_empty() { proxies } else { own };
        let with = see(proxies, &write(example, &example.spec));
        let again = see(proxies, &write(example, &example.spec));
        let differs: Vec<_> = with.told.iter().filter(|t| !again.told.contains(t)).collect();
        assert!(differs.is_empty(), "the same is told in two ways: {differs:?}");
        for leaf in leaves {
            let steps: Vec<&str> = leaf.split('.').collect();
            let mut spec = example.spec.clone();
            if !silent.contains_key(leaf.as_str()) || !take_away(&mut spec, &steps) {
                continue;
            }
            let named = with.findings.iter().any(|f| names(f, &steps));
            // What is refused as a whole shows no effect of its parts.
            let effective = !named && !with.refused && {
                let without = see(proxies, &write(example, &spec));
                without.refused || without.told != with.told
            };
            if named || effective {
                silent.remove(leaf.as_str());
            } else if let Some(why) = silent.get_mut(leaf.as_str()) {
                *why = "has neither effect nor finding";
            }
        }
    }
    let refused: Vec<String> = (examples.iter())
        .map(|example| see(proxies, &write(example, &example.spec)))
        .filter(|seen| seen.refused)
        .flat_map(|seen| seen.findings)
        .collect();
    assert!(
        silent.is_empty(),
        "{kind}: {silent:#?}; what was refused: {refused:#?}"
    );
}

/// Whether a finding is about a field or one that encloses it: it begins with the field's path.
fn names(finding: &str, steps: &[&str]) -> bool {
    let Some((path, _)) = finding.split_once(": ") else {
        return false;
    };
    let plain: String = {
        let mut depth = 0;
        path.chars()
            .filter(|c| {
                depth += i32::from(*c == '[');
                let keep = depth == 0;
                depth -= i32::from(*c == ']');
                keep
            })
            .collect()
    };
    let mut path = plain.split('.').skip(1).peekable();
    path.peek().is_some() && path.zip(steps.iter()).all(|(a, b)| a == *b || *b == "*")
}

#[test]
fn rows_without_effect_are_about_fields_that_exist() {
    use isthmus_api::istio::{DestinationRule, Gateway, ServiceEntry, Sidecar, VirtualService};
    let mut all: BTreeMap<Kind, BTreeSet<String>> = BTreeMap::new();
    all.insert(Kind::VirtualService, paths::leaves::<VirtualService>());
    all.insert(Kind::DestinationRule, paths::leaves::<DestinationRule>());
    all.insert(Kind::Gateway, paths::leaves::<Gateway>());
    all.insert(Kind::ServiceEntry, paths::leaves::<ServiceEntry>());
    all.insert(Kind::Sidecar, paths::leaves::<Sidecar>());
    all.insert(Kind::ConfigMap, paths::leaves::<isthmus_api::MeshConfig>());
    let networks = paths::leaves::<isthmus_api::MeshNetworks>();
    all.entry(Kind::ConfigMap).or_default().extend(networks);
    for row in WITHOUT_EFFECT {
        let known = all.get(&row.kind).is_some_and(|leaves| {
            leaves
                .iter()
                .any(|leaf| leaf == row.path || leaf.starts_with(&format!("{}.", row.path)))
        });
        assert!(known, "{} {}", row.kind, row.path);
    }
}
