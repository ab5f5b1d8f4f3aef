//! Certificates made by `isthmus certs` satisfy openssl, and those made by openssl satisfy Isthmus.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use crate::program::{isthmus, openssl, run_with};

/// An intermediate as Istio's instructions for plugging in a CA have it.
const INTERMEDIATE: &str = "\
[ req ]
distinguished_name = name
prompt = no
[ name ]
O = Istio
CN = Intermediate CA
L = us
[ extensions ]
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid
basicConstraints = critical, CA:true, pathlen:0
keyUsage = critical, digitalSignature, nonRepudiation, keyEncipherment, keyCertSign
subjectAltName = DNS:istiod.istio-system.svc
[ root ]
basicConstraints = critical, CA:true
keyUsage = critical, keyCertSign, cRLSign
subjectKeyIdentifier = hash
[ leaf ]
subjectAltName = URI:spiffe://corp.local/ns/default/sa/sleep
";

fn directory() -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a directory");
    std::fs::write(dir.path().join("ca.conf"), INTERMEDIATE).expect("a file");
    dir
}

/// A root, an intermediate for cluster us, and the files of the secret `cacerts`, by openssl alone.
fn made_by_openssl(dir: &Path) {
    for arguments in [
        "req -x509 -newkey rsa:2048 -noenc -days 30 -subj /O=Istio/CN=Root -config ca.conf -extensions root \
         -keyout root-key.pem -out root-cert.pem",
        "req -newkey rsa:2048 -noenc -config ca.conf -keyout ca-key.pem -out ca.csr",
        "x509 -req -days 20 -in ca.csr -CA root-cert.pem -CAkey root-key.pem -CAcreateserial \
         -extfile ca.conf -extensions extensions -out ca-cert.pem",
    ] {
        openssl(dir, arguments);
    }
    let read = |name: &str| std::fs::read_to_string(dir.join(name)).expect("a file");
    std::fs::create_dir(dir.join("us")).expect("a directory");
    for (name, text) in [
        ("ca-cert.pem", read("ca-cert.pem")),
        ("ca-key.pem", read("ca-key.pem")),
        ("root-cert.pem", read("root-cert.pem")),
        ("cert-chain.pem", read("ca-cert.pem") + &read("root-cert.pem")),
    ] {
        std::fs::write(dir.join("us").join(name), text).expect("a file");
    }
}

#[test]
fn openssl_verifies_our_intermediates_and_what_they_sign() {
    let dir = directory();
    let dir = dir.path();
    for key in ["ecdsa-p256", "rsa-2048"] {
        let made = isthmus(dir, &format!("certs root --dir {key} --key {key}"));
        assert_eq!(made.code, 0, "{made}");
        let made = isthmus(dir, &format!("certs intermediate us eu --dir {key} --key {key}"));
        assert_eq!(made.code, 0, "{made}");
        for cluster in ["us", "eu"] {
            openssl(
                dir,
                &format!("verify -x509_strict -CAfile {key}/root-cert.pem {key}/{cluster}/ca-cert.pem"),
            );
            let text = openssl(dir, &format!("x509 -noout -text -in {key}/{cluster}/ca-cert.pem")).stdout;
            assert!(text.contains("CA:TRUE, pathlen:0"), "{text}");
            assert!(text.contains(&format!("L = {cluster}")), "{text}");

            // The key belongs to the certificate: openssl signs with it, and the whole chain holds.
            openssl(
                dir,
                "req -newkey rsa:2048 -noenc -subj / -keyout leaf-key.pem -out leaf.csr",
            );
            openssl(
                dir,
                &format!(
                    "x509 -req -days 1 -in leaf.csr -CA {key}/{cluster}/ca-cert.pem -CAkey {key}/{cluster}/ca-key.pem \
                     -CAcreateserial -extfile ca.conf -extensions leaf -out leaf.pem"
                ),
            );
            openssl(
                dir,
                &format!(
                    "verify -CAfile {key}/root-cert.pem -untrusted {key}/{cluster}/cert-chain.pem leaf.pem"
                ),
            );
        }
        let other = run_with(
            dir,
            &[
                "openssl",
                "verify",
                "-CAfile",
                &format!("{key}/us/root-cert.pem"),
                "leaf.pem",
            ],
            "",
        );
        assert_ne!(
            other.code, 0,
            "without its intermediate a leaf is not trusted: {other}"
        );
    }
}

