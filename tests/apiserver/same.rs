//! The same objects give the same configuration, whether they come from files or from an API server.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, Result};
use k8s_openapi::api::core::v1::Service;
use kube::Client;
use kube::api::{Api, DynamicObject, ListParams};
use kube::core::GroupVersionKind;
use kube::discovery;
use lateen_cli::render::render;
use lateen_lower::node::proxy_from_node;
use lateen_lower::{Change, Event, Index, Kind, Settings};
use lateen_model::Snapshot;
use lateen_proto::envoy::config::core::v3::Node;
use lateen_sources::{file, kube as cluster};
use lateen_testkit::{ApiServer, Lateend, World};
use serde::Deserialize as _;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::proxy::{PATIENCE, Sidecar};
use crate::scene::{lateend, scene};

/// Scenarios of every area; what admission refuses is in none of them, since an API server takes it for no answer.
const SCENARIOS: &[&str] = &[
    "authz-allow-paths",
    "dr-subsets",
    "dr-tls-credential",
    "ef-cluster",
    "gapi-mesh",
    "gapi-tls",
    "gw-https-mutual",
    "mesh-discovery-selectors",
    "pa-mesh-strict",
    "route-delegate",
    "route-export-to",
    "samples-bookinfo-versions",
    "samples-gwapi-bookinfo",
];

#[tokio::test]
async fn bookinfo_gives_proxies_the_same_from_files_and_from_a_cluster() -> Result<()> {
    scene(async |server: &mut ApiServer| {
        server.install_crds().await?;
        let world = World::new()?;
        // Namespaces first, as everybody applies them.
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../samples/bookinfo");
        let mut files: Vec<PathBuf> = std::fs::read_dir(directory)?
            .map(|entry| entry.map(|entry| entry.path()))
            .collect::<Result<_, _>>()?;
        files.sort_by_key(|path| (!path.ends_with("namespaces.yaml"), path.clone()));
        for path in files {
            let text = std::fs::read_to_string(&path)?;
            let name = path.file_name().and_then(|name| name.to_str()).context("no name")?;
            world.write(name, &[&text])?;
            server.apply(&text).await?;
        }
        // Every API server has this one.
        let services: Api<Service> = Api::namespaced(server.client().await?, "default");
        world.write(
            "kubernetes.json",
            &[&json!(services.get("kubernetes").await?).to_string()],
        )?;
        let (from_files, from_cluster) =
            tokio::join!(Lateend::start(&world), lateend(server, server.kubeconfig(), &[]));
        let (from_files, from_cluster) = (from_files?, from_cluster?);
        let (pod, ip) = ("productpage-v1-6c9f8b7d5-x4w2n", "10.244.1.11");
        let one = Sidecar::connect(&from_files, pod, "shop", ip).await?.held();
        let two = Sidecar::connect(&from_cluster, pod, "shop", ip).await?.held();
        assert!(one.len() > 20, "{:?}", one.keys());
        same(&one, &two, "bookinfo");
        println!(
            "bookinfo: {} resources of a sidecar are equal, byte for byte",
            one.len()
        );
        Ok(())
    })
    .await
}

