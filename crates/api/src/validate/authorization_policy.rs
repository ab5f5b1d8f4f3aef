//! AuthorizationPolicy: rules that say something, with fields that are enforced.

use super::field::{address_or_cidr, attachment, header_name, label_selector};
use super::metadata::clip;
use super::{At, Context, Validate};
use crate::codes;
use crate::enforcement;
use crate::istio::AuthorizationPolicy;
use crate::istio::authorization_policy::{Action, Condition, Operation, Rule, Source};

impl Validate for AuthorizationPolicy {
    fn validate(&self, context: &Context<'_>) {
        let at = context.at("spec");
        label_selector(self.selector.as_ref(), &at.field("selector"));
        attachment(
            self.selector.is_some(),
            self.target_ref.as_ref(),
            &self.target_refs,
            &at,
        );
        if self.target_ref.is_some() {
            enforcement::require("AuthorizationPolicy.targetRefs", &at.field("targetRef"));
        }
        if !self.target_refs.is_empty() {
            enforcement::require("AuthorizationPolicy.targetRefs", &at.field("targetRefs"));
        }
        if context
            .meta()
            .annotations
            .get("istio.io/dry-run")
            .is_some_and(|v| v != "false")
        {
            let at = context.at("metadata.annotations").field("istio.io/dry-run");
            enforcement::require("AuthorizationPolicy dry run", &at);
        }
        self.action(&at);
        for (i, rule) in self.rules.iter().enumerate() {
            self.rule(rule, &at.field("rules").index(i));
        }
    }
}

impl AuthorizationPolicy {
    fn action(&self, at: &At<'_>) {
        let name = match self.action {
            Action::Allow => "AuthorizationPolicy.action ALLOW",
            Action::Deny => "AuthorizationPolicy.action DENY",
            Action::Audit => "AuthorizationPolicy.action AUDIT",
            Action::Custom => "AuthorizationPolicy.action CUSTOM",
        };
        enforcement::require(name, &at.field("action"));
        match (&self.provider, self.action) {
            (None, Action::Custom) => at.error("CUSTOM needs a provider", "add provider.name"),
            (Some(_), action) if action != Action::Custom => {
                at.field("provider").error(
                    "a provider is for CUSTOM alone",
                    "remove it, or set action to CUSTOM",
                );
            }
            _ => {}
        }
        if self.action != Action::Allow && self.rules.is_empty() {
            at.finding(
                &codes::NO_EFFECT,
                "without rules the policy matches nothing",
                "add rules; [{}] matches everything",
            );
        }
    }

    fn rule(&self, rule: &Rule, at: &At<'_>) {
        for (i, from) in rule.from.iter().enumerate() {
            let at = at.field("from").index(i).field("source");
            match &from.source {
                Some(s) if *s != Source::default() => source(s, &at),
                _ => at.error(
                    "the source says nothing",
                    "add a field, or remove `from` to take everybody",
                ),
            }
        }
        for (i, to) in rule.to.iter().enumerate() {
            let at = at.field("to").index(i).field("operation");
            match &to.operation {
                Some(o) if *o != Operation::default() => operation(o, &at),
                _ => at.error(
                    "the operation says nothing",
                    "add a field, or remove `to` to take everything",
                ),
            }
        }
        for (i, written) in rule.when.iter().enumerate() {
            condition(written, &at.field("when").index(i));
        }
    }
}

/// Attributes of conditions, beside `request.headers[NAME]`.
const ATTRIBUTES: &[&str] = &[
    "source.ip",
    "remote.ip",
    "source.namespace",
    "source.principal",
    "source.serviceAccount",
    "destination.ip",
    "destination.port",
    "connection.sni",
];

fn condition(written: &Condition, at: &At<'_>) {
    let key = written.key.as_str();
    if key.is_empty() {
        at.error("the condition has no key", "add key");
        return;
    }
    if written.values.is_empty() && written.not_values.is_empty() {
        at.error("the condition has no values", "add values or notValues");
    }
    let at_key = at.field("key");
    let header = key
        .strip_prefix("request.headers[")
        .map(|name| name.strip_suffix(']').unwrap_or_default());
    if let Some(name) = header {
        if name.is_empty() {
            at_key.error("the header has no name", "write request.headers[x-token]");
        } else {
            header_name(name, &at_key);
        }
    } else if key.starts_with("request.auth.") {
        enforcement::require("AuthorizationPolicy.when request.auth", &at_key);
        return;
    } else if key.starts_with("experimental.") {
        enforcement::require("AuthorizationPolicy.when experimental", &at_key);
        return;
    } else if !ATTRIBUTES.contains(&key) {
        let remedy = match crate::suggest::nearest(key, ATTRIBUTES.iter().copied()) {
            Some(name) => format!("did you mean {name}?"),
            None => format!("use request.headers[NAME] or one of {}", ATTRIBUTES.join(", ")),
        };
        at_key.error(format_args!("{:?} is not an attribute", clip(key)), remedy);
        return;
    }
    for (name, values) in [("values", &written.values), ("notValues", &written.not_values)] {
        let at = at.field(name);
        for (i, value) in values.iter().enumerate() {
            let at = at.index(i);
            match key {
                _ if value.is_empty() => at.error("the value is empty", "write a value; * takes any"),
                "source.ip" | "remote.ip" | "destination.ip" => {
                    address_or_cidr(value, &at);
                }
                "destination.port" => port(value, &at),
                "source.serviceAccount" => account(value, &at),
                "source.principal" => principal(value, &at),
                _ => wildcard(value, &at),
            }
        }
    }
}

