//! An object as the API server sends it, before anybody knows what it means.

use std::borrow::Cow;
use std::fmt;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::ApiResource;
use kube::core::{DynamicResourceScope, Resource};
use lateen_lower::Kind;
use lateen_lower::object::Scope;
use lateen_names::{Name, Namespace, ObjectKey};
use serde::{Deserialize, Deserializer};
use serde_json::Value;

/// Any object. Its `Debug` shows its name only: it may be a Secret.
#[derive(Clone)]
pub(super) struct Raw {
    /// What the watch needs of the metadata: namespace, name and version.
    meta: ObjectMeta,
    pub value: Value,
}

impl Raw {
    /// Namespace and name; `None` for names that no object of ours has.
    pub(super) fn key(&self, kind: Kind) -> Option<ObjectKey> {
        let namespace = match kind.scope() {
            Scope::Cluster => None,
            Scope::Namespaced => Some(Namespace::new(self.meta.namespace.as_deref()?).ok()?),
        };
        Some(ObjectKey {
            namespace,
            name: Name::new(self.meta.name.as_deref()?).ok()?,
        })
    }

    /// Its version. Of objects of one kind, later changes have higher ones.
    pub(super) fn version(&self) -> u64 {
        let version = self.meta.resource_version.as_deref();
        version.and_then(|version| version.parse().ok()).unwrap_or_default()
    }
}

impl<'de> Deserialize<'de> for Raw {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = Value::deserialize(deserializer)?;
        let text = |field: &str| Some(value.get("metadata")?.get(field)?.as_str()?.to_owned());
        let meta = ObjectMeta {
            name: text("name"),
            namespace: text("namespace"),
            resource_version: text("resourceVersion"),
            ..ObjectMeta::default()
        };
        Ok(Self { meta, value })
    }
}

impl fmt::Debug for Raw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = |text: &Option<String>| text.clone().unwrap_or_default();
        write!(f, "{}/{}", text(&self.meta.namespace), text(&self.meta.name))
    }
}

impl Resource for Raw {
    type DynamicType = ApiResource;
    type Scope = DynamicResourceScope;

    fn kind(resource: &ApiResource) -> Cow<'_, str> {
        resource.kind.as_str().into()
    }

    fn group(resource: &ApiResource) -> Cow<'_, str> {
        resource.group.as_str().into()
    }

    fn version(resource: &ApiResource) -> Cow<'_, str> {
        resource.version.as_str().into()
    }

    fn api_version(resource: &ApiResource) -> Cow<'_, str> {
        resource.api_version.as_str().into()
    }

    fn plural(resource: &ApiResource) -> Cow<'_, str> {
        resource.plural.as_str().into()
    }

    fn meta(&self) -> &ObjectMeta {
        &self.meta
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.meta
    }
}
