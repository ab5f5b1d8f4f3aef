//! Stock Envoys as gateways and sidecars of the demo's cluster us, told what to do by its control plane.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{file, installed};
use crate::harness::{Mesh, Writer, eventually};
use crate::program::openssl;

/// How Envoy asks its control plane.
const PROTOCOLS: [&str; 2] = ["delta", "sotw"];
/// A pod of us whose traffic is not captured.
const OUTSIDE: &str = "us/istio-ingressgateway";

/// YAML of this folder with this machine's paths in it.
fn yaml(name: &str, protocol: &str, directory: &std::path::Path) -> String {
    let written = std::fs::read_to_string(file("envoy").join(name)).expect("YAML of this suite");
    let python = installed("venv/bin/python3");
    [
        ("PYTHON", python.as_path()),
        ("AGENT", &file("envoy/agent.py")),
        ("ENVOY", &installed("envoy")),
        ("DIRECTORY", directory),
    ]
    .into_iter()
    .fold(written.replace("PROTOCOL", protocol), |text, (name, path)| {
        text.replace(name, &path.display().to_string())
    })
}

/// The object of everything, with a certificate that is none of the mesh's.
fn everything(directory: &std::path::Path) -> String {
    openssl(
        directory,
        "req -x509 -newkey rsa:2048 -noenc -days 30 -subj /CN=everything \
         -addext subjectAltName=DNS:everything.example.com -keyout key.pem -out cert.pem",
    );
    let pem = |name: &str| {
        let text = std::fs::read_to_string(directory.join(name)).expect("openssl made it");
        text.replace('\n', "\\n")
    };
    yaml("everything.yaml", "", directory)
        .replace("CERTIFICATE", &pem("cert.pem"))
        .replace("KEY", &pem("key.pem"))
}

/// Envoy's admin page in a pod.
fn admin(mesh: &Mesh, workload: &str, page: &str) -> Result<String, String> {
    let url = format!("http://127.0.0.1:15000/{page}");
    let said = mesh.exec(workload, &["curl", "-sS", "--max-time", "10", &url]);
    if said.code == 0 {
        Ok(said.stdout)
    } else {
        Err(said.to_string())
    }
}

/// Whether every proxy of us holds all that it was told and has refused nothing: the stock Envoys, and
/// those of our own.
fn all_accepted(mesh: &Mesh, envoys: &[String]) -> Result<(), String> {
    let said = mesh.exec(
        "us/istiod.istio-system",
        &["curl", "-sS", "http://127.0.0.1:8080/debug/syncz"],
    );
    let known: Vec<Value> = serde_json::from_str(&said.stdout).map_err(|e| format!("{e}: {said}"))?;
    // A stock Envoy says no version of Istio.
    let stock = known.iter().filter(|p| p["istio_version"] == "").count();
    let own = known
        .iter()
        .any(|p| p["proxy"].as_str().is_some_and(|p| p.starts_with("own-gateway")));
    if stock != envoys.len() || !own {
        return Err(format!(
            "{stock} of {} Envoys are connected: {said}",
            envoys.len()
        ));
    }
    for proxy in known {
        let refused: Vec<_> = proxy
            .as_object()
            .into_iter()
            .flatten()
            .filter(|(key, _)| key.ends_with("_error"))
            .collect();
        // Nothing mends what was refused once: this fails at once, not when patience ends.
        assert!(refused.is_empty(), "{}: {refused:#?}", proxy["proxy"]);
        if proxy["synced"] != true {
            return Err(format!("{proxy:#}"));
        }
    }
    for envoy in envoys {
        let counters = admin(mesh, envoy, "stats?filter=update_(rejected|failure)")?;
        let refused: Vec<&str> = counters
            .lines()
            .filter(|l| l.contains("update_rejected") && !l.ends_with(": 0"))
            .collect();
        assert!(refused.is_empty(), "{envoy}: {refused:?}");
    }
    Ok(())
}

