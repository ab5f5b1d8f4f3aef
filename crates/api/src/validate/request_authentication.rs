//! RequestAuthentication: refused as long as tokens are not verified.

use super::field::{attachment, label_selector};
use super::{Context, Validate};
use crate::enforcement;
use crate::istio::RequestAuthentication;

impl Validate for RequestAuthentication {
    fn validate(&self, context: &Context<'_>) {
        let at = context.at("spec");
        enforcement::require("RequestAuthentication", &at);
        label_selector(self.selector.as_ref(), &at.field("selector"));
        attachment(
            self.selector.is_some(),
            self.target_ref.as_ref(),
            &self.target_refs,
            &at,
        );
        for (i, rule) in self.jwt_rules.iter().enumerate() {
            let at = at.field("jwtRules").index(i);
            if rule.issuer.is_empty() {
                at.error("the rule has no issuer", "add issuer");
            }
            if !rule.jwks.is_empty() && !rule.jwks_uri.is_empty() {
                at.field("jwksUri")
                    .error("jwks and jwksUri exclude each other", "keep one of them");
            }
            if !rule.jwks_uri.is_empty()
                && !rule.jwks_uri.starts_with("https://")
                && !rule.jwks_uri.starts_with("http://")
            {
                at.field("jwksUri")
                    .error("not an http or https address", "write https://...");
            }
        }
    }
}
