//! What users get for what they write.

use super::*;
use crate::istio::service_entry::{Location, Resolution};
use crate::istio::{ServiceEntry, StringMatch, VirtualService};
use crate::kubernetes::{IntOrString, Service};

fn findings(text: &str) -> Vec<String> {
    parse(text, "f.yaml")
        .findings
        .iter()
        .map(ToString::to_string)
        .collect()
}

const ECHO: &str = "\
apiVersion: networking.istio.io/v1beta1
kind: ServiceEntry
metadata:
  name: echo-eu-through-gateway
  namespace: echo
spec:
  hosts:
  - echo.eu.mesh.local
  addresses:
  - 240.0.0.2/32 # A dummy VIP for routing
  ports:
  - number: 80
    name: http
    protocol: HTTP
  resolution: DNS
  location: MESH_EXTERNAL
  endpoints:
  - address: eastwest.eu.example.com
    ports: { http: 15443 }
    locality: eu
";

#[test]
fn the_service_entry_of_the_tutorial() {
    let parsed = parse(ECHO, "echo.yaml");
    assert_eq!(parsed.findings, []);
    let object = &parsed.objects[0];
    assert_eq!(
        object.key().to_string(),
        "ServiceEntry echo/echo-eu-through-gateway"
    );
    let entry = object.typed::<ServiceEntry>().unwrap();
    assert_eq!(entry.resolution, Resolution::Dns);
    assert_eq!(entry.location, Location::MeshExternal);
    assert_eq!(entry.endpoints[0].ports["http"], 15443);
    assert_eq!(object.reference("spec.endpoints[0].ports.http"), "echo.yaml:19");
    assert_eq!(object.reference("spec.endpoints[0].weight"), "echo.yaml:18");
    assert!(object.typed::<VirtualService>().is_none());
}

#[test]
fn a_typo_is_named_with_line_and_nearest_name_and_all_are_found_at_once() {
    let text = ECHO
        .replace("  location:", "  locaton:")
        .replace("    locality", "    localty");
    let found = findings(&text);
    assert_eq!(
        found,
        [
            "f.yaml:16: error [IST0106] (ServiceEntry echo/echo-eu-through-gateway) \
             spec.locaton: unknown field \"locaton\"; did you mean location?",
            "f.yaml:20: error [IST0106] (ServiceEntry echo/echo-eu-through-gateway) \
             spec.endpoints[0].localty: unknown field \"localty\"; did you mean locality?",
        ]
    );
}

#[test]
fn a_wrong_type_says_what_was_expected_and_what_to_do() {
    let found = findings(&ECHO.replace("number: 80", "number: 80000"));
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].starts_with("f.yaml:12: error [IST0106]"), "{found:?}");
    assert!(
        found[0].contains("spec.ports[0].number: 80000 is out of range; write a port from 1 to 65535"),
        "{found:?}"
    );

    let found = findings(&ECHO.replace("name: http", "name: 80"));
    assert!(
        found[0].contains("expected text, found the number 80; put it in quotes: \"80\""),
        "{found:?}"
    );

    let found = findings(&ECHO.replace("resolution: DNS", "resolution: dns"));
    assert!(
        found[0].contains("\"dns\" is not a value of this field; did you mean DNS?"),
        "{found:?}"
    );

    let found = findings(&ECHO.replace("  hosts:\n  - echo.eu", "  hosts: echo.eu"));
    assert!(found[0].contains("spec.hosts: expected a list"), "{found:?}");
}

#[test]
fn one_bad_document_leaves_its_neighbours_alone() {
    let text = format!(
        "{ECHO}---\na: [1, 2\n---\nkind: Service\n---\n{}",
        ECHO.replace("echo-eu-", "other-")
    );
    let parsed = parse(&text, "f.yaml");
    assert_eq!(parsed.objects.len(), 2);
    assert_eq!(parsed.objects[1].origin.line, 26);
    assert_eq!(parsed.objects[1].reference("spec.hosts[0]"), "f.yaml:33");
    let found: Vec<_> = parsed.findings.iter().map(|f| (f.line, f.code.id)).collect();
    assert_eq!(found, [(22, "ISM0001"), (24, "ISM0002")]);
    assert!(parsed.unattributed);
}

