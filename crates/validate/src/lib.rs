//! Objects to findings, one module per kind: what admission must refuse, and what it should warn about.
//!
//! The rules are those that Istio's validating webhook holds its objects to (`../features.md` in the reference data
//! lists what users rely on); the words are Lateen's. Each function takes the decoded `spec` of one object and looks at
//! nothing else, so that admission, lowering and `analyze` say the same.
//!
//! A [`Level::Error`] means that admission refuses the object. Lowering copes with such objects all the same.

pub mod authorization_policy;
pub mod destination_rule;
pub mod envoy_filter;
pub mod extension;
pub mod gateway;
pub mod peer_authentication;
pub mod request_authentication;
pub mod sidecar;
pub mod telemetry;
pub mod virtual_service;

mod policy;
mod text;

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

pub use text::parse_bool;

/// Names of gRPC's status codes; the position is the number (gRPC's `statuscodes.md`).
pub const GRPC_STATUS: [&str; 17] = [
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
];

/// Cipher suites that Envoy's BoringSSL knows under OpenSSL's names, those with pre-shared keys left out.
pub const CIPHER_SUITES: [&str; 15] = [
    "ECDHE-ECDSA-AES128-GCM-SHA256",
    "ECDHE-RSA-AES128-GCM-SHA256",
    "ECDHE-ECDSA-AES256-GCM-SHA384",
    "ECDHE-RSA-AES256-GCM-SHA384",
    "ECDHE-ECDSA-CHACHA20-POLY1305",
    "ECDHE-RSA-CHACHA20-POLY1305",
    "ECDHE-ECDSA-AES128-SHA",
    "ECDHE-RSA-AES128-SHA",
    "ECDHE-ECDSA-AES256-SHA",
    "ECDHE-RSA-AES256-SHA",
    "AES128-GCM-SHA256",
    "AES256-GCM-SHA384",
    "AES128-SHA",
    "AES256-SHA",
    "DES-CBC3-SHA",
];

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Level {
    /// Admission says nothing of it; it is a matter of `istioctl analyze`.
    Advice,
    /// Admission lets the object in, and says this.
    Warning,
    /// Admission refuses the object.
    Error,
}

/// Something that is wrong with an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// How bad it is.
    pub level: Level,
    /// Path of the field, e.g. `spec.http[0].route[1].weight`.
    pub field: String,
    /// A code of `istioctl analyze`.
    pub code: &'static str,
    /// What is wrong, and what to do about it.
    pub message: String,
}

impl std::fmt::Display for Finding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {} [{}]", self.field, self.message, self.code)
    }
}

/// Identity of the object that a spec belongs to.
#[derive(Debug, Clone, Copy)]
pub struct Subject<'a> {
    metadata: &'a ObjectMeta,
}

impl<'a> Subject<'a> {
    /// The object with this metadata.
    pub fn new(metadata: &'a ObjectMeta) -> Self {
        Self { metadata }
    }

    /// Its name; empty where it has none.
    pub fn name(&self) -> &'a str {
        self.metadata.name.as_deref().unwrap_or_default()
    }

    /// Its namespace; `default` where it has none.
    pub fn namespace(&self) -> &'a str {
        self.metadata.namespace.as_deref().unwrap_or("default")
    }

    /// One of its annotations.
    pub fn annotation(&self, name: &str) -> Option<&'a str> {
        self.metadata.annotations.as_ref()?.get(name).map(String::as_str)
    }
}

/// `IST0106`: the object does not keep to its schema's rules.
const SCHEMA: &str = "IST0106";
/// `IST0133`: it keeps to them, but there is something to say.
const SCHEMA_WARNING: &str = "IST0133";

/// Collects findings.
#[derive(Debug, Default)]
struct Findings(Vec<Finding>);

impl Findings {
    fn error(&mut self, field: impl Into<String>, message: impl Into<String>) {
        self.0.push(Finding {
            level: Level::Error,
            field: field.into(),
            code: SCHEMA,
            message: message.into(),
        });
    }

    fn warning(&mut self, field: impl Into<String>, message: impl Into<String>) {
        self.coded(SCHEMA_WARNING, field, message);
    }

    /// A warning that has a code of its own.
    fn coded(&mut self, code: &'static str, field: impl Into<String>, message: impl Into<String>) {
        self.0.push(Finding {
            level: Level::Warning,
            field: field.into(),
            code,
            message: message.into(),
        });
    }

    /// Something that only analysis tells.
    fn advice(&mut self, code: &'static str, field: impl Into<String>, message: impl Into<String>) {
        self.0.push(Finding {
            level: Level::Advice,
            field: field.into(),
            code,
            message: message.into(),
        });
    }

    /// An error with the reason, if there is one.
    fn check(&mut self, field: impl Into<String>, result: Result<(), String>) {
        if let Err(message) = result {
            self.error(field, message);
        }
    }

    /// What is the same for all kinds: annotations that users may not set.
    fn metadata(&mut self, subject: &Subject<'_>, may_be_dry: bool) {
        const DRY_RUN: &str = "istio.io/dry-run";
        if !may_be_dry && subject.annotation(DRY_RUN).is_some() {
            self.error(
                annotation(DRY_RUN),
                "only an AuthorizationPolicy can be tried dry; remove the annotation",
            );
        }
        for internal in ["internal.istio.io/parents", "internal.istio.io/parent-namespace"] {
            if subject.annotation(internal).is_some() {
                self.error(annotation(internal), "users cannot set this annotation; remove it");
            }
        }
        if subject.annotation("internal.istio.io/webhook-always-reject").is_some() {
            self.error(
                annotation("internal.istio.io/webhook-always-reject"),
                "the annotation asks for the refusal of the object",
            );
        }
    }
}

fn annotation(name: &str) -> String {
    format!("metadata.annotations[{name}]")
}

/// Labels, as selectors and subsets have them.
type Labels = BTreeMap<String, String>;
