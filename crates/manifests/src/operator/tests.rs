use serde_json::{Value, json};

use super::*;
use crate::yaml;

/// The files of the seeds, as their authors published them.
const EAST_WEST: &str = "apiVersion: install.istio.io/v1alpha1\nkind: IstioOperator\nmetadata:\n  name: eastwest-gw\n  namespace: istio-system\nspec:\n  profile: empty\n  components:\n    ingressGateways:\n    - name: istio-eastwestgateway\n      enabled: true\n      label: { istio: eastwestgateway }\n      k8s:\n        service: { type: LoadBalancer }\n";
const VALUES: &str = "# values-istio.yaml\nglobal:\n  meshID: training-mesh\n  trustDomain: corp.local\n  # We will override this network value per cluster during install\n  network: us-net\npilot:\n  env:\n    PILOT_ENABLE_MULTINETWORK: \"true\"\n";

struct Typed {
    input: Input,
    surroundings: Surroundings,
}

fn typed(sets: &[&str]) -> Typed {
    Typed {
        input: Input {
            files: Vec::new(),
            sets: sets.iter().map(|s| (*s).to_owned()).collect(),
        },
        surroundings: Surroundings::default(),
    }
}

impl Typed {
    fn file(mut self, name: &str, text: &str) -> Self {
        self.input.files.push((name.to_owned(), text.to_owned()));
        self
    }

    fn context(mut self, name: &str) -> Self {
        self.surroundings.context = Some(name.to_owned());
        self
    }

    fn over(mut self, installed: &Installation) -> Self {
        let injector = installed.object("ConfigMap", "istio-sidecar-injector");
        self.surroundings.installed = yaml::read(injector["data"]["values"].as_str().unwrap())
            .unwrap()
            .pop();
        self
    }

    fn install(self) -> Installation {
        let spec = read(&self.input).unwrap_or_else(|findings| panic!("{findings:?}"));
        plan(spec, &self.surroundings).unwrap()
    }

    fn refused(self) -> Vec<String> {
        let findings = read(&self.input).err().unwrap_or_else(|| panic!("it was taken"));
        findings.iter().map(ToString::to_string).collect()
    }
}

impl Installation {
    fn object(&self, kind: &str, name: &str) -> &Value {
        self.objects()
            .find(|o| o["kind"] == kind && o["metadata"]["name"] == name)
            .unwrap_or_else(|| panic!("no {kind} {name}"))
    }

    fn names(&self) -> Vec<String> {
        let name = |o: &Value| {
            format!(
                "{} {}",
                o["kind"].as_str().unwrap(),
                o["metadata"]["name"].as_str().unwrap()
            )
        };
        self.objects()
            .map(name)
            .filter(|n| !n.starts_with("CustomResource"))
            .collect()
    }

    fn said(&self) -> Vec<String> {
        self.findings.iter().map(ToString::to_string).collect()
    }

    fn env(&self, name: &str) -> String {
        let container = &self.object("Deployment", "istiod")["spec"]["template"]["spec"]["containers"][0];
        let env = container["env"].as_array().unwrap();
        let found = env.iter().find(|e| e["name"] == name).unwrap();
        found["value"].as_str().unwrap().to_owned()
    }
}

