//! One scrape for all: the agent's metrics, Envoy's, the application's.
//!
//! Envoy puts `envoy_` before every name; the mesh's own metrics lose it again here, so that they have the names that
//! dashboards know. A part that cannot be read is left out and counted: the others must not suffer.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, bail};
use bytes::{BufMut as _, Bytes, BytesMut};
use futures::stream::{self, StreamExt as _};
use http::header::{ACCEPT, CONTENT_TYPE, USER_AGENT};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::{Frame, Incoming};
use serde::Deserialize;

use super::Body;
use crate::http_client;
use crate::metrics::Metrics;

/// Longest answer of one target of the application.
const MAXIMUM_TARGET: usize = 10 << 20;
const TIMEOUT: Duration = Duration::from_secs(10);
const TIMEOUT_HEADER: &str = "x-prometheus-scrape-timeout-seconds";
const TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";
/// The proxy's own ports: scraping them would count twice, or never end.
const RESERVED: [u16; 9] = [15000, 15001, 15004, 15006, 15008, 15020, 15021, 15053, 15090];
/// What Envoy puts before the mesh's own metrics, and how much of it goes.
const PREFIX: &[u8] = b"envoy_istio_";
const CUT: usize = b"envoy_".len();

/// What is scraped.
#[derive(Debug)]
pub(crate) struct ScrapeConfig {
    pub(crate) envoy: Option<SocketAddr>,
    pub(crate) application: Vec<Target>,
}

/// One endpoint of the application.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Target {
    address: SocketAddr,
    path: String,
}

/// `ISTIO_PROMETHEUS_ANNOTATIONS`.
#[derive(Debug, Deserialize)]
struct Annotations {
    #[serde(default)]
    scrape: String,
    #[serde(default)]
    port: String,
    #[serde(default)]
    path: String,
    #[serde(default)]
    targets: Vec<AnnotatedTarget>,
}

#[derive(Debug, Deserialize)]
struct AnnotatedTarget {
    port: String,
    #[serde(default)]
    path: String,
}

/// The application's targets.
///
/// # Errors
/// When the variable is no JSON, a port no number, or a port one of the proxy's own.
pub(crate) fn targets(text: Option<&str>, address: IpAddr, own_port: u16) -> anyhow::Result<Vec<Target>> {
    const VARIABLE: &str = "ISTIO_PROMETHEUS_ANNOTATIONS";
    let Some(text) = text else { return Ok(Vec::new()) };
    let mut annotations: Annotations = serde_json::from_str(text).context(VARIABLE)?;
    if annotations.scrape == "false" {
        return Ok(Vec::new());
    }
    if annotations.targets.is_empty() {
        let port = if annotations.port.is_empty() {
            "80".to_owned()
        } else {
            annotations.port
        };
        annotations.targets.push(AnnotatedTarget {
            port,
            path: annotations.path,
        });
    }
    let target = |target: AnnotatedTarget| {
        let port: u16 = target
            .port
            .parse()
            .with_context(|| format!("{VARIABLE}: port `{}`", target.port))?;
        if port == own_port || RESERVED.contains(&port) || port == 0 {
            bail!("{VARIABLE}: port {port} is the proxy's own; name the application's port");
        }
        let path = if target.path.is_empty() {
            "/metrics".to_owned()
        } else {
            target.path
        };
        Ok(Target {
            address: SocketAddr::new(address, port),
            path,
        })
    };
    annotations.targets.into_iter().map(target).collect()
}

// === impl ScrapeConfig ===

impl ScrapeConfig {
    /// Everything, Envoy's part streamed as it comes.
    pub(super) async fn merged(
        &self,
        request: &Request<Incoming>,
        metrics: &Metrics,
        expiry: Option<SystemTime>,
    ) -> Response<Body> {
        metrics.scrapes.increment();
        let timeout = timeout(request.headers());
        let headers = scrape_headers(request.headers());
        let envoy = async {
            let address = self.envoy?;
            let path = match request.uri().query() {
                Some(query) => format!("/stats/prometheus?{query}"),
                None => "/stats/prometheus".to_owned(),
            };
            let mut headers = headers.clone();
            headers.insert(ACCEPT, HeaderValue::from_static("text/plain"));
            let answer = scrape(address, &path, headers, timeout).await;
            answer
                .inspect_err(|error| {
                    tracing::warn!(error = format!("{error:#}"), "Envoy's metrics");
                    metrics.scrape_failures_envoy.increment();
                })
                .ok()
        };
        let (envoy, application) =
            futures::join!(envoy, self.application(request.headers(), &headers, timeout, metrics));
        let (content_type, application) = application;
        let own = Bytes::from(metrics.render(expiry));
        let renamed = stream::unfold(
            envoy.map(|answer| (answer.body, Renamer::default())),
            |state| async move {
                let (mut body, mut renamer) = state?;
                match body.next().await {
                    Some(Ok(chunk)) => Some((Ok(renamer.feed(&chunk)), Some((body, renamer)))),
                    Some(Err(error)) => Some((Err(error.into()), None)),
                    None => Some((Ok(renamer.finish()), None)),
                }
            },
        );
        let parts = stream::once(async move { Ok(own) })
            .chain(renamed)
            .chain(stream::iter(application.into_iter().map(Ok)))
            .map(|part: Result<Bytes, Box<dyn std::error::Error + Send + Sync>>| part.map(Frame::data));
        let mut response = Response::new(StreamBody::new(parts).boxed_unsync());
        let content_type = HeaderValue::from_str(&content_type).unwrap_or(HeaderValue::from_static(TEXT));
        response.headers_mut().insert(CONTENT_TYPE, content_type);
        response
    }

