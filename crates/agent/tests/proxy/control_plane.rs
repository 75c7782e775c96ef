//! A control plane small enough to see through: a CA, and delta ADS that serves what a test says.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use futures::future::BoxFuture;
use futures::{Stream, StreamExt as _};
use lateen_pki::{Csr, PrivateKey, Serial, SigningCa, Validity};
use lateen_proto::envoy::config::core::v3::Node;
use lateen_proto::envoy::service::discovery::v3::aggregated_discovery_service_server::{
    AggregatedDiscoveryService, AggregatedDiscoveryServiceServer,
};
use lateen_proto::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse, Resource,
};
use lateen_proto::istio::networking::nds::v1 as nds;
use lateen_proto::istio::v1::auth::istio_certificate_service_server::{
    IstioCertificateService, IstioCertificateServiceServer,
};
use lateen_proto::istio::v1::auth::{IstioCertificateRequest, IstioCertificateResponse};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::body::Body;
use tonic::transport::{Certificate, Identity, ServerTlsConfig};
use tonic::{Request, Response, Status, Streaming};

const DAY: Duration = Duration::from_secs(24 * 3600);
const LISTENER: &str = "type.googleapis.com/envoy.config.listener.v3.Listener";
const NAMES: &str = "type.googleapis.com/istio.networking.nds.v1.NameTable";

/// Resources by type, and what was seen.
struct Shared {
    ca: SigningCa,
    resources: watch::Sender<BTreeMap<String, Vec<Resource>>>,
    node: Mutex<Option<Node>>,
    requests: Mutex<BTreeMap<String, usize>>,
    /// Serials of the certificates issued on request.
    issued: Mutex<Vec<String>>,
}

/// What survives a stop: the CA.
pub(crate) struct Saved(Arc<Shared>);

/// A running control plane; its end closes every connection.
pub(crate) struct ControlPlane {
    shared: Arc<Shared>,
    address: SocketAddr,
    server: JoinSet<()>,
}

impl ControlPlane {
    /// Starts one, anew or where and as whom another one was.
    pub(crate) async fn start(former: Option<(SocketAddr, Saved)>) -> Self {
        let (address, shared) = match former {
            Some((address, Saved(shared))) => (address, shared),
            None => {
                let validity = Validity::starting(SystemTime::now(), 3650 * DAY);
                let key = PrivateKey::generate().unwrap();
                let ca = SigningCa::self_signed(&"cluster.local".parse().unwrap(), key, validity, serial()).unwrap();
                let shared = Shared {
                    ca,
                    resources: watch::Sender::new(BTreeMap::new()),
                    node: Mutex::default(),
                    requests: Mutex::default(),
                    issued: Mutex::default(),
                };
                ("127.0.0.1:0".parse().unwrap(), Arc::new(shared))
            }
        };
        let listener = bind(address).await;
        let address = listener.local_addr().unwrap();
        let key = PrivateKey::generate().unwrap();
        let validity = Validity::starting(SystemTime::now(), DAY);
        let names = ["istiod.istio-system.svc", "localhost"].map(|name| name.parse().unwrap());
        let certificate = shared
            .ca
            .issue_serving(key.public_key(), &names, None, validity, serial())
            .unwrap();
        let tls = ServerTlsConfig::new()
            .identity(Identity::from_pem(certificate.pem(), key.expose_pem().as_bytes()))
            .client_ca_root(Certificate::from_pem(shared.ca.roots().pem()))
            .client_auth_optional(true);
        let services = Services {
            ads: AggregatedDiscoveryServiceServer::new(Service(Arc::clone(&shared))),
            ca: IstioCertificateServiceServer::new(Service(Arc::clone(&shared))),
        };
        let mut server = JoinSet::new();
        server.spawn(async move {
            let mut builder = tonic::transport::Server::builder().tls_config(tls).unwrap();
            builder = builder.http2_keepalive_interval(None);
            builder
                .serve_with_incoming(services, TcpListenerStream::new(listener))
                .await
                .unwrap();
        });
        Self {
            shared,
            address,
            server,
        }
    }