#[test]
fn the_default_profile_is_a_control_plane_and_an_ingress_gateway_in_dependency_order() {
    let installation = typed(&[]).install();
    assert_eq!(
        installation.names(),
        [
            "Namespace istio-system",
            "ServiceAccount istio-reader-service-account",
            "ClusterRole istio-reader-clusterrole-istio-system",
            "ClusterRoleBinding istio-reader-clusterrole-istio-system",
            "ServiceAccount istiod",
            "ClusterRole istiod-clusterrole-istio-system",
            "ClusterRoleBinding istiod-clusterrole-istio-system",
            "Role istiod",
            "RoleBinding istiod",
            "ConfigMap istio",
            "ConfigMap istio-sidecar-injector",
            "Service istiocoredns",
            "Service istiod",
            "PodDisruptionBudget istiod",
            "Deployment istiod",
            "MutatingWebhookConfiguration istio-sidecar-injector",
            "ValidatingWebhookConfiguration istio-validator-istio-system",
            "ServiceAccount istio-ingressgateway-service-account",
            "Role istio-ingressgateway-service-account",
            "RoleBinding istio-ingressgateway-service-account",
            "Service istio-ingressgateway",
            "Deployment istio-ingressgateway",
            "HorizontalPodAutoscaler istio-ingressgateway",
        ]
    );
    let crds = installation
        .objects()
        .filter(|o| o["kind"] == "CustomResourceDefinition");
    assert_eq!(crds.count(), 14);
    let container = &installation.object("Deployment", "istiod")["spec"]["template"]["spec"]["containers"][0];
    assert_eq!(
        container["image"],
        format!("ghcr.io/isthmus-mesh/isthmus:{}", crate::chart::VERSION)
    );
    assert_eq!(container["args"][0], "control-plane");
    assert_eq!(
        installation.object("Namespace", "istio-system")["metadata"].get("labels"),
        None
    );
}

#[test]
fn profiles_differ_in_what_they_bring() {
    let deployments = |sets: &[&str]| {
        let names = typed(sets).install().names();
        let deployments = names
            .into_iter()
            .filter_map(|n| n.strip_prefix("Deployment ").map(str::to_owned));
        deployments.collect::<Vec<_>>()
    };
    assert_eq!(deployments(&["profile=minimal"]), ["istiod"]);
    assert_eq!(
        deployments(&["profile=demo"]),
        ["istiod", "istio-ingressgateway", "istio-egressgateway"]
    );
    assert_eq!(deployments(&["profile=remote"]), [""; 0]);
    assert_eq!(typed(&["profile=empty"]).install().names(), [""; 0]);
    assert_eq!(typed(&["profile=remote"]).install().names().len(), 4);
    let mesh = typed(&["profile=demo"]).install();
    let mesh = mesh.object("ConfigMap", "istio")["data"]["mesh"]
        .as_str()
        .unwrap()
        .to_owned();
    assert!(mesh.contains("accessLogFile: /dev/stdout"), "{mesh}");
}

#[test]
fn the_seeds_values_file_is_taken_as_it_is() {
    let installation = typed(&["values.global.network=eu-net"])
        .file("values-istio.yaml", VALUES)
        .install();
    assert_eq!(installation.env("NETWORK"), "eu-net");
    assert_eq!(installation.env("CLUSTER_ID"), "eu");
    assert_eq!(installation.env("MESH_ID"), "training-mesh");
    assert_eq!(installation.env("TRUST_DOMAIN"), "corp.local");
    assert_eq!(
        installation.object("Namespace", "istio-system")["metadata"]["labels"],
        json!({ "topology.istio.io/network": "eu-net" })
    );
    let mesh = installation.object("ConfigMap", "istio")["data"]["mesh"]
        .as_str()
        .unwrap();
    assert!(mesh.contains("trustDomain: corp.local"), "{mesh}");
    let said = installation.said();
    assert_eq!(
        said[0],
        "values-istio.yaml:9: warning [ISM0009] pilot.env.PILOT_ENABLE_MULTINETWORK: has no effect: several networks need no switch; remove it"
    );
    assert!(
        said[1].contains("called \"eu\", after the network \"eu-net\""),
        "{said:?}"
    );
    assert_eq!(said.len(), 2, "{said:?}");
}

