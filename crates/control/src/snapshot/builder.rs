//! From objects and peers to the next snapshot.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

use isthmus_api::analyze::{self, Elsewhere, analyze_within};
use isthmus_api::finding::Finding;
use isthmus_api::{Kind, codes, mesh_config};
use isthmus_dns::{VipAllocator, VipState};
use isthmus_model::TrustDomain;

use super::config::Config;
use super::{Aside, Snapshot};
use crate::authority;
use crate::ingest::store::Store;
use crate::member::PeerState;
use crate::mesh::{Identity, Mesh};
use crate::peering::{Peers, listed};
use crate::registry::mesh_hop::ResolvedNames;
use crate::registry::{Registry, Sources, keep};

/// Builds snapshots, each from the one before.
#[derive(Debug)]
pub struct Builder {
    identity: Identity,
    /// Peers that the command line names.
    given: Peers,
    vips: VipAllocator,
    state_file: Option<PathBuf>,
    before: Option<Arc<Snapshot>>,
    /// What the analysis of all objects together found.
    analysis: Vec<Finding>,
    /// What is wrong with Secret `cacerts`.
    authority: Option<Finding>,
    /// Identities are of this trust domain until the next start.
    trust_domain: Option<TrustDomain>,
    /// What counts only after a restart.
    restart: Option<Finding>,
}

/// What has changed since the last snapshot.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Dirty {
    /// Kinds of objects.
    pub kinds: BTreeSet<Kind>,
    /// What a peer tells, or what a name resolves to.
    pub peers: bool,
}

impl Dirty {
    /// Whether nothing has.
    pub fn is_empty(&self) -> bool {
        self.kinds.is_empty() && !self.peers
    }

    fn touches(&self, kinds: &[Kind]) -> bool {
        kinds.iter().any(|k| self.kinds.contains(k))
    }
}

/// Kinds that `Config` reads.
const CONFIG: &[Kind] = &[
    Kind::VirtualService,
    Kind::DestinationRule,
    Kind::Gateway,
    Kind::Sidecar,
    Kind::AuthorizationPolicy,
    Kind::PeerAuthentication,
    Kind::Secret,
];

/// Kinds that the registry reads.
const REGISTRY: &[Kind] = &[
    Kind::Namespace,
    Kind::Node,
    Kind::Pod,
    Kind::Service,
    Kind::EndpointSlice,
    Kind::ServiceEntry,
    Kind::WorkloadEntry,
    Kind::Gateway,
    Kind::PeerAuthentication,
];

impl Builder {
    /// Starts with nothing. `state_file` keeps automatic addresses over restarts.
    pub fn new(identity: Identity, given: Peers, state_file: Option<PathBuf>) -> Self {
        let vips = state_file.as_deref().map(read_vips).unwrap_or_default();
        Self {
            identity,
            given,
            vips,
            state_file,
            before: None,
            analysis: Vec::new(),
            authority: None,
            trust_domain: None,
            restart: None,
        }
    }

    /// The next snapshot. Parts that `dirty` does not touch are taken over, parts that come out equal too.
    pub fn build(
        &mut self,
        store: &Store,
        peers: &Arc<PeerState>,
        resolved: &ResolvedNames,
        dirty: &Dirty,
    ) -> Arc<Snapshot> {
        let before = self.before.clone();
        let before = before.as_deref();
        let mut findings: Vec<Finding> = store.findings().cloned().collect();

        let mesh_dirty = dirty.kinds.contains(&Kind::ConfigMap);
        let mesh = match before {
            Some(before) if !mesh_dirty => Arc::clone(&before.mesh),
            _ => {
                let mesh = self.read_mesh(store);
                match before {
                    Some(before) => keep(mesh, &before.mesh),
                    None => Arc::new(mesh),
                }
            }
        };
        read_mesh(store, &self.identity, &mut findings);
        let listed = listed::read(store, &self.identity, &self.given, &mut findings);
        let listed = match before {
            Some(before) => keep(listed, &before.listed),
            None => Arc::new(listed),
        };
        let peers_changed = before.is_none_or(|b| !Arc::ptr_eq(&b.listed, &listed));
        let mesh_changed = before.is_none_or(|b| !Arc::ptr_eq(&b.mesh, &mesh));

        let config = match before {
            Some(before) if !mesh_changed && !dirty.touches(CONFIG) => Arc::clone(&before.config),
            Some(before) => keep(Config::read(store, &mesh), &before.config),
            None => Arc::new(Config::read(store, &mesh)),
        };

        let registry = match before {
            Some(before) if !mesh_changed && !peers_changed && !dirty.peers && !dirty.touches(REGISTRY) => {
                before.registry.clone()
            }
            _ => {
                let empty = Registry::default();
                let sources = Sources {
                    store,
                    mesh: &mesh,
                    peers,
                    peer_addresses: &listed::addresses(&listed),
                    resolved,
                    authentications: &config.authentication,
                };
                let state = self.vips.to_state();
                let registry =
                    Registry::build(&sources, &mut self.vips, before.map_or(&empty, |b| &b.registry));
                if self.vips.to_state() != state {
                    self.write_vips();
                }
                registry
            }
        };
        findings.extend(registry.findings.iter().cloned());
        let same_services = before.is_some_and(|b| Arc::ptr_eq(&b.registry.services, &registry.services));
        if dirty.touches(analyze::KINDS) || !same_services || peers_changed {
            self.analysis = analyze(store, &registry, peers.members.len() < listed.len());
        }
        findings.extend(self.analysis.iter().cloned());
        if dirty.touches(&[Kind::Secret]) || mesh_changed {
            let written = authority::secret(&config, &mesh.root_namespace);
            self.authority = written.and_then(authority::finding);
        }
        findings.extend(self.authority.clone());
        findings.extend(self.restart.clone());
        findings.sort();
        findings.dedup();

        let aside = Aside::of(&registry);
        let snapshot = Arc::new(Snapshot {
            version: before.map_or(0, |b| b.version) + 1,
            aside: before.map_or_else(Default::default, |b| Arc::clone(&b.aside)),
            findings: before.map_or_else(Default::default, |b| Arc::clone(&b.findings)),
            mesh,
            registry,
            config,
            peers: Arc::clone(peers),
            listed,
        });
        let snapshot = Arc::new(Snapshot {
            aside: keep(aside, &snapshot.aside),
            findings: keep(findings, &snapshot.findings),
            ..(*snapshot).clone()
        });
        self.before = Some(Arc::clone(&snapshot));
        snapshot
    }

