//! Webhook configurations of this revision: the CA bundle by which the API server knows Lateen, and the failure policy
//! of validation.
//!
//! Configurations are chosen as Istio chooses them: by the label `istio.io/rev`, and in them the webhooks whose names end
//! in `sidecar-injector.istio.io` or `validation.istio.io`. Validation fails open (as the charts install it) until an
//! object that must be refused, sent as a dry run, was refused; from then on it fails closed.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::admissionregistration::v1::{MutatingWebhookConfiguration, ValidatingWebhookConfiguration};
use kube::api::{ApiResource, DynamicObject, GroupVersionKind, Patch, PatchParams, PostParams};
use kube::runtime::watcher::Config;
use kube::{Api, Client};
use lateen_pki::TrustBundle;
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::MANAGER;
use crate::queue::Queue;
use crate::watched::Watched;

const REVISION: &str = "istio.io/rev";
const INJECTION: &str = "sidecar-injector.istio.io";
const VALIDATION: &str = "validation.istio.io";
/// How often it is asked whether validation answers: seldom once it has not for a while.
const FIRST_PROBE: Duration = Duration::from_secs(1);
const LAST_PROBE: Duration = Duration::from_secs(10);

/// What is kept of a webhook in a configuration.
#[derive(Debug, Clone, PartialEq)]
struct Webhook {
    name: String,
    ca_bundle: Option<Vec<u8>>,
    fails_closed: bool,
}

/// The configurations of both kinds have names of their own.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Key {
    Mutating(String),
    Validating(String),
}

/// Keeps the webhook configurations of `revision` right. `namespace` is Lateen's own. Runs until it is dropped: only the
/// revision's leader may run it.
pub async fn keep(client: Client, namespace: String, revision: String, mut bundle: watch::Receiver<Arc<TrustBundle>>) {
    let selection = Config::default().labels(&format!("{REVISION}={revision}"));
    let mut mutating = Watched::new(
        Api::<MutatingWebhookConfiguration>::all(client.clone()),
        selection.clone(),
        "MutatingWebhookConfiguration",
        read_mutating,
    );
    let mut validating = Watched::new(
        Api::<ValidatingWebhookConfiguration>::all(client.clone()),
        selection,
        "ValidatingWebhookConfiguration",
        read_validating,
    );
    let mut queue = Queue::new(5, 10);
    let mut roots = Vec::new();
    let mut closed = false;
    let mut probing = Box::pin(validation_answers(client.clone(), namespace, revision));
    bundle.mark_changed();
    loop {
        let again = tokio::select! {
            names = mutating.changed() => names.into_iter().map(Key::Mutating).collect::<Vec<_>>(),
            names = validating.changed() => names.into_iter().map(Key::Validating).collect(),
            Ok(()) = bundle.changed() => {
                roots = bundle.borrow_and_update().pem().into_bytes();
                all(&mutating, &validating)
            }
            () = &mut probing, if !closed => {
                tracing::info!("validation answers; its webhooks fail closed from now on");
                closed = true;
                all(&mutating, &validating)
            }
            key = queue.next() => {
                repair(&client, &key, &roots, closed, &mut mutating, &mut validating, &mut queue).await;
                Vec::new()
            }
        };
        again.into_iter().for_each(|key| queue.add(key));
    }
}

type Mutating = Watched<MutatingWebhookConfiguration, Vec<Webhook>>;
type Validating = Watched<ValidatingWebhookConfiguration, Vec<Webhook>>;

fn all(mutating: &Mutating, validating: &Validating) -> Vec<Key> {
    let mutating = mutating.facts().keys().cloned().map(Key::Mutating);
    mutating
        .chain(validating.facts().keys().cloned().map(Key::Validating))
        .collect()
}

/// Writes what is not right in one configuration.
async fn repair(
    client: &Client,
    key: &Key,
    roots: &[u8],
    closed: bool,
    mutating: &mut Mutating,
    validating: &mut Validating,
    queue: &mut Queue<Key>,
) {
    let (facts, suffix, closes, name) = match key {
        Key::Mutating(name) => (mutating.facts().get(name), INJECTION, false, name),
        Key::Validating(name) => (validating.facts().get(name), VALIDATION, closed, name),
    };
    let patches: Vec<Value> = facts
        .into_iter()
        .flatten()
        .filter_map(|webhook| patch(webhook, suffix, roots, closes))
        .collect();
    if patches.is_empty() {
        queue.done(key);
        return;
    }
    queue.write_allowed().await;
    // Webhooks are merged by their names.
    let patch = Patch::Strategic(json!({ "webhooks": patches }));
    let params = PatchParams {
        field_manager: Some(MANAGER.to_owned()),
        ..PatchParams::default()
    };
    let written = match key {
        Key::Mutating(name) => {
            let api: Api<MutatingWebhookConfiguration> = Api::all(client.clone());
            api.patch(name, &params, &patch)
                .await
                .map(|written| mutating.note(&written))
        }
        Key::Validating(name) => {
            let api: Api<ValidatingWebhookConfiguration> = Api::all(client.clone());
            api.patch(name, &params, &patch)
                .await
                .map(|written| validating.note(&written))
        }
    };
    match written {
        Ok(()) => {
            tracing::info!(configuration = name, "wrote the CA bundle of webhooks");
            queue.done(key);
        }
        Err(kube::Error::Api(status)) if status.code == 404 => queue.done(key),
        Err(error) => {
            tracing::warn!(%error, configuration = name, "cannot write the CA bundle of webhooks");
            queue.retry(key.clone());
        }
    }
}

