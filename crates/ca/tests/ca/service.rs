//! The certificate service over gRPC and TLS, friendly callers and hostile ones.

use std::sync::Arc;
use std::time::Duration;

use lateen_ca::pki::{CertificateDer, Chain, Csr, PrivateKey, TrustBundle};
use lateen_ca::{CaConfig, RootSource, TOKEN_AUDIENCE, TokenIssuer};
use lateen_names::{Namespace, ServiceAccount};
use lateen_proto::istio::v1::auth::IstioCertificateRequest;
use lateen_proto::{Struct, Value, value::Kind};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tonic::{Code, Status};

use crate::support::*;

const SMUGGLER: &str = include_str!("../../../pki/tests/fixtures/rsa.csr.pem");

#[tokio::test]
async fn a_token_gets_a_certificate() {
    let served = Served::new().await;
    let key = PrivateKey::generate().unwrap();
    let token = served.mesh.token("cart");
    let response = served
        .client()
        .await
        .create(&csr(&key, "cart"), Some(&token))
        .await
        .unwrap();
    assert_eq!(response.cert_chain.len(), 2, "the leaf and the roots");
    let (chain, roots) = read(&response);
    assert_eq!(chain.leaf().spki(), key.public_key().to_spki());
    assert_eq!(roots.verify(&chain, served.mesh.clock.now()).unwrap(), identity("cart"));
    let length = chain.leaf().validity().length();
    assert!(
        length >= DAY && length <= DAY + Duration::from_secs(121),
        "a day and the grace, not {length:?}"
    );
    assert_eq!(served.mesh.metric("citadel_server_csr_count"), 1.0);
    assert_eq!(served.mesh.metric("citadel_server_success_cert_issuance_count"), 1.0);
    let left = served.mesh.metric("citadel_server_root_cert_expiry_seconds");
    assert!((3649.0 * 86400.0..=3650.0 * 86400.0).contains(&left), "{left}");
}

#[tokio::test]
async fn a_certificate_renews_itself_without_a_token() {
    let served = Served::new().await;
    let workload = served.mesh.workload("cart");
    let mut client = served.connect(Some(&workload)).await.unwrap();
    let key = PrivateKey::generate().unwrap();
    let (chain, roots) = read(&client.create(&csr(&key, "cart"), None).await.unwrap());
    assert_eq!(roots.verify(&chain, served.mesh.clock.now()).unwrap(), identity("cart"));
    assert_ne!(chain.leaf().serial(), workload.1.leaf().serial());
}

#[tokio::test]
async fn names_in_a_request_are_ignored() {
    let served = Served::new().await;
    let token = served.mesh.token("cart");
    // Asks for `spiffe://cluster.local/ns/kube-system/sa/admin`, `istiod.istio-system.svc` and to be a CA.
    let response = served.client().await.create(SMUGGLER, Some(&token)).await.unwrap();
    let (chain, _) = read(&response);
    assert_eq!(chain.leaf().spiffe_id().unwrap(), identity("cart"));
    assert!(chain.leaf().dns_names().is_empty());
    assert!(!chain.leaf().is_ca());
    assert_eq!(chain.leaf().subject(), "");
}

#[tokio::test]
async fn bad_requests_are_the_callers_error_and_the_next_one_is_served() {
    let served = Served::new().await;
    let token = served.mesh.token("cart");
    let mut client = served.client().await;
    let key = PrivateKey::generate().unwrap();
    let good = csr(&key, "cart");
    let long = format!("{}{good}", "#".repeat(Csr::MAX_BYTES));
    let cases = [
        ("", "exactly one PEM block"),
        ("garbage \u{0} \u{fffd}", "exactly one PEM block"),
        (
            "-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n",
            "malformed",
        ),
        (long.as_str(), "at most 16384 are read"),
        (include_str!("../../../pki/tests/fixtures/rsa1024.csr.pem"), "1024 bits"),
        (
            include_str!("../../../pki/tests/fixtures/sha1.csr.pem"),
            "SHA-256 or stronger",
        ),
    ];
    for (csr, reason) in cases {
        let status = client.create(csr, Some(&token)).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{status}");
        assert!(status.message().contains(reason), "{status}");
        assert!(
            status.message().contains("spiffe://cluster.local/ns/shop/sa/cart"),
            "names the caller: {status}"
        );
    }
    let status = client.create(&"x".repeat(1 << 20), Some(&token)).await.unwrap_err();
    assert_eq!(status.code(), Code::OutOfRange, "{status}");
    assert_eq!(
        served.mesh.metric("citadel_server_csr_parsing_err_count"),
        cases.len() as f64
    );
    assert!(client.create(&good, Some(&token)).await.is_ok());
}

