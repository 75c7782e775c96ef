//! Clients of the proxy, and an application behind the agent.

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use anyhow::Context as _;
use bytes::Bytes;
use hickory_proto::op::{Message, MessageType, OpCode, Query};
use hickory_proto::rr::{Name, RecordType};
use http::{Method, Request, Response};
use http_body_util::{BodyExt as _, Empty, Full};
use hyper::client::conn::http1::SendRequest;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;

use crate::control_plane::ControlPlane;

/// GET without TLS.
pub(crate) async fn get(address: SocketAddr, path: &str) -> anyhow::Result<(u16, String)> {
    plain(address, Method::GET, path).await
}

/// POST without TLS.
pub(crate) async fn post(address: SocketAddr, path: &str) -> anyhow::Result<(u16, String)> {
    plain(address, Method::POST, path).await
}

async fn plain(address: SocketAddr, method: Method, path: &str) -> anyhow::Result<(u16, String)> {
    let stream = TcpStream::connect(address).await?;
    let mut connection = Connection::over(stream).await?;
    let (status, body, _) = connection.send(method, path, &address.to_string()).await?;
    Ok((status, body))
}

/// The addresses of a name.
pub(crate) async fn resolve(server: SocketAddr, name: &str) -> Vec<String> {
    let socket = UdpSocket::bind((server.ip(), 0)).await.unwrap();
    let mut query = Message::new(7, MessageType::Query, OpCode::Query);
    query.add_query(Query::query(
        Name::from_ascii(format!("{name}.")).unwrap(),
        RecordType::A,
    ));
    socket.send_to(&query.to_vec().unwrap(), server).await.unwrap();
    let mut buffer = [0; 512];
    let length = socket.recv(&mut buffer).await.unwrap();
    let answer = Message::from_vec(&buffer[..length]).unwrap();
    answer.answers.iter().map(|record| record.data.to_string()).collect()
}

/// A connection with the task that drives it.
struct Connection {
    sender: SendRequest<Empty<Bytes>>,
    _task: JoinSet<()>,
}

impl Connection {
    async fn over<S>(stream: S) -> anyhow::Result<Self>
    where
        S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
    {
        let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        let mut task = JoinSet::new();
        task.spawn(async move { drop(connection.await) });
        Ok(Self { sender, _task: task })
    }

    /// Status, body, and whether the server closes the connection.
    async fn send(&mut self, method: Method, path: &str, host: &str) -> anyhow::Result<(u16, String, bool)> {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", host)
            .body(Empty::new())?;
        // The former answer may have been read before the connection knew.
        self.sender.ready().await?;
        let response = self.sender.send_request(request).await?;
        let closes = response
            .headers()
            .get("connection")
            .is_some_and(|value| value == "close");
        let status = response.status().as_u16();
        let body = response.into_body().collect().await?.to_bytes();
        Ok((status, String::from_utf8_lossy(&body).into_owned(), closes))
    }
}

/// An open connection.
pub(crate) struct Kept(Connection);

impl Kept {
    /// Another request; whether the server closes the connection after it.
    pub(crate) async fn again(&mut self) -> anyhow::Result<bool> {
        let (status, _, closes) = self.0.send(Method::GET, "/", "web").await?;
        anyhow::ensure!(status == 200, "status {status}");
        Ok(closes)
    }
}

/// A workload that calls the proxy over mutual TLS.
#[derive(Clone)]
pub(crate) struct Client {
    tls: TlsConnector,
    address: SocketAddr,
    /// Of its own certificate.
    pub(crate) serial: String,
}

/// What one request saw.
pub(crate) struct Seen {
    /// Of the server's certificate.
    pub(crate) serial: String,
}

