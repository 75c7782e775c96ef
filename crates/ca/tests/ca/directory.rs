//! The files of a CA: made once, found again, named when broken, taken over when changed.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use lateen_ca::pki::Csr;
use lateen_ca::{CaConfig, CertificateAuthority, RootSource, TokenIssuer, control_plane_names};
use lateen_names::Namespace;
use prometheus::Registry;

use crate::support::*;

const CACERTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../pki/tests/fixtures/cacerts");
const FILES: [&str; 4] = ["ca-cert.pem", "ca-key.pem", "root-cert.pem", "cert-chain.pem"];

fn open(source: RootSource) -> Result<CertificateAuthority, lateen_ca::CaError> {
    CertificateAuthority::open(
        CaConfig::new(trust_domain(), source),
        TestClock::new().clock(),
        &Registry::new(),
    )
}

fn self_signed(directory: &Path) -> Result<CertificateAuthority, lateen_ca::CaError> {
    open(RootSource::SelfSigned(directory.to_owned()))
}

#[test]
fn a_root_is_made_once_and_found_again() {
    let directory = tempfile::tempdir().unwrap();
    let ca = directory.path().join("a/b");
    let first = self_signed(&ca).unwrap().bundle_pem();
    assert_eq!(self_signed(&ca).unwrap().bundle_pem(), first);
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&ca), 0o700);
    for file in ["ca-cert.pem", "ca-key.pem", "root-cert.pem"] {
        assert_eq!(mode(&ca.join(file)), 0o600, "{file}");
    }
    let names: Vec<_> = fs::read_dir(&ca)
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert_eq!(names.len(), 3, "nothing temporary is left: {names:?}");
}

#[test]
fn of_many_first_runs_at_once_all_get_the_same_root() {
    for _ in 0..8 {
        let directory = tempfile::tempdir().unwrap();
        let bundles: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8)
                .map(|_| {
                    scope.spawn(|| {
                        let authority = self_signed(directory.path()).unwrap();
                        let tokens = TokenIssuer::open_or_create(directory.path()).unwrap();
                        // Each signs what all trust.
                        let key = lateen_ca::pki::PrivateKey::generate().unwrap();
                        let csr = Csr::create(&key, &identity("cart")).unwrap();
                        let issued = authority.issue(&csr, &identity("cart"), None).unwrap();
                        let bundle = authority.trust_bundle().borrow().clone();
                        bundle.verify(&issued.chain, TestClock::new().now()).unwrap();
                        (authority.bundle_pem(), tokens.jwks())
                    })
                })
                .collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert!(bundles.iter().all(|bundle| *bundle == bundles[0]));
    }
}

#[test]
fn broken_files_end_the_start_with_their_name() {
    let fresh = || {
        let directory = tempfile::tempdir().unwrap();
        self_signed(directory.path()).unwrap();
        directory
    };
    let error = |directory: &Path| self_signed(directory).err().unwrap().to_string();

    let directory = fresh();
    fs::write(directory.path().join("ca-key.pem"), "").unwrap();
    let message = error(directory.path());
    assert!(message.contains("ca-key.pem: no private key found"), "{message}");

    let directory = fresh();
    fs::remove_file(directory.path().join("ca-key.pem")).unwrap();
    let message = error(directory.path());
    assert!(
        message.contains("ca-key.pem is missing while ca-cert.pem is there"),
        "{message}"
    );
    assert!(!directory.path().join("ca-key.pem").exists(), "nothing is made over it");

    let directory = fresh();
    fs::write(directory.path().join("ca-cert.pem"), "junk").unwrap();
    let message = error(directory.path());
    assert!(message.contains("ca-cert.pem: no certificate found"), "{message}");

    let (directory, other) = (fresh(), fresh());
    fs::copy(other.path().join("ca-key.pem"), directory.path().join("ca-key.pem")).unwrap();
    let message = error(directory.path());
    assert!(
        message.contains("ca-key.pem: the key is not the one that ca-cert.pem certifies"),
        "{message}"
    );

    let directory = fresh();
    fs::write(directory.path().join("root-cert.pem"), [0xff; 100]).unwrap();
    let message = error(directory.path());
    assert!(message.contains("root-cert.pem"), "{message}");

    let directory = tempfile::tempdir().unwrap();
    fs::create_dir(directory.path().join("ca-key.pem")).unwrap();
    let message = error(directory.path());
    assert!(
        message.contains("cannot read") && message.contains("ca-key.pem"),
        "{message}"
    );

    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("file");
    fs::write(&file, "").unwrap();
    let message = error(&file);
    assert!(
        message.contains("cannot make the directory") && message.contains("/file"),
        "{message}"
    );
    let message = error(&file.join("below"));
    assert!(message.contains("/file/below"), "{message}");

    let message = open(RootSource::PluggedIn(directory.path().to_owned()))
        .err()
        .unwrap()
        .to_string();
    assert!(
        message.contains("cannot read") && message.contains("ca-cert.pem"),
        "{message}"
    );
}

