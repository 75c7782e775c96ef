//! Whom the certificate authority believes: tokens of pods, and node proxies.

use std::io::Write;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, SystemTime};

use anyhow::Result;
use lateen_ca::kube::{NodeProxies, SecretRoot, TokenReviewer};
use lateen_ca::pki::{Chain, Csr, PrivateKey};
use lateen_ca::{Authenticator, CertificateService, TOKEN_AUDIENCE, TokenVerifier};
use lateen_names::{Namespace, ServiceAccount, SpiffeId, TrustDomain};
use lateen_proto::istio::v1::auth::IstioCertificateRequest;
use lateen_proto::istio::v1::auth::istio_certificate_service_client::IstioCertificateServiceClient;
use lateen_proto::{Struct, Value, value::Kind};
use lateen_testkit::ApiServer;
use lateen_testkit::apiserver::TokenFor;
use prometheus::Registry;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::{Endpoint, Server};
use tonic::{Code, Request, Status};

use crate::{ca_config, clock};

/// Two nodes with a node proxy each, and two workloads.
const WORLD: &str = "
{apiVersion: v1, kind: Node, metadata: {name: node-a}}
---
{apiVersion: v1, kind: Node, metadata: {name: node-b}}
";

fn pod(namespace: &str, name: &str, account: &str, node: &str, address: &str) -> String {
    format!(
        "\n---\n{{apiVersion: v1, kind: Pod, metadata: {{name: {name}, namespace: {namespace}}}, \
         spec: {{serviceAccountName: {account}, nodeName: {node}, containers: [{{name: app, image: app}}]}}, \
         status: {{phase: Running, podIP: {address}, podIPs: [{{ip: {address}}}]}}}}"
    )
}

/// What was logged by this test binary.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Log {
    fn start() -> Self {
        static LOG: OnceLock<Log> = OnceLock::new();
        let log = LOG.get_or_init(|| {
            let log = Self::default();
            let writer = log.clone();
            tracing_subscriber::fmt()
                .with_ansi(false)
                .with_writer(move || writer.clone())
                .init();
            log
        });
        log.clone()
    }

    fn lines(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)).into_owned()
    }
}

struct Authority {
    server: ApiServer,
    address: SocketAddr,
    registry: Registry,
    /// How far the authority's clock is ahead.
    ahead: watch::Sender<Duration>,
    log: Log,
    _tasks: JoinSet<()>,
}

