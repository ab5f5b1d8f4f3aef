//! MeshConfig.

use crate::parse;

#[test]
fn mesh_config_findings_have_the_lines_of_the_file() {
    let text = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: istio, namespace: istio-system}\ndata:\n  mesh: |-\n    \
                trustDomain: corp.local\n    acessLogFile: /dev/stdout\n    connectTimeout: 5\n";
    let parsed = parse(text, "f.yaml");
    let found: Vec<_> = parsed.findings.iter().map(|f| (f.line, f.code.id)).collect();
    assert_eq!(found, [(7, "IST0133"), (8, "IST0106")]);
    assert!(parsed.findings[0].remedy.contains("accessLogFile"));

    let (config, findings) = crate::mesh_config::from_text(
        "trustDomain: corp.local\nlocalityLbSetting:\n  failover: [{from: us, to: us}]\npathNormalization: {normalization: NONE}\n",
        "mesh.yaml",
    );
    assert_eq!(config.trust_domain().as_str(), "corp.local");
    assert!(config.auto_mtls() && config.locality_enabled() && config.connect_timeout().as_secs() == 10);
    let found: Vec<_> = findings.iter().map(|f| (f.line, f.code.id)).collect();
    assert_eq!(found, [(3, "IST0106"), (4, "ISM0006")]);
}
