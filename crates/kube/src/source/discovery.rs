//! One answer of discovery for all kinds that ask at the same time.

use std::time::Duration;

use isthmus_api::Kind;
use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::connect::Cluster;
use crate::resources::{Resource, Resources};
use crate::rest::RequestError;

/// An answer is good for so long.
const FRESH: Duration = Duration::from_secs(2);
/// An API server that says it is not ready is believed for so long; its CRDs may not be served yet.
const STARTING: Duration = Duration::from_secs(30);

pub struct Discovery {
    cluster: Cluster,
    /// Held while asking, so that one asks for all.
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    answer: Option<(Instant, Result<Resources, RequestError>)>,
    unready_since: Option<Instant>,
}

impl Discovery {
    pub fn new(cluster: Cluster) -> Self {
        Self {
            cluster,
            state: Mutex::default(),
        }
    }

    /// The served versions of a kind, the preferred one first.
    pub async fn versions(&self, kind: Kind) -> Result<Vec<Resource>, RequestError> {
        let mut state = self.state.lock().await;
        let known = state.answer.as_ref().filter(|(at, _)| at.elapsed() < FRESH);
        let answer = match known {
            Some((_, answer)) => answer.clone(),
            None => {
                let answer = self.ask(&mut state.unready_since).await;
                state.answer = Some((Instant::now(), answer.clone()));
                answer
            }
        };
        let info = kind.info();
        Ok(answer?.of(info.group, info.kind).cloned().collect())
    }

    async fn ask(&self, unready_since: &mut Option<Instant>) -> Result<Resources, RequestError> {
        match self.cluster.bytes(crate::rest::Call::get("/readyz")).await {
            Err(error @ RequestError::Refused { code: 500.., .. }) => {
                let since = *unready_since.get_or_insert_with(Instant::now);
                if since.elapsed() < STARTING {
                    return Err(error);
                }
            }
            Err(error @ RequestError::Unreachable { .. }) => return Err(error),
            // Ready, or not ours to ask.
            Ok(_) | Err(_) => *unready_since = None,
        }
        Resources::read(&self.cluster).await
    }
}
