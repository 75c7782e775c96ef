//! AuthorizationPolicy: who may do what to a workload.

use crate::proto_enum::proto_enum;
use crate::schema::{one_of, rule};
use crate::selector::{PolicyTargetReference, WorkloadSelector};
use crate::serde_util::is_default;
use crate::status::IstioStatus;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Who may do what to some workloads. CUSTOM policies are asked first, then DENY, then ALLOW; with no ALLOW
/// policy everything else may pass.
#[derive(CustomResource, Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "security.istio.io",
    version = "v1",
    kind = "AuthorizationPolicy",
    plural = "authorizationpolicies",
    namespaced,
    status = "IstioStatus",
    schema = "disabled",
    derive = "PartialEq",
    derive = "Default",
    doc = "Who may do what to some workloads."
)]
#[serde(default, rename_all = "camelCase")]
#[schemars(extend("oneOf" = one_of(&["provider"]), "x-kubernetes-validations" = [rule("only one of targetRefs or selector can be set", "(has(self.selector) ? 1 : 0) + (has(self.targetRef) ? 1 : 0) + (has(self.targetRefs) ? 1 : 0) <= 1")]))]
pub struct AuthorizationPolicySpec {
    /// The workloads, in its namespace; all, or all of the mesh in the root namespace, when neither this nor a
    /// target is given.
    #[serde(skip_serializing_if = "is_default")]
    pub selector: Option<WorkloadSelector>,
    /// Old form of `target_refs`, for one object.
    #[serde(skip_serializing_if = "is_default")]
    pub target_ref: Option<PolicyTargetReference>,
    /// The objects that it is for, such as a Gateway, a waypoint's Service or a ServiceEntry; 16 at most.
    #[serde(skip_serializing_if = "is_default")]
    #[schemars(extend("maxItems" = 16))]
    pub target_refs: Vec<PolicyTargetReference>,
    /// The rules, of which one must match; none matches when empty. 512 at most.
    #[serde(skip_serializing_if = "is_default")]
    #[schemars(extend("maxItems" = 512))]
    pub rules: Vec<Rule>,
    /// What becomes of requests that match.
    #[serde(skip_serializing_if = "is_default")]
    pub action: Action,
    /// The authorizer, for CUSTOM.
    #[serde(skip_serializing_if = "is_default")]
    pub provider: Option<ExtensionProviderRef>,
}

proto_enum! {
    /// What becomes of requests that match a rule.
    pub enum Action {
        /// They may pass, and others may not unless another policy lets them.
        Allow = (0, "ALLOW"),
        /// They may not pass.
        Deny = (1, "DENY"),
        /// They are marked for the audit log and may pass.
        Audit = (2, "AUDIT"),
        /// An external authorizer decides.
        Custom = (3, "CUSTOM"),
    }
}

/// An authorizer among the mesh's extension providers.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
pub struct ExtensionProviderRef {
    /// Its name.
    #[serde(skip_serializing_if = "is_default")]
    pub name: String,
}

/// A rule, which matches when all three of its parts do.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
pub struct Rule {
    /// The origins, of which one must match; any when empty. 512 at most.
    #[serde(skip_serializing_if = "is_default")]
    #[schemars(extend("maxItems" = 512))]
    pub from: Vec<RuleFrom>,
    /// The operations, of which one must match; any when empty.
    #[serde(skip_serializing_if = "is_default")]
    pub to: Vec<RuleTo>,
    /// Further conditions, which must all hold.
    #[serde(skip_serializing_if = "is_default")]
    pub when: Vec<Condition>,
}

/// An origin.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
pub struct RuleFrom {
    /// The origin; all that it says must hold.
    #[serde(skip_serializing_if = "is_default")]
    pub source: Option<Source>,
}

/// An operation.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
pub struct RuleTo {
    /// The operation; all that it says must hold.
    #[serde(skip_serializing_if = "is_default")]
    pub operation: Option<Operation>,
}

