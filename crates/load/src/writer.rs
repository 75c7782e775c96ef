//! One who writes to the API server: the few kinds of a mesh, by server-side apply, so that writing twice changes nothing.

use std::path::PathBuf;

use anyhow::{Context as _, Result, anyhow};
use kube::Client;
use kube::api::{Api, DeleteParams, DynamicObject, ListParams, Patch, PatchParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::discovery::ApiResource;
use serde_json::{Value, json};

use crate::mesh::LABEL;

const MANAGER: &str = "lateen-load";

/// Which API server, and as whom.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct Access {
    /// File that says how to reach the API server [default: what kubectl would read]
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// Context in it [default: its current one]
    #[arg(long, value_name = "NAME")]
    pub context: Option<String>,
}

/// A kind that a mesh has objects of.
struct Kind {
    api_version: &'static str,
    name: &'static str,
    plural: &'static str,
    /// Its objects belong to a namespace.
    namespaced: bool,
}

const fn kind(api_version: &'static str, name: &'static str, plural: &'static str) -> Kind {
    Kind {
        api_version,
        name,
        plural,
        namespaced: true,
    }
}

const KINDS: [Kind; 12] = [
    kind("v1", "ConfigMap", "configmaps"),
    kind("v1", "Pod", "pods"),
    kind("v1", "Service", "services"),
    kind("v1", "ServiceAccount", "serviceaccounts"),
    kind("discovery.k8s.io/v1", "EndpointSlice", "endpointslices"),
    kind("networking.istio.io/v1", "DestinationRule", "destinationrules"),
    kind("networking.istio.io/v1", "Sidecar", "sidecars"),
    kind("networking.istio.io/v1", "VirtualService", "virtualservices"),
    kind("security.istio.io/v1", "AuthorizationPolicy", "authorizationpolicies"),
    kind("security.istio.io/v1", "PeerAuthentication", "peerauthentications"),
    Kind {
        namespaced: false,
        ..kind("v1", "Namespace", "namespaces")
    },
    Kind {
        namespaced: false,
        ..kind("v1", "Node", "nodes")
    },
];

/// One who writes to an API server.
#[derive(Clone)]
pub struct Writer {
    client: Client,
}

// === impl Writer ===

impl Writer {
    /// Reads how to reach the API server.
    ///
    /// # Errors
    /// When there is no such file or context.
    pub async fn new(access: &Access) -> Result<Self> {
        let options = KubeConfigOptions {
            context: access.context.clone(),
            ..KubeConfigOptions::default()
        };
        // Its errors repeat their sources.
        let config = match &access.kubeconfig {
            Some(path) => {
                let named = |error| anyhow!("--kubeconfig {}: {error}", path.display());
                let file = Kubeconfig::read_from(path).map_err(named)?;
                kube::Config::from_custom_kubeconfig(file, &options)
                    .await
                    .map_err(named)?
            }
            None if access.context.is_some() => {
                let config = kube::Config::from_kubeconfig(&options).await;
                config.map_err(|error| anyhow!("no cluster: {error}"))?
            }
            None => kube::Config::infer().await.map_err(|error| {
                anyhow!("no cluster: name a kubeconfig with --kubeconfig, or set KUBECONFIG ({error})")
            })?,
        };
        Ok(Self {
            client: Client::try_from(config)?,
        })
    }

    pub(crate) fn client(&self) -> Client {
        self.client.clone()
    }

    /// Writes an object, and its status where it has one.
    ///
    /// # Errors
    /// When the API server does not take it; the message names the object.
    pub(crate) async fn apply(&self, object: &Value) -> Result<()> {
        let name = text(object, "/metadata/name");
        let api = self.api(
            text(object, "/kind"),
            object.pointer("/metadata/namespace").and_then(Value::as_str),
        )?;
        let params = PatchParams::apply(MANAGER).force();
        let said = |error: kube::Error| anyhow!("{} {name}: {}", text(object, "/kind"), hint(error));
        api.patch(name, &params, &Patch::Apply(object)).await.map_err(said)?;
        if let Some(status) = object.get("status") {
            let patch = Patch::Merge(json!({"status": status}));
            api.patch_status(name, &PatchParams::default(), &patch)
                .await
                .map_err(said)?;
        }
        Ok(())
    }

