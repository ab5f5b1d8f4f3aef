//! The one table of security rules and whether the mesh enforces them today.
//!
//! A rule that is written and not enforced gives a false sense of safety, so it is refused with an
//! error, never accepted with a warning. Whoever implements one turns its row to [`ENFORCED`] in the
//! same change, with a test of the refusal on the wire.

use crate::codes;
use crate::validate::At;

/// A row: the rule, and whether it is enforced.
pub struct Rule {
    /// `Kind.field` in the spelling of the API.
    pub field: &'static str,
    /// Whether proxies act on it.
    pub enforced: bool,
    /// What to write instead.
    pub instead: &'static str,
}

const ENFORCED: bool = true;
const REFUSED: bool = false;

macro_rules! rules {
    ($($field:literal $enforced:ident $instead:literal;)*) => {
        /// Every security rule of the API.
        pub static RULES: &[Rule] = &[
            $(Rule { field: $field, enforced: $enforced, instead: $instead }),*
        ];
    };
}

rules! {
    "PeerAuthentication" ENFORCED "";
    "AuthorizationPolicy.action ALLOW" ENFORCED "";
    "AuthorizationPolicy.action DENY" ENFORCED "";
    "AuthorizationPolicy.action CUSTOM" REFUSED "use ALLOW or DENY rules";
    "AuthorizationPolicy.action AUDIT" REFUSED "remove the policy; it would log nothing";
    "AuthorizationPolicy.selector" ENFORCED "";
    "AuthorizationPolicy.targetRefs" REFUSED "use selector.matchLabels";
    "AuthorizationPolicy.principals" ENFORCED "";
    "AuthorizationPolicy.notPrincipals" ENFORCED "";
    "AuthorizationPolicy.namespaces" ENFORCED "";
    "AuthorizationPolicy.notNamespaces" ENFORCED "";
    "AuthorizationPolicy.serviceAccounts" ENFORCED "";
    "AuthorizationPolicy.notServiceAccounts" ENFORCED "";
    "AuthorizationPolicy.trustDomains" ENFORCED "";
    "AuthorizationPolicy.notTrustDomains" ENFORCED "";
    "AuthorizationPolicy.requestPrincipals" REFUSED "use principals; tokens of requests are not verified";
    "AuthorizationPolicy.notRequestPrincipals" REFUSED "use notPrincipals; tokens of requests are not verified";
    "AuthorizationPolicy.ipBlocks" ENFORCED "";
    "AuthorizationPolicy.notIpBlocks" ENFORCED "";
    "AuthorizationPolicy.remoteIpBlocks" ENFORCED "";
    "AuthorizationPolicy.notRemoteIpBlocks" ENFORCED "";
    "AuthorizationPolicy.hosts" ENFORCED "";
    "AuthorizationPolicy.notHosts" ENFORCED "";
    "AuthorizationPolicy.ports" ENFORCED "";
    "AuthorizationPolicy.notPorts" ENFORCED "";
    "AuthorizationPolicy.methods" ENFORCED "";
    "AuthorizationPolicy.notMethods" ENFORCED "";
    "AuthorizationPolicy.paths" ENFORCED "";
    "AuthorizationPolicy.notPaths" ENFORCED "";
    "AuthorizationPolicy.path templates" ENFORCED "";
    "AuthorizationPolicy.when" ENFORCED "";
    "AuthorizationPolicy.when request.auth" REFUSED "use principals; tokens of requests are not verified";
    "AuthorizationPolicy.when experimental" REFUSED "remove it; no filter writes such metadata";
    "AuthorizationPolicy dry run" REFUSED "remove the annotation istio.io/dry-run";
    "RequestAuthentication" REFUSED "authenticate callers by mutual TLS (PeerAuthentication)";
    "EnvoyFilter" REFUSED "use the Istio resource for it";
    "WasmPlugin" REFUSED "remove it; no module would run";
    "VirtualService.match on token claims" REFUSED "match on other headers; tokens are not verified";
    "Gateway.tls.mode OPTIONAL_MUTUAL" REFUSED "use MUTUAL or SIMPLE";
    "Gateway.tls.caCrl" REFUSED "remove it; revoked client certificates would be accepted";
    "Gateway.tls.verifyCertificateSpki" REFUSED "use subjectAltNames";
    "Gateway.tls.verifyCertificateHash" REFUSED "use subjectAltNames";
    "Gateway.tls.cipherSuites" REFUSED "remove it; the suites of TLS 1.2 and 1.3 that count as safe are offered";
    "Gateway.tls.maxProtocolVersion" REFUSED "remove it; TLS 1.3 is offered";
    "Gateway.tls.subjectAltNames" ENFORCED "";
    "Gateway.tls.minProtocolVersion" ENFORCED "";
    "DestinationRule.tls.subjectAltNames" ENFORCED "";
    "ServiceEntry.subjectAltNames" ENFORCED "";
    "Sidecar.outboundTrafficPolicy.mode" ENFORCED "";
    "Sidecar.outboundTrafficPolicy.egressProxy" REFUSED "route to the egress gateway by a VirtualService";
    "Sidecar.ingress.tls" REFUSED "use PeerAuthentication";
    "DestinationRule.tls.caCrl" REFUSED "remove it; revoked server certificates would be accepted";
    "DestinationRule.tunnel" REFUSED "remove it; traffic would go past the tunnel";
    "DestinationRule.proxyProtocol" REFUSED "remove it; the server would see the proxy's address as the caller's";
    "DestinationRule.workloadSelector" REFUSED "remove it; the policy would apply to every caller";
    "MeshConfig.meshMTLS" REFUSED "remove it; the mesh speaks TLS 1.2 and 1.3 with safe suites";
    "MeshConfig.tlsDefaults" REFUSED "set minProtocolVersion in the Gateway's servers";
    "MeshConfig.pathNormalization" REFUSED "remove it; paths are normalised as BASE";
}

/// Whether the mesh enforces a rule. Rules that are not in the table are not enforced.
pub fn is_enforced(field: &str) -> bool {
    RULES.iter().any(|rule| rule.field == field && rule.enforced)
}

/// Refuses a rule that is written at `at` and not enforced.
pub(crate) fn require(field: &str, at: &At<'_>) {
    if is_enforced(field) {
        return;
    }
    let instead = RULES
        .iter()
        .find(|rule| rule.field == field)
        .map_or("remove it", |rule| rule.instead);
    at.finding(
        &codes::NOT_ENFORCED,
        format_args!("{field} is not enforced by this version"),
        instead,
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::istio::authorization_policy::{Operation, Source};

    #[test]
    fn every_field_of_a_policy_has_a_row() {
        let names = |json: serde_json::Value| json.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
        let mut fields = names(serde_json::to_value(Source::default()).unwrap());
        fields.extend(names(serde_json::to_value(Operation::default()).unwrap()));
        for field in fields {
            let row = format!("AuthorizationPolicy.{field}");
            assert!(RULES.iter().any(|rule| rule.field == row), "{row} has no row");
        }
        assert!(!is_enforced("AuthorizationPolicy.somethingNew"));
        assert!(RULES.iter().all(|rule| rule.enforced == rule.instead.is_empty()));
    }
}
