//! `request`: an answer of this machine's control plane on standard output, as `pilot-discovery request` prints it.
//! `istioctl bug-report` and people run it in the control plane's container, which has no shell and no other client.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use axum::body::{Body, to_bytes};
use clap::Args;
use http::{Method, Request, StatusCode, Uri};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;

/// How long an answer may take: that of a large mesh takes seconds to write.
const PATIENCE: Duration = Duration::from_secs(60);
/// The largest answer that is printed, in bytes.
const LARGEST: usize = 1 << 30;

/// What is asked.
#[derive(Debug, Clone, Args)]
pub(crate) struct RequestArgs {
    /// GET or POST
    method: String,
    /// Path, with or without the leading slash, and query
    path: String,
    /// What is sent with it
    #[arg(default_value = "", hide_default_value = true)]
    body: String,
    /// Where the control plane has its metrics and debug endpoints
    #[arg(
        long = "monitoring-address",
        value_name = "ADDRESS",
        env = "LATEEN_MONITORING_ADDRESS",
        default_value = "[::]:15014"
    )]
    address: SocketAddr,
}

impl RequestArgs {
    /// Asks, and prints the answer. What is not there is an answer, too.
    pub(crate) async fn run(self) -> Result<()> {
        let address = reached_at(self.address);
        let method: Method =
            (self.method.to_ascii_uppercase().parse()).with_context(|| format!("method `{}`", self.method))?;
        let uri: Uri = format!("http://{address}/{}", self.path.trim_start_matches('/'))
            .parse()
            .with_context(|| format!("path `{}`", self.path))?;
        let request = Request::builder()
            .method(method)
            .uri(&uri)
            .body(Body::from(self.body))?;
        let answer = async {
            let client = Client::builder(TokioExecutor::new()).build_http::<Body>();
            let answer = client.request(request).await?;
            let (head, body) = answer.into_parts();
            anyhow::Ok((head.status, to_bytes(Body::new(body), LARGEST).await?))
        };
        let answer = tokio::time::timeout(PATIENCE, answer)
            .await
            .context("no answer in time");
        let (status, bytes) = answer
            .flatten()
            .with_context(|| format!("cannot ask {uri}; is lateend running?"))?;
        let said = String::from_utf8_lossy(&bytes);
        if !status.is_success() && status != StatusCode::NOT_FOUND {
            bail!("{uri} answered {status}: {}", said.trim());
        }
        println!("{said}");
        Ok(())
    }
}

/// Where somebody on this machine reaches who listens at an address.
fn reached_at(mut address: SocketAddr) -> SocketAddr {
    if address.ip().is_unspecified() {
        address.set_ip(IpAddr::V4(Ipv4Addr::LOCALHOST));
    }
    address
}
