//! Debug endpoints, in the shapes that `istioctl` and Kiali read.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use lateen_distribute::{ConnectedProxy, Distributor};
use lateen_model::Snapshot;
use lateen_proto::Any;
use lateen_xds::{SessionRecord, Sessions, TypeRecord};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::pipeline::Objects;

/// What the endpoints tell of.
#[derive(Clone)]
pub(crate) struct Debug {
    pub distributor: Distributor,
    pub sessions: Sessions,
    pub snapshots: watch::Receiver<Option<Arc<Snapshot>>>,
    pub objects: watch::Receiver<Arc<Objects>>,
}

/// Endpoints and what they are for, as `/debug` lists them.
const ENDPOINTS: &[(&str, &str)] = &[
    (
        "/debug/syncz",
        "which version each proxy was sent, and which it acknowledged",
    ),
    ("/debug/connections", "connected proxies"),
    ("/debug/registryz", "services"),
    ("/debug/endpointz", "endpoints by service and port"),
    ("/debug/configz", "configuration objects"),
    (
        "/debug/config_dump?proxyID=<pod>.<namespace>",
        "what a proxy should hold, in the form of Envoy's /config_dump",
    ),
    (
        "/debug/push_status",
        "findings about configuration, and what proxies rejected",
    ),
];

impl Debug {
    pub(crate) fn router(self) -> Router {
        Router::new()
            .route(
                "/debug",
                get(|| async {
                    Json(
                        ENDPOINTS
                            .iter()
                            .map(|(path, help)| json!({"name": path, "help": help}))
                            .collect::<Vec<_>>(),
                    )
                }),
            )
            .route("/debug/syncz", get(syncz))
            .route("/debug/connections", get(connections))
            .route("/debug/registryz", get(registryz))
            .route("/debug/endpointz", get(endpointz))
            .route("/debug/endpointShardz", get(endpointz))
            .route("/debug/configz", get(configz))
            .route("/debug/config_dump", get(config_dump))
            .route("/debug/push_status", get(push_status))
            .with_state(self)
    }
}

#[derive(Deserialize)]
struct Which {
    #[serde(rename = "proxyID", default)]
    proxy: String,
    #[serde(default)]
    namespace: String,
}

async fn syncz(State(debug): State<Debug>, Query(which): Query<Which>) -> Json<Vec<Value>> {
    let proxies = by_id(&debug);
    let rows = debug.sessions.snapshot();
    let rows = rows.iter().filter(|record| {
        which.namespace.is_empty()
            || proxies
                .get(&*record.node_id)
                .is_some_and(|proxy| proxy.proxy.namespace == *which.namespace)
    });
    Json(rows.map(sync_status).collect())
}

fn by_id(debug: &Debug) -> BTreeMap<String, ConnectedProxy> {
    debug
        .distributor
        .proxies()
        .into_iter()
        .map(|proxy| (proxy.proxy.id.to_string(), proxy))
        .collect()
}

/// Short names of types in `istioctl`'s fields.
const SYNC_FIELDS: &[(&str, &str)] = &[
    ("cluster", "type.googleapis.com/envoy.config.cluster.v3.Cluster"),
    ("listener", "type.googleapis.com/envoy.config.listener.v3.Listener"),
    ("route", "type.googleapis.com/envoy.config.route.v3.RouteConfiguration"),
    (
        "endpoint",
        "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment",
    ),
    (
        "extensionconfig",
        "type.googleapis.com/envoy.config.core.v3.TypedExtensionConfig",
    ),
];

