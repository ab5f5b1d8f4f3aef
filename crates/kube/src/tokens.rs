//! Who a pod is: its service-account token checked with the issuer's keys, which the API server publishes.
//!
//! ```text
//!   /.well-known/openid-configuration ─▶ issuer ┐
//!   /openid/v1/jwks ────────────────────▶ keys ─┴▶ state directory ─▶ JwksAuthenticator ─▶ Caller
//!                                                       a key that is not known └▶ TokenReview
//! ```
//!
//! The keys are kept on disk, so that tokens are checked while the API server is away, over a restart as well.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use http::Method;
use isthmus_model::ClusterId;
use isthmus_pki::token::{AUDIENCE, Means, PodReference};
use isthmus_pki::{AuthError, Authenticator, Caller, JwksAuthenticator, JwksConfig, Proof};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::sync::{Notify, Semaphore, watch};

use crate::connect::Cluster;
use crate::rest::{Call, JSON, KEY_SET, RequestError};

/// Keys are read again after this, and when a token has one that is not known.
const REFRESH: Duration = Duration::from_secs(600);
/// But no more often than this.
const PAUSE: Duration = Duration::from_secs(5);
/// Between two tries while there are no keys at all.
const RETRY: Duration = Duration::from_secs(2);
/// Tokens that the API server is asked about at the same time; bad tokens must not become its load.
const REVIEWS: usize = 4;

/// Which cluster's tokens, and where its keys are kept.
#[derive(Debug, Clone)]
pub struct Config {
    /// The cluster whose accounts are vouched for.
    pub cluster: Cluster,
    /// Its name in the mesh.
    pub name: ClusterId,
    /// Folder for the keys and the issuer.
    pub folder: PathBuf,
    /// Issuers accepted beside the one that the API server names.
    pub issuers: Vec<String>,
}

/// Checks service-account tokens of one cluster.
pub struct ServiceAccounts {
    config: Config,
    /// Checks by the keys on disk, once there are some.
    keys: watch::Receiver<Option<Arc<JwksAuthenticator>>>,
    /// Asks for fresh keys.
    stale: Arc<Notify>,
    reviews: Semaphore,
}

/// What is kept beside the keys.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Issuer {
    issuer: String,
}

impl ServiceAccounts {
    /// Begins with the keys that were kept, and follows the API server's until this is dropped.
    pub fn start(config: Config) -> Arc<Self> {
        let (sender, keys) = watch::channel(None);
        let stale = Arc::new(Notify::new());
        let keeper = Keeper {
            config: config.clone(),
            stale: Arc::clone(&stale),
            sender,
            issuer: String::new(),
            refused: String::new(),
        };
        drop(tokio::spawn(keeper.run()));
        Arc::new(Self {
            config,
            keys,
            stale,
            reviews: Semaphore::new(REVIEWS),
        })
    }

    async fn check(&self, proof: &Proof) -> Result<Caller, AuthError> {
        let token = proof.token.as_deref().ok_or(AuthError::NoProof)?;
        let keys = self.keys.borrow().clone();
        let refused = match keys {
            Some(keys) => match keys.authenticate(proof).await {
                // A key or an issuer that came up since; all else is the token's fault.
                Err(
                    error @ (AuthError::UnknownKey { .. }
                    | AuthError::Issuer { .. }
                    | AuthError::Unavailable(_)),
                ) => error,
                decided => return decided,
            },
            None => AuthError::Unavailable(format!(
                "the token keys of cluster {} have not been read yet",
                self.config.name
            )),
        };
        if let Some(found) = proof.claimed_cluster.as_ref().filter(|c| **c != self.config.name) {
            return Err(AuthError::OtherCluster {
                found: found.clone(),
                own: self.config.name.clone(),
            });
        }
        self.stale.notify_one();
        match self.review(token).await {
            Ok(decided) => decided,
            Err(error) => {
                tracing::warn!("a token cannot be reviewed: {error}");
                Err(refused)
            }
        }
    }

    /// Asks the API server.
    async fn review(&self, token: &str) -> Result<Result<Caller, AuthError>, RequestError> {
        // The semaphore is never closed.
        let _turn = self.reviews.acquire().await;
        let review = json!({
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenReview",
            "spec": { "token": token, "audiences": [AUDIENCE] },
        });
        let path = "/apis/authentication.k8s.io/v1/tokenreviews";
        let call = Call::with(&Method::POST, path, JSON, &review);
        let (_, answer): (_, Value) = self.config.cluster.call(call).await?;
        Ok(self.caller(&answer["status"]))
    }