    /// An object, if it is there.
    ///
    /// # Errors
    /// When the API server does not answer.
    pub(crate) async fn get(&self, kind: &str, namespace: Option<&str>, name: &str) -> Result<Option<Value>> {
        let found = self.api(kind, namespace)?.get_opt(name).await;
        let found = found.map_err(|error| anyhow!("{kind} {name}: {}", hint(error)))?;
        Ok(found.map(serde_json::to_value).transpose()?)
    }

    /// Deletes an object, if it is there.
    ///
    /// # Errors
    /// When the API server refuses.
    pub(crate) async fn delete(&self, kind: &str, namespace: Option<&str>, name: &str) -> Result<()> {
        match self.api(kind, namespace)?.delete(name, &DeleteParams::default()).await {
            Ok(_) => Ok(()),
            Err(error) if not_there(&error) => Ok(()),
            Err(error) => Err(anyhow!("{kind} {name}: {}", hint(error))),
        }
    }

    /// The names of the objects of a kind without namespace that were made here.
    ///
    /// # Errors
    /// When the API server does not answer.
    pub(crate) async fn made(&self, kind: &str) -> Result<Vec<String>> {
        let list = self.api(kind, None)?.list(&made_here()).await;
        let list = list.map_err(|error| anyhow!("{kind}: {}", hint(error)))?;
        Ok(list
            .items
            .into_iter()
            .filter_map(|object| object.metadata.name)
            .collect())
    }

    /// Deletes all that was made here in a namespace. A lone API server would not do it when the namespace is deleted.
    ///
    /// # Errors
    /// When the API server refuses.
    pub(crate) async fn empty(&self, namespace: &str) -> Result<()> {
        let params = DeleteParams {
            // No kubelet is there to end a pod's grace.
            grace_period_seconds: Some(0),
            ..DeleteParams::default()
        };
        for kind in KINDS.iter().filter(|kind| kind.namespaced) {
            match self
                .api(kind.name, Some(namespace))?
                .delete_collection(&params, &made_here())
                .await
            {
                Ok(_) => {}
                Err(error) if not_there(&error) => {}
                Err(error) => return Err(anyhow!("{} in {namespace}: {}", kind.name, hint(error))),
            }
        }
        Ok(())
    }

    fn api(&self, kind: &str, namespace: Option<&str>) -> Result<Api<DynamicObject>> {
        let known = KINDS.iter().find(|known| known.name == kind);
        let kind = known.with_context(|| format!("objects of kind {kind} are not written"))?;
        let (group, version) = kind.api_version.split_once('/').unwrap_or(("", kind.api_version));
        let resource = ApiResource {
            group: group.to_owned(),
            version: version.to_owned(),
            api_version: kind.api_version.to_owned(),
            kind: kind.name.to_owned(),
            plural: kind.plural.to_owned(),
        };
        Ok(match namespace {
            Some(namespace) => Api::namespaced_with(self.client.clone(), namespace, &resource),
            None => Api::all_with(self.client.clone(), &resource),
        })
    }
}

fn made_here() -> ListParams {
    ListParams::default().labels(&format!("{LABEL}=true"))
}

fn not_there(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 404)
}

/// What the API server said, and what to do where it is plain.
fn hint(error: kube::Error) -> String {
    match error {
        kube::Error::Api(status) if status.code == 404 => {
            format!(
                "{} (are Istio's definitions installed? `kubectl apply -f crds`)",
                status.message
            )
        }
        kube::Error::Api(status) => status.message.clone(),
        other => format!("{:#}", anyhow!(other)),
    }
}

fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}
