//! A workload's credential, and rustls configurations that follow it as it is renewed.
//!
//! ```text
//!   renewal ── watch ──> Credentials ──> LiveServer / LiveClient ── current() ──> rustls config
//! ```
//!
//! A configuration belongs to one credential: key, roots and expectations are fixed when it is built, and
//! a new credential means a new configuration with its own session store and ticket keys. So a session
//! that was verified against old roots is never resumed under new ones.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwapOption;
use isthmus_model::SpiffeId;
use rustls::client::Resumption;
use rustls::server::{NoServerSessionStorage, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, ServerConfig, SupportedProtocolVersion};
use rustls_pki_types::{CertificateDer, UnixTime};
use tokio::sync::watch;

use crate::bundle::{BundleError, Roots, TrustBundle};
use crate::certificate::{Certificate, CertificateError};
use crate::key::{KeyError, PrivateKey};
use crate::verify::{Expected, Refusal, Side, Verifier, provider, verify_chain};

/// Why a credential cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CredentialError {
    /// Certificates cannot be read.
    #[error(transparent)]
    Certificate(#[from] CertificateError),
    /// The key cannot be read or used.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The roots cannot be used.
    #[error(transparent)]
    Bundle(#[from] BundleError),
    /// Certificate and key do not belong together.
    #[error("the private key does not belong to the certificate of {0}")]
    KeyMismatch(String),
    /// The certificate is for somebody else.
    #[error("the certificate is for {issued} but {asked} was asked for")]
    OtherIdentity {
        /// Who was asked for.
        asked: String,
        /// What the certificate says.
        issued: String,
    },
    /// The chain does not lead to the roots that came with it.
    #[error(transparent)]
    Chain(#[from] Refusal),
    /// The answer has no roots at its end.
    #[error("the answer has {0} certificates in its chain; expected the leaf first and the roots last")]
    Incomplete(usize),
    /// rustls refuses the combination.
    #[error("TLS configuration refused: {0}")]
    Tls(String),
    /// There is none yet.
    #[error("there is no certificate yet: the certificate service has not answered")]
    NotReady,
}

/// An identity with the key and certificate that prove it, and the roots that it trusts.
pub struct Credential {
    /// Who it is.
    pub identity: SpiffeId,
    /// Key and presented chain (leaf, intermediates, root), for rustls.
    pub certified_key: Arc<CertifiedKey>,
    /// The presented chain, leaf first, root last.
    pub chain: Vec<Certificate>,
    /// Whom it trusts.
    pub bundle: Arc<TrustBundle>,
    /// Start of validity.
    pub not_before: SystemTime,
    /// End of validity.
    pub not_after: SystemTime,
    /// Serial number, `AA:BB:...`.
    pub serial: String,
    private_key: PrivateKey,
}

impl Credential {
    /// Puts a credential together, after checking that its parts fit.
    ///
    /// `chain` is leaf first and may end with its root; the root is added when it is missing, so that a
    /// peer with other roots can name the one it refuses.
    pub fn new(
        identity: SpiffeId,
        private_key: PrivateKey,
        mut chain: Vec<Certificate>,
        bundle: Arc<TrustBundle>,
    ) -> Result<Self, CredentialError> {
        let leaf = chain.first().ok_or(CertificateError::None)?.clone();
        if !private_key.matches(&leaf.public_key_info) {
            return Err(CredentialError::KeyMismatch(leaf.name()));
        }
        if leaf.spiffe_id().as_ref() != Some(&identity) {
            return Err(CredentialError::OtherIdentity {
                asked: identity.to_string(),
                issued: leaf.name(),
            });
        }
        let roots = bundle.roots(&identity.trust_domain).cloned().unwrap_or_default();
        let between: Vec<CertificateDer<'_>> = chain[1..].iter().map(|c| c.der.clone()).collect();
        verify_chain(&leaf.der, &between, &roots, UnixTime::now(), Side::Client)?;
        let ends_in_root = chain.last().is_some_and(Certificate::is_self_issued);
        if !ends_in_root && let Some(anchor) = anchor_of(&chain, &roots) {
            chain.push(anchor);
        }
        let presented = chain.iter().map(|c| c.der.clone()).collect();
        let certified_key = Arc::new(CertifiedKey::new(presented, private_key.tls_key()?));
        Ok(Self {
            identity,
            certified_key,
            bundle,
            not_before: leaf.not_before,
            not_after: leaf.not_after,
            serial: leaf.serial,
            chain,
            private_key,
        })
    }

    /// Reads the answer of the CSR service: PEM texts, leaf first, roots as the last.
    ///
    /// `trusted` are roots known from elsewhere (a mounted `root-cert.pem`), trusted besides those of the answer.
    pub fn from_answer(
        identity: SpiffeId,
        private_key: PrivateKey,
        answer: &[String],
        trusted: Option<&TrustBundle>,
    ) -> Result<Self, CredentialError> {
        let (roots, chain) = match answer.split_last() {
            Some((roots, chain)) if !chain.is_empty() => (roots, chain),
            _ => return Err(CredentialError::Incomplete(answer.len())),
        };
        let roots = Roots::from_pem(roots.as_bytes())?;
        let chain = Certificate::parse_pem(chain.join("\n").as_bytes())?;
        let bundle = TrustBundle::new(identity.trust_domain.clone(), roots);
        let bundle = match trusted {
            Some(other) => bundle.merged(other),
            None => bundle,
        };
        Self::new(identity, private_key, chain, Arc::new(bundle))
    }

    /// The presented chain as PEM.
    pub fn chain_pem(&self) -> String {
        self.chain.iter().map(Certificate::to_pem).collect()
    }

    /// The private key, for handing it to a data plane on the same host (SDS over a Unix socket).
    pub fn private_key(&self) -> &PrivateKey {
        &self.private_key
    }

    /// Whether it is valid at `now`.
    pub fn is_valid(&self, now: SystemTime) -> bool {
        self.not_before <= now && now <= self.not_after
    }

    /// How long it is still valid; zero when it has expired.
    pub fn remaining(&self, now: SystemTime) -> Duration {
        self.not_after.duration_since(now).unwrap_or_default()
    }
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credential")
            .field("identity", &self.identity)
            .field("serial", &self.serial)
            .field("not_after", &crate::moment::rfc3339(self.not_after))
            .finish_non_exhaustive()
    }
}

fn anchor_of(chain: &[Certificate], roots: &Roots) -> Option<Certificate> {
    let top = chain.last()?;
    let mut anchors = roots
        .certificates()
        .iter()
        .filter(|r| r.subject_der == top.issuer_der);
    let first = anchors.next()?;
    // During a rotation two roots may have one name; the key identifier tells them apart.
    let by_key = |r: &&Certificate| r.subject_key_id.is_some() && r.subject_key_id == top.authority_key_id;
    Some(
        [first]
            .into_iter()
            .chain(anchors)
            .find(by_key)
            .unwrap_or(first)
            .clone(),
    )
}

/// A key with its chain from PEM, as gateways get them from a Kubernetes TLS secret.
pub fn certified_key(chain: &[u8], key: &[u8]) -> Result<Arc<CertifiedKey>, CredentialError> {
    let chain = Certificate::parse_pem(chain)?;
    let key = PrivateKey::from_pem(key)?;
    if !chain
        .first()
        .is_some_and(|leaf| key.matches(&leaf.public_key_info))
    {
        let name = chain.first().map(Certificate::name).unwrap_or_default();
        return Err(CredentialError::KeyMismatch(name));
    }
    let presented = chain.into_iter().map(|c| c.der).collect();
    Ok(Arc::new(CertifiedKey::new(presented, key.tls_key()?)))
}

/// What both ends can be told.
#[derive(Debug, Clone, Default)]
pub struct TlsOptions {
    /// ALPN protocols, preferred first; empty leaves the extension out.
    pub alpn: Vec<Vec<u8>>,
    /// Lowest version; default TLS 1.2.
    pub min_version: Version,
    /// Highest version; default TLS 1.3.
    pub max_version: Option<Version>,
    /// Whether sessions may be resumed. A resumed handshake does not verify the peer again: its
    /// certificate may have expired since. Off by default, as mesh mTLS wants it.
    pub resumption: bool,
}

/// TLS versions.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Version {
    /// RFC 5246
    #[default]
    Tls12,
    /// RFC 8446
    Tls13,
}

