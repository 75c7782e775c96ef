//! How proxies stand with what they were sent.

use std::collections::{BTreeMap, BTreeSet};
use std::time::SystemTime;

use axum::extract::{Extension, Json, Query, State};
use axum::response::{IntoResponse, Response};
use lateen_distribute::ConnectedProxy;
use lateen_proto::envoy::admin::v3::UpdateFailureState;
use lateen_proto::envoy::config::core::v3::Node;
use lateen_proto::envoy::service::status::v3::client_config::GenericXdsConfig;
use lateen_proto::envoy::service::status::v3::{ClientConfig, ConfigStatus};
use lateen_proto::{Struct, Value as ProtoValue, value::Kind};
use lateen_xds::{ResourceSet, SessionRecord, SyncState, TypeRecord, types};
use serde_json::{Map, Value, json};

use super::access::Caller;
use super::{Debug, Which, not_connected};

/// Short names of types in `istioctl`'s fields.
const SYNC_FIELDS: &[(&str, &str)] = &[
    ("cluster", types::CLUSTER),
    ("listener", types::LISTENER),
    ("route", types::ROUTE),
    ("endpoint", types::ENDPOINTS),
    ("extensionconfig", types::EXTENSION),
];

/// A stream and its proxy.
struct Stream {
    record: SessionRecord,
    proxy: Option<ConnectedProxy>,
}

impl Stream {
    fn namespace(&self) -> &str {
        self.proxy.as_ref().map_or("", |proxy| proxy.proxy.namespace.as_str())
    }

    fn name(&self) -> &str {
        short_name(&self.record.node_id)
    }
}

/// What istiod calls a proxy, `<pod>.<namespace>`: the third part of its node ID.
fn short_name(node_id: &str) -> &str {
    node_id.split('~').nth(2).unwrap_or(node_id)
}

/// The streams of proxies that a caller may know of.
fn streams(debug: &Debug, caller: &Caller) -> Vec<Stream> {
    let mut proxies: BTreeMap<String, ConnectedProxy> = debug
        .distributor
        .proxies()
        .into_iter()
        .map(|proxy| (proxy.proxy.id.to_string(), proxy))
        .collect();
    let records = debug.sessions.snapshot().into_iter().map(|record| Stream {
        proxy: proxies.remove(&*record.node_id),
        record,
    });
    records
        .filter(|stream| match &stream.proxy {
            Some(proxy) => caller.sees(&proxy.proxy.namespace),
            None => matches!(caller, Caller::Operator),
        })
        .collect()
}

/// `/debug/syncz`.
pub(super) async fn syncz(
    State(debug): State<Debug>,
    Extension(caller): Extension<Caller>,
    Query(which): Query<Which>,
) -> Json<Vec<Value>> {
    let streams = streams(&debug, &caller);
    let wanted = streams
        .iter()
        .filter(|stream| which.namespace.is_empty() || stream.namespace() == which.namespace);
    Json(wanted.map(|stream| sync_status(stream, &debug.instance)).collect())
}

/// One proxy's row: istiod's fields, then Lateen's own.
fn sync_status(stream: &Stream, instance: &str) -> Value {
    let record = &stream.record;
    let mut row = json!({
        "cluster_id": record.cluster_id,
        "proxy": stream.name(),
        "proxy_type": record.node_id.split('~').next().unwrap_or_default(),
        "istio_version": record.proxy_version,
        "istiod": instance,
        "settled": record.settled,
        "wanted": record.wanted.snapshot,
    });
    let mut resources = Map::new();
    for one in &record.types {
        let url = &*one.status.type_url;
        let (sent, acked) = nonces(record, one);
        let mut status = Map::new();
        for (key, text) in [("sent", &sent), ("acked", &acked)] {
            if !text.is_empty() {
                status.insert(key.to_owned(), text.clone().into());
            }
        }
        if let Some(sent) = &one.sent {
            status.insert("sentTime".to_owned(), time(sent.at).into());
        }
        if let Some(error) = error(record, one) {
            status.insert("lastError".to_owned(), error.into());
        }
        if let Some((field, _)) = SYNC_FIELDS.iter().find(|(_, of)| *of == url) {
            for (key, text) in [("sent", sent), ("acked", acked)] {
                if !text.is_empty() {
                    row[format!("{field}_{key}")] = text.into();
                }
            }
        }
        resources.insert(url.to_owned(), status.into());
    }
    row["resources"] = resources.into();
    row
}

/// What was sent last and what was accepted last. A proxy may hold all that it should without having accepted the last
/// response, or any: because it came back with it, or what it rejected is no longer wanted. It has the snapshot's version.
fn nonces(record: &SessionRecord, one: &TypeRecord) -> (String, String) {
    let nonce = |answered: &Option<lateen_xds::Answered>| answered.as_ref().map(|answered| answered.nonce);
    let (sent, acked) = (nonce(&one.sent), nonce(&one.acked));
    if record.sync_state(&one.status.type_url) == SyncState::Synced && (sent.is_none() || sent != acked) {
        let version = record.wanted.version.to_string();
        return (version.clone(), version);
    }
    let text = |nonce: Option<u64>| nonce.map(|nonce| nonce.to_string()).unwrap_or_default();
    (text(sent), text(acked))
}

/// The proxy's words, as long as it refuses.
fn error(record: &SessionRecord, one: &TypeRecord) -> Option<String> {
    let refuses = record.sync_state(&one.status.type_url) == SyncState::Error;
    let nack = one.nack.as_ref().filter(|_| refuses)?;
    Some(nack.reason.to_string())
}

