//! Service-account tokens checked against the cluster's public keys (RFC 7515, 7517, 7519).

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwap;
use futures_util::future::BoxFuture;
use isthmus_model::ClusterId;
use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, JwkSet};
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use serde::Deserialize;
use tokio::io::AsyncReadExt;
use tokio::sync::Mutex;

use super::{AuthError, Authenticator, Caller, Means, PodReference, Proof};
use crate::moment;

/// Longest token that is looked at, in bytes; Kubernetes' have about 1 KiB.
const LONGEST_TOKEN: usize = 8 * 1024;
/// Longest key file, in bytes.
const LONGEST_KEY_FILE: u64 = 256 * 1024;
/// Most keys of one set.
const MOST_KEYS: usize = 64;
/// The file is looked at no more often than this, however many tokens arrive.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);
/// How far ahead of ours the issuer's clock may be.
const CLOCK_LEEWAY: Duration = Duration::from_secs(10);

/// Which tokens are good.
#[derive(Debug, Clone)]
pub struct JwksConfig {
    /// The member cluster whose service accounts the keys vouch for.
    pub cluster: ClusterId,
    /// JSON web key set (RFC 7517); re-read when it changes.
    pub keys: PathBuf,
    /// Accepted `iss`.
    pub issuers: Vec<String>,
    /// Accepted `aud`; a token needs one of them.
    pub audiences: Vec<String>,
}

/// Checks tokens with the keys in a file.
pub struct JwksAuthenticator {
    config: JwksConfig,
    keys: ArcSwap<KeySet>,
    /// When the file was last looked at; held while it is read, so that one reader works for all.
    looked: Mutex<Option<Instant>>,
}

#[derive(Default)]
struct KeySet {
    keys: Vec<Key>,
    /// Modification time and length of the file they were read from.
    version: Option<(SystemTime, u64)>,
    /// Why the file could not be read the last time.
    failure: Option<String>,
}

struct Key {
    id: Option<String>,
    key: DecodingKey,
    algorithms: &'static [Algorithm],
}

#[derive(Deserialize)]
struct Claims {
    #[serde(default)]
    iss: String,
    #[serde(default)]
    sub: String,
    #[serde(default)]
    aud: Audiences,
    exp: Option<u64>,
    nbf: Option<u64>,
    #[serde(rename = "kubernetes.io")]
    kubernetes: Option<KubernetesClaims>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Audiences {
    One(String),
    Many(Vec<String>),
}

impl Default for Audiences {
    fn default() -> Self {
        Self::Many(Vec::new())
    }
}

#[derive(Deserialize)]
struct KubernetesClaims {
    namespace: String,
    serviceaccount: ObjectClaim,
    pod: Option<ObjectClaim>,
}

#[derive(Deserialize)]
struct ObjectClaim {
    name: String,
    #[serde(default)]
    uid: String,
}

impl JwksAuthenticator {
    /// Checks tokens with the keys in `config.keys`, which may come into being later.
    pub fn new(config: JwksConfig) -> Self {
        Self {
            config,
            keys: ArcSwap::default(),
            looked: Mutex::new(None),
        }
    }

    async fn check(&self, token: &str) -> Result<Caller, AuthError> {
        let claims = self.verified_claims(token).await?;
        let config = &self.config;
        if !config.issuers.contains(&claims.iss) {
            return Err(AuthError::Issuer {
                found: claims.iss,
                cluster: config.cluster.clone(),
                accepted: config.issuers.clone(),
            });
        }
        let audiences = match claims.aud {
            Audiences::One(one) => vec![one],
            Audiences::Many(many) => many,
        };
        if !audiences.iter().any(|a| config.audiences.contains(a)) {
            return Err(AuthError::Audience {
                found: audiences,
                accepted: config.audiences.clone(),
            });
        }
        let now = SystemTime::now();
        let expires = at(claims
            .exp
            .ok_or_else(|| AuthError::Malformed("it has no exp".to_owned()))?);
        if now >= expires {
            return Err(AuthError::Expired(moment::rfc3339(expires)));
        }
        if let Some(from) = claims.nbf.map(at).filter(|from| *from > now + CLOCK_LEEWAY) {
            return Err(AuthError::NotYetValid(moment::rfc3339(from)));
        }
        caller(claims.kubernetes, &claims.sub, config.cluster.clone())
    }

