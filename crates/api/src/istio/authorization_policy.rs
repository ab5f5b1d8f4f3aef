//! `security.istio.io` AuthorizationPolicy: who may do what with a workload.

use super::{LabelSelector, TargetRef};
use crate::message::{choice, message};

message! {
    /// Rules for the selected workloads. ALLOW without rules allows nothing.
    pub struct AuthorizationPolicy {
        /// Which workloads; the namespace (or mesh, in the root namespace) when absent.
        selector: Option<LabelSelector>,
        /// Deprecated form of `targetRefs`.
        target_ref: Option<TargetRef>,
        /// Resources that it is attached to.
        target_refs: Vec<TargetRef>,
        /// Any that matches decides.
        rules: Vec<Rule>,
        /// What a match means.
        action: Action,
        /// External authoriser of CUSTOM.
        provider: Option<ExtensionProvider>,
    }

    /// A rule: some source, some operation, every condition. What is absent always holds.
    pub struct Rule {
        /// Who, any of.
        from: Vec<From>,
        /// What, any of.
        to: Vec<To>,
        /// Conditions, all of.
        when: Vec<Condition>,
    }

    /// Wraps a source.
    pub struct From {
        /// The source.
        source: Option<Source>,
    }

    /// Wraps an operation.
    pub struct To {
        /// The operation.
        operation: Option<Operation>,
    }

    /// Who asks; all fields that are set must hold. Values may begin or end with `*`.
    pub struct Source {
        /// `TRUST_DOMAIN/ns/NAMESPACE/sa/ACCOUNT`.
        principals: Vec<String>,
        /// None of these.
        not_principals: Vec<String>,
        /// `ISSUER/SUBJECT` of a token.
        request_principals: Vec<String>,
        /// None of these.
        not_request_principals: Vec<String>,
        /// Namespaces.
        namespaces: Vec<String>,
        /// None of these.
        not_namespaces: Vec<String>,
        /// `NAMESPACE/ACCOUNT`, or `ACCOUNT` of the policy's namespace.
        service_accounts: Vec<String>,
        /// None of these.
        not_service_accounts: Vec<String>,
        /// Address of the connection's peer: IP or CIDR.
        ip_blocks: Vec<String>,
        /// None of these.
        not_ip_blocks: Vec<String>,
        /// Address by X-Forwarded-For or PROXY protocol.
        remote_ip_blocks: Vec<String>,
        /// None of these.
        not_remote_ip_blocks: Vec<String>,
        /// Trust domains.
        trust_domains: Vec<String>,
        /// None of these.
        not_trust_domains: Vec<String>,
    }

    /// What is asked; all fields that are set must hold.
    pub struct Operation {
        /// Host header, without regard to case.
        hosts: Vec<String>,
        /// None of these.
        not_hosts: Vec<String>,
        /// Port of the workload, as text.
        ports: Vec<String>,
        /// None of these.
        not_ports: Vec<String>,
        /// Methods.
        methods: Vec<String>,
        /// None of these.
        not_methods: Vec<String>,
        /// Paths without query.
        paths: Vec<String>,
        /// None of these.
        not_paths: Vec<String>,
    }

    /// A condition on an attribute.
    pub struct Condition {
        /// Attribute, e.g. `request.headers[x-token]`.
        key: String,
        /// Any of these.
        values: Vec<String>,
        /// None of these.
        not_values: Vec<String>,
    }

    /// Names an external authoriser of the MeshConfig.
    pub struct ExtensionProvider {
        /// Its name.
        name: String,
    }
}

choice! {
    /// What a match means.
    pub enum Action {
        /// Allowed; what no ALLOW policy matches is denied.
        Allow,
        /// Denied, before any ALLOW.
        Deny,
        /// Logged.
        Audit,
        /// An external authoriser decides.
        Custom,
    }
}
