//! One attempt to fetch keys.

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use http::header::{ACCEPT, ACCEPT_ENCODING, CONTENT_ENCODING, HOST, LOCATION, USER_AGENT};
use http::uri::Scheme;
use http::{Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt as _, Empty};
use hyper::body::{Bytes, Incoming};
use hyper_util::rt::TokioIo;
use lateen_lower::keys::KeySource;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::address::{Policy, Refused};
use super::keys::{self, KeySetError};

/// The longest body that is read: the largest key sets have some tens of KiB.
const LARGEST: usize = 512 * 1024;
/// The longest head of an answer.
const LARGEST_HEAD: usize = 64 * 1024;
/// Redirects that are followed within one origin.
const REDIRECTS: usize = 3;
/// Addresses of a name that are tried.
const ADDRESSES: usize = 4;
/// What follows the issuer in the URL of its OpenID configuration.
const DISCOVERY: &str = "/.well-known/openid-configuration";

/// An attempt failed. The text is the same each time for the same reason, and has nothing of what a server said.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FetchError {
    /// The URL cannot be used.
    #[error("`{0}` is no URL with http:// or https:// and a host, without user and password")]
    Url(String),
    /// The name has no address.
    #[error("`{0}` has no address")]
    Resolve(String),
    /// No address may be dialled.
    #[error("`{host}` leads to {address}, which is {reason}: keys are not fetched from there")]
    Refused {
        /// The name.
        host: String,
        /// Its address.
        address: IpAddr,
        /// Why.
        reason: Refused,
    },
    /// Nobody answers at any address.
    #[error("cannot connect: {0}")]
    Connect(io::ErrorKind),
    /// TLS fails; mostly because no known root vouches for the server.
    #[error("TLS failed: {0}")]
    Tls(String),
    /// The server does not speak HTTP, or breaks off.
    #[error("the answer is no HTTP, or breaks off")]
    Http,
    /// The server answers something else.
    #[error("the answer has status {0}")]
    Status(u16),
    /// The server sends elsewhere.
    #[error("the answer leads to another origin; give the URL that it leads to")]
    Redirect,
    /// The answer is longer than any key set.
    #[error("the answer is longer than {LARGEST} bytes")]
    TooLarge,
    /// The answer is compressed, which was not asked for.
    #[error("the answer is compressed, which was not asked for")]
    Compressed,
    /// It takes too long.
    #[error("no answer within {} ms", .0.as_millis())]
    Timeout(Duration),
    /// The answer is nothing of use.
    #[error(transparent)]
    Keys(#[from] KeySetError),
}

/// Finds the addresses of a name.
pub trait Resolve: Send + Sync {
    /// All addresses, in the order in which to try them.
    fn resolve<'a>(&'a self, host: &'a str) -> BoxFuture<'a, io::Result<Vec<IpAddr>>>;
}

/// The system's own resolver.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemResolver;

/// Makes attempts.
pub struct Fetcher {
    policy: Policy,
    roots: Option<PathBuf>,
    resolver: Arc<dyn Resolve>,
    api_server: Mutex<Arc<BTreeSet<SocketAddr>>>,
    /// What was made of the file of roots, and of which content.
    tls: Mutex<Option<(Vec<u8>, Arc<ClientConfig>)>>,
}

/// A URL, checked.
struct Target {
    uri: Uri,
    https: bool,
    host: String,
    port: u16,
}

impl Resolve for SystemResolver {
    fn resolve<'a>(&'a self, host: &'a str) -> BoxFuture<'a, io::Result<Vec<IpAddr>>> {
        async move {
            Ok(tokio::net::lookup_host((host, 0))
                .await?
                .map(|address| address.ip())
                .collect())
        }
        .boxed()
    }
}

// === impl Target ===

