//! From a pod to the Node that Istio's agent would send for it.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Node as KubeNode, Pod};
use lateen_api::mesh::{MeshConfig, ProxyConfig};
use lateen_api::networking::ProxyConfig as ProxyConfigObject;
use lateen_model::proxy::ProxyKind;
use lateen_proto::envoy::config::core::v3::Node;
use serde_json::{Map, Value, json};

use crate::context::{created, labels};
use crate::kube::pod::{containers, locality_of_label, locality_of_node, owner};
use crate::object::{Kind, Object, Objects};

/// What a pod's Node is made of, beside the pod.
#[derive(Debug, Clone, Copy)]
pub struct PodNode<'a> {
    /// The pod.
    pub pod: &'a Pod,
    /// What kind of proxy it holds; see [`kind_of_pod`].
    pub kind: ProxyKind,
    /// The Kubernetes node that it runs on, if known.
    pub node: Option<&'a KubeNode>,
    /// ProxyConfig objects of the mesh.
    pub objects: &'a Objects,
    /// MeshConfig in force.
    pub mesh: &'a MeshConfig,
    /// The network that the control plane's namespace says its cluster is on.
    pub network: Option<&'a str>,
    /// Cluster ID.
    pub cluster: &'a str,
    /// Suffix of service names.
    pub domain: &'a str,
    /// Version of Istio's agent.
    pub version: &'a str,
}

/// What a pod's proxy is there for, by what Istio's injection and Gateway API's deployments put on their pods.
pub fn kind_of_pod(pod: &Pod) -> ProxyKind {
    let meta = &pod.metadata;
    let label = |name: &str| {
        meta.labels
            .as_ref()
            .and_then(|labels| labels.get(name))
            .map(String::as_str)
    };
    let annotation = |name: &str| {
        meta.annotations
            .as_ref()
            .and_then(|all| all.get(name))
            .map(String::as_str)
    };
    let class = label("gateway.networking.k8s.io/gateway-class-name");
    if class == Some("istio-waypoint") || label("gateway.istio.io/managed") == Some("istio.io-mesh-controller") {
        return ProxyKind::Waypoint;
    }
    let arguments = |name: &str| {
        containers(pod)
            .filter(|c| c.name == "istio-proxy")
            .flat_map(|c| c.args.iter().flatten())
            .any(|arg| arg == name)
    };
    let templates = annotation("inject.istio.io/templates").unwrap_or_default();
    let gateway = label("gateway.networking.k8s.io/gateway-name").is_some()
        || templates.split(',').any(|template| template == "gateway")
        || arguments("router")
        || label("istio").is_some();
    if gateway { ProxyKind::Router } else { ProxyKind::Sidecar }
}

