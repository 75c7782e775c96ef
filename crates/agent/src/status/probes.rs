//! The application's probes, which kubelet asks of the agent because it has no certificate of the mesh, passed on to
//! the application as kubelet would have asked it.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use bytes::{Bytes, BytesMut};
use http::header::{CONNECTION, HOST, LOCATION};
use http::{HeaderMap, Method, Request, Response, StatusCode, Uri};
use hyper::body::Incoming;
use rustls::pki_types::ServerName;
use serde::Deserialize;
use tokio_rustls::TlsConnector;

use super::{Body, text};
use crate::http_client::{self, Answer};

/// As much of the application's answer as kubelet is shown.
const MAXIMUM_BODY: usize = 10 << 10;
const MAXIMUM_REDIRECTS: usize = 10;
/// HTTP/2's name in ALPN.
const HTTP2: &[u8] = b"h2";
/// Connections from here are the proxy's own and pass by interception.
const LOCAL_V4: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 6);
const LOCAL_V6: Ipv6Addr = Ipv6Addr::new(0, 0, 0, 0, 0, 0, 0, 6);

/// Probes by their path, and where the application is.
#[derive(Debug)]
pub(crate) struct Probers {
    probers: BTreeMap<String, Prober>,
    destination: IpAddr,
    /// Whether HTTP/2 is offered to an application that is asked over TLS.
    http2: bool,
}

/// One container's probe, as injection writes it; ports are numbers by then.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Prober {
    http_get: Option<HttpGet>,
    tcp_socket: Option<TcpSocket>,
    grpc: Option<Grpc>,
    #[serde(default)]
    timeout_seconds: u64,
}

#[derive(Debug, Clone, Deserialize)]
struct HttpGet {
    #[serde(default)]
    path: String,
    port: u16,
    #[serde(default)]
    scheme: String,
}

#[derive(Debug, Clone, Deserialize)]
struct TcpSocket {
    port: u16,
}

#[derive(Debug, Clone, Deserialize)]
struct Grpc {
    port: u16,
    #[serde(default)]
    service: Option<String>,
}

// === impl Probers ===

impl Probers {
    /// Reads `ISTIO_KUBE_APP_PROBERS`.
    ///
    /// # Errors
    /// When it is no JSON, a path is none of a probe's, or a probe has not exactly one kind.
    pub(crate) fn parse(text: Option<&str>, destination: IpAddr, http2: bool) -> anyhow::Result<Self> {
        const VARIABLE: &str = "ISTIO_KUBE_APP_PROBERS";
        let probers: BTreeMap<String, Prober> = match text {
            Some(text) => serde_json::from_str(text).context(VARIABLE)?,
            None => BTreeMap::new(),
        };
        for (path, prober) in &probers {
            let parts: Vec<&str> = path.split('/').collect();
            let [
                "",
                "app-health" | "app-lifecycle",
                container,
                "livez" | "readyz" | "startupz" | "prestopz" | "poststartz",
            ] = parts[..]
            else {
                bail!("{VARIABLE}: `{path}` must be /app-health/<container>/(livez|readyz|startupz)");
            };
            let kinds = [
                prober.http_get.is_some(),
                prober.tcp_socket.is_some(),
                prober.grpc.is_some(),
            ];
            if container.is_empty() || kinds.into_iter().filter(|kind| *kind).count() != 1 {
                bail!("{VARIABLE}: `{path}` must have one of httpGet, tcpSocket and grpc, with a number as port");
            }
        }
        Ok(Self {
            probers,
            destination,
            http2,
        })
    }