/// Names of the clusters, listeners, routes and endpoints that an Envoy holds; a reason when one of them is
/// not active.
fn active(mesh: &Mesh, envoy: &str) -> Result<[BTreeSet<String>; 4], String> {
    let dump: Value = serde_json::from_str(&admin(mesh, envoy, "config_dump?include_eds")?)
        .map_err(|e| format!("{envoy}: {e}"))?;
    let mut held: [BTreeSet<String>; 4] = Default::default();
    let configs = dump["configs"].as_array().expect("a config dump");
    for config in configs {
        for list in ["dynamic_warming_clusters", "dynamic_warming_secrets"] {
            if let Some(waiting) = config[list].as_array().filter(|l| !l.is_empty()) {
                return Err(format!("{envoy}: {list}: {waiting:#?}"));
            }
        }
        for (kind, list, name) in [
            (0, "dynamic_active_clusters", "/cluster/name"),
            (1, "dynamic_listeners", "/name"),
            (2, "dynamic_route_configs", "/route_config/name"),
            (3, "dynamic_endpoint_configs", "/endpoint_config/cluster_name"),
        ] {
            for member in config[list].as_array().into_iter().flatten() {
                assert!(member["error_state"].is_null(), "{envoy}: {member:#}");
                if !member["warming_state"].is_null() {
                    return Err(format!("{envoy}: {member:#}"));
                }
                let name = member.pointer(name).and_then(Value::as_str).unwrap_or_default();
                held[kind].insert(name.to_owned());
            }
        }
    }
    Ok(held)
}

/// A page through an Envoy: status and answer as curl shows them.
fn curl(mesh: &Mesh, from: &str, arguments: &[&str], wanted: &[&str]) -> String {
    eventually(&format!("{arguments:?} from {from}"), || {
        let argv = [&["curl", "-sS", "-i", "--max-time", "20"], arguments].concat();
        let said = mesh.exec(from, &argv);
        let right = said.code == 0 && wanted.iter().all(|w| said.stdout.contains(w));
        if right {
            Ok(said.stdout)
        } else {
            Err(said.to_string())
        }
    })
}

fn address(mesh: &Writer, owner: &str) -> String {
    let status = mesh.status();
    let clusters = status["clusters"].as_array().into_iter().flatten();
    let pod = clusters
        .flat_map(|c| c["pods"].as_array().into_iter().flatten())
        .find(|p| p["owner"] == owner);
    pod.and_then(|p| p["address"].as_str())
        .map(str::to_owned)
        .unwrap_or_else(|| panic!("no pod of {owner}: {status:#}"))
}

