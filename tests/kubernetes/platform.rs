//! What the sandbox stands in for: a kubelet that tells the truth, Services that lead to their pods, public
//! addresses, and a control plane that can be killed.

use serde_json::Value;

use crate::clusters::{Clusters, condition};
use crate::harness::eventually;

const ECHO: &str = r#"
apiVersion: v1
kind: Namespace
metadata: {name: platform}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: words, namespace: platform}
data: {greeting: hello, old: x}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: echo, namespace: platform}
spec:
  replicas: 2
  selector: {matchLabels: {app: echo}}
  template:
    metadata: {labels: {app: echo}}
    spec:
      terminationGracePeriodSeconds: 2
      containers:
      - name: echo
        image: isthmus/samples:echo
        env:
        - {name: WORD, valueFrom: {configMapKeyRef: {name: words, key: greeting}}}
        - {name: ADDRESS, valueFrom: {fieldRef: {fieldPath: status.podIP}}}
        - {name: URL, value: "http://$(ADDRESS):8080"}
        ports: [{name: http, containerPort: 8080}]
        readinessProbe: {httpGet: {path: /, port: http}, periodSeconds: 1}
        volumeMounts: [{name: words, mountPath: /etc/words}]
      volumes: [{name: words, configMap: {name: words}}]
---
apiVersion: v1
kind: Service
metadata: {name: echo, namespace: platform}
spec:
  type: LoadBalancer
  selector: {app: echo}
  ports: [{name: http, port: 80, targetPort: http}]
"#;

#[test]
fn pods_are_run_and_services_lead_to_them() {
    let clusters = Clusters::shared();
    clusters.apply("us", ECHO);
    let pods = clusters.wait_for_pods("us", "platform", 2);
    let mesh = clusters.mesh();

    // Environment, name and volume are as the pod says.
    let said = mesh.exec(
        "us/echo.platform",
        &["sh", "-c", "echo $WORD $URL $(cat /etc/words/old)"],
    );
    let addresses: Vec<&str> = pods
        .iter()
        .filter_map(|p| p["status"]["podIP"].as_str())
        .collect();
    assert!(
        addresses
            .iter()
            .any(|a| said.stdout.trim() == format!("hello http://{a}:8080 x")),
        "{said}"
    );

    // By CoreDNS and the Service's address to either pod; by its public address from another cluster's.
    let mut answered = std::collections::BTreeSet::new();
    for _ in 0..10 {
        let answer = mesh.exec("us/echo.platform", &["isthmus", "fetch", "http://echo"]);
        assert_eq!(answer.code, 0, "{answer}");
        let pod = answer.stdout.lines().next().unwrap_or_default().to_owned();
        answered.insert(pod);
    }
    assert_eq!(answered.len(), 2, "{answered:?}");
    let service: Value = serde_json::from_str(
        &clusters.kubectl("us", &["get", "service", "echo", "-n", "platform", "-o", "json"]),
    )
    .expect("JSON");
    let public = service["status"]["loadBalancer"]["ingress"][0]["ip"]
        .as_str()
        .unwrap_or_else(|| panic!("no public address: {service:#}"));
    let url = format!("http://{public}");
    let far = mesh.exec("eu/coredns.kube-system", &["isthmus", "fetch", &url]);
    assert!(far.stdout.contains("cluster us"), "{far}");

    // A change of the ConfigMap reaches the files of running pods, and what is gone goes.
    clusters.kubectl(
        "us",
        &[
            "patch",
            "configmap",
            "words",
            "-n",
            "platform",
            "--type=merge",
            "-p",
            r#"{"data":{"greeting":"goodbye","old":null}}"#,
        ],
    );
    eventually("the new word", || {
        let said = mesh.exec(
            "us/echo.platform",
            &["sh", "-c", "cat /etc/words/greeting; ls /etc/words"],
        );
        match said.stdout.trim() {
            "goodbyegreeting" => Ok(()),
            _ => Err(said.to_string()),
        }
    });
    clusters.delete_namespace("us", "platform");
}

const TROUBLE: &str = r#"
apiVersion: v1
kind: Namespace
metadata: {name: trouble}
---
apiVersion: v1
kind: Pod
metadata: {name: imageless, namespace: trouble}
spec:
  containers: [{name: app, image: "nginx:1.27"}]
