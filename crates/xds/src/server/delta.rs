//! Delta: requests and responses say what changed.

use std::sync::Arc;

use super::report::{Answer, Limits, ProtocolError, Sent, TypeStatus};
use super::session::Session;
use super::watch::Mode;
use crate::envoy::service::discovery::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, Resource as WireResource,
};
use crate::resource::{Resources, TypeUrl, Version};

/// One `DeltaAggregatedResources` stream.
#[derive(Debug)]
pub struct DeltaSession(Session);

impl DeltaSession {
    /// A stream on which nothing was said.
    pub fn new(limits: Limits) -> Self {
        Self(Session::new(Mode::Delta, limits))
    }

    /// Takes the newest state. Whatever differs from what the client has comes out of [`Self::next_response`].
    pub fn publish(&mut self, resources: Arc<Resources>) {
        self.0.publish(resources);
    }

    /// Takes a request: a subscription, an answer to a response, or both.
    ///
    /// Changes of the subscription count even under a stale nonce (Envoy's protocol, "Incremental xDS").
    pub fn request(&mut self, request: DeltaDiscoveryRequest) -> Result<Answer, ProtocolError> {
        let DeltaDiscoveryRequest {
            type_url,
            resource_names_subscribe: subscribe,
            resource_names_unsubscribe: unsubscribe,
            initial_resource_versions,
            response_nonce,
            error_detail,
            ..
        } = request;
        self.0.check_names(&type_url, subscribe.iter())?;
        self.0.check_names(&type_url, unsubscribe.iter())?;
        self.0.check_names(&type_url, initial_resource_versions.keys())?;
        let set = self.0.set(&TypeUrl::from(type_url.as_str()));
        let (ty, watch, first) = self.0.watch(&type_url)?;

        if first {
            watch.sent = initial_resource_versions
                .iter()
                .map(|(name, version)| {
                    (
                        Arc::from(name.as_str()),
                        version.parse().unwrap_or(Version::UNKNOWN),
                    )
                })
                .collect();
            watch.wildcard = subscribe.is_empty() && unsubscribe.is_empty() && ty.is_wildcard_by_default();
            watch.owed = watch.wildcard && watch.sent.is_empty();
        }
        if !subscribe.is_empty() || !unsubscribe.is_empty() {
            watch.touched();
        }
        for name in subscribe {
            if name == "*" {
                watch.owed |= !watch.wildcard && watch.sent.is_empty();
                watch.wildcard = true;
                continue;
            }
            let name: Arc<str> = name.into();
            // What is asked for is sent, whatever the client was sent before: it may have dropped it. Only
            // on a new stream does the client say what it holds.
            if !(first && watch.sent.contains_key(&name)) {
                watch.force.insert(name.clone());
                watch.gone.insert(name.clone());
            }
            watch.names.insert(name);
        }
        for name in unsubscribe {
            if name == "*" {
                watch.wildcard = false;
                watch.owed = false;
                watch.forget_unwanted();
                continue;
            }
            if !watch.names.remove(name.as_str()) {
                continue;
            }
            watch.gone.remove(name.as_str());
            watch.force.remove(name.as_str());
            if !watch.wildcard {
                watch.sent.remove(name.as_str());
            } else if set.as_ref().is_some_and(|s| s.member(&name).is_some()) {
                // The wildcard may cover the name as well, which the client cannot know: it is told.
                watch.force.insert(name.into());
            } else {
                watch.sent.remove(name.as_str());
                watch.gone.insert(name.into());
            }
        }
        if first {
            watch.forget_unwanted();
        }
        self.0.check_size(&ty)?;
        if response_nonce.is_empty() {
            return Ok(Answer::None);
        }
        Ok(self
            .0
            .answer(&ty, &response_nonce, error_detail.map(|e| e.message)))
    }

    /// The next response that may travel now. Call until `None` after every request and publication.
    pub fn next_response(&mut self) -> Option<(Sent, DeltaDiscoveryResponse)> {
        let sent = self.0.next()?;
        let resources = sent.resources.iter().map(|r| WireResource {
            name: r.name.to_string(),
            version: r.version.to_string(),
            resource: Some(r.body.clone()),
            ..Default::default()
        });
        let response = DeltaDiscoveryResponse {
            system_version_info: sent.version.to_string(),
            resources: resources.collect(),
            type_url: sent.ty.as_str().to_owned(),
            removed_resources: sent.removed.iter().map(|n| n.to_string()).collect(),
            nonce: sent.nonce.clone(),
            ..Default::default()
        };
        Some((sent, response))
    }

    /// Where every subscribed type stands.
    pub fn status(&self) -> Vec<TypeStatus> {
        self.0.status()
    }
}
