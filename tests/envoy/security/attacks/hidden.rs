//! Requests hidden in others, and ways around HTTP.

use anyhow::{Result, ensure};

use super::{arrival, raw, status, talk};
use crate::scene::Scene;

/// Sends requests that end where one reader sees it and another does not, each with a second request behind, `GET /hidden`:
/// all must be refused, and no application may see the second.
async fn hidden(scene: &Scene, requests: &[(&str, &str)]) -> Result<()> {
    let ways = [("plain", "web"), ("shop/ann", "web"), ("plain", "ingress")];
    let all = requests
        .iter()
        .flat_map(|&(head, before)| ways.map(|way| by(scene, way, head, before)));
    for answer in futures::future::try_join_all(all).await? {
        ensure!(
            answer.is_empty() || status(&answer)? >= 400,
            "not refused: {answer:.400}"
        );
    }
    Ok(())
}

/// The answer to one of them.
pub(super) async fn by(scene: &Scene, way: (&str, &str), head: &str, before: &str) -> Result<String> {
    let page = format!("hidden-{way:?}-{head}-{before}");
    let page: String = page.bytes().map(|byte| format!("{byte:x}")).collect();
    let inner = format!("GET /hidden HTTP/1.1\r\nhost: web.shop\r\nx-row: {page}\r\n\r\n");
    let text = format!("POST / HTTP/1.1\r\nhost: web.shop\r\n{head}\r\n\r\n{before}{inner}");
    let answer = talk(scene, way, text.as_bytes(), true).await.unwrap_or_default();
    let seen = scene.echo.book().page(&page);
    ensure!(
        seen.is_empty(),
        "{head:?} by {way:?}: the application saw {seen:?}; {answer:.200}"
    );
    Ok(answer)
}

const NO_CHUNKS: &str = "0\r\n\r\n";

pub(super) async fn a_length_and_chunks(scene: &Scene) -> Result<()> {
    let lengths = [
        ("content-length: 5\r\ntransfer-encoding: chunked", NO_CHUNKS),
        ("transfer-encoding: chunked\r\ncontent-length: 200", NO_CHUNKS),
        ("content-length: 0\r\ntransfer-encoding: chunked", NO_CHUNKS),
    ];
    hidden(scene, &lengths).await
}

pub(super) async fn two_lengths(scene: &Scene) -> Result<()> {
    let lengths = [
        ("content-length: 0\r\ncontent-length: 90", ""),
        ("content-length: 0, 90", ""),
        ("content-length: +0", ""),
        ("content-length: -1", ""),
        ("content-length: 0x0", ""),
    ];
    hidden(scene, &lengths).await
}

pub(super) async fn chunks_twice(scene: &Scene) -> Result<()> {
    let codings = [
        ("transfer-encoding: chunked, chunked", NO_CHUNKS),
        ("transfer-encoding: chunked\r\ntransfer-encoding: identity", NO_CHUNKS),
    ];
    hidden(scene, &codings).await
}

pub(super) async fn chunks_by_another_name(scene: &Scene) -> Result<()> {
    let codings = [
        ("transfer-encoding: xchunked\r\ncontent-length: 0", ""),
        ("transfer-encoding: \"chunked\"\r\ncontent-length: 0", ""),
        ("transfer-encoding: gzip\r\ncontent-length: 0", ""),
        ("transfer-encoding: chunked\x0b\r\ncontent-length: 0", ""),
        ("transfer-encoding : chunked\r\ncontent-length: 0", ""),
    ];
    hidden(scene, &codings).await
}

pub(super) async fn a_chunk_with_a_strange_size(scene: &Scene) -> Result<()> {
    let sizes = ["0x0", "+0", "-1", "g", "", "ffffffffffffffff0"].map(|size| format!("{size}\r\n\r\n"));
    let requests = sizes
        .each_ref()
        .map(|size| ("transfer-encoding: chunked", size.as_str()));
    hidden(scene, &requests).await
}

pub(super) async fn a_header_over_two_lines(scene: &Scene) -> Result<()> {
    let text = "GET /role HTTP/1.1\r\nhost: web.shop\r\nconnection: close\r\nx-a: b\r\n x-role: admin\r\n\r\n";
    let answer = raw(scene, "plain", "web", text.as_bytes()).await?;
    ensure!(arrival(&answer).is_none(), "{answer:.300}");
    Ok(())
}

pub(super) async fn an_upgrade_to_h2c(scene: &Scene) -> Result<()> {
    let text = "GET / HTTP/1.1\r\nhost: web.shop\r\nconnection: upgrade, http2-settings\r\nupgrade: h2c\r\n\
                http2-settings: AAMAAABkAARAAAAAAAIAAAAA\r\n\r\n";
    for (to, caller) in [("web", "plain"), ("ingress", "plain")] {
        let answer = raw(scene, caller, to, text.as_bytes()).await?;
        let upgraded = arrival(&answer).is_some_and(|seen| seen.headers.contains_key("upgrade"));
        ensure!(
            !answer.starts_with("HTTP/1.1 101") && !upgraded,
            "at {to}: {answer:.300}"
        );
    }
    Ok(())
}

pub(super) async fn a_tunnel_by_connect(scene: &Scene) -> Result<()> {
    for to in ["web", "ingress"] {
        let text = "CONNECT 10.77.2.2:8080 HTTP/1.1\r\nhost: 10.77.2.2:8080\r\n\r\nGET /secret HTTP/1.1\r\nhost: vault\r\n\r\n";
        let answer = raw(scene, "plain", to, text.as_bytes()).await.unwrap_or_default();
        ensure!(
            !answer.starts_with("HTTP/1.1 200") && arrival(&answer).is_none(),
            "at {to}: {answer:.300}"
        );
    }
    Ok(())
}
