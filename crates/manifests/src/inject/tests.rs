//! Pods as users write them, and what becomes of them.

use isthmus_api::{MeshConfig, mesh_config};
use serde_json::{Value, json};

use super::*;

fn settings(values: Value) -> Settings {
    Settings::new(&values, &MeshConfig::default()).unwrap()
}

fn us() -> Settings {
    let text = "trustDomain: corp.local\ndefaultConfig:\n  proxyMetadata: {ISTIO_META_DNS_AUTO_ALLOCATE: \"true\"}\n";
    let values = json!({"global": {"hub": "example.net", "tag": "1", "network": "us-net", "meshID": "training-mesh",
        "multiCluster": {"clusterName": "us"}}});
    Settings::new(&values, &mesh_config::from_text(text, "").0).unwrap()
}

/// The pod with its proxy, and the warnings.
fn injected(pod: &Value, settings: &Settings) -> (Value, Vec<String>) {
    let request = Request {
        pod,
        namespace: "bank",
        by: Namespace::Chosen,
        network: None,
        workload: None,
    };
    match inject(&request, settings).unwrap() {
        Outcome::Injected(injected) => {
            assert_eq!(patch::apply(pod, &injected.patch).as_ref(), Some(&injected.pod));
            (injected.pod, injected.warnings)
        }
        Outcome::Skipped(reason) => panic!("left alone: {reason}"),
    }
}

fn refusal(pod: &Value) -> String {
    let request = Request {
        pod,
        namespace: "bank",
        by: Namespace::Chosen,
        network: None,
        workload: None,
    };
    inject(&request, &us()).unwrap_err().to_string()
}

/// The pod that a Deployment's ReplicaSet makes.
fn reviews() -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "generateName": "reviews-v2-5f7d-", "labels": {"app": "reviews", "version": "v2", "pod-template-hash": "5f7d"},
            "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "reviews-v2-5f7d", "controller": true}]
        },
        "spec": {
            "serviceAccountName": "bookinfo-reviews",
            "containers": [{"name": "reviews", "image": "reviews:2", "ports": [{"name": "http", "containerPort": 9080}]}],
            "initContainers": [{"name": "migrate", "image": "reviews:2"}]
        }
    })
}

fn with(mut pod: Value, annotations: Value) -> Value {
    pod["metadata"]["annotations"] = annotations;
    pod
}

fn names(pod: &Value, field: &str) -> Vec<String> {
    let items = pod["spec"][field].as_array().cloned().unwrap_or_default();
    items
        .iter()
        .map(|c| c["name"].as_str().unwrap().to_owned())
        .collect()
}

fn container<'a>(pod: &'a Value, name: &str) -> &'a Value {
    let all = ["containers", "initContainers"].map(|field| pod["spec"][field].as_array());
    all.into_iter()
        .flatten()
        .flatten()
        .find(|c| c["name"] == name)
        .unwrap()
}

fn env<'a>(pod: &'a Value, name: &str) -> &'a Value {
    let env = container(pod, PROXY)["env"].as_array().unwrap();
    env.iter()
        .find(|v| v["name"] == name)
        .map_or(&Value::Null, |v| &v["value"])
}

