//! Nodes: registered with the region and zone of their cluster, kept alive by leases and by their status.

use std::time::Duration;

use isthmus_model::Locality;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, Patch, PatchParams};
use kube::{Client, ResourceExt};
use serde_json::{Value, json};

use crate::cluster::ClusterSettings;

/// The namespace of nodes' leases, which every API server has.
const LEASES: &str = "kube-node-lease";
/// How often a node says that it lives (the kubelet's).
const HEARTBEAT: Duration = Duration::from_secs(10);
/// How long a node that is silent counts as alive.
const LEASE_SECONDS: i32 = 40;
/// How many heartbeats pass between two writes of the whole status.
const STATUS_EVERY: u32 = 6;
/// Whose fields these are.
const MANAGER: &str = "kubelet";

/// A node of a cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct NodeFacts {
    /// `us-node-1`.
    pub(super) name: String,
    /// Region and zone.
    pub(super) locality: Locality,
    /// Its address in the cluster's network.
    pub(super) address: std::net::Ipv4Addr,
    /// Its address on the internet.
    pub(super) public: std::net::Ipv4Addr,
}

/// The nodes of a cluster: one in each of two zones of the region that is called as the cluster is. They
/// share the router's address, since a pod of either hangs on a wire of its own to it.
pub(super) fn nodes(settings: &ClusterSettings) -> Vec<NodeFacts> {
    let region = settings.id.to_string();
    ["a", "b"]
        .iter()
        .enumerate()
        .map(|(i, zone)| NodeFacts {
            name: format!("{region}-node-{}", i + 1),
            locality: Locality {
                region: region.clone(),
                zone: format!("{region}-{zone}"),
                subzone: String::new(),
            },
            address: settings.addresses.gateway,
            public: settings.addresses.public_router,
        })
        .collect()
}

/// Registers a node and keeps it alive for as long as the future lives.
pub(super) async fn keep(client: Client, node: NodeFacts, version: String) {
    let mut beats = 0_u32;
    let mut since = None;
    loop {
        match beat(
            &client,
            &node,
            &version,
            beats.is_multiple_of(STATUS_EVERY),
            &mut since,
        )
        .await
        {
            Ok(()) => {
                beats = beats.wrapping_add(1);
                tokio::time::sleep(HEARTBEAT).await;
            }
            Err(error) => {
                tracing::warn!(node = node.name, %error, "its heartbeat was not taken");
                // The next that is taken tells everything.
                beats = 0;
                tokio::time::sleep(Duration::from_millis(500)).await;
            }
        }
    }
}

async fn beat(
    client: &Client,
    node: &NodeFacts,
    version: &str,
    whole: bool,
    since: &mut Option<String>,
) -> kube::Result<()> {
    let apply = PatchParams::apply(MANAGER).force();
    let nodes: Api<Node> = Api::all(client.clone());
    let now = Timestamp::now();
    if whole {
        let registered = nodes
            .patch(&node.name, &apply, &Patch::Apply(registration(node)))
            .await?;
        let since = since.get_or_insert_with(|| {
            registered
                .creation_timestamp()
                .map_or_else(|| seconds(now), |t| seconds(t.0))
        });
        let status = status(node, version, since, &seconds(now));
        nodes
            .patch_status(&node.name, &PatchParams::default(), &Patch::Merge(status))
            .await?;
    }
    let leases: Api<Lease> = Api::namespaced(client.clone(), LEASES);
    let lease = json!({
        "apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": node.name},
        "spec": {
            "holderIdentity": node.name, "leaseDurationSeconds": LEASE_SECONDS,
            "renewTime": format!("{now:.6}"),
        },
    });
    leases.patch(&node.name, &apply, &Patch::Apply(lease)).await?;
    Ok(())
}

/// RFC 3339 without fractions, as `metav1.Time` has it.
pub(super) fn seconds(time: Timestamp) -> String {
    format!("{time:.0}")
}

fn registration(node: &NodeFacts) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": {"name": node.name, "labels": {
            "kubernetes.io/hostname": node.name,
            "kubernetes.io/os": "linux",
            "kubernetes.io/arch": if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" },
            "topology.kubernetes.io/region": node.locality.region,
            "topology.kubernetes.io/zone": node.locality.zone,
        }},
    })
}

fn kernel() -> String {
    let name = nix::sys::utsname::uname();
    name.map(|n| n.release().to_string_lossy().into_owned())
        .unwrap_or_default()
}

fn status(node: &NodeFacts, version: &str, since: &str, now: &str) -> Value {
    // A machine of a size that fits the samples; nothing in the sandbox is limited by it.
    let resources = json!({"cpu": "64", "memory": "256Gi", "ephemeral-storage": "100Gi", "pods": "500"});
    let condition = |kind: &str, status: &str, reason: &str, message: &str| {
        json!({
            "type": kind, "status": status, "reason": reason, "message": message,
            "lastHeartbeatTime": now, "lastTransitionTime": since,
        })
    };
    json!({"status": {
        "capacity": resources, "allocatable": resources,
        "addresses": [
            {"type": "InternalIP", "address": node.address},
            {"type": "ExternalIP", "address": node.public},
            {"type": "Hostname", "address": node.name},
        ],
                "conditions": [
            condition("MemoryPressure", "False", "KubeletHasSufficientMemory", "kubelet has sufficient memory available"),
            condition("DiskPressure", "False", "KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
            condition("PIDPressure", "False", "KubeletHasSufficientPID", "kubelet has sufficient PID available"),
            condition("Ready", "True", "KubeletReady", "the sandbox runs pods"),
        ],
        "nodeInfo": {
            "machineID": node.name, "systemUUID": node.name, "bootID": since,
            "kernelVersion": kernel(), "osImage": "Isthmus sandbox", "operatingSystem": "linux",
            "architecture": if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" },
            "containerRuntimeVersion": "isthmus://sandbox", "kubeletVersion": version, "kubeProxyVersion": "",
        },
    }})
}
