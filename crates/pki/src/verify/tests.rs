//! Handshakes in memory: who gets through, and what the log says of those who do not.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use isthmus_model::{SpiffeId, TrustDomain};
use rustls::{ClientConfig, ServerConfig};
use rustls_pki_types::{ServerName, UnixTime};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::*;
use crate::authority::{Authority, IntermediateRequest, RootRequest};
use crate::credential::{
    ClientCertificates, Credential, LiveClient, LiveServer, TlsOptions, client_config, fixed, server_config,
};
use crate::key::{KeyAlgorithm, PrivateKey};

const DAY: Duration = Duration::from_secs(24 * 3600);

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

fn id(text: &str) -> SpiffeId {
    text.parse().unwrap()
}

fn credential(authority: &Authority, identity: &str) -> Arc<Credential> {
    let identity = id(identity);
    let key = PrivateKey::generate(KeyAlgorithm::EcdsaP256).unwrap();
    let csr = key.certificate_request(&identity).unwrap();
    let issued = authority.issue(&csr, &identity, DAY).unwrap();
    Arc::new(Credential::from_answer(identity, key, &issued.chain, None).unwrap())
}

fn client(credential: &Arc<Credential>, expected: Expected) -> Arc<ClientConfig> {
    LiveClient::new(fixed(credential.clone()), expected, TlsOptions::alpn(["istio"]))
        .current()
        .unwrap()
}

fn server(credential: &Arc<Credential>, clients: ClientCertificates) -> Arc<ServerConfig> {
    LiveServer::new(fixed(credential.clone()), clients, TlsOptions::alpn(["istio"]))
        .current()
        .unwrap()
}

fn strict() -> ClientCertificates {
    ClientCertificates::Required(Expected::anyone())
}

