//! `/listeners`: names and addresses of the listeners in use.

use std::fmt::Write;

use serde_json::{Value, json};

use crate::state::Live;

/// `NAME::ADDRESS`, one a line.
pub fn text_page(live: &Live) -> String {
    let mut out = String::new();
    for l in &live.listeners {
        let _ = writeln!(out, "{}::{}", l.name, l.address);
    }
    out
}

/// `admin.v3.Listeners`.
pub fn json_page(live: &Live) -> Value {
    let all: Vec<Value> = live
        .listeners
        .iter()
        .map(|l| {
            json!({
                "name": &*l.name,
                "local_address": { "socket_address": {
                    "address": l.address.ip().to_string(),
                    "port_value": l.address.port(),
                } },
            })
        })
        .collect();
    json!({ "listener_statuses": all })
}
