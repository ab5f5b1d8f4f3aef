//! Tokens of this cluster, of another, stale ones, forged ones; and certificates as proof.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::json;

use super::*;
use crate::authority::{Authority, IntermediateRequest, RootRequest};
use crate::key::{KeyAlgorithm, PrivateKey};

const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";

struct Cluster {
    name: &'static str,
    issuer: TokenIssuer,
    directory: tempfile::TempDir,
}

impl Cluster {
    fn new(name: &'static str) -> Self {
        let cluster = Self {
            name,
            issuer: TokenIssuer::generate(ISSUER).unwrap(),
            directory: tempfile::tempdir().unwrap(),
        };
        cluster.publish(&cluster.issuer.key_set());
        cluster
    }

    fn keys(&self) -> PathBuf {
        self.directory.path().join("jwks.json")
    }

    fn publish(&self, key_set: &str) {
        std::fs::write(self.keys(), key_set).unwrap();
    }

    fn authenticator(&self) -> JwksAuthenticator {
        JwksAuthenticator::new(JwksConfig {
            cluster: self.name.into(),
            keys: self.keys(),
            issuers: vec![ISSUER.to_owned()],
            audiences: vec![AUDIENCE.to_owned()],
        })
    }

    fn token(&self) -> String {
        self.issuer.mint(&sleep()).unwrap()
    }
}

fn sleep() -> TokenRequest {
    TokenRequest {
        namespace: "default".to_owned(),
        service_account: "sleep".to_owned(),
        pod: Some(PodReference {
            name: "sleep-1".to_owned(),
            uid: "u-1".to_owned(),
        }),
        audiences: vec![AUDIENCE.to_owned()],
        validity: Duration::from_secs(600),
    }
}

fn bearer(token: impl Into<String>) -> Proof {
    Proof {
        token: Some(token.into()),
        ..Proof::default()
    }
}

async fn refused(authenticator: &JwksAuthenticator, token: impl Into<String>) -> AuthError {
    authenticator.authenticate(&bearer(token)).await.unwrap_err()
}

#[tokio::test]
async fn a_token_of_this_cluster_says_who_asks() {
    let us = Cluster::new("us");
    let caller = us
        .authenticator()
        .authenticate(&bearer(us.token()))
        .await
        .unwrap();
    assert_eq!(caller.namespace, "default");
    assert_eq!(caller.service_account, "sleep");
    assert_eq!(caller.pod.as_ref().unwrap().name, "sleep-1");
    assert_eq!(caller.cluster, Some("us".into()));
    let domain = "corp.local".parse().unwrap();
    assert_eq!(
        caller.identity(&domain).to_string(),
        "spiffe://corp.local/ns/default/sa/sleep"
    );
}

#[tokio::test]
async fn no_other_clusters_token_is_ever_accepted() {
    let us = Cluster::new("us");
    let authenticator = us.authenticator();
    for _ in 0..20 {
        let other = Cluster::new("eu");
        let refusal = refused(&authenticator, other.token()).await;
        assert!(matches!(refusal, AuthError::UnknownKey { .. }), "{refusal}");
        // The other cluster's signature under our key id: what an impostor would try.
        let [_, claims, signature] = parts(&other.token());
        let [header, _, _] = parts(&us.token());
        let refusal = refused(&authenticator, format!("{header}.{claims}.{signature}")).await;
        assert!(matches!(refusal, AuthError::Signature { .. }), "{refusal}");
    }
}

#[tokio::test]
async fn a_caller_that_says_it_is_of_another_cluster_is_refused() {
    let us = Cluster::new("us");
    let proof = Proof {
        claimed_cluster: Some("eu".into()),
        ..bearer(us.token())
    };
    let refusal = us.authenticator().authenticate(&proof).await.unwrap_err();
    assert!(matches!(refusal, AuthError::OtherCluster { .. }), "{refusal}");
}

#[tokio::test]
async fn each_wrong_claim_has_its_own_error() {
    let us = Cluster::new("us");
    let authenticator = us.authenticator();

    let mut other = sleep();
    other.audiences = vec!["vault".to_owned()];
    let refusal = refused(&authenticator, us.issuer.mint(&other).unwrap()).await;
    assert!(
        matches!(&refusal, AuthError::Audience { found, .. } if found == &["vault"]),
        "{refusal}"
    );

    let mut stale = sleep();
    stale.validity = Duration::ZERO;
    let refusal = refused(&authenticator, us.issuer.mint(&stale).unwrap()).await;
    assert!(matches!(refusal, AuthError::Expired(_)), "{refusal}");

    let mut odd = sleep();
    odd.namespace = "a/sa/root".to_owned();
    let refusal = refused(&authenticator, us.issuer.mint(&odd).unwrap()).await;
    assert!(matches!(refusal, AuthError::NotServiceAccount(_)), "{refusal}");

    let elsewhere = JwksAuthenticator::new(JwksConfig {
        cluster: "us".into(),
        keys: us.keys(),
        issuers: vec!["https://elsewhere".to_owned()],
        audiences: vec![AUDIENCE.to_owned()],
    });
    let refusal = refused(&elsewhere, us.token()).await;
    assert!(matches!(refusal, AuthError::Issuer { .. }), "{refusal}");
}