fn sync_status(record: &SessionRecord) -> Value {
    let mut row = json!({
        "cluster_id": record.cluster_id,
        "proxy": record.node_id,
        "proxy_type": record.node_id.split('~').next().unwrap_or_default(),
        "istio_version": record.proxy_version,
        "settled": record.settled,
        "wanted": record.wanted.snapshot,
    });
    let mut resources = serde_json::Map::new();
    for one in &record.types {
        let (sent, acked) = (nonce(&one.sent), nonce(&one.acked));
        if let Some((field, _)) = SYNC_FIELDS.iter().find(|(_, url)| *url == type_url(one)) {
            row[format!("{field}_sent")] = sent.clone().into();
            row[format!("{field}_acked")] = acked.clone().into();
        }
        let error = one.nack.as_ref().map(|nack| nack.reason.to_string());
        let sent_at = one
            .sent
            .as_ref()
            .map(|sent| humantime::format_rfc3339_millis(sent.at).to_string());
        resources.insert(
            type_url(one).to_owned(),
            json!({"sent": sent, "acked": acked, "sent_time": sent_at, "last_error": error}),
        );
    }
    row["resources"] = Value::Object(resources);
    row
}

fn type_url(record: &TypeRecord) -> &str {
    &record.status.type_url
}

fn nonce(answered: &Option<lateen_xds::Answered>) -> String {
    answered
        .as_ref()
        .map(|answered| answered.nonce.to_string())
        .unwrap_or_default()
}

async fn connections(State(debug): State<Debug>) -> Json<Value> {
    let sessions = debug.sessions.snapshot();
    let clients: Vec<Value> = sessions
        .iter()
        .map(|session| {
            json!({
                "connectionId": format!("{}-{}", session.node_id, session.id),
                "connectedAt": humantime::format_rfc3339_millis(session.connected_at).to_string(),
                "address": session.peer.address.map(|address| address.to_string()),
                "identity": session.peer.identity.as_ref().map(ToString::to_string),
            })
        })
        .collect();
    Json(json!({"totalClients": clients.len(), "clients": clients}))
}

async fn registryz(State(debug): State<Debug>) -> Json<Vec<Value>> {
    let Some(snapshot) = debug.snapshots.borrow().clone() else {
        return Json(Vec::new());
    };
    let services = snapshot.services.values().map(|service| {
        let ports: Vec<Value> = service
            .ports
            .iter()
            .map(|port| json!({"name": *port.name, "port": port.number, "protocol": format!("{:?}", port.protocol)}))
            .collect();
        let addresses: BTreeMap<String, Vec<String>> = service
            .addresses
            .iter()
            .map(|(cluster, ips)| (cluster.to_string(), ips.iter().map(ToString::to_string).collect()))
            .collect();
        json!({
            "hostname": service.host.as_str(),
            "creationTime": service.created,
            "ports": ports,
            "clusterVIPs": {"Addresses": addresses},
            "Resolution": format!("{:?}", service.resolution),
            "MeshExternal": service.external,
            "Attributes": {
                "ServiceRegistry": format!("{:?}", service.registry),
                "Name": *service.name,
                "Namespace": service.namespace.as_str(),
                "Labels": service.labels,
            },
            "serviceAccounts": service.accounts,
        })
    });
    Json(services.collect())
}

async fn endpointz(State(debug): State<Debug>) -> Json<Vec<Value>> {
    let Some(snapshot) = debug.snapshots.borrow().clone() else {
        return Json(Vec::new());
    };
    let mut rows = Vec::new();
    for (key, endpoints) in snapshot.endpoints.iter() {
        for (port, list) in &endpoints.by_port {
            let list: Vec<Value> = list
                .iter()
                .map(|endpoint| {
                    json!({
                        "address": format!("{:?}", endpoint.address),
                        "port": endpoint.port,
                        "health": format!("{:?}", endpoint.health),
                        "workload": *endpoint.workload.workload_name,
                        "identity": endpoint.workload.identity,
                        "locality": endpoint.workload.locality.to_string(),
                        "mtls": endpoint.workload.mtls,
                    })
                })
                .collect();
            rows.push(json!({"svc": format!("{}:{port}", key.host), "namespace": key.namespace.as_str(), "ep": list}));
        }
    }
    Json(rows)
}

async fn configz(State(debug): State<Debug>) -> Json<Value> {
    Json(debug.objects.borrow().as_json())
}

