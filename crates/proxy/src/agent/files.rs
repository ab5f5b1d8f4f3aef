//! Secrets in files of this machine: `file-cert:CHAIN~KEY`, `file-root:ROOTS` (Istio's SDS names), read
//! again when they change.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::SystemTime;

use crate::config::field::read_file;
use crate::config::tls::wire::SYSTEM_ROOTS;
use crate::state::live::{Roots, Secret, certified_key};

/// Where distributions keep the roots of the public web.
const SYSTEM_FILES: [&str; 3] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/cert.pem",
];

/// What was read, and when the files were written.
#[derive(Debug, Default)]
pub struct Files {
    read: HashMap<Arc<str>, Vec<Option<SystemTime>>>,
}

impl Files {
    /// Secrets that are new or whose files have changed since the last call. What cannot be read is told
    /// once for each state of the files, and what was read before stays.
    pub fn changed(&mut self, wanted: &BTreeSet<Arc<str>>) -> Vec<(Arc<str>, Secret)> {
        self.read.retain(|name, _| wanted.contains(name));
        let mut out = Vec::new();
        for name in wanted {
            let times: Vec<_> = paths(name).iter().map(|p| written(p)).collect();
            if self.read.get(name) == Some(&times) {
                continue;
            }
            self.read.insert(name.clone(), times);
            match load(name) {
                Ok(secret) => out.push((name.clone(), secret)),
                Err(error) => tracing::warn!(secret = %name, error, "secret cannot be read"),
            }
        }
        out
    }
}

fn paths(name: &str) -> Vec<String> {
    if name == SYSTEM_ROOTS {
        let found = SYSTEM_FILES.iter().find(|p| written(p).is_some());
        return found.map(|p| (*p).to_owned()).into_iter().collect();
    }
    match name.split_once(':') {
        Some(("file-cert", pair)) => pair.split('~').map(str::to_owned).collect(),
        Some((_, path)) => vec![path.to_owned()],
        None => Vec::new(),
    }
}

fn written(path: &str) -> Option<SystemTime> {
    std::fs::metadata(path).and_then(|m| m.modified()).ok()
}

fn load(name: &str) -> Result<Secret, String> {
    let read = |path: &str| {
        let bytes = read_file(path).map_err(|e| e.to_string())?;
        String::from_utf8(bytes).map_err(|_| format!("{path:?} is not text"))
    };
    match (name.starts_with("file-cert:"), paths(name).as_slice()) {
        (true, [chain, key]) => certified_key(&read(chain)?, &read(key)?)
            .map(|k| Secret::Certificate(Arc::new(k)))
            .map_err(|e| e.to_string()),
        (false, [roots]) => Roots::from_pem(&read(roots)?)
            .map(|r| Secret::Roots(Arc::new(r)))
            .map_err(|e| e.to_string()),
        (true, _) => Err("expected file-cert:CHAIN~KEY".to_owned()),
        (false, _) => Err("no such file".to_owned()),
    }
}
