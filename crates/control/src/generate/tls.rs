//! TLS contexts: mesh mTLS both ways, TLS that users ask for.

use std::collections::BTreeSet;

use isthmus_api::istio::destination_rule::{ClientTlsMode, ClientTlsSettings};
use isthmus_api::istio::gateway::{ServerTlsMode, ServerTlsSettings, TlsProtocol};
use isthmus_model::{Protocol, SpiffeId, TrustDomain};
use isthmus_xds::envoy::core::TransportSocket;
use isthmus_xds::envoy::matcher::StringMatcher;
use isthmus_xds::envoy::tls::{self, common_tls_context::ValidationContextType};

use super::wire;

/// The workload's own certificate, made and kept by the proxy.
const OWN: &str = "default";
/// The roots of the mesh.
const ROOTS: &str = "ROOTCA";
/// The system's roots.
const SYSTEM_ROOTS: &str = "file-root:system";

/// ALPN values by which gateways and sidecars know mesh mTLS.
pub const MESH_ALPN: [&str; 5] = [
    "istio",
    "istio-peer-exchange",
    "istio-http/1.0",
    "istio-http/1.1",
    "istio-h2",
];

/// ALPN values of HTTP inside mesh mTLS.
pub const MESH_HTTP_ALPN: [&str; 3] = ["istio-http/1.0", "istio-http/1.1", "istio-h2"];

/// ALPN values of opaque bytes inside mesh mTLS.
pub const MESH_TCP_ALPN: [&str; 2] = ["istio-peer-exchange", "istio"];

/// Whom a server must prove to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Servers {
    /// One of these identities (or of the same account in an alias of the trust domain).
    Accounts(BTreeSet<SpiffeId>),
    /// Any account of a namespace: nobody told which.
    Namespace(TrustDomain, String),
    /// One of these names.
    Names(Vec<String>),
}

/// Mesh mTLS towards a server.
pub fn mesh_client(
    sni: String,
    alpn: &[&str],
    servers: &Servers,
    aliases: &[TrustDomain],
) -> TransportSocket {
    let sans = match servers {
        Servers::Accounts(accounts) => accounts
            .iter()
            .flat_map(|id| {
                let others = aliases.iter().filter(|a| **a != id.trust_domain);
                let others = others.map(|a| SpiffeId {
                    trust_domain: a.clone(),
                    ..id.clone()
                });
                std::iter::once(id.clone()).chain(others)
            })
            .map(|id| uri(wire::exact(id.to_string())))
            .collect(),
        Servers::Namespace(domain, namespace) => std::iter::once(domain)
            .chain(aliases)
            .map(|d| uri(wire::prefix(format!("spiffe://{d}/ns/{namespace}/sa/"))))
            .collect(),
        Servers::Names(names) => names.iter().map(|n| san(n)).collect(),
    };
    client(tls::UpstreamTlsContext {
        sni,
        common_tls_context: Some(tls::CommonTlsContext {
            alpn_protocols: alpn.iter().map(|a| (*a).to_owned()).collect(),
            tls_certificate_sds_secret_configs: vec![secret(OWN)],
            validation_context_type: Some(validation(ROOTS, sans)),
            ..mesh_params()
        }),
        ..Default::default()
    })
}

/// TLS towards a server as a DestinationRule asks for it, without ISTIO_MUTUAL and DISABLE.
pub fn user_client(settings: &ClientTlsSettings, host: &str, http2: bool, gateway: bool) -> TransportSocket {
    let named = gateway && !settings.credential_name.is_empty();
    let certificates = match settings.mode {
        ClientTlsMode::Mutual if named => vec![secret(&format!("kubernetes://{}", settings.credential_name))],
        ClientTlsMode::Mutual if !settings.client_certificate.is_empty() => {
            vec![secret(&format!(
                "file-cert:{}~{}",
                settings.client_certificate, settings.private_key
            ))]
        }
        _ => Vec::new(),
    };
    let roots = if named {
        format!("kubernetes://{}-cacert", settings.credential_name)
    } else if settings.ca_certificates.is_empty() {
        SYSTEM_ROOTS.to_owned()
    } else {
        format!("file-root:{}", settings.ca_certificates)
    };
    let verified = settings.insecure_skip_verify != Some(true);
    let sans = settings.subject_alt_names.iter().map(|n| san(n)).collect();
    client(tls::UpstreamTlsContext {
        sni: if settings.sni.is_empty() {
            host.to_owned()
        } else {
            settings.sni.clone()
        },
        common_tls_context: Some(tls::CommonTlsContext {
            alpn_protocols: if http2 { vec!["h2".to_owned()] } else { Vec::new() },
            tls_certificate_sds_secret_configs: certificates,
            validation_context_type: verified.then(|| validation(&roots, sans)),
            ..Default::default()
        }),
        ..Default::default()
    })
}