#[test]
fn a_pod_gets_a_proxy_that_starts_before_everything_else_of_it() {
    let (pod, warnings) = injected(&reviews(), &us());
    assert_eq!(warnings, [""; 0]);
    assert_eq!(names(&pod, "initContainers"), [INIT, PROXY, "migrate"]);
    assert_eq!(names(&pod, "containers"), ["reviews"]);
    let proxy = container(&pod, PROXY);
    assert_eq!(proxy["restartPolicy"], "Always");
    assert_eq!(
        proxy["startupProbe"]["httpGet"],
        json!({"path": "/healthz/ready", "port": 15021})
    );
    assert_eq!(proxy["image"], "example.net/isthmus:1");
    assert_eq!(
        proxy["args"],
        json!(["proxy", "sidecar", "--domain", "cluster.local"])
    );
    assert_eq!(proxy["securityContext"]["runAsUser"], 1337);
    assert_eq!(proxy["securityContext"]["capabilities"], json!({"drop": ["ALL"]}));
    let init = container(&pod, INIT);
    assert_eq!(
        init["args"],
        json!(["redirect", "apply", "--uid", "1337", "--gid", "1337"])
    );
    assert_eq!(
        init["securityContext"]["capabilities"]["add"],
        json!(["NET_ADMIN", "NET_RAW"])
    );
    assert_eq!(init["securityContext"]["runAsUser"], 0);

    for (name, value) in [
        ("ISTIO_META_CLUSTER_ID", "us"),
        ("ISTIO_META_NETWORK", "us-net"),
        ("ISTIO_META_MESH_ID", "training-mesh"),
        ("TRUST_DOMAIN", "corp.local"),
        ("ISTIO_META_WORKLOAD_NAME", "reviews-v2"),
        (
            "ISTIO_META_OWNER",
            "kubernetes://apis/apps/v1/namespaces/bank/deployments/reviews-v2",
        ),
        ("PROXY_XDS_ADDRESS", "istiod.istio-system.svc:15012"),
        ("XDS_ROOT_CA", "/var/run/secrets/istio/root-cert.pem"),
        ("ISTIO_META_DNS_AUTO_ALLOCATE", "true"),
    ] {
        assert_eq!(env(&pod, name), value, "{name}");
    }
    let told: Value = serde_json::from_str(env(&pod, "ISTIO_METAJSON_LABELS").as_str().unwrap()).unwrap();
    assert_eq!(told, pod["metadata"]["labels"]);
    assert_eq!(
        pod["metadata"]["labels"],
        json!({"app": "reviews", "version": "v2", "pod-template-hash": "5f7d", "security.istio.io/tlsMode": "istio",
               "service.istio.io/canonical-name": "reviews", "service.istio.io/canonical-revision": "v2"})
    );
    let status: Value =
        serde_json::from_str(pod["metadata"]["annotations"][STATUS].as_str().unwrap()).unwrap();
    assert_eq!(status["initContainers"], json!([INIT, PROXY]));
    assert_eq!(status["revision"], "default");
    assert_eq!(json!(names(&pod, "volumes")), status["volumes"]);
    assert_eq!(
        pod["metadata"]["annotations"]["kubectl.kubernetes.io/default-container"],
        "reviews"
    );
    let mounts = proxy["volumeMounts"].as_array().unwrap();
    let volumes = names(&pod, "volumes");
    assert!(
        mounts.iter().all(|m| volumes.iter().any(|v| m["name"] == *v)),
        "{mounts:?}"
    );
}

#[test]
fn what_was_injected_is_not_injected_again() {
    let (pod, _) = injected(&reviews(), &us());
    let request = Request {
        pod: &pod,
        namespace: "bank",
        by: Namespace::Chosen,
        network: None,
        workload: None,
    };
    assert_eq!(inject(&request, &us()), Ok(Outcome::Skipped(Reason::Already)));
    // A status that somebody copied, without the container, is none.
    let copied = with(reviews(), json!({(STATUS): "{}"}));
    injected(&copied, &us());
}

#[test]
fn a_classic_sidecar_comes_last_or_first_when_the_application_is_held() {
    let classic = with(reviews(), json!({"sidecar.istio.io/nativeSidecar": "false"}));
    let (pod, _) = injected(&classic, &us());
    assert_eq!(names(&pod, "initContainers"), ["migrate", INIT]);
    assert_eq!(names(&pod, "containers"), ["reviews", PROXY]);
    assert_eq!(container(&pod, PROXY)["restartPolicy"], Value::Null);

    let held = json!({"sidecar.istio.io/nativeSidecar": "false", "proxy.istio.io/config": "holdApplicationUntilProxyStarts: true"});
    let (pod, _) = injected(&with(reviews(), held), &us());
    assert_eq!(names(&pod, "containers"), [PROXY, "reviews"]);
    let hook = &container(&pod, PROXY)["lifecycle"]["postStart"]["exec"]["command"];
    assert_eq!(hook[1], "wait-for-proxy");
}

