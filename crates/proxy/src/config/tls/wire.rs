//! From Envoy's TLS contexts and transport sockets.

use std::sync::Arc;

use isthmus_xds::any;
use isthmus_xds::envoy::raw_buffer::RawBuffer;
use isthmus_xds::envoy::tls as e;
use isthmus_xds::envoy::{Any, core};
use rustls::CipherSuite;

use super::{DownstreamTls, SanKind, SanMatcher, SecretRef, TlsVersion, UpstreamTls, Validation};
use crate::config::field::{bool_or, optional_text, text, variant};
use crate::config::matcher::StringMatcher;
use crate::config::refusal::{At, Refusal, refuse_set};
use crate::state::live::{Roots, certified_key};

/// The SDS name under which the machine's own roots are found.
pub const SYSTEM_ROOTS: &str = "file-root:system";

/// Promises an exchange of frames after the handshake that this proxy does not make.
const ISTIO_PEER_EXCHANGE: &str = "istio-peer-exchange";

/// The typed configuration of a transport socket.
fn typed_config(t: &core::TransportSocket) -> Result<&Any, Refusal> {
    match t.config_type.as_ref() {
        Some(core::transport_socket::ConfigType::TypedConfig(any)) => Ok(any),
        None => Err(Refusal::new("typed_config", "is required and not set")),
    }
}

fn unpack<M: prost::Message + prost::Name + Default>(any: &Any) -> Result<M, Refusal> {
    any::unpack(any).map_err(|e| Refusal::new("typed_config", e.to_string()))
}

fn unknown_socket(t: &core::TransportSocket, any: &Any) -> Refusal {
    Refusal::new(
        "typed_config",
        format!(
            "transport socket {:?} of type {} is not known here; TLS and raw_buffer are",
            t.name,
            any::full_name(&any.type_url)
        ),
    )
}

/// A listener's transport socket; `None` is plaintext.
pub fn downstream(t: &core::TransportSocket) -> Result<Option<Arc<DownstreamTls>>, Refusal> {
    // Istio writes a raw buffer by its name alone.
    if t.config_type.is_none() && t.name == "envoy.transport_sockets.raw_buffer" {
        return Ok(None);
    }
    let config = typed_config(t)?;
    if any::is::<RawBuffer>(config) {
        Ok(None)
    } else if any::is::<e::DownstreamTlsContext>(config) {
        let context: e::DownstreamTlsContext = unpack(config)?;
        Ok(Some(Arc::new(
            DownstreamTls::try_from(&context).at("typed_config")?,
        )))
    } else {
        Err(unknown_socket(t, config))
    }
}

/// A cluster's transport socket; `None` is plaintext.
pub fn upstream(t: &core::TransportSocket) -> Result<Option<UpstreamTls>, Refusal> {
    if t.config_type.is_none() && t.name == "envoy.transport_sockets.raw_buffer" {
        return Ok(None);
    }
    let config = typed_config(t)?;
    if any::is::<RawBuffer>(config) {
        Ok(None)
    } else if any::is::<e::UpstreamTlsContext>(config) {
        let context: e::UpstreamTlsContext = unpack(config)?;
        UpstreamTls::try_from(&context).at("typed_config").map(Some)
    } else {
        Err(unknown_socket(t, config))
    }
}

impl TryFrom<&e::DownstreamTlsContext> for DownstreamTls {
    type Error = Refusal;

    fn try_from(d: &e::DownstreamTlsContext) -> Result<Self, Refusal> {
        if bool_or(&d.require_sni, false) {
            return Err(Refusal::unsupported("require_sni"));
        }
        use e::downstream_tls_context::OcspStaplePolicy;
        if variant::<OcspStaplePolicy>("ocsp_staple_policy", d.ocsp_staple_policy)?
            == OcspStaplePolicy::MustStaple
        {
            return Err(Refusal::unsupported("ocsp_staple_policy"));
        }
        let common = Common::read(d.common_tls_context.as_ref()).at("common_tls_context")?;
        if common.certificates.is_empty() {
            return Err(Refusal::new(
                "common_tls_context",
                "a listener needs a certificate: tls_certificates or tls_certificate_sds_secret_configs",
            ));
        }
        let require = bool_or(&d.require_client_certificate, false);
        if require && common.validation.trusted.is_none() {
            return Err(Refusal::new(
                "require_client_certificate",
                "a certificate is required of clients, and nothing says which roots it must come from",
            ));
        }
        Ok(Self {
            certificates: common.certificates,
            validation: common.validation,
            require_client_certificate: require,
            alpn: common.alpn,
            min_version: common.min_version,
            max_version: common.max_version,
            ciphers: common.ciphers,
        })
    }
}