async fn refused(served: &Served, token: Option<&str>) -> Status {
    let key = PrivateKey::generate().unwrap();
    served
        .client()
        .await
        .create(&csr(&key, "cart"), token)
        .await
        .unwrap_err()
}

#[tokio::test]
async fn callers_without_proof_are_told_why() {
    let served = Served::new().await;
    let mesh = &served.mesh;
    let (namespace, account) = (Namespace::new("shop").unwrap(), ServiceAccount::new("cart").unwrap());
    let hours_ago = mesh.clock.now() - 5 * HOUR;
    let expired = mesh.tokens.issue(&namespace, &account, HOUR, hours_ago).unwrap();
    let for_others = mesh
        .tokens
        .issue_for(&["vault"], &namespace, &account, HOUR, mesh.clock.now())
        .unwrap();
    let elsewhere = tempfile::tempdir().unwrap();
    let stranger = TokenIssuer::open_or_create(elsewhere.path()).unwrap();
    let forged = stranger.issue(&namespace, &account, HOUR, mesh.clock.now()).unwrap();
    let stranger = stranger.with_issuer("https://elsewhere");
    let foreign = stranger.issue(&namespace, &account, HOUR, mesh.clock.now()).unwrap();
    let cases = [
        (None, "no proof of identity"),
        (Some("garbage".to_owned()), "not a JWT"),
        (Some(expired), "expired 14400 s ago"),
        (Some(for_others), "audience is [\"vault\"], not [\"istio-ca\"]"),
        (Some(forged), "has no ES256 key"),
        (Some(foreign), "issuer `https://elsewhere` is not configured"),
        (
            Some(crate::tokens::unsigned(TOKEN_AUDIENCE, mesh.clock.now())),
            "algorithm is `none`",
        ),
    ];
    let count = cases.len();
    for (token, reason) in cases {
        let status = refused(&served, token.as_deref()).await;
        assert_eq!(status.code(), Code::Unauthenticated, "{status}");
        assert!(status.message().contains(reason), "expected {reason:?} in {status}");
    }
    assert_eq!(mesh.metric("citadel_server_authentication_failure_count"), count as f64);
    assert_eq!(mesh.metric("citadel_server_success_cert_issuance_count"), 0.0);
}

#[tokio::test]
async fn a_certificate_of_another_root_ends_at_the_handshake() {
    let served = Served::new().await;
    let stranger = Mesh::new().workload("cart");
    let key = PrivateKey::generate().unwrap();
    // TLS 1.3 tells a client of its refused certificate only when it first reads.
    let outcome = match served.connect(Some(&stranger)).await {
        Ok(mut client) => client
            .create(&csr(&key, "cart"), None)
            .await
            .map(drop)
            .map_err(|error| error.to_string()),
        Err(error) => Err(error.to_string()),
    };
    assert!(outcome.is_err());
    assert_eq!(served.mesh.metric("citadel_server_csr_count"), 0.0);
    // Others are served.
    let token = served.mesh.token("cart");
    assert!(
        served
            .client()
            .await
            .create(&csr(&key, "cart"), Some(&token))
            .await
            .is_ok()
    );
}

