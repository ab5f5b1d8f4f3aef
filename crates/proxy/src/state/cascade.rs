//! The state of all resources: an update of one type changes that type alone, and the rest settles.
//!
//! It does no I/O and knows no clock: updates, answers of the resolver and the time come in; what to ask
//! for, what to look up and a new [`Live`] come out.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use isthmus_xds::client::{Received, Update};
use isthmus_xds::envoy::{Any, cluster, endpoint, listener, route, tls};
use isthmus_xds::{TypeUrl, any};
use prost::{Message, Name};

use super::live::{Live, Secret};
use super::references::{self, Lookup, Refresh};
use super::resolution::Answer;
use super::store::{Held, Refused, Store};
use super::warming::Warming;
use crate::config::{Cluster, Endpoints, Listener, Refusal, RouteTable};

/// Everything the proxy was told.
#[derive(Debug, Default)]
pub struct State {
    /// CDS.
    pub clusters: Store<Cluster>,
    /// EDS, by EDS name.
    pub endpoints: Store<Endpoints>,
    /// LDS.
    pub listeners: Store<Listener>,
    /// RDS.
    pub routes: Store<RouteTable>,
    /// SDS from the control plane.
    pub secrets: Store<Secret>,
    /// Secrets made or read here: `default`, `ROOTCA`, files.
    pub(super) local: HashMap<Arc<str>, Secret>,
    /// Answers of the resolver; an empty list is a name that could not be resolved yet.
    pub(super) addresses: HashMap<Lookup, Vec<IpAddr>>,
    /// EDS and RDS names of which the control plane said that they do not exist.
    pub(super) absent: BTreeSet<(TypeUrl, Arc<str>)>,
    pub(super) warming: Warming,
    pub(super) live: Arc<Live>,
}

/// What the present resources refer to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wanted {
    /// EDS names.
    pub endpoints: BTreeSet<Arc<str>>,
    /// RDS names.
    pub routes: BTreeSet<Arc<str>>,
    /// SDS names that the control plane is to answer.
    pub secrets: BTreeSet<Arc<str>>,
    /// SDS names that are answered from files of this machine.
    pub files: BTreeSet<Arc<str>>,
    /// Names to look up.
    pub lookups: BTreeMap<Lookup, Refresh>,
}

/// What came of one type.
#[derive(Debug, Clone, Copy)]
pub struct Change<'a> {
    /// The type.
    pub ty: &'a TypeUrl,
    /// New and changed resources.
    pub added: &'a [Received],
    /// Names of those that are no more.
    pub removed: &'a [Arc<str>],
    /// The server's version of the whole type.
    pub version: &'a str,
}

impl<'a> From<&'a Update> for Change<'a> {
    fn from(update: &'a Update) -> Self {
        Self {
            ty: &update.ty,
            added: &update.added,
            removed: &update.removed,
            version: &update.version,
        }
    }
}

/// A resource that was refused, for the NACK.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejection {
    /// Its name.
    pub name: Arc<str>,
    /// Field and reason.
    pub reason: String,
}

/// The workload's own certificate and the mesh's roots, which never come over ADS.
pub const OWN_CERTIFICATE: &str = "default";
/// See [`OWN_CERTIFICATE`].
pub const MESH_ROOTS: &str = "ROOTCA";

/// Whether a secret's name says a file of this machine.
fn is_file(name: &str) -> bool {
    name.starts_with("file-cert:") || name.starts_with("file-root:")
}

impl State {
    /// Applies a change. Resources that cannot be used are refused one by one; the others count.
    pub fn apply(&mut self, update: Change<'_>, at: SystemTime) -> Vec<Rejection> {
        match update.ty {
            TypeUrl::Cds => {
                for name in update.removed {
                    self.clusters.remove(name);
                }
                take(&mut self.clusters, update, at, |c: &cluster::Cluster, _| {
                    Ok((c.name.clone(), Cluster::try_from(c)?))
                })
            }
            TypeUrl::Lds => {
                for name in update.removed {
                    self.listeners.remove(name);
                }
                take(&mut self.listeners, update, at, |l: &listener::Listener, held| {
                    let converted = Listener::try_from(l)?;
                    sole_address(&converted, held)?;
                    Ok((l.name.clone(), converted))
                })
            }
            TypeUrl::Eds => {
                self.absent(update);
                take(
                    &mut self.endpoints,
                    update,
                    at,
                    |a: &endpoint::ClusterLoadAssignment, _| {
                        Ok((a.cluster_name.clone(), Endpoints::try_from(a)?))
                    },
                )
            }
            TypeUrl::Rds => {
                self.absent(update);
                take(
                    &mut self.routes,
                    update,
                    at,
                    |r: &route::RouteConfiguration, _| Ok((r.name.clone(), RouteTable::try_from(r)?)),
                )
            }
            TypeUrl::Sds => {
                self.absent(update);
                let rejections = take(&mut self.secrets, update, at, |s: &tls::Secret, _| {
                    if s.name == OWN_CERTIFICATE || s.name == MESH_ROOTS {
                        return Err(Refusal::new("name", "this secret is made by the workload itself"));
                    }
                    Ok((s.name.clone(), Secret::try_from(s)?))
                });
                self.secrets.forget_bodies();
                rejections
            }
            TypeUrl::Nds | TypeUrl::Other(_) => Vec::new(),
        }
    }

