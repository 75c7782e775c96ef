//! URLs and servers that mean harm: what they want to reach is not dialled, and what they send does not fill anything.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use lateen_lower::KeySource;
use lateen_sources::jwks::{FetchError, Fetcher, KeySetError, Policy, Refused};

use crate::issuer::{Issuer, Names, PATIENCE, Reply, attempt, fetcher, ok, permitting, redirect, set, with_head};

/// An attempt is refused, and the server never hears of it.
fn refused(got: &Result<Arc<str>, FetchError>, why: Refused, server: &Issuer) {
    assert!(
        matches!(got, Err(FetchError::Refused { reason, .. }) if *reason == why),
        "{got:?}"
    );
    assert_eq!(server.connected(), 0, "dialled after all");
}

#[tokio::test]
async fn loopback_is_not_dialled_however_it_is_written() {
    let inside = Issuer::start(|_| ok(&set("inside"))).await;
    let port = inside.address.port();
    let fetcher = fetcher(Policy::default());
    for host in [
        "127.0.0.1",
        "localhost",
        "[::1]",
        "[::ffff:127.0.0.1]",
        "0.0.0.0",
        "127.1",
        "2130706433",
        "0x7f.1",
    ] {
        let source = KeySource::Uri(format!("http://{host}:{port}/").into());
        match fetcher.fetch(&source, PATIENCE).await {
            got @ Err(FetchError::Refused { .. }) => refused(&got, Refused::Loopback, &inside),
            // Where the resolver knows no such spelling.
            got => assert!(matches!(got, Err(FetchError::Resolve(_))), "{host}: {got:?}"),
        }
        assert_eq!(inside.connected(), 0, "{host}");
    }
    for (address, why) in [
        ("169.254.169.254", Refused::LinkLocal),
        ("[fd00:ec2::254]", Refused::Metadata),
        ("[fe80::1]", Refused::LinkLocal),
    ] {
        let source = KeySource::Uri(format!("http://{address}/latest/meta-data").into());
        let got = fetcher.fetch(&source, PATIENCE).await;
        refused(&got, why, &inside);
    }
}

#[tokio::test]
async fn a_name_that_moves_inside_is_not_followed() {
    let outside = Issuer::start_at(SocketAddr::from((Ipv4Addr::new(127, 0, 0, 2), 0)), None, |_| {
        ok(&set("outside"))
    });
    let outside = outside.await.unwrap();
    let port = outside.address.port();
    let inside = Issuer::start_at(SocketAddr::from((Ipv4Addr::LOCALHOST, port)), None, |_| {
        ok(&set("inside"))
    });
    let inside = inside.await.unwrap();
    let source = KeySource::Uri(format!("http://issuer.example:{port}/").into());
    // The first address alone is permitted: what is judged is what is dialled.
    let names = Names::new(&[&["127.0.0.2"], &["127.0.0.1"]]);
    let fetcher = Fetcher::new(permitting(&["127.0.0.2/32"]), None, names);
    assert_eq!(&*fetcher.fetch(&source, PATIENCE).await.unwrap(), set("outside"));
    let got = fetcher.fetch(&source, PATIENCE).await;
    refused(&got, Refused::Loopback, &inside);
    // Of several addresses those that may be dialled are.
    let fetcher = Fetcher::new(
        permitting(&["127.0.0.2/32"]),
        None,
        Names::new(&[&["127.0.0.1", "127.0.0.2"]]),
    );
    assert_eq!(&*fetcher.fetch(&source, PATIENCE).await.unwrap(), set("outside"));
    assert_eq!(inside.connected(), 0);
}

#[tokio::test]
async fn the_api_server_and_blocked_ranges_are_not_dialled() {
    let server = Issuer::start(|_| ok(&set("api"))).await;
    let loopback = permitting(&["127.0.0.0/8"]);
    let fetcher_of = |policy: &Policy| fetcher(policy.clone());
    let guarded = fetcher_of(&loopback);
    guarded.refuse(BTreeSet::from([server.address]));
    let mapped = KeySource::Uri(format!("http://[::ffff:127.0.0.1]:{}/", server.address.port()).into());
    for source in [server.uri("/openid/v1/jwks"), mapped] {
        refused(&guarded.fetch(&source, PATIENCE).await, Refused::ApiServer, &server);
    }
    let narrowed = Policy {
        blocked: vec!["127.0.0.0/24".parse().unwrap()],
        ..loopback
    };
    refused(
        &fetcher_of(&narrowed).fetch(&server.uri("/"), PATIENCE).await,
        Refused::Blocked,
        &server,
    );
    // It was there all the time.
    assert!(attempt(&server.uri("/"), PATIENCE).await.is_ok());
}

