//! Authorisation (Envoy `config.rbac.v3`): may this connection, or this request on it, go on?
//!
//! Pure: it takes what is known and gives a verdict. On a raw connection, conditions on requests do not
//! match, so an ALLOW policy that needs one never allows, as in Envoy.

use std::net::IpAddr;

use crate::config::matcher::StringMatcher;
use crate::config::rbac::{Permission, Policy, Principal, Rbac, RbacAction, Rules};
use crate::http::head::HeadView;
use crate::listener::Facts;

/// What rules decide.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict<'a> {
    /// Goes on.
    Allowed,
    /// Refused: by this DENY policy, or because no ALLOW policy matched.
    Denied(Option<&'a str>),
}

/// A verdict, and what the shadow rules would have said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Decision<'a> {
    /// What counts.
    pub enforced: Verdict<'a>,
    /// What would count, for logs.
    pub shadow: Option<Verdict<'a>>,
}

/// Envoy's detail of a refusal: `rbac_access_denied_matched_policy[...]`.
pub fn denied_by(policy: Option<&str>) -> String {
    format!("rbac_access_denied_matched_policy[{}]", policy.unwrap_or("none"))
}

/// Decides about a connection.
pub fn connection<'a>(rbac: &'a Rbac, facts: &Facts) -> Verdict<'a> {
    let subject = Subject {
        facts,
        head: None,
        client: facts.source.ip(),
    };
    decide(rbac, &subject).enforced
}

/// Decides about a request; `client` is the address that `x-forwarded-for` gives.
pub fn request<'a>(rbac: &'a Rbac, facts: &Facts, head: &HeadView<'_>, client: IpAddr) -> Decision<'a> {
    let subject = Subject {
        facts,
        head: Some(head),
        client,
    };
    decide(rbac, &subject)
}

/// Who asks for what.
struct Subject<'a> {
    facts: &'a Facts,
    head: Option<&'a HeadView<'a>>,
    client: IpAddr,
}

fn decide<'a>(rbac: &'a Rbac, subject: &Subject<'_>) -> Decision<'a> {
    Decision {
        enforced: rbac
            .rules
            .as_ref()
            .map_or(Verdict::Allowed, |r| apply(r, subject)),
        shadow: rbac.shadow.as_ref().map(|r| apply(r, subject)),
    }
}

fn apply<'a>(rules: &'a Rules, subject: &Subject<'_>) -> Verdict<'a> {
    let matched = rules.policies.iter().find(|p| subject.satisfies(p));
    match (rules.action, matched) {
        (RbacAction::Allow, None) => Verdict::Denied(None),
        (RbacAction::Deny, Some(policy)) => Verdict::Denied(Some(&policy.name)),
        _ => Verdict::Allowed,
    }
}

impl Subject<'_> {
    fn satisfies(&self, policy: &Policy) -> bool {
        policy.permissions.iter().any(|p| self.permits(p)) && policy.principals.iter().any(|p| self.is(p))
    }

    fn permits(&self, permission: &Permission) -> bool {
        match permission {
            Permission::And(all) => all.iter().all(|p| self.permits(p)),
            Permission::Or(any) => any.iter().any(|p| self.permits(p)),
            Permission::Not(inner) => !self.permits(inner),
            Permission::Any => true,
            Permission::Header(matcher) => self.head.is_some_and(|h| h.matches(matcher)),
            Permission::Path(matcher) => self.path_matches(matcher),
            Permission::DestinationIp(net) => net.contains(&self.facts.destination.ip()),
            Permission::DestinationPort(port) => self.facts.destination.port() == *port,
            Permission::DestinationPortRange(start, end) => {
                (*start..*end).contains(&self.facts.destination.port())
            }
            Permission::ServerName(matcher) => {
                matcher.matches(self.facts.server_name.as_deref().unwrap_or_default())
            }
        }
    }

    fn is(&self, principal: &Principal) -> bool {
        match principal {
            Principal::And(all) => all.iter().all(|p| self.is(p)),
            Principal::Or(any) => any.iter().any(|p| self.is(p)),
            Principal::Not(inner) => !self.is(inner),
            Principal::Any => true,
            Principal::Authenticated(matcher) => self.proved(matcher.as_ref()),
            Principal::DirectRemoteIp(net) => net.contains(&self.facts.peer.ip()),
            Principal::RemoteIp(net) => net.contains(&self.client),
            Principal::Header(matcher) => self.head.is_some_and(|h| h.matches(matcher)),
            Principal::Path(matcher) => self.path_matches(matcher),
        }
    }

    /// Envoy compares the URI SANs, else the DNS SANs, else the subject.
    fn proved(&self, matcher: Option<&StringMatcher>) -> bool {
        let Some(peer) = self.facts.tls.as_ref().filter(|p| p.verified) else {
            return false;
        };
        let Some(matcher) = matcher else { return true };
        if !peer.uris.is_empty() {
            peer.uris.iter().any(|u| matcher.matches(u))
        } else if !peer.dns_names.is_empty() {
            peer.dns_names.iter().any(|d| matcher.matches(d))
        } else {
            matcher.matches(&peer.subject)
        }
    }

    fn path_matches(&self, matcher: &StringMatcher) -> bool {
        self.head.is_some_and(|h| matcher.matches(h.path_only()))
    }
}
