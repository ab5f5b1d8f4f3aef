//! Why a connection found no chain, in words.
//!
//! At a passthrough gateway (AUTO_PASSTHROUGH: chains named by `outbound_.PORT_.SUBSET_.HOST`) the reason
//! is told exactly, since the client sees nothing but a closed connection.

use std::fmt;

use isthmus_model::ClusterName;

use crate::config::listener::{Listener, Transport};

use super::facts::Facts;

/// A connection that no chain takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// Plaintext where only TLS is passed on.
    Plaintext,
    /// TLS without SNI where the SNI says where to go.
    NoServerName,
    /// None of the client's ALPN names is one the chains of this name take.
    NoProtocol {
        /// The client's SNI.
        server_name: String,
        /// What the client offered.
        offered: Vec<String>,
    },
    /// The SNI is not of the mesh's form.
    NotAServiceName(String),
    /// No service of this name and port is reached here.
    UnknownService {
        /// Host asked for.
        host: String,
        /// Port asked for.
        port: u16,
    },
    /// The service is known, its subset is not.
    UnknownSubset {
        /// Host asked for.
        host: String,
        /// Port asked for.
        port: u16,
        /// Subset asked for.
        subset: String,
        /// Subsets that are known.
        known: Vec<String>,
    },
    /// An ordinary listener without a chain for this.
    NoChain,
}

/// Says why `listener` takes no connection of these facts.
pub fn explain(listener: &Listener, facts: &Facts) -> Refusal {
    let names = || listener.chains.iter().flat_map(|c| &c.matches.server_names);
    let passthrough = names().any(|n| n.starts_with("outbound_."));
    if !passthrough {
        return Refusal::NoChain;
    }
    if facts.transport == Transport::Raw {
        return Refusal::Plaintext;
    }
    let Some(sni) = facts.server_name.as_deref() else {
        return Refusal::NoServerName;
    };
    if names().any(|n| &**n == sni) {
        return Refusal::NoProtocol {
            server_name: sni.to_owned(),
            offered: facts
                .application_protocols
                .iter()
                .map(|p| String::from_utf8_lossy(p).into_owned())
                .collect(),
        };
    }
    let Ok(ClusterName {
        host: Some(host),
        port,
        subset,
        ..
    }) = ClusterName::from_sni(sni)
    else {
        return Refusal::NotAServiceName(sni.to_owned());
    };
    let mut known: Vec<String> = names()
        .filter_map(|n| ClusterName::from_sni(n).ok())
        .filter(|n| n.port == port && n.host.as_ref() == Some(&host))
        .map(|n| n.subset)
        .collect();
    known.sort();
    known.dedup();
    let host = host.to_string();
    if known.is_empty() {
        return Refusal::UnknownService { host, port };
    }
    known.retain(|s| !s.is_empty());
    Refusal::UnknownSubset {
        host,
        port,
        subset,
        known,
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Plaintext => f.write_str("plaintext: only mutual TLS of the mesh is passed through here"),
            Self::NoServerName => {
                f.write_str("TLS without SNI: the SNI has to be outbound_.PORT_.SUBSET_.HOST")
            }
            Self::NoProtocol { server_name, offered } => {
                let offered = match offered.is_empty() {
                    true => "none".to_owned(),
                    false => offered.join(", "),
                };
                write!(
                    f,
                    "ALPN is not Istio's: {server_name} is reached with istio, istio-peer-exchange, \
                     istio-http/1.0, istio-http/1.1 or istio-h2; offered: {offered}"
                )
            }
            Self::NotAServiceName(sni) => {
                write!(f, "SNI {sni} is not of the form outbound_.PORT_.SUBSET_.HOST")
            }
            Self::UnknownService { host, port } => {
                write!(
                    f,
                    "unknown service: nothing named {host} with port {port} is reached through this gateway"
                )
            }
            Self::UnknownSubset {
                host,
                port,
                subset,
                known,
            } => {
                let known = match known.is_empty() {
                    true => "it has none".to_owned(),
                    false => format!("known: {}", known.join(", ")),
                };
                write!(f, "unknown subset {subset} of {host} port {port}; {known}")
            }
            Self::NoChain => f.write_str("no filter chain matches"),
        }
    }
}
