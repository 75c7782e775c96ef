//! From a Node to a proxy.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use lateen_model::mesh::ProxyConfig;
use lateen_model::proxy::{Capabilities, Interception, Options, ProxyKind};
use lateen_model::{Labels, Proxy, Shared, Snapshot};
use lateen_names::{ClusterId, InvalidName, Locality, Name, Namespace, Network, ObjectKey};
use lateen_proto::envoy::config::core::v3::Node;
use lateen_proto::{Struct, Value as ProtoValue, value::Kind as ValueKind};
use serde_json::{Map, Value};

use crate::kube::entry::canonical;
use crate::kube::network::network_of;
use crate::kube::workload::augment;
use crate::mesh::lower_proxy_config;

/// The largest metadata that is read, in bytes of text. Kubernetes allows 256 KiB of annotations, and labels, ports and
/// ProxyConfig come on top.
const MAX_METADATA: usize = 512 * 1024;
/// The longest node ID: names of 253 characters with their separators fit three times.
const MAX_ID: usize = 1024;

/// Metadata that some rule reads by name, beyond what has a field of its own.
const EXTRA: [&str; 6] = [
    "DISABLE_HBONE_SEND",
    "DNS_PROXY_ADDR",
    "ENABLE_SELF_DISCOVERY",
    "ENVOY_SECURE_MERGED_METRICS_PORT",
    "ENVOY_SECURE_METRICS_PORT",
    "EXIT_ON_ZERO_ACTIVE_CONNECTIONS",
];

/// A Node does not describe a proxy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NodeError {
    /// The node ID does not have four parts.
    #[error("node ID `{0}` must be <type>~<IP address>~<pod>.<namespace>~<DNS domain>")]
    Id(String),
    /// The node ID's first part is no type.
    #[error("node type `{0}` is none of sidecar, router, waypoint, ztunnel")]
    Kind(String),
    /// Neither `INSTANCE_IPS` nor the node ID holds an address.
    #[error("node `{0}` has no IP address, neither in its ID nor in the metadata INSTANCE_IPS")]
    NoAddress(String),
    /// Something is larger than a proxy could make it.
    #[error("{what} of the node is larger than {limit} bytes")]
    TooLarge {
        /// What it is.
        what: &'static str,
        /// How large it may be.
        limit: usize,
    },
    /// A part of the ID or of the metadata is not the identifier that it should be.
    #[error("node metadata {key}: {error}")]
    Name {
        /// Where it stands.
        key: &'static str,
        /// What is wrong with it.
        error: InvalidName,
    },
}

