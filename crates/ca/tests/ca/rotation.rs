//! A root is replaced while the mesh runs: nobody is ever without trust.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use lateen_ca::pki::{Chain, PrivateKey};
use lateen_ca::{CertificateAuthority, RotationStage};
use prometheus::Registry;

use crate::support::*;

fn trusted(mesh: &Mesh, chain: &Chain) -> bool {
    let bundle = Arc::clone(&mesh.authority.trust_bundle().borrow());
    bundle.verify(chain, mesh.clock.now()).is_ok()
}

#[tokio::test]
async fn both_roots_are_trusted_from_announcement_to_retirement() {
    let served = Served::new().await;
    let mesh = &served.mesh;
    let mut watch = mesh.authority.trust_bundle();
    let old_bundle = Arc::clone(&watch.borrow_and_update());
    let old = mesh.workload("cart");
    let renew = async |workload: &(PrivateKey, Chain)| {
        let key = PrivateKey::generate().unwrap();
        let csr = csr(&key, "cart");
        let mut client = served
            .connect(Some(workload))
            .await
            .map_err(|error| error.to_string())?;
        let response = client.create(&csr, None).await.map_err(|error| error.to_string())?;
        Ok::<_, String>((key, read(&response).0, read(&response).1))
    };

    mesh.authority.rotate_root().unwrap();
    assert!(matches!(mesh.authority.rotation(), RotationStage::Announced { .. }));
    assert!(watch.has_changed().unwrap());
    assert_eq!(watch.borrow_and_update().roots().len(), 2);
    let (_, chain, roots) = renew(&old).await.unwrap();
    assert_eq!(roots.roots().len(), 2, "answers distribute both roots");
    assert!(
        old_bundle.verify(&chain, mesh.clock.now()).is_ok(),
        "the old root still signs"
    );
    assert!(mesh.authority.rotate_root().is_err(), "one rotation at a time");

    mesh.authority.switch_root().unwrap();
    assert!(matches!(mesh.authority.rotation(), RotationStage::Switched { .. }));
    // Over TLS: the server shows a certificate of the new root, the client one of the old.
    let (key, chain, _) = renew(&old).await.unwrap();
    assert!(
        old_bundle.verify(&chain, mesh.clock.now()).is_err(),
        "the new root signs"
    );
    let new = (key, chain);
    assert!(trusted(mesh, &old.1) && trusted(mesh, &new.1));
    assert!(renew(&new).await.is_ok());

    mesh.authority.retire_old_roots().unwrap();
    assert_eq!(mesh.authority.rotation(), RotationStage::Stable);
    assert_eq!(watch.borrow_and_update().roots().len(), 1);
    assert!(!trusted(mesh, &old.1) && trusted(mesh, &new.1));
    assert!(renew(&old).await.is_err(), "the verifier of the running server follows");
    assert!(renew(&new).await.is_ok());
    assert!(mesh.authority.retire_old_roots().is_err());
    assert!(mesh.authority.switch_root().is_err());
}

#[test]
fn time_alone_takes_a_root_through_its_replacement() {
    let mesh = Mesh::new();
    let first = mesh.authority.trust_bundle().borrow().roots()[0].clone();
    mesh.clock.advance(2900 * DAY);
    mesh.authority.tick();
    assert_eq!(
        mesh.authority.rotation(),
        RotationStage::Stable,
        "20 % of the life is not reached"
    );
    mesh.clock.advance(30 * DAY);
    mesh.authority.tick();
    assert!(matches!(mesh.authority.rotation(), RotationStage::Announced { .. }));
    mesh.authority.tick();
    assert!(
        matches!(mesh.authority.rotation(), RotationStage::Announced { .. }),
        "it is still being distributed"
    );
    mesh.clock.advance(2 * DAY);
    mesh.authority.tick();
    assert!(matches!(mesh.authority.rotation(), RotationStage::Switched { .. }));
    let (_, last_of_old_era) = mesh.workload("cart");
    mesh.clock.advance(89 * DAY);
    mesh.authority.tick();
    assert!(mesh.authority.trust_bundle().borrow().roots().contains(&first));
    mesh.clock.advance(2 * DAY);
    mesh.authority.tick();
    assert_eq!(mesh.authority.rotation(), RotationStage::Stable);
    assert!(!mesh.authority.trust_bundle().borrow().roots().contains(&first));
    assert!(!trusted(&mesh, &last_of_old_era), "it has ended by itself");
    assert!(trusted(&mesh, &mesh.workload("cart").1));
}

