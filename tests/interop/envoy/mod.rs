//! A stock Envoy as the data plane: beside our control plane, and beside our proxy.

mod driven;
mod same;

use std::path::PathBuf;

/// What `install.sh` put beside the build: `envoy`, and `venv` with gRPC's Python library.
pub fn installed(name: &str) -> PathBuf {
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR"))
        .with_file_name("interop")
        .join(name);
    assert!(
        path.exists(),
        "{} is missing; run tests/interop/install.sh",
        path.display()
    );
    path
}

/// A file of this suite.
pub fn file(name: &str) -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/interop")).join(name)
}