#[test]
fn every_annotation_of_a_pod_has_its_effect() {
    let (pod, warnings) = injected(
        &with(
            reviews(),
            json!({
                "sidecar.istio.io/proxyImage": "other.example/proxy:9",
                "sidecar.istio.io/proxyCPU": "50m", "sidecar.istio.io/proxyCPULimit": "0.5",
                "sidecar.istio.io/proxyMemory": "64Mi", "sidecar.istio.io/proxyMemoryLimit": "1G",
                "sidecar.istio.io/logLevel": "default:info,proxy:debug",
                "sidecar.istio.io/userVolume": r#"{"extra": {"secret": {"secretName": "tls"}}}"#,
                "sidecar.istio.io/userVolumeMount": r#"[{"name": "extra", "mountPath": "/etc/extra"}]"#,
                "traffic.sidecar.istio.io/includeOutboundIPRanges": "10.0.0.0/8",
                "traffic.sidecar.istio.io/excludeOutboundIPRanges": "10.1.0.0/16,10.2.0.1",
                "traffic.sidecar.istio.io/includeOutboundPorts": "9999",
                "traffic.sidecar.istio.io/excludeOutboundPorts": "3306",
                "traffic.sidecar.istio.io/includeInboundPorts": "*",
                "traffic.sidecar.istio.io/excludeInboundPorts": "22",
                "traffic.sidecar.istio.io/excludeInterfaces": "docker0",
                "readiness.status.sidecar.istio.io/periodSeconds": "2",
                "proxy.istio.io/config": "concurrency: 2\nterminationDrainDuration: 9s\nproxyAdminPort: 15999\n\
                                          discoveryAddress: other.mesh:15012\nproxyMetadata: {ISTIO_META_DNS_CAPTURE: \"false\"}\n",
            }),
        ),
        &us(),
    );
    assert_eq!(warnings, [""; 0]);
    let proxy = container(&pod, PROXY);
    assert_eq!(proxy["image"], "other.example/proxy:9");
    assert_eq!(
        proxy["resources"],
        json!({"requests": {"cpu": "50m", "memory": "64Mi"}, "limits": {"cpu": "0.5", "memory": "1G"}})
    );
    let arguments = ["--log-level", "default:info,proxy:debug", "--concurrency", "2"];
    assert_eq!(proxy["args"].as_array().unwrap()[4..], arguments);
    assert_eq!(proxy["readinessProbe"]["periodSeconds"], 2);
    assert!(names(&pod, "volumes").contains(&"extra".to_owned()));
    assert!(
        proxy["volumeMounts"]
            .as_array()
            .unwrap()
            .contains(&json!({"name": "extra", "mountPath": "/etc/extra"}))
    );
    for (name, value) in [
        ("TERMINATION_DRAIN_DURATION_SECONDS", "9"),
        ("ISTIO_ADMIN_ADDRESS", "127.0.0.1:15999"),
        ("PROXY_XDS_ADDRESS", "other.mesh:15012"),
        ("CA_ADDR", "other.mesh:15012"),
        ("ISTIO_META_DNS_CAPTURE", "false"),
    ] {
        assert_eq!(env(&pod, name), value, "{name}");
    }
    let redirection = container(&pod, INIT)["args"].to_string();
    for said in [
        "includeOutboundIPRanges=10.0.0.0/8",
        "excludeOutboundIPRanges=10.1.0.0/16,10.2.0.1",
        "includeOutboundPorts=9999",
        "excludeOutboundPorts=3306",
        "includeInboundPorts=*",
        "excludeInboundPorts=22",
        "excludeInterfaces=docker0",
        "--no-dns",
    ] {
        assert!(redirection.contains(said), "{said}: {redirection}");
    }
    let (pod, _) = injected(
        &with(reviews(), json!({"sidecar.istio.io/interceptionMode": "NONE"})),
        &us(),
    );
    assert_eq!(names(&pod, "initContainers"), [PROXY, "migrate"]);
    assert_eq!(env(&pod, "ISTIO_META_INTERCEPTION_MODE"), "NONE");
}

