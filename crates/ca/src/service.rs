//! `istio.v1.auth.IstioCertificateService`: what every agent calls.

use std::sync::Arc;
use std::time::Duration;

use lateen_names::SpiffeId;
use lateen_pki::{Csr, IssueError};
use lateen_proto::istio::v1::auth::istio_certificate_service_server::{
    IstioCertificateService, IstioCertificateServiceServer,
};
use lateen_proto::istio::v1::auth::{IstioCertificateRequest, IstioCertificateResponse};
use lateen_proto::value::Kind;
use tonic::{Request, Response, Status};
use tracing::{info, warn};

use crate::audit::{AuditLog, Record, rfc3339};
use crate::authenticate::{Authenticator, Caller, Proof, claimed_subject};
use crate::authority::{CertificateAuthority, Issued};
use crate::external::{ExternalError, ExternalSigner};
use crate::impersonate::{ImpersonationError, NodeAuthorizer};
use crate::limits::{Allowance, Asking, Gate, too_often};

/// The largest message that is read: a request of [`Csr::MAX_BYTES`] with room for metadata.
const MAX_MESSAGE: usize = 64 * 1024;

/// The metadata field by which a node proxy asks for the certificate of a workload on its node.
const IMPERSONATED_IDENTITY: &str = "ImpersonatedIdentity";

/// The metadata field by which a workload chooses among the cluster's signers.
const CERT_SIGNER: &str = "CertSigner";

/// The certificate service.
#[derive(Clone)]
pub struct CertificateService {
    authority: CertificateAuthority,
    authenticator: Arc<Authenticator>,
    nodes: Option<Arc<dyn NodeAuthorizer>>,
    external: Option<Arc<dyn ExternalSigner>>,
    gate: Arc<Gate>,
    audit: AuditLog,
}

/// A request that is refused: what its caller is told, and why.
struct Refusal {
    status: Status,
    reason: &'static str,
}

impl CertificateService {
    /// Serves `authority` to whom `authenticator` knows.
    #[must_use]
    pub fn new(authority: CertificateAuthority, authenticator: Arc<Authenticator>) -> Self {
        Self {
            authority,
            authenticator,
            nodes: None,
            external: None,
            gate: Arc::new(Gate::new(Allowance::CERTIFICATES)),
            audit: AuditLog::default(),
        }
    }

    /// Lets node proxies ask for certificates of the workloads on their nodes.
    #[must_use]
    pub fn with_nodes(mut self, nodes: Arc<dyn NodeAuthorizer>) -> Self {
        self.nodes = Some(nodes);
        self
    }

    /// Has certificates signed elsewhere; the authority still checks who asks, and for what.
    #[must_use]
    pub fn with_external(mut self, signer: Arc<dyn ExternalSigner>) -> Self {
        self.external = Some(signer);
        self
    }

    /// Gives each caller so many certificates, and no more.
    #[must_use]
    pub fn with_allowance(mut self, allowance: Allowance) -> Self {
        self.gate = Arc::new(Gate::new(allowance));
        self
    }

    /// Writes down every certificate and every refusal.
    #[must_use]
    pub fn with_audit(mut self, audit: AuditLog) -> Self {
        self.audit = audit;
        self
    }

    /// As a gRPC service, with its limit on messages.
    #[must_use]
    pub fn into_server(self) -> IstioCertificateServiceServer<Self> {
        IstioCertificateServiceServer::new(self).max_decoding_message_size(MAX_MESSAGE)
    }

    async fn caller(&self, request: &Request<IstioCertificateRequest>, record: &mut Record) -> Result<Caller, Refusal> {
        let proved = self.authenticator.authenticate_request(request).await;
        proved.map_err(|error| {
            self.authority.metrics().authentication_failures.inc();
            record.claimed = claimed_subject(request.metadata().as_ref());
            Refusal {
                reason: error.reason(),
                status: Status::from(&error),
            }
        })
    }

    /// The identity to certify: the caller's own, or the one that a node proxy asks for.
    async fn identity(
        &self,
        request: &IstioCertificateRequest,
        caller: &Caller,
        record: &mut Record,
    ) -> Result<SpiffeId, Refusal> {
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
        record.identity = Some(asked.clone());
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
        self.authority.metrics().authentication_failures.inc();
        let message = format!("`{}` may not have `{asked}` certified: {error}", caller.identity);
        Err(Refusal {
            reason: error.reason(),
            status: match error {
                ImpersonationError::Unavailable(_) => Status::unavailable(message),
                _ => Status::permission_denied(message),
            },
        })
    }

