//! What a pod's status says in the API, from how its containers are doing. Pure.

use k8s_openapi::api::core::v1::{Container, Pod, PodCondition, PodSpec};
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;
use serde_json::{Value, json};

use super::sources::Obstacle;
use crate::kubernetes::node::{NodeFacts, seconds};
use crate::plan::{ContainerStatus, PodStatus};

/// What a status is made of.
pub(super) struct Facts<'a> {
    pub(super) pod: &'a Pod,
    pub(super) spec: &'a PodSpec,
    pub(super) node: &'a NodeFacts,
    /// Once the pod has an address.
    pub(super) running: Option<&'a PodStatus>,
    /// Why it has none.
    pub(super) obstacle: Option<&'a Obstacle>,
    pub(super) now: Timestamp,
}

/// Whether a pod will not run again, by its `status.phase`.
pub(super) fn finished(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|s| s.phase.as_deref());
    matches!(phase, Some("Succeeded" | "Failed"))
}

impl Facts<'_> {
    /// The status as JSON, all that a kubelet writes of it.
    pub(super) fn status(&self) -> Value {
        let inits: Vec<&Container> = self.spec.init_containers.iter().flatten().collect();
        let apps: Vec<&Container> = self.spec.containers.iter().collect();
        let initialized = inits.iter().all(|c| self.initialized(c));
        let sidecars_ready = inits.iter().all(|c| !is_sidecar(c) || self.of(c).ready);
        let unready: Vec<&str> = apps
            .iter()
            .filter(|c| !self.of(c).ready)
            .map(|c| c.name.as_str())
            .collect();
        let phase = self.phase(&inits, &apps, initialized);
        let done = phase == "Succeeded";
        let over = done || phase == "Failed";
        let containers_ready = !over && initialized && sidecars_ready && unready.is_empty();
        let gates = self.spec.readiness_gates.iter().flatten();
        let closed: Vec<&str> = gates
            .map(|g| g.condition_type.as_str())
            .filter(|kind| !self.holds(kind))
            .collect();
        let not_ready = || -> (String, String) {
            if over {
                let reason = if done { "PodCompleted" } else { "PodFailed" };
                (reason.to_owned(), String::new())
            } else if !initialized {
                let waiting: Vec<&str> = inits
                    .iter()
                    .filter(|c| !self.initialized(c))
                    .map(|c| c.name.as_str())
                    .collect();
                (
                    "ContainersNotInitialized".to_owned(),
                    format!("containers with incomplete status: [{}]", waiting.join(" ")),
                )
            } else {
                (
                    "ContainersNotReady".to_owned(),
                    format!("containers with unready status: [{}]", unready.join(" ")),
                )
            }
        };
        let mut conditions = vec![
            self.condition("PodScheduled", true, Default::default()),
            self.condition(
                "PodReadyToStartContainers",
                self.running.is_some() && !over,
                Default::default(),
            ),
            self.condition(
                "Initialized",
                initialized || done,
                if initialized {
                    Default::default()
                } else {
                    not_ready()
                },
            ),
            self.condition(
                "ContainersReady",
                containers_ready,
                if containers_ready {
                    Default::default()
                } else {
                    not_ready()
                },
            ),
            self.condition(
                "Ready",
                containers_ready && closed.is_empty(),
                match (containers_ready, closed.is_empty()) {
                    (true, true) => Default::default(),
                    (true, false) => (
                        "ReadinessGatesNotReady".to_owned(),
                        format!("conditions that are not true: [{}]", closed.join(" ")),
                    ),
                    (false, _) => not_ready(),
                },
            ),
        ];
        // What others said of it stays.
        let own = [
            "PodScheduled",
            "PodReadyToStartContainers",
            "Initialized",
            "ContainersReady",
            "Ready",
        ];
        let others = self.earlier().filter(|c| !own.contains(&c.type_.as_str()));
        conditions.extend(others.map(|c| json!(c)));

        let start = self
            .pod
            .status
            .as_ref()
            .and_then(|s| s.start_time.as_ref())
            .map_or(self.now, |t| t.0);
        let mut status = json!({
            "phase": phase,
            "conditions": conditions,
            "hostIP": self.node.address, "hostIPs": [{"ip": self.node.address}],
            "startTime": seconds(start),
            "containerStatuses": self.list(&apps, initialized),
        });
        if !inits.is_empty() {
            status["initContainerStatuses"] = self.list(&inits, true);
        }
        if let Some(running) = self.running {
            status["podIP"] = json!(running.address);
            status["podIPs"] = json!([{"ip": running.address}]);
        }
        status
    }

    fn of(&self, container: &Container) -> ContainerStatus {
        self.running
            .and_then(|r| r.containers.get(&container.name))
            .cloned()
            .unwrap_or_default()
    }

    /// Whether an init container lets those behind it go on.
    fn initialized(&self, container: &Container) -> bool {
        let status = self.of(container);
        if is_sidecar(container) {
            // One that is restarted later does not take the pod back.
            status.started || status.restarts > 0 || status.ended
        } else {
            status.done
        }
    }

    fn phase(&self, inits: &[&Container], apps: &[&Container], initialized: bool) -> &'static str {
        let Some(running) = self.running else {
            return "Pending";
        };
        if running.finished {
            let failed = apps.iter().any(|c| !self.of(c).done)
                || inits.iter().any(|c| !is_sidecar(c) && !self.of(c).done);
            return if failed { "Failed" } else { "Succeeded" };
        }
        let begun = |c: &&Container| {
            let status = self.of(c);
            status.pid.is_some() || status.last.is_some()
        };
        if initialized && apps.iter().all(begun) {
            "Running"
        } else {
            "Pending"
        }
    }

    fn list(&self, containers: &[&Container], may_start: bool) -> Value {
        containers
            .iter()
            .map(|container| {
                let status = self.of(container);
                let (state, last) = self.states(container, &status, may_start);
                json!({
                    "name": container.name,
                    "image": container.image.as_deref().unwrap_or_default(),
                    "imageID": "",
                    "containerID": if status.pid.is_some() || status.last.is_some() {
                        format!("isthmus://{}/{}", self.pod.uid().unwrap_or_default(), container.name)
                    } else {
                        String::new()
                    },
                    "ready": status.ready || (status.done && !is_sidecar(container) && self.is_init(container)),
                    "started": status.started,
                    "restartCount": status.restarts,
                    "state": state,
                    "lastState": last,
                })
            })
            .collect()
    }

    fn is_init(&self, container: &Container) -> bool {
        self.spec
            .init_containers
            .iter()
            .flatten()
            .any(|c| c.name == container.name)
    }

    /// `state` and `lastState`.
    fn states(&self, container: &Container, status: &ContainerStatus, may_start: bool) -> (Value, Value) {
        let terminated = status.last.as_ref().map(|last| {
            let reason = match last.code {
                0 => "Completed",
                128 => "StartError",
                _ => "Error",
            };
            let message = if last.code == 0 {
                ""
            } else {
                status.reason.as_str()
            };
            json!({"terminated": {
                "exitCode": last.code, "reason": reason, "message": message,
                "startedAt": stamp(last.from), "finishedAt": stamp(last.until),
                "containerID": format!("isthmus://{}/{}", self.pod.uid().unwrap_or_default(), container.name),
            }})
        });
        if let (Some(_), Some(since)) = (status.pid, status.since) {
            return (
                json!({"running": {"startedAt": stamp(since)}}),
                terminated.unwrap_or_else(|| json!({})),
            );
        }
        if status.ended {
            return (
                terminated.unwrap_or_else(|| json!({"waiting": {"reason": "ContainerCreating"}})),
                json!({}),
            );
        }
        let (reason, message) = match (self.obstacle, status.waiting.as_str()) {
            (Some(obstacle), _) if obstacle.reason == "CreateContainerConfigError" => {
                (obstacle.reason.to_owned(), obstacle.message.clone())
            }
            (_, "" | "PodInitializing") if may_start && !self.is_init(container) => {
                ("ContainerCreating".to_owned(), String::new())
            }
            (_, "" | "PodInitializing") => ("PodInitializing".to_owned(), String::new()),
            (_, reason) => (reason.to_owned(), status.reason.clone()),
        };
        (
            json!({"waiting": {"reason": reason, "message": message}}),
            terminated.unwrap_or_else(|| json!({})),
        )
    }

    fn earlier(&self) -> impl Iterator<Item = &PodCondition> {
        self.pod.status.iter().flat_map(|s| s.conditions.iter().flatten())
    }

    /// Whether a condition that others write is true.
    fn holds(&self, kind: &str) -> bool {
        self.earlier().any(|c| c.type_ == kind && c.status == "True")
    }

    fn condition(&self, kind: &str, holds: bool, (reason, message): (String, String)) -> Value {
        let status = if holds { "True" } else { "False" };
        let since = self
            .earlier()
            .find(|c| c.type_ == kind && c.status == status)
            .and_then(|c| c.last_transition_time.as_ref())
            .map_or(self.now, |t| t.0);
        let mut condition = json!({
            "type": kind, "status": status, "lastTransitionTime": seconds(since), "lastProbeTime": null,
        });
        if !reason.is_empty() {
            condition["reason"] = json!(reason);
            condition["message"] = json!(message);
        }
        condition
    }
}