/// What each end makes of the handshake: the client's error, and the server's error or view of the client.
type Outcome = (io::Result<()>, io::Result<Vec<CertificateDer<'static>>>);

async fn shake(client: Arc<ClientConfig>, server: Arc<ServerConfig>, sni: &'static str) -> Outcome {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let (near, far) = tokio::io::duplex(64 * 1024);
    let client = async {
        let name = ServerName::try_from(sni).unwrap();
        let mut stream = TlsConnector::from(client).connect(name, near).await?;
        // In TLS 1.3 a client learns of a refused certificate only when it reads.
        let mut byte = [0];
        stream.read_exact(&mut byte).await.map(|_| ())
    };
    let server = async {
        let mut stream = TlsAcceptor::from(server).accept(far).await?;
        stream.write_all(b"x").await?;
        stream.flush().await?;
        let presented = stream.get_ref().1.peer_certificates().unwrap_or_default();
        Ok(presented.iter().map(|c| c.clone().into_owned()).collect())
    };
    tokio::join!(client, server)
}

const SNI: &str = "outbound_.80_._.echo.echo.svc.cluster.local";
const SLEEP: &str = "spiffe://corp.local/ns/default/sa/sleep";
const ECHO: &str = "spiffe://corp.local/ns/echo/sa/default";

#[tokio::test]
async fn workloads_of_two_clusters_know_each_other_by_their_common_root() {
    let root = root();
    let sleep = credential(&intermediate(&root, "us"), SLEEP);
    let echo = credential(&intermediate(&root, "eu"), ECHO);
    let expected = Expected::one_of("outbound|80||echo", vec![SanMatcher::spiffe(&id(ECHO))]);
    let (near, far) = shake(client(&sleep, expected), server(&echo, strict()), SNI).await;
    near.unwrap();
    let presented = far.unwrap();
    assert_eq!(peer_identity(&presented).unwrap(), id(SLEEP));
    assert_eq!(member_cluster(&presented), Some("us".into()));
    assert_eq!(peer_fingerprint(&presented), Some(sleep.chain[0].fingerprint()));
}

#[tokio::test]
async fn a_server_that_proves_another_identity_is_refused_with_both_names() {
    let us = intermediate(&root(), "us");
    let sleep = credential(&us, SLEEP);
    let impostor = credential(&us, "spiffe://corp.local/ns/default/sa/impostor");
    let expected = Expected::one_of(
        "outbound|80||echo.echo.svc.cluster.local",
        vec![SanMatcher::spiffe(&id(ECHO))],
    );
    let (near, far) = shake(client(&sleep, expected), server(&impostor, strict()), SNI).await;
    let error = near.unwrap_err();
    assert_eq!(
        describe(&error),
        "server proved spiffe://corp.local/ns/default/sa/impostor but \
         outbound|80||echo.echo.svc.cluster.local expects one of [spiffe://corp.local/ns/echo/sa/default]"
    );
    assert!(matches!(refusal_in(&error), Some(Refusal::Identity { .. })));
    assert!(describe(&far.unwrap_err()).contains("refused our certificate"));
}

#[tokio::test]
async fn another_root_is_refused_with_both_fingerprints() {
    let (ours, theirs) = (root(), root());
    let sleep = credential(&intermediate(&ours, "us"), SLEEP);
    let echo = credential(&intermediate(&theirs, "eu"), ECHO);
    let (near, _) = shake(client(&sleep, Expected::anyone()), server(&echo, strict()), SNI).await;
    let reason = describe(&near.unwrap_err());
    assert!(
        reason.starts_with(&format!("certificate of {ECHO} chains to root ")),
        "{reason}"
    );
    for fingerprint in [
        ours.certificate().fingerprint(),
        theirs.certificate().fingerprint(),
    ] {
        assert!(reason.contains(&fingerprint.to_string()), "{reason}");
    }
}

#[tokio::test]
async fn a_client_of_another_root_is_refused_by_the_server() {
    let sleep = credential(&intermediate(&root(), "us"), SLEEP);
    let stranger = credential(&intermediate(&root(), "us"), SLEEP);
    let us = server(&sleep, strict());
    // The stranger trusts the server's root, so that the refusal is the server's alone.
    let trusting = client_config(
        Some(stranger.certified_key.clone()),
        Verifier::mesh(sleep.bundle.clone(), Expected::anyone()),
        &TlsOptions::alpn(["istio"]),
    );
    let (near, far) = shake(trusting.unwrap(), us, SNI).await;
    assert!(matches!(
        refusal_in(&far.unwrap_err()),
        Some(Refusal::UntrustedRoot { .. })
    ));
    assert!(describe(&near.unwrap_err()).contains("its log says why"));
}

#[tokio::test]
async fn strict_needs_a_client_certificate_and_optional_does_not() {
    let us = intermediate(&root(), "us");
    let echo = credential(&us, ECHO);
    let bare = || {
        client_config(
            None,
            Verifier::mesh(echo.bundle.clone(), Expected::anyone()),
            &TlsOptions::alpn(["istio"]),
        )
        .unwrap()
    };
    let (near, far) = shake(bare(), server(&echo, strict()), SNI).await;
    assert_eq!(describe(&far.unwrap_err()), "the peer presented no certificate");
    assert!(describe(&near.unwrap_err()).contains("demands a client certificate"));

    let optional = ClientCertificates::Optional(Expected::anyone());
    let (near, far) = shake(bare(), server(&echo, optional.clone()), SNI).await;
    near.unwrap();
    assert!(far.unwrap().is_empty());

    let stranger = credential(&intermediate(&root(), "us"), SLEEP);
    let wrong = client_config(
        Some(stranger.certified_key.clone()),
        Verifier::mesh(echo.bundle.clone(), Expected::anyone()),
        &TlsOptions::alpn(["istio"]),
    );
    let (_, far) = shake(wrong.unwrap(), server(&echo, optional), SNI).await;
    assert!(
        refusal_in(&far.unwrap_err()).is_some(),
        "a wrong certificate is not none"
    );
}

#[test]
fn another_trust_domain_is_refused_although_its_chain_holds() {
    let us = intermediate(&root(), "us");
    let foreign = credential(&us, "spiffe://other.local/ns/a/sa/b");
    let bundle = us.bundle("corp.local".parse().unwrap());
    let refusal = refuse(&bundle, &foreign.chain, Expected::anyone());
    assert_eq!(
        refusal.to_string(),
        "spiffe://other.local/ns/a/sa/b belongs to a trust domain without roots here; \
         there are roots for [corp.local]"
    );
}

#[test]
fn one_trust_domains_root_does_not_vouch_for_another_domain() {
    let (ours, theirs) = (root(), root());
    let mut bundle = ours.bundle("corp.local".parse().unwrap());
    bundle.add("partner.local".parse().unwrap(), theirs.roots());
    let forged = credential(&theirs, SLEEP);
    let refusal = refuse(&bundle, &forged.chain, Expected::anyone());
    assert!(matches!(refusal, Refusal::UntrustedRoot { .. }), "{refusal}");
}

#[test]
fn two_identities_none_or_a_strange_one_are_refused() {
    let us = root();
    let bundle = us.bundle("corp.local".parse().unwrap());
    let made = |uris: &[&str]| leaf_with(&us, uris, rcgen::ExtendedKeyUsagePurpose::ServerAuth, 1);
    let refusal = refuse(&bundle, &made(&[SLEEP, ECHO]), Expected::anyone());
    assert!(
        matches!(refusal, Refusal::NotOneUri { count: 2, .. }),
        "{refusal}"
    );
    let refusal = refuse(&bundle, &made(&[]), Expected::anyone());
    assert!(
        matches!(refusal, Refusal::NotOneUri { count: 0, .. }),
        "{refusal}"
    );
    let refusal = refuse(
        &bundle,
        &made(&["https://corp.local/ns/a/sa/b"]),
        Expected::anyone(),
    );
    assert!(matches!(refusal, Refusal::NotSpiffe(_)), "{refusal}");
}

#[test]
fn expired_and_wrong_purpose_are_refused_by_name() {
    let us = root();
    let bundle = us.bundle("corp.local".parse().unwrap());
    let old = leaf_with(&us, &[SLEEP], rcgen::ExtendedKeyUsagePurpose::ServerAuth, -1);
    let refusal = refuse(&bundle, &old, Expected::anyone());
    assert!(matches!(refusal, Refusal::Expired { .. }), "{refusal}");
    assert!(refusal.to_string().contains(SLEEP), "{refusal}");
    let client_only = leaf_with(&us, &[SLEEP], rcgen::ExtendedKeyUsagePurpose::ClientAuth, 1);
    let refusal = refuse(&bundle, &client_only, Expected::anyone());
    assert!(matches!(refusal, Refusal::Chain { .. }), "{refusal}");
}

#[test]
fn garbage_and_endless_chains_are_refused() {
    let us = root();
    let bundle = Arc::new(us.bundle("corp.local".parse().unwrap()));
    let verifier = Verifier::mesh(bundle, Expected::anyone());
    let verify = |leaf: &CertificateDer<'_>, rest: &[CertificateDer<'_>]| {
        verifier.verify(leaf, rest, None, Side::Server, UnixTime::now())
    };
    for bad in [&b""[..], b"\x30\x80", b"\x30\x84\xff\xff\xff\xff", &[0x30; 4096]] {
        let refusal = verify(&CertificateDer::from(bad), &[]).unwrap_err();
        assert!(matches!(refusal, Refusal::Encoding(_)), "{refusal}");
    }
    let leaf = credential(&us, SLEEP).chain[0].der.clone();
    let many = vec![us.certificate().der.clone(); 100];
    let refusal = verify(&leaf, &many).unwrap_err();
    assert_eq!(refusal, Refusal::TooMany { count: 101 });
}