    /// Adds a resource of the bootstrap.
    pub fn fix(&mut self, body: Any, at: SystemTime) -> Result<(), Rejection> {
        let ty = TypeUrl::from(format!("type.googleapis.com/{}", any::full_name(&body.type_url)).as_str());
        let added = [Received {
            name: "".into(),
            version: "".into(),
            body,
        }];
        let change = Change {
            ty: &ty,
            added: &added,
            removed: &[],
            version: "",
        };
        match self.apply(change, at).pop() {
            Some(rejection) => Err(rejection),
            None => {
                self.clusters.fix_all();
                self.listeners.fix_all();
                self.secrets.fix_all();
                Ok(())
            }
        }
    }

    /// EDS, RDS and SDS resources that the server says do not exist: whoever waits for them waits no
    /// longer, and a version that was there stays, as in Envoy.
    fn absent(&mut self, update: Change<'_>) {
        for name in update.removed {
            self.absent.insert((update.ty.clone(), name.clone()));
        }
        for received in update.added {
            self.absent.remove(&(update.ty.clone(), received.name.clone()));
        }
    }

    /// Puts a secret of this machine in place.
    pub fn set_secret(&mut self, name: &str, secret: Secret) {
        self.local.insert(name.into(), secret);
    }

    /// The secret of this name, whoever answers it.
    pub fn secret(&self, name: &str) -> Option<Secret> {
        self.local
            .get(name)
            .cloned()
            .or_else(|| self.secrets.value(name).map(|s| (**s).clone()))
    }

    /// Secrets of this machine, in no order.
    pub fn local_secrets(&self) -> impl Iterator<Item = (&Arc<str>, &Secret)> {
        self.local.iter()
    }

    /// Takes an answer of the resolver. After a failure the addresses known before stay.
    pub fn resolved(&mut self, answer: Answer) {
        match answer.result {
            Ok(addresses) => {
                self.addresses.insert(answer.lookup, addresses);
            }
            Err(_) => {
                self.addresses.entry(answer.lookup).or_default();
            }
        }
    }

    /// What the present resources refer to; whatever else was held of those types is forgotten by
    /// [`State::settle`].
    pub fn wanted(&self) -> Wanted {
        let mut wanted = Wanted::default();
        let mut secrets = BTreeSet::new();
        let held = self.clusters.iter().map(|(_, h)| &h.value);
        for cluster in held.chain(self.warming.clusters.values()) {
            references::cluster_secrets(cluster, &mut secrets);
            if let Some(name) = references::eds(cluster) {
                wanted.endpoints.insert(name.clone());
            }
            let (family, refresh) = references::lookup_policy(cluster);
            if let Some(endpoints) = self.source_endpoints(cluster) {
                for host in references::names(endpoints) {
                    let lookup = Lookup {
                        host: host.clone(),
                        family,
                    };
                    let entry = wanted.lookups.entry(lookup).or_insert(refresh);
                    entry.every = entry.every.min(refresh.every);
                    entry.respect_ttl |= refresh.respect_ttl;
                }
            }
        }
        let held = self.listeners.iter().map(|(_, h)| &h.value);
        for listener in held.chain(self.warming.listeners.values()) {
            references::listener_secrets(listener, &mut secrets);
            wanted.routes.extend(references::route_tables(listener).cloned());
        }
        secrets.retain(|name| &**name != OWN_CERTIFICATE && &**name != MESH_ROOTS);
        (wanted.files, wanted.secrets) = secrets.into_iter().partition(|name| is_file(name));
        wanted
    }