fn is_sidecar(container: &Container) -> bool {
    container.restart_policy.as_deref() == Some("Always")
}

fn stamp(unix: i64) -> String {
    seconds(Timestamp::from_second(unix).unwrap_or(Timestamp::UNIX_EPOCH))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kubernetes::kubelet::tests::{node, pod};
    use crate::plan::{PodKey, Termination};

    fn with(pod: &Pod, containers: &[(&str, ContainerStatus)], finished: bool) -> Value {
        let running = PodStatus {
            key: PodKey {
                cluster: "us".into(),
                namespace: "default".into(),
                name: "p".into(),
            },
            address: "10.10.0.7".parse().unwrap(),
            containers: containers
                .iter()
                .map(|(n, s)| ((*n).to_owned(), s.clone()))
                .collect(),
            terminating: false,
            finished,
        };
        Facts {
            pod,
            spec: pod.spec.as_ref().unwrap(),
            node: &node(),
            running: Some(&running),
            obstacle: None,
            now: Timestamp::UNIX_EPOCH,
        }
        .status()
    }

    fn condition<'a>(status: &'a Value, kind: &str) -> &'a str {
        let list = status["conditions"].as_array().unwrap();
        let found = list.iter().find(|c| c["type"] == kind).unwrap();
        found["status"].as_str().unwrap()
    }

    fn runs(ready: bool) -> ContainerStatus {
        ContainerStatus {
            pid: Some(7),
            since: Some(1),
            ready,
            started: true,
            ..ContainerStatus::default()
        }
    }

    fn ended(code: i32) -> ContainerStatus {
        ContainerStatus {
            ended: true,
            done: code == 0,
            last: Some(Termination {
                code,
                from: 1,
                until: 2,
            }),
            ..ContainerStatus::default()
        }
    }

    #[test]
    fn a_pod_is_ready_when_all_its_containers_are() {
        let pod = pod(json!({
            "initContainers": [{"name": "proxy", "image": "isthmus", "restartPolicy": "Always"}],
            "containers": [{"name": "app", "image": "x"}],
        }));
        let early = with(&pod, &[("proxy", runs(false))], false);
        assert_eq!(early["phase"], "Pending");
        assert_eq!(condition(&early, "Initialized"), "True");
        assert_eq!(condition(&early, "Ready"), "False");
        assert_eq!(
            early["containerStatuses"][0]["state"]["waiting"]["reason"],
            "ContainerCreating"
        );
        // The application is ready, its sidecar is not: nobody may send to it.
        let half = with(&pod, &[("proxy", runs(false)), ("app", runs(true))], false);
        assert_eq!(half["phase"], "Running");
        assert_eq!(condition(&half, "Ready"), "False");
        let whole = with(&pod, &[("proxy", runs(true)), ("app", runs(true))], false);
        assert_eq!(condition(&whole, "Ready"), "True");
        assert_eq!(whole["podIP"], "10.10.0.7");
    }

    #[test]
    fn a_pod_that_has_done_its_work_says_how_it_went() {
        let pod = pod(json!({"restartPolicy": "Never", "containers": [{"name": "app", "image": "x"}]}));
        for (code, phase) in [(0, "Succeeded"), (3, "Failed")] {
            let status = with(&pod, &[("app", ended(code))], true);
            assert_eq!(status["phase"], phase);
            assert_eq!(
                status["containerStatuses"][0]["state"]["terminated"]["exitCode"],
                code
            );
            assert_eq!(condition(&status, "Ready"), "False");
        }
    }

    #[test]
    fn what_hinders_a_container_is_in_its_state() {
        let pod = pod(json!({"containers": [{"name": "app", "image": "nginx"}]}));
        let waiting = ContainerStatus {
            waiting: "ErrImagePull".into(),
            reason: "the sandbox has no image".into(),
            ..ContainerStatus::default()
        };
        let status = with(&pod, &[("app", waiting)], false);
        assert_eq!(status["phase"], "Pending");
        let state = &status["containerStatuses"][0]["state"]["waiting"];
        assert_eq!(
            (&state["reason"], &state["message"]),
            (&json!("ErrImagePull"), &json!("the sandbox has no image"))
        );
    }
}
