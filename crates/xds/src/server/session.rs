//! What one stream knows of its client, the same for both protocols, and what may travel when.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::report::{Answer, Limits, ProtocolError, Sent, TypeStatus};
use super::watch::{Difference, Mode, Outstanding, Scope, Watch};
use crate::resource::{ResourceSet, Resources, TypeUrl};

/// One stream.
#[derive(Debug)]
pub(super) struct Session {
    mode: Mode,
    limits: Limits,
    /// What the client may have; empty until the first publication.
    resources: Arc<Resources>,
    /// Whether anything was published. Before that no response is sent, or "nothing" would be an answer.
    published: bool,
    watches: BTreeMap<TypeUrl, Watch>,
    /// Last nonce given.
    nonce: u64,
}

impl Session {
    pub fn new(mode: Mode, limits: Limits) -> Self {
        Self {
            mode,
            limits,
            resources: Arc::default(),
            published: false,
            watches: BTreeMap::new(),
            nonce: 0,
        }
    }

    /// The watch for a type, made on its first request; says whether this is the first.
    pub fn watch(&mut self, type_url: &str) -> Result<(TypeUrl, &mut Watch, bool), ProtocolError> {
        if type_url.is_empty() {
            return Err(ProtocolError::NoType);
        }
        if type_url.len() > self.limits.name_length {
            return Err(ProtocolError::NameTooLong {
                ty: TypeUrl::Other("".into()),
                limit: self.limits.name_length,
            });
        }
        let ty = TypeUrl::from(type_url);
        let first = !self.watches.contains_key(&ty);
        if first && self.watches.len() >= self.limits.types {
            return Err(ProtocolError::TooManyTypes(self.limits.types));
        }
        let watch = self.watches.entry(ty.clone()).or_insert_with(Watch::new);
        Ok((ty, watch, first))
    }