    /// The application's parts and the type of the whole: the application's, if all its targets agree.
    async fn application(
        &self,
        asked: &HeaderMap,
        headers: &HeaderMap,
        timeout: Duration,
        metrics: &Metrics,
    ) -> (String, Vec<Bytes>) {
        let mut headers = headers.clone();
        headers.insert(ACCEPT, application_types(asked));
        let one = |target: &Target| {
            let (target, headers) = (target.clone(), headers.clone());
            async move {
                let exchange = async {
                    let answer = scrape(target.address, &target.path, headers, timeout).await?;
                    let kind = answer
                        .headers
                        .get(CONTENT_TYPE)
                        .and_then(|kind| kind.to_str().ok())
                        .unwrap_or(TEXT)
                        .to_owned();
                    anyhow::Ok((kind, answer.body.collect(MAXIMUM_TARGET).await?))
                };
                match tokio::time::timeout(timeout, exchange).await {
                    Ok(Ok(read)) => Some(read),
                    Ok(Err(error)) => {
                        tracing::warn!(error = format!("{error:#}"), address = %target.address, path = target.path, "application's metrics");
                        None
                    }
                    Err(_) => {
                        tracing::warn!(address = %target.address, path = target.path, "application's metrics not in time");
                        None
                    }
                }
            }
        };
        let read = futures::future::join_all(self.application.iter().map(one)).await;
        for _ in read.iter().filter(|read| read.is_none()) {
            metrics.scrape_failures_application.increment();
        }
        join(read.into_iter().flatten().collect())
    }
}

/// Several targets' metrics as one. OpenMetrics ends with a mark, which must come once and last.
fn join(read: Vec<(String, Bytes)>) -> (String, Vec<Bytes>) {
    let open = |kind: &str| kind.starts_with("application/openmetrics-text");
    let kind = match read.first() {
        Some((kind, _)) if open(kind) && read.iter().all(|(other, _)| open(other)) => kind.clone(),
        _ => TEXT.to_owned(),
    };
    let mut parts: Vec<Bytes> = Vec::new();
    for (_, body) in &read {
        let trimmed = body.trim_ascii_end();
        let end = trimmed.strip_suffix(b"# EOF").map_or(body.len(), <[u8]>::len);
        parts.push(body.slice(..end));
        if end > 0 && body[end - 1] != b'\n' {
            parts.push(Bytes::from_static(b"\n"));
        }
    }
    if open(&kind) {
        parts.push(Bytes::from_static(b"# EOF\n"));
    }
    (kind, parts)
}

async fn scrape(
    address: SocketAddr,
    path: &str,
    headers: HeaderMap,
    timeout: Duration,
) -> anyhow::Result<http_client::Answer> {
    let host = address.to_string();
    let sending = http_client::send(address, Method::GET, path, &host, headers);
    let answer = tokio::time::timeout(timeout, sending)
        .await
        .with_context(|| format!("{address}: no answer in {timeout:?}"))??;
    if answer.status != StatusCode::OK {
        bail!("{address}{path}: {}", answer.status);
    }
    Ok(answer)
}

fn scrape_headers(asked: &HeaderMap) -> HeaderMap {
    let mut headers = HeaderMap::new();
    if let Some(agent) = asked.get(USER_AGENT) {
        headers.insert(USER_AGENT, agent.clone());
    }
    if let Some(timeout) = asked.get(TIMEOUT_HEADER) {
        headers.insert(TIMEOUT_HEADER, timeout.clone());
    }
    headers
}

