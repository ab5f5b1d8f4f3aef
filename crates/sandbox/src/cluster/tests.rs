//! A cluster's controller against an engine that only remembers.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use isthmus_model::ClusterId;
use tokio::sync::watch;

use super::*;
use crate::network::ClusterAddresses;
use crate::plan::{ContainerStatus, PodKey, PodPlan, PodStatus, Program, VirtualAddress};

/// Pods are up at once, ready when `ready` says so.
struct Remembering {
    statuses: watch::Sender<Statuses>,
    plans: Mutex<Vec<PodPlan>>,
    addresses: Mutex<(Vec<VirtualAddress>, Vec<VirtualAddress>)>,
}

impl Remembering {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            statuses: watch::channel(Statuses::default()).0,
            plans: Mutex::default(),
            addresses: Mutex::default(),
        })
    }

    fn plan(&self, prefix: &str) -> PodPlan {
        let plans = self.plans.lock().unwrap();
        plans
            .iter()
            .find(|p| p.key.name.starts_with(prefix))
            .cloned()
            .unwrap()
    }
}

impl Engine for Remembering {
    fn start(&self, plan: PodPlan) -> EngineFuture<'_, Result<PodStatus, String>> {
        let mut plans = self.plans.lock().unwrap();
        plans.push(plan.clone());
        let status = PodStatus {
            key: plan.key.clone(),
            address: Ipv4Addr::new(10, 10, 0, u8::try_from(plans.len()).unwrap()),
            containers: BTreeMap::from([(
                "main".to_owned(),
                ContainerStatus {
                    ready: true,
                    ..ContainerStatus::default()
                },
            )]),
            terminating: false,
            finished: false,
        };
        self.statuses.send_modify(|s| {
            Arc::make_mut(s).insert(plan.key, status.clone());
        });
        Box::pin(async { Ok(status) })
    }

    fn stop(&self, key: PodKey, _grace: Duration) -> EngineFuture<'_, ()> {
        self.statuses.send_modify(|s| {
            Arc::make_mut(s).remove(&key);
        });
        Box::pin(async {})
    }

    fn statuses(&self) -> watch::Receiver<Statuses> {
        self.statuses.subscribe()
    }

    fn virtual_addresses(
        &self,
        _: &ClusterId,
        cluster_ips: &[VirtualAddress],
        load_balancers: &[VirtualAddress],
    ) -> Result<(), String> {
        *self.addresses.lock().unwrap() = (cluster_ips.to_vec(), load_balancers.to_vec());
        Ok(())
    }

    fn names(&self, _: &ClusterId, _: &BTreeMap<String, Vec<Ipv4Addr>>, _: &BTreeMap<String, Vec<Ipv4Addr>>) {
    }
}

const ECHO: &str = r"
apiVersion: v1
kind: Namespace
metadata: {name: echo, labels: {istio-injection: enabled}}
---
apiVersion: v1
kind: Service
metadata: {name: echo, namespace: echo}
spec:
  selector: {app: echo}
  ports: [{name: http, port: 80, targetPort: web}]
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: echo, namespace: echo}
spec:
  replicas: 2
  selector: {matchLabels: {app: echo}}
  template:
    metadata: {labels: {app: echo, version: v1}}
    spec:
      containers:
      - {name: istio-proxy, image: auto, env: [{name: ISTIO_DELTA_XDS, value: 'false'}, {name: TRUST_DOMAIN, value: own}]}
      - {name: echo, image: isthmus/samples:echo, ports: [{name: web, containerPort: 8080}]}
";

fn settings(dir: &Path) -> Arc<ClusterSettings> {
    let settings = ClusterSettings {
        id: "us".into(),
        network: "us-net".into(),
        mesh_id: "training-mesh".into(),
        trust_domain: "corp.local".parse().unwrap(),
        addresses: ClusterAddresses::at(0).unwrap(),
        dir: dir.to_owned(),
        peers: Vec::new(),
        workload_cert_ttl: None,
    };
    std::fs::create_dir_all(settings.cacerts_dir()).unwrap();
    std::fs::create_dir_all(settings.config_dir()).unwrap();
    std::fs::write(settings.root_cert(), "root").unwrap();
    Arc::new(settings)
}

