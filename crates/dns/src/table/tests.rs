use std::net::IpAddr;

use super::*;

fn entry<'a>(host: &'a str, ips: &[&str]) -> Entry<'a> {
    let ips = ips.iter().map(|ip| ip.parse::<IpAddr>().unwrap()).collect();
    Entry {
        host,
        ips,
        registry: "Kubernetes",
        shortname: "",
        namespace: "",
    }
}

fn table() -> NameTable {
    NameTable::build([
        entry("reviews.default.svc.cluster.local", &["10.0.0.1"]),
        entry("details.default.svc.cluster.local", &["10.0.0.2", "fd00::2"]),
        entry("httpbin.bar.svc.cluster.local", &["10.0.0.3"]),
        entry("echo.eu.mesh.local", &["240.0.0.2"]),
        entry("*.example.com", &["240.240.0.9"]),
        entry("*.sub.example.com", &["240.240.0.10"]),
        entry(
            "db.default.svc.cluster.local",
            &["10.1.0.1", "10.1.0.2", "10.1.0.1"],
        ),
        entry("db-0.db.default.svc.cluster.local", &["10.1.0.1"]),
        entry("*", &["6.6.6.6"]),
        entry("api.github.com", &["240.240.0.11"]),
    ])
}

fn ask(table: &NameTable, name: &str, namespace: &str) -> Option<(Option<String>, String)> {
    let scope = Scope::pod(namespace, "cluster.local").with_search(["compute.internal."]);
    let found = table.lookup(name, &scope)?;
    Some((found.alias.map(str::to_owned), found.addresses.v4[0].to_string()))
}

fn direct(ip: &str) -> Option<(Option<String>, String)> {
    Some((None, ip.to_owned()))
}

fn alias(to: &str, ip: &str) -> Option<(Option<String>, String)> {
    Some((Some(to.to_owned()), ip.to_owned()))
}

#[test]
fn short_forms_belong_to_the_namespace_of_who_asks() {
    let t = table();
    for form in [
        "reviews",
        "reviews.default",
        "reviews.default.svc",
        "reviews.default.svc.cluster.local",
    ] {
        assert_eq!(ask(&t, form, "default"), direct("10.0.0.1"), "{form}");
    }
    assert_eq!(ask(&t, "reviews", "foo"), None);
    assert_eq!(ask(&t, "reviews.default", "foo"), direct("10.0.0.1"));
    assert_eq!(ask(&t, "httpbin", "bar"), direct("10.0.0.3"));
    assert_eq!(ask(&t, "httpbin", "default"), None);
}

#[test]
fn a_search_domain_leads_to_the_name_that_was_meant() {
    let t = table();
    assert_eq!(
        ask(&t, "echo.eu.mesh.local.default.svc.cluster.local", "default"),
        alias("echo.eu.mesh.local", "240.0.0.2")
    );
    assert_eq!(
        ask(&t, "echo.eu.mesh.local.svc.cluster.local", "default"),
        alias("echo.eu.mesh.local", "240.0.0.2")
    );
    assert_eq!(
        ask(&t, "echo.eu.mesh.local.compute.internal", "default"),
        alias("echo.eu.mesh.local", "240.0.0.2")
    );
    assert_eq!(
        ask(&t, "reviews.default.foo.svc.cluster.local", "foo"),
        alias("reviews.default", "10.0.0.1")
    );
    assert_eq!(
        ask(&t, "httpbin.bar.global.foo.svc.cluster.local", "foo"),
        alias("httpbin.bar.global", "10.0.0.3")
    );
    assert_eq!(
        ask(&t, "www.example.com.foo.svc.cluster.local", "foo"),
        alias("www.example.com", "240.240.0.9")
    );
    // Another namespace's search domain is no search domain of ours.
    assert_eq!(
        ask(&t, "echo.eu.mesh.local.foo.svc.cluster.local", "default"),
        None
    );
    // The bare name of another namespace's service is not meant by our search list.
    assert_eq!(ask(&t, "reviews.foo.svc.cluster.local", "foo"), None);
}

#[test]
fn global_names_stand_for_the_service_unless_declared() {
    let t = table();
    assert_eq!(ask(&t, "httpbin.bar.global", "foo"), direct("10.0.0.3"));
    assert_eq!(ask(&t, "httpbin.global", "foo"), None);
    let declared = NameTable::build([
        entry("httpbin.bar.svc.cluster.local", &["10.0.0.3"]),
        entry("httpbin.bar.global", &["240.0.0.5"]),
    ]);
    assert_eq!(ask(&declared, "httpbin.bar.global", "foo"), direct("240.0.0.5"));
}

#[test]
fn the_longest_wildcard_wins_and_never_covers_its_own_suffix() {
    let t = table();
    assert_eq!(ask(&t, "a.example.com", "x"), direct("240.240.0.9"));
    assert_eq!(ask(&t, "a.b.example.com", "x"), direct("240.240.0.9"));
    assert_eq!(ask(&t, "a.sub.example.com", "x"), direct("240.240.0.10"));
    assert_eq!(ask(&t, "sub.example.com", "x"), direct("240.240.0.9"));
    assert_eq!(ask(&t, "example.com", "x"), None);
    assert_eq!(ask(&t, ".example.com", "x"), None);
    // `*` is in the list of entries, and still other names are not ours.
    assert_eq!(ask(&t, "www.example.org", "x"), None);
}

#[test]
fn headless_services_have_every_address_once_and_their_pods_names() {
    let t = table();
    let scope = Scope::pod("default", "cluster.local");
    let found = t.lookup("db", &scope).unwrap();
    assert_eq!(found.addresses.v4.len(), 2);
    assert_eq!(ask(&t, "db-0.db", "default"), direct("10.1.0.1"));
    assert_eq!(
        ask(&t, "db-0.db.default.svc.cluster.local", "foo"),
        direct("10.1.0.1")
    );
}

#[test]
fn both_families_are_kept_apart() {
    let t = table();
    let found = t.host("details.default.svc.cluster.local").unwrap();
    assert_eq!((found.v4.len(), found.v6.len()), (1, 1));
    assert!(t.has_below("default.svc.cluster.local"));
    assert!(!t.has_below("other.svc.cluster.local"));
}

#[test]
fn odd_names_neither_match_nor_break_the_table() {
    let long = "a".repeat(300);
    let t = NameTable::build([
        entry(&long, &["1.1.1.1"]),
        entry("a.*.b", &["1.1.1.1"]),
        entry("", &["1.1.1.1"]),
    ]);
    assert!(t.is_empty());
    let t = table();
    for odd in ["", ".", "..", "*", "*.example", "\u{e9}.example.org", &long] {
        assert_eq!(ask(&t, odd, "default"), None, "{odd:?}");
    }
    assert_eq!(t.iter().count(), t.len());
}
