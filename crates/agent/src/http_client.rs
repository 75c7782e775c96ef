//! A small HTTP/1 client for neighbours: Envoy's admin interface and the application. One connection a request, so that
//! nothing is kept between scrapes and probes.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinSet;

/// A response whose connection lives as long as it does.
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Body,
}

/// A response's body, with the task that drives its connection.
pub(crate) struct Body {
    incoming: Incoming,
    _connection: JoinSet<()>,
}

/// Sends a request over a new connection.
///
/// # Errors
/// When nobody listens or the answer is no HTTP.
pub(crate) async fn send(
    address: SocketAddr,
    method: Method,
    path_and_query: &str,
    host: &str,
    headers: HeaderMap,
) -> anyhow::Result<Answer> {
    let stream = TcpStream::connect(address).await.with_context(|| address.to_string())?;
    send_over(stream, method, path_and_query, host, headers)
        .await
        .with_context(|| address.to_string())
}

/// Sends a request over a connection that is there already.
///
/// # Errors
/// When the answer is no HTTP.
pub(crate) async fn send_over<S>(
    stream: S,
    method: Method,
    path_and_query: &str,
    host: &str,
    headers: HeaderMap,
) -> anyhow::Result<Answer>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    send_request_over(stream, to_host(method, path_and_query, host, headers)?).await
}

/// A request of HTTP/1.1 without a body, to the host unless the headers name another.
fn to_host(
    method: Method,
    path_and_query: &str,
    host: &str,
    headers: HeaderMap,
) -> anyhow::Result<Request<Full<Bytes>>> {
    let uri = path_and_query
        .parse()
        .with_context(|| format!("path `{path_and_query}`"))?;
    let mut request = without_body(method, uri, headers);
    request.headers_mut().entry(http::header::HOST).or_insert(host.parse()?);
    Ok(request)
}

/// Sends a request that is complete, with its host.
///
/// # Errors
/// When the answer is no HTTP.
pub(crate) async fn send_request_over<S>(stream: S, request: Request<Full<Bytes>>) -> anyhow::Result<Answer>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let mut tasks = JoinSet::new();
    // How the connection ends shows in the request or the body.
    tasks.spawn(async move { drop(connection.await) });
    answer(sender.send_request(request).await?, tasks)
}

/// Sends a request over a connection on which HTTP/2 was agreed.
///
/// # Errors
/// When the answer is no HTTP/2.
pub(crate) async fn send_over_http2<S>(
    stream: S,
    method: Method,
    path_and_query: &str,
    host: &str,
    headers: HeaderMap,
) -> anyhow::Result<Answer>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let handshake = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream));
    let (mut sender, connection) = handshake.await?;
    let mut tasks = JoinSet::new();
    tasks.spawn(async move { drop(connection.await) });
    let uri = Uri::builder()
        .scheme("https")
        .authority(host)
        .path_and_query(path_and_query);
    let uri = uri.build().with_context(|| format!("path `{path_and_query}`"))?;
    answer(sender.send_request(without_body(method, uri, headers)).await?, tasks)
}

fn without_body(method: Method, uri: Uri, headers: HeaderMap) -> Request<Full<Bytes>> {
    let mut request = Request::new(Full::new(Bytes::new()));
    *request.method_mut() = method;
    *request.uri_mut() = uri;
    *request.headers_mut() = headers;
    request
}

fn answer(response: Response<Incoming>, tasks: JoinSet<()>) -> anyhow::Result<Answer> {
    let (parts, incoming) = response.into_parts();
    Ok(Answer {
        status: parts.status,
        headers: parts.headers,
        body: Body {
            incoming,
            _connection: tasks,
        },
    })
}

/// Connects from a certain local address, which tells interception that the connection is the agent's.
///
/// # Errors
/// When the address cannot be bound or nobody listens.
pub(crate) async fn connect_from(local: Option<IpAddr>, address: SocketAddr) -> std::io::Result<TcpStream> {
    let socket = if address.is_ipv4() {
        TcpSocket::new_v4()?
    } else {
        TcpSocket::new_v6()?
    };
    if let Some(local) = local {
        socket.bind(SocketAddr::new(local, 0))?;
    }
    socket.connect(address).await
}

/// Asks a neighbour for something short, all of it within `timeout`.
///
/// # Errors
/// When there is no answer in time, or it is longer than `limit` bytes.
pub(crate) async fn get(
    address: SocketAddr,
    path: &str,
    timeout: Duration,
    limit: usize,
) -> anyhow::Result<(StatusCode, String)> {
    short(address, Method::GET, path, "", timeout, limit).await
}

/// The same with another method, and something to tell.
///
/// # Errors
/// As [`get`].
pub(crate) async fn short(
    address: SocketAddr,
    method: Method,
    path: &str,
    body: &str,
    timeout: Duration,
    limit: usize,
) -> anyhow::Result<(StatusCode, String)> {
    let exchange = async {
        let mut request = to_host(method, path, &address.to_string(), HeaderMap::new())?;
        *request.body_mut() = Full::from(body.to_owned());
        let stream = TcpStream::connect(address).await.with_context(|| address.to_string())?;
        let answer = send_request_over(stream, request)
            .await
            .with_context(|| address.to_string())?;
        let status = answer.status;
        let body = answer.body.collect(limit).await?;
        Ok((status, String::from_utf8_lossy(&body).into_owned()))
    };
    tokio::time::timeout(timeout, exchange)
        .await
        .with_context(|| format!("no answer from {address} in {timeout:?}"))?
}

// === impl Body ===

impl Body {
    /// The next piece.
    pub(crate) async fn next(&mut self) -> Option<Result<Bytes, hyper::Error>> {
        loop {
            match self.incoming.frame().await? {
                Ok(frame) => {
                    if let Ok(data) = frame.into_data() {
                        return Some(Ok(data));
                    }
                }
                Err(error) => return Some(Err(error)),
            }
        }
    }

    /// All of it, if it is not longer than `limit` bytes.
    pub(crate) async fn collect(self, limit: usize) -> anyhow::Result<Bytes> {
        let collected = Limited::new(self.incoming, limit).collect().await;
        Ok(collected.map_err(|error| anyhow::anyhow!("body: {error}"))?.to_bytes())
    }
}
