//! Where the signing certificate comes from, and how a new one is taken up.
//!
//! ```text
//!   Secret `cacerts` of the root namespace ─┐
//!   --cacerts DIR (its files, mounted) ─────┤ the first that is there ─► Authority, for every next signature
//!   a root of its own, kept on disk ────────┘
//! ```
//!
//! A new one that cannot be used is a finding, and the present one stays. Nobody falls back from a Secret
//! that is broken to another root: that would sign what the rest of the mesh refuses.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use isthmus_api::finding::Finding;
use isthmus_api::kubernetes::Secret;
use isthmus_api::{Object, codes};
use isthmus_model::TrustDomain;
use isthmus_pki::authority::FileSet;
use isthmus_pki::{Authority, AuthorityError, KeyAlgorithm};
use tokio::sync::{Notify, watch};

use crate::push::ControlPlane;
use crate::snapshot::Snapshot;
use crate::snapshot::config::{Config, Written};

/// Name of the Secret (Istio `cacerts`).
pub const SECRET: &str = "cacerts";
/// How often the directory is looked at.
const POLL: Duration = Duration::from_secs(5);

/// Where an authority may be found beside the Secret.
#[derive(Debug, Clone)]
pub struct Places {
    /// `--cacerts`.
    pub directory: Option<PathBuf>,
    /// A root of its own is kept below.
    pub state_dir: PathBuf,
}

/// Why there is no authority.
#[derive(Debug, thiserror::Error)]
pub enum Unusable {
    /// The signing certificate cannot be used.
    #[error("the authority in {place} cannot be used: {source}")]
    Authority {
        /// Directory, or the Secret with file and line.
        place: String,
        /// Why.
        source: Box<AuthorityError>,
    },
    /// No root of its own can be made or kept.
    #[error("a root of its own cannot be kept in {place}: {why}; name the mesh's with --cacerts")]
    SelfSigned {
        /// Directory.
        place: String,
        /// Why.
        why: String,
    },
}

/// The Secret, if somebody wrote it.
pub fn secret<'a>(config: &'a Config, root_namespace: &str) -> Option<&'a Written<Secret>> {
    let mut all = config.secrets.iter();
    all.find(|s| s.namespace() == root_namespace && s.object.meta.name == SECRET)
}

/// The authority in the Secret.
pub fn of_secret(object: &Object, secret: &Secret) -> Result<Authority, AuthorityError> {
    let files = secret
        .keys()
        .filter_map(|key| Some((key.to_owned(), secret.bytes(key)?)))
        .collect();
    Authority::from_files(&FileSet {
        origin: object.key().to_string(),
        files,
    })
}

/// What is wrong with the Secret.
pub fn finding(written: &Written<Secret>) -> Option<Finding> {
    let error = of_secret(&written.object, &written.spec).err()?;
    let object = &written.object;
    // The first of the two that has the file; else the line of the document.
    let line = ["data", "stringData"]
        .iter()
        .map(|field| object.positions.line(field))
        .find(|line| *line != 0)
        .unwrap_or(object.origin.line);
    Some(
        Finding::new(
            &codes::UNUSABLE_AUTHORITY,
            format!("the certificate authority cannot be used, the present one stays: {error}"),
            "write the files that `isthmus certs intermediate` makes",
        )
        .at(&object.origin.file, line)
        .about(object.key()),
    )
}

/// The authority to begin with.
///
/// # Errors
/// What is there cannot be used, or a root of its own cannot be kept.
pub fn load(
    places: &Places,
    snapshot: Option<&Snapshot>,
    domain: &TrustDomain,
) -> Result<Authority, Unusable> {
    let written = snapshot.and_then(|s| secret(&s.config, &s.mesh.root_namespace));
    if let Some(written) = written {
        match of_secret(&written.object, &written.spec) {
            Ok(authority) => {
                tracing::info!(
                    secret = %written.object.key(), at = %written.object.origin,
                    "the authority of the Secret signs"
                );
                return Ok(authority);
            }
            Err(source) if places.directory.is_none() => {
                return Err(Unusable::Authority {
                    place: format!("{} at {}", written.object.key(), written.object.origin),
                    source: Box::new(source),
                });
            }
            // The finding says why; what signed before the Secret was written goes on.
            Err(_) => {}
        }
    }
    match &places.directory {
        Some(directory) => from_directory(directory),
        None => own_root(&places.state_dir.join("self-signed"), domain),
    }
}

