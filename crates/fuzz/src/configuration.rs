//! What users write, and what proxies say of themselves, down to the configuration that comes of it.

use std::cell::RefCell;
use std::sync::Arc;

use lateen_compile::compile_alone;
use lateen_lower::node::proxy_from_node;
use lateen_lower::{Admission, Change, Event, Index, Kind, Object, Settings, yaml};
use lateen_model::{Proxy, Snapshot};
use lateen_names::ClusterId;
use lateen_proto::envoy::config::core::v3::Node;
use lateen_sources::file::FileSource;
use prost::Message as _;
use serde_json::{Value, json};
use tempfile::TempDir;

/// A small mesh that everything is added to.
const WORLD: &str = include_str!("world.yaml");
/// More documents are not read of one input.
const DOCUMENTS: usize = 16;

/// Settings, the objects of the small mesh, and what they are lowered to.
type Base = (Settings, Vec<Event>, Arc<Snapshot>);

thread_local! {
    static BASE: RefCell<Option<Base>> = const { RefCell::new(None) };
    static ADMISSION: Admission = Admission::new();
    // Making a source takes long: it reads the schemas of all kinds.
    static FILES: RefCell<Option<(TempDir, FileSource)>> = RefCell::new(watched());
}

fn decoded(value: &Value) -> Option<Object> {
    let text = |key: &str| value.get(key).and_then(Value::as_str).unwrap_or_default();
    let group = text("apiVersion").split_once('/').map_or("", |(group, _)| group);
    let kind = Kind::find(group, text("kind"))?;
    let decoded = Object::decode(kind, value).ok()?;
    ADMISSION.with(|admission| admission.check(value, &decoded.value, &decoded.unknown));
    Some(decoded.value)
}

fn events(text: &str, cluster: &ClusterId) -> Vec<Event> {
    let documents = yaml::documents(text).take(DOCUMENTS).filter_map(Result::ok);
    let objects = documents.filter_map(|value| decoded(&value));
    let event = |object| Event {
        cluster: cluster.clone(),
        change: Change::Apply(Arc::new(object)),
    };
    objects.map(event).collect()
}

fn with_base<T>(work: impl FnOnce(&Settings, &[Event], &Arc<Snapshot>) -> T) -> T {
    BASE.with_borrow_mut(|base| {
        let base = base.get_or_insert_with(|| {
            let Ok(settings) = Settings::new("") else {
                panic!("the settings do not read");
            };
            let world = events(WORLD, &settings.cluster);
            assert!(world.len() >= 8, "the world has lost objects: {}", world.len());
            let mut index = Index::new(settings.clone());
            index.apply(world.clone());
            let snapshot = index.publish();
            (settings, world, snapshot)
        });
        work(&base.0, &base.1, &base.2)
    })
}

/// The proxies of the world: a sidecar and a gateway.
fn proxies(snapshot: &Snapshot) -> Vec<Proxy> {
    let node = |id: &str, labels: Value| {
        let node = json!({"id": id, "metadata": {"LABELS": labels, "SERVICE_ACCOUNT": "web", "ENABLE_HBONE": "true"}});
        lateen_proto::from_json::<Node>(&node).ok()
    };
    let nodes = [
        node(
            "sidecar~10.0.0.1~web.shop~shop.svc.cluster.local",
            json!({"app": "web"}),
        ),
        node(
            "router~10.0.0.9~door.edge~edge.svc.cluster.local",
            json!({"istio": "door"}),
        ),
        node(
            "waypoint~10.0.0.8~waypoint.shop~shop.svc.cluster.local",
            json!({"gateway.networking.k8s.io/gateway-name": "waypoint"}),
        ),
    ];
    let proxies = nodes.into_iter().flatten();
    proxies
        .filter_map(|node| proxy_from_node(&node, snapshot).ok())
        .collect()
}

/// Objects as YAML, added to a mesh: what its proxies would get must be the same twice over.
pub fn policy(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    with_base(|settings, world, _| {
        let mut index = Index::new(settings.clone());
        index.apply(world.to_vec());
        let added = events(text, &settings.cluster);
        if added.is_empty() {
            return;
        }
        index.apply(added);
        let snapshot = index.publish();
        let proxies = proxies(&snapshot);
        assert_eq!(proxies.len(), 3, "a proxy is gone");
        for proxy in proxies {
            let resources = |proxy| {
                let built = compile_alone(&snapshot, proxy).into_iter();
                let resources = built.filter_map(|(_, built)| Some(built.resource.as_ref()?.bytes.clone()));
                resources.collect::<Vec<_>>()
            };
            assert_eq!(
                resources(&proxy),
                resources(&proxy),
                "it compiles otherwise the second time"
            );
        }
    });
}

/// A Node, as protobuf or as JSON, and all that a proxy of it would get.
pub fn node(data: &[u8]) {
    let node = match data.first() {
        Some(b'{') => serde_json::from_slice(data)
            .ok()
            .and_then(|json| lateen_proto::from_json::<Node>(&json).ok()),
        _ => Node::decode(data).ok(),
    };
    let Some(node) = node else {
        return;
    };
    with_base(|_, _, snapshot| {
        if let Ok(proxy) = proxy_from_node(&node, snapshot) {
            assert!(!proxy.addresses.is_empty(), "a proxy without address");
            compile_alone(snapshot, &proxy);
        }
    });
}

/// A file of configuration, and after a zero byte what it is changed to. What did not change is told as no change, and with
/// the file all that it held is gone.
pub fn files(data: &[u8]) {
    FILES.with_borrow_mut(|files| {
        let Some((directory, source)) = files else {
            panic!("there is no directory");
        };
        let file = directory.path().join("input.yaml");
        for text in data.splitn(3, |byte| *byte == 0) {
            assert!(std::fs::write(&file, text).is_ok(), "the file cannot be written");
            assert!(source.reload().is_ok(), "the directory is there");
            let again = source.reload().map(|events| events.len());
            assert!(matches!(again, Ok(0)), "what did not change is told as a change");
        }
        assert!(std::fs::remove_file(&file).is_ok(), "the file cannot be removed");
        assert!(source.reload().is_ok(), "the directory is there");
        assert_eq!(source.objects().count(), 0, "objects without a file");
    });
}

fn watched() -> Option<(TempDir, FileSource)> {
    let directory = tempfile::tempdir().ok()?;
    let source = FileSource::new(vec![directory.path().to_owned()], ClusterId::new("Kubernetes").ok()?);
    Some((directory, source))
}
