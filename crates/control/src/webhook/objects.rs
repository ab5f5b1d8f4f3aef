//! Settings from the objects that the control plane watches.

use isthmus_api::kubernetes::{ConfigMap, Namespace};
use isthmus_api::mesh_config::{self, MeshConfig};
use isthmus_api::{Kind, annotation};
use isthmus_manifests::inject::settings;

use super::settings::Source;
use crate::mesh::Identity;
use crate::push::{ControlPlane, Objects};

/// The objects of the own cluster.
pub struct OwnObjects {
    /// Who the control plane is.
    pub identity: Identity,
    /// Its revision; empty for the default one.
    pub revision: String,
    /// The snapshot, for what is settled between flags and MeshConfig.
    pub plane: ControlPlane,
    /// The objects.
    pub objects: Objects,
}

impl OwnObjects {
    /// A ConfigMap of the control plane's namespace: that of the revision, as Istio names it.
    fn config_map<T>(&self, name: &str, read: impl FnOnce(&ConfigMap) -> T) -> Option<T> {
        let name = match self.revision.as_str() {
            "" | "default" => name.to_owned(),
            revision => format!("{name}-{revision}"),
        };
        let objects = self.objects.lock();
        let object = objects.object(Kind::ConfigMap, &self.identity.root_namespace, &name)?;
        object.typed::<ConfigMap>().map(|map| read(map))
    }
}

impl Source for OwnObjects {
    fn identity(&self) -> &Identity {
        &self.identity
    }

    fn revision(&self) -> &str {
        &self.revision
    }

    fn values(&self) -> Option<String> {
        self.config_map(settings::CONFIG_MAP, |map| map.data.get(settings::KEY).cloned())?
    }

    fn mesh_config(&self) -> MeshConfig {
        let read = |map: &ConfigMap| mesh_config::from_config_map(map, &"".into(), |_| 1).0.config;
        let mut config = self.config_map(mesh_config::CONFIG_MAP, read).unwrap_or_default();
        if let Some(snapshot) = self.plane.snapshot() {
            config.trust_domain = snapshot.mesh.trust_domain.to_string();
        }
        config
    }

    fn network(&self, namespace: &str) -> Option<String> {
        let objects = self.objects.lock();
        let object = objects.object(Kind::Namespace, "", namespace)?;
        object.typed::<Namespace>()?;
        object.meta.labels.value(annotation::NETWORK).map(str::to_owned)
    }
}