#[test]
fn the_seeds_east_west_gateway_is_complete_by_its_label_alone() {
    let control_plane = typed(&["values.global.network=us-net"]).install();
    let installation = typed(&[])
        .file("eastwest.yaml", EAST_WEST)
        .over(&control_plane)
        .install();
    assert_eq!(installation.name, "eastwest-gw");
    assert_eq!(
        installation.names(),
        [
            "ServiceAccount istio-eastwestgateway-service-account",
            "Role istio-eastwestgateway-service-account",
            "RoleBinding istio-eastwestgateway-service-account",
            "Service istio-eastwestgateway",
            "Deployment istio-eastwestgateway",
            "Gateway cross-network-gateway",
        ]
    );
    let service = installation.object("Service", "istio-eastwestgateway");
    assert_eq!(service["spec"]["type"], "LoadBalancer");
    assert_eq!(
        service["metadata"]["labels"]["topology.istio.io/network"],
        "us-net"
    );
    let ports: Vec<_> = service["spec"]["ports"]
        .as_array()
        .unwrap()
        .iter()
        .map(|p| p["port"].as_u64().unwrap())
        .collect();
    assert_eq!(ports, [15021, 15443, 15012, 15017]);
    let pod = &installation.object("Deployment", "istio-eastwestgateway")["spec"]["template"];
    assert_eq!(pod["metadata"]["labels"]["topology.istio.io/network"], "us-net");
    assert_eq!(pod["metadata"]["labels"]["istio"], "eastwestgateway");
    assert_eq!(
        pod["metadata"]["annotations"]["inject.istio.io/templates"],
        "gateway"
    );
    let gateway = installation.object("Gateway", "cross-network-gateway");
    assert_eq!(gateway["spec"]["selector"], json!({ "istio": "eastwestgateway" }));
    assert_eq!(gateway["spec"]["servers"][0]["tls"]["mode"], "AUTO_PASSTHROUGH");
    assert_eq!(gateway["spec"]["servers"][0]["hosts"], json!(["*.local"]));
    assert_eq!(installation.said(), [""; 0]);
}

#[test]
fn an_east_west_gateway_of_a_network_without_a_name_has_its_ports_and_a_warning() {
    let installation = typed(&[]).file("eastwest.yaml", EAST_WEST).install();
    let ports = &installation.object("Service", "istio-eastwestgateway")["spec"]["ports"];
    assert_eq!(ports.as_array().unwrap().len(), 4);
    let said = installation.said();
    assert!(said[0].contains("--set values.global.network=us-net"), "{said:?}");
}

#[test]
fn two_ingress_gateways_stand_side_by_side_with_settings_of_their_own() {
    let text = "apiVersion: install.istio.io/v1alpha1\nkind: IstioOperator\nspec:\n  components:\n    ingressGateways:\n    - name: istio-ingressgateway\n      enabled: false\n    - name: ingress-public\n      enabled: true\n      label: {istio: ingress-public}\n      k8s:\n        service: {type: LoadBalancer}\n        hpaSpec: {minReplicas: 2, maxReplicas: 4}\n    - name: ingress-internal\n      namespace: edge\n      enabled: true\n      label: {istio: ingress-internal}\n      k8s:\n        serviceAnnotations: {cloud.example/load-balancer-type: Internal}\n        env: [{name: ISTIO_META_X, value: y}]\n        nodeSelector: {edge: \"true\"}\n";
    let installation = typed(&[]).file("gateway.yaml", text).install();
    let names = installation.names();
    assert!(
        !names.contains(&"Deployment istio-ingressgateway".to_owned()),
        "{names:?}"
    );
    let public = installation.object("HorizontalPodAutoscaler", "ingress-public");
    assert_eq!(public["spec"]["maxReplicas"], 4);
    let internal = installation.object("Deployment", "ingress-internal");
    assert_eq!(internal["metadata"]["namespace"], "edge");
    assert_eq!(
        internal["spec"]["selector"]["matchLabels"],
        json!({ "app": "ingress-internal", "istio": "ingress-internal" })
    );
    assert_eq!(
        internal["spec"]["template"]["spec"]["nodeSelector"]["edge"],
        "true"
    );
    let service = installation.object("Service", "ingress-internal");
    assert_eq!(
        service["metadata"]["annotations"]["cloud.example/load-balancer-type"],
        "Internal"
    );
    assert!(names.contains(&"Namespace edge".to_owned()), "{names:?}");
}

