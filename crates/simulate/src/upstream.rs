//! Clusters: their settings, their endpoints and what each gets of the traffic.

use lateen_proto::envoy::config::cluster::v3::Cluster;
use lateen_proto::envoy::config::cluster::v3::cluster::common_lb_config::LocalityConfigSpecifier;
use lateen_proto::envoy::config::cluster::v3::cluster::{ClusterDiscoveryType, DiscoveryType};
use lateen_proto::envoy::config::core::v3::address::Address as AddressKind;
use lateen_proto::envoy::config::core::v3::socket_address::PortSpecifier;
use lateen_proto::envoy::config::core::v3::{Address, HealthStatus, Locality};
use lateen_proto::envoy::config::endpoint::v3::lb_endpoint::HostIdentifier;
use lateen_proto::envoy::config::endpoint::v3::{ClusterLoadAssignment, LbEndpoint};
use lateen_proto::envoy::extensions::upstreams::http::v3::HttpProtocolOptions;
use lateen_proto::envoy::extensions::upstreams::http::v3::http_protocol_options::{
    UpstreamProtocolOptions, explicit_http_config::ProtocolConfig,
};
use lateen_proto::{type_url, value};
use serde::Serialize;

use crate::exchange::{millis, object_of};
use crate::proxy::Proxy;
use crate::request::{Connection, Entry, Version};
use crate::trace::{Kind, Step};

mod transport;

pub use transport::Transport;
use transport::{labels, transport};

/// How long connecting may take if nothing is said of it: Istio's default, in milliseconds.
const USUAL_TIMEOUT: u64 = 10_000;

/// An endpoint.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Endpoint {
    /// `ip:port`, a name and a port, a path, or `*` for the request's own host.
    pub address: String,
    /// `healthy`, `unhealthy`, `draining`, `degraded`, `timeout`.
    pub health: String,
    /// Priority; the lowest that is healthy gets the traffic.
    pub priority: u32,
    /// `region/zone/subzone`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub locality: String,
    /// Weight among the endpoints of its locality.
    pub weight: u32,
    /// What it gets of the cluster's traffic, 0 to 1, where weights alone decide.
    pub share: f64,
    /// Security.
    pub transport: Transport,
}

/// A cluster.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Upstream {
    /// Name.
    pub name: String,
    /// Where endpoints come from: `EDS`, `STRICT_DNS`, `ORIGINAL_DST`, …
    pub kind: String,
    /// How endpoints are chosen.
    pub balancer: String,
    /// What is spoken.
    pub protocol: String,
    /// The DestinationRule that it is made by, by API path.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub object: Option<String>,
    /// Limits and other settings, in words.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub settings: Vec<String>,
    /// Endpoints in order.
    pub endpoints: Vec<Endpoint>,
}

impl Upstream {
    /// Whether nothing takes traffic.
    pub(crate) fn is_empty(&self) -> bool {
        !self.endpoints.iter().any(|endpoint| endpoint.share > 0.0)
    }
}

pub(crate) fn step(upstream: &Upstream, share: f64) -> Step {
    let why = if share >= 1.0 {
        "all requests".to_owned()
    } else {
        format!("{} % of requests", (share * 10_000.0).round() / 100.0)
    };
    let mut step = Step::new(Kind::Cluster, &upstream.name, why);
    step.object.clone_from(&upstream.object);
    step
}

/// Name of the filter by which a request decides which protocols are offered, and of the metadata that it reads.
pub(crate) const ALPN: &str = "lateen.alpn";

/// Lets a request of a version of HTTP decide which protocols are offered in TLS, as the cluster's metadata says.
pub(crate) fn offer(upstream: &mut Upstream, cluster: &Cluster, version: Version) {
    let metadata = cluster
        .metadata
        .as_ref()
        .and_then(|metadata| metadata.filter_metadata.get(ALPN));
    let name = match version {
        Version::Http10 => "HTTP/1.0",
        Version::Http11 => "HTTP/1.1",
        Version::Http2 => "HTTP/2",
    };
    let Some(value::Kind::StringValue(text)) = metadata.and_then(|own| own.fields.get(name)?.kind.as_ref()) else {
        return;
    };
    for endpoint in &mut upstream.endpoints {
        if let Transport::Tls { alpn, .. } = &mut endpoint.transport {
            *alpn = text.split(',').map(str::to_owned).collect();
        }
    }
}

