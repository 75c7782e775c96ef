//! Debug endpoints, in the shapes that `istioctl` and Kiali read: over HTTP, and over streams of ADS.
//!
//! They tell what the mesh is made of, so they are not for everybody; see [`access`].

mod access;
mod ads;
mod configuration;
mod dump;
mod registry;
mod status;

use std::sync::Arc;

use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router, middleware};
use lateen_distribute::{ConnectedProxy, Distributor};
use lateen_model::Snapshot;
use lateen_names::ClusterId;
use lateen_xds::Sessions;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::pipeline::Objects;

pub(crate) use access::Access;
pub(crate) use ads::Steering;

use access::Caller;

/// What the endpoints tell of.
#[derive(Clone)]
pub(crate) struct Debug {
    pub distributor: Distributor,
    pub sessions: Sessions,
    pub snapshots: watch::Receiver<Option<Arc<Snapshot>>>,
    pub objects: watch::Receiver<Arc<Objects>>,
    pub access: Arc<Access>,
    /// Which instance of the control plane this is.
    pub instance: Arc<str>,
    /// The cluster that it reads.
    pub cluster: ClusterId,
}

/// Endpoints and what they are for, as `/debug` lists them.
const ENDPOINTS: &[(&str, &str)] = &[
    (
        "/debug/adsz",
        "connected proxies, with what they say of themselves and what they watch",
    ),
    ("/debug/authorizationz", "AuthorizationPolicies by namespace"),
    ("/debug/clusterz", "clusters that endpoints are read from"),
    (
        "/debug/config_dump?proxyID=<pod>.<namespace>",
        "what a proxy should hold, in the form of Envoy's /config_dump; &include_eds with endpoints, &types=cds,eds only these",
    ),
    ("/debug/configz", "configuration objects"),
    ("/debug/connections", "connected proxies"),
    (
        "/debug/ecdsz?proxyID=<pod>.<namespace>",
        "what a proxy should hold of extensions' configuration",
    ),
    (
        "/debug/edsz?proxyID=<pod>.<namespace>",
        "what a proxy should hold of endpoints",
    ),
    ("/debug/endpointShardz", "endpoints by service, namespace and cluster"),
    ("/debug/endpointz", "the same"),
    ("/debug/list", "the names of these endpoints"),
    ("/debug/mesh", "mesh configuration"),
    ("/debug/networkz", "gateways into other networks"),
    (
        "/debug/ndsz?proxyID=<pod>.<namespace>",
        "what an agent should hold of names",
    ),
    (
        "/debug/push_status",
        "findings about configuration, and what proxies rejected",
    ),
    ("/debug/registryz", "services"),
    (
        "/debug/syncz",
        "which version each proxy was sent, and which it acknowledged",
    ),
    ("/debug/telemetryz", "Telemetries by namespace"),
];

/// Which proxy, or which namespace's.
#[derive(Debug, Default, Deserialize)]
struct Which {
    #[serde(rename = "proxyID", default)]
    proxy: String,
    #[serde(default)]
    namespace: String,
    #[serde(default)]
    types: String,
    include_eds: Option<String>,
}

impl Debug {
    /// The endpoints, for those who may see them.
    pub(crate) fn router(self) -> Router {
        let access = Arc::clone(&self.access);
        self.routes()
            .layer(middleware::from_fn_with_state(access, access::guard))
    }

    /// The endpoints, for whoever asks as a [`Caller`].
    fn routes(self) -> Router {
        Router::new()
            .route("/debug", get(index))
            .route("/debug/list", get(list))
            .route("/debug/syncz", get(status::syncz))
            .route("/debug/connections", get(status::connections))
            .route("/debug/adsz", get(status::adsz))
            .route("/debug/push_status", get(status::push_status))
            .route("/debug/registryz", get(registry::registryz))
            .route("/debug/endpointz", get(registry::endpointz))
            .route("/debug/endpointShardz", get(registry::endpointz))
            .route("/debug/configz", get(configuration::configz))
            .route("/debug/mesh", get(configuration::mesh))
            .route("/debug/clusterz", get(configuration::clusterz))
            .route("/debug/networkz", get(configuration::networkz))
            .route("/debug/authorizationz", get(configuration::authorizationz))
            .route("/debug/telemetryz", get(configuration::telemetryz))
            .route("/debug/config_dump", get(dump::config_dump))
            .route("/debug/edsz", get(dump::edsz))
            .route("/debug/ecdsz", get(dump::ecdsz))
            .route("/debug/ndsz", get(dump::ndsz))
            .with_state(self)
    }

    /// The connected proxy that a caller may know of, by its node ID or as `<pod>.<namespace>`.
    fn proxy(&self, wanted: &str, caller: &Caller) -> Option<ConnectedProxy> {
        let mut proxies = self.distributor.proxies().into_iter();
        proxies.find(|one| {
            let proxy = &one.proxy;
            let named = *proxy.id == *wanted || format!("{}.{}", proxy.name, proxy.namespace) == wanted;
            named && caller.sees(&proxy.namespace)
        })
    }
}

async fn index() -> Json<Vec<Value>> {
    let endpoints = ENDPOINTS.iter().map(|(path, help)| json!({"name": path, "help": help}));
    Json(endpoints.collect())
}

async fn list() -> Json<Vec<&'static str>> {
    let names = ENDPOINTS.iter().filter_map(|(path, _)| {
        let path = path.split('?').next().unwrap_or_default();
        path.strip_prefix("/debug/").filter(|name| *name != "list")
    });
    Json(names.collect())
}

/// What is said of a proxy that is not there, in the words that `istioctl` looks for to ask the next instance, and where
/// none is named, in those by which it explains how to name one.
fn not_connected(wanted: &str) -> Response {
    if wanted.is_empty() {
        let text = "You must provide a proxyID in the query string\n";
        return (StatusCode::BAD_REQUEST, text).into_response();
    }
    let text = "Proxy not connected to this Pilot instance. It may be connected to another instance.\n";
    (StatusCode::NOT_FOUND, text).into_response()
}
