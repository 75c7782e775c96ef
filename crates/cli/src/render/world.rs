//! From files to a snapshot, and to the proxies in it.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use k8s_openapi::api::core::v1::Pod;
use lateen_lower::node::{PodNode, kind_of_pod, node_for_pod, proxy_from_node};
use lateen_lower::{Change, Event, Index, Kind, Object, Settings};
use lateen_model::proxy::ProxyKind;
use lateen_model::{Proxy, Snapshot};
use lateen_names::{ClusterId, ObjectKey, ObjectRef};
use lateen_proto::envoy::config::core::v3::Node;
use lateen_sources::file::{self, FileObjects, Problem, Verdict};
use lateen_sources::kube;
use serde_json::{Map, Value, json};

/// The version of Istio's agent whose Node is made for a pod.
const AGENT_VERSION: &str = "1.32.0";

/// Where a world is read from.
#[derive(Debug, Clone, Default)]
pub struct Inputs {
    /// Files and directories with the local cluster's objects.
    pub files: Vec<PathBuf>,
    /// MeshConfig, in place of the ConfigMap's.
    pub mesh_config: Option<PathBuf>,
    /// MeshNetworks, in place of the ConfigMap's.
    pub mesh_networks: Option<PathBuf>,
    /// Other clusters and their objects.
    pub remote_clusters: Vec<(ClusterId, PathBuf)>,
    /// Environment variables of the control plane.
    pub environment: Option<PathBuf>,
    /// Whether objects that admission would refuse are kept.
    pub keep_rejected: bool,
}

/// A world that has been read and lowered.
#[derive(Debug)]
pub struct World {
    index: Index,
    snapshot: Arc<Snapshot>,
    /// Objects by the cluster they are in, the local one first.
    clusters: Vec<(ClusterId, FileObjects)>,
    domain: String,
    system_namespace: String,
    verdicts: Vec<Verdict>,
    problems: Vec<Problem>,
}

impl World {
    /// Reads and lowers everything. What is wrong with single objects and files is among the [`problems`](Self::problems).
    ///
    /// # Errors
    /// When one of the documents beside the objects (mesh settings, environment) cannot be read.
    pub fn load(inputs: &Inputs) -> Result<Self> {
        let mut settings = Settings::new("")?;
        settings.mesh = inputs.mesh_config.as_deref().map(document).transpose()?;
        settings.networks = inputs.mesh_networks.as_deref().map(document).transpose()?;
        settings.environment = inputs
            .environment
            .as_deref()
            .map(environment)
            .transpose()?
            .unwrap_or_default();
        let local = settings.cluster.clone();
        let mut read = file::load_once(&inputs.files, local.clone(), inputs.keep_rejected)?;
        let mut clusters = vec![(local, std::mem::take(&mut read.objects))];
        for (id, path) in &inputs.remote_clusters {
            let remote = file::load_once(std::slice::from_ref(path), id.clone(), inputs.keep_rejected)?;
            read.problems.extend(remote.problems);
            clusters.push((id.clone(), remote.objects));
        }
        Ok(Self::lower(settings, clusters, read.verdicts, read.problems))
    }

    /// Reads and lowers what a Kubernetes cluster holds now.
    ///
    /// # Errors
    /// When the cluster cannot be read within the time given.
    pub async fn of_cluster(kubeconfig: Option<&Path>, patience: Duration) -> Result<Self> {
        let settings = Settings::new("")?;
        let client = kube::connect(kubeconfig).await?;
        let read = tokio::time::timeout(patience, kube::read_once(client, &settings)).await;
        let update = read.with_context(|| {
            format!(
                "the API server has not told all that it holds within {}",
                humantime::format_duration(patience)
            )
        })??;
        let objects = update.events.into_iter().filter_map(|event| match event.change {
            Change::Apply(object) => Some((object.kind(), object.key().ok()?, object)),
            Change::Delete { .. } => None,
        });
        let clusters = vec![(settings.cluster.clone(), objects.collect())];
        Ok(Self::lower(settings, clusters, Vec::new(), update.problems.to_vec()))
    }

