//! Root certificates and webhook configurations, put right again whatever happens to them.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use k8s_openapi::api::admissionregistration::v1::{MutatingWebhookConfiguration, ValidatingWebhookConfiguration};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{Api, DeleteParams, Patch, PatchParams};
use lateen_ca::kube::SecretRoot;
use lateen_ca::pki::{RevocationList, TrustBundle};
use lateen_ca::{CaConfig, CertificateAuthority, RootStep};
use lateen_controllers::{root_certificates, webhooks};
use lateen_names::{Hostname, Namespace};
use lateen_testkit::{ApiServer, eventually};
use prometheus::Registry;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use crate::{SOON, ca_config, clock};

const NAME: &str = root_certificates::NAME;
const KEY: &str = root_certificates::KEY;

async fn authority(server: &ApiServer) -> Result<(SecretRoot, CertificateAuthority)> {
    server
        .apply("{apiVersion: v1, kind: Namespace, metadata: {name: istio-system}}")
        .await?;
    let root = SecretRoot::new(server.client().await?, &Namespace::new("istio-system")?);
    let config = CaConfig {
        serving_names: vec![Hostname::new("127.0.0.1")?],
        ..ca_config()
    };
    let authority = root.open(config, clock(), &Registry::new()).await?;
    Ok((root, authority))
}

#[tokio::test(flavor = "multi_thread")]
async fn every_namespace_has_the_roots_whatever_happens_to_them() -> Result<()> {
    let Some(server) = ApiServer::start().await? else {
        return Ok(());
    };
    let (root, authority) = authority(&server).await?;
    for name in ["a", "b", "c", "d"] {
        server
            .apply(&format!(
                "{{apiVersion: v1, kind: Namespace, metadata: {{name: {name}}}}}"
            ))
            .await?;
    }
    let client = server.client().await?;
    let of = |namespace: &str| Api::<ConfigMap>::namespaced(client.clone(), namespace);
    // Something of the user's is there already, with a key of his own.
    server
        .apply(&format!(
            "{{apiVersion: v1, kind: ConfigMap, metadata: {{name: {NAME}, namespace: b}}, data: {{mine: x}}}}"
        ))
        .await?;
    let set = |names: &[&str]| -> Result<Arc<BTreeSet<Namespace>>> {
        Ok(Arc::new(
            names
                .iter()
                .map(|name| Namespace::new(name))
                .collect::<Result<_, _>>()?,
        ))
    };
    let (namespaces, wanted) = watch::channel(set(&["a", "b", "kube-system"])?);
    let mut tasks = JoinSet::new();
    tasks.spawn(root_certificates::keep(
        client.clone(),
        root_certificates::ROOTS,
        wanted,
        authority.trust_bundle(),
    ));
    let right = async |namespace: &str| {
        let wanted = authority.bundle_pem();
        eventually(&format!("namespace {namespace} has the roots"), SOON, async || {
            let map = of(namespace).get_opt(NAME).await.ok().flatten()?;
            let labelled = map.metadata.labels.as_ref()?.get("istio.io/config")? == "true";
            (labelled && map.data.as_ref()?.get(KEY)? == &wanted).then_some(map)
        })
        .await
    };
    right("a").await?;
    let map = right("b").await?;
    assert_eq!(map.data.context("no data")?.get("mine").map(String::as_str), Some("x"));

    // Edited, emptied, deleted.
    let merge = |patch: Value| Patch::Merge(patch);
    let params = PatchParams::default();
    of("a")
        .patch(NAME, &params, &merge(json!({"data": {KEY: "junk"}})))
        .await?;
    right("a").await?;
    of("a")
        .patch(
            NAME,
            &params,
            &merge(json!({"data": null, "metadata": {"labels": null}})),
        )
        .await?;
    right("a").await?;
    of("a").delete(NAME, &DeleteParams::default()).await?;
    right("a").await?;

    // A namespace joins; another never did, nor does one of Kubernetes' own, nor one that is not there.
    namespaces.send_replace(set(&["a", "b", "c", "kube-system", "not-there"])?);
    right("c").await?;
    assert!(of("d").get_opt(NAME).await?.is_none());
    assert!(of("kube-system").get_opt(NAME).await?.is_none());

    // The root is replaced: both are trusted everywhere before the new one signs.
    root.advance(&authority, RootStep::Announce).await?;
    for namespace in ["a", "b", "c"] {
        let map = right(namespace).await?;
        let roots = map.data.context("no data")?.remove(KEY).context("no roots")?;
        assert_eq!(roots.matches("BEGIN CERTIFICATE").count(), 2);
    }
    // What is right is not written again.
    let before = right("a").await?.metadata.resource_version;
    of("b")
        .patch(NAME, &params, &merge(json!({"data": {KEY: "junk"}})))
        .await?;
    right("b").await?;
    assert_eq!(right("a").await?.metadata.resource_version, before);
    Ok(())
}

