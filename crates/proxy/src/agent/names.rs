//! The mesh's DNS beside the application, fed from the control plane's name table (NDS).

use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use arc_swap::ArcSwapOption;
use isthmus_dns::forward::Options;
use isthmus_dns::resolv_conf::ResolvConf;
use isthmus_dns::table::{Entry, NameTable};
use isthmus_dns::{DnsMetrics, Forwarder, MeshNames, Resolver, Scope, Server};
use isthmus_runtime::bind::{self, BindError};
use isthmus_runtime::metrics::Metrics;
use isthmus_xds as xds;

use super::config::Config;

/// Answers that are kept, so that a busy application does not ask upstream for each.
const CACHE: usize = 512;

/// Names, as the proxy and its application look them up.
#[derive(Debug)]
pub struct Names {
    table: Arc<ArcSwapOption<NameTable>>,
    forwarder: Forwarder,
    resolv_conf: ResolvConf,
    metrics: DnsMetrics,
}

impl Names {
    /// Reads the pod's `resolv.conf`.
    pub fn new(config: &Config, metrics: &Metrics) -> Self {
        let resolv_conf = ResolvConf::load(Path::new("/etc/resolv.conf")).unwrap_or_else(|error| {
            tracing::warn!(%error, "/etc/resolv.conf cannot be read: names outside the mesh stay unknown");
            ResolvConf::default()
        });
        let metrics = DnsMetrics::register(metrics);
        let options = Options {
            upstreams: resolv_conf.servers.clone(),
            mark: config.mark,
            cache: CACHE,
            ..Options::default()
        };
        Self {
            table: Arc::new(ArcSwapOption::empty()),
            forwarder: Forwarder::new(options, metrics.clone()),
            resolv_conf,
            metrics,
        }
    }

    /// For the proxy itself.
    pub fn resolver(&self) -> Resolver {
        Resolver::new(self.forwarder.clone())
    }

    /// Search domains of the pod, the cluster's own ones first.
    pub fn search(&self, config: &Config) -> Vec<String> {
        let mut search = vec![config.domain.clone()];
        search.extend(self.resolv_conf.search.iter().cloned());
        search.dedup();
        search
    }

    /// Binds the server of `config.dns`; serve it with [`serve`].
    pub fn bind(&self, config: &Config) -> Result<Option<(Server, Arc<MeshNames>)>, BindError> {
        let Some(address) = config.dns else {
            return Ok(None);
        };
        let udp = bind::udp(address, "the application's DNS")?;
        let tcp = bind::tcp(address, "the application's DNS")?;
        let scope = Scope::pod(&config.node.namespace, &config.domain).with_search(&self.resolv_conf.search);
        let handler = MeshNames::new(self.table.clone(), scope, self.forwarder.clone());
        let server = Server::on(vec![udp], vec![tcp], self.metrics.clone());
        Ok(Some((server, Arc::new(handler))))
    }

    /// Puts a new name table in place; addresses that are none are left out.
    pub fn replace(&self, table: &xds::NameTable) {
        let entries = table.table.iter().map(|(host, info)| Entry {
            host,
            ips: info
                .ips
                .iter()
                .filter_map(|ip| ip.parse::<IpAddr>().ok())
                .collect(),
            registry: &info.registry,
            shortname: &info.shortname,
            namespace: &info.namespace,
        });
        let table = NameTable::build(entries);
        tracing::debug!(names = table.len(), "name table received");
        self.table.store(Some(Arc::new(table)));
    }
}
