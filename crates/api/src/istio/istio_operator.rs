//! `install.istio.io` IstioOperator: what is to be installed.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use crate::message::message;

message! {
    /// An installation. Trees that are overlaid on profiles stay trees.
    pub struct IstioOperator {
        /// Profile that it starts from.
        profile: String,
        /// Registry of the images.
        hub: String,
        /// Tag of the images.
        tag: Option<Value>,
        /// Revision, for several control planes side by side.
        revision: String,
        /// Namespace of the control plane.
        namespace: String,
        /// Path of the charts; without effect here.
        install_package_path: String,
        /// Version whose defaults are kept.
        compatibility_version: String,
        /// Overlay on the MeshConfig.
        mesh_config: Map<String, Value>,
        /// What is installed.
        components: Components,
        /// Helm values.
        values: Map<String, Value>,
        /// Helm values that are not checked.
        unvalidated_values: Map<String, Value>,
    }

    /// Components of an installation.
    pub struct Components {
        /// CRDs and cluster-wide objects.
        base: Option<Component>,
        /// Control plane.
        pilot: Option<Component>,
        /// CNI plug-in.
        cni: Option<Component>,
        /// Node proxy of ambient.
        ztunnel: Option<Component>,
        /// Remote control plane.
        istiod_remote: Option<Component>,
        /// Gateways for traffic into the mesh, east-west gateways included.
        ingress_gateways: Vec<Component>,
        /// Gateways for traffic out of the mesh.
        egress_gateways: Vec<Component>,
    }

    /// One component.
    pub struct Component {
        /// Name (gateways).
        name: String,
        /// Namespace; the control plane's when empty.
        namespace: String,
        /// Whether it is installed.
        enabled: Option<bool>,
        /// Labels of a gateway's pods, e.g. `istio: eastwestgateway`.
        label: BTreeMap<String, String>,
        /// Registry of the image.
        hub: String,
        /// Tag of the image.
        tag: Option<Value>,
        /// Kubernetes settings: service, env, resources, hpaSpec, overlays and the rest.
        k8s: Map<String, Value>,
    }
}
