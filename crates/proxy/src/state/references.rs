//! What a resource refers to by name, and so has to wait for.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use crate::config::cluster::{AddressFamily, Discovery, TransportSocket};
use crate::config::endpoint::Address;
use crate::config::listener::{FilterChain, NetworkFilter, Routes};
use crate::config::tls::{DownstreamTls, SecretRef, UpstreamTls};
use crate::config::{Cluster, Endpoints, Listener};

/// A name to be looked up, and how.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Lookup {
    /// The host name.
    pub host: Arc<str>,
    /// Which addresses are wanted.
    pub family: AddressFamily,
}

/// How often a name is looked up again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refresh {
    /// Upper bound of the time between look-ups.
    pub every: Duration,
    /// Whether a shorter TTL counts.
    pub respect_ttl: bool,
}

/// EDS endpoints are addresses; a name among them is looked up as Istio's DNS clusters are.
const EDS_REFRESH: Refresh = Refresh {
    every: Duration::from_secs(30),
    respect_ttl: true,
};

/// EDS name of a cluster that has one.
pub fn eds(cluster: &Cluster) -> Option<&Arc<str>> {
    match &cluster.discovery {
        Discovery::Eds(name) => Some(name),
        _ => None,
    }
}

/// Endpoints that stand in the cluster, perhaps as names.
pub fn own_endpoints(cluster: &Cluster) -> Option<&Arc<Endpoints>> {
    match &cluster.discovery {
        Discovery::Static(e)
        | Discovery::StrictDns { endpoints: e, .. }
        | Discovery::LogicalDns { endpoints: e, .. } => Some(e),
        Discovery::Eds(_) | Discovery::OriginalDst { .. } => None,
    }
}

/// How a cluster's names are looked up.
pub fn lookup_policy(cluster: &Cluster) -> (AddressFamily, Refresh) {
    match &cluster.discovery {
        Discovery::StrictDns {
            refresh,
            respect_ttl,
            family,
            ..
        }
        | Discovery::LogicalDns {
            refresh,
            respect_ttl,
            family,
            ..
        } => (
            *family,
            Refresh {
                every: *refresh,
                respect_ttl: *respect_ttl,
            },
        ),
        _ => (AddressFamily::All, EDS_REFRESH),
    }
}

/// Host names among the endpoints.
pub fn names(endpoints: &Endpoints) -> impl Iterator<Item = &Arc<str>> {
    endpoints
        .localities
        .iter()
        .flat_map(|l| &l.endpoints)
        .filter_map(|e| match &e.address {
            Address::Name(name, _) => Some(name),
            _ => None,
        })
}

/// SDS names of a cluster's TLS contexts.
pub fn cluster_secrets(cluster: &Cluster, out: &mut BTreeSet<Arc<str>>) {
    match &cluster.transport {
        TransportSocket::Raw => {}
        TransportSocket::Tls(tls) => upstream_secrets(tls, out),
        TransportSocket::Matches(matches) => {
            for tls in matches.iter().filter_map(|m| m.tls.as_ref()) {
                upstream_secrets(tls, out);
            }
        }
    }
}

fn upstream_secrets(tls: &UpstreamTls, out: &mut BTreeSet<Arc<str>>) {
    add(tls.certificate.as_ref(), out);
    add(tls.validation.trusted.as_ref(), out);
}

fn downstream_secrets(tls: &DownstreamTls, out: &mut BTreeSet<Arc<str>>) {
    for certificate in &tls.certificates {
        add(Some(certificate), out);
    }
    add(tls.validation.trusted.as_ref(), out);
}

fn add(secret: Option<&SecretRef>, out: &mut BTreeSet<Arc<str>>) {
    if let Some(SecretRef::Sds(name)) = secret {
        out.insert(name.clone());
    }
}

/// Filter chains of a listener, the default one last.
fn chains(listener: &Listener) -> impl Iterator<Item = &Arc<FilterChain>> {
    listener.chains.iter().chain(&listener.default_chain)
}

/// SDS names of a listener's TLS contexts.
pub fn listener_secrets(listener: &Listener, out: &mut BTreeSet<Arc<str>>) {
    for tls in chains(listener).filter_map(|c| c.tls.as_ref()) {
        downstream_secrets(tls, out);
    }
}

/// RDS names of a listener.
pub fn route_tables(listener: &Listener) -> impl Iterator<Item = &Arc<str>> {
    chains(listener).filter_map(|c| match &c.network {
        NetworkFilter::Http(manager) => match &manager.routes {
            Routes::Rds(name) => Some(name),
            Routes::Inline(_) => None,
        },
        NetworkFilter::Tcp(_) => None,
    })
}
