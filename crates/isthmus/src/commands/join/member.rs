//! What a cluster says of itself: the installation, its roots, its gateways.

use std::collections::BTreeSet;

use anyhow::Context;
use isthmus_kube::Cluster;
use isthmus_kube::apply::Applier;
use isthmus_manifests::yaml;
use isthmus_pki::Roots;
use serde_json::{Value, json};

/// Port of mesh traffic from other networks.
const PASSTHROUGH: u16 = 15443;
/// Label of a network's gateways.
const NETWORK: &str = "topology.istio.io/network";
/// Label by which a gateway says another port.
const GATEWAY_PORT: &str = "networking.istio.io/gatewayPort";

/// A cluster that is to be joined.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Member {
    /// Context of the kubeconfig.
    pub context: String,
    /// Whether a control plane is installed.
    pub installed: bool,
    /// Pods of the control plane that are ready.
    pub ready: Vec<String>,
    /// Tag of its image.
    pub version: String,
    /// What it calls itself.
    pub cluster: String,
    /// Network of its workloads.
    pub network: String,
    /// Mesh.
    pub mesh: String,
    /// Root of its identities.
    pub trust_domain: String,
    /// SHA-256 fingerprints of the roots that its workloads trust.
    pub roots: BTreeSet<String>,
    /// Whether an authority was given to it (Secret `cacerts`).
    pub given_authority: bool,
    /// `HOST:PORT` of its gateways for other networks.
    pub gateways: Vec<String>,
    /// Gateways that have no address, and why.
    pub without_address: Vec<String>,
}

fn of(kind: &str, api_version: &str, namespace: &str, name: &str) -> Value {
    json!({"apiVersion": api_version, "kind": kind, "metadata": {"name": name, "namespace": namespace}})
}

impl Member {
    /// Reads it from the cluster.
    pub async fn read(applier: &Applier, context: &str, namespace: &str) -> anyhow::Result<Self> {
        let mut member = Self {
            context: context.to_owned(),
            ..Self::default()
        };
        let deployment = applier
            .get(&of("Deployment", "apps/v1", namespace, "istiod"))
            .await?;
        let Some(deployment) = deployment else {
            return Ok(member);
        };
        member.installed = true;
        let image = deployment["spec"]["template"]["spec"]["containers"][0]["image"].as_str();
        member.version = tag(image.unwrap_or_default()).to_owned();
        member.ready = ready_pods(applier.cluster(), namespace).await?;

        let injector = of("ConfigMap", "v1", namespace, "istio-sidecar-injector");
        if let Some(map) = applier.get(&injector).await? {
            let values: Value = serde_json::from_str(map["data"]["values"].as_str().unwrap_or("{}"))
                .with_context(|| {
                    format!("{context}: ConfigMap {namespace}/istio-sidecar-injector, key values")
                })?;
            let global = |path: &str| {
                let value = values["global"].pointer(path).and_then(Value::as_str);
                value.unwrap_or_default().to_owned()
            };
            member.cluster = global("/multiCluster/clusterName");
            member.network = global("/network");
            member.mesh = global("/meshID");
            member.trust_domain = global("/trustDomain");
        }
        if let Some(map) = applier.get(&of("ConfigMap", "v1", namespace, "istio")).await? {
            let mesh = yaml::read(map["data"]["mesh"].as_str().unwrap_or_default()).ok();
            let said = mesh.and_then(|all| {
                let first = all.into_iter().next()?;
                first.get("trustDomain")?.as_str().map(str::to_owned)
            });
            if let Some(domain) = said {
                member.trust_domain = domain;
            }
        }
        if let Some(map) = applier
            .get(&of("ConfigMap", "v1", namespace, "istio-ca-root-cert"))
            .await?
        {
            let pem = map["data"]["root-cert.pem"].as_str().unwrap_or_default();
            let roots = Roots::from_pem(pem.as_bytes())
                .with_context(|| format!("{context}: ConfigMap {namespace}/istio-ca-root-cert"))?;
            member.roots = roots.fingerprints().iter().map(ToString::to_string).collect();
        }
        member.given_authority = applier
            .get(&of("Secret", "v1", namespace, "cacerts"))
            .await?
            .is_some();
        let services = applier.cluster().labelled("/api/v1/services", NETWORK).await?;
        for service in services {
            member.add_gateway(&service);
        }
        Ok(member)
    }