#[test]
fn an_annotation_without_effect_is_a_warning_with_what_to_write_instead() {
    let said = json!({
        "sidecar.istio.io/proxyCpu": "1",
        "sidecar.istio.io/componentLogLevel": "misc:error",
        "sidecar.istio.io/interceptionMode": "TPROXY",
        "status.sidecar.istio.io/port": "16000",
        "traffic.sidecar.istio.io/excludeOutboundPort": "80",
        "traffic.sidecar.istio.io/kubevirtInterfaces": "net1",
        "proxy.istio.io/config": "terminationDrainDuration: 60s",
        "example.com/anything": "is none of ours",
    });
    let (_, warnings) = injected(&with(reviews(), said), &us());
    let all = warnings.join("\n");
    assert_eq!(warnings.len(), 7, "{all}");
    for remedy in [
        "did you mean sidecar.istio.io/proxyCPU?",
        "set sidecar.istio.io/logLevel",
        "the application sees its callers as 127.0.0.6: remove it",
        "it is 15021",
        "did you mean traffic.sidecar.istio.io/excludeOutboundPorts?",
        "kubevirtInterfaces has no effect",
        "set terminationGracePeriodSeconds to more than 60",
    ] {
        assert!(
            all.contains(remedy) || remedy == "write REDIRECT" && all.contains("TPROXY"),
            "{remedy}: {all}"
        );
    }
}

#[test]
fn an_annotation_that_cannot_be_meant_refuses_the_pod_by_name() {
    for (name, value, word) in [
        (
            "traffic.sidecar.istio.io/excludeOutboundPorts",
            "http",
            "a port is a number",
        ),
        ("sidecar.istio.io/proxyCPU", "much", "a quantity is expected"),
        ("sidecar.istio.io/logLevel", "loud", "write one of none, off"),
        (
            "sidecar.istio.io/interceptionMode",
            "MAGIC",
            "write REDIRECT or NONE",
        ),
        ("sidecar.istio.io/userVolume", "{", "JSON is expected"),
        ("sidecar.istio.io/userVolumeMount", "[{}]", "JSON is expected"),
        (
            "sidecar.istio.io/rewriteAppHTTPProbers",
            "yes",
            "write \"true\" or \"false\"",
        ),
        ("proxy.istio.io/config", "concurrency: many", "concurrency"),
        (
            "inject.istio.io/templates",
            "grpc-agent",
            "write sidecar or gateway",
        ),
        ("inject.istio.io/templates", "gateway", "image: auto"),
    ] {
        let text = refusal(&with(reviews(), json!({ (name): value })));
        assert!(
            text.contains(word) && (text.contains(name) || word == "image: auto"),
            "{name}: {text}"
        );
    }
    assert_eq!(
        refusal(&json!({"metadata": {"labels": []}, "spec": {}})),
        "metadata.labels: a map of texts is expected"
    );
    assert_eq!(
        refusal(&json!({"spec": {"containers": [1]}})),
        "spec.containers: a list of objects is expected"
    );
}

