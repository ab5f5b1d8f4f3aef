//! AuthorizationPolicies as Envoy's RBAC, in Istio's translation: DENY before ALLOW, one policy for each
//! rule, named `ns[NAMESPACE]-policy[NAME]-rule[N]`.

mod rule;

use std::collections::HashMap;

use isthmus_api::istio::AuthorizationPolicy;
use isthmus_api::istio::authorization_policy::Action;
use isthmus_model::TrustDomain;
use isthmus_xds::envoy::http_filters::rbac as http_rbac;
use isthmus_xds::envoy::listener::Filter;
use isthmus_xds::envoy::network_filters::rbac as network_rbac;
use isthmus_xds::envoy::{Any, rbac};

use super::context::Context;
use super::wire;
use crate::snapshot::config::Written;

/// The policies of one workload.
#[derive(Debug)]
pub struct Authorization {
    deny: Option<Both>,
    allow: Option<Both>,
}

/// The rules of one action for HTTP and for bytes.
#[derive(Debug)]
struct Both {
    http: rbac::Rbac,
    network: rbac::Rbac,
}

impl Authorization {
    /// What holds for a proxy's workload.
    pub fn of(context: &Context<'_>) -> Self {
        let mesh = context.mesh();
        let policies: Vec<_> = context
            .snapshot
            .config
            .authorization_of(&context.proxy.namespace, context.labels, &mesh.root_namespace)
            .collect();
        let domains: Vec<TrustDomain> = std::iter::once(&mesh.trust_domain)
            .chain(&mesh.trust_domain_aliases)
            .cloned()
            .collect();
        let of = |action: Action| {
            let chosen: Vec<_> = policies
                .iter()
                .copied()
                .filter(|p| p.spec.action == action)
                .collect();
            (!chosen.is_empty()).then(|| Both {
                http: rules(&chosen, action, &domains, false),
                network: rules(&chosen, action, &domains, true),
            })
        };
        Self {
            deny: of(Action::Deny),
            allow: of(Action::Allow),
        }
    }

    /// HTTP filters, in order.
    pub fn http(&self) -> Vec<Any> {
        let both = [&self.deny, &self.allow].into_iter().flatten();
        both.map(|b| {
            wire::any(&http_rbac::Rbac {
                rules: Some(b.http.clone()),
                ..Default::default()
            })
        })
        .collect()
    }

    /// Network filters, in order.
    pub fn network(&self) -> Vec<Filter> {
        let both = [&self.deny, &self.allow].into_iter().flatten();
        both.map(|b| {
            let config = network_rbac::Rbac {
                rules: Some(b.network.clone()),
                stat_prefix: "tcp.".to_owned(),
                ..Default::default()
            };
            wire::network_filter("envoy.filters.network.rbac", wire::any(&config))
        })
        .collect()
    }
}

fn rules(
    policies: &[&Written<AuthorizationPolicy>],
    action: Action,
    domains: &[TrustDomain],
    network: bool,
) -> rbac::Rbac {
    let mut named = HashMap::new();
    for policy in policies {
        for (i, written) in policy.spec.rules.iter().enumerate() {
            let name = format!(
                "ns[{}]-policy[{}]-rule[{i}]",
                policy.namespace(),
                policy.object.meta.name
            );
            if let Some(made) = rule::policy(
                written,
                policy.namespace(),
                action == Action::Deny,
                domains,
                network,
            ) {
                named.insert(name, made);
            }
        }
    }
    rbac::Rbac {
        action: match action {
            Action::Deny => rbac::rbac::Action::Deny,
            _ => rbac::rbac::Action::Allow,
        } as i32,
        policies: named,
        ..Default::default()
    }
}
