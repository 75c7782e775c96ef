//! What attackers try at the proxies, one function a try, named after it.
//!
//! `LATEEN_ATTACKS` limits them to those whose names contain that text.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use lateen_testkit::call::{Reply, Wire};
use lateen_testkit::echo::Arrival;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::timeout;

use crate::ONE;
use crate::rows::Request;
use crate::scene::{ELSEWHERE, Scene};

/// How long an answer may take, of who has not heard the end of a question as well.
const PATIENCE: Duration = Duration::from_secs(1);
/// How long a second answer may take.
const AFTERWARDS: Duration = Duration::from_millis(300);

/// What stands in the way of the attackers.
const MESH: &str = "pathNormalization: {normalization: DECODE_AND_MERGE_SLASHES}";
const OBJECTS: &str = include_str!("attacks.yaml");

/// Tries all, and says which came through.
macro_rules! attacks {
    ($($name:ident),* $(,)?) => {
        async fn all(scene: &Scene, only: &str) -> (usize, Vec<String>) {
            let (mut tried, mut failures) = (0, Vec::new());
            $(if stringify!($name).contains(only) {
                tried += 1;
                let begun = std::time::Instant::now();
                match $name(scene).await {
                    Ok(()) => println!("{}: refused, {:?}", stringify!($name), begun.elapsed()),
                    Err(error) => failures.push(format!("{}: {error:#}", stringify!($name))),
                }
            })*
            (tried, failures)
        }
    };
}