#[test]
fn a_stock_envoy_takes_all_it_is_told_and_carries_the_meshs_requests() {
    let mesh = Mesh::exclusive();
    let directory = tempfile::tempdir().expect("a directory");
    let directory = directory.path();
    let mut envoys = Vec::new();
    mesh.apply("us", &yaml("routes.yaml", "", directory));
    for protocol in PROTOCOLS {
        mesh.apply("us", &yaml("gateway.yaml", protocol, directory));
        mesh.apply("us", &yaml("sidecar.yaml", protocol, directory));
        envoys.extend([format!("us/gateway-{protocol}"), format!("us/envoy-{protocol}")]);
    }
    eventually("the Envoys have taken what the demo needs", || {
        all_accepted(&mesh, &envoys)
    });

    for protocol in PROTOCOLS {
        as_a_gateway(&mesh, protocol);
        as_a_sidecar(&mesh, protocol);
    }

    // One of everything, as a change to Envoys that serve.
    mesh.apply("us", &everything(directory));
    let both = |role: &str| {
        let held: Vec<_> = PROTOCOLS
            .map(|protocol| {
                let envoy = format!("us/{role}-{protocol}");
                eventually(&format!("all that {envoy} holds is active"), || {
                    let held = active(&mesh, &envoy)?;
                    let told = held[0].iter().any(|c| c.contains("static.example.com"));
                    if told {
                        Ok(held)
                    } else {
                        Err(format!("{envoy}: {held:#?}"))
                    }
                })
            })
            .into();
        // Both protocols end in the same state; the two names that tell the Envoys apart aside.
        let alike = |held: &[BTreeSet<String>; 4]| held.clone().map(|s| s.len());
        assert_eq!(alike(&held[0]), alike(&held[1]), "{held:#?}");
        held.into_iter().next().expect("two protocols")
    };
    eventually("the Envoys have taken one of everything", || {
        all_accepted(&mesh, &envoys)
    });
    let [clusters, listeners, routes, endpoints] = both("gateway");
    for port in [83, 8080, 8081, 8443, 8444, 8445, 15443] {
        assert!(listeners.contains(&format!("0.0.0.0_{port}")), "{listeners:?}");
    }
    for subset in ["", "v1", "v2", "v3", "v4", "v5", "v6"] {
        let name = format!("outbound|80|{subset}|everything.default.svc.cluster.local");
        assert!(clusters.contains(&name), "{name}: {clusters:?}");
        let sni = format!("outbound_.80_.{subset}_.everything.default.svc.cluster.local");
        assert!(
            clusters.contains(&sni) && endpoints.contains(&sni),
            "{sni}: {clusters:?}"
        );
    }
    assert!(routes.contains("http.8080"), "{routes:?}");
    let [_, listeners, routes, _] = both("envoy");
    for name in [
        "virtualOutbound",
        "virtualInbound",
        "0.0.0.0_9080",
        "240.1.1.1_3306",
    ] {
        assert!(listeners.contains(name), "{name}: {listeners:?}");
    }
    assert!(routes.contains("9080"), "{routes:?}");

    // A rule of it that each gateway applies.
    for protocol in PROTOCOLS {
        let url = format!(
            "http://{}:8080/text",
            address(&mesh, &format!("gateway-{protocol}"))
        );
        let host = ["-H", "host: everything.example.com", &url];
        curl(&mesh, OUTSIDE, &host, &["HTTP/1.1 202", "said"]);
    }
    all_accepted(&mesh, &envoys).unwrap_or_else(|e| panic!("{e}"));
}

/// Requests from outside: to a service of us, and by mTLS through eu's east-west gateway to echo there.
fn as_a_gateway(mesh: &Writer, protocol: &str) {
    let base = format!("http://{}:8080", address(mesh, &format!("gateway-{protocol}")));
    let page = format!("{base}/productpage");
    curl(mesh, OUTSIDE, &[&page], &["HTTP/1.1 200", "The Comedy of Errors"]);
    let echo = format!("{base}/echo/through/envoy");
    let answer = curl(
        mesh,
        OUTSIDE,
        &[&echo],
        &["HTTP/1.1 200", "echo from cluster eu", "x-by: envoy"],
    );
    // The sidecar of echo has seen Envoy's certificate, which our CSR service signed.
    assert!(
        answer.contains("URI=spiffe://corp.local/ns/default/sa/default"),
        "{answer}"
    );
}

/// Captured requests of an application: in, by mTLS from one of our sidecars; out, to us and to eu.
fn as_a_sidecar(mesh: &Writer, protocol: &str) {
    let envoy = format!("us/envoy-{protocol}");
    let answer = curl(
        mesh,
        "us/sleep.default",
        &[&format!("http://envoy-{protocol}:8080/in")],
        &["HTTP/1.1 200", &format!("pod envoy-{protocol}")],
    );
    assert!(
        answer.contains("URI=spiffe://corp.local/ns/default/sa/sleep"),
        "Envoy has not seen the caller's certificate: {answer}"
    );
    curl(
        mesh,
        &envoy,
        &["http://productpage:9080/productpage"],
        &["HTTP/1.1 200", "The Comedy of Errors"],
    );
    // No DNS of the mesh beside Envoy; the listener for all addresses takes the request by its host.
    curl(
        mesh,
        &envoy,
        &["-H", "host: echo.echo", "http://192.0.2.1/out"],
        &["HTTP/1.1 200", "echo from cluster eu"],
    );
}
