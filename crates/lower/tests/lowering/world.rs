//! From YAML to a snapshot.

use std::path::PathBuf;
use std::sync::Arc;

use lateen_lower::{Change, Event, Index, Kind, Object, Settings, yaml};
use lateen_model::{Diagnostic, Severity, Snapshot};
use lateen_names::{ClusterId, Name, Namespace, ObjectKey};
use serde_json::{Value, json};

/// All objects of a YAML text, with the namespace `default` and an age where they say none.
pub(crate) fn objects(text: &str) -> Vec<Object> {
    yaml::documents(text)
        .map(Result::unwrap)
        .filter_map(|document| object(document).unwrap())
        .collect()
}

/// An object; `None` for kinds that Lateen does not read.
pub(crate) fn object(mut document: Value) -> Result<Option<Object>, String> {
    let text = |value: &Value, name: &str| value.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
    let (version, kind) = (text(&document, "apiVersion"), text(&document, "kind"));
    let group = version.split_once('/').map_or("", |(group, _)| group);
    let Some(kind) = Kind::find(group, &kind) else {
        return Ok(None);
    };
    let Some(metadata) = document.get_mut("metadata").and_then(Value::as_object_mut) else {
        return Err("no metadata".to_owned());
    };
    metadata
        .entry("creationTimestamp")
        .or_insert_with(|| json!("2024-01-01T00:00:00Z"));
    if kind.scope() == lateen_lower::object::Scope::Namespaced {
        metadata.entry("namespace").or_insert_with(|| json!("default"));
    }
    Object::decode(kind, &document)
        .map(|decoded| Some(decoded.value))
        .map_err(|error| error.to_string())
}

/// The snapshot of some objects with these settings.
pub(crate) fn snapshot_with(settings: Settings, objects: Vec<Object>) -> Arc<Snapshot> {
    let cluster = ClusterId::new("Kubernetes").unwrap();
    let mut index = Index::new(settings);
    let events = objects.into_iter().map(|object| Event {
        cluster: cluster.clone(),
        change: Change::Apply(Arc::new(object)),
    });
    index.apply(events.collect());
    index.publish()
}

/// The snapshot of the objects of a YAML text.
pub(crate) fn world(text: &str) -> Arc<Snapshot> {
    snapshot_with(Settings::new("").unwrap(), objects(text))
}

/// Namespace and name.
pub(crate) fn key(namespace: &str, name: &str) -> ObjectKey {
    ObjectKey {
        namespace: Some(Namespace::new(namespace).unwrap()),
        name: Name::new(name).unwrap(),
    }
}

/// Diagnostics about an object: field, severity, code.
pub(crate) fn findings(snapshot: &Snapshot, name: &str) -> Vec<(String, Severity, &'static str)> {
    let about = snapshot
        .diagnostics
        .iter()
        .filter(|diagnostic| diagnostic.object.key.name == *name);
    about
        .map(|diagnostic| (diagnostic.field.to_string(), diagnostic.severity, diagnostic.code))
        .collect()
}

/// The errors among all diagnostics.
pub(crate) fn errors(snapshot: &Snapshot) -> Vec<&Diagnostic> {
    snapshot
        .diagnostics
        .iter()
        .filter(|diagnostic| diagnostic.severity == Severity::Error)
        .collect()
}

/// A folder of reference data; says that it is not there.
pub(crate) fn reference(folder: &str) -> Option<PathBuf> {
    let Some(root) = std::env::var_os("LATEEN_REFERENCE") else {
        println!("skipped: LATEEN_REFERENCE is not set, so there is no {folder}");
        return None;
    };
    let path = PathBuf::from(root).join(folder);
    if !path.is_dir() {
        println!("skipped: {} is not there", path.display());
        return None;
    }
    Some(path)
}