attacks!(
    a_token_without_signature,
    a_token_signed_with_the_public_key_as_secret,
    a_token_with_the_key_of_another_issuer,
    a_token_that_brings_its_own_key,
    a_token_with_changed_claims,
    a_good_token_beside_a_bad_one,
    a_path_around_a_denial,
    a_path_into_what_is_allowed,
    an_absolute_target_with_another_host,
    an_authority_and_another_host,
    two_hosts,
    a_host_in_capitals_or_with_a_port,
    a_host_with_a_dot_at_its_end,
    a_forged_client_certificate_header,
    a_forged_client_certificate_header_at_the_door,
    headers_of_envoy_from_outside,
    a_header_twice,
    a_header_with_an_underscore,
    a_header_struck_out_as_hop_by_hop,
    a_header_with_a_space_before_its_colon,
    a_length_and_chunks,
    two_lengths,
    chunks_twice,
    chunks_by_another_name,
    a_chunk_with_a_strange_size,
    a_header_over_two_lines,
    an_upgrade_to_h2c,
    a_tunnel_by_connect,
    a_name_for_tls_and_another_host,
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
    let found = hidden_by(&scene, ("plain", "web"), "content-length: 0", "").await;
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

/// At the sidecar and at the door.
async fn tokens_are_refused(scene: &Scene, names: &[&str]) -> Result<()> {
    for name in names {
        for (to, port) in [("web", 8080), ("ingress", 80)] {
            let request = Request {
                token: (*name).to_owned(),
                to: to.to_owned(),
                port,
                path: "/token".to_owned(),
                ..Request::default()
            };
            is(&request.send(scene).await?, 401, &format!("{name} at {to}"))?;
        }
    }
    Ok(())
}

async fn a_token_without_signature(scene: &Scene) -> Result<()> {
    tokens_are_refused(scene, &["none", "none-in-capitals", "no-signature", "garbage"]).await
}

async fn a_token_signed_with_the_public_key_as_secret(scene: &Scene) -> Result<()> {
    let names = [
        "hs256-by-public-key",
        "hs256-by-public-der",
        "hs256-by-jwk",
        "hs256-by-rsa-key",
        "rs256-for-ec",
    ];
    tokens_are_refused(scene, &names).await
}

async fn a_token_with_the_key_of_another_issuer(scene: &Scene) -> Result<()> {
    tokens_are_refused(scene, &["key-of-another-issuer", "wrong-key"]).await
}

async fn a_token_that_brings_its_own_key(scene: &Scene) -> Result<()> {
    tokens_are_refused(scene, &["own-key-inside", "keys-from-elsewhere"]).await
}

async fn a_token_with_changed_claims(scene: &Scene) -> Result<()> {
    tokens_are_refused(scene, &["changed"]).await
}

async fn a_good_token_beside_a_bad_one(scene: &Scene) -> Result<()> {
    for (first, second) in [("good", "none"), ("none", "good"), ("good", "expired")] {
        let bearer = |name: &str| {
            anyhow::Ok((
                "authorization".to_owned(),
                format!("Bearer {}", scene.tokens.get(name)?),
            ))
        };
        let request = Request {
            headers: vec![bearer(first)?, bearer(second)?],
            path: "/token".to_owned(),
            ..Request::default()
        };
        is(&request.send(scene).await?, 401, &format!("{first} beside {second}"))?;
    }
    Ok(())
}

/// What comes of a request line: a status, and what the application saw.
async fn target(scene: &Scene, to: &str, target: &str, host: &str) -> Result<(u16, Option<Arrival>)> {
    let text = format!("GET {target} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n");
    let answer = raw(scene, "plain", to, text.as_bytes()).await?;
    Ok((status(&answer)?, arrival(&answer)))
}

async fn a_path_around_a_denial(scene: &Scene) -> Result<()> {
    let refused = [
        "/admin",
        "/admin/",
        "/admin/x",
        "/admin?",
        "/admin?a=/public",
        "//admin",
        "///admin",
        "/./admin",
        "/.//admin",
        "/x/../admin",
        "/x/y/../../admin",
        "/../admin",
        "/x/%2e%2e/admin",
        "/x/.%2e/admin",
        "/x/%2E%2E/admin",
        "/%2e/admin",
        "/%2fadmin",
        "/%2Fadmin",
        "/x%2f..%2fadmin",
        "/x/..%2Fadmin",
        "/%5cadmin",
        "/%5Cadmin",
        "/\\admin",
        "/x\\..\\admin",
        "/%61dmin",
        "/adm%69n",
        "/x/..;/admin",
        "/admin/.",
        "/admin/./x",
        "http://web.shop/admin",
        "http://web.shop//admin",
        "http://web.shop/x/%2e%2e/admin",
    ];
    for path in refused {
        let (status, seen) = target(scene, "web", path, "web.shop").await?;
        ensure!(seen.is_none(), "{path} reached the application: {seen:?}");
        ensure!(matches!(status, 400 | 403), "{path}: {status}");
    }
    // What is no such path to Envoy reaches the application to the letter, or not at all.
    for path in [
        "/admin;x",
        "/admin.",
        "/x/%252e%252e/admin",
        "/%252fadmin",
        "/Admin",
        "/admin%20",
        "/x/.../admin",
    ] {
        let (status, seen) = target(scene, "web", path, "web.shop").await?;
        let path_seen = seen.as_ref().map(|seen| seen.path.as_str());
        ensure!(
            status == 400 || path_seen == Some(path),
            "{path}: {status}, {path_seen:?}"
        );
    }
    for path in ["admin", "", "/ad\0min", "/adm\rin", "/admin#/public"] {
        let (status, seen) = target(scene, "web", path, "web.shop").await.unwrap_or((400, None));
        ensure!(
            seen.is_none() && matches!(status, 400 | 403),
            "{path:?}: {status}, {seen:?}"
        );
    }
    Ok(())
}

async fn a_path_into_what_is_allowed(scene: &Scene) -> Result<()> {
    for path in [
        "/public/../secret",
        "/public/%2e%2e/secret",
        "/public/..%2fsecret",
        "/public%2f..%2fsecret",
        "/public/x/../../secret",
        "/public\\..\\secret",
        "/public/%2e%2e%2f/secret",
        "/secret?/public/",
        "/secret#/public/",
    ] {
        let (status, seen) = target(scene, "vault", path, "vault.bank").await?;
        ensure!(
            seen.is_none() && matches!(status, 400 | 403),
            "{path}: {status}, {seen:?}"
        );
    }
    // `..` takes off the empty segment before it, and what is left is what the application gets.
    let (status, seen) = target(scene, "vault", "/public//..//secret", "vault.bank").await?;
    let path = seen.map(|seen| seen.path);
    ensure!(
        status == 200 && path.as_deref() == Some("/public/secret"),
        "{status}, {path:?}"
    );
    Ok(())
}

async fn an_absolute_target_with_another_host(scene: &Scene) -> Result<()> {
    let (status, seen) = target(scene, "web", "http://admin.test/", "public.test").await?;
    ensure!(
        status == 403 && seen.is_none(),
        "the host line hid the target's: {status}, {seen:?}"
    );
    let (status, seen) = target(scene, "web", "http://public.test/", "admin.test").await?;
    let authority = seen.map(|seen| seen.authority);
    ensure!(
        status == 403 || authority.as_deref() == Some("public.test"),
        "{status}, {authority:?}"
    );
    Ok(())
}

async fn an_authority_and_another_host(scene: &Scene) -> Result<()> {
    for (authority, host) in [("public.test", "admin.test"), ("admin.test", "public.test")] {
        let request = Request {
            caller: "shop/ann".to_owned(),
            two: true,
            host: authority.to_owned(),
            headers: vec![("host".to_owned(), host.to_owned())],
            ..Request::default()
        };
        // That the connection ends is a refusal, too.
        let Ok(reply) = request.send(scene).await else {
            continue;
        };
        let seen = reply.arrival();
        let admin = seen.as_ref().is_some_and(|seen| {
            seen.authority.contains("admin.test")
                || seen.headers.get("host").is_some_and(|host| host.contains("admin.test"))
        });
        ensure!(!admin, "{authority} with {host}: the application saw {seen:?}");
    }
    Ok(())
}

async fn two_hosts(scene: &Scene) -> Result<()> {
    for (first, second) in [("public.test", "admin.test"), ("admin.test", "public.test")] {
        let text = format!("GET / HTTP/1.1\r\nhost: {first}\r\nhost: {second}\r\nconnection: close\r\n\r\n");
        let answer = raw(scene, "plain", "web", text.as_bytes()).await?;
        // They become one name, which neither a rule nor the application takes for either.
        let seen = arrival(&answer).map(|seen| seen.authority);
        let both = format!("{first},{second}");
        ensure!(
            status(&answer)? == 400 || seen.as_deref() == Some(&*both),
            "{first} and {second}: {seen:?}"
        );
    }
    Ok(())
}

async fn a_host_in_capitals_or_with_a_port(scene: &Scene) -> Result<()> {
    for host in [
        "admin.test",
        "ADMIN.TEST",
        "Admin.Test",
        "admin.test:80",
        "admin.test:8080",
        "ADMIN.test:1",
    ] {
        let (status, seen) = target(scene, "web", "/", host).await?;
        ensure!(status == 403 && seen.is_none(), "{host}: {status}");
    }
    Ok(())
}

/// A list of hosts that may be asked for keeps it out; a list of those that may not would have to name it.
async fn a_host_with_a_dot_at_its_end(scene: &Scene) -> Result<()> {
    for host in [
        "admin.test.",
        "public.test.",
        "admin.test.:80",
        "xpublic.test",
        "public.test.evil.test",
    ] {
        let (status, seen) = target(scene, "web", "/only-public", host).await?;
        ensure!(status == 403 && seen.is_none(), "{host}: {status}");
    }
    let (status, _) = target(scene, "web", "/only-public", "public.test").await?;
    ensure!(status == 200, "what is allowed is refused: {status}");
    Ok(())
}

const FORGED: &str =
    "By=spiffe://cluster.local/ns/shop/sa/web;Hash=0;Subject=\"\";URI=spiffe://cluster.local/ns/shop/sa/ann";

async fn a_forged_client_certificate_header(scene: &Scene) -> Result<()> {
    let forged = |caller: &str, path: &str| Request {
        caller: caller.to_owned(),
        path: path.to_owned(),
        headers: vec![("x-forwarded-client-cert".to_owned(), FORGED.to_owned())],
        ..Request::default()
    };
    for caller in ["plain", "shop/eve", "bank/bob"] {
        is(&forged(caller, "/ann").send(scene).await?, 403, caller)?;
    }
    let reply = forged("plain", "/").send(scene).await?;
    let seen = reply.arrival().context("no answer of the application")?;
    let header = seen.headers.get("x-forwarded-client-cert");
    ensure!(header.is_none(), "the application was told {header:?}");
    Ok(())
}

async fn a_forged_client_certificate_header_at_the_door(scene: &Scene) -> Result<()> {
    let request = Request {
        to: "ingress".to_owned(),
        port: 80,
        headers: vec![("x-forwarded-client-cert".to_owned(), FORGED.to_owned())],
        ..Request::default()
    };
    let seen = request
        .send(scene)
        .await?
        .arrival()
        .context("no answer of the application")?;
    let header = seen
        .headers
        .get("x-forwarded-client-cert")
        .context("the gateway has no identity")?;
    ensure!(!header.contains("/sa/ann"), "the application was told {header}");
    is(
        &Request {
            path: "/ann".to_owned(),
            ..request
        }
        .send(scene)
        .await?,
        403,
        "the door as ann",
    )
}

async fn headers_of_envoy_from_outside(scene: &Scene) -> Result<()> {
    let forged = [
        ("x-envoy-internal", "true"),
        ("x-envoy-original-path", "/admin"),
        ("x-envoy-original-dst-host", "10.77.2.2:8080"),
        ("x-envoy-decorator-operation", "forged"),
        ("x-envoy-external-address", "10.0.0.1"),
        ("x-envoy-upstream-rq-timeout-ms", "1"),
        ("x-envoy-max-retries", "9"),
        ("x-envoy-retry-on", "5xx"),
        ("x-envoy-force-trace", "true"),
        ("x-envoy-downstream-service-cluster", "forged"),
        ("x-envoy-peer-metadata", "forged"),
        ("x-envoy-peer-metadata-id", "forged"),
    ];
    let request = Request {
        to: "ingress".to_owned(),
        port: 80,
        from: Some(ELSEWHERE[0]),
        headers: forged
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect(),
        ..Request::default()
    };
    let seen = request
        .send(scene)
        .await?
        .arrival()
        .context("no answer of the application")?;
    // These mean something only to clusters and filters that are told to obey them, and nothing here is.
    let idle = [
        "x-envoy-original-dst-host",
        "x-envoy-peer-metadata",
        "x-envoy-peer-metadata-id",
    ];
    for (name, value) in forged.into_iter().filter(|(name, _)| !idle.contains(name)) {
        let header = seen.headers.get(name);
        ensure!(
            header.is_none_or(|header| header != value),
            "the application was told {name}: {value}"
        );
    }
    let address = seen.headers.get("x-envoy-external-address").map(String::as_str);
    ensure!(
        address == Some("198.51.100.7"),
        "the client's address is told as {address:?}"
    );
    ensure!(seen.name == "web", "another application was reached: {}", seen.name);
    Ok(())
}

async fn a_header_twice(scene: &Scene) -> Result<()> {
    for (first, second) in [
        ("admin", "guest"),
        ("guest", "admin"),
        ("", "guest"),
        ("guest", "guest"),
    ] {
        let role = |value: &str| ("x-role".to_owned(), value.to_owned());
        let request = Request {
            headers: vec![role(first), role(second)],
            path: "/no-guests".to_owned(),
            ..Request::default()
        };
        is(&request.send(scene).await?, 403, &format!("{first} and {second}"))?;
    }
    Ok(())
}

async fn a_header_with_an_underscore(scene: &Scene) -> Result<()> {
    for name in ["x_role", "X_ROLE", "x-role_", "xrole"] {
        let request = Request {
            headers: vec![(name.to_owned(), "admin".to_owned())],
            path: "/role".to_owned(),
            ..Request::default()
        };
        is(&request.send(scene).await?, 403, name)?;
    }
    Ok(())
}

async fn a_header_struck_out_as_hop_by_hop(scene: &Scene) -> Result<()> {
    let text =
        "GET / HTTP/1.1\r\nhost: web.shop\r\nconnection: close, x-forwarded-client-cert, x-forwarded-for\r\n\r\n";
    let answer = raw(scene, "shop/eve", "web", text.as_bytes()).await?;
    let header = arrival(&answer).and_then(|mut seen| seen.headers.remove("x-forwarded-client-cert"));
    let whole = status(&answer)? == 400 || header.as_ref().is_some_and(|header| header.contains("/sa/eve"));
    ensure!(whole, "the caller's identity is gone: {answer:.300}");
    // A rule that demands a header is asked before anything is struck out, and one that forbids it as well.
    let text = "GET /role HTTP/1.1\r\nhost: web.shop\r\nx-role: guest\r\nconnection: close, x-role\r\n\r\n";
    let answer = raw(scene, "plain", "web", text.as_bytes()).await?;
    ensure!(matches!(status(&answer)?, 400 | 403), "{answer:.300}");
    Ok(())
}

async fn a_header_with_a_space_before_its_colon(scene: &Scene) -> Result<()> {
    for line in [
        "x-role : admin",
        " x-role: admin",
        "x-role\t: admin",
        "x-role:admin\r\n\tx: y",
        "x-role\0: admin",
    ] {
        let text =
            format!("GET /role HTTP/1.1\r\nhost: web.shop\r\nconnection: close\r\n{line}\r\nx-role: guest\r\n\r\n");
        let answer = raw(scene, "plain", "web", text.as_bytes()).await?;
        ensure!(
            arrival(&answer).is_none(),
            "{line:?} reached the application: {answer:.300}"
        );
    }
    Ok(())
}

/// Sends requests that end where one reader sees it and another does not, each with a second request behind, `GET /hidden`:
/// all must be refused, and no application may see the second.
async fn hidden(scene: &Scene, requests: &[(&str, &str)]) -> Result<()> {
    let ways = [("plain", "web"), ("shop/ann", "web"), ("plain", "ingress")];
    let all = requests
        .iter()
        .flat_map(|&(head, before)| ways.map(|way| hidden_by(scene, way, head, before)));
    for answer in futures::future::try_join_all(all).await? {
        ensure!(
            answer.is_empty() || status(&answer)? >= 400,
            "not refused: {answer:.400}"
        );
    }
    Ok(())
}

/// The answer to one of them.
async fn hidden_by(scene: &Scene, way: (&str, &str), head: &str, before: &str) -> Result<String> {
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

async fn a_length_and_chunks(scene: &Scene) -> Result<()> {
    let lengths = [
        ("content-length: 5\r\ntransfer-encoding: chunked", NO_CHUNKS),
        ("transfer-encoding: chunked\r\ncontent-length: 200", NO_CHUNKS),
        ("content-length: 0\r\ntransfer-encoding: chunked", NO_CHUNKS),
    ];
    hidden(scene, &lengths).await
}

async fn two_lengths(scene: &Scene) -> Result<()> {
    let lengths = [
        ("content-length: 0\r\ncontent-length: 90", ""),
        ("content-length: 0, 90", ""),
        ("content-length: +0", ""),
        ("content-length: -1", ""),
        ("content-length: 0x0", ""),
    ];
    hidden(scene, &lengths).await
}

async fn chunks_twice(scene: &Scene) -> Result<()> {
    let codings = [
        ("transfer-encoding: chunked, chunked", NO_CHUNKS),
        ("transfer-encoding: chunked\r\ntransfer-encoding: identity", NO_CHUNKS),
    ];
    hidden(scene, &codings).await
}

async fn chunks_by_another_name(scene: &Scene) -> Result<()> {
    let codings = [
        ("transfer-encoding: xchunked\r\ncontent-length: 0", ""),
        ("transfer-encoding: \"chunked\"\r\ncontent-length: 0", ""),
        ("transfer-encoding: gzip\r\ncontent-length: 0", ""),
        ("transfer-encoding: chunked\x0b\r\ncontent-length: 0", ""),
        ("transfer-encoding : chunked\r\ncontent-length: 0", ""),
    ];
    hidden(scene, &codings).await
}

async fn a_chunk_with_a_strange_size(scene: &Scene) -> Result<()> {
    let sizes = ["0x0", "+0", "-1", "g", "", "ffffffffffffffff0"].map(|size| format!("{size}\r\n\r\n"));
    let requests = sizes
        .each_ref()
        .map(|size| ("transfer-encoding: chunked", size.as_str()));
    hidden(scene, &requests).await
}

async fn a_header_over_two_lines(scene: &Scene) -> Result<()> {
    let text = "GET /role HTTP/1.1\r\nhost: web.shop\r\nconnection: close\r\nx-a: b\r\n x-role: admin\r\n\r\n";
    let answer = raw(scene, "plain", "web", text.as_bytes()).await?;
    ensure!(arrival(&answer).is_none(), "{answer:.300}");
    Ok(())
}

async fn an_upgrade_to_h2c(scene: &Scene) -> Result<()> {
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

async fn a_tunnel_by_connect(scene: &Scene) -> Result<()> {
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

async fn a_name_for_tls_and_another_host(scene: &Scene) -> Result<()> {
    let request = |sni: &str, host: &str| Request {
        caller: "own".to_owned(),
        to: "ingress".to_owned(),
        port: 443,
        sni: sni.to_owned(),
        host: host.to_owned(),
        ..Request::default()
    };
    is(
        &request("shop.test", "shop.test").send(scene).await?,
        200,
        "the same name",
    )?;
    for (sni, host) in [("shop.test", "bank.test"), ("bank.test", "shop.test")] {
        for host in [host.to_owned(), host.to_uppercase(), format!("{host}:443")] {
            let reply = request(sni, &host).send(scene).await?;
            ensure!(
                reply.arrival().is_none() && matches!(reply.status, 404 | 421),
                "{sni} with {host}: {}",
                reply.status
            );
        }
    }
    ensure!(
        request("evil.test", "shop.test").send(scene).await.is_err(),
        "a name that no server has"
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
