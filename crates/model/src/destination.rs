//! Traffic policy toward a destination (DestinationRule, BackendTLSPolicy).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use lateen_names::{Hostname, Namespace, ObjectKey, ObjectRef};

use crate::{ExportTo, Labels, Selector};

/// Policy for a host.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct DestinationRule {
    /// The object it was made from.
    pub origin: ObjectRef,
    /// Its namespace.
    pub namespace: Namespace,
    /// Seconds since the epoch when the object was made; older wins.
    pub created: i64,
    /// Fully qualified host, or a wildcard.
    pub host: Hostname,
    /// Policy of the whole host.
    pub policy: TrafficPolicy,
    /// Named parts of the host, in order.
    pub subsets: Vec<Subset>,
    /// Who may see it.
    pub export_to: ExportTo,
    /// The calling workloads that it is limited to, in its own namespace.
    pub workload_selector: Option<Selector>,
}

/// A named part of a host's endpoints.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Subset {
    /// Its name.
    pub name: Arc<str>,
    /// Labels of its endpoints.
    pub labels: Labels,
    /// What differs from the host's policy.
    pub policy: TrafficPolicy,
}

/// How connections to a destination are made. Every part may be absent: the wider level's holds then.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct TrafficPolicy {
    /// Choice of endpoint.
    pub load_balancer: Option<LoadBalancer>,
    /// Limits and time-outs.
    pub pool: Option<ConnectionPool>,
    /// When an endpoint is taken out.
    pub outlier: Option<OutlierDetection>,
    /// TLS toward the destination.
    pub tls: Option<ClientTls>,
    /// Differences by port; at host and at subset level.
    pub ports: BTreeMap<u16, TrafficPolicy>,
    /// Tunnels through a proxy.
    pub tunnel: Option<Tunnel>,
    /// Whether a PROXY protocol header is sent, and its version (1 or 2).
    pub proxy_protocol: Option<u8>,
    /// Budget for retries.
    pub retry_budget: Option<RetryBudget>,
}

/// Simple algorithms.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SimpleLb {
    /// Istio's default: least requests.
    Unspecified,
    /// Any endpoint.
    Random,
    /// Where the application meant to go.
    Passthrough,
    /// One after the other.
    RoundRobin,
    /// The less loaded of two.
    LeastRequest,
}

/// What a consistent hash is made of.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum HashKey {
    /// A header.
    Header(Arc<str>),
    /// A cookie, made if absent when `ttl` is given.
    Cookie {
        /// Name.
        name: Arc<str>,
        /// Path.
        path: Option<Arc<str>>,
        /// Lifetime; `Some(0)` is a session cookie.
        ttl: Option<Duration>,
        /// Further attributes, in order.
        attributes: Vec<(Arc<str>, Arc<str>)>,
    },
    /// The caller's address.
    SourceIp,
    /// A query parameter.
    Query(Arc<str>),
}

/// Which consistent hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum HashAlgorithm {
    /// Ketama ring.
    Ring {
        /// Fewest entries in the ring; `None`: Envoy's default, left unsaid (`ringHash: {}`). A hash without algorithm
        /// has Istio's default, 1024.
        minimum_size: Option<u64>,
    },
    /// Maglev table.
    Maglev {
        /// Entries in the table (a prime); `None`: Envoy's default.
        table_size: Option<u64>,
    },
}

/// How an endpoint is chosen.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum LbPolicy {
    /// A simple algorithm.
    Simple(SimpleLb),
    /// A consistent hash.
    Hash {
        /// What is hashed.
        key: Option<HashKey>,
        /// How.
        algorithm: HashAlgorithm,
    },
}

/// New endpoints get their share slowly.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Warmup {
    /// Over how long.
    pub duration: Duration,
    /// Share at the beginning, in thousandths of a per cent. `None`: Envoy's default, 10 %, which is left unsaid
    /// (`warmupDurationSecs`); `warmup` says its default of 10 % outright.
    pub minimum_percent_milli: Option<u64>,
    /// Curve, in thousandths. `None`: Envoy's default, 1, left unsaid as above.
    pub aggression_milli: Option<u64>,
}

/// Load balancing.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct LoadBalancer {
    /// Choice; `None` where only locality or warm-up is set.
    pub policy: Option<LbPolicy>,
    /// Preference by place; replaces the mesh's.
    pub locality: Option<LocalityLb>,
    /// Slow start.
    pub warmup: Option<Warmup>,
}

/// Shares in per cent by place (`region/zone/*`).
pub type Shares = BTreeMap<Arc<str>, u32>;

/// Preference by place.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct LocalityLb {
    /// `None`: on, as the mesh's default is.
    pub enabled: Option<bool>,
    /// Shares: from a place (`region/zone/*`) to places with their shares, sorted by place.
    pub distribute: Vec<(Arc<str>, Shares)>,
    /// From a region to the region that takes over, in order.
    pub failover: Vec<(Arc<str>, Arc<str>)>,
    /// Labels (or `label=value`) that order the endpoints, most important first.
    pub failover_priority: Vec<Arc<str>>,
}