    /// Ends it, as a crash would.
    pub(crate) async fn stop(mut self) -> Saved {
        // Streams end with an error, the listener is closed.
        self.shared
            .resources
            .send_replace(BTreeMap::from([("stop".to_owned(), Vec::new())]));
        self.server.shutdown().await;
        // A stream that looks only later must still see it.
        tokio::time::timeout(Duration::from_secs(30), self.shared.resources.closed())
            .await
            .expect("streams go on");
        self.shared.resources.send_replace(BTreeMap::new());
        Saved(self.shared)
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn roots(&self) -> String {
        self.shared.ca.roots().pem()
    }

    /// Serials of the certificates that were asked for.
    pub(crate) fn issued(&self) -> Vec<String> {
        self.shared.issued.lock().unwrap().clone()
    }

    /// A certificate and its key for a service account of the namespace `shop`.
    pub(crate) fn issue(&self, account: &str) -> (String, PrivateKey) {
        let key = PrivateKey::generate().unwrap();
        let identity = format!("spiffe://cluster.local/ns/shop/sa/{account}").parse().unwrap();
        let validity = Validity::starting(SystemTime::now(), DAY);
        let leaf = self
            .shared
            .ca
            .issue(key.public_key(), &identity, validity, serial())
            .unwrap();
        (leaf.pem(), key)
    }

    /// A list of its CA that revokes these certificates.
    pub(crate) fn revoking(&self, serials: &[&str]) -> String {
        let ca = &self.shared.ca;
        let key = rcgen::KeyPair::from_pem(&ca.key().expose_pem()).unwrap();
        let issuer = rcgen::Issuer::from_ca_cert_pem(&ca.certificate().pem(), key).unwrap();
        let revoked = serials.iter().map(|serial| {
            let pairs = serial.as_bytes().chunks(2);
            let bytes = pairs.map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap());
            rcgen::RevokedCertParams {
                serial_number: rcgen::SerialNumber::from_slice(&bytes.collect::<Vec<_>>()),
                revocation_time: rcgen::date_time_ymd(2024, 1, 1),
                reason_code: Some(rcgen::RevocationReason::KeyCompromise),
                invalidity_date: None,
            }
        });
        let list = rcgen::CertificateRevocationListParams {
            this_update: rcgen::date_time_ymd(2024, 1, 1),
            next_update: rcgen::date_time_ymd(2124, 1, 1),
            crl_number: rcgen::SerialNumber::from(1_u64),
            issuing_distribution_point: None,
            revoked_certs: revoked.collect(),
            key_identifier_method: rcgen::KeyIdMethod::Sha256,
        };
        list.signed_by(&issuer).unwrap().pem().unwrap()
    }

    pub(crate) fn set_listeners(&self, listeners: Vec<serde_json::Value>) {
        let resource = |listener: serde_json::Value| Resource {
            name: listener["name"].as_str().unwrap().to_owned(),
            version: listener.to_string().len().to_string(),
            resource: Some(lateen_proto::any_from_json("envoy.config.listener.v3.Listener", &listener).unwrap()),
            ..Default::default()
        };
        self.set(LISTENER, listeners.into_iter().map(resource).collect());
    }

    pub(crate) fn set_names<const N: usize>(&self, names: [(&str, &str); N]) {
        let info = |host: &str, ip: &str| {
            let mut labels = host.split('.').map(str::to_owned);
            nds::name_table::NameInfo {
                ips: vec![ip.to_owned()],
                registry: "Kubernetes".into(),
                shortname: labels.next().unwrap(),
                namespace: labels.next().unwrap(),
                ..Default::default()
            }
        };
        let table = nds::NameTable {
            table: names
                .iter()
                .map(|(host, ip)| ((*host).to_owned(), info(host, ip)))
                .collect(),
        };
        let resource = Resource {
            name: "names".into(),
            version: "1".into(),
            resource: Some(lateen_proto::any(&table)),
            ..Default::default()
        };
        self.set(NAMES, vec![resource]);
    }

    fn set(&self, kind: &str, resources: Vec<Resource>) {
        self.shared
            .resources
            .send_modify(|all| drop(all.insert(kind.to_owned(), resources)));
    }

    /// The node of the latest stream.
    pub(crate) fn node(&self) -> Option<Node> {
        self.shared.node.lock().unwrap().clone()
    }

    /// How often a type was asked for.
    pub(crate) fn requests_of(&self, kind: &str) -> usize {
        self.shared
            .requests
            .lock()
            .unwrap()
            .get(&format!("type.googleapis.com/{kind}"))
            .copied()
            .unwrap_or(0)
    }
}

