//! One rule of an AuthorizationPolicy: who (principals) may ask what (permissions).
//!
//! On bytes there is no request, so a condition on one cannot be checked: an ALLOW rule that has such a
//! condition never matches, a DENY rule matches by its other conditions. That errs on the side of refusing.

use isthmus_api::istio::authorization_policy::{Condition, Operation, Rule, Source};
use isthmus_model::TrustDomain;
use isthmus_xds::envoy::matcher::{PathMatcher, StringMatcher, path_matcher};
use isthmus_xds::envoy::rbac::{Permission, Policy, Principal, permission, principal};
use isthmus_xds::envoy::route::{HeaderMatcher, header_matcher::HeaderMatchSpecifier};

use crate::generate::wire;

/// What cannot be checked where it is asked for.
struct Unchecked;

type Checked<T> = Result<T, Unchecked>;

/// How a rule is translated.
#[derive(Clone, Copy)]
struct Translation<'a> {
    namespace: &'a str,
    deny: bool,
    domains: &'a [TrustDomain],
    network: bool,
}

/// The RBAC policy of a rule; `None` when it can never match.
pub fn policy(
    rule: &Rule,
    namespace: &str,
    deny: bool,
    domains: &[TrustDomain],
    network: bool,
) -> Option<Policy> {
    let how = Translation {
        namespace,
        deny,
        domains,
        network,
    };
    let (who, what) = how.conditions(&rule.when).ok()?;
    let mut permissions = Vec::new();
    for to in &rule.to {
        let mut all = match &to.operation {
            Some(operation) => match how.operation(operation) {
                Ok(all) => all,
                Err(Unchecked) => continue,
            },
            None => Vec::new(),
        };
        all.extend(what.iter().cloned());
        permissions.push(every(all));
    }
    if rule.to.is_empty() {
        permissions.push(every(what));
    }
    let mut principals = Vec::new();
    for from in &rule.from {
        let mut all = match &from.source {
            Some(source) => match how.source(source) {
                Ok(all) => all,
                Err(Unchecked) => continue,
            },
            None => Vec::new(),
        };
        all.extend(who.iter().cloned());
        principals.push(everyone(all));
    }
    if rule.from.is_empty() {
        principals.push(everyone(who));
    }
    (!permissions.is_empty() && !principals.is_empty()).then(|| Policy {
        permissions,
        principals,
        ..Default::default()
    })
}