#[test]
fn a_revoked_certificate_is_refused_and_its_siblings_are_not() {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/tls");
    let authority = Authority::load(&fixtures).unwrap();
    assert_eq!(authority.roots().revocation_lists().count(), 1);
    let revoked = std::fs::read(fixtures.join("revoked.crt")).unwrap();
    let revoked = Certificate::parse_pem(&revoked).unwrap().remove(0);
    let between: Vec<_> = authority.intermediates().map(|c| c.der.clone()).collect();
    let verify = |leaf: &Certificate| {
        verify_chain(
            &leaf.der,
            &between,
            authority.roots(),
            UnixTime::now(),
            Side::Server,
        )
    };
    assert!(matches!(verify(&revoked), Err(Refusal::Revoked { .. })));
    verify(&credential(&authority, SLEEP).chain[0]).unwrap();
}

#[tokio::test]
async fn simple_tls_checks_the_name_that_was_asked_for() {
    let us = root();
    let key = PrivateKey::generate(KeyAlgorithm::EcdsaP256).unwrap();
    let csr = key.certificate_request(&id(ECHO)).unwrap();
    let names = ["echo.example.com".to_owned(), "*.wild.example.com".to_owned()];
    let issued = us.issue_with_names(&csr, &id(ECHO), &names, DAY).unwrap();
    let key = crate::credential::certified_key(issued.chain[0].as_bytes(), key.to_pem().as_bytes()).unwrap();
    let server = server_config(
        Arc::new(rustls::sign::SingleCertAndKey::from(key)),
        None,
        &TlsOptions::default(),
    )
    .unwrap();
    let client = client_config(
        None,
        Verifier::server_name(Arc::new(us.roots().clone())),
        &TlsOptions::default(),
    )
    .unwrap();
    for good in ["echo.example.com", "a.wild.example.com"] {
        shake(client.clone(), server.clone(), good).await.0.unwrap();
    }
    let (near, _) = shake(client, server, "other.example.com").await;
    let reason = describe(&near.unwrap_err());
    assert!(reason.contains("was asked for other.example.com"), "{reason}");
}