/// `/proc` refuses every new file, whoever asks: as a full or read-only disk does.
#[test]
fn a_directory_that_takes_no_files_is_named() {
    let message = self_signed(Path::new("/proc/self")).err().unwrap().to_string();
    assert!(message.contains("cannot write /proc/self/ca-key.pem"), "{message}");
}

#[test]
fn changed_files_of_a_plugged_in_ca_are_taken_over_and_broken_ones_are_not() {
    let directory = tempfile::tempdir().unwrap();
    let cacerts = directory.path().join("cacerts");
    fs::create_dir(&cacerts).unwrap();
    for file in FILES {
        fs::copy(format!("{CACERTS}/{file}"), cacerts.join(file)).unwrap();
    }
    let mesh = Mesh::with(
        tempfile::tempdir().unwrap(),
        CaConfig::new(trust_domain(), RootSource::PluggedIn(cacerts.clone())),
    );
    let mut watch = mesh.authority.trust_bundle();
    let before = mesh.authority.bundle_pem();
    let served_before = mesh.authority.serving().chain();
    mesh.authority.tick();
    assert!(!watch.has_changed().unwrap(), "equal files change nothing");

    fs::write(cacerts.join("ca-key.pem"), "broken").unwrap();
    mesh.authority.tick();
    assert_eq!(mesh.authority.bundle_pem(), before);
    let (_, chain) = mesh.workload("cart");
    assert_eq!(chain.certificates().len(), 2, "the last good CA still signs");

    // Another CA: a self-signed root, whose chain file is absent.
    let other = Mesh::new();
    for file in ["ca-cert.pem", "ca-key.pem", "root-cert.pem"] {
        fs::copy(other.directory.path().join("ca").join(file), cacerts.join(file)).unwrap();
    }
    fs::remove_file(cacerts.join("cert-chain.pem")).unwrap();
    mesh.authority.tick();
    assert!(watch.has_changed().unwrap());
    assert_eq!(watch.borrow_and_update().pem(), other.authority.bundle_pem());
    let (_, chain) = mesh.workload("cart");
    assert_eq!(
        other
            .authority
            .trust_bundle()
            .borrow()
            .verify(&chain, mesh.clock.now())
            .unwrap(),
        identity("cart")
    );
    let served = mesh.authority.serving().chain();
    assert_ne!(
        served, served_before,
        "the control plane serves with a certificate of the new CA"
    );
    assert!(
        other
            .authority
            .trust_bundle()
            .borrow()
            .verify_path(&served, mesh.clock.now())
            .is_ok()
    );
    let refused = mesh.authority.rotate_root().unwrap_err().to_string();
    assert!(refused.contains("replace it there"), "{refused}");
}

#[test]
fn the_control_plane_is_known_by_its_services() {
    let names = control_plane_names(&Namespace::new("istio-system").unwrap(), Some("canary"));
    for name in [
        "istiod.istio-system.svc",
        "istiod-canary.istio-system.svc",
        "istio-pilot.istio-system.svc",
    ] {
        assert!(names.iter().any(|known| known.as_str() == name), "{name}");
    }
    assert_eq!(
        control_plane_names(&Namespace::new("x").unwrap(), Some("default")).len(),
        4
    );
    let mesh = Mesh::new();
    assert!(
        mesh.authority
            .serving()
            .chain()
            .leaf()
            .dns_names()
            .contains(&"istiod.istio-system.svc".to_owned())
    );
}
