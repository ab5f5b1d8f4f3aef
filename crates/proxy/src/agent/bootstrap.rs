//! A static Envoy v3 bootstrap (`isthmus proxy -c FILE`): listeners, clusters and secrets that no control
//! plane changes, and where the admin interface is.

use std::net::SocketAddr;
use std::path::Path;
use std::time::SystemTime;

use isthmus_xds::envoy::bootstrap::Bootstrap;
use isthmus_xds::{pack, text};

use crate::config::field::{read_file, socket_address};
use crate::config::refusal::{At, Refusal, refuse_set};
use crate::state::State;

/// Why a bootstrap file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum BootstrapError {
    /// The file cannot be read.
    #[error("{0}")]
    Read(String),
    /// It is no bootstrap; file, line and path are in the text.
    #[error("{0}")]
    Text(#[from] text::TextError),
    /// It asks for what this proxy does not do.
    #[error("{file}: {refusal}")]
    Refused {
        /// The file.
        file: String,
        /// Field and reason.
        refusal: Refusal,
    },
}

/// Reads the file and puts its resources into the state.
pub fn load(path: &Path, state: &mut State) -> Result<Option<SocketAddr>, BootstrapError> {
    let file = path.display().to_string();
    let bytes = read_file(&file).map_err(|e| BootstrapError::Read(e.to_string()))?;
    let text = String::from_utf8(bytes).map_err(|_| BootstrapError::Read(format!("{file} is not text")))?;
    let bootstrap: Bootstrap = text::read(&file, &text)?;
    apply(&bootstrap, state).map_err(|refusal| BootstrapError::Refused { file, refusal })
}

fn apply(b: &Bootstrap, state: &mut State) -> Result<Option<SocketAddr>, Refusal> {
    refuse_set!(b; dynamic_resources, hds_config, bootstrap_extensions);
    let now = SystemTime::now();
    if let Some(resources) = b.static_resources.as_ref() {
        let fix = |state: &mut State, body, field: &str, index| {
            state
                .fix(body, now)
                .map_err(|r| Refusal::new(format!("({})", r.name), r.reason))
                .nth(field, index)
                .at("static_resources")
        };
        for (i, secret) in resources.secrets.iter().enumerate() {
            fix(state, pack(secret), "secrets", i)?;
        }
        for (i, cluster) in resources.clusters.iter().enumerate() {
            fix(state, pack(cluster), "clusters", i)?;
        }
        for (i, listener) in resources.listeners.iter().enumerate() {
            fix(state, pack(listener), "listeners", i)?;
        }
    }
    b.admin
        .as_ref()
        .and_then(|a| a.address.as_ref())
        .map(|a| socket_address(a).at("admin.address"))
        .transpose()
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = r#"
admin: { address: { socket_address: { address: 127.0.0.1, port_value: 9901 } } }
static_resources:
  listeners:
  - name: web
    address: { socket_address: { address: 127.0.0.1, port_value: 8080 } }
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: web
          route_config:
            virtual_hosts:
            - name: all
              domains: ["*"]
              routes: [{ match: { prefix: / }, route: { cluster: app } }]
          http_filters:
          - name: envoy.filters.http.router
            typed_config: { "@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router }
  clusters:
  - name: app
    type: STATIC
    load_assignment:
      cluster_name: app
      endpoints:
      - lb_endpoints:
        - endpoint: { address: { socket_address: { address: 127.0.0.1, port_value: 8081 } } }
"#;

    #[test]
    fn a_bootstrap_becomes_a_configuration() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("envoy.yaml");
        std::fs::write(&path, FILE).unwrap();
        let mut state = State::default();
        let admin = load(&path, &mut state).unwrap();
        assert_eq!(admin, Some("127.0.0.1:9901".parse().unwrap()));
        let live = state.settle(std::time::Instant::now()).unwrap();
        assert_eq!(live.listeners.len(), 1);
        assert_eq!(live.endpoints["app"].localities[0].endpoints.len(), 1);

        std::fs::write(
            &path,
            FILE.replace("type: STATIC", "type: STATIC\n    health_checks: [{}]"),
        )
        .unwrap();
        let error = load(&path, &mut State::default()).unwrap_err().to_string();
        assert!(error.contains("static_resources.clusters[0].(app)"), "{error}");
        assert!(error.contains("health_checks"), "{error}");
    }
}
