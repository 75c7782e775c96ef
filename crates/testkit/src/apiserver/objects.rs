//! Objects in an API server: written as `kubectl apply --server-side` would, whatever their kind.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use k8s_openapi::api::authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::ServiceAccount;
use kube::Client;
use kube::api::{Api, DeleteParams, DynamicObject, Patch, PatchParams, PostParams};
use kube::core::GroupVersionKind;
use kube::discovery::{self, ApiCapabilities, ApiResource, Scope};
use serde::Deserialize as _;
use serde_json::{Value, json};

use super::ApiServer;
use crate::wait::eventually;

/// How long a kind may take to be served after its definition was written.
const ESTABLISHING: Duration = Duration::from_secs(60);
const MANAGER: &str = "lateen-tests";

/// What a service account token is good for.
#[derive(Debug, Clone, Default)]
pub struct TokenFor<'a> {
    /// Its audiences; none is the API server's own.
    pub audiences: &'a [&'a str],
    /// The pod that it is bound to, as a kubelet binds it.
    pub pod: Option<&'a str>,
    /// Its lifetime; none is an hour. The server takes no less than ten minutes.
    pub lifetime: Option<Duration>,
}

impl ApiServer {
    /// See [`Writer::apply`].
    ///
    /// # Errors
    /// As there.
    pub async fn apply(&self, yaml: &str) -> Result<()> {
        self.writer().await?.apply(yaml).await
    }

    /// See [`Writer::delete`].
    ///
    /// # Errors
    /// As there.
    pub async fn delete(&self, yaml: &str) -> Result<()> {
        self.writer().await?.delete(yaml).await
    }

    /// One who writes objects and keeps its connection: for tests that measure time.
    ///
    /// # Errors
    /// When the kubeconfig cannot be read.
    pub async fn writer(&self) -> Result<Writer> {
        Ok(Writer {
            client: self.client().await?,
            kinds: BTreeMap::new(),
            known: BTreeSet::new(),
        })
    }

    /// Installs Istio's definitions from the repository's `crds/`, and Gateway API's where `LATEEN_REFERENCE` leads to
    /// them (it says so where not). Returns when all are served.
    ///
    /// # Errors
    /// When one of them is not taken or not served in time.
    pub async fn install_crds(&self) -> Result<()> {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../crds");
        let mut files: Vec<_> = std::fs::read_dir(&directory)?
            .map(|entry| entry.map(|entry| entry.path()))
            .collect::<Result<_, _>>()?;
        files.sort();
        match std::env::var_os("LATEEN_REFERENCE") {
            Some(reference) => files.push(Path::new(&reference).join("reference/gateway-api-crds.yaml")),
            None => println!("LATEEN_REFERENCE is unset: without the Gateway API's definitions"),
        }
        let mut all = String::new();
        for file in files {
            let text = std::fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
            all.push_str("\n---\n");
            all.push_str(&text);
        }
        self.apply(&all).await?;
        let client = self.client().await?;
        let definition = "apiextensions.k8s.io/v1/CustomResourceDefinition";
        for object in documents(&all)? {
            if describe(&object).starts_with(definition) {
                established(&client, &object).await?;
            }
        }
        Ok(())
    }

    /// A token of a service account.
    ///
    /// # Errors
    /// When there is no such account or pod.
    pub async fn token(&self, namespace: &str, account: &str, purpose: TokenFor<'_>) -> Result<String> {
        let client = self.client().await?;
        let bound = match purpose.pod {
            None => None,
            Some(name) => {
                let pods: Api<k8s_openapi::api::core::v1::Pod> = Api::namespaced(client.clone(), namespace);
                Some(BoundObjectReference {
                    api_version: Some("v1".to_owned()),
                    kind: Some("Pod".to_owned()),
                    name: Some(name.to_owned()),
                    uid: pods.get(name).await?.metadata.uid,
                })
            }
        };
        let request = TokenRequest {
            spec: TokenRequestSpec {
                audiences: purpose
                    .audiences
                    .iter()
                    .map(|audience| (*audience).to_owned())
                    .collect(),
                bound_object_ref: bound,
                expiration_seconds: purpose
                    .lifetime
                    .and_then(|lifetime| i64::try_from(lifetime.as_secs()).ok()),
            },
            ..TokenRequest::default()
        };
        let accounts: Api<ServiceAccount> = Api::namespaced(client, namespace);
        let answer = accounts
            .create_token_request(account, &PostParams::default(), &request)
            .await
            .with_context(|| format!("no token for {namespace}/{account}"))?;
        Ok(answer.status.context("a token request without an answer")?.token)
    }
}

