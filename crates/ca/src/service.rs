//! `istio.v1.auth.IstioCertificateService`: what every agent calls.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use lateen_names::SpiffeId;
use lateen_pki::{Csr, IssueError};
use lateen_proto::istio::v1::auth::istio_certificate_service_server::{
    IstioCertificateService, IstioCertificateServiceServer,
};
use lateen_proto::istio::v1::auth::{IstioCertificateRequest, IstioCertificateResponse};
use lateen_proto::value::Kind;
use tonic::{Request, Response, Status};
use tracing::{info, warn};

use crate::authenticate::{Authenticator, Caller, Proof, claimed_subject};
use crate::authority::{CertificateAuthority, Issued};
use crate::impersonate::{ImpersonationError, NodeAuthorizer};

/// The largest message that is read: a request of [`Csr::MAX_BYTES`] with room for metadata.
const MAX_MESSAGE: usize = 64 * 1024;

/// The metadata field by which a node proxy asks for the certificate of a workload on its node.
const IMPERSONATED_IDENTITY: &str = "ImpersonatedIdentity";

/// The certificate service.
#[derive(Clone)]
pub struct CertificateService {
    authority: CertificateAuthority,
    authenticator: Arc<Authenticator>,
    nodes: Option<Arc<dyn NodeAuthorizer>>,
}

impl CertificateService {
    /// Serves `authority` to whom `authenticator` knows.
    #[must_use]
    pub fn new(authority: CertificateAuthority, authenticator: Arc<Authenticator>) -> Self {
        Self {
            authority,
            authenticator,
            nodes: None,
        }
    }

    /// Lets node proxies ask for certificates of the workloads on their nodes.
    #[must_use]
    pub fn with_nodes(mut self, nodes: Arc<dyn NodeAuthorizer>) -> Self {
        self.nodes = Some(nodes);
        self
    }

    /// As a gRPC service, with its limit on messages.
    #[must_use]
    pub fn into_server(self) -> IstioCertificateServiceServer<Self> {
        IstioCertificateServiceServer::new(self).max_decoding_message_size(MAX_MESSAGE)
    }

    async fn caller(&self, request: &Request<IstioCertificateRequest>) -> Result<Caller, Status> {
        self.authenticator.authenticate_request(request).await.map_err(|error| {
            let metrics = self.authority.metrics();
            metrics.authentication_failures.inc();
            metrics.refusals.with_label_values(&[error.reason()]).inc();
            let claimed = claimed_subject(request.metadata().as_ref());
            warn!(reason = error.reason(), %error, claimed, peer = ?request.remote_addr(), "refused to certify a caller without proof");
            Status::from(&error)
        })
    }

    /// The identity to certify: the caller's own, or the one that a node proxy asks for.
    async fn identity(&self, request: &IstioCertificateRequest, caller: &Caller) -> Result<SpiffeId, Status> {
        let asked = request
            .metadata
            .as_ref()
            .and_then(|metadata| metadata.fields.get(IMPERSONATED_IDENTITY));
        let asked = match asked.and_then(|value| value.kind.as_ref()) {
            None | Some(Kind::NullValue(_)) => return Ok(caller.identity.clone()),
            Some(Kind::StringValue(text)) if text.is_empty() => return Ok(caller.identity.clone()),
            Some(Kind::StringValue(text)) => text.chars().take(256).collect(),
            Some(_) => "a value that is no text".to_owned(),
        };
        let wanted = asked.parse::<SpiffeId>().ok();
        if wanted.as_ref() == Some(&caller.identity) {
            return Ok(caller.identity.clone());
        }
        let error = match (&self.nodes, wanted) {
            (None, _) => ImpersonationError::Disabled,
            (Some(nodes), Some(wanted)) if wanted.trust_domain == *self.authority.trust_domain() => {
                match nodes.authorize(caller, &wanted).await {
                    Ok(()) => return Ok(wanted),
                    Err(error) => error,
                }
            }
            _ => ImpersonationError::NotAnIdentity(asked.clone()),
        };
        let metrics = self.authority.metrics();
        metrics.authentication_failures.inc();
        metrics.refusals.with_label_values(&[error.reason()]).inc();
        warn!(reason = error.reason(), %error, identity = %caller.identity, proof = ?caller.proof, asked, "refused to certify another identity than the caller's");
        let message = format!("`{}` may not have `{asked}` certified: {error}", caller.identity);
        Err(match error {
            ImpersonationError::Unavailable(_) => Status::unavailable(message),
            _ => Status::permission_denied(message),
        })
    }

    fn issue(&self, csr: &Csr, identity: &SpiffeId, caller: &Caller, seconds: i64) -> Result<Issued, Status> {
        let ttl = u64::try_from(seconds).ok().map(Duration::from_secs);
        self.authority.issue(csr, identity, ttl).map_err(|error| {
            let metrics = self.authority.metrics();
            let reason = match &error {
                IssueError::Name { .. } | IssueError::Nameless => {
                    metrics.identity_errors.inc();
                    "identity"
                }
                IssueError::CaExpired { .. } => "ca_expired",
                IssueError::Date | IssueError::Signing(_) | IssueError::Certificate(_) => "signing",
            };
            metrics.signing_errors.with_label_values(&[reason]).inc();
            warn!(%error, identity = %caller.identity, "cannot certify a caller");
            match error {
                IssueError::Name { .. } | IssueError::Nameless => Status::invalid_argument(error.to_string()),
                IssueError::CaExpired { .. } => Status::failed_precondition(error.to_string()),
                _ => Status::internal(error.to_string()),
            }
        })
    }
}

#[tonic::async_trait]
impl IstioCertificateService for CertificateService {
    async fn create_certificate(
        &self,
        request: Request<IstioCertificateRequest>,
    ) -> Result<Response<IstioCertificateResponse>, Status> {
        let metrics = self.authority.metrics();
        metrics.requests.inc();
        let caller = self.caller(&request).await?;
        let peer = request.remote_addr();
        let request = request.into_inner();
        let identity = self.identity(&request, &caller).await?;
        let csr = Csr::parse_pem(request.csr.as_bytes()).map_err(|error| {
            metrics.request_errors.inc();
            warn!(%error, identity = %caller.identity, ?peer, "refused a certificate request");
            Status::invalid_argument(format!("certificate request of `{}` refused: {error}", caller.identity))
        })?;
        let issued = self.issue(&csr, &identity, &caller, request.validity_duration)?;
        metrics.issued.inc();
        let leaf = issued.chain.leaf();
        let expiry = leaf
            .not_after()
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default()
            .as_secs();
        let (proof, proved_by) = match &caller.proof {
            Proof::Certificate { serial, .. } => ("certificate", serial),
            Proof::Token { issuer, .. } => ("token", issuer),
        };
        info!(%identity, caller = %caller.identity, proof, proved_by, ?peer, serial = leaf.serial(), expiry, "issued a certificate");
        Ok(Response::new(IstioCertificateResponse {
            cert_chain: issued.cert_chain(),
        }))
    }
}