pub(crate) fn describe(proxy: &Proxy, cluster: &Cluster, connection: &Connection) -> Upstream {
    let kind = match &cluster.cluster_discovery_type {
        Some(ClusterDiscoveryType::Type(kind)) => DiscoveryType::try_from(*kind)
            .map(|kind| kind.as_str_name().to_owned())
            .unwrap_or_default(),
        Some(ClusterDiscoveryType::ClusterType(custom)) => custom.name.clone(),
        None => DiscoveryType::Static.as_str_name().to_owned(),
    };
    let options = protocol_options(cluster);
    let follows_host = options
        .as_ref()
        .and_then(|options| options.upstream_http_protocol_options.as_ref())
        .is_some_and(|options| options.auto_sni);
    let endpoints = match kind.as_str() {
        "ORIGINAL_DST" => original(cluster, connection, follows_host),
        name if name.ends_with("dynamic_forward_proxy") => vec![only("*", cluster, follows_host)],
        "EDS" => {
            let name = cluster
                .eds_cluster_config
                .as_ref()
                .map(|config| config.service_name.as_str())
                .filter(|name| !name.is_empty())
                .unwrap_or(&cluster.name);
            proxy
                .endpoints
                .get(name)
                .map(|assignment| endpoints(cluster, assignment, follows_host))
                .unwrap_or_default()
        }
        _ => cluster
            .load_assignment
            .as_ref()
            .map(|assignment| endpoints(cluster, assignment, follows_host))
            .unwrap_or_default(),
    };
    Upstream {
        name: cluster.name.clone(),
        kind,
        balancer: match cluster
            .load_balancing_policy
            .as_ref()
            .and_then(|policy| policy.policies.first())
        {
            Some(policy) => policy
                .typed_extension_config
                .as_ref()
                .map(|config| config.name.clone())
                .unwrap_or_default(),
            None => cluster.lb_policy().as_str_name().to_owned(),
        },
        protocol: options.as_ref().map_or("HTTP/1.1", spoken).to_owned(),
        object: object_of(cluster.metadata.as_ref()),
        settings: settings(cluster),
        endpoints,
    }
}

fn protocol_options(cluster: &Cluster) -> Option<HttpProtocolOptions> {
    cluster
        .typed_extension_protocol_options
        .values()
        .find(|any| any.type_url == type_url::<HttpProtocolOptions>())?
        .to_msg()
        .ok()
}

fn spoken(options: &HttpProtocolOptions) -> &'static str {
    match &options.upstream_protocol_options {
        Some(UpstreamProtocolOptions::ExplicitHttpConfig(explicit)) => match explicit.protocol_config {
            Some(ProtocolConfig::Http2ProtocolOptions(_)) => "HTTP/2",
            Some(ProtocolConfig::Http3ProtocolOptions(_)) => "HTTP/3",
            _ => "HTTP/1.1",
        },
        Some(UpstreamProtocolOptions::UseDownstreamProtocolConfig(_)) => "as the client",
        Some(UpstreamProtocolOptions::AutoConfig(_)) => "by ALPN",
        None => "HTTP/1.1",
    }
}

/// The endpoint of a cluster that goes where the client meant to.
fn original(cluster: &Cluster, connection: &Connection, follows_host: bool) -> Vec<Endpoint> {
    let address = match connection.entry {
        Entry::Outbound(address) | Entry::Inbound(address) => address,
        Entry::Direct(_) => return Vec::new(),
    };
    vec![only(&address.to_string(), cluster, follows_host)]
}

/// An endpoint that gets everything.
fn only(address: &str, cluster: &Cluster, follows_host: bool) -> Endpoint {
    Endpoint {
        address: address.to_owned(),
        health: "healthy".to_owned(),
        priority: 0,
        locality: String::new(),
        weight: 1,
        share: 1.0,
        transport: transport(cluster, None, follows_host),
    }
}

