//! IstioOperator: components with names, and settings that are known to do nothing.

use super::field::repeated;
use super::metadata::{clip, is_dns_label};
use super::{At, Context, Validate};
use crate::codes;
use crate::istio::IstioOperator;
use crate::istio::istio_operator::Component;

impl Validate for IstioOperator {
    fn validate(&self, context: &Context<'_>) {
        let at = context.at("spec");
        gateways(
            &self.components.ingress_gateways,
            &at.field("components").field("ingressGateways"),
        );
        gateways(
            &self.components.egress_gateways,
            &at.field("components").field("egressGateways"),
        );
        if !self.namespace.is_empty() && !is_dns_label(&self.namespace) {
            at.field("namespace").error(
                format_args!("{:?} is not a namespace", clip(&self.namespace)),
                "correct it",
            );
        }
        if !self.install_package_path.is_empty() {
            let at = at.field("installPackagePath");
            at.finding(&codes::NO_EFFECT, "the manifests are built in", "remove it");
        }
        let env = self.values.get("pilot").and_then(|p| p.get("env"));
        if env.and_then(|e| e.get("PILOT_ENABLE_MULTINETWORK")).is_some() {
            let at = at
                .field("values")
                .field("pilot")
                .field("env")
                .field("PILOT_ENABLE_MULTINETWORK");
            at.finding(&codes::NO_EFFECT, "several networks need no switch", "remove it");
        }
    }
}

fn gateways(list: &[Component], at: &At<'_>) {
    for (i, gateway) in list.iter().enumerate() {
        if gateway.name.is_empty() {
            at.index(i).error("the gateway has no name", "add name");
        }
    }
    for i in repeated(list.iter().map(|g| (&g.namespace, &g.name))) {
        at.index(i).field("name").error(
            format_args!("the gateway {:?} stands here twice", clip(&list[i].name)),
            "rename one",
        );
    }
}
