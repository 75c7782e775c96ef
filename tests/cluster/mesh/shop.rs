//! What the shop's driver sees from a pod inside the mesh.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::mesh::Mesh;

/// The namespace of `samples/kubernetes/shop.yaml`.
pub(crate) const SHOP: &str = "shop";

/// Where the parts of the shop listen.
pub(crate) const PORT: u16 = 9080;

/// How long the driver asks, where nothing else is meant.
pub(crate) const SECONDS: u32 = 2;

/// Asked over TCP, so that no header says who asked; that its connections are TLS, the wire shows.
const OVER_TCP: &str = "stock";

/// What the driver is to ask.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Asking<'a> {
    /// The deployment and its container where the driver runs.
    pub(crate) from: (&'a str, &'a str),
    /// Whom, as the driver names it.
    pub(crate) url: &'a str,
    /// Headers, as `name: value`.
    pub(crate) headers: &'a [&'a str],
    /// Requests per second.
    pub(crate) rate: u32,
    /// For how long.
    pub(crate) seconds: u32,
}

impl<'a> Asking<'a> {
    /// A URL, fifty times a second, for two seconds.
    pub(crate) fn url(url: &'a str) -> Self {
        Self {
            from: ("traffic-v1", "traffic"),
            url,
            headers: &[],
            rate: 50,
            seconds: SECONDS,
        }
    }
}

/// What the driver gets: each line has `ok`, the `status` (0: no answer), how many `micros` it took, and in `reply` the
/// hops with the identities that both ends of each connection proved.
///
/// # Errors
/// When the driver does not run or prints something else.
pub(crate) async fn ask(mesh: &Mesh, asking: Asking<'_>) -> Result<Vec<Value>> {
    let (rate, seconds) = (asking.rate.to_string(), asking.seconds.to_string());
    let deployment = format!("deploy/{}", asking.from.0);
    let mut arguments = vec!["exec", &deployment, "-c", asking.from.1, "--"];
    arguments.extend(["/usr/local/bin/shop", "load", "--url", asking.url]);
    arguments.extend(["--rate", &rate, "--seconds", &seconds]);
    arguments.extend(asking.headers.iter().flat_map(|header| ["--header", header]));
    lines(&mesh.kubectl(&arguments).await?)
}

/// What the driver gets at the front page.
///
/// # Errors
/// As [`ask`].
pub(crate) async fn drive(mesh: &Mesh, seconds: u32) -> Result<Vec<Value>> {
    let url = "http://productpage:9080/productpage";
    let asking = Asking {
        seconds,
        ..Asking::url(url)
    };
    ask(mesh, asking).await
}

/// What the driver printed.
///
/// # Errors
/// When it printed nothing, or something else.
pub(crate) fn lines(printed: &str) -> Result<Vec<Value>> {
    let lines: Vec<Value> = printed
        .lines()
        .map(|line| serde_json::from_str(line).with_context(|| format!("no JSON: {line}")))
        .collect::<Result<_>>()?;
    ensure!(!lines.is_empty(), "the driver asked nothing");
    Ok(lines)
}

/// Every request got its answer, and so did every request that was made to answer it.
///
/// # Errors
/// When one did not; with all that did not.
pub(crate) fn none_failed(lines: &[Value]) -> Result<()> {
    let failed: Vec<&Value> = lines.iter().filter(|line| line["ok"] != true).collect();
    ensure!(
        failed.is_empty(),
        "{} of {} requests failed: {failed:#?}",
        failed.len(),
        lines.len()
    );
    Ok(())
}

/// How many answers had a status.
pub(crate) fn with_status(lines: &[Value], status: u16) -> usize {
    lines.iter().filter(|line| line["status"] == status).count()
}

/// How long a request took.
pub(crate) fn took(line: &Value) -> Duration {
    Duration::from_micros(line["micros"].as_u64().unwrap_or(u64::MAX))
}

/// Both ends of every connection below a hop proved who they are.
///
/// # Errors
/// When one did not.
pub(crate) fn proved(hop: &Value) -> Result<()> {
    let service = hop["service"].as_str().context("a hop has a service")?;
    if service == OVER_TCP {
        return Ok(());
    }
    let server = format!("spiffe://cluster.local/ns/{SHOP}/sa/{service}");
    ensure!(hop["peer"]["server"] == server.as_str(), "{hop:#}");
    ensure!(
        hop["peer"]["client"]
            .as_str()
            .is_some_and(|name| name.starts_with("spiffe://")),
        "{hop:#}"
    );
    for call in hop["calls"].as_array().into_iter().flatten() {
        if !call["reply"].is_null() {
            proved(&call["reply"])?;
        }
    }
    Ok(())
}

/// The version of reviews that the front page showed.
pub(crate) fn version_of_reviews(line: &Value) -> Option<&str> {
    let calls = line["reply"]["calls"].as_array()?;
    let reviews = calls.iter().find(|call| call["to"] == "reviews")?;
    reviews["reply"]["version"].as_str()
}
