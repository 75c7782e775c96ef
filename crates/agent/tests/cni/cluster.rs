//! A real API server with etcd, for the pods that the node agent asks about.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use http::{Method, Request};
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::TokioIo;
use lateen_pki::{PrivateKey, Serial, SigningCa, Validity};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

const TOKEN: &str = "the-administrators-token";
/// Starting may take long on a machine that builds at the same time.
const STARTING: Duration = Duration::from_secs(120);

/// Both processes; ended when dropped.
pub(crate) struct Cluster {
    processes: Vec<Child>,
    port: u16,
    folder: tempfile::TempDir,
}

/// A program of Kubernetes.
fn program(name: &str) -> Option<PathBuf> {
    let tools = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/tools");
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::var_os("LATEEN_TOOLS").map(PathBuf::from).into_iter();
    let mut all = folders.chain([tools]).chain(std::env::split_paths(&path));
    all.find_map(|folder| Some(folder.join(name)).filter(|path| path.is_file()))
}

/// A port that is free now.
pub(crate) fn port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// Waits until it is so.
pub(crate) async fn eventually<F: Future<Output = bool>>(what: &str, mut condition: impl FnMut() -> F) {
    let start = Instant::now();
    while !condition().await {
        assert!(start.elapsed() < STARTING, "not in {STARTING:?}: {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

impl Cluster {
    /// Starts both; none, with a line that says so, where there are no such programs.
    pub(crate) async fn start() -> Option<Self> {
        let (Some(etcd), Some(server)) = (program("etcd"), program("kube-apiserver")) else {
            println!("skipped: no kube-apiserver or no etcd in LATEEN_TOOLS, target/tools or the path");
            return None;
        };
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str| folder.path().join(name).display().to_string();
        let key = PrivateKey::generate().unwrap();
        std::fs::write(file("sa.key"), key.expose_pem().as_bytes()).unwrap();
        // The server takes its public key from a certificate.
        let validity = Validity::starting(SystemTime::now(), Duration::from_secs(24 * 3600));
        let issuer = "cluster.local".parse().unwrap();
        let certificate = SigningCa::self_signed(&issuer, key, validity, Serial::new(rand::random())).unwrap();
        std::fs::write(file("sa.pem"), certificate.roots().pem()).unwrap();
        std::fs::write(file("tokens.csv"), format!("{TOKEN},admin,admin,system:masters\n")).unwrap();
        std::fs::write(file("token"), TOKEN).unwrap();
        let (clients, peers, secure) = (port(), port(), port());
        let log = |name: &str| Stdio::from(std::fs::File::create(folder.path().join(name)).unwrap());
        let start = |program: &Path, flags: &[String], name: &str| {
            let mut command = Command::new(program);
            command
                .args(flags)
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(log(name));
            command.spawn().unwrap()
        };
        let url = |port: u16| format!("http://127.0.0.1:{port}");
        let etcd = start(
            &etcd,
            &[
                format!("--data-dir={}", file("etcd")),
                format!("--listen-client-urls={}", url(clients)),
                format!("--advertise-client-urls={}", url(clients)),
                format!("--listen-peer-urls={}", url(peers)),
                "--unsafe-no-fsync".to_owned(),
            ],
            "etcd.log",
        );
        let server = start(
            &server,
            &[
                format!("--etcd-servers={}", url(clients)),
                format!("--secure-port={secure}"),
                "--bind-address=127.0.0.1".to_owned(),
                format!("--cert-dir={}", file("certificates")),
                format!("--token-auth-file={}", file("tokens.csv")),
                format!("--service-account-key-file={}", file("sa.pem")),
                format!("--service-account-signing-key-file={}", file("sa.key")),
                "--service-account-issuer=https://kubernetes.default.svc".to_owned(),
                "--authorization-mode=AlwaysAllow".to_owned(),
                "--disable-admission-plugins=ServiceAccount".to_owned(),
                "--service-cluster-ip-range=10.96.0.0/16".to_owned(),
            ],
            "server.log",
        );
        let cluster = Self {
            processes: vec![server, etcd],
            port: secure,
            folder,
        };
        eventually("the API server", || async {
            matches!(cluster.send(Method::GET, "/readyz", None).await, Ok((200, _)))
        })
        .await;
        // The agent finds its credentials in one folder.
        let certificate = cluster.folder.path().join("certificates/apiserver.crt");
        std::fs::copy(certificate, cluster.folder.path().join("ca.crt")).unwrap();
        Some(cluster)
    }

    pub(crate) fn url(&self) -> String {
        format!("https://127.0.0.1:{}", self.port)
    }

    /// Where `token` and `ca.crt` are.
    pub(crate) fn account(&self) -> &Path {
        self.folder.path()
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        body: Option<(&str, &Value)>,
    ) -> Result<(u16, Value), Box<dyn std::error::Error>> {
        let file = self.folder.path().join("certificates/apiserver.crt");
        let mut roots = rustls::RootCertStore::empty();
        for certificate in CertificateDer::pem_file_iter(file)? {
            roots.add(certificate?)?;
        }
        let config = rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let stream = TcpStream::connect(("127.0.0.1", self.port)).await?;
        let name = ServerName::try_from("127.0.0.1")?;
        let stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        let mut tasks = tokio::task::JoinSet::new();
        tasks.spawn(async move { drop(connection.await) });
        let (kind, text) = body.map_or(("application/json", String::new()), |(kind, body)| {
            (kind, body.to_string())
        });
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "127.0.0.1")
            .header("authorization", format!("Bearer {TOKEN}"))
            .header("content-type", kind)
            .body(Full::new(Bytes::from(text)))?;
        let response = sender.send_request(request).await?;
        let status = response.status().as_u16();
        let body = response.into_body().collect().await?.to_bytes();
        Ok((status, serde_json::from_slice(&body).unwrap_or_default()))
    }

    /// Makes an object; what the server made of it.
    pub(crate) async fn create(&self, path: &str, object: &Value) -> Value {
        let sent = self.send(Method::POST, path, Some(("application/json", object)));
        let (status, answer) = sent.await.unwrap();
        assert_eq!(status, 201, "{answer}");
        answer
    }

    /// A pod of the namespace `shop`, with a sidecar or without.
    pub(crate) async fn pod(&self, name: &str, sidecar: bool) -> String {
        let container = |name: &str| json!({ "name": name, "image": "none" });
        let mut pod =
            json!({ "metadata": { "name": name, "annotations": {} }, "spec": { "containers": [container("app")] } });
        if sidecar {
            pod["metadata"]["annotations"]["sidecar.istio.io/status"] = json!("{}");
            pod["metadata"]["annotations"]["traffic.sidecar.istio.io/excludeOutboundPorts"] = json!("3306");
            pod["spec"]["initContainers"] = json!([container("istio-validation"), container("istio-proxy")]);
        }
        let made = self.create("/api/v1/namespaces/shop/pods", &pod).await;
        made["metadata"]["uid"].as_str().unwrap().to_owned()
    }

    /// As kubelet tells it: the validation has failed.
    pub(crate) async fn fail_validation(&self, name: &str, restarts: u64) {
        let status = json!({ "status": { "initContainerStatuses": [{
            "name": "istio-validation", "ready": false, "restartCount": restarts, "image": "none", "imageID": "",
            "state": { "waiting": { "reason": "CrashLoopBackOff" } },
            "lastState": { "terminated": { "exitCode": 126 } },
        }]}});
        let path = format!("/api/v1/namespaces/shop/pods/{name}/status");
        let sent = self.send(Method::PATCH, &path, Some(("application/merge-patch+json", &status)));
        let (code, answer) = sent.await.unwrap();
        assert_eq!(code, 200, "{answer}");
    }

    /// The pod, if it is there.
    pub(crate) async fn read(&self, name: &str) -> Option<Value> {
        let path = format!("/api/v1/namespaces/shop/pods/{name}");
        let (status, pod) = self.send(Method::GET, &path, None).await.unwrap();
        (status == 200).then_some(pod)
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for process in &mut self.processes {
            drop(process.kill());
            drop(process.wait());
        }
    }
}