/// The Node that Istio's agent would send; `None` for a pod that has no name, namespace or address.
pub fn node_for_pod(from: PodNode<'_>) -> Option<Node> {
    let meta = &from.pod.metadata;
    let name = meta.name.as_deref()?;
    let namespace = meta
        .namespace
        .as_deref()
        .filter(|text| !text.is_empty())
        .unwrap_or("default");
    let spec = from.pod.spec.as_ref()?;
    let status = from.pod.status.as_ref()?;
    let primary = status.pod_ip.as_deref();
    let mut ips: Vec<&str> = primary
        .into_iter()
        .chain(status.pod_ips.iter().flatten().map(|ip| ip.ip.as_str()))
        .collect();
    ips.dedup();
    let address = ips.first()?;
    let pod_labels: BTreeMap<&str, &str> = pairs(meta.labels.as_ref())
        .filter(|(key, _)| *key != "pod-template-hash")
        .collect();
    let annotations: BTreeMap<&str, &str> = pairs(meta.annotations.as_ref()).collect();

    let config = effective_config(&from, namespace, &annotations);
    let owner = owner(from.pod);
    let workload = pod_labels
        .get("service.istio.io/workload-name")
        .map_or(owner.name.as_str(), |name| name);
    let interception = match (
        annotations.get("sidecar.istio.io/interceptionMode"),
        config.interception_mode.as_str(),
    ) {
        (Some(mode), _) => (*mode).to_owned(),
        (None, "") => "REDIRECT".to_owned(),
        (None, mode) => mode.to_owned(),
    };
    // The proxy's own container is not the application's.
    let application: Vec<_> = containers(from.pod)
        .filter(|container| container.name != "istio-proxy")
        .collect();
    let ports = application
        .iter()
        .flat_map(|container| container.ports.iter().flatten())
        .map(|port| {
            let mut entry = Map::new();
            entry.extend(port.name.as_ref().map(|name| ("name".to_owned(), json!(name))));
            entry.insert("containerPort".to_owned(), json!(port.container_port));
            entry.insert("protocol".to_owned(), json!(port.protocol.as_deref().unwrap_or("TCP")));
            Value::Object(entry)
        });
    let ports: Vec<Value> = ports.collect();

    let mut metadata = Map::new();
    for (key, value) in &config.proxy_metadata {
        if let Some(key) = key.strip_prefix("ISTIO_META_") {
            metadata.insert(key.to_owned(), json!(value));
        }
    }
    let mut set = |key: &str, value: Value| metadata.insert(key.to_owned(), value);
    if !annotations.is_empty() {
        set("ANNOTATIONS", json!(annotations));
    }
    let names: Vec<&str> = application.iter().map(|container| container.name.as_str()).collect();
    set("APP_CONTAINERS", json!(names.join(",")));
    set("CLUSTER_ID", json!(from.cluster));
    set("ENVOY_PROMETHEUS_PORT", json!(15090));
    set("ENVOY_STATUS_PORT", json!(15021));
    set("INSTANCE_IPS", json!(ips.join(",")));
    set("INTERCEPTION_MODE", json!(interception));
    set("ISTIO_VERSION", json!(from.version));
    let mut own: BTreeMap<&str, String> = pod_labels
        .iter()
        .map(|(key, value)| (*key, (*value).to_owned()))
        .collect();
    let place = locality_of_label(&labels(meta.labels.as_ref()));
    if let (Some(place), Some(label)) = (&place, own.get_mut("istio-locality")) {
        *label = place.to_string();
    }
    set("LABELS", json!(own));
    set(
        "MESH_ID",
        json!(if config.mesh_id.is_empty() {
            &from.mesh.trust_domain
        } else {
            &config.mesh_id
        }),
    );
    set("METADATA_DISCOVERY", json!("false"));
    set("NAME", json!(name));
    set("NAMESPACE", json!(namespace));
    if let Some(network) = pod_labels.get("topology.istio.io/network").copied().or(from.network) {
        set("NETWORK", json!(network));
    }
    set("NODE_NAME", json!(spec.node_name.as_deref().unwrap_or_default()));
    let plural = format!("{}s", owner.kind.to_lowercase());
    let reference = format!(
        "kubernetes://apis/{}/namespaces/{namespace}/{plural}/{}",
        owner.api_version, owner.name
    );
    set("OWNER", json!(reference));
    set(
        "PILOT_SAN",
        json!([config.discovery_address.split(':').next().unwrap_or_default()]),
    );
    set("POD_PORTS", json!(Value::Array(ports).to_string()));
    set("PROXY_CONFIG", serde_json::to_value(&config).unwrap_or_default());
    set(
        "SERVICE_ACCOUNT",
        json!(spec.service_account_name.as_deref().unwrap_or("default")),
    );
    set("WORKLOAD_IDENTITY_SOCKET_FILE", json!("socket"));
    set("WORKLOAD_NAME", json!(workload));

    let locality = place
        .or_else(|| from.node.map(locality_of_node))
        .filter(|place| !place.is_empty());
    let kind = match from.kind {
        ProxyKind::Sidecar => "sidecar",
        ProxyKind::Router => "router",
        ProxyKind::Waypoint => "waypoint",
        ProxyKind::Ztunnel => "ztunnel",
    };
    let mut node = Map::new();
    node.insert(
        "id".to_owned(),
        json!(format!(
            "{kind}~{address}~{name}.{namespace}~{namespace}.svc.{}",
            from.domain
        )),
    );
    let app = pod_labels.get("app").copied().unwrap_or_default();
    node.insert("cluster".to_owned(), json!(format!("{app}.{namespace}")));
    node.insert("metadata".to_owned(), Value::Object(metadata));
    if let Some(place) = locality {
        let place = json!({"region": *place.region, "zone": *place.zone, "subZone": *place.sub_zone});
        node.insert("locality".to_owned(), place);
    }
    lateen_proto::from_json(&Value::Object(node)).ok()
}