#[test]
fn proto_json_leniency() {
    let text = "\
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: reviews}
spec:
  hosts: [reviews]
  export_to: ['.']
  http:
  - match:
    - uri: {prefix: /a}
      headers: {x-there: {}, x-is: {exact: b}}
      port: '9080'
    timeout: 1m30s
    retries: {attempts: \"3\", per_try_timeout: 0.5s}
    route:
    - destination: {host: reviews}
      weight: null
";
    let parsed = parse(text, "f.yaml");
    assert_eq!(parsed.findings, []);
    let service = parsed.objects[0].typed::<VirtualService>().unwrap();
    assert_eq!(parsed.objects[0].meta.namespace, "default");
    assert_eq!(service.export_to, ["."]);
    let route = &service.http[0];
    assert_eq!(route.matches[0].headers["x-there"], StringMatch::Present);
    assert_eq!(route.matches[0].port, Some(9080));
    assert_eq!(route.timeout.unwrap().as_secs(), 90);
    assert_eq!(
        route
            .retries
            .as_ref()
            .unwrap()
            .per_try_timeout
            .unwrap()
            .as_millis(),
        500
    );
    assert_eq!(parsed.objects[0].reference("spec.exportTo"), "f.yaml:6");

    let two = findings(&text.replace("{exact: b}", "{exact: b, regex: c}"));
    assert!(
        two[0].starts_with("f.yaml:10:") && two[0].contains("exact, prefix and regex exclude each other"),
        "{two:?}"
    );
    let both = findings(&text.replace("  export_to", "  exportTo: []\n  export_to"));
    assert!(
        both[0].contains("export_to and exportTo are the same field"),
        "{both:?}"
    );
}

#[test]
fn kubernetes_kinds_and_lists_and_json() {
    let json = r#"{"apiVersion": "v1", "kind": "List", "items": [
	{"apiVersion": "v1", "kind": "Service", "metadata": {"name": "reviews", "namespace": "default"},
	 "spec": {"clusterIP": "10.0.0.9", "selector": {"app": "reviews"},
	          "ports": [{"name": "http", "port": 9080, "targetPort": "web"}, {"name": "b", "port": 80, "targetPort": 8080}]}}]}"#;
    let parsed = parse(json, "s.json");
    assert_eq!(parsed.findings, []);
    let service = parsed.objects[0].typed::<Service>().unwrap();
    assert_eq!(
        service.spec.ports[0].target_port,
        Some(IntOrString::Name("web".into()))
    );
    assert_eq!(service.spec.ports[1].target_port, Some(IntOrString::Number(8080)));
    assert_eq!(parsed.objects[0].reference("spec.clusterIP"), "s.json:3");
}

#[test]
fn a_kind_that_is_misspelt_is_an_error_and_one_that_is_not_ours_is_not() {
    let kind = |api: &str, kind: &str| {
        findings(&format!(
            "apiVersion: {api}\nkind: {kind}\nmetadata: {{name: x}}\n"
        ))
    };
    assert!(kind("networking.istio.io/v1", "VirtualServise")[0].contains("did you mean VirtualService?"));
    assert!(
        kind("security.istio.io/v1", "VirtualService")[0]
            .contains("write apiVersion: networking.istio.io/v1")
    );
    assert!(kind("networking.istio.io/v9", "VirtualService")[0].contains("error [ISM0004]"));
    assert!(kind("rbac.authorization.k8s.io/v1", "Role")[0].contains("info [ISM0003]"));
}

#[test]
fn the_same_object_twice() {
    let parsed = parse(&format!("{ECHO}---\n{ECHO}"), "f.yaml");
    assert_eq!(parsed.objects.len(), 1);
    assert_eq!(parsed.findings.len(), 1);
    assert_eq!(parsed.findings[0].code.id, "ISM0005");
    assert!(
        parsed.findings[0].message.contains("f.yaml:1"),
        "{}",
        parsed.findings[0]
    );
}

#[test]
fn anchors_and_merges() {
    let text = "\
apiVersion: v1
kind: Service
metadata: {name: a}
spec:
  selector: &labels {app: a, version: v1}
  ports:
  - &port {name: http, port: 80}
  - <<: *port
    name: http-2
    port: 81
";
    let parsed = parse(text, "f.yaml");
    assert_eq!(parsed.findings, []);
    let service = parsed.objects[0].typed::<Service>().unwrap();
    assert_eq!(
        (service.spec.ports[1].name.as_str(), service.spec.ports[1].port),
        ("http-2", 81)
    );
}

#[test]
fn back_to_json_without_empty_fields() {
    let parsed = parse(ECHO, "f.yaml");
    let json = parsed.objects[0].to_json().unwrap();
    assert_eq!(json["apiVersion"], "networking.istio.io/v1");
    assert_eq!(json["spec"]["endpoints"][0]["ports"]["http"], 15443);
    assert!(json["spec"].get("exportTo").is_none());
    assert!(json["metadata"].get("generation").is_none());
    let again = parse_json(&json, "api");
    assert_eq!(again.findings, []);
    assert_eq!(again.objects[0].spec, parsed.objects[0].spec);
}

#[test]
fn a_finding_is_one_line_whatever_the_file_says() {
    let text = "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: x}\nspec: {\"a\\n\\u001b[2J\": 1}\n";
    for line in findings(text) {
        assert!(!line.contains(['\n', '\u{1b}']), "{line:?}");
    }
}
