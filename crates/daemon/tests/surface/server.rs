//! A `lateend` on free ports, and ways to it.

use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use lateen_ca::TokenIssuer;
use lateen_names::{Namespace, ServiceAccount};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::PATIENCE;
use crate::http2::{Connection, literal};

/// Ends with its value.
pub(crate) struct Server {
    process: Child,
    directory: TempDir,
    pub(crate) addresses: Value,
    pub(crate) secure: SocketAddr,
    pub(crate) http: SocketAddr,
    pub(crate) https: SocketAddr,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Server {
    pub(crate) async fn start() -> Self {
        Self::start_with(&[]).await
    }

    pub(crate) async fn start_with(flags: &[&str]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        std::fs::create_dir(path("config")).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_lateend"));
        for name in ["KUBECONFIG", "LATEEN_PLAINTEXT_ADDRESS", "LATEEN_CONTROL_ADDRESS"] {
            command.env_remove(name);
        }
        command.arg("--config").arg(path("config"));
        command
            .arg("--data-dir")
            .arg(path("data"))
            .arg("--cacerts")
            .arg(path("none"));
        command.arg("--addresses-file").arg(path("addresses"));
        for flag in [
            "--secure-address",
            "--http-address",
            "--https-address",
            "--monitoring-address",
        ] {
            command.args([flag, "127.0.0.1:0"]);
        }
        let log = std::fs::File::create(path("log")).unwrap();
        command
            .args(flags)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log);
        let process = command.spawn().unwrap();
        let reading = async {
            loop {
                if let Ok(text) = std::fs::read_to_string(path("addresses")) {
                    return serde_json::from_str::<Value>(&text).unwrap();
                }
                tokio::task::yield_now().await;
            }
        };
        let addresses = timeout(PATIENCE, reading).await.unwrap();
        let of = |name: &str| addresses[name].as_str().unwrap().parse().unwrap();
        Self {
            process,
            secure: of("secure"),
            http: of("http"),
            https: of("https"),
            addresses,
            directory,
        }
    }

    pub(crate) async fn tcp(&self, address: SocketAddr) -> TcpStream {
        TcpStream::connect(address).await.unwrap()
    }

    /// HTTP/2 over TLS, by somebody without certificate.
    pub(crate) async fn strange(&self) -> Connection {
        Connection::begin(self.handshake().await.unwrap()).await
    }

    async fn handshake(&self) -> std::io::Result<TlsStream<TcpStream>> {
        let pem = std::fs::read(self.directory.path().join("data/ca/root-cert.pem")).unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(&pem).unwrap()).unwrap();
        let mut config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![b"h2".to_vec()];
        let name = ServerName::try_from("localhost").unwrap();
        let stream = TcpStream::connect(self.secure).await?;
        TlsConnector::from(Arc::new(config)).connect(name, stream).await
    }

    /// A header that proves who a proxy is.
    pub(crate) fn authorization(&self) -> Vec<u8> {
        let tokens = TokenIssuer::open_or_create(&self.directory.path().join("data/tokens")).unwrap();
        let (namespace, account) = (Namespace::new("shop").unwrap(), ServiceAccount::new("cart").unwrap());
        let hour = Duration::from_secs(3600);
        let token = tokens.issue(&namespace, &account, hour, SystemTime::now()).unwrap();
        literal("authorization", &format!("Bearer {token}"))
    }

    /// It is ready, and takes newcomers on its secure port: if not at once, then soon.
    pub(crate) async fn is_well(&self) {
        let well = async {
            while !self.answers().await.unwrap_or_default() {
                tokio::task::yield_now().await;
            }
        };
        timeout(PATIENCE, well).await.expect("the server was to be well");
    }

    async fn answers(&self) -> std::io::Result<bool> {
        let mut stream = TcpStream::connect(self.http).await?;
        let mut answer = String::new();
        let request = b"GET /ready HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
        stream.write_all(request).await?;
        stream.read_to_string(&mut answer).await?;
        Ok(answer.starts_with("HTTP/1.1 200") && self.handshake().await.is_ok())
    }
}
