//! What `isthmus certs` leaves on disk, and what it says of it.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use super::*;
use crate::authority::{IntermediateRequest, RootRequest};
use crate::key::KeyAlgorithm;

fn root() -> Authority {
    Authority::create_root(&RootRequest {
        algorithm: KeyAlgorithm::EcdsaP256,
        ..RootRequest::default()
    })
    .unwrap()
}

fn intermediate(root: &Authority) -> Authority {
    root.create_intermediate(&IntermediateRequest {
        algorithm: KeyAlgorithm::EcdsaP256,
        ..IntermediateRequest::new("us".into())
    })
    .unwrap()
}

fn names(directory: &Path) -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(directory)
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn root_and_intermediate_are_written_and_read_back() {
    let at = tempfile::tempdir().unwrap();
    write_root(at.path(), &root(), false).unwrap();
    assert_eq!(names(at.path()), ["root-cert.pem", "root-key.pem"]);
    let root = load_root(at.path()).unwrap();
    let us = at.path().join("deep/us");
    write_cacerts(&us, &intermediate(&root), false).unwrap();
    assert_eq!(
        names(&us),
        ["ca-cert.pem", "ca-key.pem", "cert-chain.pem", "root-cert.pem"]
    );
    assert_eq!(Authority::load(&us).unwrap().cluster(), Some("us".into()));
}

#[test]
fn keys_are_for_their_owner_alone() {
    let at = tempfile::tempdir().unwrap();
    let root = root();
    write_root(at.path(), &root, false).unwrap();
    write_cacerts(at.path().join("us").as_path(), &intermediate(&root), false).unwrap();
    for (file, mode) in [
        ("root-key.pem", 0o600),
        ("us/ca-key.pem", 0o600),
        ("us/ca-cert.pem", 0o644),
    ] {
        let found = std::fs::metadata(at.path().join(file))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(found & 0o777 & !mode, 0, "{file} has {found:o}");
    }
}

#[test]
fn nothing_is_replaced_without_being_told_to() {
    let at = tempfile::tempdir().unwrap();
    std::fs::write(at.path().join("root-key.pem"), "precious").unwrap();
    let refused = write_root(at.path(), &root(), false).unwrap_err();
    assert!(matches!(refused, WriteError::Exists(_)), "{refused}");
    assert!(refused.to_string().contains("--force"), "{refused}");
    assert_eq!(names(at.path()), ["root-key.pem"], "not even the other file");
    let kept = std::fs::read_to_string(at.path().join("root-key.pem")).unwrap();
    assert_eq!(kept, "precious");

    write_root(at.path(), &root(), true).unwrap();
    load_root(at.path()).unwrap();
    let key = std::fs::metadata(at.path().join("root-key.pem")).unwrap();
    assert_eq!(
        key.permissions().mode() & 0o077,
        0,
        "the replaced file's mode does not stay"
    );
}

#[test]
fn the_secret_holds_the_same_files() {
    let us = intermediate(&root());
    let yaml = secret_yaml(&us, "istio-system");
    assert!(
        yaml.contains("name: cacerts\n  namespace: istio-system\n"),
        "{}",
        *yaml
    );
    let files = yaml
        .lines()
        .filter_map(|l| l.strip_prefix("  ")?.split_once(".pem: "))
        .map(|(name, data)| (format!("{name}.pem"), STANDARD.decode(data).unwrap()))
        .collect();
    let set = FileSet {
        origin: "Secret istio-system/cacerts".to_owned(),
        files,
    };
    let loaded = Authority::from_files(&set).unwrap();
    assert_eq!(loaded.certificate(), us.certificate());
}

#[test]
fn a_report_tells_names_and_whether_the_chain_holds() {
    let at = tempfile::tempdir().unwrap();
    let root = root();
    write_root(at.path(), &root, false).unwrap();
    let us = at.path().join("us");
    write_cacerts(&us, &intermediate(&root), false).unwrap();

    let report = Report::of(&us, None).unwrap();
    assert_eq!(report.cluster.as_deref(), Some("us"));
    let fingerprint = root.certificate().fingerprint().to_string();
    assert_eq!(
        report.chain,
        Check::Ok {
            root: fingerprint.clone()
        }
    );
    assert_eq!(report.certificates[0].dns_names, ["istiod.istio-system.svc"]);
    assert!(!report.is_bad());
    assert_eq!(
        Report::of(at.path(), None).unwrap().chain,
        Check::Ok { root: fingerprint }
    );

    let alone = Report::of(&us.join("ca-cert.pem"), None).unwrap();
    assert!(matches!(alone.chain, Check::Unknown { .. }));
    let checked = Report::of(&us.join("ca-cert.pem"), Some(&at.path().join("root-cert.pem"))).unwrap();
    assert!(matches!(checked.chain, Check::Ok { .. }));
}

#[test]
fn a_report_finds_a_foreign_root() {
    let at = tempfile::tempdir().unwrap();
    write_cacerts(at.path(), &intermediate(&root()), false).unwrap();
    let foreign = at.path().join("foreign.pem");
    std::fs::write(&foreign, root().roots().to_pem()).unwrap();
    for path in [at.path().to_owned(), at.path().join("ca-cert.pem")] {
        let report = Report::of(&path, Some(&foreign)).unwrap();
        assert!(matches!(report.chain, Check::Failed { .. }), "{report:?}");
        assert!(report.is_bad());
    }
    std::fs::copy(&foreign, at.path().join("root-cert.pem")).unwrap();
    let report = Report::of(at.path(), None).unwrap();
    assert!(matches!(report.chain, Check::Failed { .. }), "{report:?}");
}

#[test]
fn a_workloads_chain_is_checked_as_a_peer_would() {
    let at = tempfile::tempdir().unwrap();
    let us = intermediate(&root());
    let identity = "spiffe://corp.local/ns/echo/sa/default".parse().unwrap();
    let key = crate::PrivateKey::generate(KeyAlgorithm::EcdsaP256).unwrap();
    let csr = key.certificate_request(&identity).unwrap();
    let issued = us.issue(&csr, &identity, Duration::ZERO).unwrap();
    let file = at.path().join("chain.pem");
    std::fs::write(&file, issued.chain.concat()).unwrap();
    let report = Report::of(&file, None).unwrap();
    assert_eq!(report.certificates[0].uris, [identity.to_string()]);
    assert!(matches!(report.chain, Check::Ok { .. }), "{report:?}");

    let without_intermediate = [issued.chain[0].clone(), issued.chain[2].clone()].concat();
    std::fs::write(&file, without_intermediate).unwrap();
    let report = Report::of(&file, None).unwrap();
    assert!(matches!(report.chain, Check::Failed { .. }), "{report:?}");
}

#[test]
fn what_is_no_certificate_is_said_so() {
    let at = tempfile::tempdir().unwrap();
    let file = at.path().join("x.pem");
    assert!(matches!(Report::of(&file, None), Err(ReportError::Read { .. })));
    std::fs::write(&file, "nothing").unwrap();
    assert!(matches!(
        Report::of(&file, None),
        Err(ReportError::Certificate { .. })
    ));
}
