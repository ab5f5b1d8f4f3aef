//! Authorisation rules (Envoy `config.rbac.v3`).

pub mod wire;

use std::sync::Arc;

use ipnet::IpNet;

use super::matcher::{HeaderMatcher, StringMatcher};

/// One RBAC filter: either its `rules`, its `shadow_rules`, or both.
#[derive(Debug)]
pub struct Rbac {
    /// Enforced.
    pub rules: Option<Rules>,
    /// Evaluated for logs and metrics only.
    pub shadow: Option<Rules>,
}

/// Policies and what a match of one of them means.
#[derive(Debug)]
pub struct Rules {
    /// Allow: some policy must match. Deny: none may match. Log: never refuses.
    pub action: RbacAction,
    /// By name, in ascending order.
    pub policies: Vec<Policy>,
}

/// Envoy `RBAC.Action`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RbacAction {
    /// Some policy must match.
    Allow,
    /// No policy may match.
    Deny,
    /// Only recorded.
    Log,
}

/// Matches when one of the permissions and one of the principals match.
#[derive(Debug)]
pub struct Policy {
    /// `ns[NAMESPACE]-policy[NAME]-rule[N]` from Istio.
    pub name: Arc<str>,
    /// What is asked for.
    pub permissions: Vec<Permission>,
    /// Who asks.
    pub principals: Vec<Principal>,
}

/// Envoy `Permission`.
#[derive(Debug)]
pub enum Permission {
    /// All of them.
    And(Vec<Permission>),
    /// One of them.
    Or(Vec<Permission>),
    /// The opposite.
    Not(Box<Permission>),
    /// Always.
    Any,
    /// A header, `:method`, `:authority` and the like.
    Header(HeaderMatcher),
    /// Path without the query.
    Path(StringMatcher),
    /// Local address of the connection.
    DestinationIp(IpNet),
    /// Local port of the connection.
    DestinationPort(u16),
    /// Local port in `[start, end)`.
    DestinationPortRange(u16, u16),
    /// SNI of the connection.
    ServerName(StringMatcher),
}

/// Envoy `Principal`.
#[derive(Debug)]
pub enum Principal {
    /// All of them.
    And(Vec<Principal>),
    /// One of them.
    Or(Vec<Principal>),
    /// The opposite.
    Not(Box<Principal>),
    /// Always.
    Any,
    /// The peer proved a certificate; with a matcher, one whose URI SAN (without `spiffe://` stripped) matches.
    Authenticated(Option<StringMatcher>),
    /// Address of the connection's peer.
    DirectRemoteIp(IpNet),
    /// Address of the client, as `x-forwarded-for` or PROXY protocol give it.
    RemoteIp(IpNet),
    /// A header.
    Header(HeaderMatcher),
    /// Path without the query.
    Path(StringMatcher),
}
