//! The ConfigMap `istio-ca-root-cert` in every namespace of the mesh: whom its proxies trust.

use std::collections::BTreeSet;
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

/// Namespaces of Kubernetes itself, in which nothing of the mesh ever runs.
const LEFT_OUT: [&str; 4] = ["kube-system", "kube-public", "kube-node-lease", "local-path-storage"];

const WRITES_PER_SECOND: u32 = 50;
const BURST: u32 = 200;

/// What is kept of a ConfigMap.
#[derive(Debug, PartialEq)]
struct Held {
    labelled: bool,
    roots: String,
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
    mut namespaces: watch::Receiver<Arc<BTreeSet<Namespace>>>,
    mut bundle: watch::Receiver<Arc<TrustBundle>>,
) {
    let selection = Config::default().fields(&format!("metadata.name={NAME}"));
    let mut held = Watched::new(Api::<ConfigMap>::all(client.clone()), selection, NAME, read);
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
                roots = bundle.borrow_and_update().pem();
                wanted.iter().cloned().for_each(|name| queue.add(name));
            }
            namespace = queue.next(), if held.is_synced() => {
                let right = held.facts().get(&namespace).is_some_and(|held| held.labelled && held.roots == roots);
                if right || !wanted.contains(&namespace) {
                    queue.done(&namespace);
                    continue;
                }
                queue.write_allowed().await;
                let there = held.facts().contains_key(&namespace);
                match write(&client, &namespace, &roots, there).await {
                    Ok(Written::Now(map)) => {
                        tracing::info!(namespace, configmap = NAME, repaired = there, "wrote the trusted roots");
                        held.note(&map);
                        queue.done(&namespace);
                    }
                    Ok(Written::NotNeeded) => queue.done(&namespace),
                    Err(error) => {
                        tracing::warn!(%error, namespace, configmap = NAME, "cannot write the trusted roots");
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
        roots: map
            .data
            .as_ref()
            .and_then(|data| data.get(KEY))
            .cloned()
            .unwrap_or_default(),
    };
    Some((map.metadata.namespace.clone()?, held))
}

async fn write(client: &Client, namespace: &str, roots: &str, there: bool) -> Result<Written, kube::Error> {
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
    let content: Value = json!({
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": { "name": NAME, "namespace": namespace, "labels": { "istio.io/config": "true" } },
        "data": { KEY: roots },
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
    match maps.patch(NAME, &params, &Patch::Merge(&content)).await {
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