    /// A cluster's endpoints before names are resolved.
    pub(super) fn source_endpoints<'a>(&'a self, cluster: &'a Cluster) -> Option<&'a Arc<Endpoints>> {
        references::own_endpoints(cluster)
            .or_else(|| references::eds(cluster).and_then(|name| self.endpoints.value(name)))
    }

    /// Forgets what nothing refers to, lets in what has become warm, and builds the new configuration if
    /// anything changed.
    pub fn settle(&mut self, now: Instant) -> Option<Arc<Live>> {
        self.warm(now);
        let wanted = self.wanted();
        self.endpoints.retain(|n| wanted.endpoints.contains(n));
        self.routes.retain(|n| wanted.routes.contains(n));
        self.secrets.retain(|n| wanted.secrets.contains(n));
        self.absent.retain(|(ty, n)| match ty {
            TypeUrl::Eds => wanted.endpoints.contains(n),
            TypeUrl::Rds => wanted.routes.contains(n),
            _ => wanted.secrets.contains(n),
        });
        self.addresses.retain(|l, _| wanted.lookups.contains_key(l));
        self.local.retain(|n, _| !is_file(n) || wanted.files.contains(n));
        self.rebuild()
    }

    /// The configuration as it was built last.
    pub fn live(&self) -> &Arc<Live> {
        &self.live
    }
}

/// Converts the resources of an update into a store.
fn take<M, T>(
    store: &mut Store<T>,
    update: Change<'_>,
    at: SystemTime,
    convert: impl Fn(&M, &Store<T>) -> Result<(String, T), Refusal>,
) -> Vec<Rejection>
where
    M: Message + Name + Default,
{
    store.received = true;
    update.version.clone_into(&mut store.version);
    let mut rejections = Vec::new();
    for received in update.added {
        if let Some(held) = store.held(&received.name)
            && held.body == received.body
        {
            store.same(&received.name, &received.version);
            continue;
        }
        let converted = any::unpack::<M>(&received.body)
            .map_err(|e| Refusal::new("", e.to_string()))
            .and_then(|m| convert(&m, store))
            .and_then(|(own, value)| named(&received.name, &own).map(|name| (name, value)));
        match converted {
            Ok((name, value)) => store.accept(
                name,
                Held {
                    version: received.version.clone(),
                    updated: at,
                    body: received.body.clone(),
                    value: Arc::new(value),
                    fixed: false,
                },
            ),
            Err(refusal) => {
                let name = refused_name::<M>(received);
                store.refuse(
                    name.clone(),
                    Refused {
                        version: received.version.clone(),
                        at,
                        reason: refusal.to_string(),
                    },
                );
                rejections.push(Rejection {
                    name,
                    reason: refusal.to_string(),
                });
            }
        }
    }
    rejections
}

/// A resource's own name, which must be the one under which it was sent.
fn named(sent: &Arc<str>, own: &str) -> Result<Arc<str>, Refusal> {
    match (&**sent, own) {
        ("", own) => Ok(own.into()),
        (sent_as, own) if sent_as == own => Ok(sent.clone()),
        (sent_as, own) => Err(Refusal::new(
            "name",
            format!("is {own:?}, and the resource was sent as {sent_as:?}"),
        )),
    }
}

/// In state of the world a resource has only the name within; every type has it in its first field.
fn refused_name<M: Message + Name + Default>(received: &Received) -> Arc<str> {
    #[derive(Clone, PartialEq, prost::Message)]
    struct Named {
        #[prost(string, tag = "1")]
        name: String,
    }
    if !received.name.is_empty() {
        return received.name.clone();
    }
    match Named::decode(received.body.value.as_slice()) {
        Ok(named) => named.name.into(),
        Err(_) => format!("(unreadable {})", M::NAME).into(),
    }
}

/// Two listeners cannot stand for one destination.
fn sole_address(new: &Listener, held: &Store<Listener>) -> Result<(), Refusal> {
    let rival = held.iter().map(|(_, h)| &h.value).find(|l| {
        l.name != new.name
            && l.address == new.address
            && l.bind == new.bind
            && (l.bind || l.direction == new.direction)
    });
    match rival {
        None => Ok(()),
        Some(rival) => Err(Refusal::new(
            "address",
            format!(
                "{} is the address of the listener {:?} already",
                new.address, rival.name
            ),
        )),
    }
}
