//! `apps/v1` Deployment.

use std::collections::BTreeMap;

use isthmus_model::Labels;

use super::pod::PodSpec;
use crate::message::message;

message! {
    /// Pods of one template.
    pub struct Deployment {
        /// What is asked for.
        spec: DeploymentSpec,
    }

    /// What is asked for.
    pub struct DeploymentSpec {
        /// How many; 1 when absent.
        replicas: Option<u32>,
        /// Labels of its pods.
        selector: Selector,
        /// The pods.
        template: PodTemplate,
    }

    /// Labels of the pods.
    pub struct Selector {
        /// Labels that a pod must have.
        match_labels: Labels,
    }

    /// The pods.
    pub struct PodTemplate {
        /// Their metadata.
        metadata: TemplateMeta,
        /// Their content.
        spec: PodSpec,
    }

    /// Metadata of the pods.
    pub struct TemplateMeta {
        /// Labels.
        labels: Labels,
        /// Annotations.
        annotations: BTreeMap<String, String>,
    }
}
