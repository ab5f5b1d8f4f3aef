//! The loop that keeps a cluster as its files say: pods started and ended, state written, addresses and
//! names programmed.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use isthmus_api::Object;
use isthmus_pki::TokenIssuer;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use super::addresses::Addresses;
use super::desired::{self, Desired, PodRecord, Replacements, Unrunnable, desired};
use super::engine::{Engine, Statuses};
use super::files::{UserFiles, write_list, write_whole};
use super::settings::ClusterSettings;
use super::view::{self, View};
use crate::plan::{PodKey, PodStatus};

/// How often the user's directory is looked at.
const POLL: Duration = Duration::from_millis(250);

/// What a controller can be told to do.
#[derive(Debug)]
enum Command {
    /// End a pod; with `replace` its Deployment makes another.
    Remove {
        key: PodKey,
        replace: bool,
        done: oneshot::Sender<()>,
    },
    /// Look at the user's directory now.
    Refresh { done: oneshot::Sender<()> },
}

/// A handle to a running controller.
#[derive(Debug, Clone)]
pub struct Controller {
    commands: mpsc::Sender<Command>,
    shared: Arc<Mutex<Shared>>,
    settings: Arc<ClusterSettings>,
}

/// What others may look at.
#[derive(Debug, Default)]
struct Shared {
    pods: Vec<(PodRecord, Option<PodStatus>)>,
    published: BTreeMap<String, (Ipv4Addr, Vec<u16>)>,
    findings: Vec<String>,
}

impl Controller {
    /// Starts the loop. `own` are objects that the sandbox itself adds, the control plane's Service and
    /// Deployment among them.
    ///
    /// # Errors
    /// The cluster's directory cannot be used.
    pub fn start(
        settings: Arc<ClusterSettings>,
        own: Vec<Arc<Object>>,
        issuer: TokenIssuer,
        engine: Arc<impl Engine>,
    ) -> io::Result<Self> {
        std::fs::create_dir_all(settings.config_dir())?;
        std::fs::create_dir_all(settings.state_dir())?;
        let root_cert = std::fs::read_to_string(settings.root_cert())?;
        let (commands, inbox) = mpsc::channel(16);
        let shared = Arc::new(Mutex::new(Shared::default()));
        let state = State {
            files: UserFiles::new(settings.config_dir()),
            settings: settings.clone(),
            own,
            issuer,
            root_cert,
            engine,
            shared: shared.clone(),
            addresses: Addresses::default(),
            replacements: Replacements::new(),
            suppressed: BTreeSet::new(),
            running: BTreeMap::new(),
            tasks: BTreeMap::new(),
            unrunnable: Vec::new(),
            view: View::default(),
        };
        tokio::spawn(state.run(inbox));
        Ok(Self {
            commands,
            shared,
            settings,
        })
    }

    /// The cluster.
    pub fn settings(&self) -> &ClusterSettings {
        &self.settings
    }

    /// Pods that exist, with their status once they have one.
    pub fn pods(&self) -> Vec<(PodRecord, Option<PodStatus>)> {
        self.look(|shared| shared.pods.clone())
    }

    /// Public address and ports of each Service of type LoadBalancer (`NAMESPACE/NAME`).
    pub fn published(&self) -> BTreeMap<String, (Ipv4Addr, Vec<u16>)> {
        self.look(|shared| shared.published.clone())
    }

    /// What of the user's files cannot be used or run, a line each.
    pub fn findings(&self) -> Vec<String> {
        self.look(|shared| shared.findings.clone())
    }

    /// Ends a pod; with `replace` its Deployment makes another.
    pub async fn remove(&self, key: PodKey, replace: bool) {
        let (done, ended) = oneshot::channel();
        if self
            .commands
            .send(Command::Remove { key, replace, done })
            .await
            .is_ok()
        {
            let _ = ended.await;
        }
    }

    /// Looks at the user's directory now, and returns when what it says is under way.
    pub async fn refresh(&self) {
        let (done, ended) = oneshot::channel();
        if self.commands.send(Command::Refresh { done }).await.is_ok() {
            let _ = ended.await;
        }
    }