#[tokio::test]
async fn scenarios_of_the_corpus_give_the_same_from_files_and_from_a_cluster() -> Result<()> {
    let Some(reference) = std::env::var_os("LATEEN_REFERENCE").map(PathBuf::from) else {
        println!("LATEEN_REFERENCE is unset: no scenarios are compared");
        return Ok(());
    };
    scene(async |server: &mut ApiServer| {
        server.install_crds().await?;
        for name in SCENARIOS {
            let directory = reference.join("corpus").join(name);
            let mut yaml = with_containers(&std::fs::read_to_string(directory.join("input.yaml"))?)?;
            if let Some(settings) = mesh(&directory)? {
                yaml.push_str("\n---\n");
                yaml.push_str(&settings.to_string());
            }
            server.apply(&yaml).await.with_context(|| (*name).to_owned())?;
            let seen = from_cluster(server).await?;
            let exported = server.directory().join(format!("{name}.json"));
            std::fs::write(&exported, export(&server.client().await?).await?.to_string())?;
            let read = from_files(&exported)?;
            let (mut proxies, mut resources) = (0, 0);
            for node in nodes(&directory)? {
                let (one, two) = (configuration(&read, &node)?, configuration(&seen, &node)?);
                same(&one, &two, name);
                proxies += 1;
                resources += one.values().map(Vec::len).sum::<usize>();
            }
            assert!(resources > 0, "{name} has no proxies");
            println!("{name}: {resources} resources of {proxies} proxies are equal");
            // Nobody would end a namespace: it would take no objects any more.
            let objects = yaml
                .split("\n---\n")
                .filter(|document| !document.contains(r#""kind":"Namespace""#));
            server.delete(&objects.collect::<Vec<_>>().join("\n---\n")).await?;
        }
        Ok(())
    })
    .await
}

/// Says which resources differ, not what is in them: they may be large, and some are secret.
fn same<K: Ord + std::fmt::Debug, T: PartialEq>(one: &BTreeMap<K, T>, two: &BTreeMap<K, T>, what: &str) {
    let all: BTreeSet<&K> = one.keys().chain(two.keys()).collect();
    let different: Vec<&K> = all
        .into_iter()
        .filter(|name| one.get(*name) != two.get(*name))
        .collect();
    assert!(
        different.is_empty(),
        "{what}: files and cluster differ in {different:?}"
    );
}

/// The documents, with a container in pods that have none and an image in containers that have none: what proxies get
/// does not depend on them, and an API server insists.
fn with_containers(yaml: &str) -> Result<String> {
    let mut documents = Vec::new();
    for document in serde_yaml::Deserializer::from_str(yaml) {
        let mut object = Value::deserialize(document)?;
        if object.get("kind").is_some_and(|kind| kind == "Pod") {
            let containers = &mut object["spec"]["containers"];
            if containers.as_array().is_none_or(Vec::is_empty) {
                *containers = json!([{"name": "app"}]);
            }
            for container in containers.as_array_mut().into_iter().flatten() {
                if container.get("image").is_none() {
                    container["image"] = json!("app");
                }
            }
        }
        documents.push(object.to_string());
    }
    Ok(documents.join("\n---\n"))
}

/// The ConfigMap with a scenario's settings.
fn mesh(directory: &Path) -> Result<Option<Value>> {
    let mut data = BTreeMap::new();
    for (file, field) in [("mesh.yaml", "mesh"), ("meshNetworks.yaml", "meshNetworks")] {
        if let Ok(text) = std::fs::read_to_string(directory.join(file)) {
            data.insert(field, text);
        }
    }
    Ok((!data.is_empty()).then(|| {
        json!({
            "apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {"name": "istio", "namespace": "istio-system"}, "data": data,
        })
    }))
}

/// The world as it is read from the API server.
async fn from_cluster(server: &ApiServer) -> Result<Arc<Snapshot>> {
    let settings = Settings::new("")?;
    let mut index = Index::new(settings.clone());
    let (updates, mut arriving) = mpsc::channel(4);
    let client = server.client().await?;
    let mut tasks = JoinSet::new();
    tasks.spawn(async move { cluster::watch(client, &settings, updates).await });
    let first = tokio::time::timeout(PATIENCE, arriving.recv())
        .await?
        .context("nothing was read")?;
    index.apply(first.events);
    Ok(index.publish())
}

fn from_files(path: &Path) -> Result<Arc<Snapshot>> {
    let settings = Settings::new("")?;
    let cluster = settings.cluster.clone();
    let mut index = Index::new(settings);
    let loaded = file::load_once(&[path.to_owned()], cluster.clone(), true)?;
    let event = |object| Event {
        cluster: cluster.clone(),
        change: Change::Apply(object),
    };
    index.apply(loaded.objects.into_iter().map(|(_, _, object)| event(object)).collect());
    Ok(index.publish())
}

/// All objects of the cluster that Lateen reads, as `kubectl get -o json` gives them.
async fn export(client: &Client) -> Result<Value> {
    let mut items = Vec::new();
    for kind in Kind::ALL {
        let mut resource = None;
        for version in ["v1", "v1beta1", "v1alpha3", "v1alpha1"] {
            let wanted = GroupVersionKind::gvk(kind.group(), version, kind.name());
            if let Ok((found, _)) = discovery::pinned_kind(client, &wanted).await {
                resource = Some(found);
                break;
            }
        }
        let resource = resource.with_context(|| format!("{kind} is not served"))?;
        let api: Api<DynamicObject> = Api::all_with(client.clone(), &resource);
        for object in api.list(&ListParams::default()).await? {
            let mut item = serde_json::to_value(object)?;
            item["apiVersion"] = json!(resource.api_version);
            item["kind"] = json!(resource.kind);
            items.push(item);
        }
    }
    Ok(json!({"apiVersion": "v1", "kind": "List", "items": items}))
}

/// The Nodes that a scenario's proxies send.
fn nodes(directory: &Path) -> Result<Vec<Node>> {
    let mut nodes = Vec::new();
    for entry in std::fs::read_dir(directory.join("expected"))? {
        let path = entry?.path();
        if path.to_string_lossy().ends_with(".node.json") {
            nodes.push(lateen_proto::from_json(&serde_json::from_slice(&std::fs::read(
                path,
            )?)?)?);
        }
    }
    Ok(nodes)
}

fn configuration(snapshot: &Snapshot, node: &Node) -> Result<BTreeMap<&'static str, Vec<Value>>> {
    let proxy = proxy_from_node(node, snapshot)?;
    Ok(render(snapshot, &proxy)?.resources)
}
