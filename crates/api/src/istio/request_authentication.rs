//! `security.istio.io` RequestAuthentication: which tokens a workload accepts.

use super::{LabelSelector, TargetRef};
use crate::duration::Duration;
use crate::message::message;

message! {
    /// Token rules of the selected workloads.
    pub struct RequestAuthentication {
        /// Which workloads.
        selector: Option<LabelSelector>,
        /// Deprecated form of `targetRefs`.
        target_ref: Option<TargetRef>,
        /// Resources that it is attached to.
        target_refs: Vec<TargetRef>,
        /// Accepted issuers.
        jwt_rules: Vec<JwtRule>,
    }

    /// One issuer.
    pub struct JwtRule {
        /// `iss` claim.
        issuer: String,
        /// Accepted `aud` claims.
        audiences: Vec<String>,
        /// Where the keys are.
        jwks_uri: String,
        /// The keys themselves.
        jwks: String,
        /// Headers with the token.
        from_headers: Vec<JwtHeader>,
        /// Query parameters with the token.
        from_params: Vec<String>,
        /// Cookies with the token.
        from_cookies: Vec<String>,
        /// Header that gets the payload.
        output_payload_to_header: String,
        /// Whether the token travels on.
        forward_original_token: bool,
        /// Headers that get single claims.
        output_claim_to_headers: Vec<ClaimToHeader>,
        /// For fetching the keys.
        timeout: Option<Duration>,
        /// Claims split at spaces, besides `scope` and `permission`.
        space_delimited_claims: Vec<String>,
    }

    /// A header with a token.
    pub struct JwtHeader {
        /// Name.
        name: String,
        /// What precedes the token, as `Bearer `.
        prefix: String,
    }

    /// A header that gets a claim.
    pub struct ClaimToHeader {
        /// Name.
        header: String,
        /// Claim.
        claim: String,
    }
}
