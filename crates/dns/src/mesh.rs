//! What a sidecar answers on :15053: the mesh's names itself, everything else from upstream.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use arc_swap::ArcSwapOption;
use hickory_proto::op::ResponseCode;
use hickory_proto::rr::rdata::{A, AAAA, CNAME};
use hickory_proto::rr::{Name, RData, Record, RecordType};

use crate::forward::Forwarder;
use crate::server::{Decision, Denial, Handler};
use crate::table::{Addresses, NameTable, Scope};
use crate::wire::{Question, Reply};

/// Seconds for which a client may keep an answer (Istio's agent says the same).
pub const TTL: u32 = 30;

/// Answers from a name table that may be replaced at any time.
#[derive(Debug)]
pub struct MeshNames {
    table: Arc<ArcSwapOption<NameTable>>,
    scope: Scope,
    forwarder: Option<Forwarder>,
    turn: AtomicUsize,
}

impl MeshNames {
    /// `table` is `None` until the control plane has sent the first one. Until then questions are
    /// forwarded, but nobody is told that a name does not exist: it may be one that is about to come.
    pub fn new(table: Arc<ArcSwapOption<NameTable>>, scope: Scope, forwarder: Forwarder) -> Self {
        Self {
            table,
            scope,
            forwarder: Some(forwarder),
            turn: AtomicUsize::new(0),
        }
    }

    /// Answers for the mesh's names alone, as a stub domain's server: it asks nobody, so that the server which
    /// sends it the mesh's names and gets everything else can never be asked in turn.
    pub fn stub(table: Arc<ArcSwapOption<NameTable>>, scope: Scope) -> Self {
        Self {
            table,
            scope,
            forwarder: None,
            turn: AtomicUsize::new(0),
        }
    }

    /// What is not in the table, or not of the wanted type.
    fn elsewhere(&self, denial: Denial) -> Decision {
        match &self.forwarder {
            Some(forwarder) => Decision::Forward(forwarder.clone(), denial),
            None => Decision::Answer(match denial {
                Denial::Keep => Reply::code(ResponseCode::NXDomain),
                Denial::NoData => Reply::authoritative(Vec::new()),
                Denial::AskAgain => Reply::code(ResponseCode::ServFail),
            }),
        }
    }
}

impl Handler for MeshNames {
    fn decide(&self, question: &Question) -> Decision {
        let table = self.table.load();
        let Some(table) = table.as_ref() else {
            return self.elsewhere(Denial::AskAgain);
        };
        let Some(found) = table.lookup(&question.name, &self.scope) else {
            return self.elsewhere(Denial::Keep);
        };
        let addresses = question.wants(RecordType::A) || question.wants(RecordType::AAAA);
        let mut answers = Vec::new();
        let owner = match found.alias.map(|alias| Name::from_ascii(format!("{alias}."))) {
            None if addresses => question.owner().clone(),
            // A Service's SRV records and a public name's MX are upstream's to know, that the name exists is ours.
            None => return self.elsewhere(Denial::NoData),
            Some(Ok(target)) => {
                answers.push(question.record(TTL, RData::CNAME(CNAME(target.clone()))));
                target
            }
            Some(Err(_)) => return Decision::Answer(Reply::code(ResponseCode::NXDomain)),
        };
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        push_addresses(&mut answers, question, &owner, found.addresses, turn, TTL);
        Decision::Answer(Reply::authoritative(answers))
    }
}

/// Appends the records that `question` wants, the `turn`th address first.
pub(crate) fn push_addresses(
    answers: &mut Vec<Record>,
    question: &Question,
    owner: &Name,
    addresses: Addresses<'_>,
    turn: usize,
    ttl: u32,
) {
    if question.wants(RecordType::A) {
        let data = rotated(addresses.v4, turn).map(|ip| RData::A(A(*ip)));
        answers.extend(data.map(|d| Record::from_rdata(owner.clone(), ttl, d)));
    }
    if question.wants(RecordType::AAAA) {
        let data = rotated(addresses.v6, turn).map(|ip| RData::AAAA(AAAA(*ip)));
        answers.extend(data.map(|d| Record::from_rdata(owner.clone(), ttl, d)));
    }
}

fn rotated<T>(all: &[T], turn: usize) -> impl Iterator<Item = &T> {
    let (before, after) = all.split_at(turn.checked_rem(all.len()).unwrap_or(0));
    after.iter().chain(before)
}
