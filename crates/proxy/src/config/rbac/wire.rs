//! From Envoy's RBAC messages, of HTTP and of network filters.

use std::sync::Arc;

use isthmus_xds::envoy::http_filters::rbac as http_rbac;
use isthmus_xds::envoy::matcher as m;
use isthmus_xds::envoy::network_filters::rbac as network_rbac;
use isthmus_xds::envoy::rbac as e;

use super::{Permission, Policy, Principal, Rbac, RbacAction, Rules};
use crate::config::field::{cidr, port, variant};
use crate::config::matcher::StringMatcher;
use crate::config::refusal::{At, Refusal, refuse_set};

/// Filter state in which Istio's newer control planes look for the peer's identity.
const ISTIO_PEER_PRINCIPAL: &str = "io.istio.peer_principal";

impl TryFrom<&http_rbac::Rbac> for Rbac {
    type Error = Refusal;

    fn try_from(r: &http_rbac::Rbac) -> Result<Self, Refusal> {
        refuse_set!(r; matcher, shadow_matcher);
        rbac(r.rules.as_ref(), r.shadow_rules.as_ref())
    }
}

impl TryFrom<&network_rbac::Rbac> for Rbac {
    type Error = Refusal;

    fn try_from(r: &network_rbac::Rbac) -> Result<Self, Refusal> {
        // CONTINUOUS differs only for rules on metadata, which are refused anyway.
        refuse_set!(r; matcher, shadow_matcher, delay_deny);
        rbac(r.rules.as_ref(), r.shadow_rules.as_ref())
    }
}

fn rbac(enforced: Option<&e::Rbac>, shadow: Option<&e::Rbac>) -> Result<Rbac, Refusal> {
    Ok(Rbac {
        rules: enforced.map(rules).transpose().at("rules")?,
        shadow: shadow.map(rules).transpose().at("shadow_rules")?,
    })
}

fn rules(r: &e::Rbac) -> Result<Rules, Refusal> {
    let action = match variant::<e::rbac::Action>("action", r.action)? {
        e::rbac::Action::Allow => RbacAction::Allow,
        e::rbac::Action::Deny => RbacAction::Deny,
        e::rbac::Action::Log => RbacAction::Log,
    };
    let mut policies = r
        .policies
        .iter()
        .map(|(name, p)| policy(name, p).at(&format!("policies[{name:?}]")))
        .collect::<Result<Vec<_>, _>>()?;
    policies.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(Rules { action, policies })
}

fn policy(name: &str, p: &e::Policy) -> Result<Policy, Refusal> {
    refuse_set!(p; condition, checked_condition, cel_config);
    if p.permissions.is_empty() {
        return Err(Refusal::new("permissions", "may not be empty; use `any: true`"));
    }
    if p.principals.is_empty() {
        return Err(Refusal::new("principals", "may not be empty; use `any: true`"));
    }
    Ok(Policy {
        name: name.into(),
        permissions: permissions("permissions", &p.permissions)?,
        principals: principals("principals", &p.principals)?,
    })
}

fn permissions(field: &str, list: &[e::Permission]) -> Result<Vec<Permission>, Refusal> {
    list.iter()
        .enumerate()
        .map(|(i, p)| permission(p).nth(field, i))
        .collect()
}

fn permission(p: &e::Permission) -> Result<Permission, Refusal> {
    use e::permission::Rule as R;
    Ok(match p.rule.as_ref() {
        Some(R::AndRules(set)) => Permission::And(permissions("and_rules.rules", &set.rules)?),
        Some(R::OrRules(set)) => Permission::Or(permissions("or_rules.rules", &set.rules)?),
        Some(R::NotRule(inner)) => Permission::Not(Box::new(permission(inner).at("not_rule")?)),
        Some(R::Any(true)) => Permission::Any,
        Some(R::Any(false)) => return Err(Refusal::new("any", "must be true")),
        Some(R::Header(h)) => Permission::Header(h.try_into().at("header")?),
        Some(R::UrlPath(path)) => Permission::Path(url_path(path).at("url_path")?),
        Some(R::DestinationIp(c)) => Permission::DestinationIp(cidr(c).at("destination_ip")?),
        Some(R::DestinationPort(v)) => Permission::DestinationPort(port("destination_port", *v)?),
        Some(R::DestinationPortRange(r)) => port_range(r.start, r.end).at("destination_port_range")?,
        Some(R::RequestedServerName(s)) => Permission::ServerName(s.try_into().at("requested_server_name")?),
        Some(R::Metadata(v)) => return Err(foreign_metadata(v)),
        Some(R::Matcher(_)) => return Err(Refusal::unsupported("matcher")),
        Some(R::UriTemplate(_)) => return Err(Refusal::unsupported("uri_template")),
        Some(R::SourcedMetadata(_)) => return Err(Refusal::unsupported("sourced_metadata")),
        None => return Err(Refusal::new("rule", "is required and not set")),
    })
}