impl Translation<'_> {
    /// Keeps a condition where it can be checked; a DENY rule does without those that cannot.
    fn on_request<T>(&self, out: &mut Vec<T>, present: bool, made: impl FnOnce() -> Vec<T>) -> Checked<()> {
        match (present, self.network, self.deny) {
            (false, _, _) | (true, true, true) => Ok(()),
            (true, true, false) => Err(Unchecked),
            (true, false, _) => {
                out.extend(made());
                Ok(())
            }
        }
    }

    fn operation(&self, written: &Operation) -> Checked<Vec<Permission>> {
        let mut out = Vec::new();
        let header = |name: &'static str, case: bool| {
            move |value: &str| permit(permission::Rule::Header(header(name, value, case)))
        };
        let hosts = !written.hosts.is_empty() || !written.not_hosts.is_empty();
        self.on_request(&mut out, hosts, || {
            pair(&written.hosts, &written.not_hosts, header(":authority", true))
        })?;
        let methods = !written.methods.is_empty() || !written.not_methods.is_empty();
        self.on_request(&mut out, methods, || {
            pair(&written.methods, &written.not_methods, header(":method", false))
        })?;
        let paths = !written.paths.is_empty() || !written.not_paths.is_empty();
        self.on_request(&mut out, paths, || {
            pair(&written.paths, &written.not_paths, |v| {
                permit(permission::Rule::UrlPath(path(v)))
            })
        })?;
        out.extend(pair(&written.ports, &written.not_ports, port));
        Ok(out)
    }

    fn source(&self, written: &Source) -> Checked<Vec<Principal>> {
        let mut out = Vec::new();
        out.extend(pair_of(&written.principals, &written.not_principals, |v| {
            self.principal(v)
        }));
        out.extend(pair_of(&written.namespaces, &written.not_namespaces, |v| {
            vec![authenticated(wire::regex_matcher(format!(
                ".*/ns/{}/.*",
                glob(v)
            )))]
        }));
        out.extend(pair_of(
            &written.service_accounts,
            &written.not_service_accounts,
            |v| vec![self.account(v)],
        ));
        out.extend(pair_of(&written.trust_domains, &written.not_trust_domains, |v| {
            vec![authenticated(wire::regex_matcher(format!(
                "spiffe://{}/.*",
                glob(v)
            )))]
        }));
        out.extend(pair_of(&written.ip_blocks, &written.not_ip_blocks, |v| {
            block(v)
                .map(principal::Identifier::DirectRemoteIp)
                .map(who)
                .into_iter()
                .collect()
        }));
        let remote = !written.remote_ip_blocks.is_empty() || !written.not_remote_ip_blocks.is_empty();
        if remote {
            out.extend(pair_of(
                &written.remote_ip_blocks,
                &written.not_remote_ip_blocks,
                |v| {
                    block(v)
                        .map(principal::Identifier::RemoteIp)
                        .map(who)
                        .into_iter()
                        .collect()
                },
            ));
        }
        // Claims of tokens are refused when the policy is validated, so a rule that has them is never wider
        // than it was written.
        let claims = !written.request_principals.is_empty() || !written.not_request_principals.is_empty();
        if claims && !self.deny {
            return Err(Unchecked);
        }
        Ok(out)
    }

    /// `NAMESPACE/ACCOUNT`, or an account of the policy's own namespace.
    fn account(&self, value: &str) -> Principal {
        let (namespace, account) = value.split_once('/').unwrap_or((self.namespace, value));
        let pattern = format!(".*/ns/{}/sa/{}", regex_escape(namespace), regex_escape(account));
        authenticated(wire::regex_matcher(pattern))
    }

    /// A principal in every trust domain that counts as the mesh's own.
    fn principal(&self, value: &str) -> Vec<Principal> {
        let mut values = vec![value.to_owned()];
        if let Some((domain, rest)) = value.split_once('/') {
            let own = domain == "cluster.local" || self.domains.iter().any(|d| d.as_str() == domain);
            if own {
                values = self.domains.iter().map(|d| format!("{d}/{rest}")).collect();
            }
        }
        values
            .iter()
            .map(|v| authenticated(string_with_prefix(v, "spiffe://")))
            .collect()
    }

    fn conditions(&self, written: &[Condition]) -> Checked<(Vec<Principal>, Vec<Permission>)> {
        let mut who_all = Vec::new();
        let mut what_all = Vec::new();
        for condition in written {
            let (yes, no) = (&condition.values, &condition.not_values);
            match condition.key.as_str() {
                "source.principal" => who_all.extend(pair_of(yes, no, |v| self.principal(v))),
                "source.namespace" => who_all.extend(pair_of(yes, no, |v| {
                    vec![authenticated(wire::regex_matcher(format!(
                        ".*/ns/{}/.*",
                        glob(v)
                    )))]
                })),
                "source.serviceAccount" => {
                    who_all.extend(pair_of(yes, no, |v| vec![self.account(v)]));
                }
                "source.ip" => who_all.extend(pair_of(yes, no, |v| {
                    block(v)
                        .map(principal::Identifier::DirectRemoteIp)
                        .map(who)
                        .into_iter()
                        .collect()
                })),
                "remote.ip" => who_all.extend(pair_of(yes, no, |v| {
                    block(v)
                        .map(principal::Identifier::RemoteIp)
                        .map(who)
                        .into_iter()
                        .collect()
                })),
                "destination.ip" => what_all.extend(pair_of(yes, no, |v| {
                    block(v)
                        .map(permission::Rule::DestinationIp)
                        .map(permit)
                        .into_iter()
                        .collect()
                })),
                "destination.port" => what_all.extend(pair(yes, no, port)),
                "connection.sni" => what_all.extend(pair(yes, no, |v| {
                    permit(permission::Rule::RequestedServerName(string_with_prefix(v, "")))
                })),
                key => {
                    let name = key
                        .strip_prefix("request.headers[")
                        .and_then(|k| k.strip_suffix(']'));
                    match name {
                        Some(name) => self.on_request(&mut who_all, true, || {
                            pair_of(yes, no, |v| {
                                vec![who(principal::Identifier::Header(header(name, v, false)))]
                            })
                        })?,
                        None if self.deny => {}
                        None => return Err(Unchecked),
                    }
                }
            }
        }
        Ok((who_all, what_all))
    }
}

trait Combine: Sized + Clone {
    fn any_of(all: Vec<Self>) -> Self;
    fn not(self) -> Self;
}

impl Combine for Permission {
    fn any_of(rules: Vec<Self>) -> Self {
        permit(permission::Rule::OrRules(permission::Set { rules }))
    }

    fn not(self) -> Self {
        permit(permission::Rule::NotRule(Box::new(self)))
    }
}

impl Combine for Principal {
    fn any_of(ids: Vec<Self>) -> Self {
        who(principal::Identifier::OrIds(principal::Set { ids }))
    }

