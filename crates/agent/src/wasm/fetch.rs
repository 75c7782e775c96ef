//! Downloads over HTTP and HTTPS, with limits on time, size, redirects and on whom is asked.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use backon::BackoffBuilder as _;
use bytes::Bytes;
use http::header::{AUTHORIZATION, LOCATION};
use http::uri::Scheme;
use http::{HeaderMap, Method, StatusCode, Uri};
use rustls::client::WebPkiServerVerifier;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::config::WasmConfig;
use crate::http_client::{self, Answer};

const MOST_REDIRECTS: usize = 5;

/// Asks servers for modules.
#[derive(Debug)]
pub(super) struct Fetcher {
    pub(super) config: WasmConfig,
}

/// An answer, whole.
#[derive(Debug)]
pub(super) struct Fetched {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
}

impl Fetcher {
    /// The body of an answer of 200; tries again where that may help.
    ///
    /// # Errors
    /// When no attempt gets one.
    pub(super) async fn download(&self, url: &str) -> anyhow::Result<Bytes> {
        let uri: Uri = url.parse().with_context(|| format!("URL `{url}`"))?;
        let mut pauses = backon::ExponentialBuilder::new()
            .with_min_delay(Duration::from_millis(500))
            .with_jitter()
            .without_max_times()
            .build();
        let mut attempt = 1;
        loop {
            let error = match self.get(&uri, HeaderMap::new()).await {
                Ok(fetched) if fetched.status == StatusCode::OK => return Ok(fetched.body),
                Ok(fetched) => {
                    let error = anyhow::anyhow!("{url}: answered {}", fetched.status);
                    if !fetched.status.is_server_error() {
                        return Err(error);
                    }
                    error
                }
                Err(error) => error,
            };
            if attempt == self.config.attempts {
                return Err(error.context(format!("{attempt} attempts")));
            }
            attempt += 1;
            tokio::time::sleep(pauses.next().unwrap_or_default()).await;
        }
    }

    /// The answer to one request, after redirects.
    ///
    /// # Errors
    /// When there is none in time, or it is too large.
    pub(super) async fn get(&self, uri: &Uri, headers: HeaderMap) -> anyhow::Result<Fetched> {
        let (mut uri, mut headers) = (uri.clone(), headers);
        for _ in 0..=MOST_REDIRECTS {
            let whole = async {
                let answer = self.send(&uri, headers.clone()).await?;
                Ok::<_, anyhow::Error>(Fetched {
                    status: answer.status,
                    headers: answer.headers,
                    body: answer.body.collect(self.config.largest).await?,
                })
            };
            let fetched = tokio::time::timeout(self.config.request_timeout, whole)
                .await
                .with_context(|| format!("{uri}: no answer in {:?}", self.config.request_timeout))?
                .with_context(|| uri.to_string())?;
            let Some(next) = redirect(&uri, &fetched)? else {
                return Ok(fetched);
            };
            if next.authority() != uri.authority() {
                // Who is redirected to need not see the credentials.
                headers.remove(AUTHORIZATION);
            }
            uri = next;
        }
        bail!("{uri}: more than {MOST_REDIRECTS} redirects");
    }

    async fn send(&self, uri: &Uri, headers: HeaderMap) -> anyhow::Result<Answer> {
        let authority = uri.authority().context("no host")?;
        let secure = match uri.scheme() {
            Some(scheme) if *scheme == Scheme::HTTPS => true,
            Some(scheme) if *scheme == Scheme::HTTP => false,
            _ => bail!("the scheme must be http or https"),
        };
        let host = authority.host().trim_start_matches('[').trim_end_matches(']');
        let port = authority.port_u16().unwrap_or(if secure { 443 } else { 80 });
        let stream = self.connect(host, port).await?;
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        if !secure {
            return http_client::send_over(stream, Method::GET, path, authority.as_str(), headers).await;
        }
        let config = tls(self.config.is_insecure(authority.as_str()))?;
        let name = ServerName::try_from(host.to_owned()).with_context(|| format!("host `{host}`"))?;
        let stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await?;
        http_client::send_over(stream, Method::GET, path, authority.as_str(), headers).await
    }

    async fn connect(&self, host: &str, port: u16) -> anyhow::Result<TcpStream> {
        let found = tokio::net::lookup_host((host, port))
            .await
            .with_context(|| host.to_owned())?;
        let (blocked, allowed): (Vec<SocketAddr>, Vec<SocketAddr>) =
            found.partition(|address| self.config.is_blocked(address.ip()));
        if let (true, Some(address)) = (allowed.is_empty(), blocked.first()) {
            bail!("{host} is {}, which modules must not be fetched from", address.ip());
        }
        Ok(TcpStream::connect(allowed.as_slice()).await?)
    }
}

/// Where an answer sends on to.
fn redirect(from: &Uri, fetched: &Fetched) -> anyhow::Result<Option<Uri>> {
    let redirects = matches!(fetched.status.as_u16(), 301 | 302 | 303 | 307 | 308);
    let Some(location) = fetched.headers.get(LOCATION).filter(|_| redirects) else {
        return Ok(None);
    };
    let text = location.to_str().context("header location")?;
    let target: Uri = text.parse().with_context(|| format!("header location `{text}`"))?;
    if target.scheme().is_some() {
        return Ok(Some(target));
    }
    // A path on the same host; registries and download servers send nothing else.
    let mut parts = from.clone().into_parts();
    if target.authority().is_some() {
        parts.authority = target.authority().cloned();
    }
    parts.path_and_query = target.path_and_query().cloned();
    Ok(Some(
        Uri::from_parts(parts).with_context(|| format!("header location `{text}`"))?,
    ))
}

fn tls(insecure: bool) -> anyhow::Result<ClientConfig> {
    if insecure {
        return Ok(crate::unverified::client_config()?);
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut roots = RootCertStore::empty();
    let found = rustls_native_certs::load_native_certs();
    roots.add_parsable_certificates(found.certs);
    if roots.is_empty() {
        bail!(
            "there are no root certificates in the agent's image to verify servers by; name a file with SSL_CERT_FILE"
        );
    }
    let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider)).build()?;
    Ok(ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_webpki_verifier(verifier)
        .with_no_client_auth())
}
