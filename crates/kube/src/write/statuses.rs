//! `status` of Istio's objects: automatic addresses, and what was found out about them.

use std::collections::BTreeMap;
use std::sync::Arc;

use http::Method;
use isthmus_api::finding::{Finding, Level};
use isthmus_api::status::{ACCEPTED, Status, Statuses};
use isthmus_api::{ObjectKey, kinds::Info};
use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};
use tokio::sync::watch;

use super::{Complaint, FIELD_MANAGER, PACE, RETRY};
use crate::connect::Cluster;
use crate::resources::Resources;
use crate::rest::{Call, MERGE, RequestError};

/// Findings of one object that are written; the rest is counted.
const FINDINGS: usize = 10;
/// Characters of one message.
const MESSAGE: usize = 400;

/// Writes what changes until dropped.
pub async fn run(cluster: Cluster, mut wanted: watch::Receiver<Arc<Statuses>>) {
    // What was written, or found to be so.
    let mut done: Statuses = BTreeMap::new();
    let mut complaint = Complaint::default();
    let mut resources: Option<Resources> = None;
    wanted.mark_changed();
    loop {
        let now = Arc::clone(&wanted.borrow_and_update());
        let gone = done.keys().filter(|key| !now.contains_key(*key));
        let changed = now
            .iter()
            .filter(|(key, status)| done.get(*key) != Some(*status))
            .map(|(key, _)| key);
        let work: Vec<ObjectKey> = gone.chain(changed).cloned().collect();
        let mut failed = false;
        for key in work {
            let status = now.get(&key).cloned().unwrap_or_default();
            if resources.is_none() {
                resources = Resources::read(&cluster).await.ok();
            }
            let path = resources.as_ref().and_then(|r| path(r, key.kind.info(), &key));
            let written = match path {
                Some(path) => write(&cluster, &path, &status).await,
                None => Ok(()),
            };
            match written {
                Ok(()) if now.contains_key(&key) => drop(done.insert(key, status)),
                Ok(()) => drop(done.remove(&key)),
                // Deleted, or changed since: its next state is told anew.
                Err(error) if error.is_not_found() => drop(done.insert(key, status)),
                Err(error) => {
                    complaint.about(&format!("the status of {key}"), &error);
                    failed = true;
                    resources = None;
                }
            }
            tokio::time::sleep(PACE).await;
            if wanted.has_changed().unwrap_or(false) {
                break;
            }
        }
        if failed {
            tokio::time::sleep(RETRY).await;
            continue;
        }
        if wanted.changed().await.is_err() {
            return;
        }
        // Several changes in a row are one.
        tokio::time::sleep(RETRY / 2).await;
    }
}

fn path(resources: &Resources, info: &Info, key: &ObjectKey) -> Option<String> {
    let mut served = resources.of(info.group, info.kind);
    let resource = served.find(|r| info.versions.contains(&r.version.as_str()))?;
    Some(resource.path_of(&key.namespace, &key.name))
}

async fn write(cluster: &Cluster, path: &str, status: &Status) -> Result<(), RequestError> {
    let present = cluster.get(path).await?;
    let Some(patch) = patch(&present, status, Timestamp::now()) else {
        return Ok(());
    };
    let path = format!("{path}/status?fieldManager={FIELD_MANAGER}");
    cluster
        .call::<Value>(Call::with(&Method::PATCH, &path, MERGE, &patch))
        .await
        .map(|_| ())
}

/// What to merge into the object; `None` when its status says the same.
fn patch(present: &Value, wanted: &Status, now: Timestamp) -> Option<Value> {
    let old = &present["status"];
    let mut status = serde_json::Map::new();
    if !wanted.addresses.is_empty() {
        let addresses = wanted.addresses.iter();
        let addresses: Vec<Value> = addresses
            .map(|(host, ip)| json!({ "value": ip, "host": host }))
            .collect();
        status.insert("addresses".to_owned(), addresses.into());
    }
    let mut conditions = old["conditions"].as_array().cloned().unwrap_or_default();
    let before = conditions.iter().position(|c| c["type"] == ACCEPTED);
    // An object about which there was never anything to say is left in peace.
    if !wanted.findings.is_empty() || before.is_some() {
        let condition = condition(&wanted.findings);
        let same = |c: &Value| {
            ["status", "reason", "message"]
                .iter()
                .all(|f| c[*f] == condition[*f])
        };
        match before.and_then(|i| conditions.get_mut(i)) {
            Some(present) if same(present) => {}
            Some(present) => {
                let moved = present["status"] != condition["status"];
                let since = if moved {
                    seconds(now).into()
                } else {
                    present["lastTransitionTime"].clone()
                };
                *present = condition;
                present["lastTransitionTime"] = since;
            }
            None => {
                let mut fresh = condition;
                fresh["lastTransitionTime"] = seconds(now).into();
                conditions.push(fresh);
            }
        }
        status.insert("conditions".to_owned(), conditions.into());
        let messages: Vec<Value> = wanted.findings.iter().take(FINDINGS).map(message).collect();
        status.insert("validationMessages".to_owned(), messages.into());
        if let Some(generation) = present["metadata"]["generation"].as_i64() {
            status.insert("observedGeneration".to_owned(), generation.into());
        }
    }
    let same = |(field, value): (&String, &Value)| {
        // An empty list and none are the same.
        old[field] == *value || old[field].is_null() && value.as_array().is_some_and(Vec::is_empty)
    };
    if status
        .iter()
        .filter(|(f, _)| *f != "observedGeneration")
        .all(same)
    {
        return None;
    }
    Some(json!({ "status": status }))
}

