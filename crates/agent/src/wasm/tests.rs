//! Modules from servers of their own, archives, names of images.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use super::archive::{is_module, plugin, unpack};
use super::cache::{Cache, Order, Policy, digest};
use super::config::WasmConfig;
use super::registry::{Challenge, Reference};

/// The smallest module: magic number and version.
const MODULE: &[u8] = b"\0asm\x01\0\0\0";

fn tarred(path: &str, content: &[u8]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_ustar();
    header.set_size(content.len() as u64);
    header.set_mode(0o644);
    builder.append_data(&mut header, path, content).unwrap();
    builder.into_inner().unwrap()
}

fn zipped(content: &[u8]) -> Vec<u8> {
    use std::io::Write as _;
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(content).unwrap();
    encoder.finish().unwrap()
}

#[test]
fn a_module_is_found_in_archives() {
    assert!(is_module(MODULE) && !is_module(b"\0asm"));
    for packed in [
        MODULE.to_vec(),
        zipped(MODULE),
        tarred("x", MODULE),
        zipped(&tarred("x", MODULE)),
    ] {
        assert_eq!(unpack(packed, 8192).unwrap(), MODULE);
    }
    assert!(unpack(b"<html>".to_vec(), 1024).is_err());
    assert_eq!(plugin(&zipped(&tarred("./plugin.wasm", MODULE)), 4096).unwrap(), MODULE);
    let other = plugin(&tarred("other.wasm", MODULE), 4096).unwrap_err();
    assert!(other.to_string().contains("plugin.wasm"), "{other}");
}

#[test]
fn what_unfolds_to_too_much_is_refused() {
    let bomb = zipped(&vec![0; 1 << 20]);
    assert!(bomb.len() < 4096);
    assert!(unpack(bomb, 1 << 16).is_err());
}

#[test]
fn images_are_named_as_docker_names_them() {
    let parse = |text: &str| Reference::parse(text).unwrap();
    assert_eq!(parse("plugin").name(), "index.docker.io/library/plugin");
    assert_eq!(parse("docker.io/me/plugin:1").name(), "index.docker.io/me/plugin");
    let local = parse("localhost:5000/a/b:v2");
    assert_eq!(
        (local.name().as_str(), local.tag.as_str()),
        ("localhost:5000/a/b", "v2")
    );
    let pinned = parse("ghcr.io/a/b:1@sha256:00");
    assert_eq!(pinned.digest.as_deref(), Some("sha256:00"));
    assert!(Reference::parse("ghcr.io/").is_err());
}

#[test]
fn challenges_are_read() {
    let bearer = Challenge::parse(r#"Bearer realm="https://auth.io/token",service="reg", scope="repository:a,b:pull""#);
    let bearer = bearer.unwrap();
    assert_eq!(bearer.scheme, "Bearer");
    assert_eq!(bearer.parameters["realm"], "https://auth.io/token");
    assert_eq!(bearer.parameters["service"], "reg");
    assert_eq!(bearer.parameters["scope"], "repository:a,b:pull");
    assert_eq!(Challenge::parse("Basic").unwrap().scheme, "Basic");
}

#[test]
fn digests_are_hexadecimal() {
    assert_eq!(
        digest(b""),
        "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    );
}

/// A server that answers every request with the module, and counts them.
async fn server() -> (SocketAddr, Arc<AtomicUsize>, JoinSet<()>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let hits = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&hits);
    let mut task = JoinSet::new();
    task.spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            counted.fetch_add(1, Ordering::SeqCst);
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                match stream.read_u8().await {
                    Ok(byte) => head.push(byte),
                    Err(_) => break,
                }
            }
            let answer = format!(
                "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
                MODULE.len()
            );
            let _ = stream.write_all(answer.as_bytes()).await;
            let _ = stream.write_all(MODULE).await;
        }
    });
    (address, hits, task)
}

fn config(folder: &Path) -> WasmConfig {
    WasmConfig {
        folder: folder.join("wasm"),
        insecure: Default::default(),
        expiry: Duration::from_secs(3600),
        request_timeout: Duration::from_secs(10),
        attempts: 1,
        largest: 1024,
        blocked: Vec::new(),
    }
}

fn order(address: SocketAddr, policy: Policy, version: &str) -> Order {
    Order {
        url: format!("http://{address}/a.wasm"),
        sha256: String::new(),
        resource: "x".into(),
        version: version.into(),
        policy,
        secret: None,
        timeout: Duration::from_secs(10),
    }
}

#[tokio::test]
async fn a_module_is_fetched_again_when_its_policy_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let (address, hits, _task) = server().await;
    for (policy, versions, expected) in [
        (Policy::IfNotPresent, ["1", "2", "2"], 1),
        (Policy::Unspecified, ["1", "2", "2"], 1),
        (Policy::Always, ["1", "2", "2"], 2),
    ] {
        hits.store(0, Ordering::SeqCst);
        let cache = Cache::new(config(folder.path()));
        for version in versions {
            let path = cache.get(&order(address, policy, version)).await.unwrap();
            assert_eq!(std::fs::read(path).unwrap(), MODULE);
        }
        assert_eq!(hits.load(Ordering::SeqCst), expected, "{policy:?}");
    }
    // What nobody has used for long is gone, and fetched anew when it is wanted.
    let cache = Cache::new(WasmConfig {
        expiry: Duration::ZERO,
        ..config(folder.path())
    });
    hits.store(0, Ordering::SeqCst);
    for _ in 0..2 {
        cache.get(&order(address, Policy::IfNotPresent, "1")).await.unwrap();
    }
    assert_eq!(hits.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn addresses_of_metadata_services_and_forbidden_ones_are_not_asked() {
    let folder = tempfile::tempdir().unwrap();
    let (address, hits, _task) = server().await;
    let blocked = WasmConfig {
        blocked: vec!["127.0.0.0/8".parse().unwrap()],
        ..config(folder.path())
    };
    for address in [
        "169.254.169.254",
        "fe80::1",
        "100.100.100.200",
        "fd00:ec2::254",
        "127.0.0.1",
    ] {
        assert!(blocked.is_blocked(address.parse().unwrap()), "{address}");
    }
    assert!(!blocked.is_blocked("10.0.0.1".parse().unwrap()));
    let refused = Cache::new(blocked)
        .get(&order(address, Policy::Always, "1"))
        .await
        .unwrap_err();
    assert!(
        format!("{refused:#}").contains("must not be fetched from"),
        "{refused:#}"
    );
    assert_eq!(hits.load(Ordering::SeqCst), 0);
}
