//! The driver: asks a URL at a steady rate, whatever the answers, and prints one line of JSON for each.

use std::io::Write;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use clap::Args;
use serde::Serialize;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;

use crate::asked_to_end;
use crate::client::Client;
use crate::hop::Call;

#[derive(Args)]
pub(crate) struct LoadArgs {
    /// What to ask
    #[arg(long, default_value = "http://productpage:9080/productpage")]
    url: String,
    /// Requests per second
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    rate: u32,
    /// Requests in flight at most; beyond that the driver falls behind its rate
    #[arg(long, default_value_t = 64)]
    in_flight: usize,
    /// Stop after so many seconds; without it, when asked to
    #[arg(long, value_name = "SECONDS")]
    seconds: Option<f64>,
    /// A header to send, as `name: value`; may be given more than once
    #[arg(long, value_name = "HEADER")]
    header: Vec<String>,
}

/// One answer.
#[derive(Serialize)]
struct Line {
    /// When it was asked, in milliseconds since 1970.
    at: u64,
    ok: bool,
    #[serde(flatten)]
    call: Call,
}

pub(crate) async fn run(args: LoadArgs, client: Client) -> Result<()> {
    let headers = headers(&args.header)?;
    let (url, service) = (
        Arc::<str>::from(args.url.as_str()),
        Arc::<str>::from(service_of(&args.url)),
    );
    let room = Arc::new(Semaphore::new(args.in_flight.max(1)));
    let mut tick = tokio::time::interval(Duration::from_secs(1) / args.rate);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let end = async {
        match args.seconds {
            Some(seconds) => tokio::time::sleep(Duration::from_secs_f64(seconds)).await,
            None => asked_to_end().await,
        }
    };
    tokio::pin!(end);
    let mut running = JoinSet::new();
    loop {
        tokio::select! {
            () = &mut end => break,
            Some(done) = running.join_next() => print(&done.context("a request panicked")?)?,
            _ = tick.tick() => {
                let Ok(permit) = room.clone().try_acquire_owned() else { continue };
                let (client, url, service, headers) = (client.clone(), url.clone(), service.clone(), headers.clone());
                running.spawn(async move {
                    let at = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX));
                    let call = client.call(&service, &url, &headers).await;
                    drop(permit);
                    Line { at, ok: call.ok(), call }
                });
            }
        }
    }
    while let Some(done) = running.join_next().await {
        print(&done.context("a request panicked")?)?;
    }
    Ok(())
}

fn print(line: &Line) -> Result<()> {
    let mut text = serde_json::to_vec(line).context("cannot encode a line")?;
    text.push(b'\n');
    std::io::stdout()
        .write_all(&text)
        .context("nobody reads the driver's output")
}

/// The name to report for a URL: its host's first label.
fn service_of(url: &str) -> &str {
    let host = url.split_once("://").map_or(url, |(_, rest)| rest);
    host.split(['/', ':', '.']).next().unwrap_or(host)
}

fn headers(given: &[String]) -> Result<HeaderMap> {
    let mut headers = HeaderMap::new();
    for header in given {
        let Some((name, value)) = header.split_once(':') else {
            bail!("--header {header:?} is not `name: value`")
        };
        let name: HeaderName = name
            .trim()
            .parse()
            .with_context(|| format!("--header {header:?} has no valid name"))?;
        let value: HeaderValue = value
            .trim()
            .parse()
            .with_context(|| format!("--header {header:?} has no valid value"))?;
        headers.insert(name, value);
    }
    Ok(headers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_label_names_the_service() {
        assert_eq!(service_of("http://productpage:9080/productpage"), "productpage");
        assert_eq!(service_of("http://reviews.shop.svc/x"), "reviews");
    }

    #[test]
    fn headers_are_checked() {
        assert_eq!(headers(&["end-user: ana".to_owned()]).unwrap()["end-user"], "ana");
        assert!(
            headers(&["nonsense".to_owned()])
                .unwrap_err()
                .to_string()
                .contains("name: value")
        );
    }
}
