//! State of the world: every request names all that is wanted.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::report::{Answer, Limits, ProtocolError, Sent, TypeStatus};
use super::session::Session;
use super::watch::Mode;
use crate::envoy::service::discovery::{DiscoveryRequest, DiscoveryResponse};
use crate::resource::{Resources, TypeUrl, Version};

/// One `StreamAggregatedResources` stream.
#[derive(Debug)]
pub struct SotwSession(Session);

impl SotwSession {
    /// A stream on which nothing was said.
    pub fn new(limits: Limits) -> Self {
        Self(Session::new(Mode::Sotw, limits))
    }

    /// Takes the newest state. Whatever differs from what the client has comes out of [`Self::next_response`].
    pub fn publish(&mut self, resources: Arc<Resources>) {
        self.0.publish(resources);
    }

    /// Takes a request: a subscription, an answer to a response, or both.
    ///
    /// A request that carries the nonce of a superseded response is passed over, as Envoy's protocol
    /// demands: the client will repeat what it wants when it answers the newer response.
    pub fn request(&mut self, request: DiscoveryRequest) -> Result<Answer, ProtocolError> {
        let DiscoveryRequest {
            version_info,
            resource_names,
            type_url,
            response_nonce,
            error_detail,
            ..
        } = request;
        self.0.check_names(&type_url, resource_names.iter())?;
        let set = self.0.set(&TypeUrl::from(type_url.as_str()));
        let (ty, watch, first) = self.0.watch(&type_url)?;
        let answer = if first {
            Answer::None
        } else {
            if watch.last_nonce().is_some_and(|last| last != response_nonce) {
                return Ok(Answer::None);
            }
            self.0
                .answer(&ty, &response_nonce, error_detail.map(|e| e.message))
        };

        let (_, watch, _) = self.0.watch(&type_url)?;
        let mut names: BTreeSet<Arc<str>> = resource_names.into_iter().map(Arc::from).collect();
        let star = names.remove("*");
        watch.named |= star || !names.is_empty();
        let wildcard = star || (!watch.named && ty.is_wildcard_by_default());
        if first || wildcard != watch.wildcard || names != watch.names {
            // A name that is asked for anew is sent even when it was sent before.
            watch.force.extend(names.difference(&watch.names).cloned());
            watch.owed |= first || (wildcard && !watch.wildcard);
            watch.wildcard = wildcard;
            watch.names = names;
            watch.forget_unwanted();
            watch.touched();
        }
        if first && wildcard && watch.names.is_empty() {
            // Nothing is sent that the client already had on an earlier stream. With names this would not
            // be safe: the version cannot tell which names it was given for.
            if let Some(set) = set.filter(|s| version_info.parse::<Version>() == Ok(s.version())) {
                watch.sent = set.iter().map(|r| (r.name.clone(), r.version)).collect();
                watch.owed = false;
            }
        }
        if ty == TypeUrl::Eds && watch.take_rewarm() {
            watch.force.extend(watch.names.iter().cloned());
            watch.touched();
        }
        Ok(answer)
    }

    /// The next response that may travel now. Call until `None` after every request and publication.
    pub fn next_response(&mut self) -> Option<(Sent, DiscoveryResponse)> {
        let sent = self.0.next()?;
        let response = DiscoveryResponse {
            version_info: sent.version.to_string(),
            resources: sent.resources.iter().map(|r| r.body.clone()).collect(),
            type_url: sent.ty.as_str().to_owned(),
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
