//! A small mesh for tests: a CA in a directory of its own, an issuer of tokens, a server with TLS, and clients.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Once};
use std::time::{Duration, SystemTime};

use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use lateen_ca::pki::{Chain, Csr, PrivateKey, TrustBundle};
use lateen_ca::{
    Authenticator, CaConfig, CertificateAuthority, CertificateService, Clock, PeerCertificates, RootSource,
    TokenIssuer, TokenVerifier,
};
use lateen_names::{Namespace, ServiceAccount, SpiffeId, TrustDomain};
use lateen_proto::istio::v1::auth::istio_certificate_service_client::IstioCertificateServiceClient;
use lateen_proto::istio::v1::auth::istio_certificate_service_server::IstioCertificateServiceServer;
use lateen_proto::istio::v1::auth::{IstioCertificateRequest, IstioCertificateResponse};
use prometheus::Registry;
use tempfile::TempDir;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tonic::codegen::Service;
use tonic::transport::server::TcpConnectInfo;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
use tonic::{Request, Status};

pub(crate) const HOUR: Duration = Duration::from_secs(3600);
pub(crate) const DAY: Duration = Duration::from_secs(24 * 3600);

/// A clock that a test sets forward; it begins at the system's time, which TLS clients compare with.
#[derive(Clone)]
pub(crate) struct TestClock(SystemTime, Arc<AtomicU64>);

impl TestClock {
    pub(crate) fn new() -> Self {
        Self(SystemTime::now(), Arc::default())
    }

    pub(crate) fn now(&self) -> SystemTime {
        self.0 + Duration::from_secs(self.1.load(Ordering::SeqCst))
    }

    pub(crate) fn advance(&self, by: Duration) {
        self.1.fetch_add(by.as_secs(), Ordering::SeqCst);
    }

    pub(crate) fn clock(&self) -> Clock {
        let clock = self.clone();
        Arc::new(move || clock.now())
    }
}

/// A CA with its parts, without a server.
pub(crate) struct Mesh {
    pub(crate) directory: TempDir,
    pub(crate) clock: TestClock,
    pub(crate) registry: Registry,
    pub(crate) authority: CertificateAuthority,
    pub(crate) tokens: TokenIssuer,
    pub(crate) authenticator: Arc<Authenticator>,
}

/// A [`Mesh`] that is served on a port of its own until dropped.
pub(crate) struct Served {
    pub(crate) mesh: Mesh,
    pub(crate) address: SocketAddr,
    _tasks: JoinSet<()>,
}

pub(crate) fn trust_domain() -> TrustDomain {
    TrustDomain::new("cluster.local").unwrap()
}

pub(crate) fn identity(account: &str) -> SpiffeId {
    format!("spiffe://cluster.local/ns/shop/sa/{account}").parse().unwrap()
}

pub(crate) fn config(directory: &TempDir) -> CaConfig {
    CaConfig::new(trust_domain(), RootSource::SelfSigned(directory.path().join("ca")))
}

impl Mesh {
    pub(crate) fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let config = config(&directory);
        Self::with(directory, config)
    }

    pub(crate) fn with(directory: TempDir, config: CaConfig) -> Self {
        let clock = TestClock::new();
        let registry = Registry::new();
        let authority = CertificateAuthority::open(config, clock.clock(), &registry).unwrap();
        let tokens = TokenIssuer::open_or_create(directory.path()).unwrap();
        let verifiers: Vec<Arc<dyn TokenVerifier>> = vec![Arc::new(tokens.verifier().unwrap())];
        let authenticator = Arc::new(Authenticator::new(
            trust_domain(),
            authority.trust_bundle(),
            verifiers,
            clock.clock(),
        ));
        Self {
            directory,
            clock,
            registry,
            authority,
            tokens,
            authenticator,
        }
    }

    pub(crate) fn token(&self, account: &str) -> String {
        let namespace = Namespace::new("shop").unwrap();
        let account = ServiceAccount::new(account).unwrap();
        self.tokens.issue(&namespace, &account, HOUR, self.clock.now()).unwrap()
    }

    /// A workload's key and chain, issued without the service.
    pub(crate) fn workload(&self, account: &str) -> (PrivateKey, Chain) {
        let key = PrivateKey::generate().unwrap();
        let csr = Csr::create(&key, &identity(account)).unwrap();
        let issued = self.authority.issue(&csr, &identity(account), None).unwrap();
        (key, issued.chain)
    }

    /// The value of a metric without labels, 0 when it is not there.
    pub(crate) fn metric(&self, name: &str) -> f64 {
        let families = self.registry.gather();
        let family = families.iter().find(|family| family.name() == name);
        let value = |family: &prometheus::proto::MetricFamily| {
            let metric = &family.get_metric()[0];
            metric.get_counter().get_value() + metric.get_gauge().get_value()
        };
        family.map_or(0.0, value)
    }
}

