//! Installing, by the command and by Helm: what is applied is valid, complete, the same both ways, and goes again.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};

use isthmus_manifests::yaml;
use serde_json::Value;

use crate::clusters::Clusters;

/// A values file for Istio's charts, as it is published.
const VALUES: &str = "global:\n  meshID: training-mesh\n  trustDomain: corp.local\n  network: us-net\npilot:\n  env:\n    PILOT_ENABLE_MULTINETWORK: \"true\"\n";
/// An IstioOperator for an east-west gateway, as it is published.
const EAST_WEST: &str = "apiVersion: install.istio.io/v1alpha1\nkind: IstioOperator\nmetadata:\n  name: eastwest-gw\n  namespace: istio-system\nspec:\n  profile: empty\n  components:\n    ingressGateways:\n    - name: istio-eastwestgateway\n      enabled: true\n      label: { istio: eastwestgateway }\n      k8s:\n        service: { type: LoadBalancer }\n";

/// Labels that tell who installed an object.
const INSTALLERS: &[&str] = &[
    "app.kubernetes.io/managed-by",
    "install.operator.istio.io/owning-resource",
    "istio.io/rev",
    "operator.istio.io/component",
    "operator.istio.io/managed",
    "operator.istio.io/version",
];

fn charts() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/charts")
}

fn file(clusters: &Clusters, name: &str, text: &str) -> String {
    let path = clusters.mesh().dir().join(name);
    fs::write(&path, text).expect("the sandbox's directory can be written");
    path.display().to_string()
}

/// Everything that is not the cluster's own, by kind, namespace and name.
fn inventory(clusters: &Clusters) -> BTreeSet<String> {
    let kinds = "crd,clusterrole,clusterrolebinding,mutatingwebhookconfiguration,validatingwebhookconfiguration,namespace,\
                 deployment,service,configmap,secret,serviceaccount,role,rolebinding,poddisruptionbudget,\
                 horizontalpodautoscaler,lease";
    let said = clusters.kubectl("us", &["get", kinds, "-A", "-o", "json", "--ignore-not-found"]);
    let list: Value = serde_json::from_str(&said).expect("kubectl prints JSON");
    let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
    let items = list["items"].as_array().into_iter().flatten();
    items
        .map(|o| {
            format!(
                "{} {}/{}",
                text(&o["kind"]),
                text(&o["metadata"]["namespace"]),
                text(&o["metadata"]["name"])
            )
        })
        // The API server's own come and go with it.
        .filter(|name| {
            !name.starts_with("Lease kube-") && !name.contains("system:") && !name.contains("apiserver-")
        })
        .collect()
}

