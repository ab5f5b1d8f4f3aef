//! What is broken on purpose, and mended.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::{MutexGuard, PoisonError};

use super::handler::Sandbox;
use crate::network::Target;
use crate::plan::PodKey;
use crate::socket::{Fault, Part};

impl Sandbox {
    /// Breaks or mends something.
    pub(super) async fn fault(&self, fault: Fault) -> Result<(), String> {
        let network = &self.machine.network;
        match fault {
            Fault::Kill {
                workload,
                container,
                signal,
            } => {
                let key = self.find(&workload)?;
                self.machine
                    .pods
                    .kill_container(&key, &container, signal)
                    .map_err(|e| e.to_string())
            }
            Fault::Remove { workload, replace } => {
                let key = self.find(&workload)?;
                self.controller(&workload.cluster)?.remove(key, replace).await
            }
            Fault::BlackHole(workload) => {
                let key = self.find(&workload)?;
                let statuses = self.machine.pods.statuses().borrow().clone();
                let address = statuses
                    .get(&key)
                    .map(|s| s.address)
                    .ok_or("the pod has no address")?;
                network
                    .drop_packets(Target::Pod(address))
                    .map_err(|e| e.to_string())
            }
            Fault::BlackHolePublic(IpAddr::V4(address)) => network
                .drop_packets(Target::LoadBalancer(address))
                .map_err(|e| e.to_string()),
            Fault::BlackHolePublic(address) => {
                Err(format!("{address} is not an address of the sandbox's internet"))
            }
            Fault::Cut(a, b) => network
                .drop_packets(Target::ClusterLink(a, b))
                .map_err(|e| e.to_string()),
            Fault::Stop(part) => {
                self.stop(&part).await?;
                self.stopped().insert(part);
                Ok(())
            }
            Fault::Start(part) => {
                self.start(&part).await?;
                self.stopped().remove(&part);
                Ok(())
            }
            Fault::Mend => {
                for target in network.dropped() {
                    network.restore(&target).map_err(|e| e.to_string())?;
                }
                // Before the pods, which ask for names at once.
                self.machine.names.start_all().await.map_err(|e| e.to_string())?;
                self.machine.pods.release_all();
                self.stopped().clear();
                Ok(())
            }
        }
    }

    /// What is broken now, in words.
    pub(super) fn faults(&self) -> Vec<String> {
        let dropped = self.machine.network.dropped();
        let dropped = dropped.iter().map(|target| target.to_string());
        let stopped: Vec<_> = self.stopped().iter().map(|p| format!("{p} is stopped")).collect();
        dropped.chain(stopped).collect()
    }

    async fn stop(&self, part: &Part) -> Result<(), String> {
        let names = &self.machine.names;
        match part {
            Part::InternetDns => names.stop(None).await,
            Part::ClusterDns(cluster) => {
                self.controller(cluster)?;
                names.stop(Some(cluster)).await;
            }
            Part::Cluster(cluster) => {
                self.hold(part)?;
                names.stop(Some(cluster)).await;
            }
            Part::Workload { .. } => self.hold(part)?,
        }
        Ok(())
    }

    fn hold(&self, part: &Part) -> Result<(), String> {
        let (keys, container) = self.pods_of(part)?;
        for key in keys {
            self.machine
                .pods
                .hold(&key, container.as_deref())
                .map_err(|e| e.to_string())?;
        }
        Ok(())
    }

    async fn start(&self, part: &Part) -> Result<(), String> {
        let names = &self.machine.names;
        match part {
            Part::InternetDns => names.start(None).await.map_err(|e| e.to_string())?,
            Part::ClusterDns(cluster) | Part::Cluster(cluster) => {
                self.controller(cluster)?;
                names.start(Some(cluster)).await.map_err(|e| e.to_string())?;
            }
            Part::Workload { .. } => {}
        }
        let (keys, container) = self.pods_of(part)?;
        for key in keys {
            self.machine
                .pods
                .release(&key, container.as_deref())
                .map_err(|e| e.to_string())?;
        }
        Ok(())
    }

    /// The pods of a part, and which of their containers.
    fn pods_of(&self, part: &Part) -> Result<(Vec<PodKey>, Option<String>), String> {
        Ok(match part {
            Part::InternetDns | Part::ClusterDns(_) => (Vec::new(), None),
            Part::Workload { workload, container } => (self.find_all(workload)?, container.clone()),
            Part::Cluster(cluster) => {
                let pods = self.controller(cluster)?.pods();
                let running = pods.into_iter().filter(|(_, status)| status.is_some());
                (running.map(|(record, _)| record.key).collect(), None)
            }
        })
    }

    fn stopped(&self) -> MutexGuard<'_, BTreeSet<Part>> {
        self.stopped.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