    async fn verified_claims(&self, token: &str) -> Result<Claims, AuthError> {
        if token.len() > LONGEST_TOKEN {
            return Err(AuthError::Malformed(format!("longer than {LONGEST_TOKEN} bytes")));
        }
        let header = jsonwebtoken::decode_header(token).map_err(|e| AuthError::Malformed(e.to_string()))?;
        let keys = self.keys_with(header.kid.as_deref()).await?;
        let cluster = || self.config.cluster.clone();
        let candidates: Vec<&Key> = keys
            .keys
            .iter()
            .filter(|k| k.is_for(header.kid.as_deref()))
            .collect();
        if candidates.is_empty() {
            return Err(AuthError::UnknownKey {
                key: header.kid.unwrap_or_default(),
                cluster: cluster(),
            });
        }
        // The key says which algorithms it is for; the token's header only picks among them.
        let usable: Vec<&Key> = candidates
            .into_iter()
            .filter(|k| k.algorithms.contains(&header.alg))
            .collect();
        if usable.is_empty() {
            return Err(AuthError::Algorithm(format!("{:?}", header.alg)));
        }
        // Time, issuer and audience are checked by the caller, each with an error of its own.
        let mut validation = Validation::new(header.alg);
        validation.required_spec_claims.clear();
        validation.validate_exp = false;
        validation.validate_aud = false;
        let mut malformed = None;
        for key in usable {
            match jsonwebtoken::decode::<Claims>(token, &key.key, &validation) {
                Ok(data) => return Ok(data.claims),
                Err(e) if matches!(e.kind(), jsonwebtoken::errors::ErrorKind::InvalidSignature) => {}
                Err(e) => malformed = Some(e.to_string()),
            }
        }
        Err(match malformed {
            Some(reason) => AuthError::Malformed(reason),
            None => AuthError::Signature { cluster: cluster() },
        })
    }

    /// The keys, re-read when the file has changed or, seldom enough, when none has the id.
    async fn keys_with(&self, id: Option<&str>) -> Result<Arc<KeySet>, AuthError> {
        let mut looked = self.looked.lock().await;
        let due = looked.is_none_or(|at| at.elapsed() >= LOOK_INTERVAL);
        if due {
            let known = self.keys.load_full();
            let missing = !known.keys.iter().any(|k| k.is_for(id));
            match self.read_if_changed(known.version.filter(|_| !missing)).await {
                Ok(None) => {}
                Ok(Some(set)) => self.keys.store(Arc::new(set)),
                Err(reason) => {
                    tracing::warn!(file = %self.config.keys.display(), %reason, "token keys cannot be read");
                    // Keys that were good stay good; without any, the reason is what callers hear.
                    if known.keys.is_empty() {
                        self.keys.store(Arc::new(KeySet {
                            failure: Some(reason),
                            ..KeySet::default()
                        }));
                    }
                }
            }
            *looked = Some(Instant::now());
        }
        drop(looked);
        let keys = self.keys.load_full();
        match &keys.failure {
            Some(reason) => Err(AuthError::Unavailable(format!(
                "token keys of cluster {}: {reason}",
                self.config.cluster
            ))),
            None => Ok(keys),
        }
    }

