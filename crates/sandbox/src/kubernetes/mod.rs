//! Clusters with a control plane of Kubernetes itself: etcd, API server, controller manager, scheduler and
//! CoreDNS are the real ones. The sandbox stands in for what needs machines: the kubelet, kube-proxy and the
//! cloud's load balancer.
//!
//! ```text
//!   assets ─▶ control_plane (a pod of the sandbox: etcd, kube-apiserver, controllers, scheduler)
//!                 ▲ watches, statuses                        ▲ 127.0.0.1:PORT, kubeconfig
//!                 ├─ node      registration, leases          └─ kubectl, helm, isthmus install
//!                 ├─ kubelet   Pods ─▶ PodPlan ─▶ pods ─▶ status, Events
//!                 ├─ services  Services, EndpointSlices ─▶ VirtualAddress; LoadBalancer addresses
//!                 └─ dns       CoreDNS as a Deployment
//! ```
//!
//! Nothing of the mesh is here: it is installed by the commands that a user types.

mod assets;
mod certificates;
mod control_plane;
mod dns;
mod kubeconfig;
mod kubelet;
mod node;
mod services;

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use isthmus_kube::Credentials;
use isthmus_model::Labels;
use k8s_openapi::api::core::v1::{Pod, ServiceAccount};
use kube::api::{Api, DeleteParams};
use kube::{Client, ResourceExt};
use tokio::sync::watch;
use tokio::task::JoinHandle;

pub use assets::Programs;

use crate::cluster::{ClusterSettings, Engine, PodRecord, write_whole};
use crate::network::Network;
use crate::plan::{PodKey, PodStatus};
use crate::pod::Pods;
use crate::{Error, Result};
use certificates::Certificates;
use kubeconfig::{Context, kubeconfig};
use kubelet::Kubelet;
use node::NodeFacts;
use services::{Published, Services};

/// The file in the sandbox's directory with a context for each cluster.
pub const KUBECONFIG: &str = "kubeconfig";
/// How often a condition of the start is looked at.
const LOOK: Duration = Duration::from_millis(100);

/// What clusters run on.
#[derive(Clone)]
pub struct Host {
    /// Pods of the sandbox.
    pub pods: Pods,
    /// Their networks.
    pub network: Network,
    /// The same, and names, as clusters' controllers use them.
    pub engine: Arc<dyn Engine>,
}

impl std::fmt::Debug for Host {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Host").finish_non_exhaustive()
    }
}

/// A running cluster. Its tasks end with it.
pub struct Cluster {
    settings: Arc<ClusterSettings>,
    host: Host,
    client: Client,
    certificates: Certificates,
    nodes: Vec<NodeFacts>,
    known: watch::Receiver<BTreeMap<String, Arc<Pod>>>,
    published: Published,
    tasks: Vec<JoinHandle<()>>,
}

