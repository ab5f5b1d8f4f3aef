//! AuthorizationPolicy: rules that say something, with fields that are enforced.

use super::field::{address_or_cidr, attachment, label_selector};
use super::metadata::clip;
use super::{At, Context, Validate};
use crate::codes;
use crate::enforcement;
use crate::istio::AuthorizationPolicy;
use crate::istio::authorization_policy::{Action, Operation, Rule, Source};

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
        if !rule.when.is_empty() {
            enforcement::require("AuthorizationPolicy.when", &at.field("when"));
        }
        for (i, condition) in rule.when.iter().enumerate() {
            let at = at.field("when").index(i);
            if condition.key.is_empty() {
                at.error("the condition has no key", "add key");
            }
            if condition.values.is_empty() && condition.not_values.is_empty() {
                at.error("the condition has no values", "add values or notValues");
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
            "principals" | "notPrincipals" if value.starts_with("spiffe://") => at.error(
                format_args!("{:?} would never match", clip(value)),
                "write it without spiffe://, as TRUST_DOMAIN/ns/NAMESPACE/sa/ACCOUNT",
            ),
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
            "ports" | "notPorts" => {
                if value.parse::<u16>().is_ok_and(|n| n > 0) {
                    return;
                }
                at.error(
                    format_args!("{:?} is not a port", clip(value)),
                    "write a port from 1 to 65535 in quotes",
                );
            }
            "paths" | "notPaths" if value.contains(['{', '}']) => {
                enforcement::require("AuthorizationPolicy.path templates", at);
            }
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
