//! Answers of the control socket.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use isthmus_api::{Kind, Object, ObjectKey, parse};
use isthmus_model::ClusterId;
use tokio::sync::Notify;

use super::machine::Machine;
use super::member::Member;
use crate::cluster::{PodRecord, write_whole};
use crate::plan::{PodKey, PodStatus};
use crate::socket::{
    Answer, Applied, ClusterReport, Exec, Handler, HandlerFuture, Part, PodReport, Process, Published,
    Report, Request, Resources, Workload,
};

/// The running sandbox.
pub struct Sandbox {
    /// Its directory.
    pub dir: PathBuf,
    /// The engine.
    pub machine: Arc<Machine>,
    /// Member clusters in order.
    pub controllers: Vec<Member>,
    /// Gateways on the host.
    pub published: Vec<Published>,
    /// Where API servers are found from the host.
    pub kubeconfig: Option<PathBuf>,
    /// What was stopped on purpose.
    pub stopped: Mutex<BTreeSet<Part>>,
    /// Told when the sandbox is to end.
    pub down: Arc<Notify>,
}

impl Handler for Sandbox {
    fn answer(&self, request: Request) -> HandlerFuture<'_, Answer> {
        Box::pin(async move {
            let result = match request {
                Request::Status => Ok(Answer::Report(Box::new(self.report()))),
                Request::Apply(resources) => self.apply(&resources).await,
                Request::Delete(resources) => self.delete(&resources).await,
                Request::Get {
                    cluster,
                    kind,
                    namespace,
                    name,
                } => self.objects(&cluster, &kind, namespace.as_deref(), name.as_deref()),
                Request::Fault(fault) => self.fault(fault).await.map(|()| Answer::Done),
                Request::Down => {
                    self.down.notify_one();
                    Ok(Answer::Done)
                }
                Request::Exec(_) | Request::Signal(_) => Err("not a question".to_owned()),
            };
            result.unwrap_or_else(Answer::Refused)
        })
    }

    fn exec(
        &self,
        exec: Exec,
        descriptors: [OwnedFd; 3],
    ) -> HandlerFuture<'_, Result<Box<dyn Process>, String>> {
        Box::pin(async move {
            let key = self.find(&exec.workload)?;
            let env: Vec<_> = exec.env.into_iter().collect();
            let running = self
                .machine
                .pods
                .exec(&key, &exec.argv, &env, None, descriptors)
                .map_err(|e| e.to_string())?;
            Ok(Box::new(Running(running)) as Box<dyn Process>)
        })
    }
}

struct Running(crate::pod::Exec);

impl Process for Running {
    fn signal(&self, signal: i32) {
        self.0.signal(signal);
    }

    fn wait(&mut self) -> HandlerFuture<'_, i32> {
        Box::pin(self.0.wait())
    }
}

impl Sandbox {
    /// What runs where.
    pub fn report(&self) -> Report {
        Report {
            pid: None,
            dir: self.dir.display().to_string(),
            clusters: self.controllers.iter().map(|c| self.cluster_report(c)).collect(),
            published: self.published.clone(),
            faults: self.faults(),
            kubeconfig: self.kubeconfig.as_ref().map(|path| path.display().to_string()),
        }
    }

    fn cluster_report(&self, controller: &Member) -> ClusterReport {
        let settings = controller.settings();
        let pods = controller
            .pods()
            .into_iter()
            .map(|(record, status)| self.pod_report(&record, status.as_ref()));
        ClusterReport {
            id: settings.id.clone(),
            network: settings.network.to_string(),
            config: settings.config_dir().display().to_string(),
            pods: pods.collect(),
            load_balancers: controller
                .published()
                .into_iter()
                .map(|(service, (address, _))| (service, address.into()))
                .collect(),
            findings: controller.findings(),
        }
    }

    fn pod_report(&self, record: &PodRecord, status: Option<&PodStatus>) -> PodReport {
        let log = self.machine.pods.log(&record.key, "container");
        PodReport {
            namespace: record.key.namespace.clone(),
            name: record.key.name.clone(),
            owner: record.owner.clone(),
            address: status.map(|s| s.address.into()),
            ready: status.is_some_and(PodStatus::ready),
            containers: status.map(|s| s.containers.clone()).unwrap_or_default(),
            logs: log.parent().unwrap_or(Path::new("")).display().to_string(),
        }
    }