/// A port that was just given up may need a moment.
async fn bind(address: SocketAddr) -> TcpListener {
    for _ in 0..500 {
        if let Ok(listener) = TcpListener::bind(address).await {
            return listener;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{address} cannot be bound");
}

fn serial() -> Serial {
    Serial::new(rand::random())
}

#[derive(Clone)]
struct Service(Arc<Shared>);

#[tonic::async_trait]
impl IstioCertificateService for Service {
    async fn create_certificate(
        &self,
        request: Request<IstioCertificateRequest>,
    ) -> Result<Response<IstioCertificateResponse>, Status> {
        if request
            .metadata()
            .get("authorization")
            .and_then(|value| value.to_str().ok())
            != Some("Bearer the-token")
        {
            return Err(Status::unauthenticated("no token"));
        }
        let request = request.into_inner();
        let csr =
            Csr::parse_pem(request.csr.as_bytes()).map_err(|error| Status::invalid_argument(error.to_string()))?;
        let identity = "spiffe://cluster.local/ns/shop/sa/web".parse().unwrap();
        let lifetime = Duration::from_secs(request.validity_duration.cast_unsigned());
        let validity = Validity::starting(SystemTime::now(), lifetime);
        let leaf = self
            .0
            .ca
            .issue(csr.public_key(), &identity, validity, serial())
            .unwrap();
        self.0.issued.lock().unwrap().push(leaf.serial().to_owned());
        Ok(Response::new(IstioCertificateResponse {
            cert_chain: vec![leaf.pem(), self.0.ca.roots().pem()],
        }))
    }
}

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// One stream: the types asked for with the resources sent.
struct Session {
    requests: Streaming<DeltaDiscoveryRequest>,
    resources: watch::Receiver<BTreeMap<String, Vec<Resource>>>,
    sent: BTreeMap<String, Vec<Resource>>,
    /// Asked for and not answered yet, which Envoy waits for even when there is nothing.
    unanswered: Vec<String>,
    shared: Arc<Shared>,
    nonce: u64,
}

impl Session {
    fn due(&mut self) -> Option<DeltaDiscoveryResponse> {
        let all = self.resources.borrow_and_update().clone();
        let kinds: Vec<String> = self.sent.keys().cloned().collect();
        for kind in kinds {
            let wanted = all.get(&kind).cloned().unwrap_or_default();
            let sent = self.sent.get_mut(&kind).unwrap();
            let first = self.unanswered.iter().position(|unanswered| *unanswered == kind);
            if *sent == wanted && first.is_none() {
                continue;
            }
            if let Some(first) = first {
                self.unanswered.remove(first);
            }
            let resources = wanted
                .iter()
                .filter(|resource| !sent.contains(resource))
                .cloned()
                .collect();
            *sent = wanted;
            self.nonce += 1;
            return Some(DeltaDiscoveryResponse {
                type_url: kind,
                resources,
                nonce: self.nonce.to_string(),
                ..Default::default()
            });
        }
        None
    }

    fn take(&mut self, request: DeltaDiscoveryRequest) {
        if let Some(error) = &request.error_detail {
            panic!("rejected: {}", error.message);
        }
        *self
            .shared
            .requests
            .lock()
            .unwrap()
            .entry(request.type_url.clone())
            .or_default() += 1;
        if let Some(node) = request.node {
            *self.shared.node.lock().unwrap() = Some(node);
        }
        if !self.sent.contains_key(&request.type_url) {
            self.sent.insert(request.type_url.clone(), Vec::new());
            self.unanswered.push(request.type_url);
        }
    }
}

#[tonic::async_trait]
impl AggregatedDiscoveryService for Service {
    type StreamAggregatedResourcesStream = Answers<DiscoveryResponse>;
    type DeltaAggregatedResourcesStream = Answers<DeltaDiscoveryResponse>;

    async fn stream_aggregated_resources(
        &self,
        request: Request<Streaming<DiscoveryRequest>>,
    ) -> Result<Response<Self::StreamAggregatedResourcesStream>, Status> {
        let state = (
            request.into_inner(),
            self.0.resources.subscribe(),
            Arc::clone(&self.0),
            None::<String>,
        );
        // Whatever is asked for is sent whenever there is any of it.
        let answers = futures::stream::unfold(state, |(mut requests, mut resources, shared, mut asked)| async move {
            loop {
                if resources.borrow().contains_key("stop") {
                    return None;
                }
                tokio::select! {
                    request = requests.message() => {
                        let request = request.ok()??;
                        *shared.node.lock().unwrap() = request.node;
                        asked = Some(request.type_url);
                    }
                    changed = resources.changed() => changed.ok()?,
                }
                let all = resources.borrow_and_update().clone();
                let Some(type_url) = asked.clone() else { continue };
                let Some(found) = all.get(&type_url) else { continue };
                let resources_of_type = found.iter().filter_map(|resource| resource.resource.clone()).collect();
                let response = DiscoveryResponse {
                    type_url,
                    resources: resources_of_type,
                    nonce: "1".into(),
                    ..Default::default()
                };
                return Some((Ok(response), (requests, resources, shared, asked)));
            }
        });
        Ok(Response::new(answers.boxed()))
    }

    async fn delta_aggregated_resources(
        &self,
        request: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaAggregatedResourcesStream>, Status> {
        if request.metadata().get("authorization").is_none() {
            return Err(Status::unauthenticated("no token"));
        }
        let session = Session {
            requests: request.into_inner(),
            resources: self.0.resources.subscribe(),
            sent: BTreeMap::new(),
            unanswered: Vec::new(),
            shared: Arc::clone(&self.0),
            nonce: 0,
        };
        let answers = futures::stream::unfold(session, |mut session| async move {
            loop {
                if session.resources.borrow().contains_key("stop") {
                    return None;
                }
                if let Some(response) = session.due() {
                    return Some((Ok(response), session));
                }
                tokio::select! {
                    request = session.requests.message() => session.take(request.ok()??),
                    changed = session.resources.changed() => changed.ok()?,
                }
            }
        });
        Ok(Response::new(answers.boxed()))
    }
}

/// Both services on one port.
#[derive(Clone)]
struct Services {
    ads: AggregatedDiscoveryServiceServer<Service>,
    ca: IstioCertificateServiceServer<Service>,
}

impl tower::Service<http::Request<Body>> for Services {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        if request.uri().path().starts_with("/istio.v1.auth.") {
            Box::pin(tower::Service::call(&mut self.ca, request))
        } else {
            Box::pin(tower::Service::call(&mut self.ads, request))
        }
    }
}
