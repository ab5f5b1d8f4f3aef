//! Authorities made here, by openssl and by Istio's scripts; and files that are no authority.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rustls_pki_types::UnixTime;

use super::*;
use crate::verify::{Side, verify_chain};

const DAY: Duration = Duration::from_secs(24 * 3600);

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fixtures")
        .join(name)
}

fn request(name: &str) -> String {
    std::fs::read_to_string(fixture("requests").join(format!("{name}.csr"))).unwrap()
}

fn echo() -> isthmus_model::SpiffeId {
    "spiffe://corp.local/ns/echo/sa/default".parse().unwrap()
}

/// P-256 throughout: RSA 4096 takes seconds to make.
fn root() -> Authority {
    Authority::create_root(&RootRequest {
        algorithm: KeyAlgorithm::EcdsaP256,
        ..RootRequest::default()
    })
    .unwrap()
}

fn intermediate(root: &Authority, cluster: &str) -> Authority {
    root.create_intermediate(&IntermediateRequest {
        algorithm: KeyAlgorithm::EcdsaP256,
        ..IntermediateRequest::new(cluster.into())
    })
    .unwrap()
}

/// The files that `isthmus certs` would write for `authority`.
fn files(authority: &Authority) -> FileSet {
    let chain: String = authority
        .intermediates()
        .chain([authority.anchor()])
        .map(Certificate::to_pem)
        .collect();
    FileSet {
        origin: "cacerts".to_owned(),
        files: BTreeMap::from([
            ("ca-cert.pem".to_owned(), authority.certificate().to_pem().into()),
            (
                "ca-key.pem".to_owned(),
                authority.key().to_pem().as_bytes().to_vec(),
            ),
            ("cert-chain.pem".to_owned(), chain.into()),
            ("root-cert.pem".to_owned(), authority.roots().to_pem().into()),
        ]),
    }
}

fn assert_peers_accept(authority: &Authority, issued: &Issued) {
    let between: Vec<_> = authority.intermediates().map(|c| c.der.clone()).collect();
    for side in [Side::Server, Side::Client] {
        verify_chain(
            &issued.leaf.der,
            &between,
            authority.roots(),
            UnixTime::now(),
            side,
        )
        .unwrap();
    }
}

#[test]
fn a_root_and_its_intermediate_are_shaped_as_istios() {
    let root = root();
    let cert = root.certificate();
    assert_eq!(cert.subject, "O=Istio, CN=Root CA");
    assert!(cert.is_ca && cert.path_length.is_none() && root.is_root());
    let validity = cert.not_after.duration_since(SystemTime::now()).unwrap();
    assert!(validity > 3649 * DAY && validity <= 3650 * DAY);

    let us = intermediate(&root, "us");
    let cert = us.certificate();
    assert_eq!(cert.subject, "O=Istio, CN=Intermediate CA, L=us");
    assert_eq!(cert.path_length, Some(0));
    assert_eq!(cert.dns_names, ["istiod.istio-system.svc"]);
    assert_eq!(us.cluster(), Some("us".into()));
    assert_eq!(cert.authority_key_id, root.certificate().subject_key_id);
    assert!(cert.not_after <= root.certificate().not_after);
}

#[test]
fn key_usage_of_authorities_is_istios() {
    use x509_parser::prelude::{FromDer, X509Certificate};
    let root = root();
    for cert in [root.certificate(), intermediate(&root, "us").certificate()] {
        let (_, parsed) = X509Certificate::from_der(&cert.der).unwrap();
        let usage = parsed.key_usage().unwrap().unwrap();
        assert!(usage.critical);
        assert_eq!(
            usage.value.to_string(),
            "Digital Signature, Non Repudiation, Key Encipherment, Key Cert Sign"
        );
    }
}

#[test]
fn what_was_made_is_read_back_from_its_files_and_signs() {
    let us = Authority::from_files(&files(&intermediate(&root(), "us"))).unwrap();
    let issued = us.issue(&request("p256"), &echo(), Duration::ZERO).unwrap();
    assert_peers_accept(&us, &issued);
    assert_eq!(issued.chain.len(), 3, "leaf, intermediate, root");
    assert_eq!(issued.chain[2], us.roots().to_pem());
}

#[test]
fn istios_files_work() {
    let authority = Authority::load(&fixture("istio")).unwrap();
    assert_eq!(authority.cluster(), Some("us".into()));
    let issued = authority
        .issue(&request("p256"), &echo(), Duration::ZERO)
        .unwrap();
    assert_peers_accept(&authority, &issued);
}

#[test]
fn a_tls_secret_with_two_authorities_and_repeated_attributes_works() {
    let authority = Authority::load(&fixture("tls")).unwrap();
    assert_eq!(authority.intermediates().count(), 2);
    assert_eq!(
        authority.anchor().subject,
        "DC=local, DC=corp, O=Corp, CN=Corp Root"
    );
    let issued = authority
        .issue(&request("p256"), &echo(), Duration::ZERO)
        .unwrap();
    assert_peers_accept(&authority, &issued);
    assert_eq!(issued.leaf.issuer_locality.as_deref(), Some("eu"));
}

