//! RequestAuthentication: which JSON Web Tokens a workload accepts.

use crate::Duration;
use crate::proto_enum::proto_enum;
use crate::schema::rule;
use crate::selector::{PolicyTargetReference, WorkloadSelector};
use crate::serde_util::is_default;
use crate::status::IstioStatus;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Which JSON Web Tokens some workloads accept. Requests with a bad token are refused; requests without one
/// pass unless a rule demands it.
#[derive(CustomResource, Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "security.istio.io",
    version = "v1",
    kind = "RequestAuthentication",
    plural = "requestauthentications",
    namespaced,
    status = "IstioStatus",
    schema = "disabled",
    derive = "PartialEq",
    derive = "Default",
    doc = "Which JSON Web Tokens some workloads accept."
)]
#[serde(default, rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [rule("only one of targetRefs or selector can be set", "(has(self.selector) ? 1 : 0) + (has(self.targetRef) ? 1 : 0) + (has(self.targetRefs) ? 1 : 0) <= 1")]))]
pub struct RequestAuthenticationSpec {
    /// The workloads, in its namespace; all, or all of the mesh in the root namespace, when neither this nor a
    /// target is given.
    #[serde(skip_serializing_if = "is_default")]
    pub selector: Option<WorkloadSelector>,
    /// Old form of `target_refs`, for one object.
    #[serde(skip_serializing_if = "is_default")]
    pub target_ref: Option<PolicyTargetReference>,
    /// The objects that it is for; 16 at most.
    #[serde(skip_serializing_if = "is_default")]
    #[schemars(extend("maxItems" = 16))]
    pub target_refs: Vec<PolicyTargetReference>,
    /// The issuers; 4096 at most.
    #[serde(skip_serializing_if = "is_default")]
    #[schemars(extend("maxItems" = 4096))]
    pub jwt_rules: Vec<JwtRule>,
}

/// An issuer and how its tokens are found and checked.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [rule("only one of jwks or jwksUri can be set", "(has(self.jwksUri) ? 1 : 0) + (has(self.jwks_uri) ? 1 : 0) + (has(self.jwks) ? 1 : 0) <= 1")]))]
#[schemars(transform = crate::schema::alias("jwksUri", "jwks_uri"))]
pub struct JwtRule {
    /// The token's `iss`.
    #[serde(skip_serializing_if = "is_default")]
    #[schemars(extend("minLength" = 1))]
    pub issuer: String,
    /// The token's `aud` must have one of these; any when empty.
    #[serde(skip_serializing_if = "is_default")]
    #[schemars(extend("x-items" = {"minLength": 1}))]
    pub audiences: Vec<String>,
    /// Where the issuer's public keys are; found by OpenID discovery when neither this nor `jwks` is given.
    #[serde(alias = "jwks_uri", skip_serializing_if = "is_default")]
    #[schemars(extend("maxLength" = 2048, "minLength" = 1, "x-kubernetes-validations" = [rule("url must have scheme http:// or https://", r#"url(self).getScheme() in ["http", "https"]"#)]))]
    pub jwks_uri: String,
    /// The issuer's public keys themselves.
    #[serde(skip_serializing_if = "is_default")]
    pub jwks: String,
    /// Headers with the token; `Authorization: Bearer` when no place at all is given.
    #[serde(skip_serializing_if = "is_default")]
    pub from_headers: Vec<JwtHeader>,
    /// Parameters of the query with the token; `access_token` when no place at all is given.
    #[serde(skip_serializing_if = "is_default")]
    #[schemars(extend("x-items" = {"minLength": 1}))]
    pub from_params: Vec<String>,
    /// A header to put the token's payload into, in base64url, for the workload.
    #[serde(skip_serializing_if = "is_default")]
    pub output_payload_to_header: String,
    /// Cookies with the token.
    #[serde(skip_serializing_if = "is_default")]
    #[schemars(extend("x-items" = {"minLength": 1}))]
    pub from_cookies: Vec<String>,
    /// Whether the workload gets to see the token.
    #[serde(skip_serializing_if = "is_default")]
    pub forward_original_token: bool,
    /// Headers to copy single claims into, for the workload.
    #[serde(skip_serializing_if = "is_default")]
    pub output_claim_to_headers: Vec<ClaimToHeader>,
    /// How long fetching the keys may take; 5s by default.
    #[serde(skip_serializing_if = "is_default")]
    #[schemars(extend("x-kubernetes-validations" = [rule("must be a valid duration greater than 1ms", "duration(self) >= duration('1ms')")]))]
    pub timeout: Option<Duration>,
    /// Claims that hold several values with spaces between, besides `scope` and `permission`; 64 at most.
    #[serde(skip_serializing_if = "is_default")]
    #[schemars(extend("maxItems" = 64, "x-items" = {"minLength": 1}))]
    pub space_delimited_claims: Vec<String>,
    /// Whether requests without this issuer's token may pass; they may by default.
    #[serde(skip_serializing_if = "is_default")]
    pub presence: Option<JwtPresence>,
}

proto_enum! {
    /// Whether requests without a token may pass.
    pub enum JwtPresence {
        /// They may.
        Optional = (0, "OPTIONAL"),
        /// They may not.
        Required = (1, "REQUIRED"),
    }
}

/// A header with a token.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
#[schemars(extend("required" = ["name"]))]
pub struct JwtHeader {
    /// Its name.
    #[serde(skip_serializing_if = "is_default")]
    #[schemars(extend("minLength" = 1))]
    pub name: String,
    /// What comes before the token in its value, such as `Bearer `.
    #[serde(skip_serializing_if = "is_default")]
    pub prefix: String,
}

/// A header that a claim is copied into.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
#[schemars(extend("required" = ["header", "claim"]))]
pub struct ClaimToHeader {
    /// The header's name.
    #[serde(skip_serializing_if = "is_default")]
    #[schemars(extend("minLength" = 1, "pattern" = "^[-_A-Za-z0-9]+$"))]
    pub header: String,
    /// The claim, perhaps nested with dots; a text, number, flag, or list of texts.
    #[serde(skip_serializing_if = "is_default")]
    #[schemars(extend("minLength" = 1))]
    pub claim: String,
}
