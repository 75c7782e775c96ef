//! As much of the API server's protocol as the node agent needs: some requests for pods, one connection each.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use bytes::{Bytes, BytesMut};
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HOST};
use http::{Method, Request, StatusCode, Uri};
use http_body_util::Full;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::pod::Pod;
use crate::config::Environment;
use crate::http_client::{self, Answer};

/// Where every pod has its service account.
const ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
const TIMEOUT: Duration = Duration::from_secs(10);
/// How long a watch lasts before the server ends it, in seconds.
const WATCH: u64 = 290;
const MAXIMUM_ANSWER: usize = 256 << 20;
/// Longest single pod.
const MAXIMUM_LINE: usize = 8 << 20;

/// The API server.
#[derive(Debug, Clone)]
pub(super) struct Kube {
    url: Uri,
    token: PathBuf,
    roots: PathBuf,
}

/// A list of pods as of a version.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct PodList {
    metadata: super::pod::Metadata,
    pub(super) items: Vec<Pod>,
}

impl PodList {
    /// Where a watch goes on.
    pub(super) fn version(&self) -> &str {
        &self.metadata.resource_version
    }
}

#[derive(Debug, Deserialize)]
struct Change {
    #[serde(rename = "type")]
    kind: String,
    object: Value,
}

/// Changes of pods as they come.
pub(super) struct Watch {
    answer: Answer,
    rest: BytesMut,
}

// === impl Kube ===

impl Kube {
    /// The cluster's own API server, or the one of this URL.
    ///
    /// # Errors
    /// When nobody says where it is.
    pub(super) fn new(url: Option<&str>, environment: &Environment) -> anyhow::Result<Self> {
        let url = match url {
            Some(url) => url.to_owned(),
            None => {
                let variable = |key: &str| environment.get(key).with_context(|| format!("{key} is not set"));
                let host = variable("KUBERNETES_SERVICE_HOST")?;
                let host = if host.contains(':') {
                    format!("[{host}]")
                } else {
                    host.to_owned()
                };
                format!("https://{host}:{}", variable("KUBERNETES_SERVICE_PORT")?)
            }
        };
        let folder = Path::new(environment.get("LATEEN_SERVICE_ACCOUNT_DIR").unwrap_or(ACCOUNT));
        Ok(Self {
            url: url.parse().with_context(|| format!("--kube-api `{url}`"))?,
            token: folder.join("token"),
            roots: folder.join("ca.crt"),
        })
    }

    /// A pod; none when there is none.
    ///
    /// # Errors
    /// When the server does not answer, or refuses.
    pub(super) async fn pod(&self, namespace: &str, name: &str) -> anyhow::Result<Option<Pod>> {
        self.get(&format!("/api/v1/namespaces/{namespace}/pods/{name}")).await
    }

    /// Whether a DaemonSet is there and is to stay.
    ///
    /// # Errors
    /// When the server does not answer, or refuses.
    pub(super) async fn daemon_set_stays(&self, namespace: &str, name: &str) -> anyhow::Result<bool> {
        let path = format!("/apis/apps/v1/namespaces/{namespace}/daemonsets/{name}");
        let found: Option<Pod> = self.get(&path).await?;
        Ok(found.is_some_and(|found| found.metadata.deletion_timestamp.is_none()))
    }

    /// All pods of a selection.
    ///
    /// # Errors
    /// When the server does not answer, or refuses.
    pub(super) async fn pods(&self, selection: &str) -> anyhow::Result<PodList> {
        let list = self.get(&format!("/api/v1/pods?{selection}")).await?;
        list.context("the API server knows no pods")
    }

    /// Their changes since a version.
    ///
    /// # Errors
    /// When the server does not answer, or refuses.
    pub(super) async fn watch(&self, selection: &str, version: &str) -> anyhow::Result<Watch> {
        let path = format!(
            "/api/v1/pods?watch=true&allowWatchBookmarks=true&timeoutSeconds={WATCH}&resourceVersion={version}&{selection}"
        );
        let answer = self.send(Method::GET, &path, None).await?;
        if answer.status != StatusCode::OK {
            bail!("GET {path}: {}", answer.status);
        }
        let rest = BytesMut::new();
        Ok(Watch { answer, rest })
    }

    /// Deletes this pod, not a later one of its name.
    ///
    /// # Errors
    /// When the server does not answer, or refuses.
    pub(super) async fn delete(&self, pod: &Pod) -> anyhow::Result<()> {
        let body = json!({ "kind": "DeleteOptions", "apiVersion": "v1", "preconditions": { "uid": pod.metadata.uid } });
        self.change(Method::DELETE, &path(pod), "application/json", &body).await
    }

    /// Sets a label, by way of the status, for which less has to be allowed.
    ///
    /// # Errors
    /// When the server does not answer, or refuses.
    pub(super) async fn label(&self, pod: &Pod, key: &str, value: &str) -> anyhow::Result<()> {
        let body = json!({ "metadata": { "uid": pod.metadata.uid, "labels": { key: value } } });
        let path = format!("{}/status", path(pod));
        self.change(Method::PATCH, &path, "application/merge-patch+json", &body)
            .await
    }