#[test]
fn matchers_compare_as_envoys_do() {
    let us = root();
    let uri = |matcher| Expected::one_of("c", vec![SanMatcher::new(SanKind::Uri, matcher)]);
    let dns = |matcher| Expected::one_of("c", vec![SanMatcher::new(SanKind::Dns, matcher)]);
    let cert = Certificate::parse(&leaf_der(
        &us,
        &[ECHO],
        &["Echo.example.com", "*.wild.example.com"],
        rcgen::ExtendedKeyUsagePurpose::ServerAuth,
        1,
    ))
    .unwrap();
    let text = |s: &str| s.to_owned();
    for good in [
        uri(StringMatcher::Exact(text(ECHO))),
        uri(StringMatcher::Prefix(text("spiffe://corp.local/ns/echo/"))),
        uri(StringMatcher::Suffix(text("/sa/default"))),
        uri(StringMatcher::Contains(text("/ns/echo/"))),
        uri(StringMatcher::regex("spiffe://[^/]+/ns/echo/sa/.*").unwrap()),
        dns(StringMatcher::Exact(text("echo.example.com"))),
        dns(StringMatcher::Exact(text("a.wild.example.com"))),
        dns(StringMatcher::Suffix(text(".example.com"))),
        Expected::anyone(),
    ] {
        assert!(good.accepts(&cert), "{good}");
    }
    for bad in [
        uri(StringMatcher::Exact(text(
            "spiffe://corp.local/ns/echo/sa/defaul",
        ))),
        uri(StringMatcher::Exact(ECHO.to_uppercase())),
        uri(StringMatcher::Prefix(text("piffe"))),
        uri(StringMatcher::Prefix(format!("{ECHO}/longer"))),
        uri(StringMatcher::Suffix(text("/sa/admin"))),
        uri(StringMatcher::regex("ns/echo").unwrap()),
        uri(StringMatcher::regex("a|spiffe").unwrap()),
        dns(StringMatcher::Exact(text(ECHO))),
        dns(StringMatcher::Exact(text("b.a.wild.example.com"))),
        dns(StringMatcher::Exact(text("wild.example.com"))),
    ] {
        assert!(!bad.accepts(&cert), "{bad}");
    }
    let mut loose = SanMatcher::new(SanKind::Uri, StringMatcher::Exact(ECHO.to_uppercase()));
    loose.ignore_case = true;
    assert!(Expected::one_of("c", vec![loose]).accepts(&cert));
    assert!(StringMatcher::regex("(").is_err());
}

#[test]
fn an_issuer_without_locality_names_no_cluster() {
    assert_eq!(member_cluster(&[]), None);
    let us = root();
    let presented = [credential(&us, SLEEP).chain[0].der.clone()];
    assert_eq!(member_cluster(&presented), None, "the root has no L");
}

