//! Headers that claim what they must not.

use anyhow::{Context as _, Result, ensure};

use super::{arrival, is, raw, status};
use crate::rows::Request;
use crate::scene::{ELSEWHERE, Scene};

const FORGED: &str =
    "By=spiffe://cluster.local/ns/shop/sa/web;Hash=0;Subject=\"\";URI=spiffe://cluster.local/ns/shop/sa/ann";

pub(super) async fn a_forged_client_certificate_header(scene: &Scene) -> Result<()> {
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

pub(super) async fn a_forged_client_certificate_header_at_the_door(scene: &Scene) -> Result<()> {
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

pub(super) async fn headers_of_envoy_from_outside(scene: &Scene) -> Result<()> {
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

pub(super) async fn a_header_twice(scene: &Scene) -> Result<()> {
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

pub(super) async fn a_header_with_an_underscore(scene: &Scene) -> Result<()> {
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

pub(super) async fn a_header_struck_out_as_hop_by_hop(scene: &Scene) -> Result<()> {
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

pub(super) async fn a_header_with_a_space_before_its_colon(scene: &Scene) -> Result<()> {
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
