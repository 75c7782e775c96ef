//! The proxies of Gateways: for each Gateway of a class of Lateen's, unless its addresses name a service that is there
//! already, a service account, a Deployment and a Service, and an autoscaler and a disruption budget where overlays ask
//! for them; and the classes themselves.
//!
//! Everything is server-side applied in the controller's name, so that what others add stays and what they change is put
//! right. What is there already without having been made for a Gateway is not touched. What is made is owned by its
//! Gateway, and goes with it.

mod deploy;
mod objects;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use futures::FutureExt as _;
use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use kube::api::{ApiResource, DynamicObject, GroupVersionKind, PostParams};
use kube::runtime::watcher::Config;
use kube::{Api, Client};
use lateen_model::deployment::{Deployments, GatewayDeployment};
use lateen_names::ObjectKey;
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::MANAGER;
use crate::queue::Queue;
use crate::watched::Watched;
use deploy::{Applied, DeployError, read};
use objects::{MANAGED, Part};

/// Lays a patch in YAML over an object of this kind, by the rules of Kubernetes' strategic merge.
///
/// The error says what is wrong with the patch.
pub type Overlay = fn(kind: &str, object: &Value, patch: &str) -> Result<Value, String>;

const WRITES_PER_SECOND: u32 = 20;
const BURST: u32 = 50;

/// The newest way of looking after Gateways that is understood (`gateway.istio.io/controller-version`).
const CONTROLLER_VERSION: u64 = 5;

/// Istio's classes that are made where they are missing: name, controller, description.
const CLASSES: [(&str, &str, &str); 2] = [
    (
        "istio",
        "istio.io/gateway-controller",
        "Gateways whose proxies the mesh deploys",
    ),
    (
        "istio-remote",
        "istio.io/unmanaged-gateway",
        "Gateways of other clusters, by their addresses",
    ),
];

struct Deployer {
    client: Client,
    settings: Settings,
    /// Objects that were made for Gateways, by part.
    made: Vec<Watched<DynamicObject, u64>>,
    applied: BTreeMap<(Part, String), Applied>,
    /// Revisions by the tags that stand for them.
    tags: Watched<MutatingWebhookConfiguration, (String, String)>,
    classes: Watched<DynamicObject, ()>,
    queue: Queue<Due>,
}

/// What is to be looked at.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Due {
    Gateway(ObjectKey),
    Class(usize),
}

/// What has happened.
enum Happened {
    /// Something that was made is different, in these namespaces.
    Made(BTreeSet<String>),
    Tags,
    Classes,
    Due(Due),
}

/// How Gateways are looked after.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The revision whose Gateways these are.
    pub revision: String,
    /// How overlays are laid over what is made.
    pub overlay: Overlay,
    /// Whether Istio's classes are made where they are missing.
    pub classes: bool,
}

/// Keeps the proxies right that `deployments` names and that are this revision's. Runs until it is dropped: only the
/// leader of the revision may run it.
pub async fn keep(client: Client, settings: Settings, mut deployments: watch::Receiver<Arc<Deployments>>) {
    let mut deployer = Deployer::new(client, settings);
    deployments.mark_changed();
    loop {
        let happened = tokio::select! {
            Ok(()) = deployments.changed() => None,
            happened = deployer.happened() => Some(happened),
        };
        let (plans, changed) = latest(&mut deployments);
        if changed || matches!(happened, None | Some(Happened::Tags)) {
            // Those that are as they should be cost a comparison.
            plans.keys().for_each(|key| deployer.look_at(key));
        }
        match happened {
            None | Some(Happened::Tags) => {}
            Some(Happened::Made(namespaces)) => plans
                .keys()
                .filter(|key| {
                    let own = key.namespace.as_ref();
                    own.is_some_and(|own| namespaces.contains(own.as_str()))
                })
                .for_each(|key| deployer.look_at(key)),
            Some(Happened::Classes) => deployer.look_at_classes(),
            Some(Happened::Due(Due::Class(at))) => deployer.class(at).await,
            Some(Happened::Due(Due::Gateway(key))) => deployer.gateway(key, &plans).await,
        }
    }
}

/// What is to be deployed, and whether that has changed since it was last asked: it may have while something else happened,
/// and nothing tells of it again.
fn latest(deployments: &mut watch::Receiver<Arc<Deployments>>) -> (Arc<Deployments>, bool) {
    let current = deployments.borrow_and_update();
    (Arc::clone(&current), current.has_changed())
}

impl Deployer {
    fn new(client: Client, settings: Settings) -> Self {
        let of = |part: Part| {
            let api = Api::all_with(client.clone(), &resource(part.place()));
            Watched::new(api, Config::default().labels(MANAGED), part.place().2, read)
        };
        let tags = Watched::new(
            Api::all(client.clone()),
            Config::default().labels("istio.io/tag"),
            "tags",
            tag,
        );
        let classes = Api::all_with(client.clone(), &class_resource());
        Self {
            made: Part::ALL.into_iter().map(of).collect(),
            tags,
            classes: Watched::new(classes, Config::default(), "GatewayClass", |class| {
                Some((class.metadata.name.clone()?, ()))
            }),
            client,
            settings,
            applied: BTreeMap::new(),
            queue: Queue::new(WRITES_PER_SECOND, BURST),
        }
    }