#[tokio::test]
async fn redirects_stay_with_their_origin() {
    let other = Issuer::start(|_| ok(&set("other"))).await;
    let elsewhere = format!("http://{}/keys", other.address);
    let issuer = Issuer::start(move |path| match path {
        "/keys" => ok(&set("own")),
        "/near" => redirect("/keys"),
        "/loop" => redirect("/loop"),
        "/double" => redirect("//127.0.0.1/keys"),
        "/file" => redirect("file:///etc/passwd"),
        _ => redirect(&elsewhere),
    })
    .await;
    assert_eq!(&*attempt(&issuer.uri("/near"), PATIENCE).await.unwrap(), set("own"));
    for path in ["/away", "/loop", "/double", "/file"] {
        assert_eq!(
            attempt(&issuer.uri(path), PATIENCE).await,
            Err(FetchError::Redirect),
            "{path}"
        );
    }
    assert_eq!(other.connected(), 0);
}

#[tokio::test]
async fn what_never_ends_is_cut_off() {
    let chunked = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n".to_vec();
    let chunk = [b"10000\r\n".to_vec(), vec![b' '; 0x10000], b"\r\n".to_vec()].concat();
    let issuer = Issuer::start(move |path| match path {
        "/endless" => Reply::Endless(chunked.clone(), chunk.clone()),
        "/long" => Reply::Endless(
            b"HTTP/1.1 200 OK\r\ncontent-length: 99999999999\r\n\r\n".to_vec(),
            vec![b' '; 65536],
        ),
        "/head" => Reply::Endless(
            b"HTTP/1.1 200 OK\r\n".to_vec(),
            b"x-filler: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\r\n".to_vec(),
        ),
        "/one-header" => Reply::Endless(b"HTTP/1.1 200 OK\r\nx: ".to_vec(), vec![b'a'; 65536]),
        "/silent" => Reply::Stuck(Vec::new()),
        "/half" => Reply::Stuck(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n{".to_vec()),
        "/broken-off" => Reply::Bytes(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n{".to_vec()),
        _ => Reply::Bytes(b"SSH-2.0-OpenSSH_9.6\r\n".to_vec()),
    })
    .await;
    for (path, expected) in [
        ("/endless", FetchError::TooLarge),
        ("/long", FetchError::TooLarge),
        ("/head", FetchError::Http),
        ("/one-header", FetchError::Http),
        ("/broken-off", FetchError::Http),
        ("/no-http", FetchError::Http),
    ] {
        assert_eq!(attempt(&issuer.uri(path), PATIENCE).await, Err(expected), "{path}");
    }
    let short = Duration::from_millis(300);
    for path in ["/silent", "/half"] {
        assert_eq!(
            attempt(&issuer.uri(path), short).await,
            Err(FetchError::Timeout(short)),
            "{path}"
        );
    }
}

#[tokio::test]
async fn nothing_is_unpacked_and_nothing_is_repeated() {
    let issuer = Issuer::start(|path| match path {
        // The head of a gzip stream; it is never looked at.
        "/bomb" => with_head("200 OK", "content-encoding: gzip\r\n", "\u{1f}\u{8}\0\0"),
        "/secret" => ok(r#"{"Code":"Success","SecretAccessKey":"hunter2"}"#),
        "/symmetric" => ok(r#"{"keys":[{"kty":"oct","k":"aHVudGVyMg"}]}"#),
        _ => with_head("403 Forbidden", "", "hunter2"),
    })
    .await;
    for (path, expected) in [
        ("/bomb", FetchError::Compressed),
        ("/secret", FetchError::Keys(KeySetError::NotAKeySet)),
        ("/symmetric", FetchError::Keys(KeySetError::NoKey)),
        ("/forbidden", FetchError::Status(403)),
    ] {
        let error = attempt(&issuer.uri(path), PATIENCE).await.unwrap_err();
        assert_eq!(error, expected, "{path}");
        assert!(!error.to_string().contains("hunter2"), "{error}");
    }
}

#[tokio::test]
async fn odd_urls_are_refused() {
    for url in [
        "",
        "keys",
        "ftp://x/keys",
        "file:///etc/passwd",
        "http://",
        "http://user:pass@x/",
        "http://x:/",
        "http://x:99999/",
        "gopher://x:70/",
    ] {
        let got = attempt(&KeySource::Uri(url.into()), PATIENCE).await;
        assert!(matches!(got, Err(FetchError::Url(_))), "{url}: {got:?}");
    }
}
