//! `/config_dump`: Envoy's `admin.v3.ConfigDump` as JSON.

use std::sync::Arc;
use std::time::SystemTime;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use isthmus_pki::Certificate;
use isthmus_xds::text::Printer;
use serde_json::{Map, Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::agent::config::Config;
use crate::state::State;
use crate::state::live::Secret;
use crate::state::store::{Held, Refused, Store};

/// `[redacted]` in base64, as Envoy writes it for keys.
const REDACTED: &str = "W3JlZGFjdGVkXQ==";

/// The whole page.
pub fn page(state: &State, config: &Config, endpoints: bool) -> Value {
    let printer = Printer::default();
    let p = &printer;
    let mut configs = vec![
        bootstrap(config),
        clusters(state, p),
        listeners(state, p),
        routes(state, p),
        secrets(state),
    ];
    if endpoints {
        configs.push(endpoint_configs(state, p));
    }
    json!({ "configs": configs })
}

fn typed(name: &str, members: impl IntoIterator<Item = (&'static str, Value)>) -> Value {
    let mut object = Map::new();
    let url = format!("type.googleapis.com/envoy.admin.v3.{name}");
    object.insert("@type".to_owned(), url.into());
    for (key, value) in members {
        let empty = value.as_array().is_some_and(Vec::is_empty) || value == "";
        if !empty {
            object.insert(key.to_owned(), value);
        }
    }
    Value::Object(object)
}

/// RFC 3339 in UTC.
pub fn moment(at: SystemTime) -> String {
    OffsetDateTime::from(at).format(&Rfc3339).unwrap_or_default()
}

fn bootstrap(config: &Config) -> Value {
    let n = &config.node;
    let mut metadata = serde_json::to_value(&config.metadata).unwrap_or_default();
    metadata["NAME"] = (*n.name).into();
    metadata["NAMESPACE"] = (*n.namespace).into();
    let node = json!({
        "id": &*n.id,
        "cluster": format!("{}.{}", n.canonical_name(), n.namespace),
        "metadata": metadata,
        "locality": { "region": n.locality.region, "zone": n.locality.zone, "sub_zone": n.locality.subzone },
        "user_agent_name": "isthmus",
    });
    typed("BootstrapConfigDump", [("bootstrap", json!({ "node": node }))])
}

fn error_state(refused: &Refused) -> Value {
    json!({
        "last_update_attempt": moment(refused.at),
        "details": refused.reason,
        "version_info": &*refused.version,
    })
}

/// One resource with its version, time and the error of a refused later version.
fn entry<T>(p: &Printer, key: &str, held: &Held<T>, refused: Option<&Refused>) -> Value {
    let mut object = Map::new();
    if !held.version.is_empty() {
        object.insert("version_info".to_owned(), (*held.version).into());
    }
    object.insert(key.to_owned(), p.json(&held.body));
    object.insert("last_updated".to_owned(), moment(held.updated).into());
    if let Some(refused) = refused {
        object.insert("error_state".to_owned(), error_state(refused));
        object.insert("client_status".to_owned(), "NACKED".into());
    }
    Value::Object(object)
}

fn refused_alone<T>(store: &Store<T>) -> impl Iterator<Item = (&Arc<str>, &Refused)> {
    store
        .refused()
        .iter()
        .filter(|(name, _)| store.held(name).is_none())
}

fn clusters(state: &State, p: &Printer) -> Value {
    let store = &state.clusters;
    let (mut fixed, mut active, mut warming) = (Vec::new(), Vec::new(), Vec::new());
    for (name, held) in store.iter() {
        let entry = entry(p, "cluster", held, store.refused().get(name));
        if held.fixed {
            fixed.push(entry);
        } else if state.is_cluster_warming(name) {
            warming.push(entry);
        } else {
            active.push(entry);
        }
    }
    for (name, refused) in refused_alone(store) {
        active.push(json!({
            "cluster": {
                "@type": "type.googleapis.com/envoy.config.cluster.v3.Cluster",
                "name": &**name,
            },
            "error_state": error_state(refused),
            "client_status": "NACKED",
        }));
    }
    typed(
        "ClustersConfigDump",
        [
            ("version_info", store.version.clone().into()),
            ("static_clusters", fixed.into()),
            ("dynamic_active_clusters", active.into()),
            ("dynamic_warming_clusters", warming.into()),
        ],
    )
}

fn listeners(state: &State, p: &Printer) -> Value {
    let store = &state.listeners;
    let (mut fixed, mut dynamic) = (Vec::new(), Vec::new());
    for (name, held) in store.iter() {
        let inner = entry(p, "listener", held, None);
        if held.fixed {
            fixed.push(inner);
            continue;
        }
        let key = if state.is_listener_warming(name) {
            "warming_state"
        } else {
            "active_state"
        };
        let mut object = Map::from_iter([("name".to_owned(), (**name).into()), (key.to_owned(), inner)]);
        if let Some(refused) = store.refused().get(name) {
            object.insert("error_state".to_owned(), error_state(refused));
            object.insert("client_status".to_owned(), "NACKED".into());
        }
        dynamic.push(Value::Object(object));
    }
    for (name, refused) in refused_alone(store) {
        dynamic.push(json!({
            "name": &**name,
            "error_state": error_state(refused),
            "client_status": "NACKED",
        }));
    }
    typed(
        "ListenersConfigDump",
        [
            ("version_info", store.version.clone().into()),
            ("static_listeners", fixed.into()),
            ("dynamic_listeners", dynamic.into()),
        ],
    )
}

fn routes(state: &State, p: &Printer) -> Value {
    let store = &state.routes;
    let dynamic: Vec<Value> = store
        .iter()
        .map(|(name, held)| entry(p, "route_config", held, store.refused().get(name)))
        .collect();
    typed("RoutesConfigDump", [("dynamic_route_configs", dynamic.into())])
}

fn endpoint_configs(state: &State, p: &Printer) -> Value {
    let store = &state.endpoints;
    let dynamic: Vec<Value> = store
        .iter()
        .map(|(name, held)| entry(p, "endpoint_config", held, store.refused().get(name)))
        .collect();
    typed(
        "EndpointsConfigDump",
        [("dynamic_endpoint_configs", dynamic.into())],
    )
}

fn secrets(state: &State) -> Value {
    let mut all: Vec<(&Arc<str>, Value)> = state
        .local_secrets()
        .map(|(name, secret)| (name, json!({ "name": &**name, "secret": shown(name, secret) })))
        .chain(state.secrets.iter().map(|(name, held)| {
            let value = json!({
                "name": &**name,
                "version_info": &*held.version,
                "last_updated": moment(held.updated),
                "secret": shown(name, &held.value),
            });
            (name, value)
        }))
        .collect();
    all.sort_by(|a, b| a.0.cmp(b.0));
    let all: Vec<Value> = all.into_iter().map(|(_, v)| v).collect();
    typed("SecretsConfigDump", [("dynamic_active_secrets", all.into())])
}

/// A secret as Envoy shows it: certificates, never a key.
fn shown(name: &str, secret: &Secret) -> Value {
    let pem = |ders: &[rustls::pki_types::CertificateDer<'static>]| {
        let text: String = ders
            .iter()
            .filter_map(|der| Certificate::parse(der).ok())
            .map(|c| c.to_pem())
            .collect();
        BASE64_STANDARD.encode(text)
    };
    let url = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret";
    match secret {
        Secret::Certificate(key) => json!({
            "@type": url,
            "name": name,
            "tls_certificate": {
                "certificate_chain": { "inline_bytes": pem(&key.cert) },
                "private_key": { "inline_bytes": REDACTED },
            },
        }),
        Secret::Roots(roots) => json!({
            "@type": url,
            "name": name,
            "validation_context": { "trusted_ca": { "inline_bytes": pem(&roots.certificates) } },
        }),
    }
}
