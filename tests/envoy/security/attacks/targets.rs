//! Paths, hosts and names that mean one thing to a rule and another to the application.

use anyhow::{Result, ensure};
use lateen_testkit::echo::Arrival;

use super::{arrival, is, raw, status};
use crate::rows::Request;
use crate::scene::Scene;

/// What comes of a request line: a status, and what the application saw.
async fn target(scene: &Scene, to: &str, target: &str, host: &str) -> Result<(u16, Option<Arrival>)> {
    let text = format!("GET {target} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n");
    let answer = raw(scene, "plain", to, text.as_bytes()).await?;
    Ok((status(&answer)?, arrival(&answer)))
}

pub(super) async fn a_path_around_a_denial(scene: &Scene) -> Result<()> {
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

pub(super) async fn a_path_into_what_is_allowed(scene: &Scene) -> Result<()> {
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

pub(super) async fn an_absolute_target_with_another_host(scene: &Scene) -> Result<()> {
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

pub(super) async fn an_authority_and_another_host(scene: &Scene) -> Result<()> {
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

pub(super) async fn two_hosts(scene: &Scene) -> Result<()> {
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

pub(super) async fn a_host_in_capitals_or_with_a_port(scene: &Scene) -> Result<()> {
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
pub(super) async fn a_host_with_a_dot_at_its_end(scene: &Scene) -> Result<()> {
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

pub(super) async fn a_name_for_tls_and_another_host(scene: &Scene) -> Result<()> {
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