impl Authority {
    async fn start(server: ApiServer) -> Result<Self> {
        let log = Log::start();
        let world = [
            WORLD.to_owned(),
            pod("shop", "cart-1", "cart", "node-a", "127.0.0.2"),
            pod("shop", "web-1", "web", "node-b", "127.0.0.3"),
            pod("other", "thief-1", "thief", "node-b", "127.0.0.4"),
            pod("istio-system", "ztunnel-a", "ztunnel", "node-a", "127.0.0.5"),
            pod("istio-system", "ztunnel-b", "ztunnel", "node-b", "127.0.0.6"),
        ];
        server.apply(&world.concat()).await?;
        let client = server.client().await?;
        let registry = Registry::new();
        let root = SecretRoot::new(client.clone(), &Namespace::new("istio-system")?);
        let authority = root.open(ca_config(), clock(), &registry).await?;
        let reviewer: Arc<dyn TokenVerifier> = Arc::new(TokenReviewer::new(client.clone(), [TOKEN_AUDIENCE]));
        let (ahead, now) = watch::channel(Duration::ZERO);
        let authenticator = Authenticator::new(
            TrustDomain::default(),
            authority.trust_bundle(),
            vec![reviewer],
            Arc::new(move || SystemTime::now() + *now.borrow()),
        );
        let ztunnel = (Namespace::new("istio-system")?, ServiceAccount::new("ztunnel")?);
        let service = CertificateService::new(authority, Arc::new(authenticator))
            .with_nodes(Arc::new(NodeProxies::new(client, vec![ztunnel])));
        let listener = TcpListener::bind("0.0.0.0:0").await?;
        let address = SocketAddr::from(([127, 0, 0, 1], listener.local_addr()?.port()));
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let serving = Server::builder().add_service(service.into_server());
            let _ = serving.serve_with_incoming(TcpListenerStream::new(listener)).await;
        });
        Ok(Self {
            server,
            address,
            registry,
            ahead,
            log,
            _tasks: tasks,
        })
    }

    async fn token(&self, namespace: &str, account: &str, pod: Option<&str>) -> Result<String> {
        let purpose = TokenFor {
            audiences: &[TOKEN_AUDIENCE],
            pod,
            lifetime: None,
        };
        self.server.token(namespace, account, purpose).await
    }

    /// Asks for a certificate from an address of this machine; gives the identity that is certified.
    async fn ask(&self, from: &str, token: &str, impersonated: Option<&str>) -> Result<SpiffeId, Status> {
        let unexpected = |error: &dyn std::fmt::Display| Status::internal(format!("the test failed: {error}"));
        let from: IpAddr = from.parse().map_err(|error| unexpected(&error))?;
        let channel = Endpoint::from_shared(format!("http://{}", self.address))
            .map_err(|error| unexpected(&error))?
            .local_address(Some(from))
            .connect()
            .await
            .map_err(|error| unexpected(&error))?;
        let key = PrivateKey::generate().map_err(|error| unexpected(&error))?;
        let named: SpiffeId = "spiffe://cluster.local/ns/a/sa/b"
            .parse()
            .map_err(|error| unexpected(&error))?;
        let csr = Csr::create(&key, &named).map_err(|error| unexpected(&error))?;
        let metadata = impersonated.map(|identity| {
            let value = Value {
                kind: Some(Kind::StringValue(identity.to_owned())),
            };
            Struct {
                fields: [("ImpersonatedIdentity".to_owned(), value)].into(),
            }
        });
        let mut request = Request::new(IstioCertificateRequest {
            csr: csr.pem(),
            metadata,
            ..IstioCertificateRequest::default()
        });
        let bearer = format!("Bearer {token}").parse().map_err(|error| unexpected(&error))?;
        request.metadata_mut().insert("authorization", bearer);
        let answer = IstioCertificateServiceClient::new(channel)
            .create_certificate(request)
            .await?
            .into_inner();
        let leaf = answer.cert_chain.first().cloned().unwrap_or_default();
        let chain = Chain::parse_pem(leaf.as_bytes()).map_err(|error| unexpected(&error))?;
        chain.leaf().spiffe_id().map_err(|error| unexpected(&error))
    }

    fn refusals(&self, reason: &str) -> u64 {
        let families = self.registry.gather();
        let family = families
            .iter()
            .find(|family| family.name() == "lateen_ca_refusals_total");
        let metrics = family.map(|family| family.get_metric()).unwrap_or_default();
        let of = metrics
            .iter()
            .find(|metric| metric.get_label().iter().any(|label| label.value() == reason));
        of.map_or(0, |metric| metric.get_counter().get_value() as u64)
    }

    /// Refused, counted and written down with the reason.
    async fn refuses(
        &self,
        from: &str,
        token: &str,
        impersonated: Option<&str>,
        code: Code,
        reason: &str,
    ) -> Result<()> {
        let (counted, logged) = (self.refusals(reason), self.log.lines().len());
        let status = match self.ask(from, token, impersonated).await {
            Ok(identity) => anyhow::bail!("{identity} was certified, and not refused for `{reason}`"),
            Err(status) => status,
        };
        assert_eq!(status.code(), code, "{status:?}");
        assert_eq!(
            self.refusals(reason),
            counted + 1,
            "not counted as `{reason}`: {status:?}"
        );
        // The other tests of this binary write there, too.
        let field = format!("reason=\"{reason}\"");
        let log = self.log.lines();
        let mut lines = log[logged..].lines().filter(|line| line.contains("refused to certify"));
        assert!(
            lines.any(|line| line.contains(&field)),
            "not in the log: {}",
            &log[logged..]
        );
        println!("{reason}: {}", status.message());
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_prove_the_pods_they_are_bound_to_and_nothing_else() -> Result<()> {
    let Some(server) = ApiServer::start().await? else {
        return Ok(());
    };
    let authority = Authority::start(server).await?;
    let refused = Code::Unauthenticated;
    let (cart, web) = ("127.0.0.2", "127.0.0.3");

    let token = authority.token("shop", "cart", Some("cart-1")).await?;
    let identity = authority.ask(cart, &token, None).await?;
    assert_eq!(identity.to_string(), "spiffe://cluster.local/ns/shop/sa/cart");
    // Networks may rewrite addresses: one that is nobody's proves nothing.
    authority.ask("127.0.0.77", &token, None).await?;
    // A token without a pod, as virtual machines have.
    let unbound = authority.token("shop", "cart", None).await?;
    authority.ask(web, &unbound, None).await?;

    authority
        .refuses(cart, "garbage", None, refused, "token_malformed")
        .await?;
    let forged = format!("{}AAAA", &token[..token.len() - 4]);
    authority.refuses(cart, &forged, None, refused, "token_refused").await?;
    let purpose = TokenFor {
        audiences: &["somebody-else"],
        pod: Some("cart-1"),
        lifetime: None,
    };
    let wrong = authority.server.token("shop", "cart", purpose).await?;
    authority.refuses(cart, &wrong, None, refused, "token_audience").await?;
    let purpose = TokenFor {
        pod: Some("cart-1"),
        ..TokenFor::default()
    };
    let default = authority.server.token("shop", "cart", purpose).await?;
    authority
        .refuses(cart, &default, None, refused, "token_audience")
        .await?;

    // Presented from another pod's address, on another node.
    authority.refuses(web, &token, None, refused, "token_stolen").await?;
    let denied = Code::PermissionDenied;
    let other = Some("spiffe://cluster.local/ns/shop/sa/cart");
    let thief = authority.token("other", "thief", Some("thief-1")).await?;
    authority
        .refuses("127.0.0.4", &thief, other, denied, "impersonation_not_trusted")
        .await?;

    authority.ahead.send_replace(Duration::from_secs(2 * 3600));
    authority.refuses(cart, &token, None, refused, "token_expired").await?;
    authority.ahead.send_replace(Duration::ZERO);

    // The API server's word is remembered, but a pod that is gone is gone.
    authority.ask(cart, &token, None).await?;
    authority
        .server
        .delete("{apiVersion: v1, kind: Pod, metadata: {name: cart-1, namespace: shop}}")
        .await?;
    authority.refuses(cart, &token, None, refused, "token_pod_gone").await?;
    // The same name again is another pod.
    authority
        .server
        .apply(&pod("shop", "cart-1", "cart", "node-a", "127.0.0.2"))
        .await?;
    authority.refuses(cart, &token, None, refused, "token_pod_gone").await?;
    let line = authority.log.lines();
    assert!(
        line.contains("claimed=\"system:serviceaccount:shop:cart\""),
        "the log does not say whom the token claims"
    );
    assert!(!line.contains(&token), "a token is in the log");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_proxy_gets_the_identities_on_its_node_only() -> Result<()> {
    let Some(server) = ApiServer::start().await? else {
        return Ok(());
    };
    let authority = Authority::start(server).await?;
    let denied = Code::PermissionDenied;
    let (cart, web) = (
        "spiffe://cluster.local/ns/shop/sa/cart",
        "spiffe://cluster.local/ns/shop/sa/web",
    );
    let (a, b) = ("127.0.0.5", "127.0.0.6");
    let of_a = authority.token("istio-system", "ztunnel", Some("ztunnel-a")).await?;
    let of_b = authority.token("istio-system", "ztunnel", Some("ztunnel-b")).await?;

    assert_eq!(authority.ask(a, &of_a, Some(cart)).await?.to_string(), cart);
    assert_eq!(authority.ask(b, &of_b, Some(web)).await?.to_string(), web);
    let own = "spiffe://cluster.local/ns/istio-system/sa/ztunnel";
    assert_eq!(authority.ask(a, &of_a, None).await?.to_string(), own);

    authority
        .refuses(a, &of_a, Some(web), denied, "impersonation_other_node")
        .await?;
    authority
        .refuses(b, &of_b, Some(cart), denied, "impersonation_other_node")
        .await?;
    let foreign = "spiffe://elsewhere/ns/shop/sa/cart";
    authority
        .refuses(a, &of_a, Some(foreign), denied, "impersonation_identity")
        .await?;
    authority
        .refuses(a, &of_a, Some("cart"), denied, "impersonation_identity")
        .await?;
    let unbound = authority.token("istio-system", "ztunnel", None).await?;
    authority
        .refuses(a, &unbound, Some(cart), denied, "impersonation_pod")
        .await?;
    // The proxy's own token, stolen by a pod of the other node.
    authority
        .refuses(b, &of_a, Some(cart), Code::Unauthenticated, "token_stolen")
        .await?;

    // The last pod of an identity leaves the node.
    authority
        .server
        .delete("{apiVersion: v1, kind: Pod, metadata: {name: cart-1, namespace: shop}}")
        .await?;
    authority
        .refuses(a, &of_a, Some(cart), denied, "impersonation_other_node")
        .await
}
