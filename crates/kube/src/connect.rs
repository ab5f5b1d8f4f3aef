//! A client of one API server, from whatever names it: a kubeconfig and context, the pod's own service
//! account, or the bytes of a remote secret.

use std::path::PathBuf;

use kube::Client;
use kube::config::{Config, KubeConfigOptions, Kubeconfig};

/// Where the address and the credentials of an API server are taken from.
#[derive(Clone, Default)]
pub enum Credentials {
    /// As kubectl finds them: `KUBECONFIG`, else `~/.kube/config`, else the pod's service account.
    #[default]
    Default,
    /// A kubeconfig (`None`: as kubectl finds it) and a context in it (`None`: the current one).
    Context {
        /// Path of the file.
        kubeconfig: Option<PathBuf>,
        /// Name of the context.
        context: Option<String>,
    },
    /// The service account of the pod that this process runs in.
    InCluster,
    /// The content of a kubeconfig, such as a remote secret holds; its current context counts.
    Inline(Vec<u8>),
}

impl std::fmt::Debug for Credentials {
    /// Without what is secret.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Default => f.write_str("Default"),
            Self::Context { kubeconfig, context } => {
                f.debug_tuple("Context").field(kubeconfig).field(context).finish()
            }
            Self::InCluster => f.write_str("InCluster"),
            Self::Inline(bytes) => write!(f, "Inline({} bytes)", bytes.len()),
        }
    }
}

/// Why there is no client.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The kubeconfig cannot be read or names what is not in it.
    #[error("no API server is named: {why}; give --kubeconfig FILE or set KUBECONFIG")]
    Kubeconfig {
        /// What is wrong with it.
        why: String,
    },
    /// There is no service account in this process's pod.
    #[error("this is no pod with a service account: {0}")]
    InCluster(String),
    /// The certificates or the token in it cannot be used.
    #[error("the credentials for {server} cannot be used: {why}")]
    Unusable {
        /// Address of the API server.
        server: String,
        /// What is wrong with them.
        why: String,
    },
}

/// One Kubernetes cluster, reached through its API server. Cheap to clone; connects when first used.
#[derive(Clone)]
pub struct Cluster {
    client: Client,
    server: String,
    namespace: String,
}

impl std::fmt::Debug for Cluster {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cluster")
            .field("server", &self.server)
            .finish_non_exhaustive()
    }
}

impl Cluster {
    /// A client; nothing is sent yet.
    ///
    /// # Errors
    /// The credentials cannot be read or used. An API server that does not answer is no error here.
    pub async fn connect(credentials: &Credentials) -> Result<Self, ConnectError> {
        let kubeconfig = |why: &dyn std::fmt::Display| ConnectError::Kubeconfig { why: why.to_string() };
        let config = match credentials {
            Credentials::Default => Config::infer().await.map_err(|e| kubeconfig(&e))?,
            Credentials::InCluster => {
                Config::incluster().map_err(|e| ConnectError::InCluster(e.to_string()))?
            }
            Credentials::Context {
                kubeconfig: file,
                context,
            } => {
                let options = KubeConfigOptions {
                    context: context.clone(),
                    ..KubeConfigOptions::default()
                };
                let read = match file {
                    Some(file) => Kubeconfig::read_from(file),
                    None => Kubeconfig::read(),
                };
                let read = read.map_err(|e| kubeconfig(&e))?;
                Config::from_custom_kubeconfig(read, &options)
                    .await
                    .map_err(|e| kubeconfig(&e))?
            }
            Credentials::Inline(bytes) => {
                let text = std::str::from_utf8(bytes).map_err(|e| kubeconfig(&e))?;
                let read = Kubeconfig::from_yaml(text).map_err(|e| kubeconfig(&e))?;
                Config::from_custom_kubeconfig(read, &KubeConfigOptions::default())
                    .await
                    .map_err(|e| kubeconfig(&e))?
            }
        };
        let server = config.cluster_url.to_string();
        let namespace = config.default_namespace.clone();
        let client = Client::try_from(config).map_err(|e| ConnectError::Unusable {
            server: server.clone(),
            why: e.to_string(),
        })?;
        Ok(Self {
            client,
            server,
            namespace,
        })
    }

    /// kube's own client.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Address of the API server.
    pub fn server(&self) -> &str {
        &self.server
    }

    /// Namespace of the context, `default` where it names none.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }
}

/// Whether a kubeconfig from a Secret can be used, and is harmless: one that runs a program or reads files would do
/// so here, in the name of whoever may write Secrets (Istio refuses the same).
pub(crate) fn check(kubeconfig: &[u8]) -> Result<(), String> {
    let text = std::str::from_utf8(kubeconfig).map_err(|e| e.to_string())?;
    let read = Kubeconfig::from_yaml(text).map_err(|e| e.to_string())?;
    for named in &read.auth_infos {
        let Some(user) = &named.auth_info else { continue };
        let refused = [
            (user.exec.is_some(), "exec"),
            (user.auth_provider.is_some(), "auth-provider"),
            (user.token_file.is_some(), "tokenFile"),
            (user.client_certificate.is_some(), "client-certificate"),
            (user.client_key.is_some(), "client-key"),
        ];
        if let Some((_, field)) = refused.iter().find(|(there, _)| *there) {
            return Err(format!(
                "user {:?} has {field}, which is not allowed in a remote secret; write the token or certificate itself",
                named.name
            ));
        }
    }
    let context = read.current_context.as_deref().unwrap_or_default();
    let there = read.contexts.iter().find(|c| c.name == context);
    let cluster = there.and_then(|c| c.context.as_ref()).map(|c| c.cluster.as_str());
    let server = read
        .clusters
        .iter()
        .find(|c| Some(c.name.as_str()) == cluster)
        .and_then(|c| c.cluster.as_ref())
        .and_then(|c| c.server.as_deref());
    match server {
        Some(_) => Ok(()),
        None => Err(format!("its current-context {context:?} leads to no server")),
    }
}
