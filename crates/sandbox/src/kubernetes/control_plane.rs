//! The machine that a cluster's own control plane runs on: etcd, API server, controller manager and
//! scheduler, each started again when it ends. To the sandbox it is a pod; Kubernetes does not know of it.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::assets::Programs;
use super::certificates::Certificates;
use crate::cluster::{ClusterSettings, ISSUER};
use crate::network::INTERNET_DNS;
use crate::plan::{Check, ContainerPlan, DnsPlan, Order, PodKey, PodPlan, Probe, Program};

/// Port of the API server.
pub(super) const API_PORT: u16 = 6443;
/// Name and namespace of the machine among the sandbox's pods.
pub(super) const NAME: &str = "control-plane";
pub(super) const NAMESPACE: &str = "machine";

/// The machine's name in a cluster.
pub(super) fn key(settings: &ClusterSettings) -> PodKey {
    PodKey {
        cluster: settings.id.clone(),
        namespace: NAMESPACE.to_owned(),
        name: NAME.to_owned(),
    }
}

/// What runs on the machine. `dir` is where etcd keeps its data, and the kubeconfig of the controllers lies.
pub(super) fn plan(
    settings: &ClusterSettings,
    programs: &Programs,
    certificates: &Certificates,
    dir: &Path,
    address: Ipv4Addr,
) -> PodPlan {
    let pki = |name: &str| certificates.file(name).display().to_string();
    let kubeconfig = kubeconfig(dir).display().to_string();
    let etcd = [
        "--name=sandbox".to_owned(),
        format!("--data-dir={}", dir.join("etcd").display()),
        "--listen-client-urls=http://127.0.0.1:2379".to_owned(),
        "--advertise-client-urls=http://127.0.0.1:2379".to_owned(),
        "--listen-peer-urls=http://127.0.0.1:2380".to_owned(),
        "--initial-advertise-peer-urls=http://127.0.0.1:2380".to_owned(),
        "--initial-cluster=sandbox=http://127.0.0.1:2380".to_owned(),
        // What a crash of this machine would lose goes with the sandbox in any case; a killed etcd loses nothing.
        "--unsafe-no-fsync=true".to_owned(),
        "--log-level=warn".to_owned(),
    ];
    let api_server = [
        "--etcd-servers=http://127.0.0.1:2379".to_owned(),
        format!("--advertise-address={address}"),
        format!("--secure-port={API_PORT}"),
        format!("--tls-cert-file={}", pki("apiserver.crt")),
        format!("--tls-private-key-file={}", pki("apiserver.key")),
        format!("--client-ca-file={}", pki("ca.crt")),
        format!("--service-account-key-file={}", pki("sa.pub")),
        format!("--service-account-signing-key-file={}", pki("sa.key")),
        format!("--service-account-issuer={ISSUER}"),
        format!("--service-cluster-ip-range={}", settings.addresses.services),
        "--authorization-mode=RBAC".to_owned(),
        // Webhooks are called at the addresses of their pods, as from a machine without kube-proxy.
        "--enable-aggregator-routing=true".to_owned(),
        "--allow-privileged=true".to_owned(),
        "--profiling=false".to_owned(),
    ];
    let controllers = [
        format!("--kubeconfig={kubeconfig}"),
        "--leader-elect=false".to_owned(),
        "--bind-address=127.0.0.1".to_owned(),
        format!("--root-ca-file={}", pki("ca.crt")),
        format!("--service-account-private-key-file={}", pki("sa.key")),
        format!("--cluster-signing-cert-file={}", pki("ca.crt")),
        format!("--cluster-signing-key-file={}", pki("ca.key")),
        "--kube-api-qps=300".to_owned(),
        "--kube-api-burst=600".to_owned(),
        "--profiling=false".to_owned(),
    ];
    let scheduler = [
        format!("--kubeconfig={kubeconfig}"),
        "--leader-elect=false".to_owned(),
        "--bind-address=127.0.0.1".to_owned(),
        "--kube-api-qps=300".to_owned(),
        "--kube-api-burst=600".to_owned(),
        "--profiling=false".to_owned(),
    ];
    let containers = [
        ("etcd", etcd.to_vec(), 2379, Order::HoldsUntilReady),
        (
            "kube-apiserver",
            api_server.to_vec(),
            API_PORT,
            Order::HoldsUntilReady,
        ),
        (
            "kube-controller-manager",
            controllers.to_vec(),
            10257,
            Order::Beside,
        ),
        ("kube-scheduler", scheduler.to_vec(), 10259, Order::Beside),
    ];
    PodPlan {
        key: key(settings),
        dns: DnsPlan {
            nameserver: INTERNET_DNS.into(),
            search: Vec::new(),
            ndots: 1,
        },
        files: BTreeMap::new(),
        volumes: Vec::new(),
        containers: containers
            .into_iter()
            .map(|(name, arguments, port, order)| {
                let program = programs.path(name).display().to_string();
                let argv = std::iter::once(program).chain(arguments).collect();
                ContainerPlan {
                    order,
                    // Less memory for more work of the collector: several clusters share a small machine.
                    env: vec![("GOGC".to_owned(), "50".to_owned())],
                    readiness: Some(Probe {
                        check: listens(name, port),
                        period: Duration::from_secs(1),
                        timeout: Duration::from_secs(1),
                        initial_delay: Duration::ZERO,
                        failures: 3,
                        successes: 1,
                        from_node: false,
                    }),
                    ..ContainerPlan::new(name, Program::Host(argv))
                }
            })
            .collect(),
        capture: None,
        grace: Duration::from_secs(3),
    }
}

/// Kubeconfig of what runs on the machine.
pub(super) fn kubeconfig(dir: &Path) -> PathBuf {
    dir.join("machine.kubeconfig")
}

/// The controllers listen on loopback alone, where a probe to the machine's address does not come.
fn listens(name: &str, port: u16) -> Check {
    match name {
        "kube-apiserver" => Check::Tcp { port },
        _ => Check::Loopback { port },
    }
}