#[test]
fn a_workloads_certificate_says_what_it_must_and_no_more() {
    use x509_parser::extensions::ParsedExtension;
    use x509_parser::prelude::{FromDer, X509Certificate};
    let us = intermediate(&root(), "us");
    let issued = us
        .issue(&request("p256"), &echo(), Duration::from_secs(60))
        .unwrap();
    let leaf = &issued.leaf;
    assert_eq!(leaf.uris, ["spiffe://corp.local/ns/echo/sa/default"]);
    assert!(leaf.dns_names.is_empty() && leaf.subject.is_empty() && !leaf.is_ca);
    let left = leaf.not_after.duration_since(SystemTime::now()).unwrap();
    assert!(left <= Duration::from_secs(60) && left > Duration::from_secs(30));

    let (_, parsed) = X509Certificate::from_der(&leaf.der).unwrap();
    let usage = parsed.extended_key_usage().unwrap().unwrap().value;
    assert!(usage.server_auth && usage.client_auth && !usage.any);
    let san = parsed
        .extensions()
        .iter()
        .find(|e| matches!(e.parsed_extension(), ParsedExtension::SubjectAlternativeName(_)));
    assert!(san.unwrap().critical, "the subject is empty");
    let again = us.issue(&request("p256"), &echo(), Duration::ZERO).unwrap();
    assert_ne!(again.leaf.serial, leaf.serial);
}

#[test]
fn every_kind_of_key_that_peers_accept_is_signed() {
    let us = intermediate(&root(), "us");
    for name in ["p256", "p384-sha256", "rsa"] {
        let issued = us.issue(&request(name), &echo(), Duration::ZERO).unwrap();
        assert_peers_accept(&us, &issued);
    }
}

#[test]
fn the_control_plane_gets_its_dns_names() {
    let us = intermediate(&root(), "us");
    let names = ["istiod.istio-system.svc".to_owned()];
    let issued = us
        .issue_with_names(&request("dns-name"), &echo(), &names, Duration::ZERO)
        .unwrap();
    assert_eq!(issued.leaf.dns_names, names);
}

#[test]
fn requests_in_anothers_name_are_refused() {
    let us = intermediate(&root(), "us");
    for name in ["other-account", "dns-name"] {
        let refused = us.issue(&request(name), &echo(), Duration::ZERO).unwrap_err();
        assert!(
            matches!(refused, IssueError::OtherName { .. }),
            "{name}: {refused}"
        );
    }
}

#[test]
fn requests_that_are_not_signed_by_their_key_are_refused() {
    let us = intermediate(&root(), "us");
    let mut parsed = pem::parse(request("p256")).unwrap().into_contents();
    let last = parsed.len() - 1;
    parsed[last] ^= 1;
    let forged = crate::certificate::pem_block("CERTIFICATE REQUEST", &parsed);
    let refused = us.issue(&forged, &echo(), Duration::ZERO).unwrap_err();
    assert_eq!(refused, IssueError::Signature);
}

#[test]
fn weak_keys_garbage_and_floods_are_refused() {
    let us = intermediate(&root(), "us");
    let refused = |csr: &str| us.issue(csr, &echo(), Duration::ZERO).unwrap_err();
    assert!(matches!(refused(&request("rsa-1024")), IssueError::Key(_)));
    assert!(matches!(refused("no request"), IssueError::Encoding(_)));
    assert_eq!(refused(&"x".repeat(100_000)), IssueError::TooLong);
    let truncated = &request("p256")[..200];
    assert!(matches!(refused(truncated), IssueError::Encoding(_)));
}

#[test]
fn nothing_outlives_its_authority() {
    let short = Authority::create_root(&RootRequest {
        algorithm: KeyAlgorithm::EcdsaP256,
        validity: Duration::from_secs(3600),
        ..RootRequest::default()
    })
    .unwrap();
    let issued = short.issue(&request("p256"), &echo(), 30 * DAY).unwrap();
    assert_eq!(issued.leaf.not_after, short.certificate().not_after);
    let below = intermediate(&short, "us");
    assert!(below.certificate().not_after <= short.certificate().not_after);
}

#[test]
fn an_expired_authority_signs_nothing_and_does_not_load() {
    let expired = Authority::create_root(&RootRequest {
        algorithm: KeyAlgorithm::EcdsaP256,
        validity: Duration::ZERO,
        ..RootRequest::default()
    })
    .unwrap();
    std::thread::sleep(Duration::from_millis(1100));
    let refused = expired.issue(&request("p256"), &echo(), DAY).unwrap_err();
    assert!(matches!(refused, IssueError::Expired { .. }), "{refused}");
    let refused = Authority::from_files(&files(&expired)).unwrap_err();
    assert!(matches!(refused, AuthorityError::Validity { .. }), "{refused}");
}

#[test]
fn an_intermediate_makes_no_further_intermediate() {
    let us = intermediate(&root(), "us");
    let refused = us
        .create_intermediate(&IntermediateRequest::new("eu".into()))
        .unwrap_err();
    assert!(matches!(refused, CreateError::PathLength(_)));
}