impl TlsOptions {
    /// Options with these ALPN protocols.
    pub fn alpn<P: Into<Vec<u8>>>(protocols: impl IntoIterator<Item = P>) -> Self {
        Self {
            alpn: protocols.into_iter().map(Into::into).collect(),
            ..Self::default()
        }
    }

    fn versions(&self) -> Vec<&'static SupportedProtocolVersion> {
        let max = self.max_version.unwrap_or(Version::Tls13);
        let all = [
            (Version::Tls13, &rustls::version::TLS13),
            (Version::Tls12, &rustls::version::TLS12),
        ];
        all.into_iter()
            .filter(|(v, _)| (self.min_version..=max).contains(v))
            .map(|(_, v)| v)
            .collect()
    }
}

/// A server's configuration; `clients` of `None` asks for no client certificate.
pub fn server_config(
    certificates: Arc<dyn ResolvesServerCert>,
    clients: Option<Verifier>,
    options: &TlsOptions,
) -> Result<Arc<ServerConfig>, CredentialError> {
    let tls = |e: rustls::Error| CredentialError::Tls(e.to_string());
    let builder = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&options.versions())
        .map_err(tls)?;
    let builder = match clients {
        Some(verifier) => builder.with_client_cert_verifier(Arc::new(verifier)),
        None => builder.with_no_client_auth(),
    };
    let mut config = builder.with_cert_resolver(certificates);
    config.alpn_protocols.clone_from(&options.alpn);
    if options.resumption {
        config.ticketer = rustls::crypto::aws_lc_rs::Ticketer::new().map_err(tls)?;
    } else {
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
    }
    Ok(Arc::new(config))
}

