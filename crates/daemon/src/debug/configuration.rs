//! What the control plane was told: configuration objects, the mesh's settings, clusters and networks.

use std::collections::BTreeMap;

use axum::extract::{Json, State};
use lateen_lower::Kind;
use serde_json::{Value, json};

use super::Debug;
use crate::pipeline::Objects;

/// `/debug/configz`.
pub(super) async fn configz(State(debug): State<Debug>) -> Json<Value> {
    Json(debug.objects.borrow().as_json())
}

/// `/debug/mesh`.
pub(super) async fn mesh(State(debug): State<Debug>) -> Json<Value> {
    Json(debug.objects.borrow().mesh().clone())
}

/// `/debug/clusterz`: what `istioctl remote-clusters` lists.
pub(super) async fn clusterz(State(debug): State<Debug>) -> Json<Value> {
    let synced = debug.snapshots.borrow().is_some();
    Json(json!([{
        "id": debug.cluster,
        "secretName": "",
        "syncStatus": if synced { "synced" } else { "syncing" },
    }]))
}

/// `/debug/networkz`.
pub(super) async fn networkz(State(debug): State<Debug>) -> Json<Vec<Value>> {
    let snapshot = debug.snapshots.borrow().clone();
    let gateways = snapshot.iter().flat_map(|snapshot| snapshot.network_gateways.iter());
    let all = gateways.map(|gateway| {
        json!({
            "Network": gateway.network.as_str(),
            "Cluster": gateway.cluster.as_deref().unwrap_or_default(),
            "Addr": &*gateway.address,
            "Port": gateway.port,
            "HBONEPort": 0,
            "ServiceAccount": {"Namespace": "", "Name": ""},
        })
    });
    Json(all.collect())
}

/// `/debug/authorizationz`.
pub(super) async fn authorizationz(State(debug): State<Debug>) -> Json<Value> {
    let objects = debug.objects.borrow();
    let policies = by_namespace(&objects, Kind::AuthorizationPolicy);
    Json(json!({"authorization_policies": {
        "namespace_to_policies": policies,
        "root_namespace": objects.mesh()["rootNamespace"],
    }}))
}

/// `/debug/telemetryz`.
pub(super) async fn telemetryz(State(debug): State<Debug>) -> Json<Value> {
    let objects = debug.objects.borrow();
    let telemetries = by_namespace(&objects, Kind::Telemetry);
    Json(json!({"telemetries": {
        "namespace_to_telemetries": telemetries,
        "root_namespace": objects.mesh()["rootNamespace"],
    }}))
}

/// Objects of a kind in istiod's form.
fn by_namespace(objects: &Objects, kind: Kind) -> BTreeMap<String, Vec<Value>> {
    let mut all: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    for object in objects.of(kind) {
        let meta = object.metadata();
        let namespace = meta.namespace.clone().unwrap_or_default();
        let entry = json!({
            "name": meta.name,
            "namespace": namespace,
            "annotations": meta.annotations,
            "spec": object.to_json()["spec"],
        });
        all.entry(namespace).or_default().push(entry);
    }
    all
}