/// Writes objects of any kind; remembers what it has found out about the server.
pub struct Writer {
    client: Client,
    kinds: BTreeMap<(String, String), (ApiResource, ApiCapabilities)>,
    /// Namespaces, and service accounts as `namespace/name`, that are there for sure.
    known: BTreeSet<String>,
}

impl Writer {
    /// Writes all objects of a text of YAML documents, in their order. Status is written, too, where there is any, and
    /// namespaces and pods' service accounts that are not there are made. Objects without namespace go to `default`.
    ///
    /// # Errors
    /// When the text is no YAML, or the API server takes one of the objects not; the error names it.
    pub async fn apply(&mut self, yaml: &str) -> Result<()> {
        for object in documents(yaml)? {
            let what = describe(&object);
            self.write(object).await.with_context(|| what)?;
        }
        Ok(())
    }

    /// Deletes all objects that a text of YAML documents names; the rest of it does not matter. What is not there is no
    /// error. Returns when the API server has taken the requests; a namespace goes on existing for as long as nobody ends it.
    ///
    /// # Errors
    /// When the text is no YAML, or the API server refuses.
    pub async fn delete(&mut self, yaml: &str) -> Result<()> {
        for object in documents(yaml)? {
            let what = describe(&object);
            self.remove(&object).await.with_context(|| what)?;
        }
        Ok(())
    }