impl std::fmt::Debug for Cluster {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cluster")
            .field("id", &self.settings.id)
            .finish_non_exhaustive()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

impl Cluster {
    /// Starts a cluster and waits until its API server answers and its nodes are registered.
    ///
    /// # Errors
    /// Its control plane does not come up within `patience`, or the machine refuses.
    pub async fn start(
        settings: Arc<ClusterSettings>,
        programs: Programs,
        host: Host,
        patience: Duration,
    ) -> Result<Self> {
        let until = Instant::now() + patience;
        let dir = settings.dir.join("kubernetes");
        std::fs::create_dir_all(&dir).map_err(Error::io(format!("create {}", dir.display())))?;
        let failed = |reason: String| Error::ApiServer {
            cluster: settings.id.clone(),
            reason,
            logs: settings.dir.join("logs"),
        };
        // The first pod of a cluster, and therefore known before it is there.
        let machine = Ipv4Addr::from(u32::from(settings.addresses.gateway) + 1);
        let public = services::public_api_server(&settings)
            .ok_or_else(|| failed("no public address is left for it".to_owned()))?;
        let certificates = Certificates::create(&dir.join("pki"), &settings, &[machine, public])?;
        let write = |path: PathBuf, server: SocketAddr| {
            let context = Context {
                name: settings.id.as_str(),
                server: server.to_string(),
                certificates: &certificates,
            };
            write_kubeconfig(&path, &[context]).map(|()| path)
        };
        let loopback = SocketAddr::from((Ipv4Addr::LOCALHOST, control_plane::API_PORT));
        write(control_plane::kubeconfig(&dir), loopback)?;
        let public_file = write(
            dir.join("public.kubeconfig"),
            SocketAddr::from((public, control_plane::API_PORT)),
        )?;

        let plan = control_plane::plan(&settings, &programs, &certificates, &dir, machine);
        let started = host.engine.start(plan).await.map_err(failed)?;
        if started.address != machine {
            return Err(failed(format!(
                "its machine has the address {} in the place of {machine}",
                started.address
            )));
        }
        let reachable: Vec<_> = services::api_server_address(&settings, machine)
            .into_iter()
            .collect();
        host.engine
            .virtual_addresses(&settings.id, &[], &reachable)
            .map_err(failed)?;

        let credentials = Credentials::Context {
            kubeconfig: Some(public_file),
            context: None,
        };
        let connected = isthmus_kube::Cluster::connect(&credentials).await;
        let client = connected.map_err(|e| failed(e.to_string()))?.client().clone();
        let version = wait_for_api(&client, until).await.map_err(failed)?;
        tracing::info!(cluster = %settings.id, version, "the API server answers");

        let nodes = node::nodes(&settings);
        let mut tasks = Vec::new();
        for node in &nodes {
            tasks.push(tokio::spawn(node::keep(
                client.clone(),
                node.clone(),
                version.clone(),
            )));
        }
        let kubelet = Kubelet::new(
            client.clone(),
            settings.clone(),
            programs,
            host.engine.clone(),
            host.pods.clone(),
            &nodes,
        );
        let known = kubelet.known();
        tasks.push(tokio::spawn(kubelet.run()));
        let published = Published::default();
        let services = Services {
            client: client.clone(),
            settings: settings.clone(),
            engine: host.engine.clone(),
            published: published.clone(),
            api_server: machine,
        };
        tasks.push(tokio::spawn(services.run()));
        let cluster = Self {
            settings,
            host,
            client,
            certificates,
            nodes,
            known,
            published,
            tasks,
        };
        cluster.settle(until).await?;
        Ok(cluster)
    }