    fn look<T>(&self, f: impl FnOnce(&Shared) -> T) -> T {
        f(&self.shared.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

struct State<E> {
    settings: Arc<ClusterSettings>,
    files: UserFiles,
    own: Vec<Arc<Object>>,
    issuer: TokenIssuer,
    root_cert: String,
    engine: Arc<E>,
    shared: Arc<Mutex<Shared>>,
    addresses: Addresses,
    replacements: Replacements,
    /// Pods that were removed for good although their Deployment wants them.
    suppressed: BTreeSet<PodKey>,
    running: BTreeMap<PodKey, Desired>,
    /// What was last begun with a pod of that name.
    tasks: BTreeMap<PodKey, JoinHandle<()>>,
    unrunnable: Vec<Unrunnable>,
    view: View,
}

impl<E: Engine> State<E> {
    async fn run(mut self, mut inbox: mpsc::Receiver<Command>) {
        let mut statuses = self.engine.statuses();
        let mut tick = tokio::time::interval(POLL);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = tick.tick() => {
                    if self.refresh(false) {
                        self.reconcile();
                    }
                }
                changed = statuses.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    let now = statuses.borrow_and_update().clone();
                    self.retire(&now);
                }
                command = inbox.recv() => match command {
                    None => return,
                    Some(Command::Refresh { done }) => {
                        self.refresh(true);
                        self.reconcile();
                        let _ = done.send(());
                    }
                    Some(Command::Remove { key, replace, done }) => {
                        self.remove(&key, replace);
                        self.reconcile();
                        let _ = done.send(());
                    }
                },
            }
            let now = statuses.borrow().clone();
            self.publish(&now);
        }
    }

    fn refresh(&mut self, at_once: bool) -> bool {
        match self.files.refresh(at_once) {
            Ok(changed) => changed,
            Err(error) => {
                let dir = self.settings.config_dir();
                tracing::warn!(dir = %dir.display(), %error, "the cluster's directory cannot be read; it stays as it was");
                false
            }
        }
    }

    fn objects(&self) -> Vec<Arc<Object>> {
        self.own.iter().chain(self.files.objects()).cloned().collect()
    }

    /// Starts what is missing and ends what nobody wants any more.
    fn reconcile(&mut self) {
        let objects = self.objects();
        let (wanted, unrunnable) = desired(&desired::Inputs {
            settings: &self.settings,
            objects: &objects,
            issuer: &self.issuer,
            root_cert: self.root_cert.as_bytes(),
            replacements: &self.replacements,
        });
        self.unrunnable = unrunnable;
        let keys: BTreeSet<_> = wanted.iter().map(|d| d.record.key.clone()).collect();
        for pod in wanted {
            let key = &pod.record.key;
            if self.suppressed.contains(key) {
                continue;
            }
            match self.running.get(key) {
                Some(old) if old.record == pod.record && old.plan.containers == pod.plan.containers => {}
                Some(_) => {
                    // A bare pod of the same name with other content: Kubernetes would refuse most of it,
                    // so the old one is ended and the next pass starts the new one.
                    self.end(&key.clone());
                }
                None => self.begin(pod),
            }
        }
        let superfluous: Vec<_> = self
            .running
            .values()
            .filter(|pod| !keys.contains(&pod.record.key) && !self.awaits_successor(pod, &keys))
            .map(|pod| pod.record.key.clone())
            .collect();
        for key in superfluous {
            self.end(&key);
        }
    }

    /// Whether the Deployment of a pod that is not wanted has pods that are, none of which is ready yet.
    fn awaits_successor(&self, old: &Desired, wanted: &BTreeSet<PodKey>) -> bool {
        let statuses = self.engine.statuses().borrow().clone();
        let mut successors = self
            .running
            .values()
            .filter(|p| {
                !p.record.owner.is_empty()
                    && p.record.owner == old.record.owner
                    && p.record.key.namespace == old.record.key.namespace
                    && wanted.contains(&p.record.key)
            })
            .peekable();
        let old_ready = statuses.get(&old.record.key).is_some_and(PodStatus::ready);
        old_ready
            && successors.peek().is_some()
            && !successors.any(|p| statuses.get(&p.record.key).is_some_and(PodStatus::ready))
    }

    /// After a change of status: ends old pods whose successors are ready.
    fn retire(&mut self, statuses: &Statuses) {
        let pending = self
            .running
            .keys()
            .any(|key| statuses.get(key).is_none_or(|s| !s.terminating));
        if pending {
            self.reconcile();
        }
    }

    fn begin(&mut self, pod: Desired) {
        let (engine, plan) = (self.engine.clone(), pod.plan.clone());
        let key = pod.record.key.clone();
        self.running.insert(key.clone(), pod);
        self.next(key.clone(), async move {
            if let Err(why) = engine.start(plan).await {
                tracing::error!(pod = %key, %why, "a pod does not start");
            }
        });
    }

