//! Routes: which request goes where, and what happens to it on the way.
//!
//! VirtualService, HTTPRoute, GRPCRoute, TLSRoute, TCPRoute and Ingress all become a [`VirtualService`] of this module.
//! Its name is Istio's; its content is what a proxy must do, with names resolved and text parsed.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use lateen_names::{Hostname, Namespace, ObjectKey, ObjectRef};

use crate::{ExportTo, Labels};

/// A percentage in parts per million, as Envoy's finest `FractionalPercent`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Percent(pub u32);

impl Percent {
    /// 100 %.
    pub const ALL: Self = Self(1_000_000);
}

/// How a piece of text is compared.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TextMatch {
    /// Equal.
    Exact(Arc<str>),
    /// Begins with.
    Prefix(Arc<str>),
    /// Whole text matches the RE2 expression.
    Regex(Arc<str>),
    /// There at all, with any value.
    Present,
}

/// How a path is compared.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PathMatch {
    /// Equal.
    Exact(Arc<str>),
    /// Begins with (Istio's prefix: `/a` matches `/ab`).
    Prefix(Arc<str>),
    /// Equal, or begins with and goes on with `/` (Gateway API's and Ingress's prefix: `/a` does not match `/ab`).
    /// Without trailing slash; the root is [`PathMatch::Prefix`] of `/`.
    PathPrefix(Arc<str>),
    /// Whole path matches the RE2 expression.
    Regex(Arc<str>),
}

/// Which gateway a route is bound to.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum GatewayRef {
    /// Every sidecar.
    Mesh,
    /// A gateway by namespace and name.
    Gateway(ObjectKey),
}

/// Whose rules for precedence and matching hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum Semantics {
    /// Istio's: first match wins, in the order of the list.
    #[default]
    Istio,
    /// Gateway API's: `lower` has sorted the routes; hosts are isolated by listener.
    GatewayApi,
    /// Kubernetes Ingress's.
    Ingress,
}

/// Routes for some hosts.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct VirtualService {
    /// The object it was made from.
    pub origin: ObjectRef,
    /// Its namespace.
    pub namespace: Namespace,
    /// Seconds since the epoch when the object was made; older wins.
    pub created: i64,
    /// Hosts in the order given, fully qualified.
    pub hosts: Vec<Hostname>,
    /// Where it applies; never empty (`mesh` when nothing was said).
    pub gateways: Vec<GatewayRef>,
    /// Who may see it.
    pub export_to: ExportTo,
    /// HTTP routes in order; delegates are already merged in.
    pub http: Vec<HttpRoute>,
    /// Routes of TLS connections by SNI, in order.
    pub tls: Vec<TlsRoute>,
    /// Routes of TCP connections, in order.
    pub tcp: Vec<TcpRoute>,
    /// Whose rules hold.
    pub semantics: Semantics,
}

/// Which sources a match speaks of.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct SourceMatch {
    /// Labels that the calling workload must carry (`sourceLabels`).
    pub labels: Labels,
    /// The namespace that the caller must be in (`sourceNamespace`).
    pub namespace: Option<Arc<str>>,
    /// Gateways that the match is limited to; empty: those of the VirtualService.
    pub gateways: Vec<GatewayRef>,
}

/// Conditions on a header or a query parameter.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NamedMatch {
    /// Name of the header (as given by the user) or parameter.
    pub name: Arc<str>,
    /// What its value must be.
    pub value: TextMatch,
}

/// All conditions of one alternative; all must hold.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct HttpMatch {
    /// The alternative's own name; appended to the route's.
    pub name: Option<Arc<str>>,
    /// Which callers it is for.
    pub source: SourceMatch,
    /// Path.
    pub path: Option<PathMatch>,
    /// Whether the path is compared without regard to case.
    pub ignore_path_case: bool,
    /// Scheme.
    pub scheme: Option<TextMatch>,
    /// Method.
    pub method: Option<TextMatch>,
    /// `:authority`.
    pub authority: Option<TextMatch>,
    /// Headers that must match, sorted by name.
    pub headers: Vec<NamedMatch>,
    /// Headers that must not match, sorted by name.
    pub without_headers: Vec<NamedMatch>,
    /// Query parameters that must match, sorted by name.
    pub query: Vec<NamedMatch>,
    /// The listener's port.
    pub port: Option<u16>,
    /// Prefix of the route's own statistics.
    pub stat_prefix: Option<Arc<str>>,
}