    /// Installs the DNS and waits until it answers.
    async fn settle(&self, until: Instant) -> Result<()> {
        let failed = |reason: String| Error::ApiServer {
            cluster: self.settings.id.clone(),
            reason,
            logs: self.settings.dir.join("logs"),
        };
        loop {
            match dns::install(&self.client, &self.settings).await {
                Ok(()) => break,
                // Namespaces and ranges of addresses are made by the API server in its first seconds.
                Err(e) if Instant::now() > until => return Err(failed(format!("install CoreDNS: {e}"))),
                Err(_) => tokio::time::sleep(LOOK).await,
            }
        }
        loop {
            let accounts: Api<ServiceAccount> = Api::namespaced(self.client.clone(), "default");
            let account = matches!(accounts.get_opt("default").await, Ok(Some(_)));
            let dns = self
                .pods()
                .iter()
                .any(|(r, s)| r.owner == "coredns" && s.as_ref().is_some_and(PodStatus::ready));
            if account && dns {
                return Ok(());
            }
            if Instant::now() > until {
                let missing = if account {
                    "CoreDNS is"
                } else {
                    "its controllers are"
                };
                return Err(failed(format!("{missing} not ready")));
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// The cluster.
    pub fn settings(&self) -> &ClusterSettings {
        &self.settings
    }

    /// Where the API server is reached in the sandbox's internet.
    pub fn api_server(&self) -> Option<SocketAddr> {
        services::public_api_server(&self.settings).map(|a| SocketAddr::from((a, control_plane::API_PORT)))
    }

    /// Pods that exist, the machine of the control plane among them, with their status once they have one.
    pub fn pods(&self) -> Vec<(PodRecord, Option<PodStatus>)> {
        let statuses = self.host.pods.statuses().borrow().clone();
        let machine = control_plane::key(&self.settings);
        let own = statuses
            .get(&machine)
            .map(|status| (bare(&machine), Some(status.clone())));
        let known = self.known.borrow();
        let bound = known.values().map(|pod| {
            let record = self.record(pod);
            let status = statuses.get(&record.key).cloned();
            (record, status)
        });
        let mut pods: Vec<_> = own.into_iter().chain(bound).collect();
        pods.sort_by(|(a, _), (b, _)| a.key.cmp(&b.key));
        pods
    }

    /// Public address and ports of each Service of type LoadBalancer (`NAMESPACE/NAME`).
    pub fn published(&self) -> BTreeMap<String, (Ipv4Addr, Vec<u16>)> {
        self.published
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Deletes a pod; what owns it makes another.
    ///
    /// # Errors
    /// The API server refuses.
    pub async fn remove(&self, key: &PodKey) -> std::result::Result<(), String> {
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), &key.namespace);
        pods.delete(&key.name, &DeleteParams::default())
            .await
            .map(drop)
            .map_err(|e| e.to_string())
    }

    fn record(&self, pod: &Pod) -> PodRecord {
        let spec = pod.spec.as_ref();
        let node = spec.and_then(|s| s.node_name.clone()).unwrap_or_default();
        let locality = self.nodes.iter().find(|n| n.name == node);
        PodRecord {
            key: PodKey {
                cluster: self.settings.id.clone(),
                namespace: pod.namespace().unwrap_or_default(),
                name: pod.name_any(),
            },
            uid: pod.uid().unwrap_or_default(),
            labels: Labels(pod.labels().clone()),
            annotations: pod.annotations().clone(),
            service_account: spec
                .and_then(|s| s.service_account_name.clone())
                .unwrap_or_default(),
            owner: owner(pod),
            locality: locality.map(|n| n.locality.clone()).unwrap_or_default(),
            node,
            ports: Vec::new(),
        }
    }
}

/// What the sandbox runs and Kubernetes does not know of.
fn bare(key: &PodKey) -> PodRecord {
    PodRecord {
        key: key.clone(),
        uid: String::new(),
        labels: Labels::default(),
        annotations: BTreeMap::new(),
        service_account: String::new(),
        owner: String::new(),
        node: String::new(),
        locality: Default::default(),
        ports: Vec::new(),
    }
}

/// The Deployment of a pod, by the hash that its ReplicaSet's name ends with, or whatever else owns it.
fn owner(pod: &Pod) -> String {
    let Some(owner) = pod.owner_references().iter().find(|o| o.controller == Some(true)) else {
        return String::new();
    };
    let hash = pod.labels().get("pod-template-hash");
    let deployment = hash.and_then(|h| owner.name.strip_suffix(h.as_str())?.strip_suffix('-'));
    deployment.unwrap_or(&owner.name).to_owned()
}

/// Waits for the API server; its version.
async fn wait_for_api(client: &Client, until: Instant) -> std::result::Result<String, String> {
    loop {
        let ready = async {
            let request = http::Request::get("/readyz")
                .body(Vec::new())
                .map_err(|e| e.to_string())?;
            let said = client.request_text(request).await.map_err(|e| e.to_string())?;
            if said.trim() != "ok" {
                return Err(said);
            }
            let version = client.apiserver_version().await.map_err(|e| e.to_string())?;
            Ok(version.git_version)
        };
        match ready.await {
            Ok(version) => return Ok(version),
            Err(why) if Instant::now() > until => return Err(format!("it is not ready: {why}")),
            Err(_) => tokio::time::sleep(LOOK).await,
        }
    }
}

fn write_kubeconfig(path: &Path, contexts: &[Context<'_>]) -> Result<()> {
    let written = || Error::io(format!("write {}", path.display()));
    let text = serde_json::to_vec_pretty(&kubeconfig(contexts))
        .map_err(std::io::Error::from)
        .map_err(written())?;
    write_whole(path, &text).map_err(written())
}

/// Writes the kubeconfig for the machine outside: a context for each cluster, at its listener there.
///
/// # Errors
/// The file system refuses.
pub fn publish_kubeconfig<'a>(
    dir: &Path,
    clusters: impl Iterator<Item = (&'a Cluster, SocketAddr)>,
) -> Result<PathBuf> {
    let contexts: Vec<_> = clusters
        .map(|(cluster, at)| Context {
            name: cluster.settings.id.as_str(),
            server: at.to_string(),
            certificates: &cluster.certificates,
        })
        .collect();
    let path = dir.join(KUBECONFIG);
    write_kubeconfig(&path, &contexts)?;
    Ok(path)
}