    async fn read_if_changed(&self, known: Option<(SystemTime, u64)>) -> Result<Option<KeySet>, String> {
        let path = &self.config.keys;
        let failed = |e: io::Error| format!("{}: {e}", path.display());
        let metadata = tokio::fs::metadata(path).await.map_err(failed)?;
        let version = (metadata.modified().map_err(failed)?, metadata.len());
        if known == Some(version) {
            return Ok(None);
        }
        let file = tokio::fs::File::open(path).await.map_err(failed)?;
        let mut text = Vec::new();
        file.take(LONGEST_KEY_FILE)
            .read_to_end(&mut text)
            .await
            .map_err(failed)?;
        let set: JwkSet = serde_json::from_slice(&text)
            .map_err(|e| format!("{}: not a JSON web key set: {e}", path.display()))?;
        let keys: Vec<Key> = set.keys.iter().take(MOST_KEYS).filter_map(Key::new).collect();
        if keys.is_empty() {
            return Err(format!("{}: no usable key (RSA, EC or Ed25519)", path.display()));
        }
        Ok(Some(KeySet {
            keys,
            version: Some(version),
            failure: None,
        }))
    }
}

impl Authenticator for JwksAuthenticator {
    fn authenticate<'a>(&'a self, proof: &'a Proof) -> BoxFuture<'a, Result<Caller, AuthError>> {
        Box::pin(async move {
            let token = proof.token.as_deref().ok_or(AuthError::NoProof)?;
            if let Some(found) = &proof.claimed_cluster
                && *found != self.config.cluster
            {
                return Err(AuthError::OtherCluster {
                    found: found.clone(),
                    own: self.config.cluster.clone(),
                });
            }
            self.check(token).await
        })
    }
}

impl Key {
    fn new(jwk: &Jwk) -> Option<Self> {
        use Algorithm::{ES256, ES384, EdDSA, PS256, PS384, PS512, RS256, RS384, RS512};
        let algorithms: &'static [Algorithm] = match &jwk.algorithm {
            AlgorithmParameters::RSA(_) => &[RS256, RS384, RS512, PS256, PS384, PS512],
            AlgorithmParameters::EllipticCurve(p) if p.curve == EllipticCurve::P256 => &[ES256],
            AlgorithmParameters::EllipticCurve(p) if p.curve == EllipticCurve::P384 => &[ES384],
            AlgorithmParameters::OctetKeyPair(_) => &[EdDSA],
            // Shared secrets verify nothing here: whoever can check one can mint one.
            _ => return None,
        };
        Some(Self {
            id: jwk.common.key_id.clone(),
            key: DecodingKey::from_jwk(jwk).ok()?,
            algorithms,
        })
    }

    fn is_for(&self, id: Option<&str>) -> bool {
        id.is_none() || self.id.is_none() || self.id.as_deref() == id
    }
}

fn caller(claims: Option<KubernetesClaims>, subject: &str, cluster: ClusterId) -> Result<Caller, AuthError> {
    let refuse = |why: &str| Err(AuthError::NotServiceAccount(why.to_owned()));
    let Some(claims) = claims else {
        return refuse("the claim kubernetes.io is missing; use a projected (bound) token");
    };
    let (namespace, account) = (claims.namespace, claims.serviceaccount.name);
    if subject != format!("system:serviceaccount:{namespace}:{account}") {
        return refuse(&format!(
            "sub is {subject:?} but kubernetes.io names {namespace}/{account}"
        ));
    }
    if !kubernetes_name(&namespace) || !kubernetes_name(&account) {
        return refuse("namespace or account is not a Kubernetes name");
    }
    Ok(Caller {
        namespace,
        service_account: account,
        pod: claims.pod.map(|pod| PodReference {
            name: pod.name,
            uid: pod.uid,
        }),
        cluster: Some(cluster),
        means: Means::Token,
    })
}

/// RFC 1123 subdomain: what may stand in a SPIFFE path without another meaning.
fn kubernetes_name(name: &str) -> bool {
    let legal = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'.');
    (1..=253).contains(&name.len()) && name.bytes().all(legal)
}

/// Seconds since 1970; values beyond any calendar are cut down to the year 9999.
fn at(seconds: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(seconds.min(253_402_300_799))
}
