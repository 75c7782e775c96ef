//! Services and endpoints, as istiod writes them.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use axum::extract::{Json, State};
use lateen_model::endpoint::{Address, Endpoint, Health, Workload};
use lateen_model::service::{Protocol, Registry, Resolution};
use lateen_model::{ExportTo, Service, Snapshot};
use serde_json::{Map, Value, json};

use super::Debug;

/// `/debug/registryz`.
pub(super) async fn registryz(State(debug): State<Debug>) -> Json<Vec<Value>> {
    let snapshot = debug.snapshots.borrow().clone();
    let services = snapshot.iter().flat_map(|snapshot| snapshot.services.values());
    Json(services.map(|service| entry(service)).collect())
}

fn entry(service: &Service) -> Value {
    let ports: Vec<Value> = service
        .ports
        .iter()
        .map(|port| json!({"name": *port.name, "port": port.number, "protocol": protocol(port.protocol)}))
        .collect();
    let addresses: BTreeMap<&str, Vec<String>> = service
        .addresses
        .iter()
        .map(|(cluster, ips)| (cluster.as_str(), ips.iter().map(ToString::to_string).collect()))
        .collect();
    let first = addresses.values().flatten().next().cloned();
    let created = u64::try_from(service.created).unwrap_or_default();
    let mut entry = json!({
        "Attributes": {
            "ServiceRegistry": match service.registry {
                Registry::Kubernetes => "Kubernetes",
                Registry::External => "External",
            },
            "Name": *service.name,
            "Namespace": service.namespace.as_str(),
            "Labels": service.labels,
            "ExportTo": export_to(&service.export_to),
            "NodeLocal": service.node_local,
            "PublishNotReadyAddresses": service.publish_not_ready,
            "ClusterExternalAddresses": {"Addresses": service.external_addresses.iter()
                .map(|(cluster, addresses)| (cluster.to_string(), json!(addresses)))
                .collect::<Map<_, _>>()},
        },
        "ports": ports,
        "serviceAccounts": service.accounts,
        "creationTime": humantime::format_rfc3339_seconds(SystemTime::UNIX_EPOCH + Duration::from_secs(created)).to_string(),
        "hostname": service.host.as_str(),
        "clusterVIPs": {"Addresses": addresses},
        "defaultAddress": first.unwrap_or_else(|| "0.0.0.0".to_owned()),
        "Resolution": resolution(service.resolution),
        "MeshExternal": service.external,
    });
    for address in &service.auto_addresses {
        let field = if address.is_ipv4() {
            "autoAllocatedIPv4Address"
        } else {
            "autoAllocatedIPv6Address"
        };
        entry[field] = address.to_string().into();
    }
    entry
}

/// istiod's name of a protocol.
fn protocol(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Unspecified => "",
        Protocol::Http => "HTTP",
        Protocol::Http2 => "HTTP2",
        Protocol::Grpc => "GRPC",
        Protocol::GrpcWeb => "GRPC-Web",
        Protocol::Https => "HTTPS",
        Protocol::Tls => "TLS",
        Protocol::Tcp => "TCP",
        Protocol::Mongo => "Mongo",
        Protocol::Redis => "Redis",
        Protocol::MySql => "MySQL",
        Protocol::Udp => "UDP",
        Protocol::Unsupported => "UnsupportedProtocol",
        Protocol::Hbone => "HBONE",
    }
}

/// istiod's number of a resolution.
fn resolution(resolution: Resolution) -> u8 {
    match resolution {
        Resolution::Static => 0,
        Resolution::Dns => 1,
        Resolution::Passthrough => 2,
        Resolution::DnsRoundRobin => 3,
        Resolution::Alias => 4,
        Resolution::DynamicDns => 5,
    }
}

/// A set in the form of a map to nothing.
fn export_to(to: &ExportTo) -> Value {
    let names: Vec<&str> = match to {
        ExportTo::All => vec!["*"],
        ExportTo::Nobody => vec!["~"],
        ExportTo::Namespaces(namespaces) => namespaces.iter().map(|namespace| namespace.as_str()).collect(),
    };
    set(names)
}

fn set<'a>(names: impl IntoIterator<Item = &'a str>) -> Value {
    let names = names.into_iter().map(|name| (name.to_owned(), json!({})));
    Value::Object(names.collect())
}

/// `/debug/endpointz`: by host, namespace and shard, which is the registry and the cluster.
pub(super) async fn endpointz(State(debug): State<Debug>) -> Json<Value> {
    let snapshot = debug.snapshots.borrow().clone();
    Json(snapshot.map_or_else(|| json!({}), |snapshot| shards(&snapshot)))
}

fn shards(snapshot: &Snapshot) -> Value {
    let mut all = Map::new();
    for (key, endpoints) in snapshot.endpoints.iter() {
        let service = snapshot.services.get(key);
        let registry = match service.map(|service| service.registry) {
            Some(Registry::External) => "External",
            _ => "Kubernetes",
        };
        let mut shards = BTreeMap::<String, Vec<Value>>::new();
        for (port, list) in &endpoints.by_port {
            let name = service.and_then(|service| service.port(*port)).map(|port| &*port.name);
            for endpoint in list {
                let shard = format!("{registry}/{}", endpoint.workload.cluster);
                let entry = self::endpoint(endpoint, name.unwrap_or_default(), *port);
                shards.entry(shard).or_default().push(entry);
            }
        }
        let accounts = service.into_iter().flat_map(|service| &service.accounts);
        let entry = json!({"Shards": shards, "ServiceAccounts": set(accounts.map(|account| &**account))});
        let namespaces = all.entry(key.host.as_str()).or_insert_with(|| json!({}));
        namespaces[key.namespace.as_str()] = entry;
    }
    all.into()
}

fn endpoint(endpoint: &Endpoint, port_name: &str, service_port: u16) -> Value {
    let workload: &Workload = &endpoint.workload;
    let addresses: Vec<String> = [&endpoint.address]
        .into_iter()
        .chain(&endpoint.additional)
        .map(|address| match address {
            Address::Ip(ip) => ip.to_string(),
            Address::Host(name) => name.to_string(),
            Address::Unix(path) => format!("unix://{path}"),
        })
        .collect();
    json!({
        "Labels": workload.labels,
        "Addresses": addresses,
        "ServicePortName": port_name,
        "LegacyClusterPortKey": service_port,
        "ServiceAccount": workload.identity.as_deref().unwrap_or_default(),
        "Network": workload.network.as_str(),
        "Locality": {"Label": workload.locality.to_string(), "ClusterID": workload.cluster.as_str()},
        "EndpointPort": endpoint.port,
        "LbWeight": endpoint.weight.unwrap_or_default(),
        "TLSMode": if workload.mtls { "istio" } else { "disabled" },
        "Namespace": workload.namespace.as_str(),
        "WorkloadName": *workload.workload_name,
        "HostName": workload.hostname.as_deref().unwrap_or_default(),
        "SubDomain": workload.subdomain.as_deref().unwrap_or_default(),
        "HealthStatus": match endpoint.health {
            Health::Healthy => 1,
            Health::Unhealthy => 2,
            Health::Draining => 3,
        },
        "NodeName": workload.node.as_deref().unwrap_or_default(),
    })
}
