//! The samples, built into the binary, so that the demo runs from an installed binary alone.

use anyhow::Context;
use include_dir::{Dir, include_dir};

static TWO_CLUSTERS: Dir<'static> = include_dir!("$CARGO_MANIFEST_DIR/../../samples/two-clusters");

/// Writes the samples of the demo into a directory that is removed with the value.
pub fn unpack() -> anyhow::Result<tempfile::TempDir> {
    let dir = tempfile::Builder::new()
        .prefix("isthmus-samples-")
        .tempdir()
        .context("no temporary directory can be made for the samples")?;
    TWO_CLUSTERS
        .extract(dir.path())
        .context("the samples cannot be written")?;
    Ok(dir)
}
