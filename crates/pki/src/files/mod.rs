//! Authorities on disk and in Kubernetes, as `isthmus certs` writes and shows them.
//!
//! ```text
//!   DIR/root-cert.pem, DIR/root-key.pem                     the root, kept away from every cluster
//!   DIR/<cluster>/{ca-cert,ca-key,cert-chain,root-cert}.pem  what a cluster's secret `cacerts` holds
//! ```

mod report;
#[cfg(test)]
mod tests;
mod write;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use zeroize::Zeroizing;

use crate::authority::{Authority, AuthorityError, FileSet};
use crate::certificate::Certificate;

pub use report::{CertificateReport, Check, Report, ReportError};
pub use write::WriteError;

/// Name of the secret that Istio's control plane reads its authority from.
pub const SECRET: &str = "cacerts";

/// The four files of a cluster's authority, by the names they have in the secret `cacerts`.
pub fn cacerts(authority: &Authority) -> BTreeMap<&'static str, Zeroizing<String>> {
    let chain = authority.intermediates().chain([authority.anchor()]);
    let chain: String = chain.map(Certificate::to_pem).collect();
    BTreeMap::from([
        ("ca-cert.pem", Zeroizing::new(authority.certificate().to_pem())),
        ("ca-key.pem", authority.key().to_pem()),
        ("cert-chain.pem", Zeroizing::new(chain)),
        ("root-cert.pem", Zeroizing::new(authority.roots().to_pem())),
    ])
}

/// Writes [`cacerts`] into `directory`, which is made if need be; keys for their owner's eyes only.
///
/// Refuses to replace a file unless `force` is set, and then writes nothing at all. Gives back the paths.
pub fn write_cacerts(
    directory: &Path,
    authority: &Authority,
    force: bool,
) -> Result<Vec<PathBuf>, WriteError> {
    write::all(directory, &cacerts(authority), force)
}

/// Writes a root as `root-cert.pem` and `root-key.pem`; else as [`write_cacerts`].
pub fn write_root(directory: &Path, root: &Authority, force: bool) -> Result<Vec<PathBuf>, WriteError> {
    let certificate = Zeroizing::new(root.certificate().to_pem());
    let files = BTreeMap::from([
        (FileSet::ROOT_CERTIFICATE, certificate),
        (FileSet::ROOT_KEY, root.key().to_pem()),
    ]);
    write::all(directory, &files, force)
}

/// Reads a root that [`write_root`] or Istio's `make root-ca` wrote.
pub fn load_root(directory: &Path) -> Result<Authority, AuthorityError> {
    Authority::from_files(&FileSet::read_root(directory)?)
}

/// [`cacerts`] as a Kubernetes Secret, for `kubectl apply -f -`.
pub fn secret_yaml(authority: &Authority, namespace: &str) -> Zeroizing<String> {
    let mut out = Zeroizing::new(format!(
        "apiVersion: v1\nkind: Secret\nmetadata:\n  name: {SECRET}\n  namespace: {namespace}\ntype: Opaque\ndata:\n"
    ));
    for (name, text) in cacerts(authority) {
        let encoded = Zeroizing::new(STANDARD.encode(text.as_bytes()));
        out.push_str("  ");
        out.push_str(name);
        out.push_str(": ");
        out.push_str(&encoded);
        out.push('\n');
    }
    out
}
