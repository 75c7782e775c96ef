//! Certificates of sidecars, had as an agent has them: a token of the service account, and the mesh's CA.
//!
//! All sidecars of an account show one certificate. A CA bounds how many it signs for one caller, and rightly so; what is
//! measured is a handshake and a proven identity for each connection, not signing.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::ServiceAccount;
use kube::api::{Api, PostParams};
use lateen_names::{Namespace, ServiceAccount as AccountName, SpiffeId, TrustDomain};
use lateen_pki::{Certificate, Csr, PrivateKey, TrustBundle};
use lateen_proto::istio::v1::auth::IstioCertificateRequest;
use lateen_proto::istio::v1::auth::istio_certificate_service_client::IstioCertificateServiceClient;
use rustls::client::Resumption;
use rustls::pki_types::ServerName;
use tonic::Request;
use tonic::transport::{Channel, ClientTlsConfig, Endpoint};

use crate::mesh::{ACCOUNT, Mesh, namespace};
use crate::sidecar::connection::Target;
use crate::writer::Writer;

/// What a token must be for, so that the CA takes it.
const AUDIENCE: &str = "istio-ca";
/// The ConfigMap in each namespace that holds the mesh's roots.
const ROOTS: &str = "istio-ca-root-cert";
const ROOTS_KEY: &str = "root-cert.pem";
const LIFETIME: Duration = Duration::from_secs(24 * 3600);

/// How sidecars prove themselves.
#[derive(Debug, Clone, clap::Args)]
pub struct MutualTls {
    /// Speak mutual TLS (port 15012): each service account gets a certificate of the mesh's CA, at the target or at --ca
    #[arg(long = "mtls")]
    pub enabled: bool,
    /// Where the CA is [default: the target]
    #[arg(long, value_name = "HOST:PORT", requires = "enabled")]
    pub ca: Option<String>,
    /// The name in the control plane's certificate
    #[arg(long, value_name = "NAME", default_value = "istiod.istio-system.svc")]
    pub server_name: String,
    /// The mesh's roots, PEM [default: ConfigMap istio-ca-root-cert in the first namespace of the mesh]
    #[arg(long, value_name = "FILE", requires = "enabled")]
    pub roots: Option<PathBuf>,
    /// The mesh's trust domain
    #[arg(long, value_name = "DOMAIN", default_value = "cluster.local")]
    pub trust_domain: String,
}

impl Default for MutualTls {
    fn default() -> Self {
        Self {
            enabled: false,
            ca: None,
            server_name: "istiod.istio-system.svc".to_owned(),
            roots: None,
            trust_domain: "cluster.local".to_owned(),
        }
    }
}

/// The target as the sidecars of each namespace see it.
///
/// # Errors
/// When a certificate cannot be had; the message says which step failed.
pub(crate) async fn targets(
    writer: &Writer,
    mesh: &Mesh,
    target: &str,
    options: &MutualTls,
) -> Result<BTreeMap<String, Target>> {
    let namespaces = (0..mesh.namespaces.min(mesh.services)).map(namespace);
    if !options.enabled {
        let plain = Target {
            address: target.to_owned(),
            tls: None,
        };
        return Ok(namespaces.map(|name| (name, plain.clone())).collect());
    }
    let roots = roots(writer, options).await?;
    let name = ServerName::try_from(options.server_name.clone());
    let name = name.with_context(|| format!("--server-name {}", options.server_name))?;
    let authority = authority(options.ca.as_deref().unwrap_or(target), &roots, options).await?;
    let mut targets = BTreeMap::new();
    for namespace in namespaces {
        let config = certified(writer, authority.clone(), &namespace, &roots, &options.trust_domain).await;
        let config = config.with_context(|| format!("no certificate for {ACCOUNT} in {namespace}"))?;
        let target = Target {
            address: target.to_owned(),
            tls: Some((Arc::new(config), name.clone())),
        };
        targets.insert(namespace, target);
    }
    Ok(targets)
}