    fn add_gateway(&mut self, service: &Value) {
        let labels = &service["metadata"]["labels"];
        if !self.network.is_empty() && labels[NETWORK].as_str() != Some(&self.network) {
            return;
        }
        let name = format!(
            "{}/{}",
            service["metadata"]["namespace"].as_str().unwrap_or_default(),
            service["metadata"]["name"].as_str().unwrap_or_default()
        );
        let port = labels[GATEWAY_PORT]
            .as_str()
            .and_then(|p| p.parse().ok())
            .unwrap_or(PASSTHROUGH);
        let ports = service["spec"]["ports"].as_array().into_iter().flatten();
        if !ports.clone().any(|p| p["port"].as_u64() == Some(u64::from(port))) {
            self.without_address
                .push(format!("Service {name} has no port {port}"));
            return;
        }
        let ingress = service["status"]["loadBalancer"]["ingress"]
            .as_array()
            .into_iter()
            .flatten();
        let external = service["spec"]["externalIPs"].as_array().into_iter().flatten();
        let addresses: Vec<String> = ingress
            .filter_map(|i| i["ip"].as_str().or_else(|| i["hostname"].as_str()))
            .chain(external.filter_map(Value::as_str))
            .map(|address| match address.contains(':') {
                true => format!("[{address}]:{port}"),
                false => format!("{address}:{port}"),
            })
            .collect();
        if addresses.is_empty() {
            let kind = service["spec"]["type"].as_str().unwrap_or("ClusterIP");
            self.without_address.push(format!(
                "Service {name} ({kind}) has no address that others can reach"
            ));
        }
        self.gateways.extend(addresses);
    }
}

/// `1.2.3` of `registry/isthmus:1.2.3`.
fn tag(image: &str) -> &str {
    let last = image.rsplit('/').next().unwrap_or_default();
    last.split_once('@')
        .map_or(last, |(name, _)| name)
        .split_once(':')
        .map_or("", |(_, tag)| tag)
}

/// Names of the control plane's pods that are ready.
pub async fn ready_pods(cluster: &Cluster, namespace: &str) -> anyhow::Result<Vec<String>> {
    let pods = cluster
        .labelled(&format!("/api/v1/namespaces/{namespace}/pods"), "app=istiod")
        .await?;
    let ready = |pod: &&Value| {
        let conditions = pod["status"]["conditions"].as_array().into_iter().flatten();
        pod["metadata"]["deletionTimestamp"].is_null()
            && conditions
                .clone()
                .any(|c| c["type"] == "Ready" && c["status"] == "True")
    };
    let names = pods
        .iter()
        .filter(ready)
        .filter_map(|p| p["metadata"]["name"].as_str());
    Ok(names.map(str::to_owned).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gateways_are_told_by_their_label_port_and_address() {
        let mut member = Member {
            network: "eu-net".into(),
            ..Member::default()
        };
        let service = |name: &str, network: &str, port: u16, status: Value| {
            json!({
                "metadata": {"name": name, "namespace": "istio-system", "labels": {NETWORK: network}},
                "spec": {"type": "LoadBalancer", "ports": [{"port": port}]},
                "status": {"loadBalancer": status},
            })
        };
        let at = |ip: &str| json!({"ingress": [{"ip": ip}]});
        member.add_gateway(&service("a", "eu-net", 15443, at("203.0.113.7")));
        member.add_gateway(&service(
            "b",
            "eu-net",
            15443,
            json!({"ingress": [{"hostname": "lb.example.com"}]}),
        ));
        member.add_gateway(&service("c", "eu-net", 15443, at("2001:db8::1")));
        member.add_gateway(&service("other", "us-net", 15443, at("203.0.113.9")));
        member.add_gateway(&service("closed", "eu-net", 443, at("203.0.113.8")));
        member.add_gateway(&service("waits", "eu-net", 15443, json!({})));
        assert_eq!(
            member.gateways,
            ["203.0.113.7:15443", "lb.example.com:15443", "[2001:db8::1]:15443"]
        );
        assert_eq!(
            member.without_address,
            [
                "Service istio-system/closed has no port 15443",
                "Service istio-system/waits (LoadBalancer) has no address that others can reach"
            ]
        );
    }

    #[test]
    fn the_version_is_the_images_tag() {
        assert_eq!(tag("ghcr.io/isthmus-mesh/isthmus:0.1.0"), "0.1.0");
        assert_eq!(tag("localhost:5000/isthmus"), "");
        assert_eq!(tag("isthmus:2@sha256:abc"), "2");
    }
}
