//! What controllers report.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use serde::{Deserialize, Serialize};

use super::common::ParentReference;
use super::gateway::RouteGroupKind;
use crate::serde_util::is_default;

/// The state of a GatewayClass.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct GatewayClassStatus {
    /// `Accepted`, `SupportedVersion`.
    #[serde(skip_serializing_if = "is_default")]
    pub conditions: Vec<Condition>,
    /// What the controller can do, sorted by name.
    #[serde(skip_serializing_if = "is_default")]
    pub supported_features: Vec<SupportedFeature>,
}

/// One of the features that the Gateway API names.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct SupportedFeature {
    /// Its name.
    pub name: String,
}

/// The state of a Gateway.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct GatewayStatus {
    /// Where it can be reached.
    #[serde(skip_serializing_if = "is_default")]
    pub addresses: Vec<GatewayStatusAddress>,
    /// `Accepted`, `Programmed`, …
    #[serde(skip_serializing_if = "is_default")]
    pub conditions: Vec<Condition>,
    /// The state of each of its own listeners.
    #[serde(skip_serializing_if = "is_default")]
    pub listeners: Vec<ListenerStatus>,
    /// How many ListenerSets have added to it.
    #[serde(skip_serializing_if = "is_default")]
    pub attached_listener_sets: Option<i32>,
}

/// Where a Gateway can be reached.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct GatewayStatusAddress {
    /// `IPAddress` (the default), `Hostname`, or a type of the implementation's own.
    pub r#type: String,
    /// The address.
    pub value: String,
}

impl Default for GatewayStatusAddress {
    fn default() -> Self {
        Self {
            r#type: "IPAddress".to_owned(),
            value: String::new(),
        }
    }
}

/// The state of one listener.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ListenerStatus {
    /// The listener's name.
    pub name: String,
    /// The kinds of routes that may attach.
    #[serde(skip_serializing_if = "is_default")]
    pub supported_kinds: Vec<RouteGroupKind>,
    /// How many routes have attached.
    pub attached_routes: i32,
    /// `Accepted`, `Programmed`, `ResolvedRefs`, `Conflicted`.
    pub conditions: Vec<Condition>,
}

/// The state of a ListenerSet.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ListenerSetStatus {
    /// `Accepted`, `Programmed`.
    #[serde(skip_serializing_if = "is_default")]
    pub conditions: Vec<Condition>,
    /// The state of each listener.
    #[serde(skip_serializing_if = "is_default")]
    pub listeners: Vec<ListenerStatus>,
}

/// The state of a route.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct RouteStatus {
    /// At each parent, by each controller that looks after one.
    pub parents: Vec<RouteParentStatus>,
}

/// The state of a route at one parent.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct RouteParentStatus {
    /// The parent, as the route names it.
    pub parent_ref: ParentReference,
    /// Who says so.
    pub controller_name: String,
    /// `Accepted`, `ResolvedRefs`.
    pub conditions: Vec<Condition>,
}

/// The state of a policy.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct PolicyStatus {
    /// At each ancestor of its targets, 16 at most.
    pub ancestors: Vec<PolicyAncestorStatus>,
}

/// The state of a policy at one ancestor.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct PolicyAncestorStatus {
    /// The ancestor, a Gateway as a rule.
    pub ancestor_ref: ParentReference,
    /// Who says so.
    pub controller_name: String,
    /// `Accepted`, `ResolvedRefs`.
    pub conditions: Vec<Condition>,
}