    /// The mesh's settings now. The trust domain of the start stays in force: the authority, the proofs of
    /// identity and the links to peers have it, and names of another would match no certificate.
    fn read_mesh(&mut self, store: &Store) -> Mesh {
        let mut mesh = read_mesh(store, &self.identity, &mut Vec::new());
        let began = self.trust_domain.get_or_insert_with(|| mesh.trust_domain.clone());
        self.restart = None;
        if *began != mesh.trust_domain {
            let finding = Finding::new(
                &codes::RESTART_REQUIRED,
                format!(
                    "meshConfig.trustDomain is {} now; {began} stays in force until the control plane is started again",
                    mesh.trust_domain
                ),
                "restart the control plane, with the old trust domain among trustDomainAliases until every \
                 certificate is renewed",
            );
            let map = store.object(
                Kind::ConfigMap,
                &self.identity.root_namespace,
                mesh_config::CONFIG_MAP,
            );
            self.restart = Some(match map {
                Some(object) => finding
                    .at(&object.origin.file, object.positions.line("data.mesh"))
                    .about(object.key()),
                None => finding,
            });
            mesh.trust_domain = began.clone();
        }
        mesh
    }

    /// Kept before the addresses are used, so that none is ever given twice.
    fn write_vips(&self) {
        let Some(file) = &self.state_file else { return };
        let written = serde_json::to_vec_pretty(&self.vips.to_state())
            .map_err(std::io::Error::other)
            .and_then(|bytes| {
                let fresh = file.with_extension("new");
                if let Some(parent) = file.parent() {
                    std::fs::create_dir_all(parent)?;
                }
                std::fs::write(&fresh, bytes)?;
                std::fs::rename(&fresh, file)
            });
        if let Err(error) = written {
            tracing::error!(
                file = %file.display(), %error,
                "automatic addresses cannot be kept and may change at the next start; make the directory writable"
            );
        }
    }
}

fn read_vips(file: &std::path::Path) -> VipAllocator {
    let bytes = match std::fs::read(file) {
        Ok(bytes) => bytes,
        Err(error) => {
            if error.kind() != std::io::ErrorKind::NotFound {
                tracing::warn!(file = %file.display(), %error, "automatic addresses cannot be read; new ones are given");
            }
            return VipAllocator::new();
        }
    };
    match serde_json::from_slice::<VipState>(&bytes) {
        Ok(state) => {
            let (vips, dropped) = VipAllocator::from_state(&state);
            for reason in dropped {
                tracing::warn!(file = %file.display(), "automatic address dropped: {reason}");
            }
            vips
        }
        Err(error) => {
            tracing::warn!(file = %file.display(), %error, "automatic addresses cannot be read; new ones are given");
            VipAllocator::new()
        }
    }
}

/// What the objects of all sources show together, among what other clusters have; `incomplete` while not all of
/// them are known.
fn analyze(store: &Store, registry: &Registry, incomplete: bool) -> Vec<Finding> {
    let objects: Vec<_> = store
        .objects()
        .filter(|o| analyze::KINDS.contains(&o.kind))
        .cloned()
        .collect();
    let mut elsewhere = Elsewhere {
        incomplete,
        ..Elsewhere::default()
    };
    for service in registry.services.values() {
        let ports: Vec<u16> = service.service.ports.iter().map(|p| p.number).collect();
        for host in std::iter::once(service.host()).chain(&service.aliases) {
            elsewhere.hosts.insert(host.clone(), ports.clone());
        }
    }
    analyze_within(&objects, &elsewhere)
}

/// The mesh's settings: ConfigMap `istio` of the root namespace over what the command line says.
fn read_mesh(store: &Store, identity: &Identity, findings: &mut Vec<Finding>) -> Mesh {
    let object = store.object(Kind::ConfigMap, &identity.root_namespace, mesh_config::CONFIG_MAP);
    let map = object.and_then(|o| Some((o, o.typed::<isthmus_api::kubernetes::ConfigMap>()?)));
    let Some((object, map)) = map else {
        return Mesh::new(identity, &mesh_config::Mesh::default());
    };
    // The text of a block scalar begins on the line below its key.
    let first_line = |key: &str| object.positions.line(&format!("data.{key}")) + 1;
    let (written, found) = mesh_config::from_config_map(map, &object.origin.file, first_line);
    findings.extend(found);
    let mesh = Mesh::new(identity, &written);
    let said = &identity.trust_domain;
    if said.as_ref().is_some_and(|t| *t != mesh.trust_domain) {
        findings.push(
            Finding::new(
                &codes::TRUST_DOMAINS_DIFFER,
                format!(
                    "meshConfig.trustDomain is {}, the installation says {}; the former is used",
                    mesh.trust_domain,
                    said.as_ref().map(ToString::to_string).unwrap_or_default()
                ),
                "write the same in both",
            )
            .at(&object.origin.file, object.positions.line("data.mesh"))
            .about(object.key()),
        );
    }
    mesh
}