    pub(super) fn controller(&self, cluster: &ClusterId) -> Result<&Member, String> {
        self.controllers
            .iter()
            .find(|c| c.settings().id == *cluster)
            .ok_or_else(|| {
                let known: Vec<_> = self
                    .controllers
                    .iter()
                    .map(|c| c.settings().id.as_str())
                    .collect();
                format!(
                    "there is no cluster {cluster}; the clusters are: {}",
                    known.join(", ")
                )
            })
    }

    /// The pod behind a name: a pod of that name, or a Deployment's pod, a ready one if there is one.
    pub(super) fn find(&self, workload: &Workload) -> Result<PodKey, String> {
        self.find_all(workload).map(|mut found| found.swap_remove(0))
    }

    /// All pods behind a name, never none: the pod of that name, or those of a Deployment, ready ones first.
    pub(super) fn find_all(&self, workload: &Workload) -> Result<Vec<PodKey>, String> {
        let pods = self.controller(&workload.cluster)?.pods();
        let mut found: Vec<_> = pods
            .iter()
            .filter(|(record, _)| record.key.name == workload.name || record.owner == workload.name)
            .filter(|(record, _)| {
                workload
                    .namespace
                    .as_ref()
                    .is_none_or(|n| record.key.namespace == *n)
            })
            .filter(|(_, status)| status.is_some())
            .collect();
        let namespaces: std::collections::BTreeSet<_> = found
            .iter()
            .map(|(record, _)| record.key.namespace.as_str())
            .collect();
        // As with kubectl, a name without namespace means the one in `default`, if there is one.
        if namespaces.len() > 1 && namespaces.contains("default") {
            found.retain(|(record, _)| record.key.namespace == "default");
        } else if namespaces.len() > 1 {
            let written: Vec<_> = namespaces.iter().map(|n| format!("{workload}.{n}")).collect();
            return Err(format!(
                "{workload} is in several namespaces; write one of: {}",
                written.join(", ")
            ));
        }
        found.sort_by_key(|(_, status)| !status.as_ref().is_some_and(PodStatus::ready));
        if found.is_empty() {
            let mut known: Vec<_> = pods
                .iter()
                .map(|(r, _)| {
                    format!(
                        "{}.{}",
                        if r.owner.is_empty() { &r.key.name } else { &r.owner },
                        r.key.namespace
                    )
                })
                .collect();
            known.dedup();
            return Err(format!(
                "no pod {workload} runs; workloads of {} are: {}",
                workload.cluster,
                known.join(", ")
            ));
        }
        Ok(found.iter().map(|(record, _)| record.key.clone()).collect())
    }

    async fn apply(&self, resources: &Resources) -> Result<Answer, String> {
        let controller = self.controller(&resources.cluster)?.directory()?;
        let parsed = parse(&resources.yaml, &resources.file);
        let mut applied = Applied {
            findings: parsed.findings.iter().map(ToString::to_string).collect(),
            refused: parsed.has_errors(),
            ..Applied::default()
        };
        if applied.refused {
            return Ok(Answer::Applied(applied));
        }
        if parsed.objects.is_empty() {
            return Err(format!("{} holds no objects", resources.file));
        }
        let dir = controller.settings().config_dir();
        let existing = written(&dir);
        for object in &parsed.objects {
            let key = object.key();
            let json = object.to_json().map_err(|e| e.to_string())?;
            let verb = match existing.get(&key) {
                Some(old) if old.1.to_json().ok().as_ref() == Some(&json) => "unchanged",
                Some((file, _)) => {
                    replace(file, &key, Some(object))?;
                    "configured"
                }
                None => {
                    write_object(&dir.join(file_name(&key)), &json)?;
                    "created"
                }
            };
            applied.objects.push((key.to_string(), verb.to_owned()));
        }
        controller.refresh().await;
        Ok(Answer::Applied(applied))
    }

    async fn delete(&self, resources: &Resources) -> Result<Answer, String> {
        let controller = self.controller(&resources.cluster)?.directory()?;
        let parsed = parse(&resources.yaml, &resources.file);
        let existing = written(&controller.settings().config_dir());
        let mut applied = Applied::default();
        let mut keys: Vec<_> = parsed.objects.iter().map(|o| o.key()).collect();
        keys.extend(parsed.refused);
        for key in keys {
            match existing.get(&key) {
                Some((file, _)) => {
                    replace(file, &key, None)?;
                    applied.objects.push((key.to_string(), "deleted".to_owned()));
                }
                None => {
                    applied.findings.push(format!("{key} is not there"));
                    applied.refused = true;
                }
            }
        }
        controller.refresh().await;
        Ok(Answer::Applied(applied))
    }

