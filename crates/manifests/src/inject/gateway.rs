//! Template `gateway`: the pod's container `istio-proxy` is filled in; nothing is redirected.

use serde_json::Value;

use super::{Draft, InjectError, PROXY, Template, overlay};

/// Fills in a gateway's container, which stays where it stands.
pub(super) fn fill(draft: &mut Draft<'_>) -> Result<(), InjectError> {
    let (own, at) = draft.pod.take(PROXY).ok_or(InjectError::NoGateway)?;
    let container = overlay::over(draft.container(Template::Gateway), own);
    draft.add_volumes();
    // A gateway without further rights binds the ports that its Service names, 80 and 443 among them.
    let security = draft.pod.spec.get("securityContext").and_then(Value::as_object);
    if security.is_none_or(serde_json::Map::is_empty) {
        let default = draft.settings.gateway_security.clone();
        draft.pod.spec.insert("securityContext".to_owned(), default);
    }
    let containers = draft.pod.list_mut("containers");
    containers.insert(at.min(containers.len()), Value::Object(container));
    draft.added.containers.push(PROXY.to_owned());
    Ok(())
}
