//! TLS of a server, in Gateways and Sidecars.

use super::At;
use crate::enforcement;
use crate::istio::gateway::{ServerTlsMode, ServerTlsSettings, TlsProtocol};

/// Checks the mode against the certificates that are given.
pub(super) fn validate(tls: &ServerTlsSettings, at: &At<'_>) {
    let files = [
        ("serverCertificate", &tls.server_certificate),
        ("privateKey", &tls.private_key),
        ("caCertificates", &tls.ca_certificates),
        ("credentialName", &tls.credential_name),
    ];
    let secret = !tls.credential_name.is_empty() || !tls.credential_names.is_empty();
    match tls.mode {
        ServerTlsMode::IstioMutual => {
            for (name, value) in files {
                if !value.is_empty() {
                    at.field(name).error(
                        format_args!(
                            "{name} is not used with ISTIO_MUTUAL, whose certificates are the mesh's own"
                        ),
                        "remove it, or use MUTUAL",
                    );
                }
            }
        }
        ServerTlsMode::Passthrough | ServerTlsMode::AutoPassthrough => {
            for (name, value) in files {
                if !value.is_empty() {
                    at.field(name).error(
                        format_args!(
                            "{name} is given, and yet the gateway does not terminate TLS in this mode"
                        ),
                        "set mode to SIMPLE or MUTUAL, or remove it",
                    );
                }
            }
        }
        ServerTlsMode::Simple | ServerTlsMode::Mutual | ServerTlsMode::OptionalMutual => {
            if tls.mode == ServerTlsMode::OptionalMutual {
                enforcement::require("Gateway.tls.mode OPTIONAL_MUTUAL", &at.field("mode"));
            }
            if !secret && tls.tls_certificates.is_empty() {
                for (name, value) in &files[..2] {
                    if value.is_empty() {
                        at.error(
                            format_args!("the server has no {name}"),
                            "add credentialName with a TLS secret",
                        );
                    }
                }
            }
            let roots = secret || !tls.ca_cert_credential_name.is_empty() || !tls.ca_certificates.is_empty();
            if tls.mode != ServerTlsMode::Simple && !roots {
                at.error(
                    "client certificates cannot be verified without roots",
                    "add caCertificates or credentialName",
                );
            }
        }
    }
    if tls.credential_names.len() > 2 {
        at.field("credentialNames").error(
            "more than two secrets",
            "give one with an RSA and one with an ECDSA key",
        );
    }
    for (i, certificate) in tls.tls_certificates.iter().enumerate() {
        if certificate.server_certificate.is_empty() || certificate.private_key.is_empty() {
            at.field("tlsCertificates")
                .index(i)
                .error("the certificate or its key is missing", "add both");
        }
    }
    for (set, field, rule) in [
        (
            !tls.subject_alt_names.is_empty(),
            "subjectAltNames",
            "Gateway.tls.subjectAltNames",
        ),
        (
            tls.min_protocol_version != TlsProtocol::TlsAuto,
            "minProtocolVersion",
            "Gateway.tls.minProtocolVersion",
        ),
        (!tls.ca_crl.is_empty(), "caCrl", "Gateway.tls.caCrl"),
        (
            !tls.verify_certificate_spki.is_empty(),
            "verifyCertificateSpki",
            "Gateway.tls.verifyCertificateSpki",
        ),
        (
            !tls.verify_certificate_hash.is_empty(),
            "verifyCertificateHash",
            "Gateway.tls.verifyCertificateHash",
        ),
        (
            !tls.cipher_suites.is_empty(),
            "cipherSuites",
            "Gateway.tls.cipherSuites",
        ),
        (
            !matches!(
                tls.max_protocol_version,
                TlsProtocol::TlsAuto | TlsProtocol::TlsV1_3
            ),
            "maxProtocolVersion",
            "Gateway.tls.maxProtocolVersion",
        ),
    ] {
        if set {
            enforcement::require(rule, &at.field(field));
        }
    }
    if matches!(
        tls.min_protocol_version,
        TlsProtocol::TlsV1_0 | TlsProtocol::TlsV1_1
    ) {
        at.field("minProtocolVersion")
            .warn("TLS before 1.2 is not offered", "write TLSV1_2 or TLSV1_3");
    }
}
