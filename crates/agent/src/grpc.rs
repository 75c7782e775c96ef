//! Connections to the control plane and the CA, and sockets that Envoy connects to.

use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use backon::BackoffBuilder as _;
use tokio::net::UnixListener;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::metadata::{AsciiMetadataKey, AsciiMetadataValue, MetadataMap};
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};

use crate::config::Roots;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// A connection whose other end is gone is noticed after this and the time-out below.
const PING_INTERVAL: Duration = Duration::from_secs(30);
const PING_TIMEOUT: Duration = Duration::from_secs(20);
/// Flow-control windows: the first configuration of a proxy can have megabytes.
const WINDOW: u32 = 1 << 20;

/// A certificate with its key, to prove who calls. Has no `Debug`: it holds a private key.
#[derive(Clone)]
pub(crate) struct ClientIdentity {
    pub(crate) chain: String,
    pub(crate) key: zeroize::Zeroizing<String>,
}

/// Connects to `address` (`host:port`).
///
/// # Errors
/// When the roots cannot be read or the peer cannot be reached or is not trusted; the message names file or address.
pub(crate) async fn connect(
    address: &str,
    san: Option<&str>,
    roots: &Roots,
    client: Option<&ClientIdentity>,
) -> anyhow::Result<Channel> {
    let scheme = if *roots == Roots::Plaintext { "http" } else { "https" };
    let mut endpoint = Endpoint::from_shared(format!("{scheme}://{address}"))
        .with_context(|| format!("address `{address}`"))?
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_TIMEOUT)
        .keep_alive_while_idle(true)
        .initial_stream_window_size(WINDOW)
        .initial_connection_window_size(WINDOW);
    if let Roots::File(path) = roots {
        let pem = std::fs::read(path).with_context(|| format!("roots {}", path.display()))?;
        let mut tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(pem));
        if let Some(name) = san {
            tls = tls.domain_name(name);
        }
        if let Some(client) = client {
            tls = tls.identity(Identity::from_pem(&client.chain, client.key.as_bytes()));
        }
        endpoint = endpoint
            .tls_config(tls)
            .with_context(|| format!("TLS to {address}, roots {}", path.display()))?;
    }
    endpoint
        .connect()
        .await
        .with_context(|| format!("cannot connect to {address}"))
}

/// Metadata of a call: the token, read anew because it is replaced while the process runs, the cluster, and what the
/// user adds.
pub(crate) fn metadata(token: Option<&str>, headers: &[(String, String)]) -> anyhow::Result<MetadataMap> {
    let mut map = MetadataMap::new();
    if let Some(token) = token {
        let mut value: AsciiMetadataValue = format!("Bearer {token}")
            .parse()
            .context("the token holds characters that no header may")?;
        value.set_sensitive(true);
        map.insert("authorization", value);
    }
    for (key, value) in headers {
        let name: AsciiMetadataKey = key
            .to_ascii_lowercase()
            .parse()
            .with_context(|| format!("header name `{key}`"))?;
        map.insert(name, value.parse().with_context(|| format!("value of header `{key}`"))?);
    }
    Ok(map)
}

/// The token in a file, none when there is no file or nothing in it.
///
/// # Errors
/// When the file is there but cannot be read.
pub(crate) fn token(path: &Path) -> anyhow::Result<Option<String>> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text.trim().to_owned()).filter(|token| !token.is_empty())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("token {}", path.display())),
    }
}

/// Binds a socket for Envoy, replacing one that a former process left.
///
/// # Errors
/// When the folder cannot be made or the socket cannot be bound, or somebody listens on it.
pub(crate) fn listen(path: &Path) -> anyhow::Result<UnixListenerStream> {
    let name = || format!("socket {}", path.display());
    if std::os::unix::net::UnixStream::connect(path).is_ok() {
        anyhow::bail!("{}: another process listens on it", name());
    }
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).with_context(name)?;
    }
    crate::files::remove(path)?;
    Ok(UnixListenerStream::new(UnixListener::bind(path).with_context(name)?))
}

/// Pauses between attempts that nobody counts: 0.1 s growing to 10 s, each with jitter so that a fleet that lost its
/// control plane does not come back at once.
pub(crate) fn pauses() -> impl Iterator<Item = Duration> + Send {
    backon::ExponentialBuilder::new()
        .with_min_delay(Duration::from_millis(100))
        .with_max_delay(Duration::from_secs(10))
        .with_jitter()
        .without_max_times()
        .build()
}

/// `grpc.health.v1.HealthCheckResponse.ServingStatus.SERVING`.
pub(crate) const SERVING: i32 = 1;

#[derive(Clone, PartialEq, prost::Message)]
struct HealthCheckRequest {
    #[prost(string, tag = "1")]
    service: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct HealthCheckResponse {
    #[prost(int32, tag = "1")]
    status: i32,
}

/// Asks `grpc.health.v1.Health/Check`.
///
/// # Errors
/// When the call fails.
pub(crate) async fn health(channel: Channel, service: String) -> anyhow::Result<i32> {
    let mut grpc = tonic::client::Grpc::new(channel);
    grpc.ready().await.context("health check")?;
    let path = http::uri::PathAndQuery::from_static("/grpc.health.v1.Health/Check");
    let codec: tonic_prost::ProstCodec<HealthCheckRequest, HealthCheckResponse> = tonic_prost::ProstCodec::default();
    let answer = grpc
        .unary(tonic::Request::new(HealthCheckRequest { service }), path, codec)
        .await;
    let answer = answer.map_err(|status| anyhow::anyhow!("health check: {}: {}", status.code(), status.message()))?;
    Ok(answer.into_inner().status)
}