impl TryFrom<&e::UpstreamTlsContext> for UpstreamTls {
    type Error = Refusal;

    fn try_from(u: &e::UpstreamTlsContext) -> Result<Self, Refusal> {
        let common = Common::read(u.common_tls_context.as_ref()).at("common_tls_context")?;
        if common.certificates.len() > 1 {
            return Err(Refusal::new(
                "common_tls_context",
                "at most one certificate can be shown to an upstream",
            ));
        }
        if u.sni.len() > 255 {
            return Err(Refusal::new("sni", "is longer than 255 bytes"));
        }
        if u.auto_sni_san_validation && common.validation.trusted.is_none() {
            return Err(Refusal::new(
                "auto_sni_san_validation",
                "names are checked only against trusted roots; set trusted_ca",
            ));
        }
        Ok(Self {
            certificate: common.certificates.into_iter().next(),
            validation: common.validation,
            sni: optional_text(&u.sni),
            auto_sni: u.auto_host_sni,
            auto_san: u.auto_sni_san_validation,
            alpn: common.alpn,
            min_version: common.min_version,
            max_version: common.max_version,
            ciphers: common.ciphers,
        })
    }
}

/// What both directions have in common.
struct Common {
    certificates: Vec<SecretRef>,
    validation: Validation,
    alpn: Vec<Vec<u8>>,
    min_version: TlsVersion,
    max_version: TlsVersion,
    ciphers: Option<Vec<CipherSuite>>,
}

impl Common {
    fn read(c: Option<&e::CommonTlsContext>) -> Result<Self, Refusal> {
        let empty = e::CommonTlsContext::default();
        let c = c.unwrap_or(&empty);
        refuse_set!(c; tls_certificate_provider_instance, custom_tls_certificate_selector,
            tls_certificate_certificate_provider, tls_certificate_certificate_provider_instance,
            custom_handshaker);
        let mut certificates = Vec::new();
        for (i, t) in c.tls_certificates.iter().enumerate() {
            certificates.push(inline_certificate(t).nth("tls_certificates", i)?);
        }
        for (i, s) in c.tls_certificate_sds_secret_configs.iter().enumerate() {
            certificates.push(sds(s).nth("tls_certificate_sds_secret_configs", i)?);
        }
        let (min_version, max_version) = versions(c.tls_params.as_ref()).at("tls_params")?;
        Ok(Self {
            certificates,
            validation: validation_type(c.validation_context_type.as_ref())?,
            alpn: alpn(&c.alpn_protocols)?,
            min_version,
            max_version,
            ciphers: ciphers(c.tls_params.as_ref()).at("tls_params")?,
        })
    }
}

fn alpn(protocols: &[String]) -> Result<Vec<Vec<u8>>, Refusal> {
    let mut out = Vec::with_capacity(protocols.len());
    for (i, p) in protocols.iter().enumerate() {
        if p.is_empty() || p.len() > 255 {
            return Err(Refusal::new(
                format!("alpn_protocols[{i}]"),
                format!("{p:?} must have 1 to 255 bytes"),
            ));
        }
        if p != ISTIO_PEER_EXCHANGE {
            out.push(p.clone().into_bytes());
        }
    }
    Ok(out)
}

fn sds(s: &e::SdsSecretConfig) -> Result<SecretRef, Refusal> {
    if s.name.is_empty() {
        return Err(Refusal::new("name", "may not be empty"));
    }
    Ok(SecretRef::Sds(s.name.as_str().into()))
}

fn inline_certificate(t: &e::TlsCertificate) -> Result<SecretRef, Refusal> {
    let (certificates, key) = certificate_texts(t)?;
    certified_key(&certificates, &key).map_err(|e| Refusal::new("", e.to_string()))?;
    Ok(SecretRef::Inline { certificates, key })
}

/// Chain and key of a certificate message, as PEM.
pub fn certificate_texts(t: &e::TlsCertificate) -> Result<(Arc<str>, Arc<str>), Refusal> {
    refuse_set!(t; pkcs12, private_key_provider, password);
    let chain = t
        .certificate_chain
        .as_ref()
        .ok_or_else(|| Refusal::new("certificate_chain", "is required and not set"))?;
    let key = t
        .private_key
        .as_ref()
        .ok_or_else(|| Refusal::new("private_key", "is required and not set"))?;
    Ok((text(chain).at("certificate_chain")?, text(key).at("private_key")?))
}