    /// Asks the application what kubelet asks of the agent.
    pub(super) async fn probe(&self, request: &Request<Incoming>, own_port: u16) -> Response<Body> {
        let path = request.uri().path();
        let Some(prober) = self.probers.get(path) else {
            return text(StatusCode::BAD_REQUEST, &format!("no probe is configured for {path}\n"));
        };
        let timeout = Duration::from_secs(prober.timeout_seconds.max(1));
        let outcome = tokio::time::timeout(timeout, self.ask(prober, request.headers(), own_port)).await;
        match outcome {
            Ok(Ok(response)) => response,
            Ok(Err(error)) => {
                tracing::warn!(error = format!("{error:#}"), path, "probe failed");
                text(StatusCode::INTERNAL_SERVER_ERROR, &format!("{error:#}\n"))
            }
            Err(_) => {
                tracing::warn!(?timeout, path, "probe not answered in time");
                text(
                    StatusCode::INTERNAL_SERVER_ERROR,
                    "the application did not answer in time\n",
                )
            }
        }
    }

    async fn ask(&self, prober: &Prober, headers: &HeaderMap, own_port: u16) -> anyhow::Result<Response<Body>> {
        if let Some(get) = &prober.http_get {
            return self.http(get, headers, own_port).await;
        }
        if let Some(tcp) = &prober.tcp_socket {
            self.connect(tcp.port).await?;
            return Ok(text(StatusCode::OK, ""));
        }
        let grpc = prober.grpc.as_ref().context("a probe of no kind")?;
        self.grpc(grpc).await?;
        Ok(text(StatusCode::OK, ""))
    }

    async fn http(&self, get: &HttpGet, headers: &HeaderMap, own_port: u16) -> anyhow::Result<Response<Body>> {
        let tls = get.scheme.eq_ignore_ascii_case("https");
        let mut path = if get.path.starts_with('/') {
            get.path.clone()
        } else {
            format!("/{}", get.path)
        };
        let host = host(headers, own_port, SocketAddr::new(self.destination, get.port));
        for _ in 0..=MAXIMUM_REDIRECTS {
            let mut sent = headers.clone();
            sent.remove(HOST);
            sent.remove(CONNECTION);
            let answer = self.send(get.port, tls, &path, &host, sent).await?;
            if !answer.status.is_redirection() {
                return Ok(text(answer.status, &String::from_utf8_lossy(&beginning(answer).await)));
            }
            match redirect(&answer.headers, &host) {
                Some(next) => path = next,
                // As kubelet: away from here means that the application lives.
                None => return Ok(text(StatusCode::OK, "")),
            }
        }
        bail!("more than {MAXIMUM_REDIRECTS} redirects")
    }

    async fn send(&self, port: u16, tls: bool, path: &str, host: &str, headers: HeaderMap) -> anyhow::Result<Answer> {
        let stream = self.connect(port).await?;
        if !tls {
            return http_client::send_over(stream, Method::GET, path, host, headers).await;
        }
        let connector = TlsConnector::from(Arc::new(unverified_tls(self.http2)?));
        let stream = connector
            .connect(ServerName::IpAddress(self.destination.into()), stream)
            .await
            .context("TLS")?;
        if stream.get_ref().1.alpn_protocol() == Some(HTTP2) {
            return http_client::send_over_http2(stream, Method::GET, path, host, headers).await;
        }
        http_client::send_over(stream, Method::GET, path, host, headers).await
    }

    async fn connect(&self, port: u16) -> anyhow::Result<tokio::net::TcpStream> {
        let address = SocketAddr::new(self.destination, port);
        let local = local_for(self.destination);
        let connected = match http_client::connect_from(Some(local), address).await {
            // A machine without that address has no interception to pass by.
            Err(error) if error.kind() == std::io::ErrorKind::AddrNotAvailable => {
                http_client::connect_from(None, address).await
            }
            other => other,
        };
        connected.with_context(|| address.to_string())
    }

    async fn grpc(&self, grpc: &Grpc) -> anyhow::Result<()> {
        let address = SocketAddr::new(self.destination, grpc.port);
        let endpoint = tonic::transport::Endpoint::from_shared(format!("http://{address}"))?;
        let local = self.destination.is_ipv4().then(|| local_for(self.destination));
        let channel = endpoint
            .local_address(local)
            .connect()
            .await
            .with_context(|| address.to_string())?;
        let status = crate::grpc::health(channel, grpc.service.clone().unwrap_or_default()).await?;
        if status != crate::grpc::SERVING {
            bail!("{address}: the application says that it does not serve");
        }
        Ok(())
    }
}