/// Where to send: a host, maybe a subset and a port of it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Destination {
    /// Fully qualified host.
    pub host: Hostname,
    /// Subset of the host's DestinationRule.
    pub subset: Option<Arc<str>>,
    /// Port; needed where the host has several and the listener's does not decide.
    pub port: Option<u16>,
}

/// What to do to headers, in the order: remove, set, add.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct HeaderOps {
    /// Headers to overwrite, sorted by name.
    pub set: Vec<(Arc<str>, Arc<str>)>,
    /// Headers to append, sorted by name.
    pub add: Vec<(Arc<str>, Arc<str>)>,
    /// Headers to take away, in order.
    pub remove: Vec<Arc<str>>,
}

/// Header operations on the way there and back.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Headers {
    /// On the request.
    pub request: HeaderOps,
    /// On the response.
    pub response: HeaderOps,
}

/// A destination with its share of requests.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct WeightedDestination {
    /// Where; `None` is a reference that is not valid and answers 500 (Gateway API).
    pub destination: Option<Destination>,
    /// Its share; the shares of a route need not add up to 100.
    pub weight: u32,
    /// Header operations for this destination only.
    pub headers: Headers,
    /// Overwrites `:authority` for this destination (a `Host` among its `set` headers, or Gateway API's rewrite).
    pub authority: Option<Arc<str>>,
}

/// Changes the path.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum PathRewrite {
    /// Replaces the matched prefix; the whole path where the match was exact.
    Prefix(Arc<str>),
    /// Replaces the whole path (Gateway API's `ReplaceFullPath`).
    Full(Arc<str>),
    /// Replaces what the RE2 expression matches by the substitution (`\1` for groups).
    Regex {
        /// The expression.
        pattern: Arc<str>,
        /// What takes its place.
        substitution: Arc<str>,
    },
}

/// Changes path or authority on the way upstream.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Rewrite {
    /// The path.
    pub path: Option<PathRewrite>,
    /// `:authority`.
    pub authority: Option<Arc<str>>,
}

/// Which port a redirect names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RedirectPort {
    /// This one.
    Number(u16),
    /// The scheme's default port: none is written.
    ProtocolDefault,
    /// The port that the request came to.
    RequestPort,
}

/// Answers with a redirect.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Redirect {
    /// New path: whole path or, for Gateway API, replaced prefix.
    pub path: Option<PathRewrite>,
    /// New authority.
    pub authority: Option<Arc<str>>,
    /// New port.
    pub port: Option<RedirectPort>,
    /// New scheme.
    pub scheme: Option<Arc<str>>,
    /// Status; 301 when 0.
    pub status: u16,
}

/// What answers the request.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum HttpAction {
    /// One of these destinations.
    Forward(Vec<WeightedDestination>),
    /// A redirect.
    Redirect(Redirect),
    /// A fixed answer.
    Direct {
        /// Status.
        status: u16,
        /// Body.
        body: Option<Arc<[u8]>>,
    },
    /// The route is broken: answered with this status, and a diagnostic was raised.
    Invalid {
        /// Status.
        status: u16,
    },
}

/// When and how a failed request is tried again.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Retries {
    /// How often at most; 0 turns retries off.
    pub attempts: u32,
    /// Time-out of each attempt.
    pub per_try_timeout: Option<Duration>,
    /// Envoy's conditions and status codes, as the user wrote them; `None` for the default set.
    pub retry_on: Option<Arc<str>>,
    /// Whether retries may leave the locality (`retryRemoteLocalities`).
    pub remote_localities: Option<bool>,
    /// Whether hosts that were tried are avoided (default yes).
    pub ignore_previous_hosts: Option<bool>,
    /// First pause between attempts.
    pub backoff: Option<Duration>,
}

