//! One root for all replicas.

use anyhow::{Context as _, Result};
use futures::future::{join_all, try_join_all};
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{Api, DeleteParams, PostParams};
use lateen_ca::kube::{SECRET, SecretRoot};
use lateen_ca::{CertificateAuthority, RootStep};
use lateen_names::Namespace;
use lateen_testkit::{ApiServer, eventually};
use prometheus::Registry;
use tokio::task::JoinSet;

use crate::{SOON, ca_config, clock};

async fn open(root: &SecretRoot) -> Result<CertificateAuthority> {
    Ok(root.open(ca_config(), clock(), &Registry::new()).await?)
}

fn data(secret: &Secret, key: &str) -> Option<ByteString> {
    secret.data.as_ref()?.get(key).cloned()
}

#[tokio::test(flavor = "multi_thread")]
async fn replicas_agree_on_one_root_replace_it_together_and_take_over_istios() -> Result<()> {
    let Some(server) = ApiServer::start().await? else {
        return Ok(());
    };
    server
        .apply("{apiVersion: v1, kind: Namespace, metadata: {name: istio-system}}")
        .await?;
    let root = SecretRoot::new(server.client().await?, &Namespace::new("istio-system")?);

    // Ten at once, each with a connection of its own.
    let mut roots = Vec::new();
    for _ in 0..10 {
        roots.push(SecretRoot::new(
            server.client().await?,
            &Namespace::new("istio-system")?,
        ));
    }
    let replicas = try_join_all(roots.iter().map(open)).await?;
    let first = replicas[0].bundle_pem();
    assert_eq!(first.matches("BEGIN CERTIFICATE").count(), 1);
    for replica in &replicas {
        assert_eq!(replica.bundle_pem(), first, "a replica has another root");
    }
    assert_eq!(
        open(&root).await?.bundle_pem(),
        first,
        "a later replica has another root"
    );

    let secrets: Api<Secret> = Api::namespaced(server.client().await?, "istio-system");
    let secret = secrets.get(SECRET).await?;
    assert_eq!(secret.type_.as_deref(), Some("istio.io/ca-root"));
    let keys: Vec<&str> = secret.data.iter().flatten().map(|(key, _)| key.as_str()).collect();
    assert_eq!(keys, ["ca-cert.pem", "ca-key.pem", "root-cert.pem"]);

    // All follow a replacement, whoever takes its steps.
    let mut tasks = JoinSet::new();
    for (root, replica) in roots.iter().zip(&replicas) {
        tasks.spawn(root.clone().keep(replica.clone()));
    }
    for (step, by, count) in [
        (RootStep::Announce, 3, 2),
        (RootStep::Switch, 7, 2),
        (RootStep::Retire, 5, 1),
    ] {
        let stage = replicas[by].rotation().name();
        roots[by].advance(&replicas[by], step).await?;
        eventually(&format!("all replicas took the step after {stage}"), SOON, async || {
            let wanted = replicas[by].bundle_pem();
            let all = replicas.iter().all(|replica| {
                replica.bundle_pem() == wanted && replica.rotation().name() == replicas[by].rotation().name()
            });
            (all && wanted.matches("BEGIN CERTIFICATE").count() == count).then_some(())
        })
        .await?;
    }
    let second = replicas[0].bundle_pem();
    assert_ne!(second, first);
    // Two that take the same step at once do not take it twice.
    let both = join_all([0, 1].map(|at| roots[at].advance(&replicas[at], RootStep::Announce))).await;
    assert!(both.iter().any(Result::is_ok));
    let trusted = secrets.get(SECRET).await?;
    let trusted = data(&trusted, "root-cert.pem").context("no roots")?;
    assert_eq!(String::from_utf8(trusted.0)?.matches("BEGIN CERTIFICATE").count(), 2);

    // Without it the next replica would start with a root that nobody trusts.
    let before = secrets.get(SECRET).await?;
    eventually("every replica has read the announcement", SOON, async || {
        replicas
            .iter()
            .all(|replica| replica.rotation().name() == "announced")
            .then_some(())
    })
    .await?;
    secrets.delete(SECRET, &DeleteParams::default()).await?;
    let after = eventually("the secret is put back", SOON, async || {
        secrets.get_opt(SECRET).await.ok().flatten()
    })
    .await?;
    assert_eq!(after.data, before.data);
    assert_ne!(after.metadata.uid, before.metadata.uid);

    take_over(&server, &before).await
}

/// Istio's own Secret: no list of roots, and keys that Lateen does not need.
async fn take_over(server: &ApiServer, ours: &Secret) -> Result<()> {
    server
        .apply("{apiVersion: v1, kind: Namespace, metadata: {name: taken}}")
        .await?;
    let certificate = data(ours, "ca-cert.pem").context("no certificate")?;
    let istios = Secret {
        metadata: kube::api::ObjectMeta {
            name: Some(SECRET.to_owned()),
            ..Default::default()
        },
        type_: Some("istio.io/ca-root".to_owned()),
        data: Some(
            [
                ("ca-cert.pem".to_owned(), certificate.clone()),
                ("ca-key.pem".to_owned(), data(ours, "ca-key.pem").context("no key")?),
                ("cert-chain.pem".to_owned(), ByteString::default()),
                ("key.pem".to_owned(), ByteString::default()),
                ("root-cert.pem".to_owned(), ByteString::default()),
            ]
            .into(),
        ),
        ..Secret::default()
    };
    let secrets: Api<Secret> = Api::namespaced(server.client().await?, "taken");
    let before = secrets.create(&PostParams::default(), &istios).await?;
    let root = SecretRoot::new(server.client().await?, &Namespace::new("taken")?);
    let taken = open(&root).await?;
    assert_eq!(taken.bundle_pem().trim(), String::from_utf8(certificate.0)?.trim());
    assert_eq!(
        secrets.get(SECRET).await?.metadata.resource_version,
        before.metadata.resource_version
    );
    Ok(())
}