/// Reads a Node.
///
/// # Errors
/// When the Node does not say enough to configure a proxy, or says too much.
pub fn proxy_from_node(node: &Node, snapshot: &Snapshot) -> Result<Proxy, NodeError> {
    if node.id.len() > MAX_ID {
        return Err(NodeError::TooLarge {
            what: "the ID",
            limit: MAX_ID,
        });
    }
    let parts: Vec<&str> = node.id.split('~').collect();
    let [kind, address, name, domain] = parts[..] else {
        return Err(NodeError::Id(node.id.clone()));
    };
    let kind = match kind {
        "sidecar" => ProxyKind::Sidecar,
        "router" => ProxyKind::Router,
        "waypoint" => ProxyKind::Waypoint,
        "ztunnel" => ProxyKind::Ztunnel,
        other => return Err(NodeError::Kind(other.to_owned())),
    };
    let metadata = Metadata::new(node.metadata.as_ref())?;
    let mut addresses: Vec<IpAddr> = metadata
        .list("INSTANCE_IPS")
        .iter()
        .filter_map(|text| text.parse().ok())
        .collect();
    if addresses.is_empty() {
        addresses.extend(address.parse::<IpAddr>());
    }
    let mut seen = BTreeSet::new();
    addresses.retain(|address| seen.insert(*address));
    let Some(first) = addresses.first().copied() else {
        return Err(NodeError::NoAddress(node.id.clone()));
    };

    let invalid = |key| move |error| NodeError::Name { key, error };
    let (pod, in_id) = name.rsplit_once('.').unwrap_or((name, ""));
    let namespace = metadata.text("NAMESPACE").unwrap_or(in_id);
    let namespace = Namespace::new(namespace).map_err(invalid("NAMESPACE"))?;
    let pod = metadata.text("NAME").unwrap_or(pod);
    let cluster = ClusterId::new(metadata.text("CLUSTER_ID").unwrap_or("Kubernetes")).map_err(invalid("CLUSTER_ID"))?;
    let object = Name::new(pod).ok().map(|name| ObjectKey {
        namespace: Some(namespace.clone()),
        name,
    });
    let known = object.and_then(|object| snapshot.workloads.get(&(cluster.clone(), object)));

    let own = metadata.labels();
    let network = match metadata.text("NETWORK") {
        Some(text) => Network::new(text).map_err(invalid("NETWORK"))?,
        None => match known {
            Some(workload) => workload.network.clone(),
            None => network_of(&cluster, Some(first), &own, None, &snapshot.mesh),
        },
    };
    let said = node.locality.as_ref().map(|said| Locality {
        region: said.region.as_str().into(),
        zone: said.zone.as_str().into(),
        sub_zone: said.sub_zone.as_str().into(),
    });
    let locality = known
        .map(|workload| workload.locality.clone())
        .filter(|locality| !locality.is_empty());
    let locality = locality.or(said).unwrap_or_default();
    let on = metadata
        .text("NODE_NAME")
        .map(Arc::<str>::from)
        .or_else(|| known.and_then(|workload| workload.node.clone()));
    let labels = match known {
        Some(workload) => workload.labels.clone(),
        None => augment(&own, &cluster, &locality, on.as_deref(), &network),
    };
    let workload: Arc<str> = metadata.text("WORKLOAD_NAME").unwrap_or_default().into();
    let config = metadata
        .config()
        .unwrap_or_else(|| snapshot.mesh.default_config.clone());
    let domain = match domain {
        "" => format!("{namespace}.svc.{}", snapshot.mesh.domain),
        domain => domain.to_owned(),
    };
    Ok(Proxy {
        kind,
        id: node.id.as_str().into(),
        name: pod.into(),
        service_account: metadata.text("SERVICE_ACCOUNT").unwrap_or_default().into(),
        dns_domain: domain.into(),
        addresses,
        network,
        locality,
        canonical: canonical(&labels, &workload),
        labels,
        node: on,
        workload,
        mesh_id: metadata.text("MESH_ID").unwrap_or_default().into(),
        version: metadata.text("ISTIO_VERSION").unwrap_or_default().into(),
        interception: match metadata.text("INTERCEPTION_MODE") {
            Some("TPROXY") => Interception::Tproxy,
            Some("NONE") => Interception::None,
            Some(_) => Interception::Redirect,
            None => config.interception.unwrap_or_default(),
        },
        config: Shared::new(config),
        options: metadata.options(snapshot),
        capabilities: Capabilities {
            istio_filters: node.extensions.iter().any(|extension| extension.name == "istio.stats"),
            // The stream decides, not the Node.
            virtual_hosts: false,
            tells_agent: metadata.flag("LATEEN_ON_DEMAND"),
        },
        pod_ports: metadata.pod_ports(),
        namespace,
        cluster,
    })
}

/// A Node's metadata. Agents send numbers, flags and lists as text or as what they are.
struct Metadata(Map<String, Value>);

impl Metadata {
    fn new(metadata: Option<&Struct>) -> Result<Self, NodeError> {
        let mut budget = MAX_METADATA;
        match metadata.map(|metadata| json_of_struct(metadata, &mut budget)) {
            None => Ok(Self(Map::new())),
            Some(Some(map)) => Ok(Self(map)),
            Some(None) => Err(NodeError::TooLarge {
                what: "the metadata",
                limit: MAX_METADATA,
            }),
        }
    }

    /// A text that is there and not empty.
    fn text(&self, key: &str) -> Option<&str> {
        self.0.get(key).and_then(Value::as_str).filter(|text| !text.is_empty())
    }

    fn flag(&self, key: &str) -> bool {
        match self.0.get(key) {
            Some(Value::Bool(value)) => *value,
            Some(Value::String(text)) => matches!(text.as_str(), "true" | "True" | "TRUE" | "t" | "T" | "1"),
            _ => false,
        }
    }

    /// A list, or its parts separated by commas.
    fn list(&self, key: &str) -> Vec<&str> {
        match self.0.get(key) {
            Some(Value::String(text)) => text.split(',').map(str::trim).filter(|part| !part.is_empty()).collect(),
            Some(Value::Array(items)) => items.iter().filter_map(Value::as_str).collect(),
            _ => Vec::new(),
        }
    }

    fn labels(&self) -> Labels {
        let map = self.0.get("LABELS").and_then(Value::as_object);
        map.into_iter()
            .flatten()
            .filter_map(|(key, value)| Some((key.as_str().into(), value.as_str()?.into())))
            .collect()
    }

    fn config(&self) -> Option<ProxyConfig> {
        let value = self.0.get("PROXY_CONFIG")?;
        match lateen_api::decode_proto::<lateen_api::mesh::ProxyConfig>(value) {
            Ok(decoded) => Some(lower_proxy_config(&decoded.value)),
            Err(error) => {
                tracing::warn!(%error, "a proxy's PROXY_CONFIG cannot be read; the mesh's counts");
                None
            }
        }
    }