async fn roots(writer: &Writer, options: &MutualTls) -> Result<String> {
    if let Some(path) = &options.roots {
        return std::fs::read_to_string(path).with_context(|| format!("--roots {}", path.display()));
    }
    let map = writer.get("ConfigMap", Some(&namespace(0)), ROOTS).await?;
    let roots = map.and_then(|map| map["data"][ROOTS_KEY].as_str().map(str::to_owned));
    roots.with_context(|| {
        let first = namespace(0);
        format!(
            "the mesh's roots are not in {first}/{ROOTS}: is a control plane running? else name a file with --roots"
        )
    })
}

async fn authority(address: &str, roots: &str, options: &MutualTls) -> Result<Channel> {
    let tls = ClientTlsConfig::new()
        .ca_certificate(tonic::transport::Certificate::from_pem(roots))
        .domain_name(&options.server_name);
    let endpoint = Endpoint::from_shared(format!("https://{address}"))?.tls_config(tls)?;
    endpoint
        .connect()
        .await
        .with_context(|| format!("cannot connect to the CA at {address}"))
}

/// TLS with a fresh certificate of a namespace's account.
async fn certified(
    writer: &Writer,
    authority: Channel,
    namespace: &str,
    roots: &str,
    trust_domain: &str,
) -> Result<rustls::ClientConfig> {
    let identity = SpiffeId {
        trust_domain: TrustDomain::new(trust_domain)?,
        namespace: Namespace::new(namespace)?,
        service_account: AccountName::new(ACCOUNT)?,
    };
    let key = PrivateKey::generate()?;
    let mut request = Request::new(IstioCertificateRequest {
        csr: Csr::create(&key, &identity)?.pem(),
        validity_duration: i64::try_from(LIFETIME.as_secs()).unwrap_or(i64::MAX),
        metadata: None,
    });
    let bearer = format!("Bearer {}", token(writer, namespace).await?);
    request
        .metadata_mut()
        .insert("authorization", bearer.parse().context("the token is no header")?);
    request
        .metadata_mut()
        .insert("clusterid", tonic::metadata::MetadataValue::from_static("Kubernetes"));
    let answer = IstioCertificateServiceClient::new(authority)
        .create_certificate(request)
        .await;
    let answer = answer.map_err(|status| anyhow!("the CA refused: {}: {}", status.code(), status.message()))?;
    let parts = answer.into_inner().cert_chain;
    // The last is the root, which the server has.
    let Some((_, chain)) = parts.split_last().filter(|(_, chain)| !chain.is_empty()) else {
        bail!(
            "the CA's answer has {} certificates, expected the leaf, its issuers and the root",
            parts.len()
        );
    };
    let chain = Certificate::parse_pem(chain.concat().as_bytes()).context("the CA's answer")?;
    let mut trusted = rustls::RootCertStore::empty();
    for root in TrustBundle::parse_pem(roots.as_bytes())?.roots() {
        trusted.add(root.der().clone())?;
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    let ders = chain.iter().map(|certificate| certificate.der().clone()).collect();
    let mut config = builder
        .with_root_certificates(trusted)
        .with_client_auth_cert(ders, key.expose_der())?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    // Every sidecar is another process: none resumes the session of another.
    config.resumption = Resumption::disabled();
    Ok(config)
}

async fn token(writer: &Writer, namespace: &str) -> Result<String> {
    let accounts: Api<ServiceAccount> = Api::namespaced(writer.client(), namespace);
    let request = TokenRequest {
        spec: TokenRequestSpec {
            audiences: vec![AUDIENCE.to_owned()],
            ..TokenRequestSpec::default()
        },
        ..TokenRequest::default()
    };
    let answer = accounts
        .create_token_request(ACCOUNT, &PostParams::default(), &request)
        .await;
    let answer = answer.context("no token of the service account")?;
    Ok(answer.status.context("a token request without an answer")?.token)
}
