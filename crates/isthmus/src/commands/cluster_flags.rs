//! The flags by which every command that talks to an API server is told which one, as istioctl has them.

use std::path::{Path, PathBuf};

use anyhow::Context;
use isthmus_kube::{Cluster, Credentials};
use isthmus_manifests::yaml;

/// A cluster.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct ClusterFlags {
    /// File of kubectl's configuration; KUBECONFIG or ~/.kube/config without it.
    #[arg(short = 'c', long, value_name = "FILE", global = false)]
    pub kubeconfig: Option<PathBuf>,
    /// Context in that file; its current one without it.
    #[arg(long, value_name = "NAME")]
    pub context: Option<String>,
}

impl ClusterFlags {
    /// A client of the cluster; nothing is sent yet.
    pub async fn connect(&self) -> anyhow::Result<Cluster> {
        let credentials = if self.kubeconfig.is_none() && self.context.is_none() {
            Credentials::Default
        } else {
            Credentials::Context {
                kubeconfig: self.kubeconfig.clone(),
                context: self.context.clone(),
            }
        };
        Ok(Cluster::connect(&credentials).await?)
    }

    /// Name of the context that is used, where there is one.
    pub fn context_name(&self) -> Option<String> {
        if let Some(context) = &self.context {
            return Some(context.clone());
        }
        let current = |file: &Path| -> Option<String> {
            let text = std::fs::read_to_string(file).ok()?;
            let config = yaml::read(&text).ok()?.into_iter().next()?;
            let name = config.get("current-context")?.as_str()?;
            (!name.is_empty()).then(|| name.to_owned())
        };
        let files: Vec<PathBuf> = match (&self.kubeconfig, std::env::var_os("KUBECONFIG")) {
            (Some(file), _) => vec![file.clone()],
            (None, Some(list)) if !list.is_empty() => std::env::split_paths(&list).collect(),
            _ => std::env::home_dir()
                .map(|home| home.join(".kube/config"))
                .into_iter()
                .collect(),
        };
        files.iter().find_map(|file| current(file))
    }
}

/// Runs a command that talks to clusters.
pub fn block_on<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("starting the runtime")?
        .block_on(work)
}