/// A client's configuration; `own` of `None` presents no certificate.
pub fn client_config(
    own: Option<Arc<CertifiedKey>>,
    server: Verifier,
    options: &TlsOptions,
) -> Result<Arc<ClientConfig>, CredentialError> {
    let builder = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&options.versions())
        .map_err(|e| CredentialError::Tls(e.to_string()))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(server));
    let mut config = match own {
        Some(key) => builder.with_client_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(key))),
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols.clone_from(&options.alpn);
    if !options.resumption {
        config.resumption = Resumption::disabled();
    }
    Ok(Arc::new(config))
}

/// Where the current credential is; `None` until the first has arrived.
pub type Credentials = watch::Receiver<Option<Arc<Credential>>>;

/// Credentials that never change, for tests and files read once.
pub fn fixed(credential: Arc<Credential>) -> Credentials {
    watch::channel(Some(credential)).1
}

/// Whether clients must show a certificate.
#[derive(Debug, Clone)]
pub enum ClientCertificates {
    /// None is asked for.
    None,
    /// Asked for; a client may come without, but one that is shown must be right (xDS and CSR by token).
    Optional(Expected),
    /// Demanded (STRICT).
    Required(Expected),
}

/// A mesh server's configuration that follows its credential.
pub struct LiveServer {
    credentials: Credentials,
    clients: ClientCertificates,
    options: TlsOptions,
    built: ArcSwapOption<Built<ServerConfig>>,
}

/// A mesh client's configuration that follows its credential.
pub struct LiveClient {
    credentials: Credentials,
    server: Expected,
    options: TlsOptions,
    built: ArcSwapOption<Built<ClientConfig>>,
}

struct Built<C> {
    credential: Arc<Credential>,
    config: Arc<C>,
}

impl LiveServer {
    /// Serves with the credential that is current at each handshake.
    pub fn new(credentials: Credentials, clients: ClientCertificates, options: TlsOptions) -> Self {
        Self {
            credentials,
            clients,
            options,
            built: ArcSwapOption::empty(),
        }
    }

    /// The configuration for the next handshake.
    pub fn current(&self) -> Result<Arc<ServerConfig>, CredentialError> {
        current(&self.credentials, &self.built, |credential| {
            let mesh = |e: &Expected| Verifier::mesh(credential.bundle.clone(), e.clone());
            let clients = match &self.clients {
                ClientCertificates::None => None,
                ClientCertificates::Optional(expected) => Some(mesh(expected).optional()),
                ClientCertificates::Required(expected) => Some(mesh(expected)),
            };
            let key = rustls::sign::SingleCertAndKey::from(credential.certified_key.clone());
            server_config(Arc::new(key), clients, &self.options)
        })
    }
}

impl LiveClient {
    /// Connects with the credential that is current at each handshake; the server must be one of `server`.
    pub fn new(credentials: Credentials, server: Expected, options: TlsOptions) -> Self {
        Self {
            credentials,
            server,
            options,
            built: ArcSwapOption::empty(),
        }
    }

    /// The configuration for the next handshake.
    pub fn current(&self) -> Result<Arc<ClientConfig>, CredentialError> {
        current(&self.credentials, &self.built, |credential| {
            let server = Verifier::mesh(credential.bundle.clone(), self.server.clone());
            client_config(Some(credential.certified_key.clone()), server, &self.options)
        })
    }
}

impl fmt::Debug for LiveServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LiveServer")
            .field("clients", &self.clients)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for LiveClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LiveClient")
            .field("server", &self.server)
            .finish_non_exhaustive()
    }
}

fn current<C>(
    credentials: &Credentials,
    built: &ArcSwapOption<Built<C>>,
    build: impl FnOnce(&Arc<Credential>) -> Result<Arc<C>, CredentialError>,
) -> Result<Arc<C>, CredentialError> {
    let credential = credentials.borrow().clone().ok_or(CredentialError::NotReady)?;
    if let Some(built) = built.load().as_ref()
        && Arc::ptr_eq(&built.credential, &credential)
    {
        return Ok(built.config.clone());
    }
    let config = build(&credential)?;
    built.store(Some(Arc::new(Built {
        credential,
        config: config.clone(),
    })));
    Ok(config)
}
