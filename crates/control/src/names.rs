//! DNS for pods without a sidecar: the cluster's DNS server sends the mesh's names here as stub domains
//! (`global`, the hosts of ServiceEntries), through Service `istiocoredns`.
//!
//! The answers are those that a gateway of the root namespace would get from its name table. Nothing is
//! forwarded: who asks here is the server that knows everything else.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use arc_swap::ArcSwapOption;
use isthmus_dns::table::{Entry, NameTable};
use isthmus_dns::{DnsMetrics, MeshNames, Scope, Server};
use isthmus_model::{ClusterId, Labels, Locality, NetworkId};
use isthmus_runtime::bind::{self, BindError};
use isthmus_runtime::metrics::Metrics;

use crate::generate::context::Context;
use crate::generate::name_table;
use crate::proxy::{ProxyDescription, ProxyKind};
use crate::push::ControlPlane;
use crate::snapshot::Snapshot;

/// Sockets for the mesh's names, taken and not yet served.
#[derive(Debug)]
pub struct Names {
    server: Server,
    namespace: String,
}

impl Names {
    /// Takes UDP and TCP at `address`. `namespace` is the root namespace: what is exported to it is answered.
    ///
    /// # Errors
    /// A port is taken.
    pub fn bind(address: SocketAddr, namespace: &str, metrics: &Metrics) -> Result<Self, BindError> {
        const PURPOSE: &str = "DNS for pods without sidecars";
        let udp = bind::udp(address, PURPOSE)?;
        let tcp = bind::tcp(address, PURPOSE)?;
        Ok(Self {
            server: Server::on(vec![udp], vec![tcp], DnsMetrics::register(metrics)),
            namespace: namespace.to_owned(),
        })
    }

    /// Answers until dropped, always from the newest snapshot.
    ///
    /// # Errors
    /// The sockets failed.
    pub async fn serve(self, plane: ControlPlane) -> std::io::Result<()> {
        let table = Arc::new(ArcSwapOption::empty());
        let asking = asking(&self.namespace);
        let handler = MeshNames::stub(Arc::clone(&table), Scope::pod(&self.namespace, "cluster.local"));
        let follow = async {
            let mut snapshots = plane.subscribe();
            loop {
                if let Some(snapshot) = snapshots.borrow_and_update().clone() {
                    table.store(Some(Arc::new(names(&snapshot, &asking))));
                }
                if snapshots.changed().await.is_err() {
                    return std::future::pending::<()>().await;
                }
            }
        };
        tokio::select! {
            ended = self.server.serve(Arc::new(handler)) => ended,
            () = follow => Ok(()),
        }
    }
}

fn names(snapshot: &Snapshot, asking: &ProxyDescription) -> NameTable {
    let told = name_table::table(&Context::new(snapshot, asking));
    NameTable::build(told.table.iter().map(|(host, info)| {
        Entry {
            host,
            ips: info
                .ips
                .iter()
                .filter_map(|ip| ip.parse::<IpAddr>().ok())
                .collect(),
            registry: &info.registry,
            shortname: &info.shortname,
            namespace: &info.namespace,
        }
    }))
}

/// A gateway that does not exist, in the root namespace.
fn asking(namespace: &str) -> ProxyDescription {
    ProxyDescription {
        id: "dns".to_owned(),
        kind: ProxyKind::Router,
        addresses: Vec::new(),
        name: String::new(),
        namespace: namespace.to_owned(),
        service_account: String::new(),
        identity: None,
        labels: Labels::default(),
        cluster: ClusterId::default(),
        network: NetworkId::default(),
        locality: Locality::default(),
        dns_capture: true,
        stock_envoy: false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_told::us;

    #[test]
    fn the_names_of_all_clusters_are_known_without_a_sidecar() {
        let names = names(&us().snapshot(), &asking("istio-system"));
        let scope = Scope::pod("istio-system", "cluster.local");
        let found = |name: &str| names.lookup(name, &scope).map(|found| found.addresses.v4.len());
        assert_eq!(found("reviews.default.global"), Some(1));
        assert_eq!(found("reviews.default.svc.cluster.local"), Some(1));
        assert_eq!(found("nobody.default.global"), None);
    }
}
