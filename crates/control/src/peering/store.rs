//! The last state of a peer on disk, so that a control plane that restarts while a link is cut knows what
//! its proxies still use.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use isthmus_model::ClusterId;
use serde::{Deserialize, Serialize};

use super::wire;
use crate::member::{MemberHead, MemberService, MemberState, Peer};

/// Larger files are not read.
const LARGEST: u64 = 256 << 20;

/// Type URL, resource name and version, as the peer gave them.
pub(crate) type Versions = Vec<(String, String, String)>;

/// What is kept of one peer.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Stored {
    heard: Option<SystemTime>,
    head: MemberHead,
    services: Vec<MemberService>,
    /// What the peer need not send again.
    versions: Versions,
}

impl Stored {
    pub fn new(peer: &Peer, versions: Versions) -> Self {
        Self {
            heard: Some(peer.heard),
            head: (*peer.state.head).clone(),
            services: peer.state.services.values().map(|s| (**s).clone()).collect(),
            versions,
        }
    }

    /// Takes it apart, if it is of the cluster that it should be of.
    pub fn into_parts(self, cluster: &ClusterId) -> Option<(Peer, Versions)> {
        let foreign = |s: &MemberService| s.endpoints.iter().any(|e| e.cluster != *cluster);
        if self.head.cluster != *cluster || self.services.iter().any(foreign) {
            return None;
        }
        let services = self
            .services
            .into_iter()
            .map(|s| (s.service.key.clone(), Arc::new(s)))
            .collect();
        let state = Arc::new(MemberState {
            head: Arc::new(self.head),
            services,
        });
        let heard = self.heard.unwrap_or(SystemTime::UNIX_EPOCH);
        // What is not known in detail must be sent again, whatever the versions say.
        let known = |(ty, name, _): &(String, String, String)| {
            *ty != wire::service_type().as_str()
                || wire::service_key(name).is_some_and(|key| state.services.contains_key(&key))
        };
        let versions = self.versions.into_iter().filter(known).collect();
        Some((
            Peer {
                state,
                connected: false,
                heard,
            },
            versions,
        ))
    }
}

fn file(folder: &Path, cluster: &ClusterId) -> PathBuf {
    // Any name may come from a flag; only harmless characters become part of a path.
    let harmless = |c: char| {
        if c.is_ascii_alphanumeric() || c == '-' {
            c
        } else {
            '_'
        }
    };
    folder.join(format!(
        "peer-{}.json",
        cluster.as_str().chars().map(harmless).collect::<String>()
    ))
}

/// Reads what was kept; a file that cannot be used is said and passed over.
pub(crate) fn load(folder: &Path, cluster: &ClusterId) -> Option<(Peer, Versions)> {
    let path = file(folder, cluster);
    let read = || -> io::Result<Stored> {
        if std::fs::metadata(&path)?.len() > LARGEST {
            return Err(io::Error::other(format!("larger than {LARGEST} bytes")));
        }
        serde_json::from_slice(&std::fs::read(&path)?).map_err(io::Error::other)
    };
    match read() {
        Ok(stored) => stored.into_parts(cluster),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => {
            tracing::warn!(path = %path.display(), %error, "the last state of a peer cannot be read");
            None
        }
    }
}

/// Forgets a peer that is none any more.
pub(super) fn forget(folder: &Path, cluster: &ClusterId) {
    let path = file(folder, cluster);
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            tracing::warn!(path = %path.display(), %error, "what a former peer told cannot be removed");
        }
        _ => {}
    }
}

/// Forgets what was kept.
pub(crate) fn remove(folder: &Path, cluster: &ClusterId) {
    let path = file(folder, cluster);
    if let Err(error) = std::fs::remove_file(&path)
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::warn!(path = %path.display(), %error, "the last state of a cluster cannot be forgotten");
    }
}

/// Keeps the last state; the old file stays whole until the new one is.
pub(crate) async fn save(folder: PathBuf, cluster: ClusterId, stored: Stored) {
    let path = file(&folder, &cluster);
    let shown = path.display().to_string();
    let write = tokio::task::spawn_blocking(move || -> io::Result<()> {
        std::fs::create_dir_all(&folder)?;
        let new = path.with_extension("json.new");
        std::fs::write(&new, serde_json::to_vec(&stored).map_err(io::Error::other)?)?;
        std::fs::rename(new, path)
    });
    if let Ok(Err(error)) = write.await {
        tracing::warn!(path = shown, %error, "the last state of a peer cannot be kept");
    }
}
