//! Load balancing, session affinity and locality.

use crate::Duration;
use crate::proto_enum::proto_enum;
use crate::schema::{one_of, rule};
use crate::serde_util::is_default;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// How an endpoint is chosen.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
#[schemars(extend("oneOf" = one_of(&["simple", "consistentHash", "backendUtilization"])))]
pub struct LoadBalancerSettings {
    /// One of the plain algorithms.
    #[serde(skip_serializing_if = "is_default")]
    pub simple: Option<SimpleLb>,
    /// By a hash, so that equal requests go to the same endpoint.
    #[serde(skip_serializing_if = "is_default")]
    pub consistent_hash: Option<ConsistentHashLb>,
    /// By the load that endpoints report.
    #[serde(skip_serializing_if = "is_default")]
    pub backend_utilization: Option<BackendUtilizationLb>,
    /// Preference of places; replaces that of the mesh.
    #[serde(skip_serializing_if = "is_default")]
    pub locality_lb_setting: Option<LocalityLoadBalancerSetting>,
    /// Preference of the client's own zone, in proportion to its clients; replaces that of the mesh.
    #[serde(skip_serializing_if = "is_default")]
    pub zone_aware_lb_setting: Option<ZoneAwareLoadBalancerSetting>,
    /// Old form of `warmup`: its duration alone.
    #[serde(skip_serializing_if = "is_default")]
    #[schemars(extend("x-kubernetes-validations" = [rule("must be a valid duration greater than 1ms", "duration(self) >= duration('1ms')")]))]
    pub warmup_duration_secs: Option<Duration>,
    /// New endpoints get less traffic at first; for ROUND_ROBIN and LEAST_REQUEST.
    #[serde(skip_serializing_if = "is_default")]
    pub warmup: Option<WarmupConfiguration>,
}

/// The algorithm of [`LoadBalancerSettings`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum LbPolicy<'a> {
    /// `LoadBalancerSettings::simple` is set.
    Simple(SimpleLb),
    /// `LoadBalancerSettings::consistent_hash` is set.
    ConsistentHash(&'a ConsistentHashLb),
    /// `LoadBalancerSettings::backend_utilization` is set.
    BackendUtilization(&'a BackendUtilizationLb),
}

impl LoadBalancerSettings {
    /// Which one of the exclusive fields is set; the first in the order of [`LbPolicy`] if the CRD rule was bypassed.
    pub fn lb_policy(&self) -> Option<LbPolicy<'_>> {
        self.simple
            .map(LbPolicy::Simple)
            .or_else(|| self.consistent_hash.as_ref().map(LbPolicy::ConsistentHash))
            .or_else(|| self.backend_utilization.as_ref().map(LbPolicy::BackendUtilization))
    }
}

proto_enum! {
    /// The plain algorithms.
    pub enum SimpleLb {
        /// Istio's default, which is LEAST_REQUEST.
        Unspecified = (0, "UNSPECIFIED"),
        /// Old name of LEAST_REQUEST.
        LeastConn = (1, "LEAST_CONN"),
        /// Any endpoint, by chance.
        Random = (2, "RANDOM"),
        /// The address that the client asked for, without any choice.
        Passthrough = (3, "PASSTHROUGH"),
        /// One after the other.
        RoundRobin = (4, "ROUND_ROBIN"),
        /// Of two chosen by chance, the one with fewer requests under way.
        LeastRequest = (5, "LEAST_REQUEST"),
    }
}

/// A hash that chooses the endpoint.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
#[schemars(extend("allOf" = [{"oneOf": one_of(&["httpHeaderName", "httpCookie", "useSourceIp", "httpQueryParameterName"])}, {"oneOf": one_of(&["ringHash", "maglev"])}]))]
pub struct ConsistentHashLb {
    /// Of this header.
    #[serde(skip_serializing_if = "is_default")]
    pub http_header_name: Option<String>,
    /// Of a cookie, which is made if the client has none.
    #[serde(skip_serializing_if = "is_default")]
    pub http_cookie: Option<HttpCookie>,
    /// Of the client's address.
    #[serde(skip_serializing_if = "is_default")]
    pub use_source_ip: Option<bool>,
    /// Of this parameter of the query.
    #[serde(skip_serializing_if = "is_default")]
    pub http_query_parameter_name: Option<String>,
    /// Puts endpoints on a ring; the default.
    #[serde(skip_serializing_if = "is_default")]
    pub ring_hash: Option<RingHash>,
    /// Fills a table with endpoints; faster, and less stable when they change.
    #[serde(skip_serializing_if = "is_default")]
    pub maglev: Option<Maglev>,
    /// Old place of the ring's size.
    #[serde(skip_serializing_if = "is_default", deserialize_with = "crate::serde_util::integer")]
    pub minimum_ring_size: u64,
}

