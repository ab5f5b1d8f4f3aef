//! Why a peer was refused, in words, and how the reason travels through rustls.

use std::error::Error as StdError;
use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use isthmus_model::IdentityError;
use rustls::AlertDescription;
use rustls_pki_types::{CertificateDer, UnixTime};

use super::Side;
use crate::bundle::Roots;
use crate::certificate::{Certificate, Fingerprint};
use crate::moment;

/// Where a presented chain ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Top {
    /// It presented its root.
    Root {
        /// Subject of the root.
        subject: String,
        /// SHA-256 of the root.
        fingerprint: Fingerprint,
    },
    /// It presented no root; all that is known is the name of the next issuer.
    Issuer(String),
}

impl fmt::Display for Top {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Root { subject, fingerprint } => write!(f, "chains to root {fingerprint} ({subject})"),
            Self::Issuer(name) => write!(f, "chains to an issuer that was not presented ({name})"),
        }
    }
}

/// Why a peer was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// No certificate at all.
    #[error("the peer presented no certificate")]
    NoCertificate,
    /// Malformed.
    #[error("the peer's certificate is malformed: {0}")]
    Encoding(String),
    /// More certificates than a chain has.
    #[error(
        "the peer presented {count} certificates; a chain has at most {}",
        super::MOST_PRESENTED
    )]
    TooMany {
        /// How many.
        count: usize,
    },
    /// The chain ends at somebody else's root.
    #[error(
        "certificate of {name} {top} but trusted are {}: clusters that trust each other have one root; \
         make each an intermediate of it with `isthmus certs intermediate`",
        list(trusted)
    )]
    UntrustedRoot {
        /// Whose certificate; not proved.
        name: String,
        /// Where its chain ends.
        top: Top,
        /// SHA-256 of the trusted roots.
        trusted: Vec<Fingerprint>,
    },
    /// Expired.
    #[error("certificate {name} expired at {at}")]
    Expired {
        /// Whose.
        name: String,
        /// End of validity.
        at: String,
    },
    /// Not valid yet.
    #[error("certificate {name} is valid only from {at}: check the clocks")]
    NotYetValid {
        /// Whose.
        name: String,
        /// Start of validity.
        at: String,
    },
    /// In a revocation list.
    #[error("certificate of {name}, or of an authority above it, has been revoked")]
    Revoked {
        /// Whose.
        name: String,
    },
    /// Anything else that makes the chain invalid.
    #[error("certificate of {name} is not acceptable: {reason}")]
    Chain {
        /// Whose.
        name: String,
        /// What verification says.
        reason: String,
    },
    /// Not exactly one URI SAN.
    #[error(
        "certificate of {name} has {count} URI names; a mesh identity has exactly one, spiffe://TRUST_DOMAIN/ns/NAMESPACE/sa/ACCOUNT"
    )]
    NotOneUri {
        /// Whose.
        name: String,
        /// How many it has.
        count: usize,
    },
    /// The URI is not a workload's SPIFFE id.
    #[error("the peer's identity is refused: {0}")]
    NotSpiffe(IdentityError),
    /// Nothing is trusted for its trust domain.
    #[error("{name} belongs to a trust domain without roots here; there are roots for [{}]", trusted.join(", "))]
    TrustDomain {
        /// Who it claims to be.
        name: String,
        /// Trust domains with roots.
        trusted: Vec<String>,
    },
    /// Proved to be somebody else than expected.
    #[error("{} proved {proved} but {} expects one of {expected}", side_word(*side), whom_word(whom))]
    Identity {
        /// Which end was refused.
        side: Side,
        /// Its names.
        proved: String,
        /// Who expects; may be empty.
        whom: String,
        /// The names that would do.
        expected: String,
    },
    /// The server has another DNS name than the one asked for.
    #[error("server proved {proved} but was asked for {asked}")]
    ServerName {
        /// The name asked for.
        asked: String,
        /// Its names.
        proved: String,
    },
}

impl Refusal {
    /// As the error that a rustls verifier returns; [`refusal_in`] is the way back.
    ///
    /// On the wire it is the alert `certificate_unknown`: the words stay on this side, for the log.
    pub fn into_tls(self) -> rustls::Error {
        let reason = match self {
            Self::NoCertificate => return rustls::Error::NoCertificatesPresented,
            other => other,
        };
        rustls::CertificateError::Other(rustls::OtherError(Arc::new(reason))).into()
    }
}

