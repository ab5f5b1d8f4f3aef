//! What pods are given from elsewhere: ConfigMaps, Secrets and tokens of their service account.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use k8s_openapi::api::authentication::v1::TokenRequest;
use k8s_openapi::api::core::v1::{ConfigMap, KeyToPath, Pod, Secret, ServiceAccount};
use kube::api::{Api, PostParams};
use kube::{Client, ResourceExt};
use serde_json::json;

/// Why a pod, or one of its containers, cannot be started now. Kept apart from what will never do, since
/// what is missing may come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Obstacle {
    /// Of the Event, and of the container's waiting state: `FailedMount`.
    pub(super) reason: &'static str,
    /// In words.
    pub(super) message: String,
}

impl Obstacle {
    pub(super) fn new(reason: &'static str, message: impl Into<String>) -> Self {
        Self {
            reason,
            message: message.into(),
        }
    }
}

/// Files of a volume, or variables of an environment.
pub(super) type Entries = BTreeMap<String, Vec<u8>>;

/// What kind of object entries are taken from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Kind {
    ConfigMap,
    Secret,
}

impl Kind {
    /// As the kubelet's messages call it.
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::ConfigMap => "configmap",
            Self::Secret => "secret",
        }
    }
}

/// Asks the API server.
#[derive(Clone)]
pub(super) struct Sources {
    pub(super) client: Client,
}

/// A token and when another is due.
#[derive(Debug, Clone)]
pub(super) struct Token {
    pub(super) text: String,
    pub(super) renew_at: SystemTime,
}

impl Sources {
    /// All entries of an object; `None` when there is no such object.
    pub(super) async fn entries(
        &self,
        kind: Kind,
        namespace: &str,
        name: &str,
    ) -> Result<Option<Entries>, String> {
        let client = self.client.clone();
        let entries = match kind {
            Kind::ConfigMap => {
                let found = Api::<ConfigMap>::namespaced(client, namespace)
                    .get_opt(name)
                    .await;
                found.map_err(|e| e.to_string())?.map(|object| {
                    let text = object.data.unwrap_or_default().into_iter();
                    let bytes = object.binary_data.unwrap_or_default().into_iter();
                    text.map(|(k, v)| (k, v.into_bytes()))
                        .chain(bytes.map(|(k, v)| (k, v.0)))
                        .collect()
                })
            }
            Kind::Secret => {
                let found = Api::<Secret>::namespaced(client, namespace).get_opt(name).await;
                found.map_err(|e| e.to_string())?.map(|object| {
                    let data = object.data.unwrap_or_default().into_iter();
                    data.map(|(k, v)| (k, v.0)).collect()
                })
            }
        };
        Ok(entries)
    }

    /// The entries that a volume shows, under the names it shows them by.
    pub(super) async fn chosen(
        &self,
        kind: Kind,
        namespace: &str,
        name: &str,
        items: Option<&[KeyToPath]>,
        optional: bool,
    ) -> Result<Entries, String> {
        let word = kind.word();
        let Some(entries) = self.entries(kind, namespace, name).await? else {
            if optional {
                return Ok(Entries::new());
            }
            return Err(format!("{word} {name:?} not found"));
        };
        let Some(items) = items.filter(|i| !i.is_empty()) else {
            return Ok(entries);
        };
        let mut chosen = Entries::new();
        for item in items {
            match entries.get(&item.key) {
                Some(content) => {
                    chosen.insert(item.path.clone(), content.clone());
                }
                None if optional => {}
                None => {
                    return Err(format!(
                        "{word} {name:?} references non-existent key: {}",
                        item.key
                    ));
                }
            }
        }
        Ok(chosen)
    }

    /// A token of the pod's service account, bound to the pod.
    pub(super) async fn token(&self, pod: &Pod, audience: Option<&str>, life: i64) -> Result<Token, String> {
        let account = pod
            .spec
            .as_ref()
            .and_then(|s| s.service_account_name.clone())
            .unwrap_or_else(|| "default".to_owned());
        let namespace = pod.namespace().unwrap_or_default();
        let audiences: Vec<&str> = audience.into_iter().filter(|a| !a.is_empty()).collect();
        let request = json!({
            "apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest",
            "spec": {
                "audiences": audiences, "expirationSeconds": life,
                "boundObjectRef": {
                    "apiVersion": "v1", "kind": "Pod", "name": pod.name_any(), "uid": pod.uid(),
                },
            },
        });
        let accounts: Api<ServiceAccount> = Api::namespaced(self.client.clone(), &namespace);
        let answer: TokenRequest = accounts
            .create_subresource("token", &account, &PostParams::default(), &request)
            .await
            .map_err(|e| format!("no token of service account {account}: {e}"))?;
        let granted = answer.spec.and_then(|s| s.expiration_seconds);
        let text = answer
            .status
            .and_then(|s| s.token)
            .ok_or_else(|| format!("no token of service account {account}: the answer is empty"))?;
        // As the kubelet: at 80% of its life, and at least once a day.
        let life = Duration::from_secs(granted.unwrap_or(life).unsigned_abs());
        let due = (life * 8 / 10).min(Duration::from_secs(24 * 3600));
        Ok(Token {
            text,
            renew_at: SystemTime::now() + due,
        })
    }
}