    fn objects(
        &self,
        cluster: &ClusterId,
        kind: &str,
        namespace: Option<&str>,
        name: Option<&str>,
    ) -> Result<Answer, String> {
        let controller = self.controller(cluster)?.directory()?;
        let kind = Kind::named(kind).ok_or_else(|| {
            let known: Vec<_> = Kind::ALL.iter().map(|k| k.info().plural).collect();
            format!("there is no kind {kind:?}; kinds are: {}", known.join(", "))
        })?;
        let settings = controller.settings();
        let mut found: BTreeMap<ObjectKey, Arc<Object>> = BTreeMap::new();
        // What Kubernetes would have added counts over what the user wrote.
        for dir in [settings.config_dir(), settings.state_dir()] {
            found.extend(written(&dir).into_iter().map(|(key, (_, object))| (key, object)));
        }
        let objects = found
            .values()
            .filter(|o| o.kind == kind)
            .filter(|o| namespace.is_none_or(|n| o.meta.namespace == n))
            .filter(|o| name.is_none_or(|n| o.meta.name == n))
            .filter_map(|o| o.to_json().ok())
            .collect();
        Ok(Answer::Objects(objects))
    }

    /// Ends every pod.
    pub async fn end(&self, grace: Duration) {
        self.machine.pods.stop_all(grace).await;
    }
}

fn file_name(key: &ObjectKey) -> String {
    let namespace = if key.namespace.is_empty() {
        String::new()
    } else {
        format!("-{}", key.namespace)
    };
    format!(
        "applied-{}{namespace}-{}.json",
        key.kind.to_string().to_lowercase(),
        key.name
    )
}

/// The objects in a directory's files, and in which file each stands.
fn written(dir: &Path) -> BTreeMap<ObjectKey, (PathBuf, Arc<Object>)> {
    let mut found = BTreeMap::new();
    let mut dirs = vec![dir.to_owned()];
    while let Some(dir) = dirs.pop() {
        for entry in std::fs::read_dir(&dir).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() {
                dirs.push(path);
            } else if path
                .extension()
                .is_some_and(|e| e == "yaml" || e == "yml" || e == "json")
                && let Ok(text) = std::fs::read_to_string(&path)
            {
                for object in parse(&text, &path.display().to_string()).objects {
                    found.insert(object.key(), (path.clone(), object));
                }
            }
        }
    }
    found
}

/// Puts another object in the place of the one with this key in a file, or takes it out.
///
/// The file's other documents are kept as objects; its comments are not, as with `kubectl apply`.
fn replace(file: &Path, key: &ObjectKey, by: Option<&Arc<Object>>) -> Result<(), String> {
    let text = std::fs::read_to_string(file).map_err(|e| format!("{}: {e}", file.display()))?;
    let parsed = parse(&text, &file.display().to_string());
    if parsed.has_errors() {
        return Err(format!(
            "{} has errors, so {key} cannot be changed in it; correct the file first: {}",
            file.display(),
            parsed
                .findings
                .first()
                .map(ToString::to_string)
                .unwrap_or_default()
        ));
    }
    let mut items = Vec::new();
    for object in &parsed.objects {
        match (object.key() == *key, by) {
            (true, Some(new)) => items.push(new.to_json().map_err(|e| e.to_string())?),
            (true, None) => {}
            (false, _) => items.push(object.to_json().map_err(|e| e.to_string())?),
        }
    }
    match items.as_slice() {
        [] => std::fs::remove_file(file).map_err(|e| format!("{}: {e}", file.display())),
        [one] => write_object(file, one),
        many => write_object(
            file,
            &serde_json::json!({"apiVersion": "v1", "kind": "List", "items": many}),
        ),
    }
}

/// JSON is YAML, so any file may hold it.
fn write_object(file: &Path, json: &serde_json::Value) -> Result<(), String> {
    let text = serde_json::to_vec_pretty(json).map_err(|e| e.to_string())?;
    write_whole(file, &text).map_err(|e| format!("{}: {e}", file.display()))
}