    /// Three files that count together.
    fn files(&self, keys: [&str; 3]) -> Option<[Arc<str>; 3]> {
        let files = keys.map(|key| self.text(key).map(Arc::<str>::from).unwrap_or_default());
        files.iter().any(|file| !file.is_empty()).then_some(files)
    }

    fn pod_ports(&self) -> Vec<u16> {
        let parsed;
        let ports = match self.0.get("POD_PORTS") {
            Some(Value::Array(ports)) => ports,
            Some(Value::String(text)) => {
                parsed = serde_json::from_str::<Vec<Value>>(text).unwrap_or_default();
                &parsed
            }
            _ => return Vec::new(),
        };
        let numbers = ports
            .iter()
            .filter_map(|port| port.get("containerPort").and_then(Value::as_u64));
        let numbers: BTreeSet<u16> = numbers.filter_map(|number| u16::try_from(number).ok()).collect();
        numbers.into_iter().collect()
    }

    fn options(&self, snapshot: &Snapshot) -> Options {
        let mut extra: BTreeMap<Arc<str>, Arc<str>> = BTreeMap::new();
        let by_filters = filter_keys(snapshot);
        for key in EXTRA.into_iter().chain(by_filters.iter().map(String::as_str)) {
            let value = match self.0.get(key) {
                Some(Value::String(text)) => text.clone(),
                Some(value @ (Value::Bool(_) | Value::Number(_))) => value.to_string(),
                _ => continue,
            };
            extra.insert(key.into(), value.into());
        }
        let idle = self
            .text("IDLE_TIMEOUT")
            .and_then(|text| text.parse::<lateen_api::Duration>().ok());
        Options {
            without_secrets: false,
            dns_capture: self.flag("DNS_CAPTURE"),
            dns_auto_allocate: self.flag("DNS_AUTO_ALLOCATE"),
            http10: self.flag("HTTP10"),
            unprivileged: self.flag("UNPRIVILEGED_POD"),
            hbone: self.flag("ENABLE_HBONE"),
            server_cert: self.files(["TLS_SERVER_CERT_CHAIN", "TLS_SERVER_KEY", "TLS_SERVER_ROOT_CERT"]),
            client_cert: self.files(["TLS_CLIENT_CERT_CHAIN", "TLS_CLIENT_KEY", "TLS_CLIENT_ROOT_CERT"]),
            idle_timeout_ms: idle.and_then(|idle| u64::try_from(idle.as_nanos() / 1_000_000).ok()),
            requested_network_view: self.list("REQUESTED_NETWORK_VIEW").into_iter().map(Arc::from).collect(),
            sni_dnat: self.text("ROUTER_MODE") == Some("sni-dnat"),
            exact_balance: (
                self.flag("INBOUND_LISTENER_EXACT_BALANCE"),
                self.flag("OUTBOUND_LISTENER_EXACT_BALANCE"),
            ),
            http_proxy_port: self.text("HTTP_PROXY_PORT").and_then(|text| text.parse().ok()),
            extra,
        }
    }
}

/// The metadata keys that EnvoyFilters select proxies by.
fn filter_keys(snapshot: &Snapshot) -> BTreeSet<String> {
    let patches = snapshot.envoy_filters.values().flat_map(|filter| &filter.patches);
    let keys = patches.flat_map(|patch| patch.proxy_metadata.keys());
    keys.map(|key| key.to_string()).collect()
}

/// `None` when there is more text in it than the budget allows.
fn json_of_struct(value: &Struct, budget: &mut usize) -> Option<Map<String, Value>> {
    let mut map = Map::new();
    for (key, value) in &value.fields {
        spend(budget, key.len())?;
        map.insert(key.clone(), json_of(value, budget)?);
    }
    Some(map)
}

fn json_of(value: &ProtoValue, budget: &mut usize) -> Option<Value> {
    spend(budget, 8)?;
    Some(match &value.kind {
        None | Some(ValueKind::NullValue(_)) => Value::Null,
        Some(ValueKind::BoolValue(value)) => Value::Bool(*value),
        // Whole numbers came as whole numbers: types that expect them do not take 3.0.
        Some(ValueKind::NumberValue(number)) if number.fract() == 0.0 && number.abs() < 9e15 => (*number as i64).into(),
        Some(ValueKind::NumberValue(number)) => {
            serde_json::Number::from_f64(*number).map_or(Value::Null, Value::Number)
        }
        Some(ValueKind::StringValue(text)) => {
            spend(budget, text.len())?;
            Value::String(text.clone())
        }
        Some(ValueKind::ListValue(list)) => Value::Array(
            list.values
                .iter()
                .map(|item| json_of(item, budget))
                .collect::<Option<_>>()?,
        ),
        Some(ValueKind::StructValue(inner)) => Value::Object(json_of_struct(inner, budget)?),
    })
}

fn spend(budget: &mut usize, bytes: usize) -> Option<()> {
    *budget = budget.checked_sub(bytes)?;
    Some(())
}
