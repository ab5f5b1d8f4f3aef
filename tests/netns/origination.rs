//! A service behind the other cluster's public gateway, over TLS that has nothing to do with the mesh: the
//! gateway shows a certificate from a Secret, the sidecar verifies it against a root of the user's.

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};

use crate::harness::{Mesh, eventually};

const SHOP: &str = "http://shop.example.com/";

/// A root of the user's own.
fn root(name: &str) -> CertifiedIssuer<'static, KeyPair> {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(DnType::CommonName, name);
    let key = KeyPair::generate().expect("a key");
    CertifiedIssuer::self_signed(params, key).expect("a root")
}

fn indented(pem: &str) -> String {
    pem.lines().map(|line| format!("    {line}\n")).collect()
}

/// In eu: the certificate, and echo behind it.
fn gateway(certificate: &str, key: &str) -> String {
    format!(
        "
apiVersion: v1
kind: Secret
metadata: {{name: shop, namespace: istio-system}}
type: kubernetes.io/tls
stringData:
  tls.crt: |
{}  tls.key: |
{}---
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {{name: shop, namespace: echo}}
spec:
  selector: {{istio: ingressgateway}}
  servers:
  - port: {{number: 443, name: https, protocol: HTTPS}}
    hosts: [shop.example.com]
    tls: {{mode: SIMPLE, credentialName: shop}}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: shop, namespace: echo}}
spec:
  hosts: [shop.example.com]
  gateways: [shop]
  http:
  - route:
    - destination: {{host: echo, port: {{number: 80}}}}
",
        indented(certificate),
        indented(key)
    )
}

/// In us: where it is, and whom to trust.
fn client(roots: &str) -> String {
    format!(
        "
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: shop, namespace: default}}
spec:
  hosts: [shop.example.com]
  location: MESH_EXTERNAL
  resolution: DNS
  ports:
  - {{number: 80, name: http, protocol: HTTP, targetPort: 443}}
  endpoints:
  - address: ingress.eu.example.net
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {{name: shop, namespace: default}}
spec:
  host: shop.example.com
  trafficPolicy:
    tls: {{mode: SIMPLE, caCertificates: {roots}, sni: shop.example.com, subjectAltNames: [shop.example.com]}}
"
    )
}

#[test]
fn a_sidecar_originates_tls_to_the_other_clusters_public_gateway() {
    let mesh = Mesh::exclusive();
    let files = tempfile::tempdir().expect("a directory");
    let (right, wrong) = (root("shop root"), root("somebody else's root"));
    let key = KeyPair::generate().expect("a key");
    let certificate = CertificateParams::new(["shop.example.com".to_owned()])
        .and_then(|params| params.signed_by(&key, &right))
        .expect("a certificate");
    let path = |name: &str, pem: String| {
        let path = files.path().join(name);
        std::fs::write(&path, pem).expect("a file");
        path.display().to_string()
    };
    let (right, wrong) = (path("right.pem", right.pem()), path("wrong.pem", wrong.pem()));

    mesh.apply("eu", &gateway(&certificate.pem(), &key.serialize_pem()));
    mesh.apply("us", &client(&right));
    let ask = || mesh.fetch("us/sleep.default", SHOP, &["-i", "--close"]);
    eventually("echo of eu answers over the user's TLS", || {
        let answer = ask();
        let right = answer.stdout.starts_with("HTTP/1.1 200") && answer.stdout.contains("from cluster eu");
        right.then_some(()).ok_or_else(|| answer.to_string())
    });

    // Another root: the certificate is refused by the client, and the reason is said.
    mesh.apply("us", &client(&wrong));
    eventually("the certificate is refused with the reason", || {
        let answer = ask();
        let right = answer.stdout.starts_with("HTTP/1.1 503") && answer.stdout.contains("certificate");
        right.then_some(()).ok_or_else(|| answer.to_string())
    });
}
