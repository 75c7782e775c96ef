//! Certificates by the cluster's signers: the API `certificates.k8s.io`, as Istio's `ISTIOD_RA_KUBERNETES_API`.
//!
//! The request is passed on as the workload wrote it, and approved: so it must ask for the proved identity and for
//! nothing else. What comes back is believed only if it leads to a root that the mesh trusts, for that identity and key.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures::FutureExt;
use futures::future::BoxFuture;
use k8s_openapi::ByteString;
use k8s_openapi::api::certificates::v1::{
    CertificateSigningRequest, CertificateSigningRequestCondition, CertificateSigningRequestSpec,
    CertificateSigningRequestStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{DeleteParams, PostParams};
use kube::{Api, Client};
use lateen_names::SpiffeId;
use lateen_pki::{Chain, Csr, TrustBundle};
use tokio::sync::{Semaphore, watch};
use tracing::warn;

use crate::Clock;
use crate::authority::Issued;
use crate::external::{ExternalError, ExternalSigner};

const USAGES: [&str; 4] = ["digital signature", "key encipherment", "server auth", "client auth"];
/// How long a signer may take.
const PATIENCE: Duration = Duration::from_secs(20);
/// How often it is looked whether it has signed: at first, and at last.
const LOOKS: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));
/// Requests under way at once: each is several calls of the API server.
const AT_ONCE: usize = 32;
/// The shortest duration that the API takes.
const SHORTEST: Duration = Duration::from_secs(600);

/// Has the cluster's signers sign.
pub struct ClusterSigner {
    requests: Api<CertificateSigningRequest>,
    default: Option<String>,
    domain: Option<String>,
    bundle: watch::Receiver<Arc<TrustBundle>>,
    clock: Clock,
    turns: Semaphore,
}

impl ClusterSigner {
    /// Asks the signer `default` (`K8S_SIGNER`), or where a workload names another, `<domain>/<name>`
    /// (`CERT_SIGNER_DOMAIN`). What they sign must lead to a root of `bundle`.
    #[must_use]
    pub fn new(
        client: Client,
        default: Option<String>,
        domain: Option<String>,
        bundle: watch::Receiver<Arc<TrustBundle>>,
        clock: Clock,
    ) -> Self {
        Self {
            requests: Api::all(client),
            default,
            domain,
            bundle,
            clock,
            turns: Semaphore::new(AT_ONCE),
        }
    }

