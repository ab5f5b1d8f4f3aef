//! kube-proxy and the cloud's load balancer: what the API server says of Services and EndpointSlices
//! becomes virtual addresses of the cluster's router, and Services of type LoadBalancer get a public one.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::StreamExt;
use isthmus_model::ClusterId;
use k8s_openapi::api::core::v1::{Service, ServicePort};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{Api, Patch, PatchParams};
use kube::runtime::watcher::{self, Event};
use kube::runtime::{WatchStreamExt, watcher as watch};
use kube::{Client, ResourceExt};
use serde_json::json;

use super::control_plane::API_PORT;
use crate::cluster::{ClusterSettings, Engine};
use crate::plan::{VirtualAddress, VirtualPort};

/// Label of a slice's Service.
const SERVICE_NAME: &str = "kubernetes.io/service-name";
/// Annotation for the internet's DNS.
const HOSTNAME: &str = "external-dns.alpha.kubernetes.io/hostname";
/// Changes within this time are taken together.
const TOGETHER: Duration = Duration::from_millis(20);
/// After a status that the API server did not take.
const AGAIN: Duration = Duration::from_secs(1);

/// Public addresses and ports by Service (`NAMESPACE/NAME`), for whoever looks.
pub(super) type Published = Arc<Mutex<BTreeMap<String, (Ipv4Addr, Vec<u16>)>>>;

/// Namespace and name.
type Key = (String, String);

/// Does the work until it is dropped.
pub(super) struct Services {
    pub(super) client: Client,
    pub(super) settings: Arc<ClusterSettings>,
    pub(super) engine: Arc<dyn Engine>,
    pub(super) published: Published,
    /// Where the API server runs, behind the first public address.
    pub(super) api_server: Ipv4Addr,
}

/// Where a cluster's API server is reached from outside: the first of its public addresses.
pub(super) fn public_api_server(settings: &ClusterSettings) -> Option<Ipv4Addr> {
    settings.addresses.load_balancers().next()
}

/// The API server's place among the public addresses.
pub(super) fn api_server_address(settings: &ClusterSettings, at: Ipv4Addr) -> Option<VirtualAddress> {
    Some(VirtualAddress {
        address: public_api_server(settings)?,
        ports: vec![VirtualPort {
            udp: false,
            port: API_PORT,
            targets: vec![(at, API_PORT)],
        }],
    })
}

impl Services {
    pub(super) async fn run(self) {
        let mut services = std::pin::pin!(
            watch(
                Api::<Service>::all(self.client.clone()),
                watcher::Config::default()
            )
            .default_backoff()
        );
        let mut slices = std::pin::pin!(
            watch(
                Api::<EndpointSlice>::all(self.client.clone()),
                watcher::Config::default()
            )
            .default_backoff()
        );
        let (mut known, mut behind) = (Mirror::<Service>::default(), Mirror::<EndpointSlice>::default());
        let mut addresses: BTreeMap<Key, Ipv4Addr> = BTreeMap::new();
        let mut due: Option<tokio::time::Instant> = None;
        loop {
            tokio::select! {
                event = services.next() => match event {
                    Some(event) => known.take(event),
                    None => return,
                },
                event = slices.next() => match event {
                    Some(event) => behind.take(event),
                    None => return,
                },
                () = sleep_until(due) => {
                    due = None;
                    if known.complete && behind.complete && !self.publish(&known, &behind, &mut addresses).await {
                        due = Some(tokio::time::Instant::now() + AGAIN);
                    }
                    continue;
                }
            }
            due.get_or_insert_with(|| tokio::time::Instant::now() + TOGETHER);
        }
    }

