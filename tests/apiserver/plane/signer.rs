//! Certificates by a signer of the cluster, which the test plays.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{Api, ListParams, Patch, PatchParams};
use lateen_ca::kube::ClusterSigner;
use lateen_ca::pki::{Chain, Csr, PrivateKey, TrustBundle};
use lateen_ca::{ExternalError, ExternalSigner, TOKEN_AUDIENCE};
use lateen_names::SpiffeId;
use lateen_proto::istio::v1::auth::IstioCertificateRequest;
use lateen_proto::istio::v1::auth::istio_certificate_service_client::IstioCertificateServiceClient;
use lateen_testkit::apiserver::TokenFor;
use lateen_testkit::{ApiServer, Lateend, eventually};
use rcgen::{BasicConstraints, CertificateParams, CertificateSigningRequestParams, DnType, IsCa, Issuer, KeyPair};
use serde_json::json;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tonic::Request;
use tonic::transport::{Certificate, ClientTlsConfig, Endpoint};

use crate::{SOON, clock};

const SIGNER: &str = "signers.example/mesh";
const HOUR: Duration = Duration::from_secs(3600);

/// A root of this name, as PEM and to sign with.
fn root(name: &str) -> Result<(String, Issuer<'static, KeyPair>)> {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(DnType::CommonName, name);
    let key = KeyPair::generate()?;
    let pem = params.self_signed(&key)?.pem();
    Ok((pem, Issuer::new(params, key)))
}