#[test]
fn probes_ask_the_agent_and_the_agent_knows_what_to_ask() {
    let mut pod = reviews();
    pod["spec"]["containers"][0]["readinessProbe"] =
        json!({"httpGet": {"path": "/ready", "port": "http"}, "periodSeconds": 3});
    pod["spec"]["containers"][0]["livenessProbe"] = json!({"tcpSocket": {"port": 9080}, "timeoutSeconds": 4});
    pod["spec"]["containers"][0]["startupProbe"] = json!({"grpc": {"port": 9081, "service": "reviews"}});
    pod["spec"]["containers"][0]["lifecycle"] =
        json!({"preStop": {"httpGet": {"path": "/bye", "port": 9080}}});
    pod["spec"]["containers"].as_array_mut().unwrap().extend([
        json!({"name": "by-command", "image": "b", "livenessProbe": {"exec": {"command": ["true"]}}}),
        json!({"name": "unknown", "image": "b", "livenessProbe": {"httpGet": {"port": "nobody"}}}),
    ]);
    let (after, _) = injected(&pod, &us());
    let app = container(&after, "reviews");
    assert_eq!(
        app["readinessProbe"],
        json!({"httpGet": {"path": "/app-health/reviews/readyz", "port": 15020, "scheme": "HTTP"}, "periodSeconds": 3})
    );
    assert_eq!(
        app["livenessProbe"]["httpGet"]["path"],
        "/app-health/reviews/livez"
    );
    assert_eq!(
        app["startupProbe"]["httpGet"]["path"],
        "/app-health/reviews/startupz"
    );
    assert_eq!(
        app["lifecycle"]["preStop"]["httpGet"]["path"],
        "/app-lifecycle/reviews/prestophz"
    );
    for untouched in ["by-command", "unknown"] {
        assert_eq!(container(&after, untouched), container(&pod, untouched));
    }
    let asked: Value = serde_json::from_str(env(&after, "ISTIO_KUBE_APP_PROBERS").as_str().unwrap()).unwrap();
    assert_eq!(
        asked,
        json!({
            "/app-health/reviews/readyz": {"httpGet": {"path": "/ready", "port": 9080}, "timeoutSeconds": 1},
            "/app-health/reviews/livez": {"tcpSocket": {"port": 9080}, "timeoutSeconds": 4},
            "/app-health/reviews/startupz": {"grpc": {"port": 9081, "service": "reviews"}, "timeoutSeconds": 1},
            "/app-lifecycle/reviews/prestophz": {"httpGet": {"path": "/bye", "port": 9080}},
        })
    );
    pod["metadata"]["annotations"] = json!({"sidecar.istio.io/rewriteAppHTTPProbers": "false"});
    let (after, _) = injected(&pod, &us());
    assert_eq!(container(&after, "reviews"), container(&pod, "reviews"));
}

#[test]
fn what_prometheus_scrapes_is_merged_by_the_agent() {
    let scraped =
        json!({"prometheus.io/scrape": "true", "prometheus.io/port": "9090", "prometheus.io/path": "/m"});
    let (pod, _) = injected(&with(reviews(), scraped.clone()), &us());
    assert_eq!(pod["metadata"]["annotations"]["prometheus.io/port"], "15020");
    assert_eq!(
        pod["metadata"]["annotations"]["prometheus.io/path"],
        "/stats/prometheus"
    );
    let asked: Value =
        serde_json::from_str(env(&pod, "ISTIO_PROMETHEUS_ANNOTATIONS").as_str().unwrap()).unwrap();
    assert_eq!(
        (asked["port"].as_str(), asked["path"].as_str()),
        (Some("9090"), Some("/m"))
    );

    let mut apart = scraped;
    apart["prometheus.istio.io/merge-metrics"] = json!("false");
    let (pod, _) = injected(&with(reviews(), apart), &us());
    assert_eq!(pod["metadata"]["annotations"]["prometheus.io/port"], "9090");
    assert_eq!(env(&pod, "ISTIO_PROMETHEUS_ANNOTATIONS"), &Value::Null);
}