#[test]
fn a_key_that_does_not_fit_is_named_with_both_fingerprints() {
    let us = intermediate(&root(), "us");
    let mut set = files(&us);
    let other = PrivateKey::generate(KeyAlgorithm::EcdsaP256).unwrap();
    set.files
        .insert("ca-key.pem".to_owned(), other.to_pem().as_bytes().to_vec());
    let refused = Authority::from_files(&set).unwrap_err();
    assert!(matches!(refused, AuthorityError::KeyMismatch { .. }));
    let text = refused.to_string();
    for part in [
        "cacerts/ca-key.pem",
        "cacerts/ca-cert.pem",
        &other.fingerprint().to_string(),
        &us.key().fingerprint().to_string(),
    ] {
        assert!(text.contains(part), "{part} in {text}");
    }
}

#[test]
fn a_foreign_root_is_named_with_both_fingerprints() {
    let us = intermediate(&root(), "us");
    let foreign = root();
    let mut set = files(&us);
    set.files
        .insert("root-cert.pem".to_owned(), foreign.roots().to_pem().into());
    let refused = Authority::from_files(&set).unwrap_err();
    assert!(matches!(refused, AuthorityError::Chain(_)));
    let text = refused.to_string();
    for part in [
        "cacerts/ca-cert.pem",
        "cacerts/root-cert.pem",
        &us.certificate().fingerprint().to_string(),
        &foreign.certificate().fingerprint().to_string(),
    ] {
        assert!(text.contains(part), "{part} in {text}");
    }
}

#[test]
fn a_gap_between_the_authority_and_the_root_is_found() {
    let mut set = FileSet::read(&fixture("tls")).unwrap();
    let only_first = Certificate::parse_pem(&set.files["tls.crt"]).unwrap()[0].to_pem();
    set.files.insert("tls.crt".to_owned(), only_first.into());
    let refused = Authority::from_files(&set).unwrap_err();
    assert!(matches!(refused, AuthorityError::Chain(_)), "{refused}");
    assert!(refused.to_string().contains("Policy CA"), "{refused}");
}

#[test]
fn a_workloads_certificate_is_no_authority() {
    let us = intermediate(&root(), "us");
    let key = PrivateKey::generate(KeyAlgorithm::EcdsaP256).unwrap();
    let csr = key.certificate_request(&echo()).unwrap();
    let leaf = us.issue(&csr, &echo(), DAY).unwrap().leaf;
    let mut set = files(&us);
    set.files.insert("ca-cert.pem".to_owned(), leaf.to_pem().into());
    set.files
        .insert("ca-key.pem".to_owned(), key.to_pem().as_bytes().to_vec());
    let refused = Authority::from_files(&set).unwrap_err();
    assert!(
        matches!(refused, AuthorityError::NotAuthority { .. }),
        "{refused}"
    );
}

#[test]
fn missing_and_mangled_files_are_named() {
    let empty = tempfile::tempdir().unwrap();
    let refused = Authority::load(empty.path()).unwrap_err().to_string();
    assert!(refused.contains("ca-cert.pem is missing"), "{refused}");
    for name in ["ca-cert.pem", "ca-key.pem", "cert-chain.pem", "root-cert.pem"] {
        let mut set = files(&intermediate(&root(), "us"));
        set.files.insert(name.to_owned(), b"garbage".to_vec());
        let refused = Authority::from_files(&set).unwrap_err().to_string();
        assert!(refused.starts_with(&format!("cacerts/{name}: ")), "{refused}");
    }
}

#[test]
fn during_a_rotation_every_root_is_handed_out_and_the_right_one_is_the_anchor() {
    let old = root();
    let new = root();
    let us = intermediate(&old, "us");
    let mut set = files(&us);
    let both = new.roots().to_pem() + &old.roots().to_pem();
    set.files.insert("root-cert.pem".to_owned(), both.clone().into());
    let us = Authority::from_files(&set).unwrap();
    assert_eq!(us.anchor(), old.certificate(), "same names, other key");
    let issued = us.issue(&request("p256"), &echo(), DAY).unwrap();
    assert_eq!(issued.chain.last(), Some(&both));
}

#[test]
fn secrets_are_not_shown() {
    let key = PrivateKey::generate(KeyAlgorithm::EcdsaP256).unwrap();
    let secret = key.to_pem().lines().nth(1).unwrap().to_owned();
    let shown = format!("{key:?} {:?}", root());
    assert!(!shown.contains(&secret) && !shown.contains("PRIVATE"), "{shown}");
}

#[test]
fn keys_of_every_openssl_form_become_pkcs8() {
    for name in ["istio/ca-key.pem", "tls/tls.key"] {
        let text = std::fs::read(fixture(name)).unwrap();
        let key = PrivateKey::from_pem(&text).unwrap();
        let pkcs8 = key.to_pem();
        assert!(pkcs8.starts_with("-----BEGIN PRIVATE KEY-----"), "{name}");
        let again = PrivateKey::from_pem(pkcs8.as_bytes()).unwrap();
        assert_eq!(again.fingerprint(), key.fingerprint(), "{name}");
        again.tls_key().unwrap();
    }
}