    fn caller(&self, status: &Value) -> Result<Caller, AuthError> {
        if status["authenticated"] != true {
            let why = status["error"].as_str().unwrap_or("it is not valid");
            return Err(AuthError::Malformed(format!("the API server says: {why}")));
        }
        let list = |value: &Value| -> Vec<String> {
            let items = value.as_array().into_iter().flatten();
            items.filter_map(Value::as_str).map(str::to_owned).collect()
        };
        let audiences = list(&status["audiences"]);
        if !audiences.iter().any(|a| a == AUDIENCE) {
            return Err(AuthError::Audience {
                found: audiences,
                accepted: vec![AUDIENCE.to_owned()],
            });
        }
        let user = status["user"]["username"].as_str().unwrap_or_default();
        let named = user
            .strip_prefix("system:serviceaccount:")
            .and_then(|u| u.split_once(':'));
        let Some((namespace, service_account)) = named else {
            return Err(AuthError::NotServiceAccount(format!(
                "it is the token of {user:?}"
            )));
        };
        let extra = |name: &str| {
            let all = list(&status["user"]["extra"][format!("authentication.kubernetes.io/{name}")]);
            all.into_iter().next()
        };
        Ok(Caller {
            namespace: namespace.to_owned(),
            service_account: service_account.to_owned(),
            pod: extra("pod-name").map(|name| PodReference {
                name,
                uid: extra("pod-uid").unwrap_or_default(),
            }),
            cluster: Some(self.config.name.clone()),
            means: Means::Token,
        })
    }
}

impl Authenticator for ServiceAccounts {
    fn authenticate<'a>(&'a self, proof: &'a Proof) -> BoxFuture<'a, Result<Caller, AuthError>> {
        Box::pin(self.check(proof))
    }
}

/// Keeps the keys on disk those of the API server.
struct Keeper {
    config: Config,
    stale: Arc<Notify>,
    sender: watch::Sender<Option<Arc<JwksAuthenticator>>>,
    /// The issuer that is in use.
    issuer: String,
    /// What was last said about a failure.
    refused: String,
}

impl Keeper {
    async fn run(mut self) {
        let kept = std::fs::read(self.config.folder.join("issuer.json")).unwrap_or_default();
        if let Ok(kept) = serde_json::from_slice::<Issuer>(&kept)
            && self.keys().exists()
        {
            self.use_keys(kept.issuer);
        }
        loop {
            let wait = match self.refresh().await {
                Ok(()) => {
                    self.refused.clear();
                    REFRESH
                }
                Err(why) => {
                    if why != self.refused {
                        tracing::warn!("the keys of service-account tokens cannot be read: {why}");
                        self.refused = why;
                    }
                    if self.issuer.is_empty() {
                        RETRY
                    } else {
                        REFRESH / 10
                    }
                }
            };
            tokio::select! {
                () = self.sender.closed() => return,
                () = tokio::time::sleep(wait) => {}
                () = self.stale.notified() => tokio::time::sleep(PAUSE).await,
            }
        }
    }

    async fn refresh(&mut self) -> Result<(), String> {
        let said = |e: RequestError| e.to_string();
        let cluster = &self.config.cluster;
        let document: Value = cluster
            .get("/.well-known/openid-configuration")
            .await
            .map_err(said)?;
        let issuer = document["issuer"].as_str().unwrap_or_default().to_owned();
        if issuer.is_empty() {
            return Err("the API server names no issuer".to_owned());
        }
        let call = Call {
            accept: KEY_SET,
            ..Call::get("/openid/v1/jwks")
        };
        let (_, jwks): (_, Value) = cluster.call(call).await.map_err(said)?;
        if jwks["keys"].as_array().is_none_or(Vec::is_empty) {
            return Err("the API server publishes no keys".to_owned());
        }
        let kept = Issuer { issuer };
        let folder = self.config.folder.clone();
        let (keys, file) = (self.keys(), folder.join("issuer.json"));
        let written = std::fs::create_dir_all(&folder)
            .and_then(|()| replace(&keys, &jwks))
            .and_then(|()| replace(&file, &json!(kept)));
        written.map_err(|e| format!("{}: {e}", folder.display()))?;
        if kept.issuer != self.issuer {
            self.use_keys(kept.issuer);
        }
        Ok(())
    }

    fn use_keys(&mut self, issuer: String) {
        let mut issuers = self.config.issuers.clone();
        if !issuers.contains(&issuer) {
            issuers.insert(0, issuer.clone());
        }
        tracing::info!(
            issuer,
            "service-account tokens are checked by the keys of the API server"
        );
        self.issuer = issuer;
        self.sender
            .send_replace(Some(Arc::new(JwksAuthenticator::new(JwksConfig {
                cluster: self.config.name.clone(),
                keys: self.keys(),
                issuers,
                audiences: vec![AUDIENCE.to_owned()],
            }))));
    }

    fn keys(&self) -> PathBuf {
        self.config.folder.join("jwks.json")
    }
}

/// Writes a file so that it is whole at any time; one that says the same is left alone.
fn replace(path: &Path, content: &Value) -> std::io::Result<()> {
    let bytes = serde_json::to_vec(content)?;
    if std::fs::read(path).is_ok_and(|present| present == bytes) {
        return Ok(());
    }
    let fresh = path.with_extension("new");
    std::fs::write(&fresh, bytes)?;
    std::fs::rename(&fresh, path)
}
