//! The clocks of one request: the whole, one attempt, silence.

use std::future::Future;
use std::time::{Duration, Instant};

use crate::telemetry::flags::Flags;

use super::stream::Downstream;

/// The clocks of one request.
pub struct Limits {
    /// When the request began.
    pub start: Instant,
    /// For request and answer, from the end of the request on.
    pub whole: Option<Duration>,
    /// For silence.
    pub idle: Option<Duration>,
}

/// Which clock ran out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Late {
    /// The whole request.
    Whole,
    /// One attempt.
    PerTry,
    /// Nothing moved.
    Idle,
}

impl Late {
    /// Flag and details once the answer's head is out.
    pub fn after_head(self) -> (Flags, &'static str) {
        match self {
            Self::Whole | Self::PerTry => (Flags::UT, "response_timeout"),
            Self::Idle => (Flags::SI, "stream_idle_timeout"),
        }
    }
}

impl Limits {
    /// How long the upstream has for the next attempt: its own time, within what is left of the whole
    /// (Envoy's `x-envoy-expected-rq-timeout-ms`). `None` when there is no end to it.
    pub fn expected(&self, per_try: Option<Duration>, is_first: bool) -> Option<Duration> {
        let some = |d: &Duration| !d.is_zero() && *d < Duration::MAX;
        let spent = if is_first {
            Duration::ZERO
        } else {
            self.start.elapsed()
        };
        let left = self.whole.filter(some).map(|whole| whole.saturating_sub(spent));
        match (per_try.filter(some), left) {
            (Some(one), Some(left)) => Some(one.min(left)),
            (one, left) => one.or(left),
        }
    }

    /// Runs a step of the request under its clocks. The whole-request clock starts when the downstream has
    /// sent everything, as Envoy's does.
    pub async fn within<T>(
        &self,
        per_try: Option<Duration>,
        down: &Downstream,
        step: impl Future<Output = T>,
    ) -> Result<T, Late> {
        let whole = async {
            let Some(whole) = self.whole.filter(|d| !d.is_zero() && *d < Duration::MAX) else {
                return std::future::pending().await;
            };
            down.body.ended().await;
            let ended = down.body.ended_after().unwrap_or_default();
            tokio::time::sleep_until((self.start + ended + whole).into()).await;
        };
        let one_try = async {
            match per_try.filter(|d| !d.is_zero()) {
                Some(d) => tokio::time::sleep(d).await,
                None => std::future::pending().await,
            }
        };
        let idle = async {
            let Some(idle) = self.idle.filter(|d| !d.is_zero() && *d < Duration::MAX) else {
                return std::future::pending().await;
            };
            loop {
                let before = down.body.received();
                tokio::time::sleep(idle).await;
                if down.body.received() == before {
                    return;
                }
            }
        };
        tokio::select! {
            biased;
            done = step => Ok(done),
            () = whole => Err(Late::Whole),
            () = one_try => Err(Late::PerTry),
            () = idle => Err(Late::Idle),
        }
    }
}