    /// Programmes everything and writes statuses; false when one was not taken.
    async fn publish(
        &self,
        services: &Mirror<Service>,
        slices: &Mirror<EndpointSlice>,
        addresses: &mut BTreeMap<Key, Ipv4Addr>,
    ) -> bool {
        allocate(&self.settings, services.now.values(), addresses);
        let world = World::build(&self.settings, self.api_server, services, slices, addresses);
        let id: &ClusterId = &self.settings.id;
        if let Err(why) = self.engine.virtual_addresses(id, &world.inside, &world.public) {
            tracing::error!(cluster = %id, %why, "virtual addresses cannot be programmed");
        }
        self.engine.names(id, &BTreeMap::new(), &world.names);
        *self.published.lock().unwrap_or_else(PoisonError::into_inner) = world.published;
        let mut taken = true;
        for ((namespace, name), service) in &services.now {
            let wanted = addresses.get(&(namespace.clone(), name.clone()));
            if ingress(service) == wanted.copied() {
                continue;
            }
            if wanted.is_none() && !ours(service) && is_load_balancer(service) {
                continue;
            }
            let ingress = match wanted {
                Some(ip) => json!([{"ip": ip, "ipMode": "VIP"}]),
                None => json!(null),
            };
            let status = json!({"status": {"loadBalancer": {"ingress": ingress}}});
            let api: Api<Service> = Api::namespaced(self.client.clone(), namespace);
            let patched = api
                .patch_status(name, &PatchParams::default(), &Patch::Merge(status))
                .await;
            match patched {
                Ok(_) => {}
                Err(kube::Error::Api(e)) if e.code == 404 => {}
                Err(error) => {
                    tracing::warn!(cluster = %id, service = %format!("{namespace}/{name}"), %error, "its public address was not written");
                    taken = false;
                }
            }
        }
        taken
    }
}