    async fn write(&mut self, mut object: Value) -> Result<()> {
        let (api, capabilities) = self.api(&mut object).await?;
        let name = text(&object, "/metadata/name").to_owned();
        if text(&object, "/kind") == "Pod" {
            let namespace = text(&object, "/metadata/namespace").to_owned();
            let account = match text(&object, "/spec/serviceAccountName") {
                "" => "default",
                name => name,
            };
            self.account(&namespace, account).await?;
        }
        // Server-side apply takes neither, and `managedFields` least of all.
        if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
            for field in [
                "managedFields",
                "resourceVersion",
                "uid",
                "creationTimestamp",
                "generation",
            ] {
                metadata.remove(field);
            }
        }
        let status = object.get("status").filter(|status| !status.is_null()).cloned();
        let params = PatchParams::apply(MANAGER).force();
        api.patch(&name, &params, &Patch::Apply(&object)).await?;
        let has_status = capabilities
            .subresources
            .iter()
            .any(|(resource, _)| resource.plural == "status");
        if let Some(status) = status
            && has_status
            && text(&object, "/kind") != "CustomResourceDefinition"
        {
            let patch = json!({"status": status});
            api.patch_status(&name, &PatchParams::default(), &Patch::Merge(&patch))
                .await
                .context("status")?;
        }
        Ok(())
    }

    async fn remove(&mut self, object: &Value) -> Result<()> {
        let mut object = object.clone();
        let (api, _) = self.api(&mut object).await?;
        // Nobody is there who would end a pod's grace.
        let params = DeleteParams {
            grace_period_seconds: (text(&object, "/kind") == "Pod").then_some(0),
            ..DeleteParams::default()
        };
        match api.delete(text(&object, "/metadata/name"), &params).await {
            Ok(_) => Ok(()),
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Where an object is written; sees to it that its namespace is there and that it says so.
    async fn api(&mut self, object: &mut Value) -> Result<(Api<DynamicObject>, ApiCapabilities)> {
        let (resource, capabilities) = self.kind(text(object, "/apiVersion"), text(object, "/kind")).await?;
        if capabilities.scope == Scope::Cluster {
            return Ok((Api::all_with(self.client.clone(), &resource), capabilities));
        }
        let namespace = match text(object, "/metadata/namespace") {
            "" => "default".to_owned(),
            namespace => namespace.to_owned(),
        };
        object["metadata"]["namespace"] = json!(namespace);
        self.namespace(&namespace).await?;
        let api = Api::namespaced_with(self.client.clone(), &namespace, &resource);
        Ok((api, capabilities))
    }

    /// Waits for kinds whose definition was just written.
    async fn kind(&mut self, api_version: &str, kind: &str) -> Result<(ApiResource, ApiCapabilities)> {
        let key = (api_version.to_owned(), kind.to_owned());
        if let Some(known) = self.kinds.get(&key) {
            return Ok(known.clone());
        }
        let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
        let wanted = GroupVersionKind::gvk(group, version, kind);
        let what = format!("{kind} of {api_version} is served");
        let found = eventually(&what, ESTABLISHING, async || {
            discovery::pinned_kind(&self.client, &wanted).await.ok()
        });
        let found = found.await?;
        self.kinds.insert(key, found.clone());
        Ok(found)
    }

    async fn namespace(&mut self, name: &str) -> Result<()> {
        if self.known.insert(name.to_owned()) {
            self.ensure("v1", "Namespace", &json!({"metadata": {"name": name}}))
                .await?;
        }
        Ok(())
    }

    async fn account(&mut self, namespace: &str, name: &str) -> Result<()> {
        if self.known.insert(format!("{namespace}/{name}")) {
            let account = json!({"metadata": {"name": name, "namespace": namespace}});
            self.ensure("v1", "ServiceAccount", &account).await?;
        }
        Ok(())
    }

    /// Makes an object unless it is there.
    async fn ensure(&mut self, api_version: &str, kind: &str, object: &Value) -> Result<()> {
        let (resource, _) = self.kind(api_version, kind).await?;
        let api: Api<DynamicObject> = match text(object, "/metadata/namespace") {
            "" => Api::all_with(self.client.clone(), &resource),
            namespace => Api::namespaced_with(self.client.clone(), namespace, &resource),
        };
        match api
            .create(&PostParams::default(), &serde_json::from_value(object.clone())?)
            .await
        {
            Ok(_) => Ok(()),
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

/// Waits until the objects of a definition are served in all its versions.
async fn established(client: &Client, definition: &Value) -> Result<()> {
    let name = text(definition, "/metadata/name");
    let (group, kind) = (text(definition, "/spec/group"), text(definition, "/spec/names/kind"));
    let versions = definition.pointer("/spec/versions").and_then(Value::as_array);
    for version in versions.into_iter().flatten() {
        if version.get("served") == Some(&Value::Bool(true)) {
            let wanted = GroupVersionKind::gvk(group, text(version, "/name"), kind);
            let what = format!("{name} is served");
            eventually(&what, ESTABLISHING, async || {
                discovery::pinned_kind(client, &wanted).await.ok()
            })
            .await?;
        }
    }
    Ok(())
}

/// The objects of all documents; of lists those in them.
fn documents(yaml: &str) -> Result<Vec<Value>> {
    let mut objects = Vec::new();
    for document in serde_yaml::Deserializer::from_str(yaml) {
        let value = Value::deserialize(document)?;
        match value.get("items").and_then(Value::as_array) {
            Some(items) if text(&value, "/kind").ends_with("List") => objects.extend(items.iter().cloned()),
            _ if value.is_null() => {}
            _ if text(&value, "/kind").is_empty() => bail!("a document without `kind`: {value}"),
            _ => objects.push(value),
        }
    }
    Ok(objects)
}

fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

fn describe(object: &Value) -> String {
    format!(
        "{}/{} {}/{}",
        text(object, "/apiVersion"),
        text(object, "/kind"),
        text(object, "/metadata/namespace"),
        text(object, "/metadata/name")
    )
}
