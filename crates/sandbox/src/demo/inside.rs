//! The supervisor's life: build everything, say when it is up, serve the control socket, end it all.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use isthmus_model::{ClusterId, NetworkId};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Notify;

use super::handler::Sandbox;
use super::machine::Machine;
use super::member::Member;
use super::names::Names;
use super::{Options, Step, certificates, members};
use crate::apps::fetch;
use crate::cluster::{ClusterSettings, Controller, issuer, write_jwks};
use crate::kubernetes::{Cluster, Host, Programs, publish_kubeconfig};
use crate::network::{Network, publish};
use crate::plan::PodStatus;
use crate::pod::Pods;
use crate::socket::{self, Published};
use crate::supervisor::{Entered, Progress, enter};
use crate::{Error, Result};

/// How long pods have to end when the sandbox does.
const GRACE: Duration = Duration::from_secs(3);
/// How long the links between control planes are waited for.
const PEERS: Duration = Duration::from_secs(5);
/// From the readiness of the last pod to the moment its cluster's control plane has told it to others.
const SETTLE: Duration = Duration::from_millis(400);
/// Port on which gateways take mesh traffic from other networks.
const EAST_WEST: u16 = 15443;

/// Runs the sandbox in this process, which [`crate::supervisor::Launch`] started; returns when it has ended.
pub fn run(dir: &Path, options: Options) -> Result<()> {
    let entered = enter(dir)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(Error::io("start the supervisor's runtime"))?;
    let Entered {
        dir,
        listeners,
        progress,
        reaper,
        program,
        ..
    } = entered;
    let result = runtime.block_on(async {
        let network = Network::new()?;
        let pods = Pods::new(dir.path().to_owned(), program, network.clone(), reaper);
        live(dir.path(), options, network, pods, listeners, &progress).await
    });
    if let Err(error) = &result {
        say(&progress, &Step::Failed(error.to_string()));
    }
    result
}

fn say(progress: &Progress, step: &Step) {
    if let Ok(line) = serde_json::to_string(step) {
        progress.say(&line);
    }
}

async fn live(
    dir: &Path,
    options: Options,
    network: Network,
    pods: Pods,
    listeners: Vec<TcpListener>,
    progress: &Progress,
) -> Result<()> {
    let mut terminate = signal(SignalKind::terminate()).map_err(Error::io("watch for SIGTERM"))?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(Error::io("watch for SIGINT"))?;

    say(progress, &Step::Doing("networks".to_owned()));
    let settings = settings(dir, &options, &network)?;
    // Clusters with an API server have CoreDNS.
    let served: Vec<_> = settings
        .iter()
        .filter(|_| options.kubernetes.is_none())
        .map(|s| (s.id.clone(), s.dns_address()))
        .collect();
    let machine = Arc::new(Machine {
        pods,
        network: network.clone(),
        names: Arc::new(Names::serve(&network, &served)?),
    });
    let down = Arc::new(Notify::new());
    let mut sandbox = Sandbox {
        dir: dir.to_owned(),
        machine: machine.clone(),
        controllers: Vec::new(),
        published: Vec::new(),
        kubeconfig: None,
        stopped: Mutex::default(),
        down: down.clone(),
    };

    let build = async {
        match options.kubernetes.clone() {
            Some(programs) => {
                kubernetes(&mut sandbox, &options, settings, programs, listeners, progress).await
            }
            None => mesh(&mut sandbox, &options, settings, listeners, progress).await,
        }
    };
    tokio::select! {
        built = build => built?,
        _ = terminate.recv() => return Ok(()),
        _ = interrupt.recv() => return Ok(()),
    }

    let path = dir.join(socket::FILE);
    let _ = std::fs::remove_file(&path);
    let listener =
        tokio::net::UnixListener::bind(&path).map_err(Error::io(format!("listen at {}", path.display())))?;
    let sandbox = Arc::new(sandbox);
    let server = tokio::spawn(socket::serve(listener, sandbox.clone()));
    say(progress, &Step::Ready(Box::new(sandbox.report())));

    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
        () = down.notified() => {}
        ended = server => {
            tracing::error!(?ended, "the control socket ended");
        }
    }
    sandbox.end(GRACE).await;
    Ok(())
}