#[test]
fn files_are_laid_over_each_other_in_order_and_sets_come_last() {
    let first = "apiVersion: install.istio.io/v1alpha1\nkind: IstioOperator\nmetadata: {name: a}\nspec:\n  hub: one.example\n  tag: 1.20\n  meshConfig: {accessLogFile: /dev/stdout}\n  values: {global: {logAsJson: true}}\n";
    let second = first
        .replace("one.example", "two.example")
        .replace("name: a", "name: b");
    let installation = typed(&[
        "meshConfig.accessLogFile=/dev/stderr",
        "components.ingressGateways[0].enabled=false",
        "revision=canary",
    ])
    .file("a.yaml", first)
    .file("b.yaml", &second)
    .context("admin@prod.us")
    .install();
    let container =
        &installation.object("Deployment", "istiod-canary")["spec"]["template"]["spec"]["containers"][0];
    assert_eq!(container["image"], "two.example/isthmus:1.20");
    assert!(
        container["args"]
            .as_array()
            .unwrap()
            .contains(&json!("--log-as-json"))
    );
    assert_eq!(
        (installation.name.as_str(), installation.revision.as_str()),
        ("b", "canary")
    );
    let mesh = &installation.object("ConfigMap", "istio-canary")["data"]["mesh"];
    assert!(
        mesh.as_str().unwrap().contains("accessLogFile: /dev/stderr"),
        "{mesh}"
    );
    assert!(!installation.names().iter().any(|n| n.contains("ingressgateway")));
    let said = installation.said();
    assert!(
        said.iter()
            .any(|s| s.contains("called \"prod-us\", after the kube context")),
        "{said:?}"
    );
}

#[test]
fn what_does_not_exist_is_an_error_with_its_line_and_a_suggestion() {
    let text = "apiVersion: install.istio.io/v1alpha1\nkind: IstioOperator\nmetadata: {name: a}\nspec:\n  meshConfig:\n    accesLogFile: /dev/stdout\n  component: {}\n  components:\n    pilot:\n      k8s:\n        replicacount: 2\n        env: {A: b}\n  values:\n    global:\n      meshId: x\n";
    let said = typed(&[]).file("a.yaml", text).refused();
    let has = |start: &str, end: &str| said.iter().any(|s| s.starts_with(start) && s.ends_with(end));
    assert!(has("a.yaml:6: error", "did you mean accessLogFile?"), "{said:#?}");
    assert!(has("a.yaml:7: error", "did you mean components?"), "{said:#?}");
    assert!(has("a.yaml:11: error", "did you mean replicaCount?"), "{said:#?}");
    assert!(
        has(
            "a.yaml:12: error",
            "expected a list, found {\"A\":\"b\"}; correct it"
        ),
        "{said:#?}"
    );
    assert!(has("a.yaml:15: error", "did you mean meshID?"), "{said:#?}");
}

#[test]
fn a_set_is_checked_like_a_file() {
    let said = typed(&["values.global.netwrk=x"]).refused();
    assert!(
        said[0].contains("--set values.global.netwrk=x: ") && said[0].ends_with("did you mean network?"),
        "{said:?}"
    );
    let said = typed(&["global.network=x"]).refused();
    assert!(said[0].contains("--set values.global.network=x"), "{said:?}");
    let said = typed(&["profile=defualt"]).refused();
    assert!(said[0].contains("did you mean default?"), "{said:?}");
    let said = typed(&["components.ingressGateways[5].enabled=true"]).refused();
    assert!(said[0].contains("the next index is [1]"), "{said:?}");
    let said = typed(&["values.pilot.traceSampling=100"]).install().said();
    assert!(said[0].contains("has no effect"), "{said:?}");
    assert_eq!(
        typed(&["components.ingressGateways[0].k8s.replicaCount=2"])
            .install()
            .said()
            .len(),
        2
    );
}