async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    for _ in 0..400 {
        if holds() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    panic!("never: {what}");
}

fn state(settings: &ClusterSettings, file: &str) -> serde_json::Value {
    let text = std::fs::read(settings.state_dir().join(format!("{file}.json"))).unwrap_or_default();
    serde_json::from_slice(&text).unwrap_or_default()
}

#[tokio::test]
async fn a_deployment_becomes_pods_with_sidecars_addresses_and_endpoints() {
    let dir = tempfile::tempdir().unwrap();
    let settings = settings(dir.path());
    std::fs::write(settings.config_dir().join("echo.yaml"), ECHO).unwrap();
    let engine = Remembering::new();
    let controller =
        Controller::start(settings.clone(), Vec::new(), issuer().unwrap(), engine.clone()).unwrap();

    until("two endpoints", || {
        let slices = state(&settings, "endpointslices");
        slices["items"][0]["endpoints"]
            .as_array()
            .is_some_and(|e| e.len() == 2)
    })
    .await;
    let slice = &state(&settings, "endpointslices")["items"][0];
    assert_eq!(
        slice["ports"][0]["port"], 8080,
        "a named target port is the container's"
    );
    assert_eq!(slice["endpoints"][0]["conditions"]["ready"], true);
    let address = state(&settings, "services")["items"][0]["spec"]["clusterIP"].clone();
    assert_eq!(address, "10.10.128.20");
    assert_eq!(engine.addresses.lock().unwrap().0[0].ports[0].targets.len(), 2);

    let plan = engine.plan("echo-");
    assert_eq!(plan.containers.len(), 2, "one proxy, and the application");
    assert_eq!(plan.containers[0].name, "istio-proxy");
    let said = |name: &str| {
        let all = plan.containers[0].env.iter().filter(|(n, _)| n == name);
        all.map(|(_, value)| value.as_str()).collect::<Vec<_>>()
    };
    assert_eq!(said("ISTIO_DELTA_XDS"), ["false"], "what the pod says is added");
    assert_eq!(said("TRUST_DOMAIN"), ["own"], "and counts");
    assert_eq!(said("ISTIO_META_CLUSTER_ID"), ["us"], "beside the rest");
    assert!(plan.containers[0].order == crate::plan::Order::HoldsUntilReady);
    assert_eq!(
        plan.containers[1].program,
        Program::Isthmus(vec!["sample".into(), "echo".into()])
    );
    assert!(plan.capture.is_some());
    let pod = &state(&settings, "pods")["items"][0];
    assert_eq!(pod["metadata"]["labels"]["security.istio.io/tlsMode"], "istio");
    assert_eq!(pod["metadata"]["labels"]["topology.istio.io/network"], "us-net");

    let first = controller.pods()[0].0.key.clone();
    controller.remove(first.clone(), true).await;
    until("another pod in its place", || {
        let pods = controller.pods();
        pods.len() == 2
            && pods
                .iter()
                .all(|(record, status)| record.key != first && status.is_some())
    })
    .await;
}

#[tokio::test]
async fn a_broken_file_and_an_unknown_image_are_said_and_leave_the_rest() {
    let dir = tempfile::tempdir().unwrap();
    let settings = settings(dir.path());
    let file = settings.config_dir().join("echo.yaml");
    std::fs::write(&file, ECHO).unwrap();
    let engine = Remembering::new();
    let controller =
        Controller::start(settings.clone(), Vec::new(), issuer().unwrap(), engine.clone()).unwrap();
    until("two pods", || controller.pods().len() == 2).await;

    std::fs::write(&file, "kind: [").unwrap();
    controller.refresh().await;
    assert_eq!(controller.pods().len(), 2, "the last good objects stay");
    assert!(
        controller.findings()[0].contains("echo.yaml:"),
        "{:?}",
        controller.findings()
    );

    std::fs::write(&file, ECHO.replace("isthmus/samples:echo", "nginx")).unwrap();
    controller.refresh().await;
    let findings = controller.findings();
    assert!(
        findings[0].contains("echo.yaml:") && findings[0].contains("command"),
        "{findings:?}"
    );
}