fn local_for(destination: IpAddr) -> IpAddr {
    if destination.is_ipv4() {
        LOCAL_V4.into()
    } else {
        LOCAL_V6.into()
    }
}

/// The host that the application sees: kubelet's, with the application's port in place of the agent's.
fn host(headers: &HeaderMap, own_port: u16, application: SocketAddr) -> String {
    let Some(host) = headers.get(HOST).and_then(|host| host.to_str().ok()) else {
        return application.to_string();
    };
    match host.rsplit_once(':') {
        Some((name, port)) if port.parse() == Ok(own_port) => format!("{name}:{}", application.port()),
        _ => host.to_owned(),
    }
}

/// The path of a redirect to the same host.
fn redirect(headers: &HeaderMap, host: &str) -> Option<String> {
    let location: Uri = headers.get(LOCATION)?.to_str().ok()?.parse().ok()?;
    let name = |host: &str| {
        host.rsplit_once(':')
            .map_or(host, |(name, _)| name)
            .to_ascii_lowercase()
    };
    if location.host().is_some_and(|other| name(other) != name(host)) {
        return None;
    }
    location.path_and_query().map(|path| path.as_str().to_owned())
}

/// As much of a body as is shown.
async fn beginning(mut answer: Answer) -> Bytes {
    let mut body = BytesMut::new();
    while body.len() < MAXIMUM_BODY
        && let Some(Ok(chunk)) = answer.body.next().await
    {
        body.extend_from_slice(&chunk);
    }
    body.truncate(MAXIMUM_BODY);
    body.freeze()
}

/// TLS that trusts everybody, as kubelet's probes do: the application is on this host, and the question is whether it
/// lives.
fn unverified_tls(http2: bool) -> anyhow::Result<rustls::ClientConfig> {
    let mut config = crate::unverified::client_config()?;
    // As kubelet does, which also speaks HTTP/2 only over TLS.
    config.alpn_protocols = if http2 {
        vec![HTTP2.to_vec(), b"http/1.1".to_vec()]
    } else {
        Vec::new()
    };
    Ok(config)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOCALHOST: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

    #[test]
    fn probes_are_checked() {
        let parse = |text| Probers::parse(Some(text), LOCALHOST, true).map(|probers| probers.probers.len());
        assert_eq!(
            parse(r#"{"/app-health/web/livez":{"httpGet":{"path":"/x","port":8080},"timeoutSeconds":3}}"#).unwrap(),
            1
        );
        for bad in [
            r#"{"/health/web/livez":{"tcpSocket":{"port":1}}}"#,
            r#"{"/app-health/web/livez":{}}"#,
            r#"{"/app-health/web/livez":{"tcpSocket":{"port":1},"grpc":{"port":1}}}"#,
            r#"{"/app-health/web/livez":{"httpGet":{"path":"/x","port":"http"}}}"#,
            "[]",
        ] {
            let error = format!("{:#}", parse(bad).unwrap_err());
            assert!(error.contains("ISTIO_KUBE_APP_PROBERS"), "{error}");
        }
    }

    #[test]
    fn the_application_sees_its_own_port() {
        let application = SocketAddr::new(LOCALHOST, 8080);
        let with = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(HOST, value.parse().unwrap());
            host(&headers, 15020, application)
        };
        assert_eq!(with("10.0.0.7:15020"), "10.0.0.7:8080");
        assert_eq!(with("web.example.com"), "web.example.com");
        assert_eq!(host(&HeaderMap::new(), 15020, application), "127.0.0.1:8080");
    }

    #[test]
    fn redirects_are_followed_on_the_same_host_only() {
        let to = |location: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(LOCATION, location.parse().unwrap());
            redirect(&headers, "10.0.0.7:8080")
        };
        assert_eq!(to("/other?x=1").as_deref(), Some("/other?x=1"));
        assert_eq!(to("http://10.0.0.7:8080/y").as_deref(), Some("/y"));
        assert_eq!(to("https://elsewhere.example.com/"), None);
    }
}