/// Clusters that are directories of YAML, with the mesh in them.
async fn mesh(
    sandbox: &mut Sandbox,
    options: &Options,
    settings: Vec<ClusterSettings>,
    listeners: Vec<TcpListener>,
    progress: &Progress,
) -> Result<()> {
    let doing = |what: &str| say(progress, &Step::Doing(what.to_owned()));
    doing("certificates: one root, an intermediate for each cluster");
    let root = certificates::root()?;
    for settings in settings {
        match options.cacerts.as_ref().map(|all| all.join(settings.id.as_str())) {
            Some(given) if given.is_dir() => certificates::given(&given, &settings)?,
            _ => certificates::intermediate(&root, &settings)?,
        }
        copy_samples(
            &options.samples.join(settings.id.as_str()),
            &settings.config_dir(),
        )?;
        let started = || -> std::result::Result<Controller, String> {
            let issuer = issuer().map_err(|e| e.to_string())?;
            write_jwks(&settings, &issuer).map_err(|e| e.to_string())?;
            let own = members::objects(&settings)?;
            Controller::start(Arc::new(settings.clone()), own, issuer, sandbox.machine.clone())
                .map_err(|e| e.to_string())
        };
        sandbox.controllers.push(
            started()
                .map(Member::Directory)
                .map_err(|reason| Error::Cluster {
                    cluster: settings.id.clone(),
                    reason,
                })?,
        );
    }

    doing("control planes, gateways and workloads");
    wait_until_ready(sandbox, Duration::from_secs(options.patience)).await?;
    doing("links between the control planes");
    // What the last pods changed has to reach the gateways before a user's first request does.
    tokio::time::sleep(SETTLE).await;
    wait_for_peers(sandbox).await;
    sandbox.published = publish_gateways(sandbox, listeners);
    Ok(())
}

/// Clusters with an API server, and nothing in them.
async fn kubernetes(
    sandbox: &mut Sandbox,
    options: &Options,
    settings: Vec<ClusterSettings>,
    programs: Programs,
    listeners: Vec<TcpListener>,
    progress: &Progress,
) -> Result<()> {
    let machine = &sandbox.machine;
    let host = Host {
        pods: machine.pods.clone(),
        network: machine.network.clone(),
        engine: machine.clone(),
    };
    let patience = Duration::from_secs(options.patience);
    say(
        progress,
        &Step::Doing("etcd, API server, controllers, scheduler and DNS of each cluster".to_owned()),
    );
    let starting = settings
        .into_iter()
        .map(|settings| Cluster::start(Arc::new(settings), programs.clone(), host.clone(), patience));
    let clusters = futures_util::future::try_join_all(starting).await?;
    let mut reached = Vec::new();
    for (cluster, listener) in clusters.iter().zip(listeners) {
        let at = listener
            .local_addr()
            .map_err(Error::io("find the address of a listener"))?;
        if let Some(server) = cluster.api_server() {
            tokio::spawn(publish(listener, server));
            reached.push((cluster, at));
        }
    }
    let file = publish_kubeconfig(&sandbox.dir, reached.into_iter())?;
    sandbox.kubeconfig = Some(file);
    sandbox.controllers = clusters
        .into_iter()
        .map(|c| Member::Kubernetes(Box::new(c)))
        .collect();
    Ok(())
}

fn settings(dir: &Path, options: &Options, network: &Network) -> Result<Vec<ClusterSettings>> {
    let mut all = Vec::new();
    for id in &options.clusters {
        let addresses = network.add_cluster(id)?;
        all.push(ClusterSettings {
            id: id.clone(),
            network: NetworkId(format!("{id}-net")),
            mesh_id: options.mesh_id.clone(),
            trust_domain: options.trust_domain.clone(),
            addresses,
            dir: dir.join(id.as_str()),
            peers: peers(id, &options.clusters),
            workload_cert_ttl: options.workload_cert_ttl.map(Duration::from_secs),
        });
    }
    Ok(all)
}

/// Each cluster is told of the others' east-west gateways by the names that the internet's DNS has.
fn peers(id: &ClusterId, clusters: &[ClusterId]) -> Vec<(ClusterId, String)> {
    clusters
        .iter()
        .filter(|other| *other != id)
        .map(|other| (other.clone(), format!("eastwest.{other}.example.net:{EAST_WEST}")))
        .collect()
}