/// A webhook that refuses everything, with the CA's own serving certificate.
async fn refusing(authority: &CertificateAuthority, tasks: &mut JoinSet<()>) -> Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let acceptor = TlsAcceptor::from(authority.server_tls_config()?);
    tasks.spawn(async move {
        let mut connections = JoinSet::new();
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            connections.spawn(async move {
                if let Ok(stream) = acceptor.accept(stream).await {
                    let server = auto::Builder::new(TokioExecutor::new());
                    let _ = server.serve_connection(TokioIo::new(stream), service_fn(refuse)).await;
                }
            });
        }
    });
    Ok(address)
}

async fn refuse(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let body = request
        .into_body()
        .collect()
        .await
        .map(|body| body.to_bytes())
        .unwrap_or_default();
    let review: Value = serde_json::from_slice(&body).unwrap_or_default();
    let answer = json!({
        "apiVersion": "admission.k8s.io/v1",
        "kind": "AdmissionReview",
        "response": {"uid": review["request"]["uid"], "allowed": false, "status": {"message": "no"}},
    });
    let mut response = Response::new(Full::new(Bytes::from(answer.to_string())));
    response.headers_mut().insert(
        "content-type",
        hyper::header::HeaderValue::from_static("application/json"),
    );
    Ok(response)
}

fn configurations(url: &str) -> String {
    let webhook = |name: &str, operations: &str, resources: &str| {
        format!(
            "{{name: {name}, failurePolicy: Ignore, sideEffects: None, admissionReviewVersions: [v1], \
             clientConfig: {{url: \"{url}\"}}, \
             rules: [{{apiGroups: [networking.istio.io], apiVersions: ['*'], operations: [{operations}], resources: [{resources}]}}]}}"
        )
    };
    let configuration = |kind: &str, name: &str, revision: &str, webhooks: &[String]| {
        format!(
            "---\napiVersion: admissionregistration.k8s.io/v1\nkind: {kind}\n\
             metadata: {{name: {name}, labels: {{istio.io/rev: {revision}, app: istiod}}}}\nwebhooks: [{}]\n",
            webhooks.join(", ")
        )
    };
    // Nothing is ever asked of the mutating ones: they are about a kind that does not exist.
    let injection = [
        webhook("rev.namespace.sidecar-injector.istio.io", "CREATE", "nothings"),
        webhook("policy.example.org", "CREATE", "nothings"),
    ];
    let validation = [webhook("rev.validation.istio.io", "CREATE", "gateways")];
    configuration(
        "MutatingWebhookConfiguration",
        "istio-sidecar-injector",
        "default",
        &injection,
    ) + &configuration("MutatingWebhookConfiguration", "canary", "canary", &injection[..1])
        + &configuration(
            "ValidatingWebhookConfiguration",
            "istio-validator",
            "default",
            &validation,
        )
}

#[tokio::test(flavor = "multi_thread")]
async fn webhooks_know_the_roots_and_fail_closed_only_once_validation_answers() -> Result<()> {
    let Some(server) = ApiServer::start().await? else {
        return Ok(());
    };
    let (root, authority) = authority(&server).await?;
    server
        .apply(include_str!("../../../crds/networking.istio.io_gateways.yaml"))
        .await?;
    let client = server.client().await?;
    let mutating: Api<MutatingWebhookConfiguration> = Api::all(client.clone());
    let validating: Api<ValidatingWebhookConfiguration> = Api::all(client.clone());

    // Nobody listens there yet.
    let port = lateen_testkit::ports::free()?;
    server
        .apply(&configurations(&format!("https://127.0.0.1:{port}/validate")))
        .await?;
    let mut tasks = JoinSet::new();
    tasks.spawn(webhooks::keep(
        client,
        "istio-system".to_owned(),
        "default".to_owned(),
        authority.trust_bundle(),
    ));
    let bundle_of = async |name: &str, webhook: usize| {
        let configuration = mutating.get(name).await.ok()?;
        let bundle = configuration.webhooks?.get(webhook)?.client_config.ca_bundle.clone();
        Some(bundle.map(|bundle| String::from_utf8_lossy(&bundle.0).into_owned()))
    };
    let known = async || {
        let wanted = authority.bundle_pem();
        eventually("injection's webhook has the roots", SOON, async || {
            (bundle_of("istio-sidecar-injector", 0).await?? == wanted).then_some(())
        })
        .await
    };
    let validator = async || -> Option<(bool, String)> {
        let webhook = validating.get("istio-validator").await.ok()?.webhooks?.pop()?;
        let bundle = String::from_utf8_lossy(&webhook.client_config.ca_bundle?.0).into_owned();
        Some((webhook.failure_policy.as_deref() == Some("Fail"), bundle))
    };
    known().await?;
    eventually("validation's webhook has the roots", SOON, async || {
        (validator().await?.1 == authority.bundle_pem()).then_some(())
    })
    .await?;
    assert_eq!(
        bundle_of("istio-sidecar-injector", 1).await,
        Some(None),
        "somebody else's webhook was written"
    );
    assert_eq!(
        bundle_of("canary", 0).await,
        Some(None),
        "another revision's webhook was written"
    );

    // Overwritten, and the root replaced.
    let junk =
        json!({"webhooks": [{"name": "rev.namespace.sidecar-injector.istio.io", "clientConfig": {"caBundle": ""}}]});
    mutating
        .patch(
            "istio-sidecar-injector",
            &PatchParams::default(),
            &Patch::Strategic(junk),
        )
        .await?;
    known().await?;
    root.advance(&authority, RootStep::Announce).await?;
    known().await?;
    assert!(
        !validator().await.context("no webhook")?.0,
        "validation fails closed though it does not answer"
    );

    let address = refusing(&authority, &mut tasks).await?;
    let url = json!({"webhooks": [{"name": "rev.validation.istio.io", "clientConfig": {"url": format!("https://{address}/validate")}}]});
    validating
        .patch("istio-validator", &PatchParams::default(), &Patch::Strategic(url))
        .await?;
    eventually("validation fails closed", SOON, async || {
        validator().await?.0.then_some(())
    })
    .await?;
    // And goes on doing so.
    let open = json!({"webhooks": [{"name": "rev.validation.istio.io", "failurePolicy": "Ignore"}]});
    validating
        .patch("istio-validator", &PatchParams::default(), &Patch::Strategic(open))
        .await?;
    eventually("validation fails closed again", SOON, async || {
        validator().await?.0.then_some(())
    })
    .await?;
    Ok(())
}

