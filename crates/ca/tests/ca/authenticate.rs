//! Proof of identity without a connection: what changes while a connection lives.

use std::sync::Arc;
use std::time::Duration;

use lateen_ca::pki::Chain;
use lateen_ca::{AuthError, Authenticator, PeerCertificates, Proof};
use lateen_names::TrustDomain;
use tonic::{Code, Status};

use crate::support::*;

fn peer(chain: &Chain) -> PeerCertificates {
    PeerCertificates(chain.ders().into())
}

#[tokio::test]
async fn a_certificate_or_a_token_proves_an_identity() {
    let mesh = Mesh::new();
    let (_, chain) = mesh.workload("cart");
    let caller = mesh
        .authenticator
        .verified_identity(Some(&peer(&chain)), None)
        .await
        .unwrap();
    assert_eq!(caller.identity, identity("cart"));
    assert!(matches!(caller.proof, Proof::Certificate { serial, .. } if serial == chain.leaf().serial()));
    let caller = mesh
        .authenticator
        .verified_identity(None, Some(&mesh.token("web")))
        .await
        .unwrap();
    assert_eq!(caller.identity, identity("web"));
    assert_eq!(
        caller.proof,
        Proof::Token {
            issuer: "https://lateen.local".to_owned(),
            pod: None,
        }
    );
    let nobody = mesh.authenticator.verified_identity(None, None).await.unwrap_err();
    assert_eq!(nobody, AuthError::Nothing);
    let nobody = mesh
        .authenticator
        .verified_identity(Some(&PeerCertificates(Arc::new([]))), None)
        .await
        .unwrap_err();
    assert_eq!(nobody, AuthError::Nothing);
}

#[tokio::test]
async fn an_old_connection_proves_nothing_once_its_certificate_has_ended() {
    let mesh = Mesh::new();
    let (_, chain) = mesh.workload("cart");
    mesh.clock.advance(DAY + Duration::from_secs(1));
    let error = mesh
        .authenticator
        .verified_identity(Some(&peer(&chain)), None)
        .await
        .unwrap_err();
    assert!(error.to_string().contains("has expired"), "{error}");
    let both = mesh
        .authenticator
        .verified_identity(Some(&peer(&chain)), Some("junk"))
        .await
        .unwrap_err();
    assert!(matches!(both, AuthError::Both { .. }));
    assert!(
        both.to_string().contains("has expired") && both.to_string().contains("not a JWT"),
        "{both}"
    );
    // A good token makes up for it.
    let token = mesh.token("cart");
    assert!(
        mesh.authenticator
            .verified_identity(Some(&peer(&chain)), Some(&token))
            .await
            .is_ok()
    );
}

#[tokio::test]
async fn an_old_connection_proves_nothing_once_its_root_is_retired() {
    let mesh = Mesh::new();
    let (_, chain) = mesh.workload("cart");
    mesh.authority.rotate_root().unwrap();
    mesh.authority.switch_root().unwrap();
    assert!(
        mesh.authenticator
            .verified_identity(Some(&peer(&chain)), None)
            .await
            .is_ok()
    );
    mesh.authority.retire_old_roots().unwrap();
    let error = mesh
        .authenticator
        .verified_identity(Some(&peer(&chain)), None)
        .await
        .unwrap_err();
    assert_eq!(Status::from(&error).code(), Code::Unauthenticated);
}

#[tokio::test]
async fn the_control_planes_own_certificate_is_no_workload() {
    let mesh = Mesh::new();
    let chain = mesh.authority.serving().chain();
    let error = mesh
        .authenticator
        .verified_identity(Some(&peer(&chain)), None)
        .await
        .unwrap_err();
    assert!(error.to_string().contains("0 URI names"), "{error}");
    let garbage = PeerCertificates(Arc::new([vec![1, 2, 3].into()]));
    let error = mesh
        .authenticator
        .verified_identity(Some(&garbage), None)
        .await
        .unwrap_err();
    assert!(error.to_string().contains("certificate 1 is malformed"), "{error}");
}

#[tokio::test]
async fn identities_of_other_trust_domains_need_an_alias() {
    let mesh = Mesh::new();
    let (_, chain) = mesh.workload("cart");
    let moved = TrustDomain::new("new.example").unwrap();
    let authenticator = || Authenticator::new(moved.clone(), mesh.authority.trust_bundle(), vec![], mesh.clock.clock());
    let error = authenticator()
        .verified_identity(Some(&peer(&chain)), None)
        .await
        .unwrap_err();
    assert_eq!(Status::from(&error).code(), Code::PermissionDenied);
    assert!(error.to_string().contains("`new.example`"), "{error}");
    let authenticator = authenticator().with_aliases([trust_domain()]);
    let caller = authenticator
        .verified_identity(Some(&peer(&chain)), None)
        .await
        .unwrap();
    assert_eq!(caller.identity.to_string(), "spiffe://new.example/ns/shop/sa/cart");
}

#[tokio::test]
async fn proof_is_read_from_requests() {
    let mesh = Mesh::new();
    let mut request = tonic::Request::new(());
    request.metadata_mut().insert(
        "authorization",
        format!("bearer {}", mesh.token("cart")).parse().unwrap(),
    );
    assert_eq!(
        mesh.authenticator
            .authenticate_request(&request)
            .await
            .unwrap()
            .identity,
        identity("cart")
    );
    let mut request = http::Request::new(());
    request.extensions_mut().insert(peer(&mesh.workload("web").1));
    let caller = mesh
        .authenticator
        .authenticate(request.extensions(), request.headers())
        .await
        .unwrap();
    assert_eq!(caller.identity, identity("web"));
    let mut request = http::Request::new(());
    request
        .headers_mut()
        .insert("authorization", "Basic YTpi".parse().unwrap());
    let error = mesh
        .authenticator
        .authenticate(request.extensions(), request.headers())
        .await
        .unwrap_err();
    assert_eq!(error, AuthError::Nothing);
}
