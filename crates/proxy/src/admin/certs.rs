//! `/certs`: Envoy's `admin.v3.Certificates` as JSON.

use std::time::SystemTime;

use isthmus_pki::Certificate;
use rustls::pki_types::CertificateDer;
use serde_json::{Value, json};

use super::config_dump::moment;
use crate::state::State;
use crate::state::live::Secret;

/// The whole page.
pub fn page(state: &State) -> Value {
    let live = state.live();
    let mut names: Vec<_> = live.secrets.keys().collect();
    names.sort();
    let all: Vec<Value> = names
        .into_iter()
        .filter_map(|name| {
            Some(match live.secrets.get(name)? {
                Secret::Certificate(key) => json!({ "cert_chain": details(name, &key.cert) }),
                Secret::Roots(roots) => json!({ "ca_cert": details(name, &roots.certificates) }),
            })
        })
        .collect();
    json!({ "certificates": all })
}

fn details(path: &str, chain: &[CertificateDer<'static>]) -> Vec<Value> {
    let now = SystemTime::now();
    chain
        .iter()
        .filter_map(|der| Certificate::parse(der).ok())
        .map(|c| {
            let days = c
                .not_after
                .duration_since(now)
                .map_or(0, |d| d.as_secs() / 86_400);
            let uris = c.uris.iter().map(|u| json!({ "uri": u }));
            let names = c.dns_names.iter().map(|d| json!({ "dns": d }));
            let ips = c.addresses.iter().map(|i| json!({ "ip_address": i.to_string() }));
            json!({
                "path": path,
                "serial_number": c.serial,
                "subject": c.subject,
                "subject_alt_names": uris.chain(names).chain(ips).collect::<Vec<_>>(),
                "days_until_expiration": days.to_string(),
                "valid_from": moment(c.not_before),
                "expiration_time": moment(c.not_after),
                "fingerprint_sha256": c.fingerprint().hex(),
            })
        })
        .collect()
}