/// Mesh mTLS from clients, `STRICT` in that a certificate is required.
pub fn mesh_server() -> TransportSocket {
    server(tls::DownstreamTlsContext {
        require_client_certificate: wire::boolean(true),
        common_tls_context: Some(tls::CommonTlsContext {
            alpn_protocols: ["h2", "http/1.1", "istio"].map(str::to_owned).to_vec(),
            tls_certificate_sds_secret_configs: vec![secret(OWN)],
            validation_context_type: Some(validation(ROOTS, Vec::new())),
            ..mesh_params()
        }),
        ..Default::default()
    })
}

/// TLS that a gateway terminates. `None` where the gateway terminates nothing.
pub fn gateway_server(settings: &ServerTlsSettings, http: bool) -> Option<TransportSocket> {
    let names: Vec<&String> = std::iter::once(&settings.credential_name)
        .chain(&settings.credential_names)
        .filter(|n| !n.is_empty())
        .collect();
    let mutual = matches!(
        settings.mode,
        ServerTlsMode::Mutual | ServerTlsMode::OptionalMutual
    );
    let (certificates, roots) = match settings.mode {
        ServerTlsMode::Passthrough | ServerTlsMode::AutoPassthrough => return None,
        ServerTlsMode::IstioMutual => (vec![secret(OWN)], Some(ROOTS.to_owned())),
        _ if !names.is_empty() => {
            let roots = match settings.ca_cert_credential_name.as_str() {
                "" => format!("kubernetes://{}-cacert", names[0]),
                name => format!("kubernetes://{name}"),
            };
            (
                names
                    .iter()
                    .map(|n| secret(&format!("kubernetes://{n}")))
                    .collect(),
                Some(roots),
            )
        }
        _ => {
            let pair = |chain: &str, key: &str| secret(&format!("file-cert:{chain}~{key}"));
            let mut certificates = Vec::new();
            if !settings.server_certificate.is_empty() {
                certificates.push(pair(&settings.server_certificate, &settings.private_key));
            }
            certificates.extend(
                settings
                    .tls_certificates
                    .iter()
                    .map(|c| pair(&c.server_certificate, &c.private_key)),
            );
            let roots = (!settings.ca_certificates.is_empty())
                .then(|| format!("file-root:{}", settings.ca_certificates));
            (certificates, roots)
        }
    };
    let verifies = mutual || settings.mode == ServerTlsMode::IstioMutual;
    let sans = settings.subject_alt_names.iter().map(|n| san(n)).collect();
    let version = |v: TlsProtocol| match v {
        TlsProtocol::TlsAuto => tls::tls_parameters::TlsProtocol::TlsAuto,
        TlsProtocol::TlsV1_0 => tls::tls_parameters::TlsProtocol::TlSv10,
        TlsProtocol::TlsV1_1 => tls::tls_parameters::TlsProtocol::TlSv11,
        TlsProtocol::TlsV1_2 => tls::tls_parameters::TlsProtocol::TlSv12,
        TlsProtocol::TlsV1_3 => tls::tls_parameters::TlsProtocol::TlSv13,
    } as i32;
    let least = match settings.min_protocol_version {
        TlsProtocol::TlsAuto => tls::tls_parameters::TlsProtocol::TlSv12 as i32,
        said => version(said),
    };
    Some(server(tls::DownstreamTlsContext {
        require_client_certificate: wire::boolean(verifies && settings.mode != ServerTlsMode::OptionalMutual),
        common_tls_context: Some(tls::CommonTlsContext {
            tls_params: Some(tls::TlsParameters {
                tls_minimum_protocol_version: least,
                tls_maximum_protocol_version: version(settings.max_protocol_version),
                cipher_suites: settings.cipher_suites.clone(),
                ..Default::default()
            }),
            alpn_protocols: if settings.mode == ServerTlsMode::IstioMutual {
                ["h2", "http/1.1", "istio"].map(str::to_owned).to_vec()
            } else if http {
                ["h2", "http/1.1"].map(str::to_owned).to_vec()
            } else {
                Vec::new()
            },
            tls_certificate_sds_secret_configs: certificates,
            validation_context_type: roots.filter(|_| verifies).map(|r| validation(&r, sans)),
            ..Default::default()
        }),
        ..Default::default()
    }))
}