async fn push_status(State(debug): State<Debug>) -> Json<Value> {
    let mut findings: Vec<Value> = debug
        .objects
        .borrow()
        .findings
        .iter()
        .filter_map(|finding| serde_json::to_value(finding).ok())
        .collect();
    findings.extend(
        debug
            .distributor
            .diagnostics()
            .iter()
            .filter_map(|finding| serde_json::to_value(finding).ok()),
    );
    let sessions = debug.sessions.snapshot();
    let rejected: Vec<Value> = sessions
        .iter()
        .flat_map(|session| session.types.iter().map(move |one| (session, one)))
        .filter_map(|(session, one)| {
            let nack = one.nack.as_ref()?;
            Some(json!({"proxy": session.node_id, "type": type_url(one), "reason": nack.reason}))
        })
        .collect();
    Json(json!({
        "findings": findings,
        "rejected": rejected,
        "files": debug.objects.borrow().problems(),
    }))
}

async fn config_dump(State(debug): State<Debug>, Query(which): Query<Which>) -> Response {
    if which.proxy.is_empty() {
        return (StatusCode::BAD_REQUEST, "name a proxy: ?proxyID=<pod>.<namespace>\n").into_response();
    }
    let found = debug.distributor.proxies().into_iter().find(|one| {
        *one.proxy.id == *which.proxy || format!("{}.{}", one.proxy.name, one.proxy.namespace) == which.proxy
    });
    let Some(proxy) = found else {
        return (
            StatusCode::NOT_FOUND,
            format!("no proxy `{}` is connected\n", which.proxy),
        )
            .into_response();
    };
    match dump(&proxy) {
        Ok(dump) => Json(dump).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    }
}

/// The resources of a proxy in the form of Envoy's admin interface. Keys of secrets are left out.
fn dump(proxy: &ConnectedProxy) -> Result<Value, lateen_proto::JsonError> {
    let version = proxy.wanted.snapshot.to_string();
    let list = |suffix: &str| -> Result<Vec<Value>, lateen_proto::JsonError> {
        let set = proxy.wanted.sets.iter().find(|(url, _)| url.ends_with(suffix));
        set.into_iter()
            .flat_map(|(url, set)| set.iter().map(move |resource| (url, resource)))
            .map(|(url, resource)| {
                lateen_proto::any_to_json(&Any {
                    type_url: url.to_string(),
                    value: resource.body.to_vec(),
                })
            })
            .collect()
    };
    let wrapped = |key: &str, values: Vec<Value>| -> Vec<Value> {
        values
            .into_iter()
            .map(|value| json!({"version_info": version, key: value}))
            .collect()
    };
    let listeners: Vec<Value> = list("Listener")?
        .into_iter()
        .map(|listener| json!({"name": listener["name"], "active_state": {"version_info": version, "listener": listener}}))
        .collect();
    let secrets: Vec<Value> = list("tls.v3.Secret")?
        .into_iter()
        .map(|secret| json!({"name": secret["name"]}))
        .collect();
    Ok(json!({"configs": [
        {
            "@type": "type.googleapis.com/envoy.admin.v3.ClustersConfigDump",
            "version_info": version,
            "dynamic_active_clusters": wrapped("cluster", list("cluster.v3.Cluster")?),
        },
        {
            "@type": "type.googleapis.com/envoy.admin.v3.ListenersConfigDump",
            "version_info": version,
            "dynamic_listeners": listeners,
        },
        {
            "@type": "type.googleapis.com/envoy.admin.v3.RoutesConfigDump",
            "dynamic_route_configs": wrapped("route_config", list("RouteConfiguration")?),
        },
        {
            "@type": "type.googleapis.com/envoy.admin.v3.EndpointsConfigDump",
            "dynamic_endpoint_configs": wrapped("endpoint_config", list("ClusterLoadAssignment")?),
        },
        {
            "@type": "type.googleapis.com/envoy.admin.v3.SecretsConfigDump",
            "dynamic_active_secrets": secrets,
        },
    ]}))
}