---
apiVersion: v1
kind: Pod
metadata: {name: secretless, namespace: trouble}
spec:
  containers: [{name: app, image: x, command: [sleep, "600"], volumeMounts: [{name: s, mountPath: /etc/s}]}]
  volumes: [{name: s, secret: {secretName: later}}]
---
apiVersion: v1
kind: Pod
metadata: {name: hung, namespace: trouble}
spec:
  containers:
  - name: app
    image: x
    command: [sleep, "600"]
    livenessProbe: {exec: {command: ["false"]}, periodSeconds: 1, failureThreshold: 1}
  terminationGracePeriodSeconds: 1
---
apiVersion: batch/v1
kind: Job
metadata: {name: once, namespace: trouble}
spec:
  template:
    spec:
      restartPolicy: Never
      initContainers:
      - {name: before, image: x, command: [sh, -c, "echo first > /var/run/shared/order"], volumeMounts: [{name: shared, mountPath: /var/run/shared}]}
      - {name: beside, image: x, restartPolicy: Always, command: [sleep, "600"]}
      containers:
      - {name: work, image: x, command: [sh, -c, "test $(cat /var/run/shared/order) = first"], volumeMounts: [{name: shared, mountPath: /var/run/shared}]}
      volumes: [{name: shared, emptyDir: {}}]
"#;

#[test]
fn what_hinders_a_pod_is_said_and_what_ends_is_over() {
    let clusters = Clusters::shared();
    clusters.apply("us", TROUBLE);
    let pod = |name: &str| -> Value {
        let said = clusters.kubectl("us", &["get", "pod", name, "-n", "trouble", "-o", "json"]);
        serde_json::from_str(&said).expect("JSON")
    };
    let until = |name: &str, what: &str, holds: &dyn Fn(&Value) -> bool| {
        eventually(what, || {
            let pod = pod(name);
            if holds(&pod) {
                Ok(())
            } else {
                Err(format!("{:#}", pod["status"]))
            }
        });
    };
    until("imageless", "a missing image is said", &|pod| {
        let waiting = &pod["status"]["containerStatuses"][0]["state"]["waiting"];
        waiting["reason"] == "ErrImagePull"
            && waiting["message"]
                .as_str()
                .is_some_and(|m| m.contains("nginx:1.27") && m.contains("command"))
    });
    until("hung", "a hung container is restarted", &|pod| {
        pod["status"]["containerStatuses"][0]["restartCount"].as_u64() > Some(0)
    });
    // A Job ends although a sidecar would run for ever.
    eventually("the job is done", || {
        let jobs = clusters.list("us", "trouble", "jobs");
        match jobs.first().map(|j| condition(j, "Complete")) {
            Some("True") => Ok(()),
            _ => Err(format!("{jobs:#?}")),
        }
    });
    eventually("a missing secret is said", || {
        let events = clusters.kubectl("us", &["get", "events", "-n", "trouble"]);
        if events.contains("FailedMount") && events.contains("secret \"later\" not found") {
            return Ok(());
        }
        Err(events)
    });
    clusters.kubectl(
        "us",
        &[
            "create",
            "secret",
            "generic",
            "later",
            "-n",
            "trouble",
            "--from-literal=a=b",
        ],
    );
    until("secretless", "it starts when the secret is there", &|pod| {
        pod["status"]["phase"] == "Running"
    });
    clusters.delete_namespace("us", "trouble");
}

#[test]
fn a_control_plane_that_is_killed_comes_back_with_what_it_knew() {
    let clusters = Clusters::shared();
    clusters.kubectl("us", &["create", "namespace", "kept"]);
    for part in [
        "etcd",
        "kube-apiserver",
        "kube-controller-manager",
        "kube-scheduler",
    ] {
        clusters.isthmus(&["demo", "break", "kill", "us/control-plane.machine", "-c", part]);
    }
    eventually("the API server answers", || {
        let said = clusters.run("kubectl", &["--context", "us", "get", "namespace", "kept"], "");
        if said.code == 0 {
            Ok(())
        } else {
            Err(said.to_string())
        }
    });
    // The controllers work, and so does the kubelet, whose watches broke.
    clusters.kubectl(
        "us",
        &[
            "create",
            "deployment",
            "sleep",
            "-n",
            "kept",
            "--image=x",
            "--",
            "sleep",
            "600",
        ],
    );
    clusters.wait_for_pods("us", "kept", 1);
    clusters.delete_namespace("us", "kept");
}