#[tokio::test]
async fn the_duration_asked_for_is_bounded() {
    let served = Served::new().await;
    let token = served.mesh.token("cart");
    let mut client = served.client().await;
    let csr = csr(&PrivateKey::generate().unwrap(), "cart");
    let grace = Duration::from_secs(120);
    for (asked, expected) in [
        (0, DAY),
        (-5, DAY),
        (3600, HOUR),
        (i64::MAX, 90 * DAY),
        (100 * 86400, 90 * DAY),
    ] {
        let request = IstioCertificateRequest {
            csr: csr.clone(),
            validity_duration: asked,
            metadata: None,
        };
        let (chain, _) = read(&client.send(request, Some(&token)).await.unwrap());
        let length = chain.leaf().validity().length();
        assert!(
            length.abs_diff(expected + grace) <= Duration::from_secs(1),
            "asked {asked}, got {length:?}"
        );
    }
}

#[tokio::test]
async fn nobody_gets_the_identity_of_another() {
    let served = Served::new().await;
    let token = served.mesh.token("cart");
    let csr = csr(&PrivateKey::generate().unwrap(), "cart");
    let ask = |who: &str| IstioCertificateRequest {
        csr: csr.clone(),
        validity_duration: 0,
        metadata: Some(Struct {
            fields: [(
                "ImpersonatedIdentity".to_owned(),
                Value {
                    kind: Some(Kind::StringValue(who.to_owned())),
                },
            )]
            .into(),
        }),
    };
    let mut client = served.client().await;
    let other = ask("spiffe://cluster.local/ns/shop/sa/admin");
    let status = client.send(other, Some(&token)).await.unwrap_err();
    assert_eq!(status.code(), Code::PermissionDenied, "{status}");
    assert!(status.message().contains("sa/admin"), "{status}");
    let own = client
        .send(ask("spiffe://cluster.local/ns/shop/sa/cart"), Some(&token))
        .await
        .unwrap();
    assert_eq!(read(&own).0.leaf().spiffe_id().unwrap(), identity("cart"));
}

fn root_store(bundle: &TrustBundle) -> Arc<RootCertStore> {
    let mut store = RootCertStore::empty();
    for root in bundle.roots() {
        store.add(root.der().clone()).unwrap();
    }
    Arc::new(store)
}

/// Two workloads talk over mutual TLS with rustls' own verifiers on both sides. The server verifies the client fully;
/// the client verifies the server's chain for `server_name`.
async fn mutual_tls(
    server: (PrivateKey, Chain),
    client: (PrivateKey, Chain),
    bundle: &TrustBundle,
    server_name: &'static str,
) -> std::io::Result<Vec<CertificateDer<'static>>> {
    install_provider();
    let store = root_store(bundle);
    let verifier = rustls::server::WebPkiClientVerifier::builder(Arc::clone(&store))
        .build()
        .unwrap();
    let server_config = ServerConfig::builder()
        .with_client_cert_verifier(verifier)
        .with_single_cert(server.1.ders(), server.0.expose_der())
        .unwrap();
    let client_config = ClientConfig::builder()
        .with_root_certificates(store)
        .with_client_auth_cert(client.1.ders(), client.0.expose_der())
        .unwrap();
    let (near, far) = tokio::io::duplex(64 * 1024);
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(server_config));
    let connector = tokio_rustls::TlsConnector::from(Arc::new(client_config));
    let name = ServerName::try_from(server_name).unwrap();
    let (accepted, connected) = tokio::join!(acceptor.accept(near), connector.connect(name, far));
    let (mut accepted, mut connected) = (accepted?, connected?);
    connected.write_all(b"hello").await?;
    connected.flush().await?;
    let mut hello = [0; 5];
    accepted.read_exact(&mut hello).await?;
    Ok(accepted.get_ref().1.peer_certificates().unwrap().to_vec())
}

/// A server's certificate with a host name that rustls' client can look for, beside the workload's identity.
fn server_of(signing: &lateen_ca::pki::SigningCa, mesh: &Mesh) -> (PrivateKey, Chain) {
    let key = PrivateKey::generate().unwrap();
    let host = [lateen_names::Hostname::new("reviews.shop.svc").unwrap()];
    let validity = lateen_ca::pki::Validity::starting(mesh.clock.now(), HOUR);
    let serial = lateen_ca::pki::Serial::new([9; 16]);
    let leaf = signing
        .issue_serving(key.public_key(), &host, Some(&identity("reviews")), validity, serial)
        .unwrap();
    (key, signing.chain_of(leaf))
}

