//! A root of its own, for a cluster without Secret `cacerts`: kept in Secret `istio-ca-secret`, where Istio keeps its
//! own, so that neither a new pod nor a second replica makes another.

use std::path::Path;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::Method;
use isthmus_model::TrustDomain;
use isthmus_pki::{Authority, KeyAlgorithm};
use serde_json::{Map, Value, json};

use crate::connect::Cluster;
use crate::rest::{Call, JSON, RequestError, encoded};

/// Name of the Secret (Istio).
pub const SECRET: &str = "istio-ca-secret";
/// Name of the Secret of an authority that was brought, which goes before it.
const BROUGHT: &str = "cacerts";
/// Between two tries while the API server is away.
const RETRY: Duration = Duration::from_secs(2);

/// Why there is no root.
#[derive(Debug, thiserror::Error)]
pub enum OwnRootError {
    /// The API server forbids it, or its Secret is no authority.
    #[error(
        "Secret {namespace}/{SECRET}: {why}; grant get and create on secrets of the namespace, or write Secret cacerts"
    )]
    Secret {
        /// Namespace of the control plane.
        namespace: String,
        /// Why.
        why: String,
    },
    /// The files cannot be written.
    #[error("{folder}: {why}")]
    Folder {
        /// Where the root is kept.
        folder: String,
        /// The system's reason.
        why: String,
    },
}

/// Sees to it that `folder` holds the cluster's own root, unless an authority was brought: that of the Secret, else a
/// new one that becomes the Secret. Waits for an API server that is away, unless the folder has a root already.
///
/// # Errors
/// The Secret cannot be read, made or used, or the folder cannot be written.
pub async fn ensure(
    cluster: &Cluster,
    namespace: &str,
    folder: &Path,
    domain: &TrustDomain,
) -> Result<(), OwnRootError> {
    let here = folder.join("ca-key.pem").exists();
    loop {
        match settle(cluster, namespace, folder, domain).await {
            Ok(()) => return Ok(()),
            // What signed before goes on.
            Err(Trouble::Away(_)) if here => return Ok(()),
            Err(Trouble::Away(error)) => {
                tracing::warn!("the root of the cluster is waited for: {error}");
                tokio::time::sleep(RETRY).await;
            }
            Err(Trouble::Final(error)) => return Err(error),
        }
    }
}

enum Trouble {
    Away(RequestError),
    Final(OwnRootError),
}

async fn settle(
    cluster: &Cluster,
    namespace: &str,
    folder: &Path,
    domain: &TrustDomain,
) -> Result<(), Trouble> {
    let refused = |why: String| {
        Trouble::Final(OwnRootError::Secret {
            namespace: namespace.to_owned(),
            why,
        })
    };
    let failed = |why: String| {
        Trouble::Final(OwnRootError::Folder {
            folder: folder.display().to_string(),
            why,
        })
    };
    let secrets = format!("/api/v1/namespaces/{}/secrets", encoded(namespace));
    let read = async |name: &str| match cluster.get(&format!("{secrets}/{name}")).await {
        Ok(secret) => Ok(Some(secret)),
        Err(error) if error.is_not_found() => Ok(None),
        Err(error @ RequestError::Refused { code: 400..500, .. }) => Err(refused(error.to_string())),
        Err(error) => Err(Trouble::Away(error)),
    };
    if read(BROUGHT).await?.is_some() {
        return Ok(());
    }
    let secret = match read(SECRET).await? {
        Some(secret) => secret,
        None => {
            let made = make(namespace, folder, domain).map_err(failed)?;
            match cluster
                .call::<Value>(Call::with(&Method::POST, &secrets, JSON, &made))
                .await
            {
                Ok((_, secret)) => secret,
                // Another replica was quicker, and its root is the cluster's.
                Err(error) if error.code() == Some(409) => match read(SECRET).await? {
                    Some(secret) => secret,
                    None => return Err(Trouble::Away(error)),
                },
                Err(error @ RequestError::Refused { code: 400..500, .. }) => {
                    return Err(refused(error.to_string()));
                }
                Err(error) => return Err(Trouble::Away(error)),
            }
        }
    };
    let mut files: Vec<(String, Vec<u8>)> = Vec::new();
    for (name, value) in secret["data"].as_object().into_iter().flatten() {
        let bytes = value.as_str().and_then(|text| STANDARD.decode(text).ok());
        files.push((
            name.clone(),
            bytes.ok_or_else(|| refused(format!("{name} is not base64")))?,
        ));
    }
    let certificate = files
        .iter()
        .find(|(name, _)| name == "ca-cert.pem")
        .map(|(_, bytes)| bytes.clone());
    let Some(certificate) = certificate else {
        return Err(refused("it has no ca-cert.pem".to_owned()));
    };
    // Istio wrote neither into the Secret for long: a root is its own chain.
    for name in ["root-cert.pem", "cert-chain.pem"] {
        files.retain(|(n, bytes)| n != name || !bytes.is_empty());
        if !files.iter().any(|(n, _)| n == name) {
            files.push((name.to_owned(), certificate.clone()));
        }
    }
    keep(folder, &files).map_err(|e| failed(e.to_string()))
}

/// A new root, or the one that the folder has, as a Secret.
fn make(namespace: &str, folder: &Path, domain: &TrustDomain) -> Result<Value, String> {
    if !folder.join("ca-key.pem").exists() {
        let authority = Authority::self_signed(domain, KeyAlgorithm::EcdsaP256).map_err(|e| e.to_string())?;
        std::fs::create_dir_all(folder).map_err(|e| e.to_string())?;
        isthmus_pki::files::write_cacerts(folder, &authority, false).map_err(|e| e.to_string())?;
    }
    let mut data = Map::new();
    for name in ["ca-cert.pem", "ca-key.pem", "cert-chain.pem", "root-cert.pem"] {
        let bytes = std::fs::read(folder.join(name)).map_err(|e| format!("{name}: {e}"))?;
        data.insert(name.to_owned(), STANDARD.encode(bytes).into());
    }
    Ok(json!({
        "apiVersion": "v1",
        "kind": "Secret",
        "type": "istio.io/ca-root",
        "metadata": { "name": SECRET, "namespace": namespace },
        "data": data,
    }))
}

/// Writes what is other, for this process's user alone.
fn keep(folder: &Path, files: &[(String, Vec<u8>)]) -> std::io::Result<()> {
    use std::io::Write as _;
    use std::os::unix::fs::OpenOptionsExt as _;
    std::fs::create_dir_all(folder)?;
    for (name, bytes) in files {
        let path = folder.join(name);
        // A Secret's keys have no separators; a file of any other name is not ours.
        if !name.ends_with(".pem") || std::fs::read(&path).is_ok_and(|present| present == *bytes) {
            continue;
        }
        let fresh = folder.join(format!("{name}.new"));
        let mut options = std::fs::OpenOptions::new();
        let mut file = options
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&fresh)?;
        file.write_all(bytes)?;
        std::fs::rename(fresh, path)?;
    }
    Ok(())
}
