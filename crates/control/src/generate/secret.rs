//! SDS for gateways: certificates from Secrets of the gateway's own, proven namespace.

use std::collections::BTreeSet;
use std::sync::Arc;

use isthmus_api::codes;
use isthmus_api::finding::Finding;
use isthmus_api::istio::destination_rule::ClientTlsMode;
use isthmus_api::istio::gateway::ServerTlsMode;
use isthmus_api::kubernetes::Secret;
use isthmus_xds::Resource;
use isthmus_xds::envoy::core::{DataSource, data_source::Specifier};
use isthmus_xds::envoy::tls;

use super::context::Context;
use super::listener::gateway::servers;

/// The secrets that the gateway's listeners and clusters name.
pub fn secrets(context: &Context<'_>, findings: &mut Vec<Finding>) -> Vec<Arc<Resource>> {
    // Only a stream that proved who it is may read keys, and only those of its own namespace.
    if context.proxy.identity.is_none() {
        return Vec::new();
    }
    let mut certificates: BTreeSet<String> = BTreeSet::new();
    let mut roots: BTreeSet<String> = BTreeSet::new();
    for bound in servers(context) {
        let Some(settings) = &bound.server.tls else {
            continue;
        };
        if matches!(
            settings.mode,
            ServerTlsMode::IstioMutual | ServerTlsMode::Passthrough | ServerTlsMode::AutoPassthrough
        ) {
            continue;
        }
        let names = std::iter::once(&settings.credential_name).chain(&settings.credential_names);
        let names: Vec<&String> = names.filter(|n| !n.is_empty()).collect();
        let verifies = matches!(
            settings.mode,
            ServerTlsMode::Mutual | ServerTlsMode::OptionalMutual
        );
        if let (true, Some(first)) = (verifies, names.first()) {
            roots.insert(match settings.ca_cert_credential_name.as_str() {
                "" => format!("{first}-cacert"),
                said => said.to_owned(),
            });
        }
        for name in names {
            if secret(context, name).is_none_or(|s| certificate(s).is_none()) {
                findings.push(
                    Finding::new(
                        &codes::REFERENCED_RESOURCE_NOT_FOUND,
                        format!(
                            "Secret {}/{name} with tls.crt and tls.key does not exist; the server takes no connection",
                            context.proxy.namespace
                        ),
                        "create it in the namespace of the gateway's pods",
                    )
                    .at(&bound.gateway.object.origin.file, bound.gateway.object.positions.line(&format!("spec.servers[{}].tls", bound.index)))
                    .about(bound.gateway.object.key()),
                );
            }
            certificates.insert(name.clone());
        }
    }
    for rule in &context.snapshot.config.destination_rules {
        let policies = rule
            .spec
            .traffic_policy
            .iter()
            .chain(rule.spec.subsets.iter().filter_map(|s| s.traffic_policy.as_ref()));
        for settings in policies.flat_map(|p| {
            p.tls
                .iter()
                .chain(p.port_level_settings.iter().filter_map(|s| s.tls.as_ref()))
        }) {
            if !settings.credential_name.is_empty() {
                roots.insert(format!("{}-cacert", settings.credential_name));
                if settings.mode == ClientTlsMode::Mutual {
                    certificates.insert(settings.credential_name.clone());
                }
            }
        }
    }
    let mut out = Vec::new();
    for name in certificates {
        let Some((chain, key)) = secret(context, &name).and_then(certificate) else {
            continue;
        };
        out.push(resource(
            &name,
            tls::secret::Type::TlsCertificate(tls::TlsCertificate {
                certificate_chain: Some(inline(chain)),
                private_key: Some(inline(key)),
                ..Default::default()
            }),
        ));
    }
    for name in roots {
        let own = secret(context, &name).and_then(authority);
        let beside = || {
            name.strip_suffix("-cacert")
                .and_then(|n| secret(context, n))
                .and_then(authority)
        };
        let Some(pem) = own.or_else(beside) else { continue };
        out.push(resource(
            &name,
            tls::secret::Type::ValidationContext(tls::CertificateValidationContext {
                trusted_ca: Some(inline(pem)),
                ..Default::default()
            }),
        ));
    }
    out
}

fn secret<'a>(context: &Context<'a>, name: &str) -> Option<&'a Secret> {
    let secrets = context.snapshot.config.secrets.iter();
    let mut mine = secrets.filter(|s| s.namespace() == context.proxy.namespace && s.object.meta.name == name);
    mine.next().map(|s| &*s.spec)
}

fn certificate(secret: &Secret) -> Option<(Vec<u8>, Vec<u8>)> {
    let pair = |chain: &str, key: &str| Some((secret.bytes(chain)?, secret.bytes(key)?));
    pair("tls.crt", "tls.key").or_else(|| pair("cert", "key"))
}

fn authority(secret: &Secret) -> Option<Vec<u8>> {
    ["ca.crt", "cacert"].iter().find_map(|key| secret.bytes(key))
}

fn resource(name: &str, kind: tls::secret::Type) -> Arc<Resource> {
    let name = format!("kubernetes://{name}");
    Resource::new(
        name.as_str(),
        &tls::Secret {
            name: name.clone(),
            r#type: Some(kind),
        },
    )
}

fn inline(bytes: Vec<u8>) -> DataSource {
    DataSource {
        specifier: Some(Specifier::InlineBytes(bytes)),
        ..Default::default()
    }
}
