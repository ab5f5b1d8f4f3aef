//! One HTTP/1.1 question to the application.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use http::header::{HOST, HeaderMap, HeaderName, USER_AGENT};
use http::{HeaderValue, Request, StatusCode};
use http_body::Body as _;
use hyper_util::rt::TokioIo;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// Bytes of an application's metrics at most.
const MOST_OF_A_PAGE: usize = 16 << 20;

/// What is asked.
pub(super) struct Get<'a> {
    /// `HOST:PORT`.
    pub authority: &'a str,
    /// Path and query.
    pub path: &'a str,
    /// Headers of the probe; one named `host` takes the place of the authority.
    pub headers: &'a [(String, String)],
    /// Headers of whoever asked the agent; the kubelet says who it is.
    pub forwarded: Option<&'a HeaderMap>,
}

impl Get<'_> {
    /// The status of the answer, whose body is not read.
    pub async fn status<S>(&self, stream: S) -> io::Result<StatusCode>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        Ok(self.answer(stream).await?.0.status())
    }

    /// The body of a good answer.
    pub async fn page<S>(&self, stream: S) -> io::Result<String>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (mut response, _connection) = self.answer(stream).await?;
        if response.status() != StatusCode::OK {
            return Err(io::Error::other(format!("status {}", response.status())));
        }
        let mut page = Vec::new();
        loop {
            let body = std::pin::Pin::new(response.body_mut());
            let mut body = body;
            let frame = std::future::poll_fn(|cx| body.as_mut().poll_frame(cx)).await;
            let Some(frame) = frame else { break };
            if let Ok(data) = frame.map_err(io::Error::other)?.into_data() {
                if page.len() + data.len() > MOST_OF_A_PAGE {
                    return Err(io::Error::other(format!("more than {MOST_OF_A_PAGE} bytes")));
                }
                page.extend_from_slice(&data);
            }
        }
        String::from_utf8(page).map_err(|_| io::Error::other("not text"))
    }

    async fn answer<S>(&self, stream: S) -> io::Result<(http::Response<hyper::body::Incoming>, Connection)>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (mut sender, connection) = hyper::client::conn::http1::Builder::new()
            .handshake(TokioIo::new(stream))
            .await
            .map_err(io::Error::other)?;
        let connection = Connection(tokio::spawn(async move {
            // What ends it is what the sender hears.
            let _ = connection.await;
        }));
        let response = sender
            .send_request(self.request()?)
            .await
            .map_err(io::Error::other)?;
        Ok((response, connection))
    }

    fn request(&self) -> io::Result<Request<NoBody>> {
        let mut request = Request::get(self.path).body(NoBody).map_err(io::Error::other)?;
        let headers = request.headers_mut();
        headers.insert(
            HOST,
            HeaderValue::from_str(self.authority).map_err(io::Error::other)?,
        );
        if let Some(agent) = self.forwarded.and_then(|f| f.get(USER_AGENT)) {
            headers.insert(USER_AGENT, agent.clone());
        }
        for (name, value) in self.headers {
            let name = HeaderName::from_bytes(name.as_bytes()).map_err(io::Error::other)?;
            headers.insert(name, HeaderValue::from_str(value).map_err(io::Error::other)?);
        }
        Ok(request)
    }
}

/// The task of a connection, which ends with its owner.
struct Connection(tokio::task::JoinHandle<()>);

impl Drop for Connection {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// A GET has none.
struct NoBody;

impl http_body::Body for NoBody {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<http_body::Frame<Bytes>, Self::Error>>> {
        std::task::Poll::Ready(None)
    }

    fn is_end_stream(&self) -> bool {
        true
    }
}

/// TLS without a look at the certificate, as the kubelet has it for probes.
pub(super) async fn encrypted(stream: TcpStream) -> io::Result<TlsStream<TcpStream>> {
    let provider = isthmus_pki::provider();
    let config = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anyone(provider)))
        .with_no_client_auth();
    let name = ServerName::IpAddress(std::net::IpAddr::from([127, 0, 0, 1]).into());
    TlsConnector::from(Arc::new(config)).connect(name, stream).await
}

/// Takes any certificate: a probe looks whether the application lives, not who it is, and tells it nothing.
#[derive(Debug)]
struct Anyone(Arc<CryptoProvider>);

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
