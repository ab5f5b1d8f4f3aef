//! Whether a workload insists on mutual TLS: PeerAuthentication of mesh, namespace, workload and port.

use std::collections::BTreeMap;

use isthmus_api::istio::PeerAuthentication;
use isthmus_api::istio::peer_authentication::MutualTlsMode;
use isthmus_model::Labels;

use crate::ingest::store::Store;

/// What a port of a workload does with mutual TLS.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum MtlsMode {
    /// Never takes it.
    Disable,
    /// Takes it and plaintext.
    #[default]
    Permissive,
    /// Takes nothing else.
    Strict,
}

/// What holds for one workload.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct WorkloadMtls {
    /// For ports without a rule of their own.
    pub mode: MtlsMode,
    /// By port of the workload.
    pub ports: BTreeMap<u16, MtlsMode>,
}

impl WorkloadMtls {
    /// What holds for a port of the workload.
    pub fn port(&self, port: u16) -> MtlsMode {
        self.ports.get(&port).copied().unwrap_or(self.mode)
    }
}

/// Every PeerAuthentication of the own cluster, by scope; within one the oldest wins, as in Istio.
#[derive(Debug, Default, PartialEq)]
pub struct PeerAuthentications {
    mesh: Option<MtlsMode>,
    namespaces: BTreeMap<String, MtlsMode>,
    workloads: BTreeMap<String, Vec<Selected>>,
}

#[derive(Debug, PartialEq)]
struct Selected {
    labels: Labels,
    mode: Option<MtlsMode>,
    ports: BTreeMap<u16, Option<MtlsMode>>,
}

impl PeerAuthentications {
    /// Reads the policies.
    pub fn read(store: &Store, root_namespace: &str) -> Self {
        let mut policies: Vec<_> = store.iter::<PeerAuthentication>().collect();
        policies.sort_by_key(|(o, _)| (o.meta.creation_timestamp.clone(), o.meta.name.clone()));
        let mut all = Self::default();
        for (object, policy) in policies {
            let namespace = &object.meta.namespace;
            let mode = policy.mtls.as_ref().and_then(|m| said(m.mode));
            let labels = policy
                .selector
                .as_ref()
                .map(|s| &s.match_labels)
                .filter(|l| !l.is_empty());
            match labels {
                Some(labels) => all
                    .workloads
                    .entry(namespace.clone())
                    .or_default()
                    .push(Selected {
                        labels: labels.clone(),
                        mode,
                        ports: policy
                            .port_level_mtls
                            .iter()
                            .map(|(p, m)| (*p, said(m.mode)))
                            .collect(),
                    }),
                None if namespace == root_namespace => all.mesh = all.mesh.or(mode),
                None => {
                    if let Some(mode) = mode {
                        all.namespaces.entry(namespace.clone()).or_insert(mode);
                    }
                }
            }
        }
        all
    }

    /// What holds for a workload.
    pub fn of(&self, namespace: &str, labels: &Labels) -> WorkloadMtls {
        let parent = self
            .namespaces
            .get(namespace)
            .copied()
            .or(self.mesh)
            .unwrap_or_default();
        let mine = self
            .workloads
            .get(namespace)
            .into_iter()
            .flatten()
            .find(|s| labels.matches(&s.labels));
        let Some(mine) = mine else {
            return WorkloadMtls {
                mode: parent,
                ports: BTreeMap::new(),
            };
        };
        let mode = mine.mode.unwrap_or(parent);
        WorkloadMtls {
            mode,
            ports: mine.ports.iter().map(|(p, m)| (*p, m.unwrap_or(mode))).collect(),
        }
    }
}

fn said(mode: MutualTlsMode) -> Option<MtlsMode> {
    match mode {
        MutualTlsMode::Unset => None,
        MutualTlsMode::Disable => Some(MtlsMode::Disable),
        MutualTlsMode::Permissive => Some(MtlsMode::Permissive),
        MutualTlsMode::Strict => Some(MtlsMode::Strict),
    }
}