impl Target {
    fn parse(text: &str) -> Result<Self, FetchError> {
        let refused = || FetchError::Url(text.chars().filter(|c| !c.is_control()).take(256).collect());
        let uri: Uri = text.parse().map_err(|_| refused())?;
        let https = match uri.scheme() {
            Some(scheme) if *scheme == Scheme::HTTPS => true,
            Some(scheme) if *scheme == Scheme::HTTP => false,
            _ => return Err(refused()),
        };
        let authority = uri.authority().ok_or_else(refused)?;
        if authority.as_str().contains('@') {
            return Err(refused());
        }
        let written = authority.host();
        let port = match (authority.as_str().get(written.len()..).unwrap_or_default(), https) {
            ("", true) => 443,
            ("", false) => 80,
            (port, _) => {
                let port = port.strip_prefix(':').and_then(|port| port.parse().ok());
                port.ok_or_else(refused)?
            }
        };
        let host = written.trim_start_matches('[').trim_end_matches(']').to_owned();
        if host.is_empty() || port == 0 {
            return Err(refused());
        }
        Ok(Self { uri, https, host, port })
    }

    /// Where a redirect leads, if it stays with this origin.
    fn redirected(&self, location: &str) -> Result<Self, FetchError> {
        let to = if location.starts_with('/') && !location.starts_with("//") {
            let authority = self.uri.authority().ok_or(FetchError::Redirect)?;
            let scheme = if self.https { "https" } else { "http" };
            Self::parse(&format!("{scheme}://{authority}{location}"))
        } else {
            Self::parse(location)
        };
        let to = to.map_err(|_| FetchError::Redirect)?;
        let same = to.https == self.https && to.port == self.port && to.host.eq_ignore_ascii_case(&self.host);
        if same { Ok(to) } else { Err(FetchError::Redirect) }
    }
}

// === impl Fetcher ===

impl Fetcher {
    /// Fetches from where `policy` allows it, and trusts the system's roots and those in the file `roots`.
    #[must_use]
    pub fn new(policy: Policy, roots: Option<PathBuf>, resolver: Arc<dyn Resolve>) -> Self {
        Self {
            policy,
            roots,
            resolver,
            api_server: Mutex::default(),
            tls: Mutex::default(),
        }
    }

    /// Refuses these addresses of the API server from now on.
    pub fn refuse(&self, api_server: BTreeSet<SocketAddr>) {
        *self.api_server.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(api_server);
    }

    /// The public keys that are published there.
    ///
    /// # Errors
    /// When they cannot be had within the time.
    pub async fn fetch(&self, source: &KeySource, within: Duration) -> Result<Arc<str>, FetchError> {
        let attempt = async {
            let target = match source {
                KeySource::Uri(url) => Target::parse(url)?,
                KeySource::Issuer(issuer) => {
                    let document = Target::parse(&format!("{}{DISCOVERY}", issuer.trim_end_matches('/')))?;
                    let https = document.https;
                    let target = Target::parse(&keys::read_discovery(&self.get(document).await?)?)?;
                    // What came over TLS must not send where anybody can answer.
                    if https && !target.https {
                        return Err(FetchError::Redirect);
                    }
                    target
                }
            };
            Ok(keys::read(&self.get(target).await?)?)
        };
        match tokio::time::timeout(within, attempt).await {
            Ok(done) => done,
            Err(_) => Err(FetchError::Timeout(within)),
        }
    }

    async fn get(&self, mut target: Target) -> Result<Vec<u8>, FetchError> {
        for _ in 0..=REDIRECTS {
            let stream = self.connect(&target).await?;
            let answer = if target.https {
                let name =
                    ServerName::try_from(target.host.clone()).map_err(|_| FetchError::Url(target.host.clone()))?;
                let stream = TlsConnector::from(self.tls()?).connect(name, stream).await;
                let stream = stream.map_err(|error| FetchError::Tls(error.to_string()))?;
                ask(stream, &target).await?
            } else {
                ask(stream, &target).await?
            };
            match answer {
                Answer::Body(body) => return Ok(body),
                Answer::Elsewhere(location) => target = target.redirected(&location)?,
            }
        }
        Err(FetchError::Redirect)
    }

