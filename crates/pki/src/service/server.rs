//! The server's side: who asks, may they, sign.

use std::convert::Infallible;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use isthmus_model::TrustDomain;
use tokio::sync::Semaphore;
use tonic::codegen::{Body, BoxFuture, Context, Service, StdError};
use tonic::{Request, Response, Status};

use super::limit::{Buckets, Limits};
use super::{CertificateRequest, CertificateResponse, METHOD, SERVICE};
use crate::authority::{Authority, IssueError};
use crate::moment;
use crate::token::{Authenticator, Caller, Proof};

/// Longest request message, in bytes: the CSR's bound and room for metadata.
const LONGEST_MESSAGE: usize = 64 * 1024;

/// Signs requests of callers that prove who they are.
pub struct CertificateService {
    authenticator: Arc<dyn Authenticator>,
    authority: Arc<ArcSwap<Authority>>,
    trust_domain: TrustDomain,
    buckets: Buckets,
    signing: Semaphore,
    limits: Limits,
}

impl CertificateService {
    /// Signs with whatever authority is current, identities of `trust_domain`.
    pub fn new(
        authenticator: Arc<dyn Authenticator>,
        authority: Arc<ArcSwap<Authority>>,
        trust_domain: TrustDomain,
        limits: Limits,
    ) -> Self {
        Self {
            authenticator,
            authority,
            trust_domain,
            buckets: Buckets::new(limits),
            signing: Semaphore::new(limits.concurrency),
            limits,
        }
    }

    /// The gRPC service, for a tonic router.
    pub fn into_server(self) -> CertificateServer {
        CertificateServer(Arc::new(self))
    }

    async fn create(
        &self,
        request: Request<CertificateRequest>,
    ) -> Result<Response<CertificateResponse>, Status> {
        let proof = Proof::of_request(&request);
        let caller = self.authenticator.authenticate(&proof).await.map_err(|error| {
            tracing::warn!(%error, claimed_cluster = ?proof.claimed_cluster, "certificate request refused");
            Status::from(error)
        })?;
        if !self.buckets.take(&key_of(&caller), Instant::now()) {
            return Err(Status::resource_exhausted(
                "too many certificate requests of this caller: wait before the next",
            ));
        }
        let turn = tokio::time::timeout(self.limits.patience, self.signing.acquire());
        let Ok(Ok(_turn)) = turn.await else {
            return Err(Status::resource_exhausted("the authority is busy: try again"));
        };
        let identity = caller.identity(&self.trust_domain);
        let authority = self.authority.load_full();
        let request = request.into_inner();
        let ttl = match u64::try_from(request.validity_duration) {
            Ok(seconds) if seconds > 0 => Duration::from_secs(seconds),
            _ => self.limits.default_ttl,
        };
        // An RSA signature takes milliseconds: not on a thread that serves streams.
        let signed = {
            let identity = identity.clone();
            tokio::task::spawn_blocking(move || authority.issue(&request.csr, &identity, ttl)).await
        };
        match signed {
            Ok(Ok(issued)) => {
                tracing::info!(
                    %identity,
                    means = ?caller.means,
                    serial = issued.leaf.serial,
                    not_after = moment::rfc3339(issued.leaf.not_after),
                    "certificate issued"
                );
                Ok(Response::new(CertificateResponse {
                    cert_chain: issued.chain,
                }))
            }
            Ok(Err(error)) => {
                tracing::warn!(%identity, %error, "certificate request refused");
                Err(status_of(&error))
            }
            Err(error) => Err(Status::internal(format!("signing did not finish: {error}"))),
        }
    }
}

fn key_of(caller: &Caller) -> String {
    match &caller.pod {
        Some(pod) => format!("pod {}/{}/{}", caller.namespace, pod.name, pod.uid),
        None => format!("account {}/{}", caller.namespace, caller.service_account),
    }
}

fn status_of(error: &IssueError) -> Status {
    let reason = error.to_string();
    match error {
        IssueError::OtherName { .. } => Status::permission_denied(reason),
        IssueError::Encoding(_) | IssueError::TooLong | IssueError::Signature | IssueError::Key(_) => {
            Status::invalid_argument(reason)
        }
        IssueError::Expired { .. } => Status::failed_precondition(reason),
        IssueError::Signing(_) | IssueError::Certificate(_) => Status::internal(reason),
    }
}

/// [`CertificateService`] as a tonic service.
#[derive(Clone)]
pub struct CertificateServer(Arc<CertificateService>);

impl tonic::server::NamedService for CertificateServer {
    const NAME: &'static str = SERVICE;
}

impl tonic::server::UnaryService<CertificateRequest> for CertificateServer {
    type Response = CertificateResponse;
    type Future = BoxFuture<Response<CertificateResponse>, Status>;

    fn call(&mut self, request: Request<CertificateRequest>) -> Self::Future {
        let service = self.0.clone();
        Box::pin(async move { service.create(request).await })
    }
}

impl<B> Service<http::Request<B>> for CertificateServer
where
    B: Body + Send + 'static,
    B::Error: Into<StdError> + Send + 'static,
{
    type Response = http::Response<tonic::body::Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Self::Error>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<B>) -> Self::Future {
        let service = self.clone();
        Box::pin(async move {
            if request.uri().path() != METHOD {
                let reason = format!("{} is not a method of {SERVICE}", request.uri().path());
                return Ok(Status::unimplemented(reason).into_http());
            }
            let codec = tonic_prost::ProstCodec::default();
            let mut grpc = tonic::server::Grpc::new(codec).max_decoding_message_size(LONGEST_MESSAGE);
            Ok(grpc.unary(service, request).await)
        })
    }
}
