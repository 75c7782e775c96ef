//! The shop's HTTP client: plain HTTP/1.1 with a pool; whatever security there is, the mesh adds it.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::task::{Context as TaskContext, Poll};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use axum::body::Body;
use axum::http::{HeaderMap, Request};
use bytes::Bytes;
use http_body_util::BodyExt;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::connect::dns::Name;
use hyper_util::rt::{TokioExecutor, TokioTimer};

use crate::hop::{Call, Hop};

/// How long a whole answer may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// Resolves names: all to one address if there is one, else as the machine does.
#[derive(Clone, Copy, Default)]
pub(crate) struct Names(Option<IpAddr>);

impl Names {
    pub(crate) fn new(all_to: Option<IpAddr>) -> Self {
        Self(all_to)
    }

    /// The addresses of `name` with `port`.
    pub(crate) async fn resolve(self, name: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
        match self.0 {
            Some(address) => Ok(vec![(address, port).into()]),
            None => Ok(tokio::net::lookup_host((name, port)).await?.collect()),
        }
    }
}

impl tower::Service<Name> for Names {
    type Response = std::vec::IntoIter<SocketAddr>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, _: &mut TaskContext<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, name: Name) -> Self::Future {
        let names = *self;
        // The connector puts the URL's port in.
        Box::pin(async move { Ok(names.resolve(name.as_str(), 0).await?.into_iter()) })
    }
}

/// A pool of connections.
#[derive(Clone)]
pub(crate) struct Client {
    pool: hyper_util::client::legacy::Client<HttpConnector<Names>, Body>,
    pub(crate) names: Names,
}

impl Client {
    pub(crate) fn new(names: Names) -> Self {
        let mut connector = HttpConnector::new_with_resolver(names);
        connector.set_nodelay(true);
        let pool = hyper_util::client::legacy::Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .build(connector);
        Self { pool, names }
    }

    /// Asks `url` as the service `to` and reads its answer. A failure is part of the result.
    pub(crate) async fn call(&self, to: &str, url: &str, headers: &HeaderMap) -> Call {
        let started = Instant::now();
        let answer = tokio::time::timeout(PATIENCE, self.get(url, headers)).await;
        let micros = u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX);
        let (status, reply, error) = match answer {
            Ok(Ok((status, body))) => match serde_json::from_slice::<Hop>(&body) {
                Ok(hop) => (status, Some(Box::new(hop)), None),
                Err(_) => (
                    status,
                    None,
                    Some(String::from_utf8_lossy(&body).chars().take(200).collect()),
                ),
            },
            Ok(Err(error)) => (0, None, Some(format!("{error:#}"))),
            Err(_) => (0, None, Some(format!("no answer within {} s", PATIENCE.as_secs()))),
        };
        Call {
            to: to.to_owned(),
            status,
            micros,
            reply,
            error,
        }
    }

    async fn get(&self, url: &str, headers: &HeaderMap) -> Result<(u16, Bytes)> {
        let mut request = Request::get(url)
            .body(Body::empty())
            .with_context(|| format!("{url} is no URL"))?;
        *request.headers_mut() = headers.clone();
        let response = self
            .pool
            .request(request)
            .await
            .with_context(|| format!("cannot reach {url}"))?;
        let status = response.status().as_u16();
        let body = response
            .into_body()
            .collect()
            .await
            .with_context(|| format!("the answer of {url} broke off"))?;
        Ok((status, body.to_bytes()))
    }
}
