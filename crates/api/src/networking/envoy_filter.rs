//! EnvoyFilter: patches to the generated configuration of Envoy.

mod matching;

pub use self::matching::{
    ClusterMatch, EnvoyConfigObjectMatch, FilterChainMatch, FilterMatch, ListenerMatch, ObjectMatch, PatchContext,
    ProxyMatch, RouteAction, RouteConfigurationMatch, RouteMatch, SubFilterMatch, VirtualHostMatch,
    WaypointFilterMatch, WaypointMatch, WaypointRouteMatch, WaypointSubFilterMatch,
};

use crate::Struct;
use crate::networking::sidecar::WorkloadSelector;
use crate::proto_enum::proto_enum;
use crate::schema::rule;
use crate::selector::PolicyTargetReference;
use crate::serde_util::is_default;
use crate::status::IstioStatus;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Patches to the generated configuration of Envoy, applied in the order of priority, root namespace first.
#[derive(CustomResource, Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "networking.istio.io",
    version = "v1alpha3",
    kind = "EnvoyFilter",
    plural = "envoyfilters",
    namespaced,
    status = "IstioStatus",
    schema = "disabled",
    derive = "PartialEq",
    derive = "Default",
    doc = "Patches to the generated configuration of Envoy."
)]
#[serde(default, rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [rule("only one of targetRefs or workloadSelector can be set", "(has(self.workloadSelector) ? 1 : 0) + (has(self.targetRefs) ? 1 : 0) <= 1")]))]
pub struct EnvoyFilterSpec {
    /// The workloads, in its namespace; all, or all of the mesh in the root namespace, when absent.
    #[serde(skip_serializing_if = "is_default")]
    pub workload_selector: Option<WorkloadSelector>,
    /// The Gateways, or waypoints' objects, that it is for; excludes `workload_selector`. 16 at most.
    #[serde(skip_serializing_if = "is_default")]
    #[schemars(extend("maxItems" = 16))]
    pub target_refs: Vec<PolicyTargetReference>,
    /// The patches, applied in order.
    #[serde(skip_serializing_if = "is_default")]
    pub config_patches: Vec<EnvoyConfigObjectPatch>,
    /// Lower ones are applied first; 0 by default, negative ones come before.
    #[serde(skip_serializing_if = "is_default")]
    pub priority: i32,
}

/// One patch.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
pub struct EnvoyConfigObjectPatch {
    /// The type of object that is patched.
    #[serde(skip_serializing_if = "is_default")]
    pub apply_to: ApplyTo,
    /// Which objects of the type; all when absent.
    #[serde(skip_serializing_if = "is_default")]
    pub r#match: Option<EnvoyConfigObjectMatch>,
    /// What is done to them.
    #[serde(skip_serializing_if = "is_default")]
    pub patch: Option<Patch>,
}

proto_enum! {
    /// The types of objects in Envoy's configuration that can be patched.
    pub enum ApplyTo {
        /// None; not allowed.
        Invalid = (0, "INVALID"),
        /// Listeners.
        Listener = (1, "LISTENER"),
        /// Filter chains of listeners.
        FilterChain = (2, "FILTER_CHAIN"),
        /// Network filters of filter chains.
        NetworkFilter = (3, "NETWORK_FILTER"),
        /// HTTP filters of the HTTP connection manager.
        HttpFilter = (4, "HTTP_FILTER"),
        /// Route configurations.
        RouteConfiguration = (5, "ROUTE_CONFIGURATION"),
        /// Virtual hosts of route configurations.
        VirtualHost = (6, "VIRTUAL_HOST"),
        /// Routes of virtual hosts.
        HttpRoute = (7, "HTTP_ROUTE"),
        /// Clusters.
        Cluster = (8, "CLUSTER"),
        /// Extension configurations that are discovered on their own.
        ExtensionConfig = (9, "EXTENSION_CONFIG"),
        /// The bootstrap configuration.
        Bootstrap = (10, "BOOTSTRAP"),
        /// Listener filters.
        ListenerFilter = (11, "LISTENER_FILTER"),
    }
}

/// What is done to an object.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
pub struct Patch {
    /// The operation.
    #[serde(skip_serializing_if = "is_default")]
    pub operation: PatchOperation,
    /// The object, or the part of it, as Envoy's API has it in JSON.
    #[serde(skip_serializing_if = "is_default")]
    pub value: Option<Struct>,
    /// Where a filter that is added goes in the order of filters, before `operation` is looked at.
    #[serde(skip_serializing_if = "is_default")]
    pub filter_class: FilterClass,
}

proto_enum! {
    /// What is done to an object.
    pub enum PatchOperation {
        /// None; not allowed.
        Invalid = (0, "INVALID"),
        /// The value is merged into it; lists are appended to.
        Merge = (1, "MERGE"),
        /// The value is added to the list of such objects.
        Add = (2, "ADD"),
        /// It is taken away; needs no value.
        Remove = (3, "REMOVE"),
        /// The value goes before the object that matches, or to the front.
        InsertBefore = (4, "INSERT_BEFORE"),
        /// The value goes after the object that matches, or to the end.
        InsertAfter = (5, "INSERT_AFTER"),
        /// The value goes to the front, if anything matches.
        InsertFirst = (6, "INSERT_FIRST"),
        /// The value takes its place.
        Replace = (7, "REPLACE"),
        /// The value is merged into it; lists are replaced.
        MergeAndReplaceList = (8, "MERGE_AND_REPLACE_LIST"),
    }
}

proto_enum! {
    /// Where a filter goes among those of Istio.
    pub enum FilterClass {
        /// Wherever the operation says.
        Unspecified = (0, "UNSPECIFIED"),
        /// After the authentication filters.
        Authn = (1, "AUTHN"),
        /// After the authorization filters.
        Authz = (2, "AUTHZ"),
        /// Before the statistics filters.
        Stats = (3, "STATS"),
    }
}