    fn issue(&self, csr: &Csr, identity: &SpiffeId, seconds: i64) -> Result<Issued, Refusal> {
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
            let status = match error {
                IssueError::Name { .. } | IssueError::Nameless => Status::invalid_argument(error.to_string()),
                IssueError::CaExpired { .. } => Status::failed_precondition(error.to_string()),
                _ => Status::internal(error.to_string()),
            };
            Refusal { status, reason }
        })
    }

    /// Answers a request, and notes on the way what is known of it.
    async fn answer(&self, request: Request<IstioCertificateRequest>, record: &mut Record) -> Result<Issued, Refusal> {
        let caller = self.caller(&request, record).await?;
        record.caller = Some(caller.identity.to_string());
        record.identity.clone_from(&record.caller);
        match &caller.proof {
            Proof::Certificate { serial, .. } => {
                (record.proof, record.proved_by) = (Some("certificate"), Some(serial.clone()));
            }
            Proof::Token { issuer, pod } => {
                (record.proof, record.proved_by) = (Some("token"), Some(issuer.clone()));
                record.pod = pod.as_ref().map(|pod| format!("{} {}", pod.name, pod.uid));
            }
        }
        let from = request.remote_addr().map(|peer| peer.ip());
        let request = request.into_inner();
        let identity = self.identity(&request, &caller, record).await?;
        record.identity = Some(identity.to_string());
        let asking = Asking::new(&caller, &identity, from);
        self.gate.admit(asking, self.authority.now()).map_err(|wait| Refusal {
            reason: "rate",
            status: too_often(
                format!(
                    "certificates of `{identity}` were asked for too often: try again in {} ms",
                    wait.as_millis()
                ),
                wait,
            ),
        })?;
        let csr = Csr::parse_pem(request.csr.as_bytes()).map_err(|error| {
            self.authority.metrics().request_errors.inc();
            Refusal {
                reason: "request",
                status: Status::invalid_argument(format!(
                    "certificate request of `{}` refused: {error}",
                    caller.identity
                )),
            }
        })?;
        match &self.external {
            None => self.issue(&csr, &identity, request.validity_duration),
            Some(signer) => self.have_signed(&**signer, &csr, &identity, &request).await,
        }
    }

    async fn have_signed(
        &self,
        signer: &dyn ExternalSigner,
        csr: &Csr,
        identity: &SpiffeId,
        request: &IstioCertificateRequest,
    ) -> Result<Issued, Refusal> {
        let named = request
            .metadata
            .as_ref()
            .and_then(|metadata| metadata.fields.get(CERT_SIGNER));
        let named = match named.and_then(|value| value.kind.as_ref()) {
            Some(Kind::StringValue(text)) if !text.is_empty() => Some(text.as_str()),
            _ => None,
        };
        let asked = u64::try_from(request.validity_duration).ok().map(Duration::from_secs);
        let ttl = self.authority.lifetime(asked);
        signer.sign(csr, identity, ttl, named).await.map_err(|error| {
            let metrics = self.authority.metrics();
            metrics.signing_errors.with_label_values(&[error.reason()]).inc();
            let text = error.to_string();
            Refusal {
                reason: error.reason(),
                status: match error {
                    ExternalError::Names(_) | ExternalError::Signer(..) => Status::invalid_argument(text),
                    ExternalError::Refused { .. } => Status::failed_precondition(text),
                    ExternalError::Unusable { .. } => Status::internal(text),
                    ExternalError::Unavailable(_) => Status::unavailable(text),
                },
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
        let mut record = Record {
            time: rfc3339(self.authority.now()),
            event: "certificate",
            peer: request.remote_addr(),
            ..Record::default()
        };
        let answer = self.answer(request, &mut record).await;
        match &answer {
            Ok(issued) => {
                metrics.issued.inc();
                let leaf = issued.chain.leaf();
                record.outcome = "issued";
                record.serial = Some(leaf.serial().to_owned());
                record.not_after = Some(rfc3339(leaf.not_after()));
                info!(identity = record.identity, caller = record.caller, proof = record.proof, proved_by = record.proved_by, pod = record.pod, peer = ?record.peer, serial = record.serial, expiry = record.not_after, "issued a certificate");
            }
            Err(refusal) => {
                metrics.refusals.with_label_values(&[refusal.reason]).inc();
                record.outcome = "refused";
                record.reason = Some(refusal.reason);
                record.error = Some(refusal.status.message().to_owned());
                warn!(reason = refusal.reason, error = record.error, identity = record.identity, caller = record.caller, claimed = record.claimed, peer = ?record.peer, "refused to certify a key");
            }
        }
        if !self.audit.write(&record) {
            metrics.audit_lost.inc();
        }
        match answer {
            Ok(issued) => Ok(Response::new(IstioCertificateResponse {
                cert_chain: issued.cert_chain(),
            })),
            Err(refusal) => Err(refusal.status),
        }
    }
}