/// What a client of mesh mTLS offers for a protocol.
pub fn mesh_alpn(
    protocol: Protocol,
    http2: bool,
    downstream: bool,
    stock_envoy: bool,
) -> &'static [&'static str] {
    match (protocol.is_http(), http2, downstream) {
        (true, _, true) | (false, _, true) if stock_envoy => &["istio"],
        (_, _, true) => &["istio-h2", "istio-http/1.1", "istio"],
        (true, true, _) => &["istio-h2", "istio", "h2"],
        (true, false, _) => &["istio-http/1.1", "istio", "http/1.1"],
        _ => &["istio"],
    }
}

fn mesh_params() -> tls::CommonTlsContext {
    tls::CommonTlsContext {
        tls_params: Some(tls::TlsParameters {
            tls_minimum_protocol_version: tls::tls_parameters::TlsProtocol::TlSv12 as i32,
            tls_maximum_protocol_version: tls::tls_parameters::TlsProtocol::TlSv13 as i32,
            ..Default::default()
        }),
        ..Default::default()
    }
}

fn client(context: tls::UpstreamTlsContext) -> TransportSocket {
    wire::transport_socket("envoy.transport_sockets.tls", wire::any(&context))
}

fn server(context: tls::DownstreamTlsContext) -> TransportSocket {
    wire::transport_socket("envoy.transport_sockets.tls", wire::any(&context))
}

/// A secret by name: what Kubernetes keeps comes from the control plane, everything else (the workload's
/// own certificate, the mesh's roots, files) from the agent beside the proxy.
fn secret(name: &str) -> tls::SdsSecretConfig {
    tls::SdsSecretConfig {
        name: name.to_owned(),
        sds_config: if name.starts_with("kubernetes://") {
            wire::ads()
        } else {
            wire::agent()
        },
    }
}

fn validation(roots: &str, sans: Vec<tls::SubjectAltNameMatcher>) -> ValidationContextType {
    ValidationContextType::CombinedValidationContext(
        tls::common_tls_context::CombinedCertificateValidationContext {
            default_validation_context: Some(tls::CertificateValidationContext {
                match_typed_subject_alt_names: sans,
                ..Default::default()
            }),
            validation_context_sds_secret_config: Some(secret(roots)),
            ..Default::default()
        },
    )
}

fn uri(matcher: StringMatcher) -> tls::SubjectAltNameMatcher {
    tls::SubjectAltNameMatcher {
        san_type: tls::subject_alt_name_matcher::SanType::Uri as i32,
        matcher: Some(matcher),
        ..Default::default()
    }
}

/// A name as a user writes it: a URI, an IP address, or a DNS name.
fn san(name: &str) -> tls::SubjectAltNameMatcher {
    use tls::subject_alt_name_matcher::SanType;
    let kind = if name.contains("://") {
        SanType::Uri
    } else if name.parse::<std::net::IpAddr>().is_ok() {
        SanType::IpAddress
    } else {
        SanType::Dns
    };
    tls::SubjectAltNameMatcher {
        san_type: kind as i32,
        matcher: Some(wire::exact(name)),
        ..Default::default()
    }
}