async fn sleep_until(due: Option<tokio::time::Instant>) {
    match due {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// Objects of a kind as the API server had them last.
struct Mirror<K> {
    now: BTreeMap<Key, K>,
    /// While a list is read.
    next: BTreeMap<Key, K>,
    complete: bool,
}

impl<K> Default for Mirror<K> {
    fn default() -> Self {
        Self {
            now: BTreeMap::new(),
            next: BTreeMap::new(),
            complete: false,
        }
    }
}

impl<K: ResourceExt> Mirror<K> {
    fn take(&mut self, event: watcher::Result<Event<K>>) {
        let key = |object: &K| (object.namespace().unwrap_or_default(), object.name_any());
        match event {
            Ok(Event::Apply(object)) => {
                self.now.insert(key(&object), object);
            }
            Ok(Event::Delete(object)) => {
                self.now.remove(&key(&object));
            }
            Ok(Event::Init) => self.next.clear(),
            Ok(Event::InitApply(object)) => {
                self.next.insert(key(&object), object);
            }
            Ok(Event::InitDone) => {
                self.now = std::mem::take(&mut self.next);
                self.complete = true;
            }
            Err(error) => tracing::debug!(%error, "a watch of the sandbox begins anew"),
        }
    }
}

fn is_load_balancer(service: &Service) -> bool {
    service
        .spec
        .as_ref()
        .is_some_and(|s| s.type_.as_deref() == Some("LoadBalancer"))
}

/// Whether the sandbox's load balancer serves it: another's class is another's affair.
fn ours(service: &Service) -> bool {
    is_load_balancer(service)
        && service
            .spec
            .as_ref()
            .is_some_and(|s| s.load_balancer_class.is_none())
}

fn ingress(service: &Service) -> Option<Ipv4Addr> {
    let status = service.status.as_ref()?.load_balancer.as_ref()?;
    status.ingress.as_ref()?.first()?.ip.as_ref()?.parse().ok()
}

/// Gives every LoadBalancer that has none an address, and takes those of the others back.
fn allocate<'a>(
    settings: &ClusterSettings,
    services: impl Iterator<Item = &'a Service> + Clone,
    addresses: &mut BTreeMap<Key, Ipv4Addr>,
) {
    let mut live = BTreeSet::new();
    for service in services.filter(|s| ours(s)) {
        let key = (service.namespace().unwrap_or_default(), service.name_any());
        live.insert(key.clone());
        if addresses.contains_key(&key) {
            continue;
        }
        let reserved = public_api_server(settings);
        let free = |a: &Ipv4Addr| Some(*a) != reserved && !addresses.values().any(|t| t == a);
        let asked = service
            .spec
            .as_ref()
            .and_then(|s| s.load_balancer_ip.as_ref()?.parse().ok());
        let wanted = [ingress(service), asked].into_iter().flatten();
        let address = wanted
            .filter(|a| settings.addresses.load_balancers().any(|l| l == *a))
            .chain(settings.addresses.load_balancers())
            .find(free);
        match address {
            Some(address) => {
                addresses.insert(key, address);
            }
            None => {
                tracing::warn!(cluster = %settings.id, service = %format!("{}/{}", key.0, key.1), "no public address is left")
            }
        }
    }
    addresses.retain(|key, _| live.contains(key));
}

/// What is programmed.
#[derive(Debug, Default, PartialEq)]
struct World {
    inside: Vec<VirtualAddress>,
    public: Vec<VirtualAddress>,
    names: BTreeMap<String, Vec<Ipv4Addr>>,
    published: BTreeMap<String, (Ipv4Addr, Vec<u16>)>,
}

impl World {
    fn build(
        settings: &ClusterSettings,
        api_server: Ipv4Addr,
        services: &Mirror<Service>,
        slices: &Mirror<EndpointSlice>,
        addresses: &BTreeMap<Key, Ipv4Addr>,
    ) -> Self {
        let mut by_service: BTreeMap<(&str, &str), Vec<&EndpointSlice>> = BTreeMap::new();
        for ((namespace, _), slice) in &slices.now {
            if let Some(service) = slice.labels().get(SERVICE_NAME) {
                by_service.entry((namespace, service)).or_default().push(slice);
            }
        }
        let mut world = Self {
            public: api_server_address(settings, api_server).into_iter().collect(),
            ..Self::default()
        };
        let mut node_ports = Vec::new();
        for (key, service) in &services.now {
            let Some(spec) = &service.spec else { continue };
            let behind = by_service.get(&(key.0.as_str(), key.1.as_str()));
            let behind = behind.map_or(&[][..], Vec::as_slice);
            let ports = spec.ports.as_deref().unwrap_or_default();
            let virtual_port = |number: u16, port: &ServicePort| VirtualPort {
                udp: port.protocol.as_deref() == Some("UDP"),
                port: number,
                targets: targets(port, behind),
            };
            let serving: Vec<VirtualPort> = ports
                .iter()
                .filter_map(|p| Some(virtual_port(u16::try_from(p.port).ok()?, p)))
                .collect();
            if let Some(address) = spec.cluster_ip.as_deref().and_then(|a| a.parse().ok()) {
                world.inside.push(VirtualAddress {
                    address,
                    ports: serving.clone(),
                });
            }
            node_ports.extend(
                ports
                    .iter()
                    .filter_map(|p| Some(virtual_port(u16::try_from(p.node_port?).ok()?, p))),
            );
            let external = spec.external_ips.iter().flatten();
            for address in external.filter_map(|a| a.parse().ok()) {
                if settings.addresses.load_balancers().any(|l| l == address) {
                    world.public.push(VirtualAddress {
                        address,
                        ports: serving.clone(),
                    });
                }
            }
            if let Some(address) = addresses.get(key) {
                world.published.insert(
                    format!("{}/{}", key.0, key.1),
                    (*address, serving.iter().map(|p| p.port).collect()),
                );
                world.public.push(VirtualAddress {
                    address: *address,
                    ports: serving,
                });
                let names = service.annotations().get(HOSTNAME);
                for name in names.iter().flat_map(|h| h.split(',')) {
                    world
                        .names
                        .insert(name.trim().to_ascii_lowercase(), vec![*address]);
                }
            }
        }
        // Every node has every NodePort, at its address inside and at its public one.
        world.inside.push(VirtualAddress {
            address: settings.addresses.gateway,
            ports: node_ports.clone(),
        });
        world.public.push(VirtualAddress {
            address: settings.addresses.public_router,
            ports: node_ports,
        });
        world
    }
}

/// The ready endpoints behind a Service's port, by the name that slices know it by.
fn targets(port: &ServicePort, slices: &[&EndpointSlice]) -> Vec<(Ipv4Addr, u16)> {
    let named = port.name.as_deref().unwrap_or_default();
    let protocol = port.protocol.as_deref().unwrap_or("TCP");
    let mut all = Vec::new();
    for slice in slices.iter().filter(|s| s.address_type == "IPv4") {
        let found = slice.ports.iter().flatten().find(|p| {
            p.name.as_deref().unwrap_or_default() == named
                && p.protocol.as_deref().unwrap_or("TCP") == protocol
        });
        let Some(number) = found.and_then(|p| p.port).and_then(|p| u16::try_from(p).ok()) else {
            continue;
        };
        for endpoint in slice.endpoints.iter().flatten() {
            let ready = endpoint.conditions.as_ref().and_then(|c| c.ready).unwrap_or(true);
            let addresses = endpoint.addresses.iter().filter(|_| ready);
            all.extend(
                addresses
                    .filter_map(|a| a.parse::<IpAddr>().ok())
                    .filter_map(|a| match a {
                        IpAddr::V4(a) => Some((a, number)),
                        IpAddr::V6(_) => None,
                    }),
            );
        }
    }
    all.sort_unstable();
    all.dedup();
    all
}