fn pairs(map: Option<&BTreeMap<String, String>>) -> impl Iterator<Item = (&str, &str)> {
    map.into_iter()
        .flatten()
        .map(|(key, value)| (key.as_str(), value.as_str()))
}

/// The mesh's, then that of the root namespace, then that of the pod's namespace, then the annotation, then that which
/// selects the pod; of several objects that apply alike, the oldest.
fn effective_config(from: &PodNode<'_>, namespace: &str, annotations: &BTreeMap<&str, &str>) -> ProxyConfig {
    let mut config = from
        .mesh
        .default_config
        .clone()
        .unwrap_or_else(ProxyConfig::default_istio);
    let mut objects: Vec<&ProxyConfigObject> = from
        .objects
        .of(Kind::ProxyConfig)
        .filter_map(|(_, object)| match object {
            Object::ProxyConfig(object) => Some(object),
            _ => None,
        })
        .collect();
    objects.sort_by(|a, b| (created(&a.metadata), &a.metadata.name).cmp(&(created(&b.metadata), &b.metadata.name)));
    let of = |wanted: &str| {
        let objects = objects
            .iter()
            .filter(move |object| object.metadata.namespace.as_deref().unwrap_or("default") == wanted);
        objects.map(|object| &object.spec).collect::<Vec<_>>()
    };
    let whole = |namespace: &str| of(namespace).into_iter().find(|spec| spec.selector.is_none());
    let mut layers: Vec<Value> = Vec::new();
    layers.extend(whole(&from.mesh.root_namespace).map(layer));
    if namespace != from.mesh.root_namespace {
        layers.extend(whole(namespace).map(layer));
    }
    if let Some(text) = annotations.get("proxy.istio.io/config") {
        match crate::yaml::parse(text) {
            Ok(value) => layers.push(value),
            Err(error) => tracing::warn!(%error, "annotation proxy.istio.io/config is left out"),
        }
    }
    let own = from.pod.metadata.labels.as_ref();
    let selecting = of(namespace).into_iter().find(|spec| {
        let wanted = spec
            .selector
            .as_ref()
            .map(|selector| &selector.match_labels)
            .filter(|labels| !labels.is_empty());
        wanted.is_some_and(|wanted| {
            wanted
                .iter()
                .all(|(key, value)| own.and_then(|own| own.get(key)) == Some(value))
        })
    });
    layers.extend(selecting.map(layer));
    for layer in layers {
        match config.merge(&layer) {
            Ok(merged) => config = merged.value,
            Err(error) => tracing::warn!(%error, "a layer of ProxyConfig is left out"),
        }
    }
    config
}

/// A ProxyConfig object as a layer of the mesh's ProxyConfig.
fn layer(spec: &lateen_api::networking::ProxyConfigSpec) -> Value {
    let mut layer = Map::new();
    layer.extend(
        spec.concurrency
            .map(|concurrency| ("concurrency".to_owned(), json!(concurrency))),
    );
    if !spec.environment_variables.is_empty() {
        layer.insert("proxyMetadata".to_owned(), json!(spec.environment_variables));
    }
    layer.extend(spec.image.as_ref().map(|image| ("image".to_owned(), json!(image))));
    Value::Object(layer)
}
