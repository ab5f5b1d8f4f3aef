//! Answers that are kept for as long as their records say, in bounded number.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::{RData, RecordType};

use crate::wire::Question;

/// Whatever a record says, nobody waits longer than this for a change.
const LONGEST: Duration = Duration::from_secs(300);

type Key = (String, RecordType, (bool, bool, bool, bool));

#[derive(Debug)]
struct Kept {
    message: Message,
    since: Instant,
    until: Instant,
}

#[derive(Debug)]
pub(super) struct Cache {
    capacity: usize,
    kept: Mutex<HashMap<Key, Kept>>,
}

impl Cache {
    pub(super) fn new(capacity: usize) -> Self {
        Self {
            capacity,
            kept: Mutex::new(HashMap::new()),
        }
    }

    /// A kept answer with its times to live as they are now.
    pub(super) fn answer(&self, question: &Question) -> Option<Message> {
        if self.capacity == 0 {
            return None;
        }
        let now = Instant::now();
        let mut message = {
            let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
            let found = kept.get(&key(question)).filter(|k| now < k.until)?;
            let mut message = found.message.clone();
            let age = u32::try_from(now.duration_since(found.since).as_secs()).unwrap_or(u32::MAX);
            let sections = [
                &mut message.answers,
                &mut message.authorities,
                &mut message.additionals,
            ];
            for record in sections.into_iter().flatten() {
                record.ttl = record.ttl.saturating_sub(age);
            }
            message
        };
        message.metadata.authoritative = false;
        Some(message)
    }

    /// Keeps an answer if it is whole and says for how long it holds.
    pub(super) fn keep(&self, question: &Question, answer: &[u8]) {
        if self.capacity == 0 {
            return;
        }
        let Ok(message) = Message::from_vec(answer) else {
            return;
        };
        let Some(life) = life(&message) else { return };
        let now = Instant::now();
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() >= self.capacity {
            kept.retain(|_, k| now < k.until);
        }
        if kept.len() >= self.capacity {
            // Any victim will do: a cache this small is for what is asked again at once.
            if let Some(victim) = kept.keys().next().cloned() {
                kept.remove(&victim);
            }
        }
        kept.insert(
            key(question),
            Kept {
                message,
                since: now,
                until: now + life,
            },
        );
    }
}

fn key(question: &Question) -> Key {
    (question.name.clone(), question.kind, question.variant())
}

/// How long an answer holds: its least TTL, or for a denial what its SOA says (RFC 2308 section 5).
fn life(message: &Message) -> Option<Duration> {
    let denial = match message.metadata.response_code {
        ResponseCode::NoError => message.answers.is_empty(),
        ResponseCode::NXDomain => true,
        _ => return None,
    };
    if message.metadata.truncation {
        return None;
    }
    let seconds = if denial {
        message.authorities.iter().find_map(|r| match &r.data {
            RData::SOA(soa) => Some(soa.minimum.min(r.ttl)),
            _ => None,
        })?
    } else {
        message.answers.iter().map(|r| r.ttl).min()?
    };
    (seconds > 0).then(|| Duration::from_secs(seconds.into()).min(LONGEST))
}