fn from_directory(directory: &Path) -> Result<Authority, Unusable> {
    Authority::load(directory).map_err(|source| Unusable::Authority {
        place: directory.display().to_string(),
        source: Box::new(source),
    })
}

fn own_root(own: &Path, domain: &TrustDomain) -> Result<Authority, Unusable> {
    if own.join("ca-key.pem").exists() {
        return from_directory(own);
    }
    let refused = |why: String| Unusable::SelfSigned {
        place: own.display().to_string(),
        why,
    };
    let authority =
        Authority::self_signed(domain, KeyAlgorithm::EcdsaP256).map_err(|e| refused(e.to_string()))?;
    std::fs::create_dir_all(own).map_err(|e| refused(e.to_string()))?;
    isthmus_pki::files::write_cacerts(own, &authority, false).map_err(|e| refused(e.to_string()))?;
    tracing::warn!(
        directory = %own.display(),
        "neither --cacerts nor Secret cacerts: this cluster signs with a root of its own and cannot be joined \
         to another; make a common root with `isthmus certs root`"
    );
    Ok(authority)
}

/// Takes up a new authority when the Secret or the files change; broken ones leave the present one in force.
/// `roots` is told whom the mesh trusts, as PEM, and `taken_up` that what was signed before is of another authority.
pub async fn follow(
    places: Places,
    plane: ControlPlane,
    authority: Arc<ArcSwap<Authority>>,
    roots: Option<watch::Sender<Arc<str>>>,
    taken_up: Arc<Notify>,
) {
    let mut snapshots = plane.subscribe();
    let mut seen: Option<Arc<Object>> = None;
    let mut refused = String::new();
    loop {
        let snapshot = snapshots.borrow_and_update().clone();
        let written = snapshot
            .as_ref()
            .and_then(|s| secret(&s.config, &s.mesh.root_namespace))
            .cloned();
        match (written, &places.directory) {
            (Some(written), _) => {
                let known = seen.as_ref().is_some_and(|o| Arc::ptr_eq(o, &written.object));
                // What is wrong with a Secret is among the findings.
                if !known && let Ok(fresh) = of_secret(&written.object, &written.spec) {
                    take_up(&authority, fresh, &taken_up);
                }
                seen = Some(written.object);
            }
            (None, Some(directory)) => {
                seen = None;
                let directory = directory.clone();
                let reading = tokio::task::spawn_blocking(move || Authority::load(&directory));
                match reading.await {
                    Ok(Ok(fresh)) => {
                        take_up(&authority, fresh, &taken_up);
                        refused.clear();
                    }
                    Ok(Err(error)) => {
                        let why = error.to_string();
                        if why != refused {
                            tracing::error!(
                                "the new files of the authority cannot be used, the present one stays: {why}"
                            );
                            refused = why;
                        }
                    }
                    // The runtime is shutting down.
                    Err(_) => return,
                }
            }
            (None, None) => seen = None,
        }
        if let Some(roots) = &roots {
            let pem = authority.load().roots().to_pem();
            roots.send_if_modified(|told| {
                let changed = **told != *pem;
                if changed {
                    *told = Arc::from(pem);
                }
                changed
            });
        }
        tokio::select! {
            changed = snapshots.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(POLL) => {}
        }
    }
}

fn take_up(authority: &ArcSwap<Authority>, fresh: Authority, taken_up: &Notify) {
    let present = authority.load();
    let same = present.certificate().fingerprint() == fresh.certificate().fingerprint()
        && present.roots().to_pem() == fresh.roots().to_pem();
    if !same {
        tracing::info!(fingerprint = %fresh.certificate().fingerprint(), "a new signing certificate is used");
        authority.store(Arc::new(fresh));
        taken_up.notify_one();
    }
}

#[cfg(test)]
mod tests;