/// The origin of a request. Each list that is given must have a match, and each `not_` list must have none.
/// Values may begin or end with `*`.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [rule("Cannot set serviceAccounts with namespaces or principals", "(has(self.serviceAccounts) || has(self.notServiceAccounts)) ? (!has(self.principals) && !has(self.notPrincipals) && !has(self.namespaces) && !has(self.notNamespaces)) : true")]))]
pub struct Source {
    /// Identities of the peer by mutual TLS, without `spiffe://`: `<trust domain>/ns/<namespace>/sa/<account>`.
    #[serde(skip_serializing_if = "is_default")]
    pub principals: Vec<String>,
    /// Identities that the peer must not have.
    #[serde(skip_serializing_if = "is_default")]
    pub not_principals: Vec<String>,
    /// Identities from the JSON Web Token, as `<issuer>/<subject>`.
    #[serde(skip_serializing_if = "is_default")]
    pub request_principals: Vec<String>,
    /// Identities that the token must not have.
    #[serde(skip_serializing_if = "is_default")]
    pub not_request_principals: Vec<String>,
    /// Namespaces of the peer, by mutual TLS.
    #[serde(skip_serializing_if = "is_default")]
    pub namespaces: Vec<String>,
    /// Namespaces that the peer must not be in.
    #[serde(skip_serializing_if = "is_default")]
    pub not_namespaces: Vec<String>,
    /// Service accounts of the peer, by mutual TLS: `account`, in this namespace, or `namespace/account`. 16 at
    /// most; no wildcards.
    #[serde(skip_serializing_if = "is_default")]
    #[schemars(extend("maxItems" = 16, "x-items" = {"maxLength": 320}))]
    pub service_accounts: Vec<String>,
    /// Service accounts that the peer must not have.
    #[serde(skip_serializing_if = "is_default")]
    #[schemars(extend("maxItems" = 16, "x-items" = {"maxLength": 320}))]
    pub not_service_accounts: Vec<String>,
    /// Addresses or ranges of the peer, as the connection has them.
    #[serde(skip_serializing_if = "is_default")]
    pub ip_blocks: Vec<String>,
    /// Addresses or ranges that the peer must not have.
    #[serde(skip_serializing_if = "is_default")]
    pub not_ip_blocks: Vec<String>,
    /// Addresses or ranges of the original client, as trusted proxies report it in `X-Forwarded-For` or the
    /// PROXY header.
    #[serde(skip_serializing_if = "is_default")]
    pub remote_ip_blocks: Vec<String>,
    /// Addresses or ranges that the original client must not have.
    #[serde(skip_serializing_if = "is_default")]
    pub not_remote_ip_blocks: Vec<String>,
    /// Trust domains of the peer, by mutual TLS.
    #[serde(skip_serializing_if = "is_default")]
    pub trust_domains: Vec<String>,
    /// Trust domains that the peer must not be of.
    #[serde(skip_serializing_if = "is_default")]
    pub not_trust_domains: Vec<String>,
}

/// What is asked for. Each list that is given must have a match, and each `not_` list must have none. Values
/// may begin or end with `*`. Everything but ports is for HTTP.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
pub struct Operation {
    /// Hosts, in any case.
    #[serde(skip_serializing_if = "is_default")]
    pub hosts: Vec<String>,
    /// Hosts that it must not be.
    #[serde(skip_serializing_if = "is_default")]
    pub not_hosts: Vec<String>,
    /// Ports of the workload, as numbers in text.
    #[serde(skip_serializing_if = "is_default")]
    pub ports: Vec<String>,
    /// Ports that it must not be.
    #[serde(skip_serializing_if = "is_default")]
    pub not_ports: Vec<String>,
    /// Methods; for gRPC always `POST`.
    #[serde(skip_serializing_if = "is_default")]
    pub methods: Vec<String>,
    /// Methods that it must not be.
    #[serde(skip_serializing_if = "is_default")]
    pub not_methods: Vec<String>,
    /// Paths, normalised as the mesh says, or templates with `{*}` for an element and `{**}` for any number of
    /// them; for gRPC `/package.service/method`.
    #[serde(skip_serializing_if = "is_default")]
    pub paths: Vec<String>,
    /// Paths that it must not be.
    #[serde(skip_serializing_if = "is_default")]
    pub not_paths: Vec<String>,
}

/// A condition on an attribute of the request.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
#[schemars(extend("required" = ["key"]))]
pub struct Condition {
    /// The attribute, such as `request.headers[x]`, `source.ip`, `request.auth.claims[a][b]` or
    /// `connection.sni`.
    #[serde(skip_serializing_if = "is_default")]
    pub key: String,
    /// The values, of which it must have one.
    #[serde(skip_serializing_if = "is_default")]
    pub values: Vec<String>,
    /// The values, of which it must have none.
    #[serde(skip_serializing_if = "is_default")]
    pub not_values: Vec<String>,
}
