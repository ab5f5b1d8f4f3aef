//! Kubernetes kinds about which there is little to say; the API server has checked them already.

use std::net::IpAddr;

use super::metadata::clip;
use super::{At, Context, Validate};
use crate::kubernetes::pod::Container;
use crate::kubernetes::{Deployment, Namespace, Node, Pod, Secret, ServiceAccount};

impl Validate for Namespace {
    fn validate(&self, _: &Context<'_>) {}
}

impl Validate for ServiceAccount {
    fn validate(&self, _: &Context<'_>) {}
}

impl Validate for Node {
    fn validate(&self, _: &Context<'_>) {}
}

impl Validate for Pod {
    fn validate(&self, context: &Context<'_>) {
        for address in self.addresses() {
            ip(address, &context.at("status.podIP"));
        }
        containers(&self.spec.containers, &context.at("spec.containers"));
    }
}

impl Validate for Deployment {
    fn validate(&self, context: &Context<'_>) {
        let template = &self.spec.template;
        containers(
            &template.spec.containers,
            &context.at("spec.template.spec.containers"),
        );
        if !template.metadata.labels.matches(&self.spec.selector.match_labels) {
            context.at("spec.selector.matchLabels").error(
                "the selector does not match the labels of the template",
                "give spec.template.metadata.labels the same labels",
            );
        }
    }
}

impl Validate for Secret {
    fn validate(&self, context: &Context<'_>) {
        for key in self.data.keys() {
            if self.bytes(key).is_none() {
                // The content itself must not show.
                context
                    .at("data")
                    .field(key)
                    .error("the value is not base64", "encode it, or move it to stringData");
            }
        }
    }
}

fn containers(containers: &[Container], at: &At<'_>) {
    for (i, container) in containers.iter().enumerate() {
        for (j, port) in container.ports.iter().enumerate() {
            super::field::port(
                port.container_port,
                &at.index(i).field("ports").index(j).field("containerPort"),
            );
        }
    }
}

/// An address of a pod or endpoint.
pub(super) fn ip(address: &str, at: &At<'_>) {
    if address.parse::<IpAddr>().is_err() {
        at.error(
            format_args!("{:?} is not an IP address", clip(address)),
            "write an IPv4 or IPv6 address",
        );
    }
}