fn time(at: SystemTime) -> String {
    humantime::format_rfc3339_millis(at).to_string()
}

/// The same as [`syncz`], as `istioctl` reads it over ADS: one message for each proxy.
pub(super) fn client_configs(debug: &Debug, caller: &Caller) -> Vec<ClientConfig> {
    streams(debug, caller).iter().map(client_config).collect()
}

fn client_config(stream: &Stream) -> ClientConfig {
    let record = &stream.record;
    let metadata = [
        ("CLUSTER_ID", &*record.cluster_id),
        ("NAMESPACE", stream.namespace()),
        ("ISTIO_VERSION", &*record.proxy_version),
    ];
    let text = |text: &str| ProtoValue {
        kind: Some(Kind::StringValue(text.to_owned())),
    };
    let metadata = Struct {
        fields: metadata
            .iter()
            .map(|(key, value)| ((*key).to_owned(), text(value)))
            .collect(),
    };
    let mut configs: Vec<GenericXdsConfig> = record.types.iter().map(|one| generic_config(record, one)).collect();
    configs.sort_by(|one, other| one.type_url.cmp(&other.type_url));
    ClientConfig {
        node: Some(Node {
            id: stream.name().to_owned(),
            metadata: Some(metadata),
            ..Node::default()
        }),
        generic_xds_configs: configs,
        ..ClientConfig::default()
    }
}

fn generic_config(record: &SessionRecord, one: &TypeRecord) -> GenericXdsConfig {
    let status = match record.sync_state(&one.status.type_url) {
        SyncState::NotSent => ConfigStatus::NotSent,
        SyncState::Synced => ConfigStatus::Synced,
        SyncState::Stale => ConfigStatus::Stale,
        SyncState::Error => ConfigStatus::Error,
    };
    let at = one.sent.as_ref().map(|sent| sent.at.into());
    GenericXdsConfig {
        type_url: one.status.type_url.to_string(),
        config_status: status.into(),
        last_updated: at,
        error_state: error(record, one).map(|details| UpdateFailureState {
            details,
            last_update_attempt: at,
            ..UpdateFailureState::default()
        }),
        ..GenericXdsConfig::default()
    }
}

/// `/debug/connections`.
pub(super) async fn connections(State(debug): State<Debug>, Extension(caller): Extension<Caller>) -> Json<Value> {
    let streams = streams(&debug, &caller);
    let clients: Vec<Value> = streams.iter().map(|stream| client(&stream.record)).collect();
    Json(json!({"totalClients": clients.len(), "clients": clients}))
}

fn client(record: &SessionRecord) -> Value {
    json!({
        "connectionId": record.connection_id(),
        "connectedAt": time(record.connected_at),
        "address": record.peer.address.map(|address| address.to_string()).unwrap_or_default(),
        "identity": record.peer.identity.as_ref().map(ToString::to_string),
    })
}

/// `/debug/adsz`.
pub(super) async fn adsz(
    State(debug): State<Debug>,
    Extension(caller): Extension<Caller>,
    Query(which): Query<Which>,
) -> Response {
    let streams = streams(&debug, &caller);
    let wanted = streams.iter().filter(|stream| {
        which.proxy.is_empty() || *stream.record.node_id == *which.proxy || stream.name() == which.proxy
    });
    let clients: Vec<Value> = wanted.map(watching).collect();
    if clients.is_empty() && !which.proxy.is_empty() {
        return not_connected(&which.proxy);
    }
    Json(json!({"totalClients": clients.len(), "clients": clients})).into_response()
}

/// A client with what it says of itself, and the names of what it holds by type.
fn watching(stream: &Stream) -> Value {
    let mut client = client(&stream.record);
    let Some(proxy) = &stream.proxy else { return client };
    client["labels"] = json!(proxy.proxy.labels);
    let node = lateen_proto::to_json(&*proxy.node).unwrap_or_default();
    client["metadata"] = node["metadata"].clone();
    client["locality"] = node["locality"].clone();
    let watches = stream.record.types.iter().map(|one| {
        let url = &*one.status.type_url;
        let all = proxy.wanted.all(url).into_iter().flat_map(ResourceSet::iter);
        let names = all.map(|resource| resource.name.to_string());
        (url.to_owned(), json!(names.collect::<BTreeSet<_>>()))
    });
    client["watches"] = Value::Object(watches.collect());
    client
}

/// `/debug/push_status`.
pub(super) async fn push_status(State(debug): State<Debug>) -> Json<Value> {
    let json = |finding: &lateen_model::Diagnostic| serde_json::to_value(finding).ok();
    let mut findings: Vec<Value> = debug.objects.borrow().findings.iter().filter_map(json).collect();
    findings.extend(debug.distributor.diagnostics().iter().filter_map(json));
    let sessions = debug.sessions.snapshot();
    let rejected: Vec<Value> = sessions
        .iter()
        .flat_map(|session| session.types.iter().map(move |one| (session, one)))
        .filter_map(|(session, one)| {
            let reason = error(session, one)?;
            Some(json!({"proxy": short_name(&session.node_id), "type": one.status.type_url, "reason": reason}))
        })
        .collect();
    Json(json!({
        "findings": findings,
        "rejected": rejected,
        "files": debug.objects.borrow().problems(),
    }))
}