fn copy_samples(from: &Path, to: &Path) -> Result<()> {
    let failed = |path: &Path| Error::io(format!("copy the samples of {}", path.display()));
    std::fs::create_dir_all(to).map_err(failed(to))?;
    for entry in std::fs::read_dir(from).map_err(failed(from))? {
        let entry = entry.map_err(failed(from))?;
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy_samples(&entry.path(), &target)?;
        } else {
            std::fs::copy(entry.path(), &target).map_err(failed(&entry.path()))?;
        }
    }
    Ok(())
}

/// Waits until every pod is ready, and says which are not when patience ends.
async fn wait_until_ready(sandbox: &Sandbox, patience: Duration) -> Result<()> {
    let until = Instant::now() + patience;
    loop {
        let mut missing = Vec::new();
        let mut pods = 0;
        for controller in &sandbox.controllers {
            for (record, status) in controller.pods() {
                pods += 1;
                if status.as_ref().is_some_and(PodStatus::ready) {
                    continue;
                }
                let reasons: Vec<_> = status
                    .iter()
                    .flat_map(|s| &s.containers)
                    .filter(|(_, c)| !c.ready)
                    .map(|(name, c)| format!("{name}: {}", c.reason))
                    .collect();
                missing.push(format!("{} ({})", record.key, reasons.join(", ")));
            }
        }
        if pods > 0 && missing.is_empty() {
            return Ok(());
        }
        if Instant::now() > until {
            return Err(Error::NotReady {
                seconds: patience.as_secs(),
                pods: missing,
                dir: sandbox.dir.clone(),
            });
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Waits a little until every control plane hears its peers, so that the first request of a user finds
/// what is in the other clusters. Peers that do not answer are not waited for.
async fn wait_for_peers(sandbox: &Sandbox) {
    let until = Instant::now() + PEERS;
    for controller in &sandbox.controllers {
        let id = controller.settings().id.clone();
        let control_plane = controller.pods().into_iter().find_map(|(record, status)| {
            (record.owner == "istiod")
                .then(|| status.map(|s| s.address))
                .flatten()
        });
        let Some(address) = control_plane else { continue };
        while Instant::now() < until {
            let (network, id) = (sandbox.machine.network.clone(), id.clone());
            let asked =
                tokio::task::spawn_blocking(move || network.run_in(&id, || hears_peers(address))).await;
            if matches!(asked, Ok(Ok(true))) {
                break;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

/// Whether a control plane says that all its peers are connected, and that its proxies have what it sent.
fn hears_peers(address: Ipv4Addr) -> bool {
    let page = |path: &str| -> serde_json::Value {
        let plan = fetch::Plan {
            url: format!("http://{address}:8080{path}"),
            timeout: Duration::from_secs(1),
            ..fetch::Plan::default()
        };
        let answer = fetch::once(&plan).map(|answer| answer.body).unwrap_or_default();
        serde_json::from_slice(&answer).unwrap_or_default()
    };
    let every = |list: &serde_json::Value, holds: &dyn Fn(&serde_json::Value) -> bool| {
        list.as_array().is_some_and(|items| items.iter().all(holds))
    };
    every(&page("/debug/peersz")["peers"], &|peer| {
        peer["status"] == "connected"
    }) && every(&page("/debug/syncz"), &|proxy| proxy["synced"] == true)
}

/// Joins the host's listeners to port 80 of the clusters' ingress gateways, in order of their names.
fn publish_gateways(sandbox: &Sandbox, listeners: Vec<TcpListener>) -> Vec<Published> {
    let mut listeners = listeners.into_iter();
    let mut published = Vec::new();
    for controller in &sandbox.controllers {
        let gateways = controller.published();
        let ingress: Vec<(&String, Ipv4Addr)> = gateways
            .iter()
            .filter(|(_, (_, ports))| ports.contains(&80))
            .map(|(s, (a, _))| (s, *a))
            .collect();
        for (service, address) in ingress {
            let Some(listener) = listeners.next() else {
                return published;
            };
            let Ok(host) = listener.local_addr() else { continue };
            tokio::spawn(publish(listener, SocketAddr::from((address, 80))));
            published.push(Published {
                cluster: controller.settings().id.clone(),
                service: service.clone(),
                port: 80,
                address: host,
            });
        }
    }
    published
}
