//! From Envoy's `Secret`: a certificate with its key, or trusted roots.

use std::sync::Arc;

use isthmus_xds::envoy::tls as e;

use super::refusal::{At, Refusal};
use super::tls::wire;
use crate::state::live::{Roots, Secret, certified_key};

impl TryFrom<&e::Secret> for Secret {
    type Error = Refusal;

    fn try_from(s: &e::Secret) -> Result<Self, Refusal> {
        match s.r#type.as_ref() {
            Some(e::secret::Type::TlsCertificate(t)) => {
                let (chain, key) = wire::certificate_texts(t).at("tls_certificate")?;
                certified_key(&chain, &key)
                    .map(|key| Secret::Certificate(Arc::new(key)))
                    .map_err(|e| Refusal::new("tls_certificate", e.to_string()))
            }
            Some(e::secret::Type::ValidationContext(v)) => {
                let roots = wire::secret_roots(v).at("validation_context")?;
                Roots::from_pem(&roots)
                    .map(|roots| Secret::Roots(Arc::new(roots)))
                    .map_err(|e| Refusal::new("validation_context.trusted_ca", e.to_string()))
            }
            Some(e::secret::Type::SessionTicketKeys(_)) => Err(Refusal::unsupported("session_ticket_keys")),
            Some(e::secret::Type::GenericSecret(_)) => Err(Refusal::unsupported("generic_secret")),
            None => Err(Refusal::new(
                "type",
                "is required: tls_certificate or validation_context",
            )),
        }
    }
}
