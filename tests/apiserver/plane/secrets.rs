//! Keys of gateways go to accounts that may read the Secrets, whatever a proxy says of itself.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::core::v1::Secret as KubeSecret;
use kube::api::Api;
use lateen_ca::TOKEN_AUDIENCE;
use lateen_ca::pki::{Csr, PrivateKey};
use lateen_proto::envoy::config::core::v3::Node;
use lateen_proto::istio::v1::auth::IstioCertificateRequest;
use lateen_proto::istio::v1::auth::istio_certificate_service_client::IstioCertificateServiceClient;
use lateen_testkit::apiserver::TokenFor;
use lateen_testkit::{ApiServer, Lateend, eventually, world};
use lateen_xds::types::{CLUSTER, SECRET};
use lateen_xds::{AdsClient, ClientState};
use serde_json::json;
use tonic::Request;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};

/// Reviews are remembered for seconds, and asked again every ten.
const SOON: Duration = Duration::from_secs(120);
const NAME: &str = "kubernetes://shop-cert";

const GATEWAY: &str = "
{apiVersion: networking.istio.io/v1, kind: Gateway, metadata: {name: shop, namespace: edge},
 spec: {selector: {istio: edge}, servers: [{port: {number: 8443, name: https, protocol: HTTPS}, hosts: ['*'],
  tls: {mode: SIMPLE, credentialName: shop-cert}}]}}
---
{apiVersion: v1, kind: ServiceAccount, metadata: {name: gateway, namespace: edge}}
---
{apiVersion: v1, kind: ServiceAccount, metadata: {name: other, namespace: edge}}
---
{apiVersion: rbac.authorization.k8s.io/v1, kind: Role, metadata: {name: secrets, namespace: edge},
 rules: [{apiGroups: [''], resources: [secrets], verbs: [get, list, watch]}]}
---
{apiVersion: rbac.authorization.k8s.io/v1, kind: RoleBinding, metadata: {name: gateway, namespace: edge},
 roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: secrets},
 subjects: [{kind: ServiceAccount, name: gateway, namespace: edge}]}
";
const BOUND: &str = "
{apiVersion: rbac.authorization.k8s.io/v1, kind: RoleBinding, metadata: {name: other, namespace: edge},
 roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: secrets},
 subjects: [{kind: ServiceAccount, name: other, namespace: edge}]}
";

struct Edge<'a> {
    server: &'a ApiServer,
    lateend: &'a Lateend,
    roots: String,
}

impl Edge<'_> {
    async fn channel(&self, identity: Option<Identity>) -> Result<Channel> {
        let mut tls = ClientTlsConfig::new()
            .ca_certificate(Certificate::from_pem(&self.roots))
            .domain_name("localhost");
        if let Some(identity) = identity {
            tls = tls.identity(identity);
        }
        let endpoint = Endpoint::from_shared(format!("https://{}", self.lateend.secure()))?;
        Ok(endpoint.tls_config(tls)?.connect().await?)
    }

    /// A gateway as it says it is, with the certificate of this account; nobody's over plain text.
    async fn gateway(&self, account: Option<&str>) -> Result<AdsClient> {
        let node: Node = lateen_proto::from_json(&json!({
            "id": "router~10.9.9.9~edge-1.edge~edge.svc.cluster.local",
            "metadata": {"NAME": "edge-1", "NAMESPACE": "edge", "CLUSTER_ID": "Kubernetes", "LABELS": {"istio": "edge"}},
        }))?;
        let channel = match account {
            None => {
                Endpoint::from_shared(format!("http://{}", self.lateend.plaintext()))?
                    .connect()
                    .await?
            }
            Some(account) => {
                let purpose = TokenFor {
                    audiences: &[TOKEN_AUDIENCE],
                    ..TokenFor::default()
                };
                let token = self.server.token("edge", account, purpose).await?;
                let key = PrivateKey::generate()?;
                let identity = format!("spiffe://cluster.local/ns/edge/sa/{account}").parse()?;
                let mut request = Request::new(IstioCertificateRequest {
                    csr: Csr::create(&key, &identity)?.pem(),
                    ..IstioCertificateRequest::default()
                });
                let bearer = format!("Bearer {token}").parse()?;
                request.metadata_mut().insert("authorization", bearer);
                let mut authority = IstioCertificateServiceClient::new(self.channel(None).await?);
                let chain = authority.create_certificate(request).await?.into_inner().cert_chain;
                let identity = Identity::from_pem(chain.concat(), key.expose_pem().as_str());
                self.channel(Some(identity)).await?
            }
        };
        let state = ClientState::new()
            .subscribing(SECRET, &[NAME])
            .subscribing(CLUSTER, &["*"]);
        let mut client = AdsClient::connect(channel, node, state).await?;
        client
            .until(SOON, |state| {
                state.of(CLUSTER).is_some_and(|clusters| !clusters.resources.is_empty())
            })
            .await
            .context("clusters")?;
        Ok(client)
    }
}

fn holds(state: &ClientState) -> bool {
    state
        .of(SECRET)
        .is_some_and(|secrets| secrets.resources.contains_key(NAME))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateways_key_goes_to_accounts_that_may_read_it() -> Result<()> {
    let Some(server) = ApiServer::start().await? else {
        return Ok(());
    };
    // Another test of this process may have been first.
    let _ = rustls::crypto::ring::default_provider().install_default();
    server.install_crds().await?;
    let namespaces = "{apiVersion: v1, kind: Namespace, metadata: {name: istio-system}}\n---\n\
                      {apiVersion: v1, kind: Namespace, metadata: {name: edge}}";
    server.apply(namespaces).await?;
    server.apply(GATEWAY).await?;
    let (_, secret) = world::tls_secret("edge", "shop-cert", "shop.example")?;
    server.apply(&secret).await?;
    let lateend = Lateend::start_in_cluster(server.kubeconfig(), server.directory(), &[]).await?;
    let done = async {
        let secrets: Api<KubeSecret> = Api::namespaced(server.client().await?, "istio-system");
        let root = secrets.get("istio-ca-secret").await?.data;
        let root = root
            .and_then(|mut data| data.remove("root-cert.pem"))
            .unwrap_or_default();
        let edge = Edge {
            server: &server,
            lateend: &lateend,
            roots: String::from_utf8(root.0)?,
        };
        let mut right = edge.gateway(Some("gateway")).await?;
        right.until(SOON, holds).await.context("the gateway's own account")?;

        // It says the same of itself, and may not read the Secret: neither it, nor who says nothing of who it is.
        let mut other = edge.gateway(Some("other")).await?;
        let mut nobody = edge.gateway(None).await?;
        for (who, client) in [("another account", &mut other), ("nobody", &mut nobody)] {
            // As long as it took the gateway many times over.
            let got = client.until(Duration::from_secs(3), holds).await;
            ensure!(got.is_err() && !holds(client.state()), "{who} got the key");
        }
        // Once its role is bound, it is sent to connect anew.
        server.apply(BOUND).await?;
        let ended = tokio::time::timeout(SOON, async { while other.next().await.is_ok() {} }).await;
        ensure!(ended.is_ok(), "the stream of the denied gateway did not end");
        ensure!(!holds(other.state()), "it got the key on the old stream");
        eventually("the account gets the key on a new stream", SOON, async || {
            let mut client = edge.gateway(Some("other")).await.ok()?;
            client.until(Duration::from_secs(3), holds).await.ok().map(drop)
        })
        .await
    };
    let done: Result<()> = done.await;
    done.map_err(|error| error.context(lateend.log()))
}
