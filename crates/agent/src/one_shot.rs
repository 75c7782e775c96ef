//! The commands that ask once and end: `wait` and `request`.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use http::{Method, StatusCode, Uri};

use crate::cli::{RequestArgs, WaitArgs};
use crate::http_client;

/// Longest answer of Envoy's admin interface that is printed: a configuration dump of a large mesh.
const MAXIMUM_ANSWER: usize = 1 << 30;
const ADMIN_TIMEOUT: Duration = Duration::from_secs(60);

/// Asks again and again until the proxy says that it is ready.
pub(crate) async fn wait(args: &WaitArgs) -> anyhow::Result<()> {
    let url: Uri = args.url.parse().with_context(|| format!("--url `{}`", args.url))?;
    let host = url
        .host()
        .with_context(|| format!("--url `{}`: no host", args.url))?
        .to_owned();
    let port = url.port_u16().unwrap_or(80);
    let path = url.path_and_query().map_or("/", http::uri::PathAndQuery::as_str);
    let deadline = Instant::now() + Duration::from_secs(args.timeout_seconds);
    loop {
        let one = Duration::from_millis(args.request_timeout_millis);
        let answer = async {
            let address = tokio::net::lookup_host((host.as_str(), port))
                .await?
                .next()
                .context("no address")?;
            http_client::get(address, path, one, 64 << 10).await
        };
        let last = match answer.await {
            Ok((StatusCode::OK, _)) => return Ok(()),
            Ok((status, body)) => format!("{status}: {}", body.trim()),
            Err(error) => format!("{error:#}"),
        };
        if Instant::now() >= deadline {
            bail!("{} is not ready after {} s: {last}", args.url, args.timeout_seconds);
        }
        tokio::time::sleep(Duration::from_millis(args.period_millis)).await;
    }
}

/// Sends a request to Envoy's admin interface.
pub(crate) async fn request(args: &RequestArgs) -> anyhow::Result<()> {
    let method: Method = args
        .method
        .to_ascii_uppercase()
        .parse()
        .with_context(|| format!("method `{}`", args.method))?;
    let path = if args.path.starts_with('/') {
        args.path.clone()
    } else {
        format!("/{}", args.path)
    };
    let address = SocketAddr::new(args.address, args.debug_port);
    let asked = http_client::short(address, method, &path, &args.body, ADMIN_TIMEOUT, MAXIMUM_ANSWER);
    let (status, body) = asked.await?;
    println!("{body}");
    // What is not there is an answer, too: scripts look at what is printed.
    if !status.is_success() && status != StatusCode::NOT_FOUND {
        bail!("{address}{path}: {status}");
    }
    Ok(())
}
