//! What a client keeps of one type, in delta as in state of the world: what it wants, what it holds, and
//! which responses its caller has not judged yet.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use super::{Nonce, Update};
use crate::envoy::google::rpc;
use crate::resource::TypeUrl;

/// `google.rpc.Code.INVALID_ARGUMENT`, as Envoy refuses.
const INVALID_ARGUMENT: i32 = 3;

#[derive(Debug, Default)]
pub(super) struct Book {
    /// Every resource of the type is wanted.
    pub all: bool,
    /// Resources wanted by name.
    pub names: BTreeSet<Arc<str>>,
    /// Version of each resource that was accepted; in state of the world the hash of its bytes.
    pub held: BTreeMap<Arc<str>, Arc<str>>,
    /// Responses that the caller has not answered.
    unanswered: VecDeque<Unanswered>,
}

#[derive(Debug)]
struct Unanswered {
    nonce: Nonce,
    version: String,
    added: Vec<(Arc<str>, Arc<str>)>,
    removed: Vec<Arc<str>>,
}

/// The caller's answer to an update.
#[derive(Debug, Clone, Copy)]
pub(super) enum Verdict<'a> {
    Accepted,
    /// With the names that are refused; none named refuses all.
    Refused(&'a str, &'a [Arc<str>]),
}

impl Verdict<'_> {
    fn accepts(self, name: &Arc<str>) -> bool {
        match self {
            Self::Accepted => true,
            Self::Refused(_, refused) => !refused.is_empty() && !refused.contains(name),
        }
    }

    /// The request's `error_detail`.
    pub fn error_detail(self) -> Option<rpc::Status> {
        match self {
            Self::Accepted => None,
            Self::Refused(message, _) => Some(rpc::Status {
                code: INVALID_ARGUMENT,
                message: message.to_owned(),
                details: Vec::new(),
            }),
        }
    }
}

impl Book {
    /// Notes that an update waits for its answer.
    pub fn await_answer(&mut self, update: &Update) {
        self.unanswered.push_back(Unanswered {
            nonce: update.nonce.clone(),
            version: update.version.clone(),
            added: update
                .added
                .iter()
                .map(|r| (r.name.clone(), r.version.clone()))
                .collect(),
            removed: update.removed.clone(),
        });
    }

    /// Whether a response of this stream waits for its answer.
    pub fn awaits_answer(&self, stream: u64) -> bool {
        self.unanswered.iter().any(|u| u.nonce.stream == stream)
    }

    /// Holds what was accepted of an update and is still wanted. Gives the version of its response, or none
    /// when no such update waits.
    pub fn answered(&mut self, nonce: &Nonce, verdict: Verdict<'_>) -> Option<String> {
        let at = self.unanswered.iter().position(|u| u.nonce == *nonce)?;
        let update = self.unanswered.remove(at)?;
        for (name, version) in update.added {
            if verdict.accepts(&name) && (self.all || self.names.contains(&name)) {
                self.held.insert(name, version);
            }
        }
        for name in update.removed {
            if verdict.accepts(&name) {
                self.held.remove(&name);
            }
        }
        Some(update.version)
    }

    /// What is wanted, as a request says it.
    ///
    /// Where a request without names means all, the star is left out: istiod knows only that form.
    pub fn wanted(&self, ty: &TypeUrl) -> Vec<String> {
        let mut names: Vec<String> = self.names.iter().map(|n| n.to_string()).collect();
        if self.all && !(ty.is_wildcard_by_default() && names.is_empty()) {
            names.push("*".to_owned());
        }
        names
    }
}
