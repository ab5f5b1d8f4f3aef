//! Keeps a workload's credential fresh: a new key and certificate at half life, over outages of the authority.
//!
//! ```text
//!   key + CSR ─> CertificateSource ─> Credential ─> watch ─> next handshake
//!      ^                                              │
//!      └── half life ± jitter, or back-off ───────────┘
//! ```

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use isthmus_model::SpiffeId;
use rand::Rng;
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;

use crate::credential::{Credential, CredentialError, Credentials};
use crate::key::{KeyAlgorithm, PrivateKey};
use crate::moment;
use crate::service::{CertificateSource, SourceError};

/// First pause after a failure; it doubles with each.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
/// Longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// The wall clock is looked at this often: it decides, and it may jump while a machine sleeps.
const LOOK_AT_CLOCK: Duration = Duration::from_secs(30);

/// What to keep fresh.
#[derive(Clone)]
pub struct Renewal {
    /// Who the workload is.
    pub identity: SpiffeId,
    /// Who signs.
    pub source: Arc<dyn CertificateSource>,
    /// Validity to ask for; zero is the authority's default (24 h).
    pub ttl: Duration,
    /// Kind of key.
    pub algorithm: KeyAlgorithm,
}

/// How renewal is going.
#[derive(Debug, Clone, Default)]
pub struct Status {
    /// When the present credential came.
    pub renewed: Option<SystemTime>,
    /// When the next attempt is due.
    pub next: Option<SystemTime>,
    /// Failures in a row.
    pub failures: u32,
    /// Why the last attempt failed; `None` after a success.
    pub last_error: Option<String>,
}

/// A running renewal; it ends when this is dropped. The credentials stay readable.
pub struct RenewalTask {
    credentials: Credentials,
    status: watch::Receiver<Status>,
    wake: Arc<Notify>,
    task: JoinHandle<()>,
}

/// Why an attempt failed.
#[derive(Debug, thiserror::Error)]
enum AttemptError {
    #[error(transparent)]
    Source(#[from] SourceError),
    #[error("the answer of the certificate service cannot be used: {0}")]
    Answer(#[from] CredentialError),
    #[error("making a key failed: {0}")]
    Key(String),
}

impl Renewal {
    /// Starts in a task of the current tokio runtime.
    pub fn start(self) -> RenewalTask {
        let (sender, credentials) = watch::channel(None);
        let (status_sender, status) = watch::channel(Status::default());
        let wake = Arc::new(Notify::new());
        let task = tokio::spawn(self.run(sender, status_sender, wake.clone()));
        RenewalTask {
            credentials,
            status,
            wake,
            task,
        }
    }

    async fn run(
        self,
        credentials: watch::Sender<Option<Arc<Credential>>>,
        status: watch::Sender<Status>,
        wake: Arc<Notify>,
    ) {
        let mut failures: u32 = 0;
        loop {
            let (pause, error) = match self.attempt().await {
                Ok(credential) => {
                    failures = 0;
                    let pause = renew_after(&credential, SystemTime::now());
                    tracing::info!(
                        identity = %self.identity,
                        serial = credential.serial,
                        not_after = moment::rfc3339(credential.not_after),
                        "certificate received"
                    );
                    credentials.send_replace(Some(Arc::new(credential)));
                    (pause, None)
                }
                Err(error) => {
                    failures = failures.saturating_add(1);
                    let held = credentials.borrow().clone();
                    let now = SystemTime::now();
                    let pause = back_off(failures, held.as_ref().map(|c| c.remaining(now)));
                    self.report(&error, held.as_deref(), pause, now);
                    (pause, Some(error.to_string()))
                }
            };
            let next = SystemTime::now() + pause;
            status.send_modify(|s| {
                if error.is_none() {
                    s.renewed = Some(SystemTime::now());
                }
                s.next = Some(next);
                s.failures = failures;
                s.last_error = error;
            });
            tokio::select! {
                () = sleep_until(next) => {}
                () = wake.notified() => {}
            }
        }
    }

    async fn attempt(&self) -> Result<Credential, AttemptError> {
        let algorithm = self.algorithm;
        let identity = self.identity.clone();
        // An RSA key takes long to make: not on a thread that serves traffic.
        let made = tokio::task::spawn_blocking(move || {
            let key = PrivateKey::generate(algorithm)?;
            let request = key.certificate_request(&identity)?;
            Ok::<_, crate::key::KeyError>((key, request))
        });
        let (key, request) = made
            .await
            .map_err(|e| AttemptError::Key(e.to_string()))?
            .map_err(|e| AttemptError::Key(e.to_string()))?;
        let answer = self.source.sign(request, self.ttl).await?;
        let identity = self.identity.clone();
        Ok(Credential::from_answer(
            identity,
            key,
            &answer.chain,
            answer.trusted.as_ref(),
        )?)
    }

    fn report(&self, error: &AttemptError, held: Option<&Credential>, pause: Duration, now: SystemTime) {
        let identity = &self.identity;
        let retry = format!("{:.1}s", pause.as_secs_f64());
        match held {
            Some(c) if c.is_valid(now) => tracing::warn!(
                %identity, %error, retry,
                until = moment::rfc3339(c.not_after),
                "certificate not renewed; the present one stays in use"
            ),
            Some(c) => tracing::error!(
                %identity, %error, retry,
                since = moment::rfc3339(c.not_after),
                "certificate not renewed and the present one has expired: peers refuse this workload"
            ),
            None => tracing::warn!(%identity, %error, retry, "no certificate yet"),
        }
    }
}

impl RenewalTask {
    /// The present credential, and each new one.
    pub fn credentials(&self) -> Credentials {
        self.credentials.clone()
    }

    /// How it is going.
    pub fn status(&self) -> watch::Receiver<Status> {
        self.status.clone()
    }

    /// Renews at once: the authority or its roots have changed.
    pub fn renew_now(&self) {
        self.wake.notify_one();
    }

    /// Waits for the first credential.
    pub async fn first(&self) -> Result<Arc<Credential>, CredentialError> {
        let mut credentials = self.credentials.clone();
        let held = credentials.wait_for(Option::is_some).await;
        let held = held.map_err(|_| CredentialError::NotReady)?;
        held.clone().ok_or(CredentialError::NotReady)
    }
}

impl Drop for RenewalTask {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Half of what is left, a tenth of it earlier or later, so that a fleet started at once spreads out.
fn renew_after(credential: &Credential, now: SystemTime) -> Duration {
    let half = credential.remaining(now) / 2;
    half.mul_f64(rand::rng().random_range(0.9..=1.1))
}

/// Doubles from [`FIRST_PAUSE`]; a quarter of the life that is left bounds it, so that an authority that
/// comes back in time is found in time.
fn back_off(failures: u32, remaining: Option<Duration>) -> Duration {
    let doubled = FIRST_PAUSE.saturating_mul(1 << failures.saturating_sub(1).min(16));
    let bound = match remaining {
        Some(left) if !left.is_zero() => (left / 4).clamp(FIRST_PAUSE, LONGEST_PAUSE),
        _ => LONGEST_PAUSE / 6,
    };
    doubled.min(bound).mul_f64(rand::rng().random_range(0.5..=1.0))
}

async fn sleep_until(at: SystemTime) {
    while let Ok(left) = at.duration_since(SystemTime::now()) {
        tokio::time::sleep(left.clamp(Duration::from_millis(1), LOOK_AT_CLOCK)).await;
    }
}
