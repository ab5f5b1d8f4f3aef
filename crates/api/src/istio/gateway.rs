//! `networking.istio.io` Gateway: what a gateway proxy listens on.

use isthmus_model::Labels;

use crate::message::{choice, message};

message! {
    /// Servers of the gateways that the selector finds.
    pub struct Gateway {
        /// What to listen on.
        servers: Vec<Server>,
        /// Labels of the gateway's pods.
        selector: Labels,
    }

    /// One port with its hosts.
    pub struct Server {
        /// The port.
        port: Option<Port>,
        /// Address or Unix socket to bind; all addresses when empty.
        bind: String,
        /// `[namespace/]host`, with wildcards.
        hosts: Vec<String>,
        /// TLS of the server.
        tls: Option<ServerTlsSettings>,
        /// Where unrouted traffic goes; not implemented by Istio.
        default_endpoint: String,
        /// Name, unique in the Gateway.
        name: String,
    }

    /// A port of a Gateway or Sidecar.
    pub struct Port {
        /// 1 to 65535.
        number: u16,
        /// HTTP, HTTPS, GRPC, GRPC-WEB, HTTP2, MONGO, TCP or TLS.
        protocol: String,
        /// Name.
        name: String,
        /// Port of the pod; ServiceEntry only.
        target_port: Option<u16>,
    }

    /// TLS of a server.
    pub struct ServerTlsSettings {
        /// Whether plain HTTP is redirected to HTTPS.
        https_redirect: bool,
        /// Who terminates, and whether the client shows a certificate.
        mode: ServerTlsMode,
        /// File of the certificate chain.
        server_certificate: String,
        /// File of the key.
        private_key: String,
        /// File of the roots for client certificates.
        ca_certificates: String,
        /// File of revoked certificates.
        ca_crl: String,
        /// Secret with the certificate, in the gateway's namespace.
        credential_name: String,
        /// Several secrets, as RSA and ECDSA.
        credential_names: Vec<String>,
        /// Secret or ConfigMap with the roots for client certificates.
        ca_cert_credential_name: String,
        /// Several certificates in files.
        tls_certificates: Vec<TlsCertificate>,
        /// Names that the client must prove one of.
        subject_alt_names: Vec<String>,
        /// Base64 SHA-256 of allowed client keys.
        verify_certificate_spki: Vec<String>,
        /// Hex SHA-256 of allowed client certificates.
        verify_certificate_hash: Vec<String>,
        /// Least version; 1.2 when automatic.
        min_protocol_version: TlsProtocol,
        /// Greatest version.
        max_protocol_version: TlsProtocol,
        /// Suites for TLS 1.2.
        cipher_suites: Vec<String>,
    }

    /// A certificate in files.
    pub struct TlsCertificate {
        /// File of the chain.
        server_certificate: String,
        /// File of the key.
        private_key: String,
        /// File of the roots.
        ca_certificates: String,
    }
}

choice! {
    /// Who terminates TLS.
    pub enum ServerTlsMode {
        /// The destination; routed by SNI.
        Passthrough,
        /// The gateway.
        Simple,
        /// The gateway, with a client certificate.
        Mutual,
        /// The destination; SNI names the cluster.
        AutoPassthrough,
        /// The gateway, by mesh identity on both sides.
        IstioMutual,
        /// The gateway; a client certificate is verified if there is one.
        OptionalMutual,
    }

    /// TLS version.
    pub enum TlsProtocol {
        /// The proxy's default.
        TlsAuto,
        /// TLS 1.0.
        #[serde(rename = "TLSV1_0")]
        TlsV1_0,
        /// TLS 1.1.
        #[serde(rename = "TLSV1_1")]
        TlsV1_1,
        /// TLS 1.2.
        #[serde(rename = "TLSV1_2")]
        TlsV1_2,
        /// TLS 1.3.
        #[serde(rename = "TLSV1_3")]
        TlsV1_3,
    }
}