    fn lower(
        settings: Settings,
        clusters: Vec<(ClusterId, FileObjects)>,
        verdicts: Vec<Verdict>,
        problems: Vec<Problem>,
    ) -> Self {
        let domain = settings.domain.clone();
        let system_namespace = settings.system_namespace.to_string();
        let mut index = Index::new(settings);
        for (cluster, objects) in &clusters {
            let event = |object: &Arc<Object>| Event {
                cluster: cluster.clone(),
                change: Change::Apply(Arc::clone(object)),
            };
            index.apply(objects.iter().map(|(_, _, object)| event(object)).collect());
        }
        let snapshot = index.publish();
        Self {
            index,
            snapshot,
            clusters,
            domain,
            system_namespace,
            verdicts,
            problems,
        }
    }

    /// The world, lowered.
    pub fn snapshot(&self) -> &Snapshot {
        &self.snapshot
    }

    /// What is wrong with files and objects.
    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }

    /// What admission says to each custom resource.
    pub fn validation(&self) -> Value {
        // As with `kubectl apply`, the last of several objects of one name is the one that is there.
        let mut places: HashMap<&ObjectRef, usize> = HashMap::new();
        let mut there: Vec<&Verdict> = Vec::new();
        for verdict in &self.verdicts {
            let place = *places.entry(&verdict.object).or_insert(there.len());
            match there.get_mut(place) {
                Some(earlier) => *earlier = verdict,
                None => there.push(verdict),
            }
        }
        there.into_iter().map(verdict).collect()
    }

    /// The proxy of the pod `<pod>.<namespace>`, as its agent would describe it.
    ///
    /// # Errors
    /// When there is no such pod, or too little of it is known for a proxy.
    pub fn proxy_of_pod(&self, name: &str) -> Result<Proxy> {
        let Some((pod_name, namespace)) = name.rsplit_once('.') else {
            bail!("`{name}` names no pod; write it as <pod>.<namespace>");
        };
        let Some((cluster, objects, pod)) = self.pod(pod_name, namespace) else {
            bail!(
                "there is no Pod {namespace}/{pod_name} in the files; there are {}",
                self.pods()
            );
        };
        let on = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref());
        let node = of(objects, Kind::Node).find_map(|(key, object)| match object {
            Object::Node(node) if Some(key.name.as_str()) == on => Some(node),
            _ => None,
        });
        let node = node_for_pod(PodNode {
            pod,
            kind: kind_of_pod(pod),
            node,
            objects: self.index.objects(),
            mesh: self.index.mesh_config(),
            network: self.network_of(objects),
            cluster: cluster.as_str(),
            domain: &self.domain,
            version: AGENT_VERSION,
        });
        let Some(node) = node else {
            bail!("Pod {namespace}/{pod_name} has no proxy yet: it needs a spec and status.podIP");
        };
        Ok(proxy_from_node(&node, &self.snapshot)?)
    }

    /// Suffix of the names of services.
    pub fn domain(&self) -> &str {
        &self.domain
    }

    /// The pod at an address, as `<pod>.<namespace>`.
    pub fn pod_at(&self, ip: IpAddr) -> Option<String> {
        let at = ip.to_string();
        let here = |pod: &Pod| {
            let status = pod.status.as_ref();
            status.is_some_and(|status| {
                status.pod_ip.as_ref() == Some(&at) || status.pod_ips.iter().flatten().any(|one| one.ip == at)
            })
        };
        self.clusters.iter().find_map(|(_, objects)| {
            of(objects, Kind::Pod).find_map(|(key, object)| match object {
                Object::Pod(pod) if here(pod) => Some(full_name(key)),
                _ => None,
            })
        })
    }

    /// Whether something says that the pod `<pod>.<namespace>` has a proxy: the label or the container of an injected one.
    pub fn has_proxy(&self, name: &str) -> bool {
        let Some((pod_name, namespace)) = name.rsplit_once('.') else {
            return false;
        };
        let Some((_, _, pod)) = self.pod(pod_name, namespace) else {
            return false;
        };
        let labels = pod.metadata.labels.as_ref();
        let labelled = labels.is_some_and(|labels| labels.contains_key("security.istio.io/tlsMode"));
        let spec = pod.spec.as_ref();
        let mut containers = spec.into_iter().flat_map(|spec| {
            let init = spec.init_containers.iter().flatten();
            spec.containers.iter().chain(init)
        });
        labelled || kind_of_pod(pod) == ProxyKind::Router || containers.any(|one| one.name == "istio-proxy")
    }

    /// The proxy that sends the Node in a file.
    ///
    /// # Errors
    /// When the file holds no Node, or one that describes no proxy.
    pub fn proxy_of_node_file(&self, path: &Path) -> Result<Proxy> {
        let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        let json: Value = serde_json::from_str(&text).with_context(|| format!("{} is not JSON", path.display()))?;
        let node: Node = lateen_proto::from_json(&json).with_context(|| format!("{} holds no Node", path.display()))?;
        proxy_from_node(&node, &self.snapshot).with_context(|| path.display().to_string())
    }

    fn pod(&self, name: &str, namespace: &str) -> Option<(&ClusterId, &FileObjects, &Pod)> {
        self.clusters.iter().find_map(|(cluster, objects)| {
            let pod = of(objects, Kind::Pod).find_map(|(key, object)| match object {
                Object::Pod(pod) if full_name(key) == format!("{name}.{namespace}") => Some(pod),
                _ => None,
            });
            pod.map(|pod| (cluster, objects, pod))
        })
    }

    /// The first few pods, for people who mistyped one.
    fn pods(&self) -> String {
        const SHOWN: usize = 8;
        let keys = self.clusters.iter().flat_map(|(_, objects)| of(objects, Kind::Pod));
        let pods: Vec<String> = keys.map(|(key, _)| full_name(key)).collect();
        match pods.len() {
            0 => "no pods".to_owned(),
            count if count > SHOWN => format!("{} and {} more", pods[..SHOWN].join(", "), count - SHOWN),
            _ => pods.join(", "),
        }
    }

    /// The network that the namespace of the control plane says its cluster is on.
    fn network_of<'a>(&self, objects: &'a FileObjects) -> Option<&'a str> {
        of(objects, Kind::Namespace).find_map(|(key, object)| match object {
            Object::Namespace(namespace) if *key.name.as_str() == *self.system_namespace => namespace
                .metadata
                .labels
                .as_ref()?
                .get("topology.istio.io/network")
                .map(String::as_str),
            _ => None,
        })
    }
}

