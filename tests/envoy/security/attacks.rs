//! What attackers try at the proxies, one function a try, named after it.
//!
//! `LATEEN_ATTACKS` limits them to those whose names contain that text.

mod headers;
mod hidden;
mod targets;
mod tokens;

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use lateen_testkit::call::{Reply, Wire};
use lateen_testkit::echo::Arrival;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::timeout;

use crate::ONE;
use crate::rows::Request;
use crate::scene::Scene;

/// How long an answer may take, of who has not heard the end of a question as well.
const PATIENCE: Duration = Duration::from_secs(1);
/// How long a second answer may take.
const AFTERWARDS: Duration = Duration::from_millis(300);

/// What stands in the way of the attackers.
const MESH: &str = "pathNormalization: {normalization: DECODE_AND_MERGE_SLASHES}";
const OBJECTS: &str = include_str!("attacks.yaml");

/// Tries all, and says which came through.
macro_rules! attacks {
    ($($module:ident::$name:ident),* $(,)?) => {
        async fn all(scene: &Scene, only: &str) -> (usize, Vec<String>) {
            let (mut tried, mut failures) = (0, Vec::new());
            $(if stringify!($name).contains(only) {
                tried += 1;
                let begun = std::time::Instant::now();
                match $module::$name(scene).await {
                    Ok(()) => println!("{}: refused, {:?}", stringify!($name), begun.elapsed()),
                    Err(error) => failures.push(format!("{}: {error:#}", stringify!($name))),
                }
            })*
            (tried, failures)
        }
    };
}

attacks!(
    tokens::a_token_without_signature,
    tokens::a_token_signed_with_the_public_key_as_secret,
    tokens::a_token_with_the_key_of_another_issuer,
    tokens::a_token_that_brings_its_own_key,
    tokens::a_token_with_changed_claims,
    tokens::a_good_token_beside_a_bad_one,
    targets::a_path_around_a_denial,
    targets::a_path_into_what_is_allowed,
    targets::an_absolute_target_with_another_host,
    targets::an_authority_and_another_host,
    targets::two_hosts,
    targets::a_host_in_capitals_or_with_a_port,
    targets::a_host_with_a_dot_at_its_end,
    headers::a_forged_client_certificate_header,
    headers::a_forged_client_certificate_header_at_the_door,
    headers::headers_of_envoy_from_outside,
    headers::a_header_twice,
    headers::a_header_with_an_underscore,
    headers::a_header_struck_out_as_hop_by_hop,
    headers::a_header_with_a_space_before_its_colon,
    hidden::a_length_and_chunks,
    hidden::two_lengths,
    hidden::chunks_twice,
    hidden::chunks_by_another_name,
    hidden::a_chunk_with_a_strange_size,
    hidden::a_header_over_two_lines,
    hidden::an_upgrade_to_h2c,
    hidden::a_tunnel_by_connect,
    targets::a_name_for_tls_and_another_host,
);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn attacks_at_the_proxies_fail() -> Result<()> {
    let _alone = ONE.lock().await;
    let Some(mut scene) = Scene::start().await? else {
        return Ok(());
    };
    scene.set(MESH, OBJECTS).await?;
    scene.warm().await?;
    let good = Request {
        token: "good".to_owned(),
        path: "/token".to_owned(),
        ..Request::default()
    };
    ensure!(
        good.send(&scene).await?.status == 200,
        "who is as they should be is refused"
    );
    // The look for hidden requests finds one that is not hidden.
    let found = hidden::by(&scene, ("plain", "web"), "content-length: 0", "").await;
    ensure!(found.is_err(), "a second request is not noticed");
    let (tried, failures) = all(&scene, &std::env::var("LATEEN_ATTACKS").unwrap_or_default()).await;
    println!("{tried} attacks, {} came through", failures.len());
    ensure!(failures.is_empty(), "{}", failures.join("\n\n"));
    Ok(())
}

fn is(reply: &Reply, status: u16, what: &str) -> Result<()> {
    ensure!(
        reply.status == status,
        "{what}: {} instead of {status}: {:.200}",
        reply.status,
        reply.body
    );
    Ok(())
}

/// Sends bytes as they are and reads until the other end closes or has answered.
async fn raw(scene: &Scene, caller: &str, to: &str, bytes: &[u8]) -> Result<String> {
    talk(scene, (caller, to), bytes, false).await
}

/// As [`raw`]; with `more`, an answer after the first is waited for.
async fn talk(scene: &Scene, (caller, to): (&str, &str), bytes: &[u8], more: bool) -> Result<String> {
    let request = Request {
        caller: caller.to_owned(),
        to: to.to_owned(),
        port: if to == "ingress" { 80 } else { 8080 },
        ..Request::default()
    };
    let mut stream = request.line(scene)?.open().await?;
    let talking = async {
        // The other end may have refused before it has read all.
        let _ = stream.write_all(bytes).await;
        answer(&mut *stream, more).await
    };
    talking.await
}

/// All that comes until the end, or what a connection that stays open has said after its first answer.
async fn answer(stream: &mut dyn Wire, more: bool) -> Result<String> {
    let (mut text, mut piece) = (Vec::new(), vec![0; 16 * 1024]);
    loop {
        let patience = if text.is_empty() { PATIENCE } else { AFTERWARDS };
        match timeout(patience, stream.read(&mut piece)).await {
            Ok(Ok(0)) | Err(_) => break,
            Ok(Ok(length)) => text.extend_from_slice(&piece[..length]),
            Ok(Err(error)) if text.is_empty() => return Err(error.into()),
            Ok(Err(_)) => break,
        }
        if !more && is_whole(&String::from_utf8_lossy(&text)) {
            break;
        }
    }
    Ok(String::from_utf8_lossy(&text).into_owned())
}

/// Whether an answer has come to its end: proxies keep refused connections open for a moment.
fn is_whole(answer: &str) -> bool {
    let Some((head, body)) = answer.split_once("\r\n\r\n") else {
        return false;
    };
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
    length
        .and_then(|length| length.parse().ok())
        .is_some_and(|length: usize| body.len() >= length)
}

fn status(answer: &str) -> Result<u16> {
    let code = answer.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3));
    Ok(code
        .with_context(|| format!("no answer of HTTP: {answer:.200}"))?
        .parse()?)
}

/// What the application saw, where it answered.
fn arrival(answer: &str) -> Option<Arrival> {
    let from = answer.find("{\"name\"")?;
    serde_json::Deserializer::from_str(&answer[from..])
        .into_iter()
        .next()?
        .ok()
}