/// What a [`ConsistentHashLb`] hashes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum HashKey<'a> {
    /// `ConsistentHashLb::http_header_name` is set.
    HttpHeaderName(&'a str),
    /// `ConsistentHashLb::http_cookie` is set.
    HttpCookie(&'a HttpCookie),
    /// `ConsistentHashLb::use_source_ip` is set.
    UseSourceIp(bool),
    /// `ConsistentHashLb::http_query_parameter_name` is set.
    HttpQueryParameterName(&'a str),
}

impl ConsistentHashLb {
    /// Which one of the exclusive fields is set; the first in the order of [`HashKey`] if the CRD rule was bypassed.
    pub fn hash_key(&self) -> Option<HashKey<'_>> {
        self.http_header_name
            .as_deref()
            .map(HashKey::HttpHeaderName)
            .or_else(|| self.http_cookie.as_ref().map(HashKey::HttpCookie))
            .or_else(|| self.use_source_ip.map(HashKey::UseSourceIp))
            .or_else(|| {
                self.http_query_parameter_name
                    .as_deref()
                    .map(HashKey::HttpQueryParameterName)
            })
    }
}

/// How a [`ConsistentHashLb`] maps hashes to endpoints.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum HashAlgorithm<'a> {
    /// `ConsistentHashLb::ring_hash` is set.
    RingHash(&'a RingHash),
    /// `ConsistentHashLb::maglev` is set.
    Maglev(&'a Maglev),
}

impl ConsistentHashLb {
    /// Which one of the exclusive fields is set; the first in the order of [`HashAlgorithm`] if the CRD rule was bypassed.
    pub fn hash_algorithm(&self) -> Option<HashAlgorithm<'_>> {
        self.ring_hash
            .as_ref()
            .map(HashAlgorithm::RingHash)
            .or_else(|| self.maglev.as_ref().map(HashAlgorithm::Maglev))
    }
}

/// A cookie for session affinity.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
#[schemars(extend("required" = ["name"]))]
pub struct HttpCookie {
    /// Its name.
    #[serde(skip_serializing_if = "is_default")]
    pub name: String,
    /// Its path.
    #[serde(skip_serializing_if = "is_default")]
    pub path: String,
    /// Its lifetime; when absent, no cookie is made; at zero it lives as long as the browser.
    #[serde(skip_serializing_if = "is_default")]
    pub ttl: Option<Duration>,
    /// Further attributes of a cookie that is made.
    #[serde(skip_serializing_if = "is_default")]
    pub attributes: Vec<HttpCookieAttribute>,
}

/// An attribute of a cookie.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
#[schemars(extend("required" = ["name"]))]
pub struct HttpCookieAttribute {
    /// Its name.
    #[serde(skip_serializing_if = "is_default")]
    pub name: String,
    /// Its value; none when empty.
    #[serde(skip_serializing_if = "is_default")]
    pub value: String,
}

/// Puts endpoints on a ring of hashes.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
pub struct RingHash {
    /// The least number of points on the ring; 1024 by default. More are fairer, and cost memory.
    #[serde(skip_serializing_if = "is_default", deserialize_with = "crate::serde_util::integer")]
    pub minimum_ring_size: u64,
}

/// Fills a table with endpoints.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
pub struct Maglev {
    /// The size of the table, a prime up to 5000011; 65537 by default.
    #[serde(skip_serializing_if = "is_default", deserialize_with = "crate::serde_util::integer")]
    pub table_size: u64,
}

/// Weights endpoints by the load that they report in the ORCA format.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
pub struct BackendUtilizationLb {
    /// How long an endpoint must have reported before its weight counts.
    #[serde(skip_serializing_if = "is_default")]
    pub weight_stabilization_period: Option<Duration>,
    /// After so long without a report, an endpoint's weight is the average again.
    #[serde(skip_serializing_if = "is_default")]
    pub weight_expiration_period: Option<Duration>,
    /// How often weights are computed anew.
    #[serde(skip_serializing_if = "is_default")]
    pub weight_update_period: Option<Duration>,
    /// How much errors add to an endpoint's load, in percent.
    #[serde(skip_serializing_if = "is_default")]
    pub error_utilization_penalty_percent: u32,
    /// Metrics of the application's own that are the load, if the endpoint reports them.
    #[serde(skip_serializing_if = "is_default")]
    pub metric_names_for_computing_utilization: Vec<String>,
}

/// How the traffic of a new endpoint grows.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
#[schemars(extend("required" = ["duration"]))]
pub struct WarmupConfiguration {
    /// How long it takes until an endpoint gets its full share.
    #[serde(skip_serializing_if = "is_default")]
    #[schemars(extend("x-kubernetes-validations" = [rule("must be a valid duration greater than 1ms", "duration(self) >= duration('1ms')")]))]
    pub duration: Option<Duration>,
    /// Its share at the beginning, in percent, 0 to 100; 10 by default.
    #[serde(skip_serializing_if = "is_default")]
    #[schemars(extend("nullable" = true, "maximum" = 100, "minimum" = 0))]
    pub minimum_percent: Option<f64>,
    /// The shape of growth: 1, the default, is linear, more is faster at the beginning.
    #[serde(skip_serializing_if = "is_default")]
    #[schemars(extend("nullable" = true, "minimum" = 0))]
    pub aggression: Option<f64>,
}

/// Preference of places: regions, zones and sub-zones, written `region/zone/subzone`.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
pub struct LocalityLoadBalancerSetting {
    /// Fixed shares; excludes `failover` and `failover_priority`.
    #[serde(skip_serializing_if = "is_default")]
    pub distribute: Vec<LocalityDistribute>,
    /// Where traffic goes when a region fails; excludes `distribute`.
    #[serde(skip_serializing_if = "is_default")]
    pub failover: Vec<LocalityFailover>,
    /// Labels in order of weight: the more of them, from the first on, an endpoint has in common with the
    /// client, the earlier it is used.
    #[serde(skip_serializing_if = "is_default")]
    pub failover_priority: Vec<String>,
    /// Whether places matter at all; they do by default, once outlier detection is on.
    #[serde(skip_serializing_if = "is_default")]
    #[schemars(extend("nullable" = true))]
    pub enabled: Option<bool>,
}

/// Shares of the traffic from one place.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
pub struct LocalityDistribute {
    /// The place of the client; `*` stands for the rest of a path.
    #[serde(skip_serializing_if = "is_default")]
    pub from: String,
    /// The share of each place, in percent; 100 in all.
    #[serde(skip_serializing_if = "is_default")]
    pub to: BTreeMap<String, u32>,
}

/// Where traffic goes when a region fails.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
pub struct LocalityFailover {
    /// The region that fails.
    #[serde(skip_serializing_if = "is_default")]
    pub from: String,
    /// The region that takes over.
    #[serde(skip_serializing_if = "is_default")]
    pub to: String,
}

/// Keeps traffic in the client's zone as far as its endpoints can take it.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
pub struct ZoneAwareLoadBalancerSetting {
    /// Whether it is on.
    #[serde(skip_serializing_if = "is_default")]
    #[schemars(extend("nullable" = true))]
    pub enabled: Option<bool>,
    /// Where traffic goes when a region fails.
    #[serde(skip_serializing_if = "is_default")]
    pub failover: Vec<ZoneAwareFailover>,
    /// Labels in order of weight, as in [`LocalityLoadBalancerSetting`].
    #[serde(skip_serializing_if = "is_default")]
    pub failover_priority: Vec<String>,
    /// With fewer endpoints than this, zones do not matter; 6 by default.
    #[serde(skip_serializing_if = "is_default")]
    #[schemars(extend("nullable" = true, "maximum" = u32::MAX, "minimum" = 1))]
    pub min_cluster_size: Option<u64>,
}

/// Where traffic goes when a region fails.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
pub struct ZoneAwareFailover {
    /// The region that fails.
    #[serde(skip_serializing_if = "is_default")]
    pub from: String,
    /// The region that takes over.
    #[serde(skip_serializing_if = "is_default")]
    pub to: String,
}
