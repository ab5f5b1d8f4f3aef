//! One rule, one bad document, one finding with its line; a file for each kind.

mod destination_rule;
mod gateway;
mod kubernetes;
mod mesh_config;
mod metadata;
mod security;
mod service_entry;
mod virtual_service;
mod workload;

use crate::parse;

const ISTIO: &str = "apiVersion: networking.istio.io/v1\nkind: ";

/// Parses a resource whose spec begins on line 5.
fn check(kind: &str, spec: &str) -> Vec<(u32, &'static str, String)> {
    let group = match kind {
        "PeerAuthentication" | "AuthorizationPolicy" | "RequestAuthentication" => "security.istio.io/v1",
        "EnvoyFilter" => "networking.istio.io/v1alpha3",
        "WasmPlugin" => "extensions.istio.io/v1alpha1",
        "Service" => "v1",
        _ => "networking.istio.io/v1",
    };
    let indented: String = spec
        .trim_matches('\n')
        .lines()
        .map(|l| format!("  {l}\n"))
        .collect();
    let text = format!("apiVersion: {group}\nkind: {kind}\nmetadata: {{name: x}}\nspec:\n{indented}");
    let parsed = parse(&text, "f.yaml");
    let refused = parsed.has_errors();
    assert_eq!(
        parsed.objects.is_empty(),
        refused,
        "an object is handed out exactly when it is valid: {parsed:?}"
    );
    parsed
        .findings
        .iter()
        .map(|f| (f.line, f.code.id, format!("{}; {}", f.message, f.remedy)))
        .collect()
}

#[track_caller]
fn fine(kind: &str, spec: &str) {
    assert_eq!(check(kind, spec), [], "{spec}");
}

#[track_caller]
fn refused(kind: &str, spec: &str, line: u32, part: &str) {
    one(kind, spec, line, "IST0106", part);
}

#[track_caller]
fn one(kind: &str, spec: &str, line: u32, code: &str, part: &str) {
    let found = check(kind, spec);
    assert!(
        found
            .iter()
            .any(|(l, c, m)| *l == line && *c == code && m.contains(part)),
        "expected {line} {code} {part:?}, found {found:#?}"
    );
}
