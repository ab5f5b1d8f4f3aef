//! rustls configurations, built once per context and state of its secrets.

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::Arc;

use isthmus_pki::bundle;
use isthmus_pki::certificate::Certificate;
use isthmus_pki::verify::Verifier;
use rustls::client::Resumption;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, ServerConfig};

use crate::config::tls::{DownstreamTls, SecretRef, UpstreamTls, Validation};
use crate::state::{Live, Roots};

use super::originate::AlpnChoice;
use super::{expected, provider, versions};

/// TLS sessions remembered per client configuration.
const SESSIONS: usize = 64;

/// Why a context cannot be used now.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ContextError {
    /// A secret has not arrived.
    #[error("the {what} {name} has not arrived")]
    Missing {
        /// Certificate or trusted roots.
        what: &'static str,
        /// SDS name.
        name: String,
    },
    /// Roots that cannot be used.
    #[error("the trusted roots cannot be used: {0}")]
    Roots(String),
    /// Versions or suites that leave nothing.
    #[error("the TLS context cannot be used: {0}")]
    Context(String),
}

/// A worker's configurations.
#[derive(Debug, Default)]
pub struct TlsCache {
    servers: RefCell<HashMap<usize, Server>>,
    clients: RefCell<HashMap<(usize, AlpnChoice), Client>>,
}

#[derive(Debug)]
struct Server {
    context: Arc<DownstreamTls>,
    certificates: Vec<Arc<CertifiedKey>>,
    roots: Option<Arc<Roots>>,
    config: Arc<ServerConfig>,
}

#[derive(Debug)]
struct Client {
    context: Arc<UpstreamTls>,
    certificate: Option<Arc<CertifiedKey>>,
    roots: Option<Arc<Roots>>,
    config: Arc<ClientConfig>,
}

impl TlsCache {
    /// Forgets contexts that nobody else holds any more.
    pub fn prune(&self) {
        self.servers
            .borrow_mut()
            .retain(|_, s| Arc::strong_count(&s.context) > 1);
        self.clients
            .borrow_mut()
            .retain(|_, c| Arc::strong_count(&c.context) > 1);
    }

    /// The configuration for terminating.
    pub fn server(
        &self,
        live: &Live,
        context: &Arc<DownstreamTls>,
    ) -> Result<Arc<ServerConfig>, ContextError> {
        let key = Arc::as_ptr(context) as usize;
        let mut servers = self.servers.borrow_mut();
        let known = servers.get(&key);
        let mut certificates = Vec::new();
        for (i, reference) in context.certificates.iter().enumerate() {
            let held = known.and_then(|k| k.certificates.get(i)).cloned();
            certificates.push(certificate(live, reference, held)?);
        }
        let roots = roots(live, &context.validation, known.and_then(|k| k.roots.clone()))?;
        if let Some(k) = known
            && same_all(&k.certificates, &certificates)
            && same(&k.roots, &roots)
        {
            return Ok(k.config.clone());
        }
        let config = Arc::new(build_server(context, &certificates, roots.as_deref())?);
        servers.insert(
            key,
            Server {
                context: context.clone(),
                certificates,
                roots,
                config: config.clone(),
            },
        );
        Ok(config)
    }

    /// The configuration for originating, with those of the context's ALPN names that `alpn` leaves.
    pub fn client(
        &self,
        live: &Live,
        context: &Arc<UpstreamTls>,
        alpn: AlpnChoice,
    ) -> Result<(Arc<ClientConfig>, Option<Arc<CertifiedKey>>), ContextError> {
        let key = (Arc::as_ptr(context) as usize, alpn);
        let mut clients = self.clients.borrow_mut();
        let known = clients.get(&key);
        let certificate = match &context.certificate {
            Some(reference) => Some(certificate(
                live,
                reference,
                known.and_then(|k| k.certificate.clone()),
            )?),
            None => None,
        };
        let roots = roots(live, &context.validation, known.and_then(|k| k.roots.clone()))?;
        if let Some(k) = known
            && same(&k.certificate, &certificate)
            && same(&k.roots, &roots)
        {
            return Ok((k.config.clone(), certificate));
        }
        let config = Arc::new(build_client(
            context,
            certificate.as_ref(),
            roots.as_deref(),
            alpn,
        )?);
        clients.insert(
            key,
            Client {
                context: context.clone(),
                certificate: certificate.clone(),
                roots,
                config: config.clone(),
            },
        );
        Ok((config, certificate))
    }
}

/// The secret as it is now. What stands in the context itself never changes and is read once.
fn certificate(
    live: &Live,
    reference: &SecretRef,
    held: Option<Arc<CertifiedKey>>,
) -> Result<Arc<CertifiedKey>, ContextError> {
    match (reference, held) {
        (SecretRef::Inline { .. }, Some(held)) => Ok(held),
        _ => live.certificate(reference).ok_or_else(|| ContextError::Missing {
            what: "certificate",
            name: name_of(reference),
        }),
    }
}