#[test]
fn an_installation_is_valid_complete_repeatable_and_leaves_nothing() {
    let clusters = Clusters::alone();
    let before = inventory(&clusters);
    let values = file(&clusters, "values-istio.yaml", VALUES);
    let east_west = file(&clusters, "eastwest.yaml", EAST_WEST);

    // A rehearsal in an empty cluster changes nothing.
    let rehearsal = clusters.run("isthmus", &["install", "-f", &values, "--dry-run"], "");
    assert_eq!(rehearsal.code, 0, "{rehearsal}");
    assert!(
        rehearsal
            .stdout
            .contains("Deployment istio-system/istiod would be created"),
        "{rehearsal}"
    );
    assert!(
        rehearsal
            .stderr
            .contains("PILOT_ENABLE_MULTINETWORK: has no effect"),
        "{rehearsal}"
    );
    assert_eq!(inventory(&clusters), before);

    // What is printed passes strict validation, once its kinds are known.
    clusters.isthmus(&["install", "--set", "profile=remote", "-y"]);
    for profile in ["default", "demo", "minimal"] {
        let set = format!("profile={profile}");
        let printed = clusters.isthmus(&["manifest", "generate", "--set", &set, "-f", &values]);
        assert_eq!(
            printed,
            clusters.isthmus(&["manifest", "generate", "--set", &set, "-f", &values])
        );
        clusters.kubectl_with(
            "us",
            &["apply", "--dry-run=server", "--validate=strict", "-f", "-"],
            &printed,
        );
    }

    // The control plane, then the gateway by its label alone: its network is that of the control plane.
    let install = ["install", "-f", &values, "--set", "profile=minimal", "-y"];
    let first = clusters.run("isthmus", &install, "");
    assert_eq!(first.code, 0, "{first}");
    let again = clusters.run("isthmus", &install, "");
    assert!(
        again.stderr.contains("0 objects created, 0 changed, 0 removed"),
        "{again}"
    );
    clusters.isthmus(&["install", "-f", &east_west, "-y"]);
    let service = clusters.kubectl(
        "us",
        &[
            "get",
            "service",
            "istio-eastwestgateway",
            "-n",
            "istio-system",
            "-o",
            "json",
        ],
    );
    let service: Value = serde_json::from_str(&service).expect("kubectl prints JSON");
    assert_eq!(
        service["metadata"]["labels"]["topology.istio.io/network"],
        "us-net"
    );
    clusters.kubectl(
        "us",
        &["get", "gateway", "cross-network-gateway", "-n", "istio-system"],
    );

    // What is no longer wanted goes with the next run; the other installation is not touched.
    let more = [
        "--set",
        "components.ingressGateways[2].name=second",
        "--set",
        "components.ingressGateways[2].enabled=true",
    ];
    let with_second: Vec<&str> = ["install", "-f", &east_west, "-y"]
        .into_iter()
        .chain(more)
        .collect();
    clusters.isthmus(&with_second);
    let pruned = clusters.run("isthmus", &["install", "-f", &east_west, "-y"], "");
    assert!(
        pruned.stderr.contains("Removed Deployment istio-system/second"),
        "{pruned}"
    );
    clusters.kubectl(
        "us",
        &[
            "get",
            "deployment",
            "istiod",
            "istio-eastwestgateway",
            "-n",
            "istio-system",
        ],
    );

    // An upgrade to what runs has nothing to do.
    let upgrade = clusters.run(
        "isthmus",
        &["upgrade", "-f", &values, "--set", "profile=minimal"],
        "",
    );
    assert!(upgrade.stderr.contains("nothing is to be done"), "{upgrade}");

    // Fields of others are not taken without a word.
    clusters.kubectl(
        "us",
        &[
            "set",
            "image",
            "deployment/istiod",
            "discovery=example.com/isthmus:1",
            "-n",
            "istio-system",
        ],
    );
    let conflict = clusters.run("isthmus", &install, "");
    assert_eq!(conflict.code, 1, "{conflict}");
    assert!(
        conflict.stderr.contains("kubectl") && conflict.stderr.contains("--force"),
        "{conflict}"
    );
    let forced: Vec<&str> = install.into_iter().chain(["--force"]).collect();
    clusters.isthmus(&forced);

    // What users made stays, what was installed goes.
    clusters.kubectl("us", &["create", "configmap", "mine", "-n", "default"]);
    clusters.isthmus(&["uninstall", "-f", &east_west, "-y"]);
    clusters.kubectl("us", &["get", "deployment", "istiod", "-n", "istio-system"]);
    clusters.isthmus(&["uninstall", "-y"]);
    clusters.kubectl("us", &["get", "crd", "virtualservices.networking.istio.io"]);
    clusters.isthmus(&["uninstall", "--purge", "-y"]);
    clusters.kubectl(
        "us",
        &["wait", "--for=delete", "namespace/istio-system", "--timeout=60s"],
    );
    clusters.kubectl("us", &["get", "configmap", "mine", "-n", "default"]);
    clusters.kubectl("us", &["delete", "configmap", "mine", "-n", "default"]);
    assert_eq!(inventory(&clusters), before);
}

/// Objects by kind, namespace and name, without the labels that tell installers apart.
fn by_name(text: &str) -> BTreeMap<String, Value> {
    let objects = yaml::read(text).expect("objects are YAML");
    let objects = objects.into_iter().filter(Value::is_object);
    objects
        .map(|mut object| {
            if let Some(labels) = object
                .pointer_mut("/metadata/labels")
                .and_then(Value::as_object_mut)
            {
                labels.retain(|name, _| !INSTALLERS.contains(&name.as_str()));
            }
            let metadata = &object["metadata"];
            (
                format!(
                    "{} {}/{}",
                    object["kind"], metadata["namespace"], metadata["name"]
                ),
                object,
            )
        })
        .collect()
}

