//! PeerAuthentication.

use isthmus_api::Kind;
use isthmus_api::istio::PeerAuthentication;
use serde_json::json;

use super::{CALLER, SERVER, demand, example};

#[test]
fn every_field_of_a_peer_authentication_has_an_effect_or_a_finding() {
    demand::<PeerAuthentication>(
        Kind::PeerAuthentication,
        &[SERVER, CALLER],
        &[example(json!({
            "selector": {"matchLabels": {"app": "reviews"}}, "mtls": {"mode": "STRICT"},
            "portLevelMtls": {"9080": {"mode": "DISABLE"}}
        }))],
    );
}