    fn signer(&self, named: Option<&str>) -> Result<String, ExternalError> {
        let Some(named) = named else {
            let missing = || ExternalError::Signer(String::new(), "the workload names none, and K8S_SIGNER is not set");
            return self.default.clone().ok_or_else(missing);
        };
        let told = || named.chars().take(64).collect();
        let well_formed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '.');
        if named.len() > 63 || !named.chars().all(well_formed) {
            return Err(ExternalError::Signer(told(), "a name has letters, digits, `-` and `.`"));
        }
        match &self.domain {
            Some(domain) => Ok(format!("{domain}/{named}")),
            None => Err(ExternalError::Signer(told(), "CERT_SIGNER_DOMAIN is not set")),
        }
    }

    async fn have_signed(
        &self,
        request: &Csr,
        identity: &SpiffeId,
        ttl: Duration,
        named: Option<&str>,
    ) -> Result<Issued, ExternalError> {
        let signer = self.signer(named)?;
        if !request.asks_only_for(identity) {
            return Err(ExternalError::Names(Box::new(identity.clone())));
        }
        let _turn = self.turns.acquire().await;
        let name = format!("lateen-{:032x}", rand::random::<u128>());
        let made = self.make(&name, &signer, request, ttl).await;
        let signed = match made {
            Ok(made) => match tokio::time::timeout(PATIENCE, self.approved(made, &signer, identity)).await {
                Ok(signed) => signed,
                Err(_) => Err(ExternalError::Unavailable(format!(
                    "signer `{signer}` has not signed within {} s",
                    PATIENCE.as_secs()
                ))),
            },
            Err(error) => return Err(error),
        };
        if let Err(error) = self.requests.delete(&name, &DeleteParams::default()).await {
            // The cluster removes old ones itself.
            warn!(%error, name, "cannot delete a certificate signing request");
        }
        self.checked(&signed?, &signer, request, identity)
    }

    async fn make(
        &self,
        name: &str,
        signer: &str,
        request: &Csr,
        ttl: Duration,
    ) -> Result<CertificateSigningRequest, ExternalError> {
        let made = CertificateSigningRequest {
            metadata: ObjectMeta {
                name: Some(name.to_owned()),
                ..ObjectMeta::default()
            },
            spec: CertificateSigningRequestSpec {
                request: ByteString(request.pem().into_bytes()),
                signer_name: signer.to_owned(),
                usages: Some(USAGES.map(str::to_owned).to_vec()),
                expiration_seconds: i32::try_from(ttl.max(SHORTEST).as_secs()).ok(),
                ..CertificateSigningRequestSpec::default()
            },
            status: None,
        };
        self.requests
            .create(&PostParams::default(), &made)
            .await
            .map_err(|error| failed(signer, error))
    }

    /// Approves the request and waits for the certificate.
    async fn approved(
        &self,
        mut made: CertificateSigningRequest,
        signer: &str,
        identity: &SpiffeId,
    ) -> Result<Vec<u8>, ExternalError> {
        let name = made.metadata.name.clone().unwrap_or_default();
        made.status = Some(CertificateSigningRequestStatus {
            conditions: Some(vec![CertificateSigningRequestCondition {
                type_: "Approved".to_owned(),
                status: "True".to_owned(),
                reason: Some("LateenProvedTheIdentity".to_owned()),
                message: Some(format!("the workload proved to be {identity}")),
                ..CertificateSigningRequestCondition::default()
            }]),
            ..CertificateSigningRequestStatus::default()
        });
        let params = PostParams::default();
        let approved = self
            .requests
            .replace_subresource("approval", &name, &params, &made)
            .await;
        approved.map_err(|error| failed(signer, error))?;
        let mut pause = LOOKS.0;
        loop {
            let now = self.requests.get(&name).await.map_err(|error| failed(signer, error))?;
            let status = now.status.unwrap_or_default();
            if let Some(certificate) = status.certificate {
                return Ok(certificate.0);
            }
            let over = status.conditions.into_iter().flatten().find(|condition| {
                condition.status == "True" && matches!(condition.type_.as_str(), "Denied" | "Failed")
            });
            if let Some(over) = over {
                return Err(ExternalError::Refused {
                    signer: signer.to_owned(),
                    reason: over.message.or(over.reason).unwrap_or(over.type_),
                });
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LOOKS.1);
        }
    }

    /// The certificate is for this key and this identity, and the mesh trusts it.
    fn checked(&self, pem: &[u8], signer: &str, request: &Csr, identity: &SpiffeId) -> Result<Issued, ExternalError> {
        let unusable = |reason: String| ExternalError::Unusable {
            signer: signer.to_owned(),
            reason,
        };
        let chain = Chain::parse_pem(pem).map_err(|error| unusable(error.to_string()))?;
        if chain.leaf().spki() != request.public_key().to_spki() {
            return Err(unusable("it is for another key".to_owned()));
        }
        let bundle = Arc::clone(&self.bundle.borrow());
        // Signers may date a certificate from now on, by a clock that is a little ahead.
        let at = chain
            .leaf()
            .not_before()
            .max((self.clock)())
            .max(SystemTime::UNIX_EPOCH);
        match bundle.verify(&chain, at) {
            Ok(found) if found == *identity => {}
            Ok(found) => return Err(unusable(format!("it is for `{found}`"))),
            Err(error) => return Err(unusable(error.to_string())),
        }
        Ok(Issued { chain, bundle })
    }
}

impl ExternalSigner for ClusterSigner {
    fn sign<'a>(
        &'a self,
        request: &'a Csr,
        identity: &'a SpiffeId,
        ttl: Duration,
        signer: Option<&'a str>,
    ) -> BoxFuture<'a, Result<Issued, ExternalError>> {
        self.have_signed(request, identity, ttl, signer).boxed()
    }
}

fn failed(signer: &str, error: kube::Error) -> ExternalError {
    match error {
        kube::Error::Api(status) if matches!(status.code, 400 | 403 | 422) => ExternalError::Refused {
            signer: signer.to_owned(),
            reason: status.message.clone(),
        },
        error => ExternalError::Unavailable(error.to_string()),
    }
}