impl Served {
    pub(crate) async fn new() -> Self {
        Self::of(Mesh::new()).await
    }

    pub(crate) async fn of(mesh: Mesh) -> Self {
        Self::with(mesh, |service| service).await
    }

    pub(crate) async fn with(mesh: Mesh, change: impl FnOnce(CertificateService) -> CertificateService) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let acceptor = tokio_rustls::TlsAcceptor::from(mesh.authority.server_tls_config().unwrap());
        let service = CertificateService::new(mesh.authority.clone(), Arc::clone(&mesh.authenticator));
        let server = change(service).into_server();
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, peer)) = listener.accept().await {
                let (acceptor, server) = (acceptor.clone(), server.clone());
                connections.spawn(async move {
                    // A client that fails the handshake goes away; others are served.
                    if let Ok(stream) = acceptor.accept(stream).await {
                        serve(stream, peer, server).await;
                    }
                });
            }
        });
        Self {
            mesh,
            address,
            _tasks: tasks,
        }
    }

    /// A connection that trusts the mesh's roots and presents `identity`, if any.
    pub(crate) async fn connect(
        &self,
        identity: Option<&(PrivateKey, Chain)>,
    ) -> Result<Client, tonic::transport::Error> {
        let mut tls = ClientTlsConfig::new()
            .ca_certificate(Certificate::from_pem(self.mesh.authority.bundle_pem()))
            .domain_name("istiod.istio-system.svc");
        if let Some((key, chain)) = identity {
            tls = tls.identity(Identity::from_pem(chain.pem(), key.expose_pem().as_str()));
        }
        install_provider();
        let endpoint = Endpoint::from_shared(format!("https://{}", self.address)).unwrap();
        let channel = endpoint.tls_config(tls).unwrap().connect().await?;
        Ok(Client(IstioCertificateServiceClient::new(channel)))
    }

    pub(crate) async fn client(&self) -> Client {
        self.connect(None).await.unwrap()
    }
}

/// One connection; every request on it carries the peer's certificates and address.
async fn serve(
    stream: tokio_rustls::server::TlsStream<TcpStream>,
    peer: SocketAddr,
    server: IstioCertificateServiceServer<CertificateService>,
) {
    let certificates = stream.get_ref().1.peer_certificates().unwrap_or_default();
    let certificates = PeerCertificates(certificates.into());
    let service = service_fn(move |mut request: http::Request<Incoming>| {
        request.extensions_mut().insert(certificates.clone());
        request.extensions_mut().insert(TcpConnectInfo {
            local_addr: None,
            remote_addr: Some(peer),
        });
        let mut server = server.clone();
        async move { server.call(request).await }
    });
    let connection = auto::Builder::new(TokioExecutor::new()).http2_only();
    // The client may end the connection as it likes.
    let _ = connection.serve_connection(TokioIo::new(stream), service).await;
}

/// An agent as the CA sees it.
pub(crate) struct Client(pub(crate) IstioCertificateServiceClient<Channel>);

impl Client {
    pub(crate) async fn create(&mut self, csr: &str, token: Option<&str>) -> Result<IstioCertificateResponse, Status> {
        let request = IstioCertificateRequest {
            csr: csr.to_owned(),
            ..Default::default()
        };
        self.send(request, token).await
    }

    pub(crate) async fn send(
        &mut self,
        request: IstioCertificateRequest,
        token: Option<&str>,
    ) -> Result<IstioCertificateResponse, Status> {
        let mut request = Request::new(request);
        if let Some(token) = token {
            request
                .metadata_mut()
                .insert("authorization", format!("Bearer {token}").parse().unwrap());
        }
        Ok(self.0.create_certificate(request).await?.into_inner())
    }
}

/// A request as an agent makes it.
pub(crate) fn csr(key: &PrivateKey, account: &str) -> String {
    Csr::create(key, &identity(account)).unwrap().pem()
}

/// The answer's leaf with intermediates, and its roots.
pub(crate) fn read(response: &IstioCertificateResponse) -> (Chain, TrustBundle) {
    let (roots, chain) = response.cert_chain.split_last().unwrap();
    (
        Chain::parse_pem(chain.concat().as_bytes()).unwrap(),
        TrustBundle::parse_pem(roots.as_bytes()).unwrap(),
    )
}

pub(crate) fn install_provider() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // Another library of the test may have been first.
        let _ = rustls::crypto::ring::default_provider().install_default();
    });
}