/// TCP keep-alive; absent parts are the operating system's.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Keepalive {
    /// Probes before the connection is given up.
    pub probes: Option<u32>,
    /// Idle time before the first probe.
    pub time: Option<Duration>,
    /// Time between probes.
    pub interval: Option<Duration>,
}

/// Limits of a TCP pool.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct TcpPool {
    /// Most connections.
    pub max_connections: Option<u32>,
    /// Time-out of connecting.
    pub connect_timeout: Option<Duration>,
    /// Keep-alive.
    pub keepalive: Option<Keepalive>,
    /// Longest life of a connection.
    pub max_connection_duration: Option<Duration>,
    /// Idle time after which a connection is closed.
    pub idle_timeout: Option<Duration>,
}

/// Whether HTTP/1 is turned into HTTP/2 on the way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum H2Upgrade {
    /// As the mesh says.
    #[default]
    Default,
    /// No.
    DoNotUpgrade,
    /// Yes.
    Upgrade,
}

/// Limits of an HTTP pool.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct HttpPool {
    /// Most requests that wait for a connection.
    pub max_pending: Option<u32>,
    /// Most requests at once.
    pub max_requests: Option<u32>,
    /// Requests before a connection is closed.
    pub max_requests_per_connection: Option<u32>,
    /// Most retries at once.
    pub max_retries: Option<u32>,
    /// Idle time after which a connection is closed.
    pub idle_timeout: Option<Duration>,
    /// Upgrade to HTTP/2.
    pub h2_upgrade: H2Upgrade,
    /// Whether the upstream is spoken to as the client spoke.
    pub use_client_protocol: bool,
    /// Most streams on one HTTP/2 connection.
    pub max_concurrent_streams: Option<u32>,
    /// Pings on idle HTTP/2 connections.
    pub h2_keepalive: Option<H2Keepalive>,
}

/// Pings on HTTP/2 connections; absent parts are Envoy's.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct H2Keepalive {
    /// Time between pings.
    pub interval: Option<Duration>,
    /// How long an answer may take.
    pub timeout: Option<Duration>,
}

/// Limits.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct ConnectionPool {
    /// Of connections.
    pub tcp: Option<TcpPool>,
    /// Of requests.
    pub http: Option<HttpPool>,
}

/// When an endpoint is taken out, and for how long.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct OutlierDetection {
    /// 5xx answers in a row.
    pub consecutive_5xx: Option<u32>,
    /// Gateway errors (502, 503, 504) in a row.
    pub consecutive_gateway: Option<u32>,
    /// Failures of Lateen's side (connect, time-out) in a row, when told apart.
    pub consecutive_local_origin: Option<u32>,
    /// Whether local failures are told apart.
    pub split_local_origin: bool,
    /// Time between sweeps.
    pub interval: Option<Duration>,
    /// Shortest time out; grows with each ejection.
    pub base_ejection: Option<Duration>,
    /// Largest share of endpoints that may be out, per cent.
    pub max_ejection_percent: Option<u32>,
    /// HTTP status codes that count as errors; empty: 5xx.
    pub http_error_codes: Vec<u16>,
    /// Smallest share of healthy endpoints below which the balancer ignores health, per cent.
    pub min_health_percent: Option<u32>,
}

/// How TLS toward the destination is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum TlsMode {
    /// Plain text.
    #[default]
    Disable,
    /// TLS.
    Simple,
    /// TLS with a client certificate.
    Mutual,
    /// TLS with the mesh's own certificates.
    IstioMutual,
}

/// TLS toward the destination.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct ClientTls {
    /// Mode.
    pub mode: TlsMode,
    /// Client certificate file.
    pub certificate: Option<Arc<str>>,
    /// Private key file.
    pub private_key: Option<Arc<str>>,
    /// File of authorities; `system` for the system's.
    pub ca: Option<Arc<str>>,
    /// Revocation list file.
    pub crl: Option<Arc<str>>,
    /// Secret by name.
    pub credential: Option<Arc<str>>,
    /// Names that the server may present, in order.
    pub subject_alt_names: Vec<Arc<str>>,
    /// Server name to send.
    pub sni: Option<Arc<str>>,
    /// Whether any certificate is taken.
    pub insecure_skip_verify: Option<bool>,
}

/// A tunnel through a proxy (`tunnel` of TrafficPolicy).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Tunnel {
    /// `CONNECT` or `POST`.
    pub protocol: Arc<str>,
    /// Host on the far side.
    pub target_host: Arc<str>,
    /// Port on the far side.
    pub target_port: u16,
}

/// Share of requests that may be retries.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct RetryBudget {
    /// In thousandths of a per cent; `None`: Envoy's default 20 %.
    pub percent_milli: Option<u64>,
    /// Retries that are always allowed.
    pub min_concurrency: Option<u32>,
    /// Time over which requests are counted; `None`: those in flight.
    pub interval: Option<Duration>,
}

/// Which DestinationRule, and which of its parts, a destination's policy came from.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RuleRef {
    /// The rule.
    pub rule: ObjectKey,
}