/// A root, and a list of it.
fn revoking() -> Result<(String, String)> {
    let mut params = rcgen::CertificateParams::default();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let key = rcgen::KeyPair::generate()?;
    let root = params.self_signed(&key)?.pem();
    let list = rcgen::CertificateRevocationListParams {
        this_update: rcgen::date_time_ymd(2024, 1, 1),
        next_update: rcgen::date_time_ymd(2124, 1, 1),
        crl_number: rcgen::SerialNumber::from(1_u64),
        issuing_distribution_point: None,
        revoked_certs: Vec::new(),
        key_identifier_method: rcgen::KeyIdMethod::Sha256,
    };
    Ok((root, list.signed_by(&rcgen::Issuer::new(params, key))?.pem()?))
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_revoked_is_told_in_every_namespace_once_something_is() -> Result<()> {
    let Some(server) = ApiServer::start().await? else {
        return Ok(());
    };
    for name in ["a", "b"] {
        let namespace = format!("{{apiVersion: v1, kind: Namespace, metadata: {{name: {name}}}}}");
        server.apply(&namespace).await?;
    }
    let (root, list) = revoking()?;
    let roots = TrustBundle::parse_pem(root.as_bytes())?;
    let lists = RevocationList::parse_pem(list.as_bytes())?;
    let (namespaces, wanted) = watch::channel(Arc::new(BTreeSet::from([Namespace::new("a")?])));
    let (bundles, bundle) = watch::channel(Arc::new(roots.clone()));
    let client = server.client().await?;
    let mut tasks = JoinSet::new();
    let document = root_certificates::REVOKED;
    tasks.spawn(root_certificates::keep(client.clone(), document, wanted, bundle));
    let told = async |namespace: &str| {
        let maps = Api::<ConfigMap>::namespaced(client.clone(), namespace);
        let map = maps.get_opt(document.name).await.ok().flatten()?;
        map.data?.remove(document.key)
    };
    bundles.send_replace(Arc::new(roots.clone().with_revoked(lists)));
    eventually("namespace a is told", SOON, async || {
        told("a").await.filter(|text| text.contains("X509 CRL"))
    })
    .await?;
    assert_eq!(told("b").await, None);
    // Withdrawn where it is, and begun nowhere else.
    bundles.send_replace(Arc::new(roots));
    eventually("the list of namespace a is empty", SOON, async || {
        told("a").await.filter(String::is_empty)
    })
    .await?;
    let both = [Namespace::new("a")?, Namespace::new("b")?];
    namespaces.send_replace(Arc::new(both.into_iter().collect()));
    // Somebody writes something else; once that is put right, namespace b has been looked at, too.
    let patch = Patch::Merge(json!({"data": {document.key: "x"}}));
    let maps = Api::<ConfigMap>::namespaced(client.clone(), "a");
    maps.patch(document.name, &PatchParams::default(), &patch).await?;
    eventually("it is empty again", SOON, async || {
        told("a").await.filter(String::is_empty)
    })
    .await?;
    assert_eq!(told("b").await, None);
    Ok(())
}
