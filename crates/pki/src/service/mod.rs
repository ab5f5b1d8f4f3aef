//! Istio's CSR service: gRPC `istio.v1.auth.IstioCertificateService/CreateCertificate`.
//!
//! ```text
//!   RemoteAuthority ── TLS ── accept ── CertificateServer ── Authenticator ── Authority::issue
//! ```
//!
//! The messages are written by hand after Istio's `security/v1alpha1/ca.proto`.

mod client;
mod limit;
mod server;
mod stream;
#[cfg(test)]
mod tests;

pub use client::{Answer, CertificateSource, Dial, LocalAuthority, RemoteAuthority, SourceError, Transport};
pub use limit::Limits;
pub use server::{CertificateServer, CertificateService};
pub use stream::{MeshStream, accept};

/// Full path of the method.
pub const METHOD: &str = "/istio.v1.auth.IstioCertificateService/CreateCertificate";
/// Full name of the service.
pub const SERVICE: &str = "istio.v1.auth.IstioCertificateService";

/// `istio.v1.auth.IstioCertificateRequest`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct CertificateRequest {
    /// PEM certificate signing request.
    #[prost(string, tag = "1")]
    pub csr: String,
    /// Seconds; zero or less means the authority's default.
    #[prost(int64, tag = "3")]
    pub validity_duration: i64,
    /// Whatever the caller adds; accepted and not used.
    #[prost(message, optional, tag = "4")]
    pub metadata: Option<prost_types::Struct>,
}

/// `istio.v1.auth.IstioCertificateResponse`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct CertificateResponse {
    /// PEM texts: the leaf first, the roots last.
    #[prost(string, repeated, tag = "1")]
    pub cert_chain: Vec<String>,
}