fn validation_type(v: Option<&e::common_tls_context::ValidationContextType>) -> Result<Validation, Refusal> {
    use e::common_tls_context::ValidationContextType as V;
    match v {
        None => Ok(Validation::default()),
        Some(V::ValidationContext(c)) => {
            let validation = validation(c).at("validation_context")?;
            checked(validation, c).at("validation_context")
        }
        Some(V::ValidationContextSdsSecretConfig(s)) => Ok(Validation {
            trusted: Some(sds(s).at("validation_context_sds_secret_config")?),
            sans: Vec::new(),
        }),
        Some(V::CombinedValidationContext(c)) => combined(c).at("combined_validation_context"),
        Some(V::ValidationContextCertificateProvider(_)) => {
            Err(Refusal::unsupported("validation_context_certificate_provider"))
        }
        Some(V::ValidationContextCertificateProviderInstance(_)) => Err(Refusal::unsupported(
            "validation_context_certificate_provider_instance",
        )),
    }
}

fn combined(c: &e::common_tls_context::CombinedCertificateValidationContext) -> Result<Validation, Refusal> {
    refuse_set!(c; validation_context_certificate_provider, validation_context_certificate_provider_instance);
    let empty = e::CertificateValidationContext::default();
    let default = c.default_validation_context.as_ref().unwrap_or(&empty);
    let mut validation = validation(default).at("default_validation_context")?;
    if let Some(s) = c.validation_context_sds_secret_config.as_ref() {
        validation.trusted = Some(sds(s).at("validation_context_sds_secret_config")?);
    }
    checked(validation, default).at("default_validation_context")
}

/// Refuses conditions that would be silently without effect.
fn checked(v: Validation, c: &e::CertificateValidationContext) -> Result<Validation, Refusal> {
    use e::certificate_validation_context::TrustChainVerification as T;
    let accept_untrusted =
        variant::<T>("trust_chain_verification", c.trust_chain_verification)? == T::AcceptUntrusted;
    if v.trusted.is_none() && !v.sans.is_empty() {
        return Err(Refusal::new(
            "match_typed_subject_alt_names",
            "names are checked only against trusted roots; set trusted_ca",
        ));
    }
    if accept_untrusted {
        if !v.sans.is_empty() {
            return Err(Refusal::new(
                "trust_chain_verification",
                "ACCEPT_UNTRUSTED cannot stand together with names to check",
            ));
        }
        return Ok(Validation::default());
    }
    Ok(v)
}

fn validation(c: &e::CertificateValidationContext) -> Result<Validation, Refusal> {
    refuse_set!(c; ca_certificate_provider_instance, verify_certificate_spki, verify_certificate_hash, crl,
        allow_expired_certificate, custom_validator_config, max_verify_depth);
    if bool_or(&c.require_signed_certificate_timestamp, false) {
        return Err(Refusal::unsupported("require_signed_certificate_timestamp"));
    }
    let trusted = match (c.trusted_ca.as_ref(), c.system_root_certs.as_ref()) {
        (Some(_), Some(_)) => {
            return Err(Refusal::new(
                "system_root_certs",
                "cannot stand together with trusted_ca",
            ));
        }
        (Some(data), None) => {
            let certificates = text(data).at("trusted_ca")?;
            Roots::from_pem(&certificates).map_err(|e| Refusal::new("trusted_ca", e.to_string()))?;
            Some(SecretRef::Inline {
                certificates,
                key: "".into(),
            })
        }
        (None, Some(_)) => Some(SecretRef::Sds(SYSTEM_ROOTS.into())),
        (None, None) => None,
    };
    let mut sans = Vec::new();
    for (i, m) in c.match_typed_subject_alt_names.iter().enumerate() {
        sans.push(typed_san(m).nth("match_typed_subject_alt_names", i)?);
    }
    if sans.is_empty() {
        // The deprecated field, without types: it matches a name of any type.
        for (i, m) in c.match_subject_alt_names.iter().enumerate() {
            let value = StringMatcher::try_from(m).nth("match_subject_alt_names", i)?;
            sans.extend([SanKind::Uri, SanKind::Dns, SanKind::Ip].map(|kind| SanMatcher {
                kind,
                value: value.clone(),
            }));
        }
    }
    Ok(Validation { trusted, sans })
}

