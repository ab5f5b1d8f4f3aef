//! The sections of Envoy's `admin.v3.ConfigDump`.

use serde_json::Value;

/// A `/config_dump`.
#[derive(Debug)]
pub struct Dump {
    whole: Value,
}

impl Dump {
    pub fn new(whole: Value) -> Self {
        Self { whole }
    }

    pub fn whole(&self) -> &Value {
        &self.whole
    }

    /// The bootstrap.
    pub fn bootstrap(&self) -> Option<&Value> {
        self.section("BootstrapConfigDump")
            .first()
            .map(|s| &s["bootstrap"])
    }

    /// Clusters: static, in use, and not in use yet.
    pub fn clusters(&self) -> Vec<&Value> {
        let mut all = self.entries(
            "ClustersConfigDump",
            &[
                "static_clusters",
                "dynamic_active_clusters",
                "dynamic_warming_clusters",
            ],
        );
        all.retain_mut(|entry| keep(entry, "cluster"));
        all
    }

    /// Listeners: static, in use, else not in use yet.
    pub fn listeners(&self) -> Vec<&Value> {
        let mut all = Vec::new();
        for entry in self.entries("ListenersConfigDump", &["static_listeners", "dynamic_listeners"]) {
            let held = ["active_state", "warming_state"]
                .iter()
                .filter_map(|state| entry.get(state))
                .chain([entry])
                .find_map(|held| held.get("listener"));
            all.extend(held);
        }
        all
    }

    /// Route tables.
    pub fn routes(&self) -> Vec<&Value> {
        let mut all = self.entries(
            "RoutesConfigDump",
            &["static_route_configs", "dynamic_route_configs"],
        );
        all.retain_mut(|entry| keep(entry, "route_config"));
        all
    }

    /// Secrets with the state they are in.
    pub fn secrets(&self) -> Vec<(&'static str, &Value)> {
        [
            ("static_secrets", "ACTIVE"),
            ("dynamic_active_secrets", "ACTIVE"),
            ("dynamic_warming_secrets", "WARMING"),
        ]
        .into_iter()
        .flat_map(|(list, state)| {
            self.entries("SecretsConfigDump", &[list])
                .into_iter()
                .map(move |entry| (state, entry))
        })
        .collect()
    }

    fn section(&self, name: &str) -> Vec<&Value> {
        items(&self.whole["configs"])
            .filter(|section| text(section, "@type").rsplit('.').next() == Some(name))
            .collect()
    }

    fn entries(&self, section: &str, lists: &[&str]) -> Vec<&Value> {
        let mut all = Vec::new();
        for section in self.section(section) {
            for list in lists {
                all.extend(items(&section[*list]));
            }
        }
        all
    }
}

/// Goes from an entry to the resource in it; `false` when there is none.
fn keep(entry: &mut &Value, key: &str) -> bool {
    match entry.get(key) {
        Some(resource) => {
            *entry = resource;
            true
        }
        None => false,
    }
}

/// The members of an array; none of anything else.
pub fn items(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

/// A string member; empty when there is none.
pub fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_default()
}

/// `NAME.NAMESPACE` of the Istio object that the control plane names in the metadata.
///
/// Istio writes `/apis/networking.istio.io/v1/namespaces/NAMESPACE/KIND/NAME` into
/// `filter_metadata.istio.config`.
pub fn origin(resource: &Value, kind: &str) -> String {
    let path = resource["metadata"]["filter_metadata"]["istio"]["config"]
        .as_str()
        .unwrap_or_default();
    let parts: Vec<&str> = path.split('/').collect();
    match parts[..] {
        [.., "namespaces", namespace, found, name] if found == kind => format!("{name}.{namespace}"),
        _ => String::new(),
    }
}

/// `HOST:PORT` of a `core.v3.Address`, or the path of a socket.
pub fn address(value: &Value) -> (String, String) {
    if let Some(path) = value["pipe"]["path"].as_str() {
        return (path.to_owned(), String::new());
    }
    if let Some(listener) = value["envoy_internal_address"]["server_listener_name"].as_str() {
        return (format!("envoy://{listener}"), String::new());
    }
    let socket = &value["socket_address"];
    let port = match &socket["port_value"] {
        Value::Null => String::new(),
        port => port.to_string(),
    };
    (text(socket, "address").to_owned(), port)
}
