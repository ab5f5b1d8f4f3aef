//! Where certificates come from: a control plane's CSR service, or an authority in this process.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use futures_util::future::BoxFuture;
use hyper_util::rt::TokioIo;
use isthmus_model::{ClusterId, SpiffeId, TrustDomain};
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tonic::metadata::MetadataValue;
use tonic::transport::{Channel, Endpoint, Uri};
use zeroize::Zeroizing;

use super::{CertificateRequest, CertificateResponse, METHOD};
use crate::authority::{Authority, IssueError};
use crate::bundle::{BundleError, Roots, TrustBundle};
use crate::credential::{CredentialError, Credentials, TlsOptions, client_config};
use crate::verify::{Verifier, describe};

/// Time for connecting and for the answer, each.
const PATIENCE: Duration = Duration::from_secs(10);
/// Longest answer, in bytes: a few chains.
const LONGEST_ANSWER: usize = 1024 * 1024;

/// Why no certificate came.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The roots for verifying the control plane, or the token, cannot be read.
    #[error("{file} cannot be read: {source}")]
    Read {
        /// The file.
        file: String,
        /// Why.
        source: io::Error,
    },
    /// The roots for verifying the control plane are none.
    #[error("{file}: {source}")]
    Roots {
        /// The file.
        file: String,
        /// Why.
        source: BundleError,
    },
    /// The configuration makes no sense.
    #[error("{0}")]
    Configuration(String),
    /// No connection.
    #[error("no connection to the certificate service at {address}: {reason}")]
    Connect {
        /// Where.
        address: String,
        /// Why, in words.
        reason: String,
    },
    /// The service refused or failed.
    #[error("the certificate service at {address} answered {code:?}: {message}")]
    Refused {
        /// Where.
        address: String,
        /// gRPC status.
        code: tonic::Code,
        /// Its reason.
        message: String,
    },
    /// The authority of this process refused.
    #[error(transparent)]
    Issue(#[from] IssueError),
    /// The own credential cannot be used for the connection.
    #[error(transparent)]
    Credential(#[from] CredentialError),
}

/// What a source answers.
#[derive(Debug, Clone)]
pub struct Answer {
    /// PEM texts, leaf first, roots last.
    pub chain: Vec<String>,
    /// Roots known from elsewhere, trusted besides those in the answer.
    pub trusted: Option<TrustBundle>,
}

/// Where certificates come from.
pub trait CertificateSource: Send + Sync {
    /// Has `request` (a PEM CSR) signed for `ttl`; zero is the authority's default.
    fn sign<'a>(&'a self, request: String, ttl: Duration) -> BoxFuture<'a, Result<Answer, SourceError>>;
}

/// Opens a connection to `host:port`. The data plane's sets the mark that keeps it from being captured.
pub type Dial = Arc<dyn Fn(String) -> BoxFuture<'static, io::Result<TcpStream>> + Send + Sync>;

/// How the control plane is reached.
#[derive(Clone)]
pub enum Transport {
    /// TLS; the server must prove `server_name` to a root in the file (re-read for every connection).
    Tls {
        /// `istiod.istio-system.svc`
        server_name: String,
        /// PEM, Istio's `root-cert.pem` of the ConfigMap `istio-ca-root-cert`.
        roots: PathBuf,
        /// Presents this credential too, once there is one.
        own: Option<Credentials>,
    },
    /// No TLS, for a control plane on the same host (15010).
    Plaintext,
}

/// The CSR service of a control plane.
#[derive(Clone)]
pub struct RemoteAuthority {
    /// `host:port`
    pub address: String,
    /// How it is reached.
    pub transport: Transport,
    /// File of the service-account token, re-read for every request; `None` relies on the own certificate.
    pub token: Option<PathBuf>,
    /// This workload's member cluster, sent as `ClusterID`.
    pub cluster: ClusterId,
    /// This workload's trust domain: that of the roots in the file.
    pub trust_domain: TrustDomain,
    /// How connections are opened.
    pub dial: Dial,
}

impl RemoteAuthority {
    /// Connections as the operating system makes them.
    pub fn dial_directly() -> Dial {
        Arc::new(|address| Box::pin(TcpStream::connect(address)))
    }

    async fn connect(&self) -> Result<(Channel, Option<Roots>), SourceError> {
        let failed = |reason: String| SourceError::Connect {
            address: self.address.clone(),
            reason,
        };
        let (tls, roots) = match &self.transport {
            Transport::Plaintext => (None, None),
            Transport::Tls {
                server_name,
                roots,
                own,
            } => {
                let file = roots.display().to_string();
                let text = read(roots).await?;
                let roots = Roots::from_pem(&text).map_err(|source| SourceError::Roots { file, source })?;
                let name = ServerName::try_from(server_name.clone()).map_err(|_| {
                    SourceError::Configuration(format!("{server_name:?} is not a server name"))
                })?;
                let own = own.as_ref().and_then(|c| c.borrow().clone());
                let config = client_config(
                    own.map(|c| c.certified_key.clone()),
                    Verifier::server_name(Arc::new(roots.clone())),
                    &TlsOptions::alpn(["h2"]),
                )?;
                (Some((TlsConnector::from(config), name)), Some(roots))
            }
        };
        // Connected by hand rather than by tonic's connector, whose errors lose the verifier's reason.
        let dialed = async {
            let tcp = (self.dial)(self.address.clone()).await?;
            tcp.set_nodelay(true)?;
            Ok::<Box<dyn Connection>, io::Error>(match tls {
                None => Box::new(tcp),
                Some((connector, name)) => Box::new(connector.connect(name, tcp).await?),
            })
        };
        let stream = tokio::time::timeout(PATIENCE, dialed)
            .await
            .map_err(|_| failed(format!("nothing within {} s", PATIENCE.as_secs())))?
            .map_err(|e| failed(describe(&e)))?;
        let channel = channel_on(stream).await.map_err(|e| failed(describe(&e)))?;
        Ok((channel, roots))
    }