fn typed_san(m: &e::SubjectAltNameMatcher) -> Result<SanMatcher, Refusal> {
    use e::subject_alt_name_matcher::SanType;
    let kind = match variant::<SanType>("san_type", m.san_type)? {
        SanType::Uri => SanKind::Uri,
        SanType::Dns => SanKind::Dns,
        SanType::IpAddress => SanKind::Ip,
        other => {
            return Err(Refusal::new(
                "san_type",
                format!(
                    "{} is not checked here; URI, DNS and IP_ADDRESS are",
                    other.as_str_name()
                ),
            ));
        }
    };
    let matcher = m
        .matcher
        .as_ref()
        .ok_or_else(|| Refusal::new("matcher", "is required and not set"))?;
    Ok(SanMatcher {
        kind,
        value: matcher.try_into().at("matcher")?,
    })
}

fn versions(p: Option<&e::TlsParameters>) -> Result<(TlsVersion, TlsVersion), Refusal> {
    let Some(p) = p else {
        return Ok((TlsVersion::V1_2, TlsVersion::V1_3));
    };
    refuse_set!(p; ecdh_curves, signature_algorithms, compliance_policies);
    let version = |field: &str, v: i32, default: TlsVersion| {
        use e::tls_parameters::TlsProtocol as T;
        Ok(match variant::<T>(field, v)? {
            T::TlsAuto => default,
            T::TlSv12 => TlsVersion::V1_2,
            T::TlSv13 => TlsVersion::V1_3,
            T::TlSv10 | T::TlSv11 => {
                return Err(Refusal::new(
                    field,
                    "TLS 1.0 and 1.1 are not spoken; use TLSv1_2 or TLSv1_3",
                ));
            }
        })
    };
    let min = version(
        "tls_minimum_protocol_version",
        p.tls_minimum_protocol_version,
        TlsVersion::V1_2,
    )?;
    let max = version(
        "tls_maximum_protocol_version",
        p.tls_maximum_protocol_version,
        TlsVersion::V1_3,
    )?;
    if min > max {
        return Err(Refusal::new(
            "tls_maximum_protocol_version",
            "is lower than tls_minimum_protocol_version",
        ));
    }
    Ok((min, max))
}

/// OpenSSL's names of the TLS 1.2 suites that the proxy has.
const SUITES: [(&str, CipherSuite); 6] = [
    (
        "ECDHE-ECDSA-AES256-GCM-SHA384",
        CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
    ),
    (
        "ECDHE-ECDSA-AES128-GCM-SHA256",
        CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
    ),
    (
        "ECDHE-ECDSA-CHACHA20-POLY1305",
        CipherSuite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
    ),
    (
        "ECDHE-RSA-AES256-GCM-SHA384",
        CipherSuite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
    ),
    (
        "ECDHE-RSA-AES128-GCM-SHA256",
        CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
    ),
    (
        "ECDHE-RSA-CHACHA20-POLY1305",
        CipherSuite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
    ),
];

/// Suites that the proxy does not have are left out, which only narrows what is offered. Envoy's groups
/// `[A|B]` of equal preference are read as a list.
fn ciphers(p: Option<&e::TlsParameters>) -> Result<Option<Vec<CipherSuite>>, Refusal> {
    let Some(p) = p.filter(|p| !p.cipher_suites.is_empty()) else {
        return Ok(None);
    };
    let chosen: Vec<CipherSuite> = p
        .cipher_suites
        .iter()
        .flat_map(|s| s.trim_matches(['[', ']']).split('|'))
        .filter_map(|name| SUITES.iter().find(|(n, _)| *n == name))
        .map(|(_, suite)| *suite)
        .collect();
    if chosen.is_empty() {
        return Err(Refusal::new(
            "cipher_suites",
            format!(
                "none of {:?} is known here; these are: {}",
                p.cipher_suites,
                SUITES.map(|(n, _)| n).join(", ")
            ),
        ));
    }
    Ok(Some(chosen))
}

/// The roots of a validation context that came as a secret. It may hold nothing else: conditions on names
/// belong to the context that refers to it.
pub fn secret_roots(c: &e::CertificateValidationContext) -> Result<Arc<str>, Refusal> {
    refuse_set!(c; match_typed_subject_alt_names, match_subject_alt_names, trust_chain_verification);
    match validation(c)?.trusted {
        Some(SecretRef::Inline { certificates, .. }) => Ok(certificates),
        _ => Err(Refusal::new("trusted_ca", "is required and not set")),
    }
}