#[tokio::test]
async fn claims_cannot_be_changed_and_algorithms_not_confused() {
    let us = Cluster::new("us");
    let authenticator = us.authenticator();
    let [header, claims, signature] = parts(&us.token());

    let mut admin: serde_json::Value =
        serde_json::from_slice(&URL_SAFE_NO_PAD.decode(&claims).unwrap()).unwrap();
    admin["sub"] = json!("system:serviceaccount:default:admin");
    admin["kubernetes.io"]["serviceaccount"]["name"] = json!("admin");
    let changed = encode(&admin);
    let refusal = refused(&authenticator, format!("{header}.{changed}.{signature}")).await;
    assert!(matches!(refusal, AuthError::Signature { .. }), "{refusal}");

    let kid = jsonwebtoken::decode_header(us.token()).unwrap().kid;
    // A shared secret made of what is public, under our key id.
    let hmac = jsonwebtoken::Header {
        kid: kid.clone(),
        ..jsonwebtoken::Header::new(jsonwebtoken::Algorithm::HS256)
    };
    let secret = jsonwebtoken::EncodingKey::from_secret(us.issuer.key_set().as_bytes());
    let forged = jsonwebtoken::encode(&hmac, &admin, &secret).unwrap();
    let refusal = refused(&authenticator, forged).await;
    assert!(matches!(refusal, AuthError::Algorithm(_)), "{refusal}");

    let none = encode(&json!({"alg": "none", "kid": kid}));
    let refusal = refused(&authenticator, format!("{none}.{changed}.")).await;
    assert!(matches!(refusal, AuthError::Malformed(_)), "{refusal}");

    for bad in ["", "a", "a.b.c", &"x".repeat(100_000)] {
        let refusal = refused(&authenticator, bad).await;
        assert!(matches!(refusal, AuthError::Malformed(_)), "{refusal}");
    }
}

#[tokio::test]
async fn subject_and_kubernetes_claims_must_agree() {
    let key = PrivateKey::generate(KeyAlgorithm::EcdsaP256).unwrap();
    let us = Cluster {
        issuer: TokenIssuer::new(ISSUER, &key).unwrap(),
        ..Cluster::new("us")
    };
    us.publish(&us.issuer.key_set());
    let signing = jsonwebtoken::EncodingKey::from_ec_pem(key.to_pem().as_bytes()).unwrap();
    let header = jsonwebtoken::Header::new(jsonwebtoken::Algorithm::ES256);
    let claims = json!({
        "iss": ISSUER, "aud": AUDIENCE, "exp": 4_000_000_000_u64,
        "sub": "system:serviceaccount:default:admin",
        "kubernetes.io": {"namespace": "default", "serviceaccount": {"name": "sleep"}},
    });
    let token = jsonwebtoken::encode(&header, &claims, &signing).unwrap();
    let refusal = refused(&us.authenticator(), token).await;
    assert!(matches!(refusal, AuthError::NotServiceAccount(_)), "{refusal}");
    let mut eternal = claims;
    eternal["sub"] = json!("system:serviceaccount:default:sleep");
    eternal.as_object_mut().unwrap().remove("exp");
    let token = jsonwebtoken::encode(&header, &eternal, &signing).unwrap();
    let refusal = refused(&us.authenticator(), token).await;
    assert!(
        matches!(refusal, AuthError::Malformed(_)),
        "a token must end: {refusal}"
    );
}