#[tokio::test]
async fn issued_chains_carry_mutual_tls() {
    let mesh = Mesh::new();
    let directory = mesh.directory.path().join("ca");
    let read = |name: &str| std::fs::read(directory.join(name)).unwrap();
    let signing = lateen_ca::pki::SigningCa::from_root_pem(&read("ca-cert.pem"), &read("ca-key.pem")).unwrap();
    let bundle = TrustBundle::parse_pem(mesh.authority.bundle_pem().as_bytes()).unwrap();
    let server = server_of(&signing, &mesh);
    let peer = mutual_tls(server, mesh.workload("cart"), &bundle, "reviews.shop.svc")
        .await
        .unwrap();
    assert_eq!(
        Chain::from_ders(&peer).unwrap().leaf().spiffe_id().unwrap(),
        identity("cart")
    );
    let server = server_of(&signing, &mesh);
    assert!(
        mutual_tls(server, Mesh::new().workload("cart"), &bundle, "reviews.shop.svc")
            .await
            .is_err()
    );
}

#[tokio::test]
async fn a_plugged_in_ca_answers_with_its_intermediate_and_root() {
    let directory = tempfile::tempdir().unwrap();
    let cacerts = concat!(env!("CARGO_MANIFEST_DIR"), "/../pki/tests/fixtures/cacerts");
    let config = CaConfig::new(trust_domain(), RootSource::PluggedIn(cacerts.into()));
    let served = Served::of(Mesh::with(directory, config)).await;
    let token = served.mesh.token("cart");
    let key = PrivateKey::generate().unwrap();
    let response = served
        .client()
        .await
        .create(&csr(&key, "cart"), Some(&token))
        .await
        .unwrap();
    assert_eq!(response.cert_chain.len(), 3, "leaf, intermediate, root");
    let (chain, roots) = read(&response);
    assert_eq!(roots.verify(&chain, served.mesh.clock.now()).unwrap(), identity("cart"));
    assert_eq!(response.cert_chain[2], served.mesh.authority.bundle_pem());
    let file = |name: &str| std::fs::read(format!("{cacerts}/{name}")).unwrap();
    let files = lateen_ca::pki::CaFiles {
        ca_cert: &file("ca-cert.pem"),
        ca_key: &file("ca-key.pem"),
        root_cert: &file("root-cert.pem"),
        cert_chain: &file("cert-chain.pem"),
    };
    let signing = lateen_ca::pki::SigningCa::from_files(files, served.mesh.clock.now()).unwrap();
    let server = server_of(&signing, &served.mesh);
    assert!(
        mutual_tls(server, (key, chain.clone()), &roots, "reviews.shop.svc")
            .await
            .is_ok()
    );
    // With it, the certificate renews itself over TLS.
    let key = PrivateKey::generate().unwrap();
    let renewed = served
        .connect(Some(&served.mesh.workload("cart")))
        .await
        .unwrap()
        .create(&csr(&key, "cart"), None)
        .await;
    assert!(renewed.is_ok(), "{renewed:?}");
}

#[tokio::test]
async fn many_requests_at_once_are_all_served() {
    let served = Served::new().await;
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..32 {
        let client = served.client().await.0;
        let token = served.mesh.token(&format!("account-{n}"));
        tasks.spawn(async move {
            let key = PrivateKey::generate().unwrap();
            let response = Client(client)
                .create(&csr(&key, "anybody"), Some(&token))
                .await
                .unwrap();
            assert_eq!(
                read(&response).0.leaf().spiffe_id().unwrap(),
                identity(&format!("account-{n}"))
            );
            read(&response).0.leaf().serial().to_owned()
        });
    }
    let serials = tasks
        .join_all()
        .await
        .into_iter()
        .collect::<std::collections::BTreeSet<_>>();
    assert_eq!(serials.len(), 32);
}