    fn end(&mut self, key: &PodKey) {
        let Some(pod) = self.running.remove(key) else {
            return;
        };
        let (engine, stopped) = (self.engine.clone(), key.clone());
        self.next(key.clone(), async move {
            engine.stop(stopped, pod.plan.grace).await;
        });
    }

    /// Does something to a pod once what was begun before with one of its name is done: two pods never have
    /// one name, not even while the first of them ends.
    fn next(&mut self, key: PodKey, work: impl Future<Output = ()> + Send + 'static) {
        self.tasks.retain(|_, task| !task.is_finished());
        let before = self.tasks.remove(&key);
        let task = tokio::spawn(async move {
            if let Some(before) = before {
                let _ = before.await;
            }
            work.await;
        });
        self.tasks.insert(key, task);
    }

    fn remove(&mut self, key: &PodKey, replace: bool) {
        let Some(pod) = self.running.get(key) else { return };
        if replace && !pod.record.owner.is_empty() {
            // The ordinal is not in the name; bumping every replica whose name this is finds it.
            let (namespace, owner) = (pod.record.key.namespace.clone(), pod.record.owner.clone());
            if let Some(ordinal) = self.ordinal(key, &namespace, &owner) {
                *self.replacements.entry((namespace, owner, ordinal)).or_default() += 1;
            }
        } else {
            self.suppressed.insert(key.clone());
        }
        self.end(key);
    }

    fn ordinal(&self, key: &PodKey, namespace: &str, owner: &str) -> Option<u32> {
        let (wanted, _) = desired(&desired::Inputs {
            settings: &self.settings,
            objects: &self.objects(),
            issuer: &self.issuer,
            root_cert: self.root_cert.as_bytes(),
            replacements: &self.replacements,
        });
        let position = wanted
            .iter()
            .filter(|d| d.record.owner == owner && d.record.key.namespace == namespace)
            .position(|d| d.record.key == *key)?;
        u32::try_from(position).ok()
    }

    /// Writes and programmes what follows from the pods' statuses, where it changed.
    fn publish(&mut self, statuses: &Statuses) {
        let mut pods: Vec<_> = self
            .running
            .values()
            .map(|pod| (pod.record.clone(), statuses.get(&pod.record.key).cloned()))
            .collect();
        pods.sort_by(|(a, _), (b, _)| a.key.cmp(&b.key));
        let objects = self.objects();
        let view = View::build(
            &view::Inputs {
                settings: &self.settings,
                objects: &objects,
                pods: &pods,
                root_cert: &self.root_cert,
            },
            &mut self.addresses,
        );
        let findings = self.findings();
        {
            let mut shared = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
            shared.pods = pods;
            shared.published.clone_from(&view.published);
            shared.findings = findings;
        }
        if view == self.view {
            return;
        }
        if let Err(error) = self.write(&view) {
            let dir = self.settings.state_dir();
            tracing::error!(dir = %dir.display(), %error, "the cluster's state cannot be written; the control plane sees an older one");
            return;
        }
        let id = &self.settings.id;
        if (&view.cluster_ips, &view.load_balancers) != (&self.view.cluster_ips, &self.view.load_balancers)
            && let Err(why) = self
                .engine
                .virtual_addresses(id, &view.cluster_ips, &view.load_balancers)
        {
            tracing::error!(cluster = %id, %why, "virtual addresses cannot be programmed");
        }
        self.engine.names(id, &view.names, &view.public_names);
        self.view = view;
    }

    fn write(&self, view: &View) -> io::Result<()> {
        let dir = self.settings.state_dir();
        for (name, objects) in &view.files {
            if self.view.files.get(name) != Some(objects) {
                write_list(&dir, name, objects)?;
            }
        }
        for name in self.view.files.keys().filter(|n| !view.files.contains_key(*n)) {
            std::fs::remove_file(dir.join(format!("{name}.json")))?;
        }
        Ok(())
    }

    fn findings(&self) -> Vec<String> {
        let files = self.files.findings().iter().map(ToString::to_string);
        let pods = self
            .unrunnable
            .iter()
            .map(|u| format!("{}: {}", u.reference, u.message));
        files.chain(pods).collect()
    }
}

/// Writes the keys that verify the cluster's tokens to where its control plane reads them.
///
/// # Errors
/// The file system refuses.
pub fn write_jwks(settings: &ClusterSettings, issuer: &TokenIssuer) -> io::Result<()> {
    let file = settings.jwks_file();
    if let Some(dir) = file.parent() {
        std::fs::create_dir_all(dir)?;
    }
    write_whole(&file, issuer.key_set().as_bytes())
}
