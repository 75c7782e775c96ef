//! The conditions of VirtualService routes.

use crate::schema::one_of;
use crate::serde_util::is_default;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Conditions on an HTTP request that must all hold.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
pub struct HttpMatchRequest {
    /// A name, appended to that of the rule in logs and statistics.
    #[serde(skip_serializing_if = "is_default")]
    pub name: String,
    /// On the path, without the query.
    #[serde(skip_serializing_if = "is_default")]
    pub uri: Option<StringMatch>,
    /// On the scheme.
    #[serde(skip_serializing_if = "is_default")]
    pub scheme: Option<StringMatch>,
    /// On the method.
    #[serde(skip_serializing_if = "is_default")]
    pub method: Option<StringMatch>,
    /// On the host that was asked for.
    #[serde(skip_serializing_if = "is_default")]
    pub authority: Option<StringMatch>,
    /// On headers, whose names are in lower case; an empty match asks only that the header is there. Other keys
    /// than headers are those that begin with `@request.auth.claims`, at gateways.
    #[serde(skip_serializing_if = "is_default")]
    pub headers: BTreeMap<String, StringMatch>,
    /// The port of the listener that the request came to; every port when 0.
    #[serde(skip_serializing_if = "is_default")]
    pub port: u32,
    /// Labels that the client must have; only for sidecars.
    #[serde(skip_serializing_if = "is_default")]
    pub source_labels: BTreeMap<String, String>,
    /// The gateways at which the condition can hold; overrides that of the VirtualService.
    #[serde(skip_serializing_if = "is_default")]
    pub gateways: Vec<String>,
    /// On parameters of the query; prefixes are not supported.
    #[serde(skip_serializing_if = "is_default")]
    pub query_params: BTreeMap<String, StringMatch>,
    /// Whether upper and lower case are the same in exact and prefix matches of the path.
    #[serde(skip_serializing_if = "is_default")]
    pub ignore_uri_case: bool,
    /// On headers, of which none may hold.
    #[serde(skip_serializing_if = "is_default")]
    pub without_headers: BTreeMap<String, StringMatch>,
    /// The namespace that the client must be in; only for sidecars.
    #[serde(skip_serializing_if = "is_default")]
    pub source_namespace: String,
    /// A name under which statistics of this route are kept.
    #[serde(skip_serializing_if = "is_default")]
    pub stat_prefix: String,
}

/// A condition on a text.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
#[schemars(extend("oneOf" = one_of(&["exact", "prefix", "regex"])))]
pub struct StringMatch {
    /// It is exactly this.
    #[serde(skip_serializing_if = "is_default")]
    pub exact: Option<String>,
    /// It begins with this.
    #[serde(skip_serializing_if = "is_default")]
    pub prefix: Option<String>,
    /// All of it matches this regular expression, in the syntax of RE2.
    #[serde(skip_serializing_if = "is_default")]
    pub regex: Option<String>,
}

/// How a [`StringMatch`] compares.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum StringMatchType<'a> {
    /// `StringMatch::exact` is set.
    Exact(&'a str),
    /// `StringMatch::prefix` is set.
    Prefix(&'a str),
    /// `StringMatch::regex` is set.
    Regex(&'a str),
}

impl StringMatch {
    /// Which one of the exclusive fields is set; the first in the order of [`StringMatchType`] if the CRD rule was bypassed.
    pub fn match_type(&self) -> Option<StringMatchType<'_>> {
        self.exact
            .as_deref()
            .map(StringMatchType::Exact)
            .or_else(|| self.prefix.as_deref().map(StringMatchType::Prefix))
            .or_else(|| self.regex.as_deref().map(StringMatchType::Regex))
    }
}

/// Conditions on a TLS connection that must all hold.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
#[schemars(extend("required" = ["sniHosts"]))]
pub struct TlsMatchAttributes {
    /// Server names, of which the client must ask for one; perhaps with a leading wildcard, within the hosts of
    /// the VirtualService.
    #[serde(skip_serializing_if = "is_default")]
    pub sni_hosts: Vec<String>,
    /// Addresses or ranges that the connection is meant for.
    #[serde(skip_serializing_if = "is_default")]
    pub destination_subnets: Vec<String>,
    /// The port that the connection is meant for; every port when 0.
    #[serde(skip_serializing_if = "is_default")]
    pub port: u32,
    /// Labels that the client must have; only for sidecars.
    #[serde(skip_serializing_if = "is_default")]
    pub source_labels: BTreeMap<String, String>,
    /// The gateways at which the condition can hold; overrides that of the VirtualService.
    #[serde(skip_serializing_if = "is_default")]
    pub gateways: Vec<String>,
    /// The namespace that the client must be in; only for sidecars.
    #[serde(skip_serializing_if = "is_default")]
    pub source_namespace: String,
}

/// Conditions on a connection that must all hold.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
pub struct L4MatchAttributes {
    /// Addresses or ranges that the connection is meant for.
    #[serde(skip_serializing_if = "is_default")]
    pub destination_subnets: Vec<String>,
    /// The port that the connection is meant for; every port when 0.
    #[serde(skip_serializing_if = "is_default")]
    pub port: u32,
    /// An address or range that the client must have. Accepted for compatibility; Istio does not use it.
    #[serde(skip_serializing_if = "is_default")]
    pub source_subnet: String,
    /// Labels that the client must have; only for sidecars.
    #[serde(skip_serializing_if = "is_default")]
    pub source_labels: BTreeMap<String, String>,
    /// The gateways at which the condition can hold; overrides that of the VirtualService.
    #[serde(skip_serializing_if = "is_default")]
    pub gateways: Vec<String>,
    /// The namespace that the client must be in; only for sidecars.
    #[serde(skip_serializing_if = "is_default")]
    pub source_namespace: String,
}