fn roots(
    live: &Live,
    validation: &Validation,
    held: Option<Arc<Roots>>,
) -> Result<Option<Arc<Roots>>, ContextError> {
    let Some(reference) = &validation.trusted else {
        return Ok(None);
    };
    match (reference, held) {
        (SecretRef::Inline { .. }, Some(held)) => Ok(Some(held)),
        _ => live
            .roots(reference)
            .map(Some)
            .ok_or_else(|| ContextError::Missing {
                what: "trusted roots",
                name: name_of(reference),
            }),
    }
}

fn name_of(reference: &SecretRef) -> String {
    match reference {
        SecretRef::Sds(name) => name.to_string(),
        SecretRef::Inline { .. } => "(inline)".to_owned(),
    }
}

fn same<T>(a: &Option<Arc<T>>, b: &Option<Arc<T>>) -> bool {
    match (a, b) {
        (Some(a), Some(b)) => Arc::ptr_eq(a, b),
        (None, None) => true,
        _ => false,
    }
}

fn same_all<T>(a: &[Arc<T>], b: &[Arc<T>]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| Arc::ptr_eq(a, b))
}

fn trusted(roots: &Roots) -> Result<Arc<bundle::Roots>, ContextError> {
    let words = |e: &dyn std::fmt::Display| ContextError::Roots(e.to_string());
    let certificates = roots
        .certificates
        .iter()
        .map(|der| Certificate::parse(der).map_err(|e| words(&e)))
        .collect::<Result<Vec<_>, _>>()?;
    bundle::Roots::new(certificates)
        .map(Arc::new)
        .map_err(|e| words(&e))
}

fn build_server(
    context: &DownstreamTls,
    certificates: &[Arc<CertifiedKey>],
    roots: Option<&Roots>,
) -> Result<ServerConfig, ContextError> {
    let words = |e: rustls::Error| ContextError::Context(e.to_string());
    let builder = ServerConfig::builder_with_provider(provider(context.ciphers.as_deref()))
        .with_protocol_versions(&versions(context.min_version, context.max_version))
        .map_err(words)?;
    let verifier = match roots {
        Some(roots) => Some(Verifier::alt_names(
            trusted(roots)?,
            expected("this listener", &context.validation.sans),
        )),
        // Envoy asks for a certificate and takes any; its names prove nothing then.
        None if context.require_client_certificate => Some(Verifier::insecure()),
        None => None,
    };
    let builder = match verifier {
        None => builder.with_no_client_auth(),
        Some(v) if context.require_client_certificate => builder.with_client_cert_verifier(Arc::new(v)),
        Some(v) => builder.with_client_cert_verifier(Arc::new(v.optional())),
    };
    let mut config = builder.with_cert_resolver(Arc::new(BySni::new(certificates)));
    config.alpn_protocols = context.alpn.clone();
    Ok(config)
}

fn build_client(
    context: &UpstreamTls,
    certificate: Option<&Arc<CertifiedKey>>,
    roots: Option<&Roots>,
    alpn: AlpnChoice,
) -> Result<ClientConfig, ContextError> {
    let words = |e: rustls::Error| ContextError::Context(e.to_string());
    let builder = ClientConfig::builder_with_provider(provider(context.ciphers.as_deref()))
        .with_protocol_versions(&versions(context.min_version, context.max_version))
        .map_err(words)?;
    let verifier = match roots {
        Some(roots) if context.auto_san && context.validation.sans.is_empty() => {
            Verifier::server_name(trusted(roots)?)
        }
        Some(roots) => Verifier::alt_names(
            trusted(roots)?,
            expected(
                context.sni.as_deref().unwrap_or("the upstream"),
                &context.validation.sans,
            ),
        ),
        None => Verifier::insecure(),
    };
    let builder = builder
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier));
    let mut config = match certificate {
        Some(key) => {
            builder.with_client_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(key.clone())))
        }
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = alpn.choose(&context.alpn);
    config.resumption = Resumption::in_memory_sessions(SESSIONS);
    Ok(config)
}

/// The first certificate whose names fit the SNI, else the first.
#[derive(Debug)]
struct BySni(Vec<(Vec<String>, Arc<CertifiedKey>)>);

impl BySni {
    fn new(certificates: &[Arc<CertifiedKey>]) -> Self {
        let names = |key: &CertifiedKey| {
            let leaf = key.cert.first().and_then(|der| Certificate::parse(der).ok());
            leaf.map(|c| c.dns_names.iter().map(|n| n.to_ascii_lowercase()).collect())
                .unwrap_or_default()
        };
        Self(certificates.iter().map(|k| (names(k), k.clone())).collect())
    }
}

impl ResolvesServerCert for BySni {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let sni = hello.server_name().map(str::to_ascii_lowercase);
        let fits = |names: &[String]| {
            let Some(sni) = &sni else { return false };
            names.iter().any(|n| match n.strip_prefix('*') {
                Some(suffix) => sni
                    .strip_suffix(suffix)
                    .is_some_and(|label| !label.is_empty() && !label.contains('.')),
                None => n == sni,
            })
        };
        self.0
            .iter()
            .find(|(names, _)| fits(names))
            .or_else(|| self.0.first())
            .map(|(_, key)| key.clone())
    }
}