/// An injected delay.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Delay {
    /// How long.
    pub fixed: Duration,
    /// Of how many requests.
    pub percent: Percent,
}

/// What an aborted request is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AbortStatus {
    /// An HTTP status.
    Http(u16),
    /// A gRPC status code.
    Grpc(u32),
}

/// An injected failure.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Abort {
    /// The answer.
    pub status: AbortStatus,
    /// Of how many requests.
    pub percent: Percent,
}

/// Injected faults.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Fault {
    /// Delay before the request is passed on.
    pub delay: Option<Delay>,
    /// Failure in its place.
    pub abort: Option<Abort>,
}

/// A copy of the request whose answer is thrown away.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Mirror {
    /// Where the copy goes.
    pub destination: Destination,
    /// Of how many requests.
    pub percent: Percent,
}

/// Cross-origin resource sharing.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Cors {
    /// Origins that are allowed.
    pub allow_origins: Vec<TextMatch>,
    /// Methods, in order.
    pub allow_methods: Vec<Arc<str>>,
    /// Request headers, in order.
    pub allow_headers: Vec<Arc<str>>,
    /// Response headers that scripts may read, in order.
    pub expose_headers: Vec<Arc<str>>,
    /// How long a preflight answer may be kept.
    pub max_age: Option<Duration>,
    /// Whether credentials may be sent.
    pub allow_credentials: Option<bool>,
    /// Whether preflight requests that match no origin are passed on (`unmatchedPreflights`).
    pub forward_unmatched_preflights: Option<bool>,
}

/// An HTTP route.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct HttpRoute {
    /// The route's name.
    pub name: Option<Arc<str>>,
    /// Path of the route within its object (`spec.http[2]`), for diagnostics and `explain`.
    pub field: Arc<str>,
    /// Whether it is for gRPC, by a GRPCRoute: its backends speak HTTP/2.
    pub grpc: bool,
    /// Alternatives; empty matches everything.
    pub matches: Vec<HttpMatch>,
    /// What answers.
    pub action: HttpAction,
    /// Changes to path and authority.
    pub rewrite: Rewrite,
    /// Header operations.
    pub headers: Headers,
    /// Time-out of the whole request; `None`: Istio's default, which is none.
    pub timeout: Option<Duration>,
    /// Retries; `None`: the mesh's default.
    pub retries: Option<Retries>,
    /// Faults.
    pub fault: Option<Fault>,
    /// Mirrors.
    pub mirrors: Vec<Mirror>,
    /// Cross-origin rules.
    pub cors: Option<Cors>,
}

impl HttpRoute {
    /// Where it forwards to; nowhere if it answers by itself.
    pub fn backends(&self) -> &[WeightedDestination] {
        match &self.action {
            HttpAction::Forward(to) => to,
            _ => &[],
        }
    }
}

/// What connections a layer-4 match speaks of.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct L4Match {
    /// Which callers it is for.
    pub source: SourceMatch,
    /// Names in the SNI; empty for TCP.
    pub sni: Vec<Hostname>,
    /// Destination addresses.
    pub destination_subnets: Vec<IpNet>,
    /// Port of the listener.
    pub port: Option<u16>,
}

/// A route of TLS connections by SNI.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct TlsRoute {
    /// Path of the route within its object.
    pub field: Arc<str>,
    /// Alternatives.
    pub matches: Vec<L4Match>,
    /// Where.
    pub destinations: Vec<WeightedDestination>,
}

/// A route of TCP connections.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct TcpRoute {
    /// Path of the route within its object.
    pub field: Arc<str>,
    /// Alternatives; empty matches everything.
    pub matches: Vec<L4Match>,
    /// Where.
    pub destinations: Vec<WeightedDestination>,
}

/// An address to bind, where an object names one.
pub type BindAddress = IpAddr;
