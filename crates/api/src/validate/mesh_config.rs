//! MeshConfig and MeshNetworks. A ConfigMap with errors is refused like any object.

use isthmus_model::TrustDomain;

use super::field::{address_or_cidr, export_to, host, port, positive, whole_milliseconds};
use super::traffic_policy::locality_lb;
use super::{Context, Validate};
use crate::enforcement;
use crate::mesh_config::{MeshConfig, MeshNetworks, PathNormalizationType};

impl Validate for MeshConfig {
    fn validate(&self, context: &Context<'_>) {
        let at = context.at("mesh");
        for (name, domain) in std::iter::once(("trustDomain", &self.trust_domain)).chain(
            self.trust_domain_aliases
                .iter()
                .map(|d| ("trustDomainAliases", d)),
        ) {
            if !domain.is_empty()
                && let Err(e) = domain.parse::<TrustDomain>()
            {
                at.field(name).error(e, "correct it");
            }
        }
        positive(self.connect_timeout, &at.field("connectTimeout"));
        positive(self.dns_refresh_rate, &at.field("dnsRefreshRate"));
        whole_milliseconds(
            self.protocol_detection_timeout,
            &at.field("protocolDetectionTimeout"),
        );
        for (name, list) in [
            ("defaultServiceExportTo", &self.default_service_export_to),
            (
                "defaultVirtualServiceExportTo",
                &self.default_virtual_service_export_to,
            ),
            (
                "defaultDestinationRuleExportTo",
                &self.default_destination_rule_export_to,
            ),
        ] {
            export_to(list, &at.field(name));
        }
        if let Some(locality) = &self.locality_lb_setting {
            locality_lb(locality, &at.field("localityLbSetting"));
        }
        let normalization = self
            .path_normalization
            .as_ref()
            .map(|p| p.normalization)
            .unwrap_or_default();
        if !matches!(
            normalization,
            PathNormalizationType::Default | PathNormalizationType::Base
        ) {
            enforcement::require("MeshConfig.pathNormalization", &at.field("pathNormalization"));
        }
        for (set, field, rule) in [
            (self.mesh_mtls.is_some(), "meshMTLS", "MeshConfig.meshMTLS"),
            (
                self.tls_defaults.is_some(),
                "tlsDefaults",
                "MeshConfig.tlsDefaults",
            ),
        ] {
            if set {
                enforcement::require(rule, &at.field(field));
            }
        }
        if !matches!(self.compatibility.as_str(), "" | "istio") {
            at.field("compatibility")
                .error("only \"istio\" is known", "remove it, or write istio");
        }
    }
}

impl Validate for MeshNetworks {
    fn validate(&self, context: &Context<'_>) {
        for (name, network) in &self.networks {
            let at = context.at("meshNetworks").field("networks").field(name);
            for (i, endpoints) in network.endpoints.iter().enumerate() {
                let at = at.field("endpoints").index(i);
                if endpoints.from_cidr.is_some() == endpoints.from_registry.is_some() {
                    at.error(
                        "endpoints come from one place",
                        "write one of fromCidr and fromRegistry",
                    );
                }
                if let Some(cidr) = &endpoints.from_cidr {
                    address_or_cidr(cidr, &at.field("fromCidr"));
                }
            }
            for (i, gateway) in network.gateways.iter().enumerate() {
                let at = at.field("gateways").index(i);
                if gateway.address.is_some() == gateway.registry_service_name.is_some() {
                    at.error(
                        "a gateway has one address",
                        "write one of address and registryServiceName",
                    );
                }
                if let Some(address) = &gateway.address
                    && address.parse::<std::net::IpAddr>().is_err()
                {
                    host(address, false, &at.field("address"));
                }
                port(gateway.port, &at.field("port"));
            }
        }
    }
}