impl Client {
    pub(crate) fn new(plane: &ControlPlane, address: SocketAddr) -> Self {
        let (chain, key) = plane.issue("client");
        let serial = lateen_pki::Chain::parse_pem(chain.as_bytes()).unwrap();
        let serial = serial.leaf().serial().to_owned();
        let chain = CertificateDer::pem_slice_iter(chain.as_bytes())
            .collect::<Result<Vec<_>, _>>()
            .unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(AnyName(provider)))
            .with_client_auth_cert(chain, key.expose_der())
            .unwrap();
        Self {
            tls: TlsConnector::from(Arc::new(config)),
            address,
            serial,
        }
    }

    /// A request over a connection of its own.
    pub(crate) async fn once(&self) -> anyhow::Result<Seen> {
        let (mut connection, serial) = self.connect().await?;
        let (status, _, _) = connection.send(Method::GET, "/", "web").await?;
        anyhow::ensure!(status == 200, "status {status}");
        Ok(Seen { serial })
    }

    /// A connection that stays open, with one request sent on it.
    pub(crate) async fn stay(&self) -> Kept {
        let (mut connection, _) = self.connect().await.unwrap();
        let (status, _, _) = connection.send(Method::GET, "/", "web").await.unwrap();
        assert_eq!(status, 200);
        Kept(connection)
    }

    async fn connect(&self) -> anyhow::Result<(Connection, String)> {
        let stream = TcpStream::connect(self.address).await.context("connect")?;
        let name = ServerName::IpAddress(self.address.ip().into());
        let stream = self.tls.connect(name, stream).await.context("TLS")?;
        let certificates = stream.get_ref().1.peer_certificates().unwrap_or_default();
        let certificate = lateen_pki::Certificate::from_der(certificates[0].clone().into_owned())?;
        Ok((Connection::over(stream).await?, certificate.serial().to_owned()))
    }

    /// Four callers, each with a connection that it keeps until it is told to close it, as pools do.
    pub(crate) fn load(&self) -> Load {
        let shared = Arc::new(LoadShared::default());
        let mut tasks = JoinSet::new();
        for _ in 0..4 {
            let (client, shared) = (self.clone(), Arc::clone(&shared));
            tasks.spawn(async move {
                let mut connection = None;
                while !shared.stop.load(Ordering::Relaxed) {
                    let result = async {
                        let mut current = match connection.take() {
                            Some(current) => current,
                            None => client.connect().await?.0,
                        };
                        let (status, _, closes) = current.send(Method::GET, "/", "web").await?;
                        anyhow::ensure!(status == 200, "status {status}");
                        anyhow::Ok((!closes).then_some(current))
                    };
                    match result.await {
                        Ok(kept) => {
                            connection = kept;
                            shared.answered.fetch_add(1, Ordering::Relaxed);
                        }
                        Err(error) => shared.failed.lock().unwrap().push(format!("{error:#}")),
                    }
                }
            });
        }
        Load { shared, tasks }
    }
}

#[derive(Default)]
struct LoadShared {
    stop: AtomicBool,
    answered: AtomicU64,
    failed: Mutex<Vec<String>>,
}

/// Running callers.
pub(crate) struct Load {
    shared: Arc<LoadShared>,
    tasks: JoinSet<()>,
}

impl Load {
    pub(crate) fn answered(&self) -> u64 {
        self.shared.answered.load(Ordering::Relaxed)
    }

    /// Ends the callers, as their proxies do when a replica is taken out. How many requests were answered, and why
    /// others failed.
    pub(crate) async fn stop(self) -> (u64, Vec<String>) {
        self.shared.stop.store(true, Ordering::Relaxed);
        self.tasks.join_all().await;
        let failed = self.shared.failed.lock().unwrap().clone();
        (self.shared.answered.load(Ordering::Relaxed), failed)
    }
}

/// Takes any certificate: who the server is, is read from it, and its name is a SPIFFE ID that rustls does not compare.
#[derive(Debug)]
struct AnyName(Arc<rustls::crypto::CryptoProvider>);

impl ServerCertVerifier for AnyName {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &rustls::DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(
            message,
            certificate,
            signature,
            &self.0.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &rustls::DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(
            message,
            certificate,
            signature,
            &self.0.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// An application with metrics and health.
pub(crate) struct Application {
    port: u16,
    _server: JoinSet<()>,
}

impl Application {
    pub(crate) async fn start(ip: IpAddr) -> Self {
        let listener = TcpListener::bind((ip, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let mut server = JoinSet::new();
        server.spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let answer = service_fn(|request: Request<hyper::body::Incoming>| async move {
                    let (status, body) = match request.uri().path() {
                        "/metrics" => (
                            200,
                            "# TYPE application_requests_total counter\napplication_requests_total 7\n",
                        ),
                        "/ok" => (200, "fine"),
                        _ => (503, "broken"),
                    };
                    let response = Response::builder()
                        .status(status)
                        .header("content-type", "text/plain; version=0.0.4");
                    response.body(Full::new(Bytes::from_static(body.as_bytes())))
                });
                connections.spawn(async move {
                    drop(
                        hyper::server::conn::http1::Builder::new()
                            .serve_connection(TokioIo::new(stream), answer)
                            .await,
                    );
                });
            }
        });
        Self { port, _server: server }
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }
}
