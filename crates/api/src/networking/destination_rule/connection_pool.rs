//! Limits and timeouts of connections to a service.

use crate::Duration;
use crate::proto_enum::proto_enum;
use crate::schema::rule;
use crate::serde_util::is_default;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Limits and timeouts of connections.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
pub struct ConnectionPoolSettings {
    /// Of all connections.
    #[serde(skip_serializing_if = "is_default")]
    pub tcp: Option<TcpSettings>,
    /// Of HTTP connections and requests.
    #[serde(skip_serializing_if = "is_default")]
    pub http: Option<HttpSettings>,
}

/// Limits and timeouts of all connections.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
pub struct TcpSettings {
    /// So many connections to the service at most, from one proxy; 2^32-1 by default.
    #[serde(skip_serializing_if = "is_default")]
    pub max_connections: i32,
    /// How long connecting may take; 10s by default, 1ms at least.
    #[serde(skip_serializing_if = "is_default")]
    #[schemars(extend("x-kubernetes-validations" = [rule("must be a valid duration greater than 1ms", "duration(self) >= duration('1ms')")]))]
    pub connect_timeout: Option<Duration>,
    /// Whether idle connections are probed.
    #[serde(skip_serializing_if = "is_default")]
    pub tcp_keepalive: Option<TcpKeepalive>,
    /// How long a connection may live; no limit by default.
    #[serde(skip_serializing_if = "is_default")]
    #[schemars(extend("x-kubernetes-validations" = [rule("must be a valid duration greater than 1ms", "duration(self) >= duration('1ms')")]))]
    pub max_connection_duration: Option<Duration>,
    /// How long a connection may be idle; 1h by default, no limit at zero.
    #[serde(skip_serializing_if = "is_default")]
    pub idle_timeout: Option<Duration>,
}

/// How idle connections are probed. What is absent is left to the operating system.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
pub struct TcpKeepalive {
    /// So many probes without an answer end the connection.
    #[serde(skip_serializing_if = "is_default")]
    pub probes: u32,
    /// How long a connection must be idle before the first probe.
    #[serde(skip_serializing_if = "is_default")]
    #[schemars(extend("x-kubernetes-validations" = [rule("must be a valid duration greater than 1ms", "duration(self) >= duration('1ms')")]))]
    pub time: Option<Duration>,
    /// The time between probes.
    #[serde(skip_serializing_if = "is_default")]
    #[schemars(extend("x-kubernetes-validations" = [rule("must be a valid duration greater than 1ms", "duration(self) >= duration('1ms')")]))]
    pub interval: Option<Duration>,
}

/// Limits and timeouts of HTTP connections and requests.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
pub struct HttpSettings {
    /// So many requests may wait for a connection; 2^32-1 by default.
    #[serde(skip_serializing_if = "is_default")]
    pub http1_max_pending_requests: i32,
    /// So many requests may be under way at once; 2^32-1 by default.
    #[serde(skip_serializing_if = "is_default")]
    pub http2_max_requests: i32,
    /// After so many requests a connection is closed; no limit by default and at 0, no keep-alive at 1.
    #[serde(skip_serializing_if = "is_default")]
    pub max_requests_per_connection: i32,
    /// So many retries may be under way at once; 2^32-1 by default.
    #[serde(skip_serializing_if = "is_default")]
    pub max_retries: i32,
    /// How long a connection may be without requests; 1h by default.
    #[serde(skip_serializing_if = "is_default")]
    #[schemars(extend("x-kubernetes-validations" = [rule("must be a valid duration greater than 1ms", "duration(self) >= duration('1ms')")]))]
    pub idle_timeout: Option<Duration>,
    /// Whether HTTP/1.1 is carried over HTTP/2.
    #[serde(skip_serializing_if = "is_default")]
    pub h2_upgrade_policy: H2UpgradePolicy,
    /// Whether the client's own version of HTTP is kept; overrides `h2_upgrade_policy`.
    #[serde(skip_serializing_if = "is_default")]
    pub use_client_protocol: bool,
    /// So many requests at once on one HTTP/2 connection; 2^31-1 by default.
    #[serde(skip_serializing_if = "is_default")]
    pub max_concurrent_streams: i32,
    /// Probes of HTTP/2 connections; none by default.
    #[serde(skip_serializing_if = "is_default")]
    pub http2_keep_alive: Option<ConnectionKeepalive>,
}

proto_enum! {
    /// Whether HTTP/1.1 is carried over HTTP/2.
    pub enum H2UpgradePolicy {
        /// As the mesh says.
        Default = (0, "DEFAULT"),
        /// No.
        DoNotUpgrade = (1, "DO_NOT_UPGRADE"),
        /// Yes.
        Upgrade = (2, "UPGRADE"),
    }
}

/// Probes of HTTP/2 connections by PING frames.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
pub struct ConnectionKeepalive {
    /// How often.
    #[serde(skip_serializing_if = "is_default")]
    #[schemars(extend("x-kubernetes-validations" = [rule("must be a valid duration greater than 1ms", "duration(self) >= duration('1ms')")]))]
    pub interval: Option<Duration>,
    /// How long an answer may take before the connection is closed.
    #[serde(skip_serializing_if = "is_default")]
    #[schemars(extend("x-kubernetes-validations" = [rule("must be a valid duration greater than 1ms", "duration(self) >= duration('1ms')")]))]
    pub timeout: Option<Duration>,
}