#[test]
fn helm_takes_the_charts_and_renders_what_install_applies() {
    let clusters = Clusters::alone();
    let values = file(&clusters, "values-istio.yaml", VALUES);
    let chart = |name: &str| charts().join(name).display().to_string();
    let helm = |arguments: &[&str]| {
        let output = clusters.run("helm", arguments, "");
        assert_eq!(output.code, 0, "helm {}: {output}", arguments.join(" "));
        output.stdout
    };
    for name in ["base", "istiod", "gateway"] {
        helm(&["lint", "--strict", &chart(name)]);
    }

    // The same objects both ways.
    let base = helm(&["template", "istio-base", &chart("base"), "-n", "istio-system"]);
    let istiod = helm(&[
        "template",
        "istiod",
        &chart("istiod"),
        "-n",
        "istio-system",
        "-f",
        &values,
    ]);
    let theirs = by_name(&format!("{base}\n---\n{istiod}"));
    let printed = clusters.isthmus(&["manifest", "generate", "--set", "profile=minimal", "-f", &values]);
    let mut ours = by_name(&printed);
    ours.remove("\"Namespace\" null/\"istio-system\"");
    assert_eq!(theirs.keys().collect::<Vec<_>>(), ours.keys().collect::<Vec<_>>());
    for (name, object) in &ours {
        assert_eq!(&theirs[name], object, "{name}");
    }

    // A value that does not exist is refused by the schema.
    let wrong = clusters.run(
        "helm",
        &["template", "istiod", &chart("istiod"), "--set", "global.netwrk=x"],
        "",
    );
    assert!(wrong.code != 0 && wrong.stderr.contains("netwrk"), "{wrong}");

    // Istio's own commands, from a repository by Istio's name.
    let packages = clusters.mesh().dir().join("charts");
    fs::create_dir_all(&packages).expect("the sandbox's directory can be written");
    let packages = packages.display().to_string();
    for name in ["base", "istiod", "gateway"] {
        helm(&["package", "-d", &packages, &chart(name)]);
    }
    helm(&["repo", "index", &packages]);
    let repository = serve(PathBuf::from(&packages));
    let config = clusters
        .mesh()
        .dir()
        .join("helm-repositories.yaml")
        .display()
        .to_string();
    let cache = clusters.mesh().dir().join("helm-cache").display().to_string();
    let helm = |arguments: &[&str]| {
        let all: Vec<&str> = ["--repository-config", &config, "--repository-cache", &cache]
            .into_iter()
            .chain(arguments.iter().copied())
            .collect();
        helm(&all)
    };
    helm(&["repo", "add", "istio", &format!("http://{repository}")]);
    helm(&[
        "upgrade",
        "--install",
        "istio-base",
        "istio/base",
        "-n",
        "istio-system",
        "--create-namespace",
        "--kube-context",
        "us",
    ]);
    let istiod = [
        "upgrade",
        "--install",
        "istiod",
        "istio/istiod",
        "-n",
        "istio-system",
        "-f",
        &values,
        "--set",
        "global.network=us-net",
        "--kube-context",
        "us",
        "--wait",
    ];
    helm(&istiod);
    helm(&istiod);
    helm(&[
        "upgrade",
        "--install",
        "istio-ingressgateway",
        "istio/gateway",
        "-n",
        "istio-system",
        "--kube-context",
        "us",
    ]);
    clusters.kubectl(
        "us",
        &[
            "get",
            "deployment",
            "istiod",
            "istio-ingressgateway",
            "-n",
            "istio-system",
        ],
    );
    helm(&[
        "uninstall",
        "istio-ingressgateway",
        "istiod",
        "istio-base",
        "-n",
        "istio-system",
        "--kube-context",
        "us",
    ]);
    let left = clusters.kubectl(
        "us",
        &[
            "get",
            "deployment,service,mutatingwebhookconfiguration",
            "-n",
            "istio-system",
            "-o",
            "name",
        ],
    );
    assert_eq!(left, "");
    // Definitions are kept, since what users wrote would go with them.
    clusters.kubectl("us", &["get", "crd", "virtualservices.networking.istio.io"]);
}

/// Serves the files of a directory over HTTP until the test ends.
fn serve(dir: PathBuf) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
    let address = listener.local_addr().expect("it is bound");
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let mut lines = BufReader::new(&stream).lines().map_while(Result::ok);
            let request = lines.next().unwrap_or_default();
            let path = request
                .split_whitespace()
                .nth(1)
                .unwrap_or_default()
                .trim_start_matches('/');
            // The headers are read, so that the caller is not cut off while it writes.
            lines.find(String::is_empty);
            let body = fs::read(dir.join(path));
            let (status, body) = body.map_or(("404 Not Found", Vec::new()), |body| ("200 OK", body));
            let head = format!(
                "HTTP/1.1 {status}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
                body.len()
            );
            let mut stream = &stream;
            // Whoever asked may be gone.
            let _ = stream
                .write_all(head.as_bytes())
                .and_then(|()| stream.write_all(&body));
        }
    });
    address
}