#[test]
fn a_root_found_expired_is_replaced_at_the_start() {
    let mesh = Mesh::new();
    mesh.clock.advance(4000 * DAY);
    let again = reopen(&mesh);
    assert_eq!(again.rotation(), RotationStage::Stable);
    let bundle = Arc::clone(&again.trust_bundle().borrow());
    assert_eq!(bundle.roots().len(), 1);
    assert!(bundle.roots()[0].validity().contains(mesh.clock.now()));
}

#[test]
fn the_serving_certificate_renews_itself() {
    let mesh = Mesh::new();
    let first = mesh.authority.serving().chain();
    mesh.clock.advance(10 * HOUR);
    mesh.authority.tick();
    assert_eq!(mesh.authority.serving().chain(), first);
    mesh.clock.advance(3 * HOUR);
    mesh.authority.tick();
    let renewed = mesh.authority.serving().chain();
    assert_ne!(renewed, first);
    assert!(renewed.leaf().validity().contains(mesh.clock.now() + 10 * HOUR));
}

fn reopen(mesh: &Mesh) -> CertificateAuthority {
    CertificateAuthority::open(config(&mesh.directory), mesh.clock.clock(), &Registry::new()).unwrap()
}

fn bundle_of(authority: &CertificateAuthority) -> String {
    authority.bundle_pem()
}

#[test]
fn every_stage_is_found_again_after_a_restart() {
    let mesh = Mesh::new();
    let stages: [fn(&CertificateAuthority); 3] = [
        |ca| ca.rotate_root().unwrap(),
        |ca| ca.switch_root().unwrap(),
        |ca| ca.retire_old_roots().unwrap(),
    ];
    for step in stages {
        step(&mesh.authority);
        let again = reopen(&mesh);
        assert_eq!(again.rotation().name(), mesh.authority.rotation().name());
        assert_eq!(bundle_of(&again), bundle_of(&mesh.authority));
        assert_eq!(again.serving().chain().certificates().len(), 1);
    }
    let files: Vec<_> = fs::read_dir(mesh.directory.path().join("ca")).unwrap().collect();
    assert_eq!(files.len(), 3, "{files:?}");
}

/// The process ends between two of the file operations of a step: every such state leads to a working CA whose trust
/// covers both roots.
#[test]
fn a_rotation_cut_short_is_carried_on() {
    let cut = |prepare: &dyn Fn(&Path, &Mesh)| {
        let mesh = Mesh::new();
        let (_, old) = mesh.workload("cart");
        mesh.authority.rotate_root().unwrap();
        prepare(&mesh.directory.path().join("ca"), &mesh);
        let again = reopen(&mesh);
        let bundle = Arc::clone(&again.trust_bundle().borrow());
        assert!(
            bundle.verify(&old, mesh.clock.now()).is_ok(),
            "the old root is still trusted"
        );
        assert!(
            bundle.verify_path(&again.serving().chain(), mesh.clock.now()).is_ok(),
            "what is signed is trusted"
        );
        again.rotation().name()
    };
    let remove = |directory: &Path, file: &str| fs::remove_file(directory.join(file)).unwrap();
    let rename = |directory: &Path, from: &str, to: &str| fs::rename(directory.join(from), directory.join(to)).unwrap();
    // Announcing: key and certificate are there, the bundle or the record is not.
    assert_eq!(cut(&|ca, _| remove(ca, "rotation.json")), "announced");
    let old_bundle_only = |ca: &Path, _: &Mesh| {
        remove(ca, "rotation.json");
        fs::copy(ca.join("ca-cert.pem"), ca.join("root-cert.pem")).unwrap();
    };
    assert_eq!(cut(&old_bundle_only), "announced");
    let key_only = |ca: &Path, _: &Mesh| {
        remove(ca, "rotation.json");
        remove(ca, "next-ca-cert.pem");
        fs::copy(ca.join("ca-cert.pem"), ca.join("root-cert.pem")).unwrap();
    };
    assert_eq!(cut(&key_only), "stable");
    // Switching: the key is exchanged, or both are, and the record is the announcement's.
    assert_eq!(cut(&|ca, _| rename(ca, "next-ca-key.pem", "ca-key.pem")), "switched");
    let both = |ca: &Path, _: &Mesh| {
        rename(ca, "next-ca-key.pem", "ca-key.pem");
        rename(ca, "next-ca-cert.pem", "ca-cert.pem");
    };
    assert_eq!(cut(&both), "switched");
    // A record that does not read costs time, not trust.
    assert_eq!(
        cut(&|ca, _| fs::write(ca.join("rotation.json"), "{").unwrap()),
        "announced"
    );
}