/// The objects of a kind.
fn of(objects: &FileObjects, wanted: Kind) -> impl Iterator<Item = (&ObjectKey, &Object)> {
    objects
        .iter()
        .filter(move |(kind, _, _)| *kind == wanted)
        .map(|(_, key, object)| (key, &**object))
}

/// `<pod>.<namespace>`.
fn full_name(key: &ObjectKey) -> String {
    let namespace = key
        .namespace
        .as_ref()
        .map(|namespace| namespace.as_str())
        .unwrap_or_default();
    format!("{}.{namespace}", key.name)
}

fn document(path: &Path) -> Result<Value> {
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    lateen_lower::yaml::parse(&text).with_context(|| path.display().to_string())
}

fn environment(path: &Path) -> Result<BTreeMap<String, String>> {
    let variables = match document(path)? {
        Value::Null => Map::new(),
        Value::Object(variables) => variables,
        _ => bail!("{} must be a map of variables, `NAME: \"value\"`", path.display()),
    };
    let pair = |(name, value): (String, Value)| match value {
        Value::String(text) => Ok((name, text)),
        Value::Bool(_) | Value::Number(_) => Ok((name, value.to_string())),
        Value::Null => Ok((name, String::new())),
        _ => bail!("{}: {name} must be text", path.display()),
    };
    variables.into_iter().map(pair).collect()
}

/// One entry of `validation.json`; fields that say nothing are left out.
fn verdict(verdict: &Verdict) -> Value {
    let key = &verdict.object.key;
    let mut entry = json!({
        "apiVersion": verdict.api_version,
        "kind": verdict.object.kind,
        "namespace": key.namespace.as_ref().map(|namespace| namespace.as_str()).unwrap_or_default(),
        "name": key.name.as_str(),
        "accepted": verdict.accepted(),
    });
    if !verdict.schema.is_empty() {
        entry["crdError"] = verdict.schema.join("; ").into();
    }
    entry["istiodAccepts"] = verdict.errors.is_empty().into();
    if !verdict.errors.is_empty() {
        entry["error"] = verdict.errors.join("; ").into();
    }
    if !verdict.warnings.is_empty() {
        entry["warnings"] = json!(verdict.warnings);
    }
    entry
}
