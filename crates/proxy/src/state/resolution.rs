//! Names of endpoints: looked up again and again, and put in place of the names.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use isthmus_dns::Resolver;
use isthmus_dns::resolve::{Family, ResolveError};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::references::{Lookup, Refresh};
use crate::config::Endpoints;
use crate::config::cluster::AddressFamily;
use crate::config::endpoint::{Address, Endpoint, LocalityEndpoints};

/// Names are never asked for more often than this, whatever a TTL says.
const SHORTEST: Duration = Duration::from_secs(1);
/// Nor more rarely.
const LONGEST: Duration = Duration::from_secs(300);
/// Pause after a failure, unless the refresh time is shorter.
const AFTER_FAILURE: Duration = Duration::from_secs(5);

/// The outcome of one look-up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// What was asked.
    pub lookup: Lookup,
    /// The addresses, or why there are none.
    pub result: Result<Vec<IpAddr>, String>,
}

/// The running look-ups. Dropping it ends them.
#[derive(Debug)]
pub struct Resolutions {
    resolver: Resolver,
    answers: mpsc::Sender<Answer>,
    running: HashMap<Lookup, Running>,
}

#[derive(Debug)]
struct Running {
    refresh: Refresh,
    task: JoinHandle<()>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Resolutions {
    /// Answers go to `answers`.
    pub fn new(resolver: Resolver, answers: mpsc::Sender<Answer>) -> Self {
        Self {
            resolver,
            answers,
            running: HashMap::new(),
        }
    }

    /// Keeps exactly these names looked up. Must be called within a tokio runtime.
    pub fn keep(&mut self, wanted: &BTreeMap<Lookup, Refresh>) {
        self.running
            .retain(|lookup, r| wanted.get(lookup) == Some(&r.refresh));
        for (lookup, refresh) in wanted {
            self.running.entry(lookup.clone()).or_insert_with(|| Running {
                refresh: *refresh,
                task: tokio::spawn(follow(
                    self.resolver.clone(),
                    lookup.clone(),
                    *refresh,
                    self.answers.clone(),
                )),
            });
        }
    }
}

async fn follow(resolver: Resolver, lookup: Lookup, refresh: Refresh, answers: mpsc::Sender<Answer>) {
    let family = match lookup.family {
        AddressFamily::PreferV6 => Family::Auto,
        AddressFamily::PreferV4 => Family::V4Preferred,
        AddressFamily::V4 => Family::V4Only,
        AddressFamily::V6 => Family::V6Only,
        AddressFamily::All => Family::All,
    };
    let mut told = String::new();
    loop {
        let (result, pause) = match resolver.resolve(&lookup.host, family).await {
            Ok(resolved) => {
                told.clear();
                let ttl = if refresh.respect_ttl {
                    resolved.ttl
                } else {
                    LONGEST
                };
                (Ok(resolved.addresses), refresh.every.min(ttl))
            }
            Err(error) => {
                let words = error.to_string();
                if told != words {
                    tracing::warn!(host = %lookup.host, error = words,
                        "name not resolved; addresses known before stay in use");
                    told.clone_from(&words);
                }
                let ttl = match error {
                    ResolveError::NoAddress { ttl, .. } => ttl,
                    _ => AFTER_FAILURE,
                };
                (Err(words), refresh.every.min(ttl).min(AFTER_FAILURE))
            }
        };
        let answer = Answer {
            lookup: lookup.clone(),
            result,
        };
        if answers.send(answer).await.is_err() {
            return;
        }
        tokio::time::sleep(pause.clamp(SHORTEST, LONGEST)).await;
    }
}

/// Puts addresses in place of names. `first_only` takes one address per name (LOGICAL_DNS).
pub fn expand<'a>(
    endpoints: &Endpoints,
    first_only: bool,
    addresses: impl Fn(&str) -> Option<&'a [IpAddr]>,
) -> Endpoints {
    let localities = endpoints
        .localities
        .iter()
        .map(|l| LocalityEndpoints {
            locality: l.locality.clone(),
            priority: l.priority,
            weight: l.weight,
            endpoints: l
                .endpoints
                .iter()
                .flat_map(|e| expand_one(e, first_only, &addresses))
                .collect(),
        })
        .collect();
    Endpoints {
        cluster: endpoints.cluster.clone(),
        localities,
        overprovisioning: endpoints.overprovisioning,
        drop: endpoints.drop,
    }
}

fn expand_one<'a>(
    endpoint: &Arc<Endpoint>,
    first_only: bool,
    addresses: &impl Fn(&str) -> Option<&'a [IpAddr]>,
) -> Vec<Arc<Endpoint>> {
    let Address::Name(name, port) = &endpoint.address else {
        return vec![endpoint.clone()];
    };
    let found = addresses(name).unwrap_or_default();
    let taken = if first_only {
        found.len().min(1)
    } else {
        found.len()
    };
    found[..taken]
        .iter()
        .map(|ip| {
            let mut one = (**endpoint).clone();
            one.address = Address::Socket(SocketAddr::new(*ip, *port));
            one.hostname.get_or_insert_with(|| name.clone());
            Arc::new(one)
        })
        .collect()
}
