//! Certificates that are revoked before they end.

use std::fs;
use std::path::Path;

use lateen_ca::pki::PrivateKey;
use lateen_ca::{CaConfig, RootSource};
use rcgen::{
    CertificateRevocationListParams, Issuer, KeyIdMethod, KeyPair, RevocationReason, RevokedCertParams, SerialNumber,
};
use tonic::Code;

use crate::support::*;

/// A list of the CA in this directory. It has been over for long: what it revokes stays revoked.
fn list(ca: &Path, revoked: &[&str]) -> String {
    let pem = |file: &str| fs::read_to_string(ca.join(file)).unwrap();
    let key = KeyPair::from_pem(&pem("ca-key.pem")).unwrap();
    let issuer = Issuer::from_ca_cert_pem(&pem("ca-cert.pem"), key).unwrap();
    let entries = revoked.iter().map(|serial| {
        let digits: Vec<char> = serial.chars().collect();
        let bytes: Vec<u8> = digits
            .chunks(2)
            .map(|pair| u8::from_str_radix(&pair.iter().collect::<String>(), 16).unwrap())
            .collect();
        RevokedCertParams {
            serial_number: SerialNumber::from_slice(&bytes),
            revocation_time: rcgen::date_time_ymd(2024, 1, 1),
            reason_code: Some(RevocationReason::KeyCompromise),
            invalidity_date: None,
        }
    });
    let params = CertificateRevocationListParams {
        this_update: rcgen::date_time_ymd(2024, 1, 1),
        next_update: rcgen::date_time_ymd(2024, 2, 1),
        crl_number: SerialNumber::from(1_u64),
        issuing_distribution_point: None,
        revoked_certs: entries.collect(),
        key_identifier_method: KeyIdMethod::Sha256,
    };
    params.signed_by(&issuer).unwrap().pem().unwrap()
}

#[tokio::test]
async fn what_the_list_of_the_ca_revokes_opens_nothing_any_more() {
    let directory = tempfile::tempdir().unwrap();
    let other = Mesh::new();
    let cacerts = directory.path().join("cacerts");
    fs::create_dir(&cacerts).unwrap();
    for file in ["ca-cert.pem", "ca-key.pem", "root-cert.pem"] {
        fs::copy(other.directory.path().join("ca").join(file), cacerts.join(file)).unwrap();
    }
    let config = CaConfig::new(trust_domain(), RootSource::PluggedIn(cacerts.clone()));
    let served = Served::of(Mesh::with(directory, config)).await;
    let authority = &served.mesh.authority;
    let (good, lost) = (served.mesh.workload("cart"), served.mesh.workload("cart"));
    let serial = lost.1.leaf().serial().to_owned();
    let key = PrivateKey::generate().unwrap();
    let request = csr(&key, "cart");
    let mut open = served.connect(Some(&lost)).await.unwrap();
    open.create(&request, None).await.unwrap();
    let roots = authority.trust_bundle();
    assert_eq!(roots.borrow().revoked_pem(), "");

    let file = cacerts.join("ca-crl.pem");
    let lists = list(&cacerts, &[&serial]);
    fs::write(&file, &lists).unwrap();
    authority.tick();
    assert!(roots.has_changed().unwrap(), "whoever distributes the list is told");
    let refused = async || {
        // On the connection that was open before, and on a new one.
        let mut open = served.connect(Some(&good)).await.unwrap();
        open.create(&request, None).await.unwrap();
        if let Ok(mut client) = served.connect(Some(&lost)).await {
            client.create(&request, None).await.unwrap_err();
        }
    };
    refused().await;
    let status = open.create(&request, None).await.unwrap_err();
    assert_eq!(status.code(), Code::Unauthenticated);
    assert!(status.message().contains("revoked"), "{status}");

    // What cannot be read, or would leave nothing trusted, does not count.
    for broken in ["junk", "-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n"] {
        fs::write(&file, broken).unwrap();
        authority.tick();
        refused().await;
    }
    assert_eq!(
        list(&cacerts, &[&serial]).lines().next(),
        roots.borrow().revoked_pem().lines().next()
    );
    // A list that another CA of the same name has signed.
    let forger = Mesh::new();
    fs::write(&file, list(&forger.directory.path().join("ca"), &[])).unwrap();
    authority.tick();
    refused().await;

    fs::remove_file(&file).unwrap();
    authority.tick();
    let mut again = served.connect(Some(&lost)).await.unwrap();
    again.create(&request, None).await.unwrap();
}