    fn not(self) -> Self {
        who(principal::Identifier::NotId(Box::new(self)))
    }
}

/// Any of `values`, none of `not`.
fn pair<T: Combine>(values: &[String], not: &[String], made: impl Fn(&str) -> T) -> Vec<T> {
    pair_of(values, not, |v| vec![made(v)])
}

fn pair_of<T: Combine>(values: &[String], not: &[String], made: impl Fn(&str) -> Vec<T>) -> Vec<T> {
    let all = |list: &[String]| T::any_of(list.iter().flat_map(|v| made(v)).collect());
    let mut out = Vec::new();
    if !values.is_empty() {
        out.push(all(values));
    }
    if !not.is_empty() {
        out.push(all(not).not());
    }
    out
}

fn permit(rule: permission::Rule) -> Permission {
    Permission { rule: Some(rule) }
}

fn who(identifier: principal::Identifier) -> Principal {
    Principal {
        identifier: Some(identifier),
    }
}

fn every(all: Vec<Permission>) -> Permission {
    let all = if all.is_empty() {
        vec![permit(permission::Rule::Any(true))]
    } else {
        all
    };
    permit(permission::Rule::AndRules(permission::Set { rules: all }))
}

fn everyone(all: Vec<Principal>) -> Principal {
    let all = if all.is_empty() {
        vec![who(principal::Identifier::Any(true))]
    } else {
        all
    };
    who(principal::Identifier::AndIds(principal::Set { ids: all }))
}

fn authenticated(name: StringMatcher) -> Principal {
    who(principal::Identifier::Authenticated(principal::Authenticated {
        principal_name: Some(name),
    }))
}

fn port(value: &str) -> Permission {
    match value.parse::<u16>() {
        Ok(port) => permit(permission::Rule::DestinationPort(u32::from(port))),
        // Not a port, so no connection has it.
        Err(_) => permit(permission::Rule::Any(true)).not(),
    }
}

fn block(value: &str) -> Option<isthmus_xds::envoy::core::CidrRange> {
    if let Ok(net) = value.parse::<ipnet::IpNet>() {
        return Some(wire::range(&net));
    }
    value.parse().ok().map(wire::host_range)
}

fn path(value: &str) -> PathMatcher {
    let matcher = if value.contains('{') {
        template(value)
    } else {
        string_with_prefix(value, "")
    };
    PathMatcher {
        rule: Some(path_matcher::Rule::Path(matcher)),
    }
}

/// `{*}` stands for one segment, `{**}` for whatever follows.
fn template(value: &str) -> StringMatcher {
    let segments = value.split('/').map(|segment| match segment {
        "{*}" => "[^/]+".to_owned(),
        "{**}" => ".*".to_owned(),
        literal => regex_escape(literal),
    });
    wire::regex_matcher(segments.collect::<Vec<_>>().join("/"))
}

fn header(name: &str, value: &str, ignore_case: bool) -> HeaderMatcher {
    let specifier = if value == "*" {
        HeaderMatchSpecifier::PresentMatch(true)
    } else {
        HeaderMatchSpecifier::StringMatch(StringMatcher {
            ignore_case,
            ..string_with_prefix(value, "")
        })
    };
    HeaderMatcher {
        name: name.to_ascii_lowercase(),
        header_match_specifier: Some(specifier),
        ..Default::default()
    }
}

/// A value that may begin or end with `*`, behind a fixed prefix (Istio `StringMatcherWithPrefix`).
fn string_with_prefix(value: &str, before: &str) -> StringMatcher {
    if value == "*" {
        return wire::regex_matcher(".+");
    }
    if let Some(suffix) = value.strip_prefix('*') {
        return if before.is_empty() {
            wire::suffix(suffix)
        } else {
            wire::regex_matcher(format!("{}.*{}", regex_escape(before), regex_escape(suffix)))
        };
    }
    match value.strip_suffix('*') {
        Some(start) => wire::prefix(format!("{before}{start}")),
        None => wire::exact(format!("{before}{value}")),
    }
}

/// A value that may begin or end with `*`, inside a larger expression.
fn glob(value: &str) -> String {
    let inner = regex_escape(value.trim_matches('*'));
    match (value.starts_with('*'), value.ends_with('*')) {
        _ if value == "*" => ".*".to_owned(),
        (true, true) => format!(".*{inner}.*"),
        (true, false) => format!(".*{inner}"),
        (false, true) => format!("{inner}.*"),
        (false, false) => inner,
    }
}

fn regex_escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 4);
    for c in text.chars() {
        if "\\.+*?()|[]{}^$".contains(c) {
            out.push('\\');
        }
        out.push(c);
    }
    out
}