fn port_range(start: i32, end: i32) -> Result<Permission, Refusal> {
    let range = (u16::try_from(start), u16::try_from(end.saturating_sub(1)));
    match range {
        (Ok(first), Ok(last)) if first <= last => Ok(match last.checked_add(1) {
            Some(end) => Permission::DestinationPortRange(first, end),
            // [start, 65536) does not fit the type: all but the ports below it.
            None if first == 0 => Permission::Any,
            None => Permission::Not(Box::new(Permission::DestinationPortRange(0, first))),
        }),
        _ => Err(Refusal::new("", format!("[{start}, {end}) is no range of ports"))),
    }
}

fn principals(field: &str, list: &[e::Principal]) -> Result<Vec<Principal>, Refusal> {
    list.iter()
        .enumerate()
        .map(|(i, p)| principal(p).nth(field, i))
        .collect()
}

fn principal(p: &e::Principal) -> Result<Principal, Refusal> {
    use e::principal::Identifier as I;
    Ok(match p.identifier.as_ref() {
        Some(I::AndIds(set)) => Principal::And(principals("and_ids.ids", &set.ids)?),
        Some(I::OrIds(set)) => Principal::Or(principals("or_ids.ids", &set.ids)?),
        Some(I::NotId(inner)) => Principal::Not(Box::new(principal(inner).at("not_id")?)),
        Some(I::Any(true)) => Principal::Any,
        Some(I::Any(false)) => return Err(Refusal::new("any", "must be true")),
        Some(I::Authenticated(a)) => Principal::Authenticated(
            a.principal_name
                .as_ref()
                .map(StringMatcher::try_from)
                .transpose()
                .at("authenticated.principal_name")?,
        ),
        Some(I::FilterState(f)) => Principal::Authenticated(Some(peer_principal(f).at("filter_state")?)),
        Some(I::DirectRemoteIp(c)) => Principal::DirectRemoteIp(cidr(c).at("direct_remote_ip")?),
        Some(I::RemoteIp(c)) => Principal::RemoteIp(cidr(c).at("remote_ip")?),
        Some(I::SourceIp(_)) => {
            return Err(Refusal::new(
                "source_ip",
                "is deprecated and ambiguous; use direct_remote_ip or remote_ip",
            ));
        }
        Some(I::Header(h)) => Principal::Header(h.try_into().at("header")?),
        Some(I::UrlPath(path)) => Principal::Path(url_path(path).at("url_path")?),
        Some(I::Metadata(v)) => return Err(foreign_metadata(v)),
        Some(I::SourcedMetadata(_)) => return Err(Refusal::unsupported("sourced_metadata")),
        Some(I::Custom(_)) => return Err(Refusal::unsupported("custom")),
        None => return Err(Refusal::new("identifier", "is required and not set")),
    })
}

/// No filter of this proxy writes dynamic metadata, and a rule that looks for what a missing filter would
/// have proved must not pass for one that never matches: it is refused.
fn foreign_metadata(v: &m::MetadataMatcher) -> Refusal {
    Refusal::new(
        "metadata",
        format!(
            "refers to what the filter {:?} finds out, and this proxy does not have that filter",
            v.filter
        ),
    )
}

fn peer_principal(f: &m::FilterStateMatcher) -> Result<StringMatcher, Refusal> {
    use m::filter_state_matcher::Matcher;
    if f.key != ISTIO_PEER_PRINCIPAL {
        return Err(Refusal::new("key", format!("{:?} is not known here", f.key)));
    }
    match f.matcher.as_ref() {
        Some(Matcher::StringMatch(s)) => s.try_into().at("string_match"),
        _ => Err(Refusal::new("matcher", "must be a string_match")),
    }
}

fn url_path(p: &m::PathMatcher) -> Result<StringMatcher, Refusal> {
    match p.rule.as_ref() {
        Some(m::path_matcher::Rule::Path(s)) => s.try_into().at("path"),
        None => Err(Refusal::new("rule", "is required and not set")),
    }
}

/// `RBACPerRoute`: a filter without rules where the route switches it off.
pub fn per_route(r: &http_rbac::RbacPerRoute) -> Result<Arc<Rbac>, Refusal> {
    Ok(Arc::new(match r.rbac.as_ref() {
        Some(r) => Rbac::try_from(r).at("rbac")?,
        None => Rbac {
            rules: None,
            shadow: None,
        },
    }))
}