#[tokio::test]
async fn a_new_credential_is_used_by_the_next_handshake_and_sessions_do_not_cross() {
    let (old, new) = (root(), root());
    let first = credential(&intermediate(&old, "us"), ECHO);
    let (sender, credentials) = tokio::sync::watch::channel(Some(first.clone()));
    let live = LiveServer::new(credentials, strict(), TlsOptions::alpn(["istio"]));
    let before = live.current().unwrap();
    assert!(
        Arc::ptr_eq(&before, &live.current().unwrap()),
        "nothing is rebuilt without need"
    );

    let second = credential(&intermediate(&new, "us"), ECHO);
    sender.send_replace(Some(second.clone()));
    let after = live.current().unwrap();
    assert!(!Arc::ptr_eq(&before.session_storage, &after.session_storage));
    let sleep = credential(&intermediate(&new, "us"), SLEEP);
    shake(client(&sleep, Expected::anyone()), after, SNI)
        .await
        .0
        .unwrap();
    let stale = credential(&intermediate(&old, "us"), SLEEP);
    let (near, _) = shake(client(&stale, Expected::anyone()), live.current().unwrap(), SNI).await;
    assert!(near.is_err());
}

fn refuse(bundle: &TrustBundle, chain: &[Certificate], expected: Expected) -> Refusal {
    let between: Vec<_> = chain[1..].iter().map(|c| c.der.clone()).collect();
    Verifier::mesh(Arc::new(bundle.clone()), expected)
        .verify(&chain[0].der, &between, None, Side::Server, UnixTime::now())
        .unwrap_err()
}

fn leaf_with(
    issuer: &Authority,
    uris: &[&str],
    purpose: rcgen::ExtendedKeyUsagePurpose,
    days: i64,
) -> Vec<Certificate> {
    let der = leaf_der(issuer, uris, &[], purpose, days);
    vec![Certificate::parse(&der).unwrap()]
}

/// A leaf that [`Authority::issue`] would never make; valid until so many days from now.
fn leaf_der(
    issuer: &Authority,
    uris: &[&str],
    dns: &[&str],
    purpose: rcgen::ExtendedKeyUsagePurpose,
    days: i64,
) -> CertificateDer<'static> {
    let mut ca = rcgen::CertificateParams::default();
    ca.distinguished_name = rcgen::DistinguishedName::new();
    ca.distinguished_name
        .push(rcgen::DnType::OrganizationName, "Istio");
    ca.distinguished_name.push(rcgen::DnType::CommonName, "Root CA");
    let key = rcgen::KeyPair::from_pem(&issuer.key().to_pem()).unwrap();
    let issuer = rcgen::Issuer::new(ca, key);
    let mut leaf = rcgen::CertificateParams::default();
    leaf.not_before = time::OffsetDateTime::now_utc() - time::Duration::days(9);
    leaf.not_after = time::OffsetDateTime::now_utc() + time::Duration::days(days);
    leaf.extended_key_usages = vec![purpose];
    leaf.subject_alt_names = uris
        .iter()
        .map(|u| rcgen::SanType::URI((*u).try_into().unwrap()))
        .chain(
            dns.iter()
                .map(|d| rcgen::SanType::DnsName((*d).try_into().unwrap())),
        )
        .collect();
    let key = rcgen::KeyPair::generate().unwrap();
    leaf.signed_by(&key, &issuer).unwrap().into()
}

#[test]
fn bundles_merge_without_repeating_roots() {
    let domain: TrustDomain = "corp.local".parse().unwrap();
    let (one, two) = (root(), root());
    let merged = one
        .bundle(domain.clone())
        .merged(&two.bundle(domain.clone()))
        .merged(&one.bundle(domain.clone()));
    assert_eq!(merged.roots(&domain).unwrap().certificates().len(), 2);
    assert!(merged.roots(&"other".parse().unwrap()).is_none());
    let leaf = credential(&one, SLEEP).chain[0].clone();
    assert!(matches!(
        Roots::new([leaf]),
        Err(crate::bundle::BundleError::NotAuthority(_))
    ));
}
