//! Rows, one after the other.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use lateen_testkit::call::{self, Ask, Connection, Line, Reply, Tls};
use lateen_testkit::fabric::at;
use lateen_testkit::table::{Observed, Row, Table};
use tokio::task::JoinSet;

use crate::base;
use crate::foretell::Foretold;
use crate::scene::{Scene, address};

/// How long a row may not be met: configuration is acknowledged before the workers have it, and servers ejected or
/// discovered take a moment.
const PATIENCE: Duration = Duration::from_secs(3);
/// Nobody has it, but a server outside of the mesh.
const ELSEWHERE: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);

static NEXT: AtomicU64 = AtomicU64::new(0);

/// Runs a table; what is not met, or was foretold otherwise, is added to `failures`. Returns of how many rows the simulator
/// was right.
pub(crate) async fn table(scene: &mut Scene, table: &Table, failures: &mut Vec<String>) -> usize {
    let file = table.name();
    let begun = match scene.set(table).await {
        Ok(()) => Foretold::new(scene.world.config()),
        Err(error) => Err(error),
    };
    let mut foretold = match begun {
        Ok(foretold) => foretold,
        Err(error) => {
            failures.push(format!("{file}: {error:#}"));
            return 0;
        }
    };
    let mut right = 0;
    for row in &table.rows {
        let begun = Instant::now();
        let asked = || format!("{file}: {}: {} {} from {}", row.name, row.method, row.url, row.from);
        loop {
            let unmet = match observe(scene, row).await {
                Ok(observed) => {
                    let unmet = row.expect.unmet(&observed);
                    if unmet.is_empty() {
                        match target(scene, row).and_then(|target| foretold.wrong(row, &target, &observed)) {
                            Ok(None) => {}
                            Ok(Some(wrong)) if wrong.is_empty() => right += 1,
                            Ok(Some(wrong)) => failures.push(format!("{}\n  {}", asked(), wrong.join("\n  "))),
                            Err(error) => failures.push(format!("{}\n  {error:#}", asked())),
                        }
                    }
                    unmet
                }
                Err(error) => vec![format!("{error:#}")],
            };
            if unmet.is_empty() {
                break;
            }
            if begun.elapsed() > PATIENCE {
                let mut lines = unmet;
                lines.dedup();
                lines.truncate(8);
                failures.push(format!("{}\n  {}", asked(), lines.join("\n  ")));
                break;
            }
        }
    }
    right
}

/// Where a row's requests go.
pub(crate) struct Target {
    pub(crate) scheme: String,
    pub(crate) authority: String,
    pub(crate) path: String,
    pub(crate) line: Line,
}

fn target(scene: &Scene, row: &Row) -> Result<Target> {
    let (scheme, rest) = row.url.split_once("://").context("the URL has no scheme")?;
    let (authority, path) = rest.find('/').map_or((rest, "/"), |at| rest.split_at(at));
    let secure = matches!(scheme, "https" | "tls");
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) => (host, port.parse()?),
        None => (authority, if secure { 443 } else { 80 }),
    };
    let gateway = base::PODS.iter().find(|pod| pod.0 == row.from && !pod.4.is_empty());
    let from = match (gateway, row.from.as_str()) {
        (Some(_), _) | (None, "outside") => scene.fabric.center().clone(),
        (None, pod) => scene.agents.get(pod).context("nobody has this name")?.place().clone(),
    };
    let named = scene.names.get(host).copied().or_else(|| host.parse().ok());
    let to = match (&row.to, gateway) {
        (Some(to), _) => address(to)?,
        (None, Some(pod)) => at(pod.2, port),
        (None, None) => at(named.unwrap_or(ELSEWHERE), port),
    };
    let tls = secure.then(|| Tls {
        name: row.sni.clone().unwrap_or_else(|| host.to_owned()),
        authority: Arc::clone(&scene.authority),
        credential: row.certificate.then(|| scene.client.clone()),
    });
    Ok(Target {
        scheme: scheme.to_owned(),
        authority: row.authority.clone().unwrap_or_else(|| authority.to_owned()),
        path: path.to_owned(),
        line: Line {
            from,
            to,
            tls,
            two: row.two || scheme == "grpc",
        },
    })
}

/// Does what a row says.
pub(crate) async fn observe(scene: &Scene, row: &Row) -> Result<Observed> {
    let target = target(scene, row)?;
    let page = format!("row-{}", NEXT.fetch_add(1, Ordering::Relaxed));
    let replies = match target.scheme.as_str() {
        "tcp" | "tls" => lines(&target, row, &page).await,
        "http" | "https" | "grpc" => requests(&target, row, &page).await,
        other => bail!("`{other}` is no scheme"),
    };
    // Mirrored requests are nobody's answer; give what is under way the time of one more look.
    let wanted: u64 = row.expect.arrived.values().map(|count| count.0).sum();
    let book = scene.echo.book();
    let deadline = Instant::now() + Duration::from_millis(500);
    let mut ticks = tokio::time::interval(Duration::from_millis(10));
    while (book.page(&page).len() as u64) < wanted && Instant::now() < deadline {
        ticks.tick().await;
    }
    Ok(Observed {
        replies,
        arrivals: book.page(&page),
    })
}

async fn lines(target: &Target, row: &Row, page: &str) -> Vec<Result<Reply, String>> {
    let mut replies = Vec::new();
    for _ in 0..row.times {
        replies.push(
            call::say(&target.line, page)
                .await
                .map_err(|error| format!("{error:#}")),
        );
    }
    replies
}

async fn requests(target: &Target, row: &Row, page: &str) -> Vec<Result<Reply, String>> {
    let mut headers: Vec<(String, String)> = row.headers.clone().into_iter().collect();
    headers.push(("x-row".to_owned(), page.to_owned()));
    let grpc = target.scheme == "grpc";
    if grpc {
        headers.push(("content-type".to_owned(), "application/grpc".to_owned()));
        headers.push(("te".to_owned(), "trailers".to_owned()));
    }
    let ask = Ask {
        method: if grpc { "POST".to_owned() } else { row.method.clone() },
        scheme: if target.line.tls.is_some() { "https" } else { "http" },
        authority: target.authority.clone(),
        path: target.path.clone(),
        headers,
    };
    if row.parallel {
        let mut asking = JoinSet::new();
        for _ in 0..row.times {
            let (line, ask) = (target.line.clone(), ask.clone());
            asking.spawn(async move { once(&line, &ask, None).await.1 });
        }
        return asking.join_all().await;
    }
    let mut replies = Vec::new();
    let mut open = None;
    for _ in 0..row.times {
        let (connection, reply) = once(&target.line, &ask, open.take()).await;
        open = connection.filter(|_| !row.fresh);
        replies.push(reply);
    }
    replies
}

/// A request, over the open connection if there is one that is good.
async fn once(line: &Line, ask: &Ask, open: Option<Connection>) -> (Option<Connection>, Result<Reply, String>) {
    let connection = match open.filter(|open| !open.is_closed()) {
        Some(open) => Ok(open),
        None => Connection::open(line).await,
    };
    let mut connection = match connection {
        Ok(connection) => connection,
        Err(error) => return (None, Err(format!("{error:#}"))),
    };
    match connection.ask(ask).await {
        Ok(reply) => {
            let closes = reply.headers.get("connection").is_some_and(|value| value == "close");
            ((!closes).then_some(connection), Ok(reply))
        }
        Err(error) => (None, Err(format!("{error:#}"))),
    }
}