    /// What happens next. Dropping the future loses nothing.
    async fn happened(&mut self) -> Happened {
        loop {
            // Every event leads here again.
            let synced = self.is_synced();
            let made = futures::future::select_all(self.made.iter_mut().map(|made| made.changed().boxed()));
            tokio::select! {
                (changed, ..) = made => {
                    let namespaces = changed.iter().filter_map(|key| key.split_once('/'));
                    let namespaces: BTreeSet<String> = namespaces.map(|(namespace, _)| namespace.to_owned()).collect();
                    if !namespaces.is_empty() {
                        return Happened::Made(namespaces);
                    }
                }
                changed = self.tags.changed() => if !changed.is_empty() { return Happened::Tags },
                changed = self.classes.changed(), if self.settings.classes => if !changed.is_empty() || self.classes.is_synced() {
                    return Happened::Classes;
                },
                due = self.queue.next(), if synced => return Happened::Due(due),
            }
        }
    }

    /// Whether it is known what is there.
    fn is_synced(&self) -> bool {
        self.tags.is_synced() && self.made.iter().all(Watched::is_synced)
    }

    fn look_at(&mut self, key: &ObjectKey) {
        self.queue.add(Due::Gateway(key.clone()));
    }

    fn look_at_classes(&mut self) {
        let missing = CLASSES
            .iter()
            .enumerate()
            .filter(|(_, class)| !self.classes.facts().contains_key(class.0));
        let missing: Vec<usize> = missing.map(|(at, _)| at).collect();
        missing.into_iter().for_each(|at| self.queue.add(Due::Class(at)));
    }

    /// Makes a class that is missing.
    async fn class(&mut self, at: usize) {
        let due = Due::Class(at);
        let (name, controller, description) = CLASSES[at];
        if !self.classes.is_synced() || self.classes.facts().contains_key(name) {
            return self.queue.done(&due);
        }
        let class = DynamicObject::new(name, &class_resource())
            .data(json!({ "spec": { "controllerName": controller, "description": description } }));
        self.queue.write_allowed().await;
        let api = Api::all_with(self.client.clone(), &class_resource());
        let params = PostParams {
            field_manager: Some(MANAGER.to_owned()),
            ..PostParams::default()
        };
        match api.create(&params, &class).await {
            Ok(made) => {
                tracing::info!(class = name, "made a GatewayClass");
                self.classes.note(&made);
                self.queue.done(&due);
            }
            Err(kube::Error::Api(status)) if status.is_already_exists() => self.queue.done(&due),
            Err(error) => {
                tracing::warn!(%error, class = name, "cannot make a GatewayClass");
                self.queue.retry(due);
            }
        }
    }

    /// Whether a Gateway is this revision's, and not looked after by something newer.
    fn is_mine(&self, plan: &GatewayDeployment) -> bool {
        let named = plan.revision.as_deref().unwrap_or("default");
        let tagged = || {
            let mut tags = self.tags.facts().values();
            tags.any(|(tag, revision)| tag == named && *revision == self.settings.revision)
        };
        let version = plan.controller_version.as_deref().map(str::parse::<u64>);
        let newer = version.is_some_and(|version| version.map_or(true, |version| version > CONTROLLER_VERSION));
        (named == self.settings.revision || tagged()) && !newer
    }

    async fn gateway(&mut self, key: ObjectKey, plans: &Deployments) {
        let due = Due::Gateway(key.clone());
        let Some(plan) = plans.get(&key).filter(|plan| self.is_mine(plan)) else {
            return self.queue.done(&due);
        };
        match self.deploy(&key, plan).await {
            Ok(()) => self.queue.done(&due),
            // The object changed meanwhile; it is looked at anew.
            Err(DeployError::Api(kube::Error::Api(status))) if status.code == 409 => self.queue.retry(due),
            Err(error) => {
                tracing::warn!(%error, gateway = %key, "cannot deploy a Gateway's proxies");
                self.queue.retry(due);
            }
        }
    }
}

fn resource((group, version, kind, plural): (&str, &str, &str, &str)) -> ApiResource {
    ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(group, version, kind), plural)
}

fn class_resource() -> ApiResource {
    resource((lateen_api::gateway_api::GROUP, "v1", "GatewayClass", "gatewayclasses"))
}

/// A tag, and the revision that it stands for.
fn tag(webhooks: &MutatingWebhookConfiguration) -> Option<(String, (String, String))> {
    let labels = webhooks.metadata.labels.as_ref()?;
    let found = (labels.get("istio.io/tag")?.clone(), labels.get("istio.io/rev")?.clone());
    Some((webhooks.metadata.name.clone()?, found))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plans_that_come_while_something_else_happens_are_noticed_once() {
        let (sender, mut receiver) = watch::channel(Arc::<Deployments>::default());
        assert!(!latest(&mut receiver).1);
        sender.send_replace(Arc::default());
        assert!(latest(&mut receiver).1);
        assert!(!latest(&mut receiver).1);
    }
}
