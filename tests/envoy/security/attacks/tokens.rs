//! Tokens that prove nothing.

use anyhow::Result;

use super::is;
use crate::rows::Request;
use crate::scene::Scene;

/// At the sidecar and at the door.
async fn tokens_are_refused(scene: &Scene, names: &[&str]) -> Result<()> {
    for name in names {
        for (to, port) in [("web", 8080), ("ingress", 80)] {
            let request = Request {
                token: (*name).to_owned(),
                to: to.to_owned(),
                port,
                path: "/token".to_owned(),
                ..Request::default()
            };
            is(&request.send(scene).await?, 401, &format!("{name} at {to}"))?;
        }
    }
    Ok(())
}

pub(super) async fn a_token_without_signature(scene: &Scene) -> Result<()> {
    tokens_are_refused(scene, &["none", "none-in-capitals", "no-signature", "garbage"]).await
}

pub(super) async fn a_token_signed_with_the_public_key_as_secret(scene: &Scene) -> Result<()> {
    let names = [
        "hs256-by-public-key",
        "hs256-by-public-der",
        "hs256-by-jwk",
        "hs256-by-rsa-key",
        "rs256-for-ec",
    ];
    tokens_are_refused(scene, &names).await
}

pub(super) async fn a_token_with_the_key_of_another_issuer(scene: &Scene) -> Result<()> {
    tokens_are_refused(scene, &["key-of-another-issuer", "wrong-key"]).await
}

pub(super) async fn a_token_that_brings_its_own_key(scene: &Scene) -> Result<()> {
    tokens_are_refused(scene, &["own-key-inside", "keys-from-elsewhere"]).await
}

pub(super) async fn a_token_with_changed_claims(scene: &Scene) -> Result<()> {
    tokens_are_refused(scene, &["changed"]).await
}

pub(super) async fn a_good_token_beside_a_bad_one(scene: &Scene) -> Result<()> {
    for (first, second) in [("good", "none"), ("none", "good"), ("good", "expired")] {
        let bearer = |name: &str| {
            anyhow::Ok((
                "authorization".to_owned(),
                format!("Bearer {}", scene.tokens.get(name)?),
            ))
        };
        let request = Request {
            headers: vec![bearer(first)?, bearer(second)?],
            path: "/token".to_owned(),
            ..Request::default()
        };
        is(&request.send(scene).await?, 401, &format!("{first} beside {second}"))?;
    }
    Ok(())
}