    async fn change(&self, method: Method, path: &str, kind: &'static str, body: &Value) -> anyhow::Result<()> {
        let name = format!("{method} {path}");
        let exchange = async {
            let answer = self.send(method, path, Some((kind, body.to_string()))).await?;
            let status = answer.status;
            // Gone is what was wanted, or somebody else's doing.
            if !status.is_success() && status != StatusCode::NOT_FOUND && status != StatusCode::CONFLICT {
                let text = answer.body.collect(64 << 10).await?;
                bail!("{status}: {}", String::from_utf8_lossy(&text).trim());
            }
            Ok(())
        };
        let done = tokio::time::timeout(TIMEOUT, exchange).await;
        done.context("no answer in time").flatten().context(name)
    }

    async fn get<T: serde::de::DeserializeOwned>(&self, path: &str) -> anyhow::Result<Option<T>> {
        let exchange = async {
            let answer = self.send(Method::GET, path, None).await?;
            let status = answer.status;
            let text = answer.body.collect(MAXIMUM_ANSWER).await?;
            match status {
                StatusCode::OK => Ok(Some(serde_json::from_slice(&text)?)),
                StatusCode::NOT_FOUND => Ok(None),
                status => bail!("{status}: {}", String::from_utf8_lossy(&text).trim()),
            }
        };
        let done = tokio::time::timeout(TIMEOUT, exchange).await;
        done.context("no answer in time")
            .flatten()
            .with_context(|| format!("GET {path}"))
    }

    async fn send(&self, method: Method, path: &str, body: Option<(&'static str, String)>) -> anyhow::Result<Answer> {
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header(ACCEPT, "application/json");
        if let Ok(token) = std::fs::read_to_string(&self.token) {
            request = request.header(AUTHORIZATION, format!("Bearer {}", token.trim()));
        }
        let mut text = String::new();
        if let Some((kind, body)) = body {
            request = request.header(CONTENT_TYPE, kind);
            text = body;
        }
        let host = self.url.host().context("the API server's URL has no host")?;
        let authority = self.url.authority().context("the API server's URL has no host")?;
        let tls = self.url.scheme_str() == Some("https");
        let port = self.url.port_u16().unwrap_or(if tls { 443 } else { 80 });
        let request = request
            .header(HOST, authority.as_str())
            .body(Full::new(Bytes::from(text)))?;
        let bare = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let connecting = tokio::time::timeout(TIMEOUT, TcpStream::connect((bare.as_str(), port)));
        let stream = connecting.await.context("no connection in time")??;
        let answered = async {
            if !tls {
                return http_client::send_request_over(stream, request).await;
            }
            let name = ServerName::try_from(bare).context("name of the API server")?;
            let stream = self.tls()?.connect(name, stream).await.context("TLS")?;
            http_client::send_request_over(stream, request).await
        };
        tokio::time::timeout(TIMEOUT, answered)
            .await
            .context("no answer in time")?
    }

    fn tls(&self) -> anyhow::Result<TlsConnector> {
        let mut roots = rustls::RootCertStore::empty();
        let name = || self.roots.display().to_string();
        for certificate in CertificateDer::pem_file_iter(&self.roots).with_context(name)? {
            roots.add(certificate.with_context(name)?).with_context(name)?;
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(TlsConnector::from(Arc::new(config)))
    }
}

fn path(pod: &Pod) -> String {
    format!(
        "/api/v1/namespaces/{}/pods/{}",
        pod.metadata.namespace, pod.metadata.name
    )
}

/// Selectors as a query.
pub(super) fn selection(fields: &[String], labels: &str) -> String {
    let fields: Vec<&str> = fields
        .iter()
        .map(String::as_str)
        .filter(|field| !field.is_empty())
        .collect();
    format!(
        "fieldSelector={}&labelSelector={}",
        escaped(&fields.join(",")),
        escaped(labels)
    )
}

fn escaped(text: &str) -> String {
    let one = |byte: u8| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => char::from(byte).to_string(),
        byte => format!("%{byte:02X}"),
    };
    text.bytes().map(one).collect()
}

// === impl Watch ===

impl Watch {
    /// The next pod that is new or has changed; none when the server ends the watch.
    ///
    /// # Errors
    /// When the connection is lost, or the version is too old.
    pub(super) async fn next(&mut self) -> anyhow::Result<Option<Pod>> {
        loop {
            while let Some(end) = self.rest.iter().position(|byte| *byte == b'\n') {
                let line = self.rest.split_to(end + 1);
                let change: Change = serde_json::from_slice(&line).context("watch of pods")?;
                match change.kind.as_str() {
                    "ADDED" | "MODIFIED" => return Ok(Some(serde_json::from_value(change.object)?)),
                    "ERROR" => bail!("watch of pods: {}", change.object),
                    _ => {}
                }
            }
            if self.rest.len() > MAXIMUM_LINE {
                bail!("watch of pods: a line has more than {MAXIMUM_LINE} bytes");
            }
            match self.answer.body.next().await {
                Some(chunk) => self.rest.extend_from_slice(&chunk?),
                None => return Ok(None),
            }
        }
    }
}
