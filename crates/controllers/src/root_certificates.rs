//! The ConfigMap `istio-ca-root-cert` in every namespace of the mesh: whom its proxies trust. And `istio-ca-crl`, where
//! something is revoked.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{Patch, PatchParams, PostParams};
use kube::runtime::watcher::Config;
use kube::{Api, Client};
use lateen_names::Namespace;
use lateen_pki::TrustBundle;
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::MANAGER;
use crate::queue::Queue;
use crate::watched::Watched;

/// The ConfigMap's name.
pub const NAME: &str = "istio-ca-root-cert";
/// The key that holds the trusted roots in PEM.
pub const KEY: &str = "root-cert.pem";

/// A ConfigMap that is kept in every namespace.
#[derive(Debug, Clone, Copy)]
pub struct Document {
    /// The ConfigMap's name.
    pub name: &'static str,
    /// The key in it.
    pub key: &'static str,
    /// What the key holds; while that is empty, nothing is written.
    pub content: fn(&TrustBundle) -> String,
}

/// The trusted roots.
pub const ROOTS: Document = Document {
    name: NAME,
    key: KEY,
    content: TrustBundle::pem,
};

/// What is revoked.
pub const REVOKED: Document = Document {
    name: "istio-ca-crl",
    key: "ca-crl.pem",
    content: TrustBundle::revoked_pem,
};

/// Namespaces of Kubernetes itself, in which nothing of the mesh ever runs.
const LEFT_OUT: [&str; 4] = ["kube-system", "kube-public", "kube-node-lease", "local-path-storage"];

const WRITES_PER_SECOND: u32 = 50;
const BURST: u32 = 200;

/// What is kept of a ConfigMap.
#[derive(Debug, PartialEq)]
struct Held {
    labelled: bool,
    data: BTreeMap<String, String>,
}

/// How writing one went.
enum Written {
    Now(ConfigMap),
    /// The namespace is about to go, or gone.
    NotNeeded,
}

/// Keeps the ConfigMap right in `namespaces`, whatever happens to it; other keys and labels in it are left alone. Runs
/// until it is dropped: only the leader may run it.
pub async fn keep(
    client: Client,
    document: Document,
    mut namespaces: watch::Receiver<Arc<BTreeSet<Namespace>>>,
    mut bundle: watch::Receiver<Arc<TrustBundle>>,
) {
    let selection = Config::default().fields(&format!("metadata.name={}", document.name));
    let mut held = Watched::new(Api::<ConfigMap>::all(client.clone()), selection, document.name, read);
    let mut queue = Queue::new(WRITES_PER_SECOND, BURST);
    let mut wanted: BTreeSet<String> = BTreeSet::new();
    let mut roots = String::new();
    namespaces.mark_changed();
    bundle.mark_changed();
    loop {
        tokio::select! {
            changed = held.changed() => changed.into_iter().filter(|name| wanted.contains(name)).for_each(|name| queue.add(name)),
            Ok(()) = namespaces.changed() => {
                let named = namespaces.borrow_and_update().iter().map(ToString::to_string).collect::<BTreeSet<_>>();
                wanted = named.into_iter().filter(|name| !LEFT_OUT.contains(&name.as_str())).collect();
                wanted.iter().cloned().for_each(|name| queue.add(name));
            }
            Ok(()) = bundle.changed() => {
                roots = (document.content)(&bundle.borrow_and_update());
                wanted.iter().cloned().for_each(|name| queue.add(name));
            }
            namespace = queue.next(), if held.is_synced() => {
                let right = held.facts().get(&namespace).is_some_and(|held| held.labelled && held.data.get(document.key) == Some(&roots));
                let there = held.facts().contains_key(&namespace);
                // Lists that are withdrawn are emptied where they are, and never begun.
                if right || !wanted.contains(&namespace) || (roots.is_empty() && !there) {
                    queue.done(&namespace);
                    continue;
                }
                queue.write_allowed().await;
                match write(&client, document, &namespace, &roots, there).await {
                    Ok(Written::Now(map)) => {
                        tracing::info!(namespace, configmap = document.name, repaired = there, "wrote the trusted roots");
                        held.note(&map);
                        queue.done(&namespace);
                    }
                    Ok(Written::NotNeeded) => queue.done(&namespace),
                    Err(error) => {
                        tracing::warn!(%error, namespace, configmap = document.name, "cannot write the trusted roots");
                        queue.retry(namespace);
                    }
                }
            }
        }
    }
}

fn read(map: &ConfigMap) -> Option<(String, Held)> {
    let labels = map.metadata.labels.as_ref();
    let held = Held {
        labelled: labels
            .and_then(|labels| labels.get("istio.io/config"))
            .is_some_and(|value| value == "true"),
        data: map.data.clone().unwrap_or_default(),
    };
    Some((map.metadata.namespace.clone()?, held))
}

async fn write(
    client: &Client,
    Document { name, key, .. }: Document,
    namespace: &str,
    roots: &str,
    there: bool,
) -> Result<Written, kube::Error> {
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
    let content: Value = json!({
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": { "name": name, "namespace": namespace, "labels": { "istio.io/config": "true" } },
        "data": { key: roots },
    });
    if !there {
        let map: ConfigMap = serde_json::from_value(content.clone()).map_err(kube::Error::SerdeError)?;
        let params = PostParams {
            field_manager: Some(MANAGER.to_owned()),
            ..PostParams::default()
        };
        match maps.create(&params, &map).await {
            Ok(map) => return Ok(Written::Now(map)),
            // Somebody was faster, or the watch is behind.
            Err(kube::Error::Api(status)) if status.is_already_exists() => {}
            Err(kube::Error::Api(status)) if status.code == 404 || is_terminating(&status.message) => {
                return Ok(Written::NotNeeded);
            }
            Err(error) => return Err(error),
        }
    }
    let params = PatchParams {
        field_manager: Some(MANAGER.to_owned()),
        ..PatchParams::default()
    };
    match maps.patch(name, &params, &Patch::Merge(&content)).await {
        Ok(map) => Ok(Written::Now(map)),
        // It was deleted meanwhile; the watch will tell.
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(Written::NotNeeded),
        Err(error) => Err(error),
    }
}

/// What the API server says when something is to be made in a namespace that is being deleted.
fn is_terminating(message: &str) -> bool {
    message.contains("because it is being terminated")
}
