//! One root for the mesh and an intermediate for each member cluster.

use std::path::Path;

use isthmus_pki::authority::{Authority, CreateError, IntermediateRequest, RootRequest};
use isthmus_pki::key::KeyAlgorithm;

use crate::cluster::{ClusterSettings, write_whole};
use crate::{Error, Result};

/// Creates the mesh's root. Elliptic keys, since the user waits for it.
pub fn root() -> Result<Authority> {
    let request = RootRequest {
        algorithm: KeyAlgorithm::EcdsaP256,
        ..RootRequest::default()
    };
    Authority::create_root(&request).map_err(|e| failed("root", &e))
}

/// Creates a cluster's intermediate and writes the files of the `cacerts` secret.
pub fn intermediate(root: &Authority, settings: &ClusterSettings) -> Result<()> {
    let request = IntermediateRequest {
        algorithm: KeyAlgorithm::EcdsaP256,
        ..IntermediateRequest::new(settings.id.clone())
    };
    let authority = root
        .create_intermediate(&request)
        .map_err(|e| failed(settings.id.as_str(), &e))?;
    let dir = settings.cacerts_dir();
    std::fs::create_dir_all(&dir).map_err(Error::io(format!("create {}", dir.display())))?;
    let (own, root) = (authority.certificate().to_pem(), root.certificate().to_pem());
    write(&dir, "ca-cert.pem", own.as_bytes())?;
    write(&dir, "ca-key.pem", authority.key().to_pem().as_bytes())?;
    write(&dir, "cert-chain.pem", format!("{own}{root}").as_bytes())?;
    write(&dir, "root-cert.pem", root.as_bytes())
}

/// Takes a cluster's files of the secret `cacerts` from elsewhere.
pub fn given(from: &Path, settings: &ClusterSettings) -> Result<()> {
    // What the control plane could not use is better said before anything runs.
    Authority::load(from).map_err(|e| Error::Certificate {
        what: settings.id.to_string(),
        reason: e.to_string(),
    })?;
    let dir = settings.cacerts_dir();
    std::fs::create_dir_all(&dir).map_err(Error::io(format!("create {}", dir.display())))?;
    for name in ["ca-cert.pem", "ca-key.pem", "cert-chain.pem", "root-cert.pem"] {
        let path = from.join(name);
        let content = std::fs::read(&path).map_err(Error::io(format!("read {}", path.display())))?;
        write(&dir, name, &content)?;
    }
    Ok(())
}

fn failed(what: &str, error: &CreateError) -> Error {
    Error::Certificate {
        what: what.to_owned(),
        reason: error.to_string(),
    }
}

fn write(dir: &Path, name: &str, content: &[u8]) -> Result<()> {
    let path = dir.join(name);
    write_whole(&path, content).map_err(Error::io(format!("write {}", path.display())))
}
