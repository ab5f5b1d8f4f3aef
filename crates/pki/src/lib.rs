//! Keys, certificates, identities: who is who in the mesh, and how it is proved.
//!
//! ```text
//!   authority files ─ authority ─ service <── CSR + proof ── renewal ── Credentials ── rustls configs
//!                                   │                                       │
//!                                 token (who asks)                 verify (who answers) ── bundle
//! ```
//!
//! It knows nothing of xDS, YAML or traffic. Workload keys are made by [`renewal`] in the process that uses
//! them and never leave it.

pub mod authority;
pub mod bundle;
pub mod certificate;
pub mod credential;
mod der;
pub mod files;
pub mod key;
mod moment;
pub mod renewal;
pub mod service;
pub mod token;
pub mod verify;

pub use authority::{Authority, AuthorityError, IssueError, Issued};
pub use bundle::{BundleError, Roots, TrustBundle};
pub use certificate::{Certificate, CertificateError, Fingerprint};
pub use credential::{
    ClientCertificates, Credential, CredentialError, Credentials, LiveClient, LiveServer, TlsOptions,
};
pub use key::{KeyAlgorithm, KeyError, PrivateKey};
pub use renewal::{Renewal, RenewalTask};
pub use service::{CertificateService, CertificateSource, LocalAuthority, RemoteAuthority, Transport};
pub use token::{
    AuthError, Authenticator, Caller, FirstOf, JwksAuthenticator, JwksConfig, PeerAuthenticator,
    PeerCertificates, Proof, TokenIssuer, TokenRequest,
};
pub use verify::{
    Expected, Refusal, SanKind, SanMatcher, StringMatcher, Verifier, describe, member_cluster,
    peer_fingerprint, peer_identity, provider, refusal_in,
};