/// As `Time` is written (RFC 3339, whole seconds).
fn seconds(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

fn condition(findings: &[Finding]) -> Value {
    let Some(worst) = findings.iter().max_by_key(|f| f.level) else {
        return json!({ "type": ACCEPTED, "status": "True", "reason": "Accepted", "message": "" });
    };
    let mut said: Vec<String> = findings
        .iter()
        .take(FINDINGS)
        .map(|f| {
            let text = match f.remedy.as_str() {
                "" => f.message.clone(),
                remedy => format!("{}; {remedy}", f.message),
            };
            format!(
                "[{}] {}",
                f.code.id,
                text.chars().take(MESSAGE).collect::<String>()
            )
        })
        .collect();
    if findings.len() > FINDINGS {
        said.push(format!("and {} more", findings.len() - FINDINGS));
    }
    json!({
        "type": ACCEPTED,
        "status": if worst.level == Level::Error { "False" } else { "True" },
        "reason": worst.code.name,
        "message": said.join("\n"),
    })
}

/// As Istio's analyzers write it (`AnalysisMessageBase`).
fn message(finding: &Finding) -> Value {
    json!({
        "type": { "code": finding.code.id, "name": finding.code.name },
        "level": finding.level.as_str().to_uppercase(),
        "documentationUrl": finding.code.documentation_url(),
    })
}

#[cfg(test)]
mod tests {
    use isthmus_api::codes;

    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(seconds).unwrap()
    }

    #[test]
    fn a_status_is_written_once_and_taken_back_when_all_is_well() {
        let wrong = Status {
            addresses: vec![("db.example.com".parse().unwrap(), "240.240.0.7".parse().unwrap())],
            findings: vec![
                Finding::new(&codes::SCHEMA_WARNING, "odd", ""),
                Finding::new(&codes::SCHEMA, "spec.hosts: wrong", "write a host"),
            ],
        };
        let mut object = json!({"metadata": {"generation": 3}, "status": {"conditions": [{"type": "Theirs", "status": "True"}]}});
        let first = patch(&object, &wrong, at(0)).unwrap();
        let status = &first["status"];
        assert_eq!(
            status["addresses"],
            json!([{"value": "240.240.0.7", "host": "db.example.com"}])
        );
        assert_eq!(status["observedGeneration"], 3);
        assert_eq!(
            status["conditions"][0]["type"], "Theirs",
            "others' conditions stay"
        );
        let ours = &status["conditions"][1];
        assert_eq!(
            (ours["type"].as_str(), ours["status"].as_str()),
            (Some(ACCEPTED), Some("False"))
        );
        assert_eq!(ours["reason"], "SchemaValidationError");
        assert_eq!(
            ours["message"],
            "[IST0133] odd\n[IST0106] spec.hosts: wrong; write a host"
        );
        assert_eq!(status["validationMessages"][1]["type"]["code"], "IST0106");

        object["status"] = first["status"].clone();
        assert_eq!(patch(&object, &wrong, at(60)), None, "nothing new");
        let well = Status {
            findings: Vec::new(),
            ..wrong
        };
        let cleared = patch(&object, &well, at(60)).unwrap();
        assert_eq!(cleared["status"]["conditions"][1]["status"], "True");
        assert_eq!(
            cleared["status"]["conditions"][1]["lastTransitionTime"],
            "1970-01-01T00:01:00Z"
        );
        assert_eq!(cleared["status"]["validationMessages"], json!([]));
        assert_eq!(
            patch(&json!({}), &Status::default(), at(0)),
            None,
            "left in peace"
        );
    }
}
