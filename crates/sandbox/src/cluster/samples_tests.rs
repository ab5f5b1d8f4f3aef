//! The samples that people start with: they have no findings, run as they are, and are spread as their
//! README says.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};

use isthmus_api::finding::Finding;
use isthmus_api::load::{load, load_all};
use isthmus_api::{Kind, Object};

use super::desired::{Desired, Inputs, desired};
use super::*;
use crate::apps;
use crate::network::ClusterAddresses;
use crate::plan::Program;

fn samples() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../samples")
}

fn settings(cluster: &str) -> ClusterSettings {
    ClusterSettings {
        id: cluster.into(),
        network: format!("{cluster}-net").into(),
        mesh_id: "training-mesh".to_owned(),
        trust_domain: "corp.local".parse().unwrap(),
        addresses: ClusterAddresses::at(0).unwrap(),
        dir: PathBuf::from("/nonexistent"),
        peers: Vec::new(),
        workload_cert_ttl: None,
    }
}

/// What a cluster runs of its own samples.
fn pods(cluster: &str) -> Vec<Desired> {
    let parsed = load(&samples().join("two-clusters").join(cluster));
    let inputs = Inputs {
        settings: &settings(cluster),
        objects: &parsed.objects,
        issuer: &issuer().unwrap(),
        root_cert: b"root",
        replacements: &HashMap::new(),
    };
    let (pods, unrunnable) = desired(&inputs);
    assert_eq!(unrunnable, [], "{cluster}");
    pods
}

/// Applications with their versions.
fn workloads(pods: &[Desired]) -> BTreeSet<String> {
    let name = |d: &Desired| {
        let label = |key| d.record.labels.value(key).unwrap_or_default();
        format!("{} {}", label("app"), label("version"))
            .trim_end()
            .to_owned()
    };
    pods.iter()
        .map(name)
        .filter(|n| !n.starts_with("istio-") && !n.starts_with("sleep"))
        .collect()
}

#[test]
fn nothing_is_to_be_found_about_them() {
    for cluster in ["us", "eu", "ap"] {
        let parsed = load(&samples().join("two-clusters").join(cluster));
        let findings: Vec<String> = parsed.findings.iter().map(ToString::to_string).collect();
        assert_eq!(findings, [""; 0], "{cluster}");
    }
    for scenario in std::fs::read_dir(samples().join("scenarios")).unwrap() {
        let path = scenario.unwrap().path();
        let parsed = load(&path);
        let findings: Vec<String> = parsed.findings.iter().map(ToString::to_string).collect();
        assert_eq!(
            (findings, parsed.objects.len()),
            (Vec::new(), 1),
            "{}",
            path.display()
        );
    }
}

#[test]
fn their_references_hold_in_each_cluster_and_in_all_together() {
    let of = |cluster: &str| samples().join("two-clusters").join(cluster);
    for paths in [
        vec![of("us")],
        vec![of("eu")],
        vec![of("ap")],
        vec![of("us"), of("eu"), of("ap")],
    ] {
        let mut findings = isthmus_api::analyze::analyze(&load_all(&paths).objects);
        // Two of echo's ports say no protocol on purpose.
        let on_purpose = |f: &Finding| f.code.id == "IST0118" && f.message.contains("undeclared");
        findings.retain(|f| !on_purpose(f));
        assert_eq!(
            findings.iter().map(ToString::to_string).collect::<Vec<_>>(),
            [""; 0]
        );
    }
}

#[test]
fn every_cluster_lacks_something_that_another_has() {
    let of = |cluster| workloads(&pods(cluster));
    let (us, eu, ap) = (of("us"), of("eu"), of("ap"));
    let set = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect::<BTreeSet<_>>();
    assert_eq!(
        us,
        set(&["productpage v1", "details v1", "reviews v1", "reviews v2"])
    );
    assert_eq!(
        eu,
        set(&[
            "productpage v1",
            "reviews v3",
            "ratings v1",
            "echo v1",
            "httpbin v1"
        ])
    );
    assert_eq!(ap, set(&["productpage v1", "details v1", "ratings v1"]));
}

#[test]
fn every_application_has_a_sidecar_and_a_program_that_exists() {
    for cluster in ["us", "eu", "ap"] {
        let mut proxies = BTreeMap::<&str, usize>::new();
        for pod in pods(cluster) {
            let (first, rest) = pod.plan.containers.split_first().unwrap();
            let Program::Isthmus(args) = &first.program else {
                panic!("{:?}", first.program)
            };
            assert_eq!(args[0], "proxy", "{}", pod.record.key);
            let kind = if args[1] == "router" { "router" } else { "sidecar" };
            *proxies.entry(kind).or_default() += 1;
            assert_eq!(rest.is_empty(), kind == "router", "{}", pod.record.key);
            for container in rest {
                let Program::Isthmus(args) = &container.program else {
                    panic!("{:?}", container.program)
                };
                assert_eq!(args[0], "sample");
                assert!(apps::NAMES.contains(&args[1].as_str()), "{args:?}");
                let cluster_said = container.env.iter().find(|(name, _)| name == "CLUSTER");
                assert_eq!(cluster_said.map(|(_, value)| value.as_str()), Some(cluster));
            }
        }
        assert_eq!(
            proxies["router"], 3,
            "two ingress gateways and the east-west gateway"
        );
    }
}

#[test]
fn clusters_agree_on_what_they_share_and_gateways_have_names_of_their_own() {
    let services = |cluster: &str| -> Vec<std::sync::Arc<Object>> {
        let parsed = load(&samples().join("two-clusters").join(cluster));
        parsed
            .objects
            .iter()
            .filter(|o| o.kind == Kind::Service)
            .cloned()
            .collect()
    };
    let mut names = BTreeSet::new();
    let mut gateways = 0;
    for cluster in ["us", "eu", "ap"] {
        for service in services(cluster) {
            if let Some(name) = service
                .meta
                .annotations
                .get("external-dns.alpha.kubernetes.io/hostname")
            {
                gateways += 1;
                assert!(name.ends_with(&format!(".{cluster}.example.net")), "{name}");
                names.insert(name.clone());
            }
        }
    }
    assert_eq!((gateways, names.len()), (9, 9));
    // The addresses that us's ServiceEntries name are names of eu's gateways.
    let entries = std::fs::read_to_string(samples().join("two-clusters/us/service-entries.yaml")).unwrap();
    let addresses: Vec<_> = entries
        .lines()
        .filter_map(|l| l.trim().strip_prefix("- address: "))
        .collect();
    assert_eq!(addresses, ["eastwest.eu.example.net", "ingress.eu.example.net"]);
    assert!(addresses.iter().all(|a| names.contains(*a)));
}
