//! Files by which kubectl, helm and isthmus find API servers.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};

use super::certificates::Certificates;

/// One context: a name for a server and a way to be its administrator.
pub(super) struct Context<'a> {
    pub(super) name: &'a str,
    /// `HOST:PORT`.
    pub(super) server: String,
    pub(super) certificates: &'a Certificates,
}

/// A kubeconfig with these contexts, the first being the current one. JSON is YAML.
pub(super) fn kubeconfig(contexts: &[Context<'_>]) -> Value {
    let (mut clusters, mut users, mut entries) = (Vec::new(), Vec::new(), Vec::new());
    for context in contexts {
        let (name, certificates) = (context.name, context.certificates);
        clusters.push(json!({"name": name, "cluster": {
            "server": format!("https://{}", context.server),
            "certificate-authority-data": BASE64_STANDARD.encode(&certificates.ca),
        }}));
        users.push(json!({"name": name, "user": {
            "client-certificate-data": BASE64_STANDARD.encode(&certificates.admin.certificate),
            "client-key-data": BASE64_STANDARD.encode(&certificates.admin.key),
        }}));
        entries.push(json!({"name": name, "context": {"cluster": name, "user": name}}));
    }
    json!({
        "apiVersion": "v1", "kind": "Config", "preferences": {},
        "clusters": clusters, "users": users, "contexts": entries,
        "current-context": contexts.first().map_or("", |c| c.name),
    })
}