#[tokio::test]
async fn keys_are_read_again_when_a_new_one_signs() {
    let us = Cluster::new("us");
    let authenticator = us.authenticator();
    authenticator.authenticate(&bearer(us.token())).await.unwrap();
    let renewed = TokenIssuer::generate(ISSUER).unwrap();
    us.publish(&renewed.key_set());
    let token = renewed.mint(&sleep()).unwrap();
    let deadline = tokio::time::Instant::now() + Duration::from_secs(30);
    while let Err(refusal) = authenticator.authenticate(&bearer(token.clone())).await {
        assert!(matches!(refusal, AuthError::UnknownKey { .. }), "{refusal}");
        assert!(
            tokio::time::Instant::now() < deadline,
            "the new key was never read"
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let refusal = refused(&authenticator, us.token()).await;
    assert!(
        matches!(refusal, AuthError::UnknownKey { .. }),
        "the old key is gone"
    );
}

#[tokio::test]
async fn unreadable_keys_are_the_servers_fault_and_old_ones_stay_good() {
    let us = Cluster::new("us");
    std::fs::remove_file(us.keys()).unwrap();
    let refusal = refused(&us.authenticator(), us.token()).await;
    assert!(matches!(refusal, AuthError::Unavailable(_)), "{refusal}");

    us.publish(&us.issuer.key_set());
    let authenticator = us.authenticator();
    authenticator.authenticate(&bearer(us.token())).await.unwrap();
    us.publish("{ broken");
    tokio::time::sleep(Duration::from_millis(700)).await;
    authenticator.authenticate(&bearer(us.token())).await.unwrap();
}

#[tokio::test]
async fn a_certificate_of_this_cluster_is_proof_and_of_another_is_not() {
    let root = Authority::create_root(&RootRequest {
        algorithm: KeyAlgorithm::EcdsaP256,
        ..RootRequest::default()
    })
    .unwrap();
    let presented = |cluster: &str, identity: &str| {
        let intermediate = root
            .create_intermediate(&IntermediateRequest {
                algorithm: KeyAlgorithm::EcdsaP256,
                ..IntermediateRequest::new(cluster.into())
            })
            .unwrap();
        let identity = identity.parse().unwrap();
        let key = PrivateKey::generate(KeyAlgorithm::EcdsaP256).unwrap();
        let csr = key.certificate_request(&identity).unwrap();
        let issued = intermediate.issue(&csr, &identity, Duration::ZERO).unwrap();
        Proof {
            certificates: PeerCertificates(Arc::from([issued.leaf.der])),
            ..Proof::default()
        }
    };
    let own = PeerAuthenticator {
        trust_domains: vec!["corp.local".parse().unwrap()],
        members: Members::Only("us".into()),
    };
    let all = PeerAuthenticator {
        members: Members::All,
        ..own.clone()
    };
    let sleep = "spiffe://corp.local/ns/default/sa/sleep";

    let caller = own.authenticate(&presented("us", sleep)).await.unwrap();
    assert_eq!(
        (caller.service_account.as_str(), caller.means),
        ("sleep", Means::Certificate)
    );
    let refusal = own.authenticate(&presented("eu", sleep)).await.unwrap_err();
    assert!(matches!(refusal, AuthError::OtherCluster { .. }), "{refusal}");
    let caller = all.authenticate(&presented("eu", sleep)).await.unwrap();
    assert_eq!(caller.cluster, Some("eu".into()), "between control planes");
    let foreign = presented("us", "spiffe://other.local/ns/default/sa/sleep");
    let refusal = all.authenticate(&foreign).await.unwrap_err();
    assert!(matches!(refusal, AuthError::TrustDomain { .. }), "{refusal}");
}

#[tokio::test]
async fn a_wrong_token_is_refused_even_beside_a_good_certificate() {
    struct Good;
    impl Authenticator for Good {
        fn authenticate<'a>(&'a self, _: &'a Proof) -> BoxFuture<'a, Result<Caller, AuthError>> {
            Box::pin(async {
                Ok(Caller {
                    namespace: "n".to_owned(),
                    service_account: "a".to_owned(),
                    pod: None,
                    cluster: None,
                    means: Means::Certificate,
                })
            })
        }
    }
    let us = Cluster::new("us");
    let first = FirstOf(vec![Arc::new(us.authenticator()), Arc::new(Good)]);
    let refusal = first
        .authenticate(&bearer(Cluster::new("eu").token()))
        .await
        .unwrap_err();
    assert!(matches!(refusal, AuthError::UnknownKey { .. }), "{refusal}");
    first.authenticate(&Proof::default()).await.unwrap();
    let nobody = FirstOf(vec![Arc::new(us.authenticator())]);
    let refusal = nobody.authenticate(&Proof::default()).await.unwrap_err();
    assert_eq!(refusal, AuthError::NoProof);
}

#[test]
fn tokens_are_not_shown() {
    let us = Cluster::new("us");
    let token = us.token();
    assert!(!format!("{:?}", bearer(token.clone())).contains(&token));
}

fn parts(token: &str) -> [String; 3] {
    let parts: Vec<String> = token.split('.').map(str::to_owned).collect();
    parts.try_into().unwrap()
}

fn encode(value: &serde_json::Value) -> String {
    URL_SAFE_NO_PAD.encode(value.to_string())
}
