//! The proxies of Gateways: for each Gateway of a class of Lateen's, unless its addresses name a service that is there
//! already, a service account, a Deployment and a Service, and an autoscaler and a disruption budget where overlays ask
//! for them; and the classes themselves.
//!
//! Everything is server-side applied in the controller's name, so that what others add stays and what they change is put
//! right. What is there already without having been made for a Gateway is not touched. What is made is owned by its
//! Gateway, and goes with it.

mod objects;

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::Arc;

use futures::FutureExt as _;
use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use kube::api::{ApiResource, DeleteParams, DynamicObject, Patch, PatchParams, PostParams};
use kube::runtime::watcher::Config;
use kube::{Api, Client};
use lateen_model::deployment::{Deployments, GatewayDeployment};
use lateen_names::ObjectKey;
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::MANAGER;
use crate::queue::Queue;
use crate::watched::Watched;
use objects::{GATEWAY, MANAGED, OLD_GATEWAY, Part};

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

/// What was written of an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Applied {
    wanted: u64,
    /// What it came to be by that.
    found: u64,
}

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
    /// Something that was made is different, in this namespace.
    Made(String),
    Tags,
    Classes,
    Due(Due),
}

/// A Gateway's proxies cannot be deployed.
#[derive(Debug, thiserror::Error)]
enum DeployError {
    #[error("{0}")]
    Api(#[from] kube::Error),
    #[error(
        "overlay `{part}`: {reason}; correct the ConfigMap that parametersRef or the label gateway.istio.io/defaults-for-class names"
    )]
    Overlay { part: &'static str, reason: String },
    #[error(
        "{kind} {name} is there already and was not made for a Gateway; rename one of them (gateway.istio.io/name-override)"
    )]
    Foreign { kind: &'static str, name: String },
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
        let plans = Arc::clone(&deployments.borrow_and_update());
        match happened {
            // Those that are as they should be cost a comparison.
            None | Some(Happened::Tags) => plans.keys().for_each(|key| deployer.look_at(key)),
            Some(Happened::Made(namespace)) => plans
                .keys()
                .filter(|key| key.namespace.as_ref().is_some_and(|own| *own == *namespace))
                .for_each(|key| deployer.look_at(key)),
            Some(Happened::Classes) => deployer.look_at_classes(),
            Some(Happened::Due(Due::Class(at))) => deployer.class(at).await,
            Some(Happened::Due(Due::Gateway(key))) => deployer.gateway(key, &plans).await,
        }
    }
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
                    let namespace = changed.first().and_then(|key| key.split_once('/'));
                    if let Some((namespace, _)) = namespace {
                        return Happened::Made(namespace.to_owned());
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

    async fn deploy(&mut self, key: &ObjectKey, plan: &GatewayDeployment) -> Result<(), DeployError> {
        for part in Part::ALL {
            let id = id(key, part.name(plan));
            let Some(wanted) = self.wanted(part, key, plan)? else {
                self.remove(part, key, &id).await?;
                continue;
            };
            let wanted_hash = hash(&wanted);
            let applied = self.applied.get(&(part, id.clone()));
            let found = self.made[part as usize].facts().get(&id);
            if applied.is_some_and(|applied| applied.wanted == wanted_hash && Some(&applied.found) == found) {
                continue;
            }
            self.queue.write_allowed().await;
            let object = self.apply(part, key, plan, wanted).await?;
            if let Some((id, found)) = read(&object) {
                self.made[part as usize].note(&object);
                let applied = Applied {
                    wanted: wanted_hash,
                    found,
                };
                if self.applied.insert((part, id), applied) != Some(applied) {
                    tracing::info!(kind = part.place().2, name = &**part.name(plan), gateway = %key, "applied");
                }
            }
        }
        Ok(())
    }

    /// The object with its overlays; `None` where nothing asks for it.
    fn wanted(&self, part: Part, key: &ObjectKey, plan: &GatewayDeployment) -> Result<Option<Value>, DeployError> {
        let plain = part.object(key, plan, &self.settings.revision);
        let mut object = plain.clone();
        let patches: Vec<&Arc<str>> = plan
            .overlays
            .iter()
            .filter_map(|overlay| overlay.get(part.overlay()))
            .collect();
        if patches.is_empty() && part.is_optional() {
            return Ok(None);
        }
        let broken = |reason: String| DeployError::Overlay {
            part: part.overlay(),
            reason,
        };
        for patch in patches {
            object = (self.settings.overlay)(part.place().2, &object, patch).map_err(broken)?;
        }
        for field in [
            "/apiVersion",
            "/kind",
            "/metadata/name",
            "/metadata/namespace",
            "/metadata/ownerReferences",
        ] {
            if object.pointer(field) != plain.pointer(field) {
                return Err(broken(format!("{field} cannot be changed")));
            }
        }
        for name in [GATEWAY, MANAGED] {
            object["metadata"]["labels"][name] = plain["metadata"]["labels"][name].clone();
        }
        Ok(Some(object))
    }

    async fn apply(
        &mut self,
        part: Part,
        key: &ObjectKey,
        plan: &GatewayDeployment,
        mut wanted: Value,
    ) -> Result<DynamicObject, DeployError> {
        let name = &**part.name(plan);
        let api = self.api(part, key);
        if let Some(there) = api.get_opt(name).await? {
            let labels = there.metadata.labels.as_ref();
            if !labels.is_some_and(|labels| labels.contains_key(MANAGED)) {
                return Err(DeployError::Foreign {
                    kind: part.place().2,
                    name: name.to_owned(),
                });
            }
            if part == Part::Deployment {
                keep_selector(&mut wanted, &there.data);
            }
            wanted["metadata"]["resourceVersion"] = there.metadata.resource_version.into();
        }
        let params = PatchParams::apply(&plan.controller).force();
        Ok(api.patch(name, &params, &Patch::Apply(&wanted)).await?)
    }

    /// Takes away what was made for the Gateway and is asked for no more.
    async fn remove(&mut self, part: Part, key: &ObjectKey, id: &str) -> Result<(), DeployError> {
        if !self.made[part as usize].facts().contains_key(id) {
            return Ok(());
        }
        let api = self.api(part, key);
        let name = id.rsplit('/').next().unwrap_or(id);
        let Some(there) = api.get_opt(name).await? else {
            return Ok(());
        };
        let label = |name: &str| there.metadata.labels.as_ref().and_then(|labels| labels.get(name));
        if label(GATEWAY).is_none_or(|gateway| *gateway != *key.name.as_str()) || label(MANAGED).is_none() {
            return Ok(());
        }
        self.queue.write_allowed().await;
        self.applied.remove(&(part, id.to_owned()));
        match api.delete(name, &DeleteParams::default()).await {
            Ok(_) => {
                tracing::info!(kind = part.place().2, name, gateway = %key, "deleted, for no overlay asks for it");
                Ok(())
            }
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    fn api(&self, part: Part, key: &ObjectKey) -> Api<DynamicObject> {
        let namespace = key.namespace.as_ref().map(|namespace| namespace.as_str());
        Api::namespaced_with(
            self.client.clone(),
            namespace.unwrap_or_default(),
            &resource(part.place()),
        )
    }
}

/// A Deployment that Istio made before 1.24 keeps its selector, which cannot be changed.
fn keep_selector(wanted: &mut Value, there: &Value) {
    let selector = &there["spec"]["selector"];
    if let Some(old) = selector["matchLabels"].get(OLD_GATEWAY) {
        wanted["spec"]["selector"] = selector.clone();
        wanted["spec"]["template"]["metadata"]["labels"][OLD_GATEWAY] = old.clone();
    }
}

fn resource((group, version, kind, plural): (&str, &str, &str, &str)) -> ApiResource {
    ApiResource {
        group: group.to_owned(),
        version: version.to_owned(),
        api_version: match group {
            "" => version.to_owned(),
            group => format!("{group}/{version}"),
        },
        kind: kind.to_owned(),
        plural: plural.to_owned(),
    }
}

fn class_resource() -> ApiResource {
    resource((lateen_api::gateway_api::GROUP, "v1", "GatewayClass", "gatewayclasses"))
}

fn id(key: &ObjectKey, name: &str) -> String {
    match &key.namespace {
        Some(namespace) => format!("{namespace}/{name}"),
        None => name.to_owned(),
    }
}

/// What an object is by, and what must not change unnoticed: everything but its status and who manages it.
fn read(object: &DynamicObject) -> Option<(String, u64)> {
    let meta = &object.metadata;
    let name = format!("{}/{}", meta.namespace.as_deref()?, meta.name.as_deref()?);
    let parts = json!([
        meta.labels,
        meta.annotations,
        meta.owner_references,
        meta.uid,
        object.data.get("spec")
    ]);
    Some((name, hash(&parts)))
}

fn hash(value: &Value) -> u64 {
    let mut hasher = DefaultHasher::new();
    // Maps of JSON are ordered here.
    value.to_string().hash(&mut hasher);
    hasher.finish()
}

/// A tag, and the revision that it stands for.
fn tag(webhooks: &MutatingWebhookConfiguration) -> Option<(String, (String, String))> {
    let labels = webhooks.metadata.labels.as_ref()?;
    let found = (labels.get("istio.io/tag")?.clone(), labels.get("istio.io/rev")?.clone());
    Some((webhooks.metadata.name.clone()?, found))
}
