//! Writes what differs of the objects that a Gateway's proxies are made of.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::Arc;

use kube::Api;
use kube::api::{DeleteParams, DynamicObject, Patch, PatchParams};
use lateen_model::deployment::GatewayDeployment;
use lateen_names::ObjectKey;
use serde_json::{Map, Value, json};

use super::objects::{GATEWAY, MANAGED, OLD_GATEWAY, Part};
use super::{Deployer, resource};

/// What was written of an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Applied {
    wanted: u64,
    /// What it came to be by that.
    found: u64,
}

/// A Gateway's proxies cannot be deployed.
#[derive(Debug, thiserror::Error)]
pub(super) enum DeployError {
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

impl Deployer {
    /// Makes a Gateway's objects what they should be.
    pub(super) async fn deploy(&mut self, key: &ObjectKey, plan: &GatewayDeployment) -> Result<(), DeployError> {
        // A broken overlay keeps all of them as they are.
        let mut all = Vec::with_capacity(Part::ALL.len());
        for part in Part::ALL {
            all.push((part, self.wanted(part, key, plan)?));
        }
        for (part, wanted) in all {
            let id = id(key, part.name(plan));
            let Some(wanted) = wanted else {
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
        let labels = object["metadata"]["labels"].take();
        let mut labels = match labels {
            Value::Object(labels) => labels,
            Value::Null => Map::new(),
            _ => return Err(broken("/metadata/labels must be labels".to_owned())),
        };
        for name in [GATEWAY, MANAGED] {
            labels.insert(name.to_owned(), plain["metadata"]["labels"][name].clone());
        }
        object["metadata"]["labels"] = labels.into();
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
    let Some(old) = selector["matchLabels"].get(OLD_GATEWAY) else {
        return;
    };
    // What overlays made of it may be anything; the API server says so then.
    if let Some(wanted) = wanted.pointer_mut("/spec/selector") {
        *wanted = selector.clone();
    }
    if let Some(Value::Object(labels)) = wanted.pointer_mut("/spec/template/metadata/labels") {
        labels.insert(OLD_GATEWAY.to_owned(), old.clone());
    }
}

fn id(key: &ObjectKey, name: &str) -> String {
    match &key.namespace {
        Some(namespace) => format!("{namespace}/{name}"),
        None => name.to_owned(),
    }
}

/// What an object is by, and what must not change unnoticed: everything but its status and who manages it.
pub(super) fn read(object: &DynamicObject) -> Option<(String, u64)> {
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
