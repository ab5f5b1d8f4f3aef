//! AuthorizationPolicy.

use isthmus_api::Kind;
use isthmus_api::istio::AuthorizationPolicy;
use serde_json::{Value, json};

use super::{CALLER, SERVER, demand, example};

#[test]
fn every_field_of_an_authorization_policy_has_an_effect_or_a_finding() {
    let source = |source: Value| json!({"rules": [{"from": [{"source": source}]}]});
    let examples = [
        example(json!({
            "selector": {"matchLabels": {"app": "reviews"}},
            "action": "DENY",
            "rules": [{
                "from": [{"source": {
                    "principals": ["a/ns/b/sa/c"], "notPrincipals": ["a/ns/b/sa/d"], "namespaces": ["a"],
                    "notNamespaces": ["b"], "ipBlocks": ["10.0.0.0/8"], "notIpBlocks": ["10.1.0.0/16"],
                    "remoteIpBlocks": ["10.0.0.0/8"], "notRemoteIpBlocks": ["10.1.0.0/16"],
                    "trustDomains": ["a"], "notTrustDomains": ["b"]
                }}],
                "to": [{"operation": {
                    "hosts": ["a"], "notHosts": ["b"], "ports": ["9080"], "notPorts": ["81"], "methods": ["GET"],
                    "notMethods": ["PUT"], "paths": ["/a"], "notPaths": ["/b"]
                }}],
                "when": [{"key": "request.headers[x]", "values": ["a"], "notValues": ["b"]}]
            }]
        })),
        example(source(
            json!({"serviceAccounts": ["a"], "notServiceAccounts": ["b"]}),
        )),
        example(source(
            json!({"requestPrincipals": ["a"], "notRequestPrincipals": ["b"]}),
        )),
        example(json!({"action": "ALLOW", "provider": {"name": "a"}, "rules": [{}]})),
        example(json!({"action": "CUSTOM", "provider": {"name": "a"}, "rules": [{}]})),
        example(json!({
            "targetRef": {"group": "", "kind": "Service", "name": "a", "namespace": "default"}, "rules": [{}]
        })),
        example(json!({
            "targetRefs": [{"group": "", "kind": "Service", "name": "a", "namespace": "default"}], "rules": [{}]
        })),
    ];
    demand::<AuthorizationPolicy>(Kind::AuthorizationPolicy, &[SERVER, CALLER], &examples);
}