#[test]
fn a_users_own_istio_proxy_counts_before_the_template() {
    let mut pod = reviews();
    pod["spec"]["containers"].as_array_mut().unwrap().push(json!({
        "name": PROXY, "image": "auto", "resources": {"limits": {"cpu": "4"}},
        "env": [{"name": "ISTIO_META_NETWORK", "value": "mine"}],
    }));
    pod["spec"]["volumes"] = json!([{"name": "istio-data", "emptyDir": {"sizeLimit": "1Mi"}}]);
    let (pod, _) = injected(&pod, &us());
    assert_eq!(names(&pod, "containers"), ["reviews"]);
    assert_eq!(names(&pod, "initContainers"), [INIT, PROXY, "migrate"]);
    let proxy = container(&pod, PROXY);
    assert_eq!(proxy["image"], "example.net/isthmus:1");
    assert_eq!(
        proxy["resources"]["limits"],
        json!({"cpu": "4", "memory": "1024Mi"})
    );
    assert_eq!(env(&pod, "ISTIO_META_NETWORK"), "mine");
    assert_eq!(pod["spec"]["volumes"][0]["emptyDir"]["sizeLimit"], "1Mi");
    assert_eq!(
        names(&pod, "volumes")
            .iter()
            .filter(|v| *v == "istio-data")
            .count(),
        1
    );
}

#[test]
fn a_gateway_is_filled_in_where_it_stands() {
    let pod = json!({
        "metadata": {
            "name": "ingress", "labels": {"istio": "ingressgateway", "sidecar.istio.io/inject": "true"},
            "annotations": {"inject.istio.io/templates": "gateway"}
        },
        "spec": {"containers": [
            {"name": PROXY, "image": "auto", "env": [{"name": "ISTIO_META_REQUESTED_NETWORK_VIEW", "value": "us-net"}]},
            {"name": "helper", "image": "h"}
        ]}
    });
    let (after, warnings) = injected(&pod, &us());
    assert_eq!(warnings, [""; 0]);
    assert_eq!(names(&after, "containers"), [PROXY, "helper"]);
    assert_eq!(after["spec"]["initContainers"], Value::Null);
    let proxy = container(&after, PROXY);
    assert_eq!(proxy["args"][1], "router");
    assert_eq!(proxy["image"], "example.net/isthmus:1");
    assert_eq!(env(&after, "ISTIO_META_REQUESTED_NETWORK_VIEW"), "us-net");
    assert_eq!(
        after["metadata"]["labels"]["security.istio.io/tlsMode"],
        Value::Null
    );
    assert_eq!(after["spec"]["securityContext"]["sysctls"][0]["value"], "0");
}

#[test]
fn the_network_is_the_pods_then_the_namespaces_then_the_meshs() {
    let mut pod = reviews();
    let network = |pod: &Value, of: Option<&str>| {
        let request = Request {
            pod,
            namespace: "bank",
            by: Namespace::Chosen,
            network: of,
            workload: None,
        };
        match inject(&request, &us()).unwrap() {
            Outcome::Injected(i) => env(&i.pod, "ISTIO_META_NETWORK").as_str().unwrap().to_owned(),
            Outcome::Skipped(reason) => panic!("{reason}"),
        }
    };
    assert_eq!(network(&pod, None), "us-net");
    assert_eq!(network(&pod, Some("lab-net")), "lab-net");
    pod["metadata"]["labels"]["topology.istio.io/network"] = json!("own-net");
    assert_eq!(network(&pod, Some("lab-net")), "own-net");
}

#[test]
fn secrets_for_images_and_annotations_of_the_settings_reach_every_pod() {
    let settings = settings(json!({
        "global": {"imagePullSecrets": ["registry"], "imagePullPolicy": "Always", "proxy": {"excludeInboundPorts": "22"}},
        "sidecarInjectorWebhook": {"injectedAnnotations": {"example.com/mesh": "yes"}},
    }));
    let mut pod = reviews();
    pod["spec"]["imagePullSecrets"] = json!([{"name": "own"}]);
    let (pod, _) = injected(&pod, &settings);
    assert_eq!(
        pod["spec"]["imagePullSecrets"],
        json!([{"name": "own"}, {"name": "registry"}])
    );
    assert_eq!(container(&pod, PROXY)["imagePullPolicy"], "Always");
    assert_eq!(pod["metadata"]["annotations"]["example.com/mesh"], "yes");
    assert!(
        container(&pod, INIT)["args"]
            .to_string()
            .contains("excludeInboundPorts=22")
    );
}
