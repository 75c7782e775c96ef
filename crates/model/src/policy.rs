//! Policies that workloads are subject to: authentication, authorization, telemetry, patches.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use lateen_names::{Namespace, ObjectRef};

use crate::patch::Patch;
use crate::{Selector, Shared};

/// What every policy object has.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Scope {
    /// The object it was made from.
    pub origin: ObjectRef,
    /// Its namespace; the root namespace means the whole mesh.
    pub namespace: Namespace,
    /// Seconds since the epoch when the object was made; older wins.
    pub created: i64,
    /// Which workloads; empty for all in reach.
    pub selector: Selector,
    /// Objects it is attached to (`targetRefs`), in order; then it concerns gateways and waypoints only.
    pub targets: Vec<TargetRef>,
}

/// An object that a policy is attached to.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TargetRef {
    /// API group; empty for core.
    pub group: Arc<str>,
    /// Kind.
    pub kind: Arc<str>,
    /// Name, in the policy's namespace.
    pub name: Arc<str>,
}

/// Mutual TLS of inbound connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum MtlsMode {
    /// As the next wider policy says; permissive at last.
    #[default]
    Unset,
    /// Plain text.
    Disable,
    /// Both.
    Permissive,
    /// Mutual TLS only.
    Strict,
}

/// PeerAuthentication.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct PeerAuthentication {
    /// Where it holds.
    pub scope: Scope,
    /// Mode.
    pub mode: MtlsMode,
    /// Mode by port of the workload.
    pub ports: BTreeMap<u16, MtlsMode>,
}

/// A place in a request that holds a token.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct JwtHeader {
    /// Header.
    pub name: Arc<str>,
    /// What stands before the token.
    pub prefix: Arc<str>,
}

/// One issuer of a RequestAuthentication.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct JwtRule {
    /// Issuer.
    pub issuer: Arc<str>,
    /// Audiences, one of which the token must name; empty: any.
    pub audiences: Vec<Arc<str>>,
    /// Where keys are published.
    pub jwks_uri: Option<Arc<str>>,
    /// Keys, inline.
    pub jwks: Option<Arc<str>>,
    /// Keys that the control plane fetched, where they are not inline.
    pub fetched: Option<Arc<str>>,
    /// Headers to look in.
    pub from_headers: Vec<JwtHeader>,
    /// Query parameters to look in.
    pub from_params: Vec<Arc<str>>,
    /// Cookies to look in.
    pub from_cookies: Vec<Arc<str>>,
    /// Header that gets the payload, base64.
    pub output_payload_to_header: Option<Arc<str>>,
    /// Headers that get a claim: header, claim.
    pub output_claims: Vec<(Arc<str>, Arc<str>)>,
    /// Whether the token is passed on.
    pub forward: bool,
    /// Time-out of fetching keys.
    pub timeout: Option<Duration>,
    /// Claims whose text is a list, separated by spaces.
    pub space_delimited_claims: Vec<Arc<str>>,
    /// Whether a request without token is refused (`presence: REQUIRED`).
    pub required: bool,
}

impl JwtRule {
    /// Where its keys are fetched from; none when they are inline, or when nothing says where.
    pub fn key_source(&self) -> Option<KeySource> {
        if self.jwks.as_deref().is_some_and(|keys| !keys.is_empty()) {
            return None;
        }
        match &self.jwks_uri {
            Some(uri) => Some(KeySource::Uri(Arc::clone(uri))),
            None => is_url(&self.issuer).then(|| KeySource::Issuer(Arc::clone(&self.issuer))),
        }
    }
}

fn is_url(text: &str) -> bool {
    text.starts_with("https://") || text.starts_with("http://")
}

/// Where the keys of an issuer are published.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum KeySource {
    /// At this URL (`jwksUri`).
    Uri(Arc<str>),
    /// Where this issuer's OpenID configuration says (OpenID Connect Discovery 1.0, §4): rules that name an issuer only.
    Issuer(Arc<str>),
}

impl fmt::Display for KeySource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Uri(url) => f.write_str(url),
            Self::Issuer(issuer) => write!(f, "OpenID configuration of {issuer}"),
        }
    }
}

/// RequestAuthentication.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct RequestAuthentication {
    /// Where it holds.
    pub scope: Scope,
    /// Issuers.
    pub rules: Vec<JwtRule>,
}

/// What an authorization policy does.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum AuthzAction {
    /// Lets matching requests pass, and no others.
    Allow,
    /// Refuses matching requests.
    Deny,
    /// Notes matching requests.
    Audit,
    /// Asks an external authorizer: its name among the mesh's providers.
    Custom(Arc<str>),
}

/// Values that may match and values that must not; texts as the user wrote them (`*` at either end is a wildcard).
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Values {
    /// One of these must match; empty: anything does.
    pub any: Vec<Arc<str>>,
    /// None of these may match.
    pub none: Vec<Arc<str>>,
}