    async fn request(&self, csr: String, ttl: Duration) -> Result<Answer, SourceError> {
        let mut request = tonic::Request::new(CertificateRequest {
            csr,
            validity_duration: i64::try_from(ttl.as_secs()).unwrap_or(i64::MAX),
            metadata: None,
        });
        request.set_timeout(PATIENCE);
        let text = |field: &str, value: &str| {
            MetadataValue::try_from(value)
                .map_err(|_| SourceError::Configuration(format!("{field} cannot be sent as gRPC metadata")))
        };
        if let Some(path) = &self.token {
            let token = Zeroizing::new(read(path).await?);
            let token = String::from_utf8_lossy(&token);
            let field = format!("the token in {}", path.display());
            let mut bearer = text(&field, &format!("Bearer {}", token.trim()))?;
            bearer.set_sensitive(true);
            request.metadata_mut().insert("authorization", bearer);
        }
        if !self.cluster.is_empty() {
            let cluster = text("the cluster's name", self.cluster.as_str())?;
            request.metadata_mut().insert("clusterid", cluster);
        }

        let (channel, roots) = self.connect().await?;
        let mut grpc = tonic::client::Grpc::new(channel).max_decoding_message_size(LONGEST_ANSWER);
        grpc.ready().await.map_err(|e| SourceError::Connect {
            address: self.address.clone(),
            reason: describe(&e),
        })?;
        let codec = tonic_prost::ProstCodec::<CertificateRequest, CertificateResponse>::default();
        let path = http::uri::PathAndQuery::from_static(METHOD);
        let answer = grpc.unary(request, path, codec);
        let refused = |code, message: &str| SourceError::Refused {
            address: self.address.clone(),
            code,
            message: message.to_owned(),
        };
        let answer = tokio::time::timeout(PATIENCE, answer)
            .await
            .map_err(|_| refused(tonic::Code::DeadlineExceeded, "no answer in time"))?
            .map_err(|status| refused(status.code(), status.message()))?;
        Ok(Answer {
            chain: answer.into_inner().cert_chain,
            trusted: roots.map(|roots| TrustBundle::new(self.trust_domain.clone(), roots)),
        })
    }
}

impl CertificateSource for RemoteAuthority {
    fn sign<'a>(&'a self, request: String, ttl: Duration) -> BoxFuture<'a, Result<Answer, SourceError>> {
        Box::pin(self.request(request, ttl))
    }
}

/// The authority of this process: a control plane's own serving certificate.
pub struct LocalAuthority {
    /// The current authority.
    pub authority: Arc<ArcSwap<Authority>>,
    /// Whom it signs for.
    pub identity: SpiffeId,
    /// DNS names of the serving certificate; see [`control_plane_names`](Self::control_plane_names).
    pub dns_names: Vec<String>,
}

impl LocalAuthority {
    /// Every name under which the Service `name` in `namespace` is reached from within its cluster.
    pub fn control_plane_names(name: &str, namespace: &str, domain: &str) -> Vec<String> {
        vec![
            format!("{name}.{namespace}.svc"),
            format!("{name}.{namespace}.svc.{domain}"),
            format!("{name}.{namespace}"),
            name.to_owned(),
        ]
    }
}

impl CertificateSource for LocalAuthority {
    fn sign<'a>(&'a self, request: String, ttl: Duration) -> BoxFuture<'a, Result<Answer, SourceError>> {
        let issued = self
            .authority
            .load()
            .issue_with_names(&request, &self.identity, &self.dns_names, ttl);
        Box::pin(std::future::ready(
            issued
                .map(|issued| Answer {
                    chain: issued.chain,
                    trusted: None,
                })
                .map_err(SourceError::from),
        ))
    }
}

/// A TCP or TLS connection.
trait Connection: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Connection for T {}

/// A gRPC channel on a connection that is there already; it is not dialled again.
async fn channel_on(stream: Box<dyn Connection>) -> Result<Channel, tonic::transport::Error> {
    let mut once = Some(stream);
    let connector = tower::service_fn(move |_: Uri| {
        let stream = once.take();
        let stream = stream.ok_or_else(|| io::Error::from(io::ErrorKind::NotConnected));
        std::future::ready(stream.map(TokioIo::new))
    });
    Endpoint::from_static("http://istiod.istio-system.svc")
        .connect_timeout(PATIENCE)
        .connect_with_connector(connector)
        .await
}

async fn read(path: &Path) -> Result<Vec<u8>, SourceError> {
    let failed = |source| SourceError::Read {
        file: path.display().to_string(),
        source,
    };
    let file = tokio::fs::File::open(path).await.map_err(failed)?;
    let mut out = Vec::new();
    file.take(1024 * 1024)
        .read_to_end(&mut out)
        .await
        .map_err(failed)?;
    Ok(out)
}
