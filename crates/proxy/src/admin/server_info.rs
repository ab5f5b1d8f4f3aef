//! `/server_info`: Envoy's `admin.v3.ServerInfo`.

use serde_json::{Value, json};

use super::Admin;

/// The whole page.
pub fn page(admin: &Admin) -> Value {
    let pending = admin.readiness.pending();
    let state = if pending.is_empty() {
        "LIVE"
    } else if pending.iter().any(|p| &**p == "draining") {
        "DRAINING"
    } else {
        "PRE_INITIALIZING"
    };
    let n = &admin.config.node;
    let uptime = format!("{}s", admin.started.elapsed().as_secs());
    json!({
        "version": concat!("isthmus/", env!("CARGO_PKG_VERSION")),
        "state": state,
        "waiting_for": pending.iter().map(|p| &**p).collect::<Vec<_>>(),
        "control_plane_connected": *admin.connected.borrow(),
        "uptime_current_epoch": uptime,
        "uptime_all_epochs": uptime,
        "command_line_options": {
            "concurrency": admin.config.concurrency,
            "drain_time": format!("{}s", admin.config.drain.as_secs()),
        },
        "node": {
            "id": &*n.id,
            "cluster": format!("{}.{}", n.canonical_name(), n.namespace),
            "metadata": admin.config.metadata,
        },
    })
}