/// Text always, OpenMetrics if the scraper takes it; nothing that cannot be joined as text.
fn application_types(asked: &HeaderMap) -> HeaderValue {
    let accepts = asked.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
    if accepts
        .into_iter()
        .any(|value| value.contains("application/openmetrics-text"))
    {
        HeaderValue::from_static(
            "application/openmetrics-text;version=1.0.0;q=0.8,application/openmetrics-text;version=0.0.1;q=0.7,text/plain;version=0.0.4;q=0.5",
        )
    } else {
        HeaderValue::from_static("text/plain;version=0.0.4")
    }
}

fn timeout(headers: &HeaderMap) -> Duration {
    let seconds = headers
        .get(TIMEOUT_HEADER)
        .and_then(|value| value.to_str().ok()?.parse::<f64>().ok());
    seconds
        .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
        .unwrap_or(TIMEOUT)
}

/// Takes `envoy_` off the mesh's own metrics, in text that comes in pieces cut anywhere.
#[derive(Debug, Default)]
struct Renamer {
    /// The beginning of a line whose end has not come.
    rest: BytesMut,
}

impl Renamer {
    fn feed(&mut self, chunk: &[u8]) -> Bytes {
        self.rest.put_slice(chunk);
        let Some(end) = self.rest.iter().rposition(|byte| *byte == b'\n') else {
            return Bytes::new();
        };
        rename(&self.rest.split_to(end + 1))
    }

    fn finish(&mut self) -> Bytes {
        let rest = rename(&self.rest);
        self.rest.clear();
        rest
    }
}

fn rename(lines: &[u8]) -> Bytes {
    let mut out = BytesMut::with_capacity(lines.len());
    for line in lines.split_inclusive(|byte| *byte == b'\n') {
        let comment = [&b"# TYPE "[..], b"# HELP "]
            .into_iter()
            .find(|comment| line.starts_with(comment));
        let (head, rest) = line.split_at(comment.map_or(0, <[u8]>::len));
        out.put_slice(head);
        out.put_slice(if rest.starts_with(PREFIX) { &rest[CUT..] } else { rest });
    }
    out.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ENVOY: &str = "# TYPE envoy_istio_requests_total counter\n\
        envoy_istio_requests_total{response_code=\"200\"} 7\n\
        # TYPE envoy_server_live gauge\nenvoy_server_live{x=\"envoy_istio_\"} 1\n";

    #[test]
    fn the_mesh_metrics_lose_envoys_prefix_however_the_text_is_cut() {
        let expected = ENVOY
            .replace("TYPE envoy_istio_", "TYPE istio_")
            .replace("\nenvoy_istio_", "\nistio_");
        for size in [1, 2, 7, 64, 1000] {
            let mut renamer = Renamer::default();
            let mut out = Vec::new();
            for chunk in ENVOY.as_bytes().chunks(size) {
                out.extend_from_slice(&renamer.feed(chunk));
            }
            out.extend_from_slice(&renamer.finish());
            assert_eq!(String::from_utf8(out).unwrap(), expected, "{size}");
        }
    }

    #[test]
    fn the_end_mark_comes_once_and_last() {
        let open = "application/openmetrics-text; version=1.0.0";
        let (kind, parts) = join(vec![
            (open.into(), "a 1\n# EOF\n".into()),
            (open.into(), "b 2\n# EOF".into()),
        ]);
        assert_eq!(kind, open);
        assert_eq!(parts.concat(), b"a 1\nb 2\n# EOF\n");
        let (kind, parts) = join(vec![(open.into(), "a 1\n# EOF\n".into()), (TEXT.into(), "b 2".into())]);
        assert_eq!(kind, TEXT);
        assert_eq!(parts.concat(), b"a 1\nb 2\n");
    }

    #[test]
    fn targets_come_from_annotations() {
        let ip = IpAddr::from([127, 0, 0, 1]);
        let read = |text| targets(Some(text), ip, 15020);
        assert_eq!(read(r#"{"scrape":"true"}"#).unwrap()[0].address.port(), 80);
        let two = read(r#"{"scrape":"true","targets":[{"port":"9090","path":"/a"},{"port":"9091"}]}"#).unwrap();
        assert_eq!(
            two.iter().map(|target| target.path.as_str()).collect::<Vec<_>>(),
            ["/a", "/metrics"]
        );
        assert!(read(r#"{"scrape":"false","port":"1"}"#).unwrap().is_empty());
        assert!(
            read(r#"{"port":"15020"}"#)
                .unwrap_err()
                .to_string()
                .contains("15020 is the proxy's own")
        );
        assert!(read("{").is_err());
    }
}