    /// Dials an address that was judged, never the name.
    async fn connect(&self, target: &Target) -> Result<TcpStream, FetchError> {
        let addresses = match target.host.parse::<IpAddr>() {
            Ok(address) => vec![address],
            Err(_) => self.resolver.resolve(&target.host).await.unwrap_or_default(),
        };
        let api_server = Arc::clone(&self.api_server.lock().unwrap_or_else(PoisonError::into_inner));
        let mut failed = FetchError::Resolve(target.host.clone());
        for ip in addresses.into_iter().take(ADDRESSES) {
            let address = SocketAddr::new(ip, target.port);
            if let Err(reason) = self.policy.judge(address, &api_server) {
                failed = FetchError::Refused {
                    host: target.host.clone(),
                    address: ip,
                    reason,
                };
                continue;
            }
            match TcpStream::connect(address).await {
                Ok(stream) => return Ok(stream),
                Err(error) => failed = FetchError::Connect(error.kind()),
            }
        }
        Err(failed)
    }

    /// TLS with the roots of the system and of the file. Made anew only when the file has changed.
    fn tls(&self) -> Result<Arc<ClientConfig>, FetchError> {
        let failed = |error: &dyn std::fmt::Display| FetchError::Tls(error.to_string());
        let extra = match &self.roots {
            Some(path) => match std::fs::read(path) {
                Ok(content) => content,
                Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
                Err(error) => return Err(failed(&format!("{}: {error}", path.display()))),
            },
            None => Vec::new(),
        };
        let mut made = self.tls.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((of, config)) = &*made
            && *of == extra
        {
            return Ok(Arc::clone(config));
        }
        let mut roots = RootCertStore::empty();
        let system = rustls_native_certs::load_native_certs();
        roots.add_parsable_certificates(system.certs);
        roots.add_parsable_certificates(CertificateDer::pem_slice_iter(&extra).filter_map(Result::ok));
        let mut config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|error| failed(&error))?
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        let config = Arc::new(config);
        *made = Some((extra, Arc::clone(&config)));
        Ok(config)
    }
}

enum Answer {
    Body(Vec<u8>),
    Elsewhere(String),
}

/// Asks over a connection of its own, which ends with the answer.
async fn ask<S>(stream: S, target: &Target) -> Result<Answer, FetchError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) = hyper::client::conn::http1::Builder::new()
        .max_buf_size(LARGEST_HEAD)
        .max_headers(100)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(|_| FetchError::Http)?;
    let path = target.uri.path_and_query().map_or("/", |path| path.as_str());
    let authority = target
        .uri
        .authority()
        .map(|authority| authority.as_str())
        .unwrap_or_default();
    let request = Request::get(path)
        .header(HOST, authority)
        .header(ACCEPT, "application/jwk-set+json, application/json")
        .header(ACCEPT_ENCODING, "identity")
        .header(USER_AGENT, "lateen")
        .body(Empty::<Bytes>::new())
        .map_err(|_| FetchError::Url(target.uri.to_string()))?;
    let answer = async {
        let response = sender.send_request(request).await.map_err(|_| FetchError::Http)?;
        read(response).await
    };
    tokio::pin!(answer);
    tokio::pin!(connection);
    // The connection is driven here: when the attempt is given up, so is it.
    tokio::select! {
        biased;
        answer = &mut answer => answer,
        _ = &mut connection => answer.await,
    }
}

async fn read(response: Response<Incoming>) -> Result<Answer, FetchError> {
    let (head, mut body) = response.into_parts();
    if matches!(
        head.status,
        StatusCode::MOVED_PERMANENTLY
            | StatusCode::FOUND
            | StatusCode::SEE_OTHER
            | StatusCode::TEMPORARY_REDIRECT
            | StatusCode::PERMANENT_REDIRECT
    ) {
        let location = head.headers.get(LOCATION).and_then(|value| value.to_str().ok());
        return location
            .map(|to| Answer::Elsewhere(to.to_owned()))
            .ok_or(FetchError::Redirect);
    }
    if !head.status.is_success() {
        return Err(FetchError::Status(head.status.as_u16()));
    }
    if head
        .headers
        .get(CONTENT_ENCODING)
        .is_some_and(|encoding| encoding != "identity")
    {
        return Err(FetchError::Compressed);
    }
    let mut read = Vec::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| FetchError::Http)?;
        if let Some(data) = frame.data_ref() {
            if read.len() + data.len() > LARGEST {
                return Err(FetchError::TooLarge);
            }
            read.extend_from_slice(data);
        }
    }
    Ok(Answer::Body(read))
}
