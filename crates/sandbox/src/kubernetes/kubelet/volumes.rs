//! A pod's volumes, read from where they come.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::PathBuf;
use std::time::SystemTime;

use k8s_openapi::api::core::v1::{Container, DownwardAPIVolumeFile, Pod, PodSpec, Volume as Source};
use kube::ResourceExt;

use super::fields;
use super::sources::{Entries, Kind, Obstacle, Sources, Token};
use crate::kubernetes::node::NodeFacts;
use crate::plan::Volume;

/// Life of a token whose volume states none.
const TOKEN_LIFE: i64 = 3600;

/// Reads a pod's volumes, again and again while the pod lives.
pub(super) struct Volumes {
    sources: Sources,
    node: NodeFacts,
    /// Tokens by volume and place in it.
    tokens: HashMap<(String, usize), Token>,
    /// What the volumes were read from last: a change of it is a reason to read them again.
    pub(super) references: BTreeSet<(Kind, String)>,
}

impl Volumes {
    pub(super) fn new(sources: Sources, node: NodeFacts) -> Self {
        Self {
            sources,
            node,
            tokens: HashMap::new(),
            references: BTreeSet::new(),
        }
    }

    /// When a token is to be renewed.
    pub(super) fn renew_at(&self) -> Option<SystemTime> {
        self.tokens.values().map(|t| t.renew_at).min()
    }

    /// All volumes that containers mount, with their content now.
    pub(super) async fn read(&mut self, pod: &Pod) -> Result<Vec<Volume>, Obstacle> {
        let Some(spec) = &pod.spec else {
            return Ok(Vec::new());
        };
        let mut references = BTreeSet::new();
        let mut volumes = Vec::new();
        for source in spec.volumes.iter().flatten() {
            let mounts = mounts(spec, &source.name);
            let failed = |why: String| {
                let name = &source.name;
                Obstacle::new(
                    "FailedMount",
                    format!("MountVolume.SetUp failed for volume {name:?} : {why}"),
                )
            };
            let files = self
                .files(pod, spec, source, &mut references)
                .await
                .map_err(failed)?;
            volumes.push(Volume {
                name: source.name.clone(),
                files,
                mounts,
            });
        }
        self.references = references;
        check(&volumes)?;
        Ok(volumes)
    }

    async fn files(
        &mut self,
        pod: &Pod,
        spec: &PodSpec,
        source: &Source,
        references: &mut BTreeSet<(Kind, String)>,
    ) -> Result<Option<Entries>, String> {
        let namespace = pod.namespace().unwrap_or_default();
        if source.empty_dir.is_some() {
            return Ok(None);
        }
        if let Some(map) = &source.config_map {
            references.insert((Kind::ConfigMap, map.name.clone()));
            let optional = map.optional.unwrap_or_default();
            let items = map.items.as_deref();
            let chosen = self
                .sources
                .chosen(Kind::ConfigMap, &namespace, &map.name, items, optional);
            return chosen.await.map(Some);
        }
        if let Some(secret) = &source.secret {
            let name = secret.secret_name.clone().unwrap_or_default();
            references.insert((Kind::Secret, name.clone()));
            let optional = secret.optional.unwrap_or_default();
            let items = secret.items.as_deref();
            let chosen = self
                .sources
                .chosen(Kind::Secret, &namespace, &name, items, optional);
            return chosen.await.map(Some);
        }
        if let Some(downward) = &source.downward_api {
            return self
                .downward(pod, spec, downward.items.as_deref().unwrap_or_default())
                .map(Some);
        }
        let Some(projected) = &source.projected else {
            return Err(
                "the sandbox has volumes of the kinds configMap, secret, projected, downwardAPI and emptyDir"
                    .to_owned(),
            );
        };
        let mut files = Entries::new();
        for (place, part) in projected.sources.iter().flatten().enumerate() {
            if let Some(map) = &part.config_map {
                references.insert((Kind::ConfigMap, map.name.clone()));
                let optional = map.optional.unwrap_or_default();
                let items = map.items.as_deref();
                let chosen = self
                    .sources
                    .chosen(Kind::ConfigMap, &namespace, &map.name, items, optional);
                files.extend(chosen.await?);
            } else if let Some(secret) = &part.secret {
                references.insert((Kind::Secret, secret.name.clone()));
                let optional = secret.optional.unwrap_or_default();
                let items = secret.items.as_deref();
                let chosen = self
                    .sources
                    .chosen(Kind::Secret, &namespace, &secret.name, items, optional);
                files.extend(chosen.await?);
            } else if let Some(downward) = &part.downward_api {
                files.extend(self.downward(pod, spec, downward.items.as_deref().unwrap_or_default())?);
            } else if let Some(token) = &part.service_account_token {
                let key = (source.name.clone(), place);
                let fresh = self.tokens.get(&key).filter(|t| t.renew_at > SystemTime::now());
                let text = match fresh {
                    Some(token) => token.text.clone(),
                    None => {
                        let life = token.expiration_seconds.unwrap_or(TOKEN_LIFE);
                        let new = self.sources.token(pod, token.audience.as_deref(), life).await?;
                        let text = new.text.clone();
                        self.tokens.insert(key, new);
                        text
                    }
                };
                files.insert(token.path.clone(), text.into_bytes());
            } else {
                return Err(
                    "the sandbox projects serviceAccountToken, configMap, secret and downwardAPI".to_owned(),
                );
            }
        }
        Ok(Some(files))
    }

    fn downward(
        &self,
        pod: &Pod,
        spec: &PodSpec,
        items: &[DownwardAPIVolumeFile],
    ) -> Result<Entries, String> {
        let mut files = Entries::new();
        for item in items {
            let value = match (&item.field_ref, &item.resource_field_ref) {
                (Some(field), _) => fields::field(pod, &self.node, &field.field_path)?,
                (_, Some(resource)) => {
                    let containers: Vec<Container> = containers(spec).cloned().collect();
                    fields::resource(&containers, resource)?
                }
                _ => return Err(format!("{} has no fieldRef and no resourceFieldRef", item.path)),
            };
            files.insert(item.path.clone(), value.into_bytes());
        }
        Ok(files)
    }
}

/// Init containers first.
pub(super) fn containers(spec: &PodSpec) -> impl Iterator<Item = &Container> {
    spec.init_containers.iter().flatten().chain(&spec.containers)
}

/// Where a volume is mounted, in any container: all of them see the same files.
fn mounts(spec: &PodSpec, volume: &str) -> Vec<(PathBuf, String)> {
    let mut mounts = BTreeSet::new();
    for container in containers(spec) {
        for mount in container.volume_mounts.iter().flatten() {
            if mount.name == volume {
                let part = mount.sub_path.clone().unwrap_or_default();
                mounts.insert((PathBuf::from(&mount.mount_path), part));
            }
        }
    }
    mounts.into_iter().collect()
}

/// Containers of a pod share their files in the sandbox, so that a path is one volume's for all of them.
fn check(volumes: &[Volume]) -> Result<(), Obstacle> {
    let mut owners: BTreeMap<&PathBuf, (&str, &str)> = BTreeMap::new();
    for volume in volumes {
        for (at, part) in &volume.mounts {
            let owner = owners.entry(at).or_insert((&volume.name, part));
            if *owner != (volume.name.as_str(), part.as_str()) {
                return Err(Obstacle::new(
                    "FailedMount",
                    format!(
                        "the containers of a pod share their files in the sandbox, and {} is to be of volume {:?} \
                         and of volume {:?}; choose different paths",
                        at.display(),
                        owner.0,
                        volume.name
                    ),
                ));
            }
        }
    }
    Ok(())
}