fn healthy(endpoint: &LbEndpoint) -> bool {
    matches!(endpoint.health_status(), HealthStatus::Unknown | HealthStatus::Healthy)
}

fn weight(endpoint: &LbEndpoint) -> u32 {
    endpoint.load_balancing_weight.unwrap_or(1)
}

fn endpoints(cluster: &Cluster, assignment: &ClusterLoadAssignment, follows_host: bool) -> Vec<Endpoint> {
    let loads = loads(cluster, assignment);
    let by_locality = cluster.common_lb_config.as_ref().is_some_and(|config| {
        matches!(
            config.locality_config_specifier,
            Some(LocalityConfigSpecifier::LocalityWeightedLbConfig(_))
        )
    });
    let mut all = Vec::new();
    for locality in &assignment.endpoints {
        let Some(load) = loads.iter().find(|load| load.priority == locality.priority) else {
            continue;
        };
        let takes = |endpoint: &LbEndpoint| load.panic || healthy(endpoint);
        let here: f64 = locality
            .lb_endpoints
            .iter()
            .filter(|one| takes(one))
            .map(|one| f64::from(weight(one)))
            .sum();
        let of_locality = if by_locality {
            let weights: f64 = assignment
                .endpoints
                .iter()
                .filter(|other| other.priority == locality.priority && other.lb_endpoints.iter().any(takes))
                .map(|other| f64::from(other.load_balancing_weight.unwrap_or_default()))
                .sum();
            f64::from(locality.load_balancing_weight.unwrap_or_default()) / weights.max(1.0)
        } else {
            here / load.weight.max(1.0)
        };
        for one in &locality.lb_endpoints {
            let share = if takes(one) && here > 0.0 {
                load.share * of_locality * f64::from(weight(one)) / here
            } else {
                0.0
            };
            all.push(Endpoint {
                address: endpoint_address(one),
                health: health(one.health_status()).to_owned(),
                priority: locality.priority,
                locality: locality_name(locality.locality.as_ref()),
                weight: weight(one),
                share,
                transport: transport(cluster, labels(one), follows_host),
            });
        }
    }
    all
}

/// What a priority gets.
struct Load {
    priority: u32,
    share: f64,
    /// Weight of the endpoints that take traffic.
    weight: f64,
    /// So few are healthy that health is ignored.
    panic: bool,
}

/// Envoy's arithmetic of priorities: each gets what it can take at 1.4 times its healthy share, the next the rest.
fn loads(cluster: &Cluster, assignment: &ClusterLoadAssignment) -> Vec<Load> {
    let threshold = cluster
        .common_lb_config
        .as_ref()
        .and_then(|config| config.healthy_panic_threshold.as_ref())
        .map_or(50.0, |percent| percent.value);
    let factor = assignment
        .policy
        .as_ref()
        .and_then(|policy| policy.overprovisioning_factor)
        .map_or(1.4, |factor| f64::from(factor) / 100.0);
    let mut priorities: Vec<u32> = assignment.endpoints.iter().map(|locality| locality.priority).collect();
    priorities.sort_unstable();
    priorities.dedup();
    let weigh = |priority: u32, all: bool| -> f64 {
        assignment
            .endpoints
            .iter()
            .filter(|locality| locality.priority == priority)
            .flat_map(|locality| &locality.lb_endpoints)
            .filter(|one| all || healthy(one))
            .map(|one| f64::from(weight(one)))
            .sum()
    };
    let count = |priority: u32, all: bool| {
        assignment
            .endpoints
            .iter()
            .filter(|locality| locality.priority == priority)
            .flat_map(|locality| &locality.lb_endpoints)
            .filter(|one| all || healthy(one))
            .count()
    };
    #[expect(clippy::cast_precision_loss, reason = "counts of endpoints are small")]
    let health = |priority: u32| -> f64 {
        let total = count(priority, true);
        if total == 0 {
            return 0.0;
        }
        (count(priority, false) as f64 / total as f64 * factor).min(1.0)
    };
    let total: f64 = priorities
        .iter()
        .map(|priority| health(*priority))
        .sum::<f64>()
        .min(1.0);
    let mut left = 1.0;
    let mut loads = Vec::new();
    for priority in priorities.iter().copied() {
        let own = if total > 0.0 {
            (health(priority) / total).min(left)
        } else {
            0.0
        };
        left -= own;
        // Health is ignored only where all priorities together cannot take the traffic.
        let ratio = health(priority) / factor * 100.0;
        let panic = total < 1.0 && threshold > 0.0 && ratio < threshold;
        loads.push(Load {
            priority,
            share: own,
            weight: weigh(priority, panic),
            panic,
        });
    }
    if total <= 0.0
        && threshold > 0.0
        && let Some(first) = loads.iter_mut().find(|load| load.weight > 0.0)
    {
        first.share = 1.0;
    }
    loads
}