#[test]
fn intermediates_made_by_openssl_are_shown_and_checked() {
    let dir = directory();
    made_by_openssl(dir.path());
    let shown = isthmus(dir.path(), "certs show us");
    assert_eq!(shown.code, 0, "{shown}");
    assert!(shown.stdout.contains("(cluster us): chains to root"), "{shown}");

    // With another root beside it the chain is broken, and it is said.
    openssl(
        dir.path(),
        "req -x509 -newkey rsa:2048 -noenc -days 30 -subj /CN=Other -config ca.conf -extensions root \
         -keyout other-key.pem -out us/root-cert.pem",
    );
    let shown = isthmus(dir.path(), "certs show us");
    assert_eq!(shown.code, 1, "{shown}");
    assert!(shown.stdout.contains("CHAIN BROKEN"), "{shown}");
}

#[test]
fn a_root_made_by_openssl_signs_our_intermediates() {
    let dir = directory();
    made_by_openssl(dir.path());
    let made = isthmus(dir.path(), "certs intermediate eu --dir . --key ecdsa-p256");
    assert_eq!(made.code, 0, "{made}");
    openssl(
        dir.path(),
        "verify -x509_strict -CAfile root-cert.pem eu/ca-cert.pem",
    );
}

/// A control plane that ends with the story.
struct ControlPlane(Child);

impl Drop for ControlPlane {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_control_plane_serves_with_an_intermediate_made_by_openssl() {
    let dir = directory();
    let dir = dir.path();
    made_by_openssl(dir);
    std::fs::create_dir(dir.join("config")).expect("a directory");
    let port = {
        let free = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        free.local_addr().expect("its address").port()
    };
    let mut child = Command::new(env!("CARGO_BIN_EXE_isthmus"))
        .args([
            "control-plane",
            "--cluster-id",
            "us",
            "--trust-domain",
            "corp.local",
        ])
        .args(["--config", "config", "--cacerts", "us", "--state-dir", "state"])
        .args([
            "--plaintext-port",
            "0",
            "--http-port",
            "0",
            "--monitoring-port",
            "0",
        ])
        .args(["--xds-port", &port.to_string()])
        .current_dir(dir)
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary was built with the tests");
    let mut log = BufReader::new(child.stderr.take().expect("a pipe")).lines();
    let mut control_plane = ControlPlane(child);
    let reader = std::thread::spawn(move || {
        let mut all = String::new();
        while let Some(Ok(line)) = log.next() {
            all.push_str(&line);
            all.push('\n');
        }
        all
    });
    let connect = format!(
        "openssl s_client -connect 127.0.0.1:{port} -servername istiod.istio-system.svc -CAfile root-cert.pem \
         -verify_hostname istiod.istio-system.svc -verify_return_error -tls1_3"
    );
    let argv: Vec<&str> = connect.split_whitespace().collect();
    let until = std::time::Instant::now() + crate::harness::SOON;
    loop {
        let said = run_with(dir, &argv, "");
        // Without a certificate openssl has nothing to complain of either.
        let verified = said.stdout.contains("Verify return code: 0 (ok)");
        if said.code == 0 && verified && said.stdout.contains("New, TLSv1.3") {
            return;
        }
        let ended = control_plane.0.try_wait().expect("a child can be asked");
        if ended.is_some() || std::time::Instant::now() > until {
            drop(control_plane);
            panic!("{said}\n--- control plane\n{}", reader.join().unwrap_or_default());
        }
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
}