/// What is to be written of a webhook, if anything.
fn patch(webhook: &Webhook, suffix: &str, roots: &[u8], closes: bool) -> Option<Value> {
    let ours = webhook.name == suffix || webhook.name.ends_with(&format!(".{suffix}"));
    let known = webhook.ca_bundle.as_deref() == Some(roots);
    let policy = closes && !webhook.fails_closed;
    if !ours || (known && !policy) {
        return None;
    }
    let bundle = k8s_openapi::ByteString(roots.to_vec());
    let mut patch = json!({ "name": webhook.name, "clientConfig": { "caBundle": bundle } });
    if policy {
        patch["failurePolicy"] = "Fail".into();
    }
    Some(patch)
}

fn read_mutating(configuration: &MutatingWebhookConfiguration) -> Option<(String, Vec<Webhook>)> {
    let webhooks = configuration.webhooks.iter().flatten().map(|webhook| Webhook {
        name: webhook.name.clone(),
        ca_bundle: webhook.client_config.ca_bundle.as_ref().map(|bundle| bundle.0.clone()),
        fails_closed: webhook.failure_policy.as_deref() == Some("Fail"),
    });
    Some((configuration.metadata.name.clone()?, webhooks.collect()))
}

fn read_validating(configuration: &ValidatingWebhookConfiguration) -> Option<(String, Vec<Webhook>)> {
    let webhooks = configuration.webhooks.iter().flatten().map(|webhook| Webhook {
        name: webhook.name.clone(),
        ca_bundle: webhook.client_config.ca_bundle.as_ref().map(|bundle| bundle.0.clone()),
        fails_closed: webhook.failure_policy.as_deref() == Some("Fail"),
    });
    Some((configuration.metadata.name.clone()?, webhooks.collect()))
}

/// Returns once the API server, asked to store an object that validation must refuse, says that it was refused.
async fn validation_answers(client: Client, namespace: String, revision: String) {
    let gateway = GroupVersionKind::gvk("networking.istio.io", "v1", "Gateway");
    let gateway = ApiResource::from_gvk_with_plural(&gateway, "gateways");
    let gateways: Api<DynamicObject> = Api::namespaced_with(client, &namespace, &gateway);
    let mut refused = DynamicObject::new("lateen-validation-probe", &gateway).data(json!({ "spec": {} }));
    refused.metadata.labels = Some([(REVISION.to_owned(), revision)].into());
    // Whoever validates for Istio refuses what carries this.
    let always = ("internal.istio.io/webhook-always-reject".to_owned(), "true".to_owned());
    refused.metadata.annotations = Some([always].into());
    let params = PostParams {
        dry_run: true,
        field_manager: Some(MANAGER.to_owned()),
    };
    let mut pause = FIRST_PROBE;
    loop {
        match gateways.create(&params, &refused).await {
            Err(kube::Error::Api(status)) if status.message.contains("denied the request") => return,
            Ok(_) => tracing::debug!("no webhook refused the invalid object yet"),
            Err(error) => tracing::debug!(%error, "the validation webhook does not answer yet"),
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LAST_PROBE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn webhook(name: &str, ca_bundle: Option<&[u8]>, fails_closed: bool) -> Webhook {
        Webhook {
            name: name.to_owned(),
            ca_bundle: ca_bundle.map(<[u8]>::to_vec),
            fails_closed,
        }
    }

    #[test]
    fn only_webhooks_of_the_mesh_are_written_and_only_when_they_differ() {
        let ours = "rev.namespace.sidecar-injector.istio.io";
        assert!(patch(&webhook(ours, Some(b"roots"), false), INJECTION, b"roots", false).is_none());
        assert!(patch(&webhook("policy.example.org", None, false), INJECTION, b"roots", false).is_none());
        assert!(
            patch(
                &webhook("evilsidecar-injector.istio.io", None, false),
                INJECTION,
                b"roots",
                false
            )
            .is_none()
        );
        let written = patch(&webhook(ours, Some(b"other"), false), INJECTION, b"roots", false).unwrap();
        assert_eq!(written, json!({"name": ours, "clientConfig": {"caBundle": "cm9vdHM="}}));
    }

    #[test]
    fn validation_fails_closed_only_when_it_is_time() {
        let open = webhook("rev.validation.istio.io", Some(b"roots"), false);
        assert!(patch(&open, VALIDATION, b"roots", false).is_none());
        assert_eq!(
            patch(&open, VALIDATION, b"roots", true).unwrap()["failurePolicy"],
            "Fail"
        );
    }
}
