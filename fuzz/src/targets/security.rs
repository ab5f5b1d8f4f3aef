//! Certificates, tokens, names, and what a user's command says to a sandbox.

use std::cell::OnceCell;
use std::sync::OnceLock;
use std::time::Duration;

use isthmus_model::{ClusterName, EndpointAddress, Hostname, Locality, SpiffeId, TrustDomain};
use isthmus_pki::authority::RootRequest;
use isthmus_pki::token::{AUDIENCE, JwksAuthenticator, JwksConfig, TokenIssuer, TokenRequest};
use isthmus_pki::{Authenticator, Authority, Certificate, KeyAlgorithm, PrivateKey, Proof, Roots};
use isthmus_sandbox::socket::{Part, Request, Workload};

use super::{Kind, Target, text};

const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";

/// Certificates, keys, bundles and requests to be signed.
pub const CERTIFICATES: Target = Target {
    name: "certificates",
    kind: Kind::Bytes,
    inputs: 500,
    seeds: || {
        let root = authority();
        let key = PrivateKey::generate(KeyAlgorithm::EcdsaP256).expect("a key");
        let request = key.certificate_request(&identity()).expect("a request");
        let issued = root
            .issue(&request, &identity(), Duration::from_secs(600))
            .expect("a certificate");
        let leaf = issued.leaf;
        vec![
            request.into_bytes(),
            leaf.to_pem().into_bytes(),
            key.to_pem().as_bytes().to_vec(),
            leaf.der.to_vec(),
        ]
    },
    run: |input| {
        let _ = Certificate::parse(input);
        let _ = Certificate::parse_pem(input);
        let _ = PrivateKey::from_pem(input);
        if let Ok(roots) = Roots::from_pem(input) {
            let _ = roots.with_revocation_lists(input);
        }
        if let Ok(issued) = authority().issue(
            &String::from_utf8_lossy(input),
            &identity(),
            Duration::from_secs(60),
        ) {
            // Whatever the request says, the certificate is the caller's.
            assert_eq!(issued.leaf.spiffe_id(), Some(identity()));
            assert!(!issued.leaf.is_ca, "a request made an authority");
        }
    },
};

fn identity() -> SpiffeId {
    "spiffe://corp.local/ns/default/sa/sleep"
        .parse()
        .expect("an identity")
}

fn authority() -> &'static Authority {
    static ROOT: OnceLock<Authority> = OnceLock::new();
    ROOT.get_or_init(|| {
        let request = RootRequest {
            algorithm: KeyAlgorithm::EcdsaP256,
            ..Default::default()
        };
        Authority::create_root(&request).expect("a root")
    })
}

/// Service-account tokens.
pub const TOKENS: Target = Target {
    name: "tokens",
    kind: Kind::Text,
    inputs: 1000,
    seeds: || {
        vec![
            token().into_bytes(),
            b"a.b.c".to_vec(),
            b"eyJhbGciOiJub25lIn0.e30.".to_vec(),
        ]
    },
    run: |input| {
        thread_local! {
            static CHECK: OnceCell<(tempfile::TempDir, JwksAuthenticator, tokio::runtime::Runtime)> =
                const { OnceCell::new() };
        }
        CHECK.with(|check| {
            let (_, authenticator, runtime) = check.get_or_init(|| {
                let dir = tempfile::tempdir().expect("a directory");
                let keys = dir.path().join("keys.json");
                std::fs::write(&keys, issuer().key_set()).expect("a file");
                let config = JwksConfig {
                    cluster: "us".into(),
                    keys,
                    issuers: vec![ISSUER.to_owned()],
                    audiences: vec![AUDIENCE.to_owned()],
                };
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
                (dir, JwksAuthenticator::new(config), runtime.expect("a runtime"))
            });
            let proof = Proof {
                token: Some(text(input).to_owned()),
                ..Default::default()
            };
            if let Ok(caller) = runtime.block_on(authenticator.authenticate(&proof)) {
                // Only what the issuer signed is good, and it signed one thing.
                assert_eq!(
                    (&*caller.namespace, &*caller.service_account),
                    ("default", "sleep")
                );
                assert_eq!(text(input).trim(), token(), "another token is good as well");
            }
        });
    },
};

fn issuer() -> &'static TokenIssuer {
    static ISSUED: OnceLock<TokenIssuer> = OnceLock::new();
    ISSUED.get_or_init(|| TokenIssuer::generate(ISSUER).expect("an issuer"))
}

fn token() -> String {
    static TOKEN: OnceLock<String> = OnceLock::new();
    let request = TokenRequest {
        namespace: "default".into(),
        service_account: "sleep".into(),
        pod: None,
        audiences: vec![AUDIENCE.to_owned()],
        validity: Duration::from_secs(24 * 3600),
    };
    TOKEN
        .get_or_init(|| issuer().mint(&request).expect("a token"))
        .clone()
}

/// Lines of the sandbox's socket.
pub const SANDBOX: Target = Target {
    name: "sandbox",
    kind: Kind::Tree,
    inputs: 5000,
    seeds: || {
        [
            r#""status""#,
            r#"{"exec": {"workload": {"cluster": "us", "namespace": "default", "name": "sleep", "container": null}, "argv": ["sh"], "env": {"A": "b"}}}"#,
            r#"{"apply": {"cluster": "us", "file": "a.yaml", "yaml": "a: b"}}"#,
            r#"{"get": {"cluster": "us", "kind": "pods", "namespace": null, "name": null}}"#,
            r#"{"signal": 15}"#,
        ]
        .map(|line| line.as_bytes().to_vec())
        .into()
    },
    run: |input| {
        let _ = serde_json::from_slice::<Request>(input);
        let _ = text(input).parse::<Workload>();
        let _ = Part::parse(text(input), None);
    },
};

/// Names that carry meaning.
pub const NAMES: Target = Target {
    name: "names",
    kind: Kind::Text,
    inputs: 10_000,
    seeds: || {
        [
            "outbound|9080|v1|reviews.default.svc.cluster.local",
            "inbound|8080||",
            "outbound_.80_.v1_.echo.echo.svc.cluster.local",
            "spiffe://corp.local/ns/default/sa/sleep",
            "*.example.com",
            "eu/eu-a/1",
            "1h30m5.5s",
            "10.0.0.1",
            "unix:///tmp/a",
        ]
        .map(|n| n.as_bytes().to_vec())
        .into()
    },
    run: |input| {
        let name = text(input);
        // What is read is written the same way again.
        if let Ok(read) = name.parse::<ClusterName>() {
            assert_eq!(read.to_string().parse::<ClusterName>().as_ref(), Ok(&read));
        }
        if let Ok(read) = ClusterName::from_sni(name) {
            assert_eq!(ClusterName::from_sni(&read.sni()).as_ref(), Ok(&read));
        }
        if let Ok(read) = name.parse::<SpiffeId>() {
            assert_eq!(read.to_string().parse::<SpiffeId>().as_ref(), Ok(&read));
        }
        if let Ok(read) = name.parse::<Hostname>() {
            assert_eq!(read.to_string().parse::<Hostname>().as_ref(), Ok(&read));
            assert!(read.covers(&read) && read.overlaps(&read));
        }
        let _ = name.parse::<TrustDomain>();
        let _ = name.parse::<Locality>();
        let _ = name.parse::<EndpointAddress>();
        let _ = name.parse::<isthmus_api::Duration>();
    },
};
