//! From what this cluster is to what its peers are told.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use isthmus_model::{ClusterId, ServiceKey};
use isthmus_xds::{Resource, ResourceSet, Resources};
use tokio::sync::watch;

use super::wire;
use crate::member::{MemberHead, MemberService, MemberState};

/// Follows the own state and keeps its encoded form.
pub(super) struct Exporter {
    cluster: ClusterId,
    own: watch::Receiver<Arc<MemberState>>,
    pulse: Duration,
    exported: watch::Sender<Arc<Resources>>,
    head: Option<(Arc<MemberHead>, Arc<ResourceSet>)>,
    /// What was encoded from which service: a service whose `Arc` is the same is not encoded again.
    services: BTreeMap<ServiceKey, (Arc<MemberService>, Arc<Resource>)>,
    set: Arc<ResourceSet>,
    beats: u64,
}

impl Exporter {
    pub fn new(
        cluster: ClusterId,
        own: watch::Receiver<Arc<MemberState>>,
        pulse: Duration,
    ) -> (Self, watch::Receiver<Arc<Resources>>) {
        let (exported, receiver) = watch::channel(Arc::default());
        let mut exporter = Self {
            cluster,
            own,
            pulse,
            exported,
            head: None,
            services: BTreeMap::new(),
            set: Arc::default(),
            beats: 0,
        };
        exporter.encode();
        (exporter, receiver)
    }

    /// Runs until the own state is no more, or nobody can listen.
    pub async fn run(mut self) {
        let mut beat = tokio::time::interval(self.pulse);
        beat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                changed = self.own.changed() => if changed.is_err() {
                    return;
                },
                _ = beat.tick() => self.beats += 1,
                () = self.exported.closed() => return,
            }
            self.encode();
        }
    }

    fn encode(&mut self) {
        let own = self.own.borrow_and_update().clone();
        let head = match self.head.take() {
            Some((of, set)) if Arc::ptr_eq(&of, &own.head) => (of, set),
            _ => {
                let resource = Resource::new(self.cluster.as_str(), &wire::Cluster::from(&*own.head));
                (own.head.clone(), Arc::new(ResourceSet::new([resource])))
            }
        };
        let mut changed = self.services.len() != own.services.len();
        let mut services = BTreeMap::new();
        for (key, service) in &own.services {
            let encoded = match self.services.remove(key) {
                Some((of, resource)) if Arc::ptr_eq(&of, service) => (of, resource),
                _ => {
                    changed = true;
                    let message = wire::Service::export(service, &self.cluster);
                    (service.clone(), Resource::new(wire::service_name(key), &message))
                }
            };
            services.insert(key.clone(), encoded);
        }
        self.services = services;
        if changed {
            self.set = Arc::new(self.services.values().map(|(_, r)| r.clone()).collect());
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let vitals = wire::Vitals {
            beat: self.beats,
            sent: now.as_millis().try_into().unwrap_or(u64::MAX),
            pulse: self.pulse.as_millis().try_into().unwrap_or(u64::MAX),
        };
        let vitals = ResourceSet::new([Resource::new(self.cluster.as_str(), &vitals)]);
        let resources = Resources::new()
            .with(wire::cluster_type(), head.1.clone())
            .with(wire::service_type(), self.set.clone())
            .with(wire::vitals_type(), vitals);
        self.head = Some(head);
        self.exported.send_replace(Arc::new(resources));
    }
}