fn health(status: HealthStatus) -> &'static str {
    match status {
        HealthStatus::Unknown | HealthStatus::Healthy => "healthy",
        HealthStatus::Unhealthy => "unhealthy",
        HealthStatus::Draining => "draining",
        HealthStatus::Timeout => "timeout",
        HealthStatus::Degraded => "degraded",
    }
}

fn locality_name(locality: Option<&Locality>) -> String {
    locality.map_or_else(String::new, |locality| {
        let parts = [&locality.region, &locality.zone, &locality.sub_zone];
        let parts: Vec<&str> = parts
            .into_iter()
            .map(String::as_str)
            .filter(|part| !part.is_empty())
            .collect();
        parts.join("/")
    })
}

fn endpoint_address(endpoint: &LbEndpoint) -> String {
    match &endpoint.host_identifier {
        Some(HostIdentifier::Endpoint(endpoint)) => endpoint.address.as_ref().map(address).unwrap_or_default(),
        Some(HostIdentifier::EndpointName(name)) => name.clone(),
        None => String::new(),
    }
}

fn address(address: &Address) -> String {
    match &address.address {
        Some(AddressKind::SocketAddress(socket)) => {
            let port = match &socket.port_specifier {
                Some(PortSpecifier::PortValue(port)) => port.to_string(),
                Some(PortSpecifier::NamedPort(name)) => name.clone(),
                None => String::new(),
            };
            if socket.address.contains(':') {
                format!("[{}]:{port}", socket.address)
            } else {
                format!("{}:{port}", socket.address)
            }
        }
        Some(AddressKind::Pipe(pipe)) => pipe.path.clone(),
        Some(AddressKind::EnvoyInternalAddress(_)) => "an internal listener".to_owned(),
        None => String::new(),
    }
}

fn settings(cluster: &Cluster) -> Vec<String> {
    let mut all = Vec::new();
    let timeout = cluster.connect_timeout.as_ref().map(millis);
    if let Some(timeout) = timeout.filter(|timeout| *timeout != USUAL_TIMEOUT) {
        all.push(format!("connecting may take {timeout} ms"));
    }
    // Envoy's own limits are practically none in Istio's configuration: only those that bite are told.
    for thresholds in cluster
        .circuit_breakers
        .iter()
        .flat_map(|breakers| &breakers.thresholds)
    {
        let limits = [
            ("connections", thresholds.max_connections),
            ("waiting requests", thresholds.max_pending_requests),
            ("requests", thresholds.max_requests),
            ("retries", thresholds.max_retries),
        ];
        for (name, limit) in limits {
            if let Some(limit) = limit.filter(|limit| *limit < u32::MAX) {
                all.push(format!("at most {limit} {name} at a time"));
            }
        }
    }
    if let Some(outlier) = &cluster.outlier_detection {
        let five = outlier.consecutive_5xx.filter(|count| *count > 0);
        let gateway = outlier.consecutive_gateway_failure.filter(|count| *count > 0);
        for (count, what) in [(five, "answers of 5xx"), (gateway, "failures of gateway")] {
            if let Some(count) = count {
                all.push(format!("an endpoint is ejected after {count} consecutive {what}"));
            }
        }
    }
    all
}