    /// Refuses names beyond the bounds before anything is remembered of them.
    pub fn check_names<'a>(
        &self,
        type_url: &str,
        names: impl ExactSizeIterator<Item = &'a String>,
    ) -> Result<(), ProtocolError> {
        let limits = &self.limits;
        if names.len() > limits.names {
            return Err(ProtocolError::TooManyNames {
                ty: type_url.into(),
                limit: limits.names,
            });
        }
        for name in names {
            if name.len() > limits.name_length {
                return Err(ProtocolError::NameTooLong {
                    ty: type_url.into(),
                    limit: limits.name_length,
                });
            }
        }
        Ok(())
    }

    /// Refuses a subscription that has grown beyond the bound.
    pub fn check_size(&self, ty: &TypeUrl) -> Result<(), ProtocolError> {
        match self.watches.get(ty) {
            Some(watch) if watch.names.len() > self.limits.names => Err(ProtocolError::TooManyNames {
                ty: ty.clone(),
                limit: self.limits.names,
            }),
            _ => Ok(()),
        }
    }

    pub fn set(&self, ty: &TypeUrl) -> Option<Arc<ResourceSet>> {
        self.resources.set(ty).cloned()
    }

    /// Takes a newer state. What is not sent yet of an older one is never sent.
    pub fn publish(&mut self, resources: Arc<Resources>) {
        let nothing = ResourceSet::default();
        for ty in [TypeUrl::Cds, TypeUrl::Eds] {
            let Some(watch) = self.watches.get_mut(&ty) else {
                continue;
            };
            let old = self.resources.set(&ty).map_or(&nothing, |s| s.as_ref());
            let new = resources.set(&ty).map_or(&nothing, |s| s.as_ref());
            if old.version() == new.version() {
                continue;
            }
            if self.mode == Mode::Delta || !ty.is_full_state() {
                continue;
            }
            watch.held.retain(|name, _| new.member(name).is_none());
            for resource in old.iter() {
                if new.member(&resource.name).is_none() && watch.sent.contains_key(&resource.name) {
                    watch.held.insert(resource.name.clone(), resource.clone());
                }
            }
        }
        self.resources = resources;
        self.published = true;
    }

    /// Settles the response that the nonce belongs to.
    pub fn answer(&mut self, ty: &TypeUrl, nonce: &str, error: Option<String>) -> Answer {
        let Some(watch) = self.watches.get_mut(ty) else {
            return Answer::None;
        };
        let Some(outstanding) = watch.outstanding.take_if(|o| o.nonce == nonce) else {
            return Answer::None;
        };
        let Outstanding {
            nonce,
            version,
            names,
        } = outstanding;
        match error {
            None => {
                watch.error = None;
                watch.acked = Some((version, nonce.clone()));
                Answer::Ack {
                    ty: ty.clone(),
                    version,
                    nonce,
                }
            }
            Some(error) => {
                let error = cut(error, 4096);
                watch.error = Some(error.clone());
                watch.retry.extend(names);
                Answer::Nack {
                    ty: ty.clone(),
                    version,
                    nonce,
                    error,
                }
            }
        }
    }

    /// The next response that may travel now. Call until `None` after every request and publication.
    pub fn next(&mut self) -> Option<Sent> {
        if !self.published {
            return None;
        }
        let hold = self.removals_must_wait();
        // Whether a newer state of clusters or endpoints, or of listeners, waits for an answer.
        let (mut clusters, mut listeners) = (false, false);
        let nothing = Arc::new(ResourceSet::default());
        for (ty, watch) in &mut self.watches {
            let set = self.resources.set(ty).unwrap_or(&nothing);
            let scope = match ty {
                TypeUrl::Eds if clusters => Scope::Asked,
                TypeUrl::Lds | TypeUrl::Rds if clusters => continue,
                TypeUrl::Rds if listeners => Scope::Asked,
                _ => Scope::All,
            };
            let hold = hold && matches!(ty, TypeUrl::Cds | TypeUrl::Eds);
            if watch.outstanding.is_some() {
                match ty {
                    TypeUrl::Cds | TypeUrl::Eds => clusters |= watch.has_news(self.mode, ty, set, hold),
                    TypeUrl::Lds => listeners |= watch.has_news(self.mode, ty, set, hold),
                    _ => {}
                }
                continue;
            }
            let Some((version, difference)) = watch.take(self.mode, ty, set, hold, scope, &self.limits)
            else {
                continue;
            };
            let Difference {
                changed: resources,
                removed,
                ..
            } = difference;
            self.nonce += 1;
            let nonce = self.nonce.to_string();
            watch.outstanding = Some(Outstanding {
                nonce: nonce.clone(),
                version,
                names: resources
                    .iter()
                    .map(|r| r.name.clone())
                    .chain(removed.iter().cloned())
                    .collect(),
            });
            watch.last = Some((version, nonce.clone()));
            let ty = ty.clone();
            if ty == TypeUrl::Cds
                && self.mode == Mode::Sotw
                && let Some(endpoints) = self.watches.get_mut(&TypeUrl::Eds)
            {
                endpoints.rewarm = true;
            }
            return Some(Sent {
                ty,
                version,
                nonce,
                resources,
                removed,
            });
        }
        None
    }

    /// Whether listeners or routes are on their way, or were refused so that older ones still serve.
    fn removals_must_wait(&self) -> bool {
        let nothing = ResourceSet::default();
        [TypeUrl::Lds, TypeUrl::Rds].iter().any(|ty| {
            self.watches.get(ty).is_some_and(|watch| {
                let set = self.resources.set(ty).map_or(&nothing, |s| s.as_ref());
                watch.outstanding.is_some()
                    || watch.error.is_some()
                    || watch.has_news(self.mode, ty, set, false)
            })
        })
    }

    pub fn status(&self) -> Vec<TypeStatus> {
        let nothing = ResourceSet::default();
        self.watches
            .iter()
            .map(|(ty, watch)| {
                let set = self.resources.set(ty).map_or(&nothing, |s| s.as_ref());
                TypeStatus {
                    ty: ty.clone(),
                    wildcard: watch.wildcard,
                    names: watch.names.len(),
                    resources: watch.sent.len(),
                    sent: watch.last.clone(),
                    acked: watch.acked.clone(),
                    error: watch.error.clone(),
                    synced: self.published
                        && watch.outstanding.is_none()
                        && watch.error.is_none()
                        && !watch.has_news(self.mode, ty, set, false),
                }
            })
            .collect()
    }
}

fn cut(mut text: String, limit: usize) -> String {
    if text.len() > limit {
        let end = (0..=limit).rev().find(|i| text.is_char_boundary(*i)).unwrap_or(0);
        text.truncate(end);
    }
    text
}
