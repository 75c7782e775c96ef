//! Asking the CA for a certificate: Istio's `CreateCertificate`, the caller proven by its token or by a certificate.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, bail};
use lateen_pki::{Certificate, Csr, PrivateKey, TrustBundle};
use lateen_proto::istio::v1::auth::IstioCertificateRequest;
use lateen_proto::istio::v1::auth::istio_certificate_service_client::IstioCertificateServiceClient;
use lateen_proto::{Struct, Value, value};
use tonic::Request;

use super::{Identity, Issued};
use crate::config::{CertificateConfig, FileCertificate};
use crate::grpc::{self, ClientIdentity};

const TIMEOUT: Duration = Duration::from_secs(30);

/// Makes a key, has it certified and checks the answer.
pub(super) async fn request(
    config: &CertificateConfig,
    current: Option<&Identity>,
    now: SystemTime,
    proof: Proof,
) -> anyhow::Result<Issued> {
    let key = PrivateKey::generate()?;
    let csr = Csr::create(&key, &config.identity)?;
    let (token, client) = proof.choose(config, current, now)?;
    let channel = grpc::connect(
        &config.ca_address,
        config.ca_san.as_deref(),
        &config.ca_roots,
        client.as_ref(),
    )
    .await?;
    let mut headers = vec![("clusterid".to_owned(), config.cluster_id.clone())];
    headers.extend(config.ca_headers.iter().cloned());
    let mut request = Request::new(IstioCertificateRequest {
        csr: csr.pem(),
        validity_duration: i64::try_from(config.ttl.as_secs()).unwrap_or(i64::MAX),
        metadata: config.cert_signer.as_deref().map(signer),
    });
    *request.metadata_mut() = grpc::metadata(token.as_deref(), &headers)?;
    request.set_timeout(TIMEOUT);
    let answer = IstioCertificateServiceClient::new(channel)
        .create_certificate(request)
        .await
        .map_err(|status| anyhow::anyhow!("the CA refused: {}: {}", status.code(), status.message()))?;
    read(&answer.into_inner().cert_chain, key, now)
}

/// What proves the caller where both would.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Proof {
    /// The token: the CA need not trust the root of the certificate.
    Token,
    /// The certificate: the token may have expired.
    Certificate,
}

impl Proof {
    /// The other one, for the next attempt.
    pub(super) fn other(self) -> Self {
        match self {
            Self::Token => Self::Certificate,
            Self::Certificate => Self::Token,
        }
    }

    /// Token and certificate to show.
    fn choose(
        self,
        config: &CertificateConfig,
        current: Option<&Identity>,
        now: SystemTime,
    ) -> anyhow::Result<(Option<String>, Option<ClientIdentity>)> {
        let token = grpc::token(&config.token_path)?;
        if let Some(identity) = current.filter(|identity| identity.is_valid(now)) {
            return Ok(match (self, token) {
                (Self::Token, Some(token)) => (Some(token), None),
                _ => (None, Some(identity.client())),
            });
        }
        if let Some(folder) = &config.provisioned {
            return Ok((token, Some(provisioned(folder)?)));
        }
        if token.is_none() {
            bail!(
                "neither a token at {} nor a certificate to prove who asks",
                config.token_path.display()
            );
        }
        Ok((token, None))
    }
}

/// The certificate that a machine was given when it joined.
fn provisioned(folder: &Path) -> anyhow::Result<ClientIdentity> {
    let files = FileCertificate::in_folder(folder);
    let chain = std::fs::read_to_string(&files.chain).with_context(|| files.chain.display().to_string())?;
    let key = std::fs::read_to_string(&files.key).map(zeroize::Zeroizing::new);
    Ok(ClientIdentity {
        chain,
        key: key.with_context(|| files.key.display().to_string())?,
    })
}

fn signer(name: &str) -> Struct {
    let value = Value {
        kind: Some(value::Kind::StringValue(name.to_owned())),
    };
    Struct {
        fields: std::iter::once(("CertSigner".to_owned(), value)).collect(),
    }
}

/// The chain without its root, which peers have, and the roots: what follows the last issuer.
fn read(parts: &[String], key: PrivateKey, now: SystemTime) -> anyhow::Result<Issued> {
    let Some((last, issuers)) = parts.split_last().filter(|(_, issuers)| !issuers.is_empty()) else {
        bail!(
            "the CA's answer has {} certificates, expected the leaf, its issuers and the root",
            parts.len()
        );
    };
    let mut chain = Vec::new();
    for part in issuers {
        chain.extend(Certificate::parse_pem(part.as_bytes()).context("the CA's answer")?);
    }
    let roots = TrustBundle::parse_pem(last.as_bytes()).context("the root in the CA's answer")?;
    let leaf = chain.first().context("the CA's answer has no certificate")?;
    if leaf.spki() != key.public_key().to_spki() {
        bail!("the CA certified another key than the one asked for");
    }
    if !leaf.validity().contains(now) {
        bail!("the CA's certificate is not valid now: compare the clocks of this machine and of the CA");
    }
    Ok(Issued {
        identity: Identity {
            validity: leaf.validity(),
            chain,
            key: Arc::new(key),
        },
        roots,
    })
}
