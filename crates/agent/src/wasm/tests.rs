use super::archive::{is_module, plugin, unpack};
use super::cache::digest;
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