impl Values {
    /// Whether nothing is asked.
    pub fn is_empty(&self) -> bool {
        self.any.is_empty() && self.none.is_empty()
    }
}

/// Who sends a request; all parts must match.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct AuthzSource {
    /// Peer identities without `spiffe://`.
    pub principals: Values,
    /// `issuer/subject` of the token.
    pub request_principals: Values,
    /// Peer namespaces.
    pub namespaces: Values,
    /// Peer service accounts, `namespace/name` or `name`.
    pub service_accounts: Values,
    /// Trust domains of the peer.
    pub trust_domains: Values,
    /// Addresses of the peer.
    pub ip_blocks: Values,
    /// Addresses after trusted proxies.
    pub remote_ip_blocks: Values,
}

/// What a request is; all parts must match.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct AuthzOperation {
    /// Hosts.
    pub hosts: Values,
    /// Ports.
    pub ports: Values,
    /// Methods.
    pub methods: Values,
    /// Paths.
    pub paths: Values,
}

/// A further condition (`when`).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct AuthzCondition {
    /// Key, e.g. `request.headers[x]`.
    pub key: Arc<str>,
    /// Values.
    pub values: Values,
}

/// One rule; some source, some operation and every condition must match.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct AuthzRule {
    /// Sources; empty: any.
    pub from: Vec<AuthzSource>,
    /// Operations; empty: any.
    pub to: Vec<AuthzOperation>,
    /// Conditions.
    pub when: Vec<AuthzCondition>,
}

/// AuthorizationPolicy.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct AuthorizationPolicy {
    /// Where it holds.
    pub scope: Scope,
    /// What it does.
    pub action: AuthzAction,
    /// Rules; without any it matches nothing.
    pub rules: Vec<AuthzRule>,
    /// Only logged (`istio.io/dry-run`).
    pub dry_run: bool,
}

/// Where patches of an EnvoyFilter apply.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct EnvoyFilter {
    /// Where it holds.
    pub scope: Scope,
    /// Order among filters: lower first.
    pub priority: i32,
    /// Patches in order, without those that are broken.
    pub patches: Vec<Shared<Patch>>,
}

/// Which side of a proxy telemetry, or an extension, speaks of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum TelemetryMode {
    /// Both.
    #[default]
    ClientAndServer,
    /// Outbound.
    Client,
    /// Inbound.
    Server,
}

/// Where a custom tag's value comes from.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum TagSource {
    /// A fixed text.
    Literal(Arc<str>),
    /// The proxy's environment, with a default.
    Environment(Arc<str>, Arc<str>),
    /// A request header, with a default.
    Header(Arc<str>, Arc<str>),
    /// A formatter (`%REQ(x)%`).
    Formatter(Arc<str>),
}

/// Tracing of a Telemetry object.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Tracing {
    /// Side.
    pub mode: TelemetryMode,
    /// Providers by name; empty: inherited.
    pub providers: Vec<Arc<str>>,
    /// Share of requests, in parts per million.
    pub sampling: Option<u32>,
    /// Whether spans are not reported.
    pub disabled: Option<bool>,
    /// Tags by name.
    pub tags: BTreeMap<Arc<str>, TagSource>,
    /// Whether Istio's own tags are added (default yes).
    pub istio_tags: Option<bool>,
    /// Whether the request ID decides sampling (default yes).
    pub use_request_id: Option<bool>,
    /// Whether the headers that carry the trace on are left alone.
    pub disable_context_propagation: Option<bool>,
}

/// Access logging of a Telemetry object.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct AccessLogging {
    /// Side.
    pub mode: TelemetryMode,
    /// Providers by name; empty: inherited.
    pub providers: Vec<Arc<str>>,
    /// Whether nothing is logged.
    pub disabled: Option<bool>,
    /// CEL expression that chooses what is logged.
    pub filter: Option<Arc<str>>,
}

/// What is done to a metric.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct MetricOverride {
    /// Metric: `ALL_METRICS`, `REQUEST_COUNT` and so on, or a custom name.
    pub metric: Arc<str>,
    /// Side.
    pub mode: TelemetryMode,
    /// Whether it is not made.
    pub disabled: Option<bool>,
    /// Tags: `None` takes the tag away, else an expression.
    pub tags: BTreeMap<Arc<str>, Option<Arc<str>>>,
}

/// Metrics of a Telemetry object.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Metrics {
    /// Providers by name; empty: inherited.
    pub providers: Vec<Arc<str>>,
    /// Changes.
    pub overrides: Vec<MetricOverride>,
    /// How often TCP counters are reported.
    pub reporting_interval: Option<Duration>,
}

/// Telemetry.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Telemetry {
    /// Where it holds.
    pub scope: Scope,
    /// Tracing.
    pub tracing: Vec<Tracing>,
    /// Access logs.
    pub logging: Vec<AccessLogging>,
    /// Metrics.
    pub metrics: Vec<Metrics>,
}