/// Finds the refusal in an error of rustls, tokio-rustls, or anything that wraps one of them.
pub fn refusal_in<'a>(error: &'a (dyn StdError + 'static)) -> Option<&'a Refusal> {
    tls_error(error).and_then(|tls| match tls {
        rustls::Error::InvalidCertificate(rustls::CertificateError::Other(other)) => {
            other.0.downcast_ref::<Refusal>()
        }
        _ => None,
    })
}

/// Says in words why a handshake failed: the refusal, the peer's alert, or the error itself.
pub fn describe(error: &(dyn StdError + 'static)) -> String {
    if let Some(refusal) = refusal_in(error) {
        return refusal.to_string();
    }
    match tls_error(error) {
        Some(rustls::Error::AlertReceived(alert)) => describe_alert(*alert),
        Some(rustls::Error::NoCertificatesPresented) => Refusal::NoCertificate.to_string(),
        Some(tls) => tls.to_string(),
        None => error.to_string(),
    }
}

fn describe_alert(alert: AlertDescription) -> String {
    match alert {
        AlertDescription::UnknownCA => {
            "the peer does not trust the root of our certificate (alert unknown_ca)".to_owned()
        }
        AlertDescription::CertificateExpired => {
            "the peer says that our certificate has expired (alert certificate_expired)".to_owned()
        }
        AlertDescription::CertificateRequired => {
            "the peer demands a client certificate (alert certificate_required): is the connection meant to be mTLS?"
                .to_owned()
        }
        AlertDescription::BadCertificate
        | AlertDescription::CertificateUnknown
        | AlertDescription::CertificateRevoked
        | AlertDescription::UnsupportedCertificate
        | AlertDescription::AccessDenied => {
            format!("the peer refused our certificate (alert {alert:?}); its log says why")
        }
        AlertDescription::UnrecognisedName => {
            "the peer does not serve the name that was asked for (alert unrecognized_name)".to_owned()
        }
        AlertDescription::NoApplicationProtocol => {
            "the peer speaks none of the protocols offered (alert no_application_protocol)".to_owned()
        }
        other => format!("the peer ended the handshake (alert {other:?})"),
    }
}

/// The rustls error in a chain of errors. `io::Error` hides its inner error from `source`, hence the detour.
fn tls_error<'a>(error: &'a (dyn StdError + 'static)) -> Option<&'a rustls::Error> {
    let mut at = Some(error);
    while let Some(error) = at {
        if let Some(tls) = error.downcast_ref::<rustls::Error>() {
            return Some(tls);
        }
        let inner = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        at = match inner {
            Some(inner) => Some(inner),
            None => error.source(),
        };
    }
    None
}

/// Turns what webpki says into words that name certificates and roots.
pub(super) fn of_chain(
    error: webpki::Error,
    leaf: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
    roots: &Roots,
) -> Refusal {
    let parsed: Vec<Certificate> = [leaf]
        .into_iter()
        .chain(intermediates)
        .filter_map(|der| Certificate::parse(der).ok())
        .collect();
    let name = parsed
        .first()
        .map_or_else(|| "the peer".to_owned(), Certificate::name);
    // Which certificate of the chain is out of date: the first whose end or start is the one reported.
    let dated = |found: &dyn Fn(&Certificate) -> bool| {
        parsed
            .iter()
            .find(|c| found(c))
            .map_or_else(|| name.clone(), Certificate::name)
    };
    match error {
        webpki::Error::CertExpired { not_after, .. } => {
            let at = system_time(not_after);
            Refusal::Expired {
                name: dated(&|c| c.not_after == at),
                at: moment::rfc3339(at),
            }
        }
        webpki::Error::CertNotValidYet { not_before, .. } => {
            let at = system_time(not_before);
            Refusal::NotYetValid {
                name: dated(&|c| c.not_before == at),
                at: moment::rfc3339(at),
            }
        }
        webpki::Error::CertRevoked => Refusal::Revoked { name },
        webpki::Error::UnknownIssuer | webpki::Error::InvalidSignatureForPublicKey => {
            let trusted = roots.fingerprints();
            let top = parsed.last().map_or(Top::Issuer(String::new()), |top| {
                if top.is_self_issued() {
                    Top::Root {
                        subject: top.subject.clone(),
                        fingerprint: top.fingerprint(),
                    }
                } else {
                    Top::Issuer(top.issuer.clone())
                }
            });
            match &top {
                Top::Root { fingerprint, .. } if trusted.contains(fingerprint) => Refusal::Chain {
                    name,
                    reason: format!(
                        "the root it presents is trusted, but did not sign it, or an authority between them is missing ({error})"
                    ),
                },
                _ => Refusal::UntrustedRoot { name, top, trusted },
            }
        }
        webpki::Error::IssuerNotCrlSigner => Refusal::Chain {
            name,
            reason: "the revocation list is signed by an authority whose keyUsage lacks cRLSign".to_owned(),
        },
        webpki::Error::CrlExpired { next_update, .. } => Refusal::Chain {
            name,
            reason: format!(
                "the revocation list expired at {}: publish a new one",
                moment::rfc3339(system_time(next_update))
            ),
        },
        other => Refusal::Chain {
            name,
            reason: other.to_string(),
        },
    }
}

fn system_time(at: UnixTime) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(at.as_secs())
}

fn list(fingerprints: &[Fingerprint]) -> String {
    match fingerprints {
        [] => "no roots at all".to_owned(),
        all => all.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
    }
}

fn side_word(side: Side) -> &'static str {
    match side {
        Side::Server => "server",
        Side::Client => "client",
    }
}

fn whom_word(whom: &str) -> &str {
    if whom.is_empty() { "this connection" } else { whom }
}