fn source(s: &Source, at: &At<'_>) {
    for (name, values) in [
        ("principals", &s.principals),
        ("notPrincipals", &s.not_principals),
        ("requestPrincipals", &s.request_principals),
        ("notRequestPrincipals", &s.not_request_principals),
        ("namespaces", &s.namespaces),
        ("notNamespaces", &s.not_namespaces),
        ("serviceAccounts", &s.service_accounts),
        ("notServiceAccounts", &s.not_service_accounts),
        ("ipBlocks", &s.ip_blocks),
        ("notIpBlocks", &s.not_ip_blocks),
        ("remoteIpBlocks", &s.remote_ip_blocks),
        ("notRemoteIpBlocks", &s.not_remote_ip_blocks),
        ("trustDomains", &s.trust_domains),
        ("notTrustDomains", &s.not_trust_domains),
    ] {
        values_of(name, values, at, |value, at| match name {
            "ipBlocks" | "notIpBlocks" | "remoteIpBlocks" | "notRemoteIpBlocks" => {
                address_or_cidr(value, at);
            }
            "principals" | "notPrincipals" => principal(value, at),
            "serviceAccounts" | "notServiceAccounts" => account(value, at),
            _ => wildcard(value, at),
        });
    }
    let accounts = !s.service_accounts.is_empty() || !s.not_service_accounts.is_empty();
    let others = [&s.principals, &s.not_principals, &s.namespaces, &s.not_namespaces];
    if accounts && others.iter().any(|list| !list.is_empty()) {
        at.field("serviceAccounts").error(
            "serviceAccounts and principals or namespaces exclude each other",
            "keep one",
        );
    }
}

fn operation(o: &Operation, at: &At<'_>) {
    for (name, values) in [
        ("hosts", &o.hosts),
        ("notHosts", &o.not_hosts),
        ("ports", &o.ports),
        ("notPorts", &o.not_ports),
        ("methods", &o.methods),
        ("notMethods", &o.not_methods),
        ("paths", &o.paths),
        ("notPaths", &o.not_paths),
    ] {
        values_of(name, values, at, |value, at| match name {
            "ports" | "notPorts" => port(value, at),
            "paths" | "notPaths" if value.contains(['{', '}']) => template(value, at),
            "paths" | "notPaths" if value.contains(['?', '#']) => {
                at.error(
                    format_args!("{:?} would never match, since paths have no query", clip(value)),
                    "cut it at the '?'",
                );
            }
            _ => wildcard(value, at),
        });
    }
}

/// Checks that a field is enforced and that none of its values is empty.
fn values_of(name: &str, values: &[String], at: &At<'_>, check: impl Fn(&str, &At<'_>)) {
    if values.is_empty() {
        return;
    }
    let at = at.field(name);
    enforcement::require(&format!("AuthorizationPolicy.{name}"), &at);
    for (i, value) in values.iter().enumerate() {
        if value.is_empty() {
            at.index(i)
                .error("the value is empty", "write a value; * takes any");
        } else {
            check(value, &at.index(i));
        }
    }
}

fn port(value: &str, at: &At<'_>) {
    if value.parse::<u16>().is_ok_and(|n| n > 0) {
        return;
    }
    at.error(
        format_args!("{:?} is not a port", clip(value)),
        "write a port from 1 to 65535 in quotes",
    );
}

fn principal(value: &str, at: &At<'_>) {
    if value.starts_with("spiffe://") {
        at.error(
            format_args!("{:?} would never match", clip(value)),
            "write it without spiffe://, as TRUST_DOMAIN/ns/NAMESPACE/sa/ACCOUNT",
        );
    } else {
        wildcard(value, at);
    }
}

/// `ACCOUNT` or `NAMESPACE/ACCOUNT`, without wildcards.
fn account(value: &str, at: &At<'_>) {
    let parts: Vec<&str> = value.split('/').collect();
    if parts.len() > 2 || parts.iter().any(|p| p.is_empty() || p.contains('*')) {
        at.error(
            format_args!("{:?} is not a service account", clip(value)),
            "write ACCOUNT or NAMESPACE/ACCOUNT, without wildcards",
        );
    }
}

/// A path of whole segments, `{*}` for any one of them and `{**}`, as the last template, for the rest.
fn template(value: &str, at: &At<'_>) {
    enforcement::require("AuthorizationPolicy.path templates", at);
    let mut rest = false;
    for segment in value.split('/') {
        let any = matches!(segment, "{*}" | "{**}");
        if !any && segment.contains(['{', '}', '*']) || any && rest {
            at.error(
                format_args!("{:?} is not a template of a path", clip(value)),
                "write {*} or {**} as whole segments, {**} as the last of them, and no other *",
            );
            return;
        }
        rest |= segment == "{**}";
    }
}

/// `*` is a wildcard at one end only; anywhere else it would be compared as a character.
fn wildcard(value: &str, at: &At<'_>) {
    let inner = value
        .strip_prefix('*')
        .unwrap_or_else(|| value.strip_suffix('*').unwrap_or(value));
    if inner.contains('*') {
        at.error(
            format_args!(
                "{:?} has a * that is not a wildcard and would be compared as it is",
                clip(value)
            ),
            "put * at the beginning or at the end, not both",
        );
    }
}