#[test]
fn two_trust_domains_are_said_and_the_meshs_counts() {
    let installation = typed(&[
        "values.global.trustDomain=a.example",
        "meshConfig.trustDomain=b.example",
    ])
    .install();
    assert_eq!(installation.env("TRUST_DOMAIN"), "b.example");
    assert!(installation.said().iter().any(|s| s.contains("ISM0106")));
}

#[test]
fn every_object_carries_its_owner_and_namespaces_do_not() {
    let installation = typed(&["profile=demo"]).install();
    for object in installation.objects() {
        let owner = object["metadata"]["labels"][OWNER_LABEL].as_str();
        assert_eq!(owner.is_none(), object["kind"] == "Namespace", "{object}");
        // The API server defaults it, and pruning compares it.
        let namespaced = !matches!(
            object["kind"].as_str().unwrap(),
            "Namespace"
                | "CustomResourceDefinition"
                | "ClusterRole"
                | "ClusterRoleBinding"
                | "MutatingWebhookConfiguration"
                | "ValidatingWebhookConfiguration"
        );
        assert_eq!(
            object["metadata"]["namespace"].is_string(),
            namespaced,
            "{object}"
        );
    }
}

#[test]
fn the_control_plane_may_read_every_kind_and_runs_without_privileges() {
    let installation = typed(&[]).install();
    let rules = &installation.object("ClusterRole", "istiod-clusterrole-istio-system")["rules"];
    for kind in isthmus_api::Kind::ALL
        .iter()
        .filter(|k| **k != isthmus_api::Kind::IstioOperator)
    {
        let info = kind.info();
        for verb in ["get", "list", "watch"] {
            let has = |list: &Value, wanted: &str| {
                list.as_array()
                    .into_iter()
                    .flatten()
                    .any(|v| v == wanted || v == "*")
            };
            let allowed = rules.as_array().unwrap().iter().any(|rule| {
                has(&rule["apiGroups"], info.group)
                    && has(&rule["resources"], info.plural)
                    && has(&rule["verbs"], verb)
                    && rule.get("resourceNames").is_none()
            });
            assert!(allowed, "{verb} {kind}");
        }
    }
    let pod = &installation.object("Deployment", "istiod")["spec"]["template"]["spec"];
    let security = &pod["containers"][0]["securityContext"];
    assert_eq!(security["runAsUser"], 1337);
    assert_eq!(security["readOnlyRootFilesystem"], true);
    assert_eq!(security["capabilities"]["drop"], json!(["ALL"]));
    assert_eq!(pod["securityContext"]["seccompProfile"]["type"], "RuntimeDefault");
}

#[test]
fn webhooks_never_wait_for_us_in_the_clusters_own_namespaces() {
    let installation = typed(&["values.sidecarInjectorWebhook.enableNamespacesByDefault=true"]).install();
    let injector = installation.object("MutatingWebhookConfiguration", "istio-sidecar-injector");
    let webhooks = injector["webhooks"].as_array().unwrap();
    assert_eq!(webhooks.len(), 5);
    for webhook in webhooks {
        let expressions = webhook["namespaceSelector"]["matchExpressions"]
            .as_array()
            .unwrap();
        let spared = expressions
            .iter()
            .any(|e| e["key"] == "kubernetes.io/metadata.name" && e["operator"] == "NotIn");
        assert!(spared, "{webhook}");
        assert_eq!(webhook["clientConfig"].get("caBundle"), None);
    }
    let validator = installation.object("ValidatingWebhookConfiguration", "istio-validator-istio-system");
    assert_eq!(validator["webhooks"][0]["failurePolicy"], "Ignore");
}
