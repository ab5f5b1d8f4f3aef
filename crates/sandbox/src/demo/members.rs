//! What the sandbox adds to each cluster's own YAML: the control plane, and the Service of its DNS.

use std::fmt::Write;
use std::sync::Arc;

use isthmus_api::{Object, parse};

use crate::cluster::ClusterSettings;

/// How findings call the sandbox's own objects.
const FILE: &str = "(sandbox)";

/// Objects of a cluster that no user writes in the sandbox, since nothing has to be installed there.
pub fn objects(settings: &ClusterSettings) -> Result<Vec<Arc<Object>>, String> {
    let parsed = parse(&yaml(settings), FILE);
    if parsed.has_errors() {
        let findings: Vec<_> = parsed.findings.iter().map(ToString::to_string).collect();
        return Err(format!(
            "the control plane of {} cannot be described: {}",
            settings.id,
            findings.join("; ")
        ));
    }
    Ok(parsed.objects)
}

fn yaml(settings: &ClusterSettings) -> String {
    let mut arguments = vec![
        "control-plane".to_owned(),
        format!("--cluster-id={}", settings.id),
        format!("--network={}", settings.network),
        format!("--mesh-id={}", settings.mesh_id),
        format!("--trust-domain={}", settings.trust_domain),
        format!("--config={}", settings.config_dir().display()),
        format!("--config={}", settings.state_dir().display()),
        format!("--cacerts={}", settings.cacerts_dir().display()),
        format!("--jwks={}", settings.jwks_file().display()),
        format!("--token-issuer={}", crate::cluster::ISSUER),
        format!("--state-dir={}", settings.control_plane_dir().display()),
    ];
    arguments.extend(
        settings
            .peers
            .iter()
            .map(|(id, address)| format!("--peer={id}={address}")),
    );
    if let Some(ttl) = settings.workload_cert_ttl {
        arguments.push(format!("--workload-cert-ttl={}s", ttl.as_secs()));
    }
    let mut args = String::new();
    for argument in arguments {
        // JSON strings are YAML strings.
        let _ = write!(args, "\n        - {}", serde_json::Value::from(argument));
    }
    format!(
        r#"
apiVersion: v1
kind: ServiceAccount
metadata: {{name: istiod, namespace: istio-system}}
---
apiVersion: v1
kind: Service
metadata: {{name: istiod, namespace: istio-system, labels: {{app: istiod, istio: pilot}}}}
spec:
  selector: {{app: istiod}}
  ports:
  - {{name: grpc-xds, port: 15010}}
  - {{name: https-dns, port: 15012}}
  - {{name: http-monitoring, port: 15014}}
---
apiVersion: v1
kind: Service
metadata: {{name: kube-dns, namespace: kube-system, labels: {{k8s-app: kube-dns}}}}
spec:
  clusterIP: {dns}
  ports:
  - {{name: dns, port: 53, protocol: UDP}}
  - {{name: dns-tcp, port: 53, protocol: TCP}}
---
apiVersion: apps/v1
kind: Deployment
metadata: {{name: istiod, namespace: istio-system}}
spec:
  selector: {{matchLabels: {{app: istiod}}}}
  template:
    metadata:
      labels: {{app: istiod, istio: pilot, sidecar.istio.io/inject: "false", security.istio.io/tlsMode: istio}}
    spec:
      serviceAccountName: istiod
      containers:
      - name: discovery
        image: isthmus/isthmus:sandbox
        args:{args}
        readinessProbe: {{httpGet: {{path: /ready, port: 8080}}, periodSeconds: 1}}
"#,
        dns = settings.dns_address(),
    )
}