/// Signs what is approved for [`SIGNER`]; denies nothing, looks at nothing else. Gives up when the API server has gone.
async fn sign_approved(requests: Api<CertificateSigningRequest>, issuer: Issuer<'static, KeyPair>) -> Result<()> {
    let mut look = tokio::time::interval(Duration::from_millis(20));
    loop {
        look.tick().await;
        for request in requests.list(&ListParams::default()).await?.items {
            let status = request.status.clone().unwrap_or_default();
            let approved = status
                .conditions
                .iter()
                .flatten()
                .any(|condition| condition.type_ == "Approved");
            if request.spec.signer_name != SIGNER || !approved || status.certificate.is_some() {
                continue;
            }
            let pem = String::from_utf8(request.spec.request.0.clone())?;
            let certificate = CertificateSigningRequestParams::from_pem(&pem)?
                .signed_by(&issuer)?
                .pem();
            use base64::Engine as _;
            let encoded = base64::engine::general_purpose::STANDARD.encode(certificate);
            let patch = Patch::Merge(json!({"status": {"certificate": encoded}}));
            let name = request.metadata.name.context("a request without name")?;
            // It may have been given up meanwhile.
            let _ = requests.patch_status(&name, &PatchParams::default(), &patch).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_clusters_signer_signs_what_was_proved_and_nothing_else() -> Result<()> {
    let Some(server) = ApiServer::start().await? else {
        return Ok(());
    };
    let client = server.client().await?;
    let requests: Api<CertificateSigningRequest> = Api::all(client.clone());
    let ((trusted, issuer), (other, _)) = (root("of the signer")?, root("another")?);
    let mut tasks = JoinSet::new();
    tasks.spawn(sign_approved(requests.clone(), issuer));
    let (bundles, bundle) = watch::channel(Arc::new(TrustBundle::parse_pem(trusted.as_bytes())?));
    let domain = Some("signers.example".to_owned());
    let signer = ClusterSigner::new(client.clone(), Some(SIGNER.to_owned()), domain, bundle.clone(), clock());

    let cart: SpiffeId = "spiffe://cluster.local/ns/shop/sa/cart".parse()?;
    let bank: SpiffeId = "spiffe://cluster.local/ns/shop/sa/bank".parse()?;
    let key = PrivateKey::generate()?;
    let request = Csr::create(&key, &cart)?;
    for named in [None, Some("mesh")] {
        let issued = signer.sign(&request, &cart, HOUR, named).await?;
        ensure!(issued.bundle.verify(&issued.chain, SystemTime::now())? == cart);
        ensure!(issued.chain.leaf().spki() == key.public_key().to_spki());
    }
    // A request for somebody else is never even made.
    let refused = signer.sign(&request, &bank, HOUR, None).await;
    ensure!(refused.err() == Some(ExternalError::Names(Box::new(bank))));
    for name in ["../mesh", "MESH", ""] {
        let refused = signer.sign(&request, &cart, HOUR, Some(name)).await;
        let refused = refused.err();
        ensure!(
            matches!(refused, Some(ExternalError::Signer(..) | ExternalError::Refused { .. })),
            "{name}: {refused:?}"
        );
    }
    // What leads to no root that the mesh trusts is not handed on.
    bundles.send_replace(Arc::new(TrustBundle::parse_pem(other.as_bytes())?));
    let refused = signer.sign(&request, &cart, HOUR, None).await.err();
    ensure!(matches!(refused, Some(ExternalError::Unusable { .. })), "{refused:?}");
    eventually("nothing is left behind", SOON, async || {
        let left = requests.list(&ListParams::default()).await.ok()?.items;
        left.is_empty().then_some(())
    })
    .await
}

/// A certificate for the account `cart` of the namespace `default`, as an agent asks for it.
async fn certify(server: &ApiServer, lateend: &Lateend, identity: &SpiffeId) -> Result<Vec<String>> {
    let secrets: Api<Secret> = Api::namespaced(server.client().await?, "istio-system");
    let root = secrets.get("istio-ca-secret").await?.data;
    let root = root
        .and_then(|mut data| data.remove("root-cert.pem"))
        .unwrap_or_default();
    let tls = ClientTlsConfig::new()
        .ca_certificate(Certificate::from_pem(&root.0))
        .domain_name("localhost");
    let endpoint = Endpoint::from_shared(format!("https://{}", lateend.secure()))?.tls_config(tls)?;
    let purpose = TokenFor {
        audiences: &[TOKEN_AUDIENCE],
        ..TokenFor::default()
    };
    let token = server.token("default", "cart", purpose).await?;
    let key = PrivateKey::generate()?;
    let mut request = Request::new(IstioCertificateRequest {
        csr: Csr::create(&key, identity)?.pem(),
        ..IstioCertificateRequest::default()
    });
    let bearer = format!("Bearer {token}").parse()?;
    request.metadata_mut().insert("authorization", bearer);
    let mut authority = IstioCertificateServiceClient::new(endpoint.connect().await?);
    Ok(authority.create_certificate(request).await?.into_inner().cert_chain)
}

/// A cluster with these settings of the mesh, and an account.
async fn cluster(settings: &serde_json::Value) -> Result<Option<ApiServer>> {
    let Some(server) = ApiServer::start().await? else {
        return Ok(None);
    };
    // Another test of this process may have been first.
    let _ = rustls::crypto::ring::default_provider().install_default();
    server.install_crds().await?;
    let map = json!({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "istio", "namespace": "istio-system"},
        "data": {"mesh": settings.to_string()},
    });
    let objects = [
        "{apiVersion: v1, kind: Namespace, metadata: {name: istio-system}}".to_owned(),
        "{apiVersion: v1, kind: ServiceAccount, metadata: {name: cart, namespace: default}}".to_owned(),
        map.to_string(),
    ];
    server.apply(&objects.join("\n---\n")).await?;
    Ok(Some(server))
}

/// The mesh's settings name the trust domain; the certificate authority keeps to it.
#[tokio::test(flavor = "multi_thread")]
async fn certificates_are_of_the_trust_domain_of_the_meshs_settings() -> Result<()> {
    let Some(server) = cluster(&json!({"trustDomain": "mesh.example"})).await? else {
        return Ok(());
    };
    let lateend = Lateend::start_in_cluster(server.kubeconfig(), server.directory(), &[]).await?;
    let identity: SpiffeId = "spiffe://mesh.example/ns/default/sa/cart".parse()?;
    let chain = certify(&server, &lateend, &identity).await?;
    let leaf = Chain::parse_pem(chain.first().context("no certificate")?.as_bytes())?;
    ensure!(leaf.leaf().spiffe_id()? == identity);
    // Every certificate is written down, by default where logs are read.
    let line = format!(r#""event":"certificate","outcome":"issued","identity":"{identity}""#);
    ensure!(lateend.whole_log().contains(&line), "{}", lateend.log());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn with_an_external_ca_the_clusters_signer_is_trusted_and_asked() -> Result<()> {
    let (trusted, issuer) = root("of the signer")?;
    let settings = json!({"caCertificates": [{"pem": trusted, "certSigners": [SIGNER]}]});
    let Some(server) = cluster(&settings).await? else {
        return Ok(());
    };
    let mut tasks = JoinSet::new();
    tasks.spawn(sign_approved(Api::all(server.client().await?), issuer));
    let flags = ["--external-ca", "ISTIOD_RA_KUBERNETES_API", "--k8s-signer", SIGNER];
    let lateend = Lateend::start_in_cluster(server.kubeconfig(), server.directory(), &flags).await?;
    let identity: SpiffeId = "spiffe://cluster.local/ns/default/sa/cart".parse()?;
    let texts = certify(&server, &lateend, &identity).await?;
    let (roots, chain) = texts.split_last().context("nothing")?;
    let chain = Chain::parse_pem(chain.concat().as_bytes())?;
    let signers = TrustBundle::parse_pem(trusted.as_bytes())?;
    ensure!(signers.verify(&chain, SystemTime::now())? == identity);
    let roots = TrustBundle::parse_pem(roots.as_bytes())?;
    ensure!(
        roots.roots().len() == 2,
        "the mesh trusts the signer and, for the control plane, Lateen's own root"
    );
    ensure!(signers.roots().iter().all(|root| roots.roots().contains(root)));
    Ok(())
}
