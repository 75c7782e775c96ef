//! Servers behind the mesh, in this process.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::Result;
use axum::Router;
use bytes::Bytes;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

/// A server that answers every HTTP request, once it has all of it, with its name, and in the header `x-received` with the
/// length of the request's body (at most 2 MB). It stops accepting when dropped.
#[derive(Debug)]
pub struct Upstream {
    /// Its name, which is also the `version` label of its pod.
    pub name: Arc<str>,
    /// Where it listens.
    pub address: SocketAddr,
    hits: Arc<AtomicU64>,
    _tasks: JoinSet<()>,
}

impl Upstream {
    /// Starts one on a free port of `ip`; pods are told apart by address, so each has a loopback address of its own.
    ///
    /// # Errors
    /// When the address cannot be listened on.
    pub async fn start(name: &str, ip: impl Into<IpAddr>) -> Result<Self> {
        let listener = TcpListener::bind((ip.into(), 0)).await?;
        let address = listener.local_addr()?;
        let (name, hits) = (Arc::<str>::from(name), Arc::new(AtomicU64::new(0)));
        let (body, counter) = (Arc::clone(&name), Arc::clone(&hits));
        let router = Router::new().fallback(move |received: Bytes| {
            counter.fetch_add(1, Ordering::Relaxed);
            let body = body.to_string();
            async move { ([("x-received", received.len().to_string())], body) }
        });
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            // It never returns by itself.
            let _ = axum::serve(listener, router).await;
        });
        Ok(Self {
            name,
            address,
            hits,
            _tasks: tasks,
        })
    }

    /// How many requests it has answered.
    pub fn hits(&self) -> u64 {
        self.hits.load(Ordering::Relaxed)
    }
}
