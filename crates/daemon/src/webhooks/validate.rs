//! `/validate`: configuration is let in or refused, with the paths of the fields to blame.

use anyhow::Result;
use axum::http::StatusCode;
use lateen_lower::Object;
use lateen_lower::admission::{Admission, Finding, Level};
use lateen_lower::object::Kind;
use lateen_runtime::metrics::{IntCounterVec, Metrics};
use serde_json::{Value, json};

use super::{Request, Verdict};

/// Marks the object by which an installation finds out whether this webhook works: it must be refused.
const ALWAYS_REJECT: &str = "internal.istio.io/webhook-always-reject";

/// Validation's metrics.
#[derive(Debug, Clone)]
pub(super) struct ValidateMetrics {
    passed: IntCounterVec,
    failed: IntCounterVec,
    http_errors: IntCounterVec,
}

impl ValidateMetrics {
    pub(super) fn new(metrics: &Metrics) -> Result<Self> {
        let kind = ["group", "version", "resource"];
        let failure = ["group", "version", "resource", "reason"];
        Ok(Self {
            passed: metrics.counters("galley_validation_passed", "Objects that were let in.", &kind)?,
            failed: metrics.counters("galley_validation_failed", "Objects that were refused.", &failure)?,
            http_errors: metrics.counters(
                "galley_validation_http_error",
                "Requests without AdmissionReview.",
                &["status"],
            )?,
        })
    }

    pub(super) fn http_error(&self, status: StatusCode) {
        self.http_errors.with_label_values(&[status.as_str()]).inc();
    }

    fn pass(&self, request: &Request) {
        let kind = &request.kind;
        self.passed
            .with_label_values(&[kind.group.as_str(), &kind.version, &kind.kind])
            .inc();
    }

    fn fail(&self, request: &Request, reason: &str) {
        let kind = &request.kind;
        self.failed
            .with_label_values(&[kind.group.as_str(), &kind.version, &kind.kind, reason])
            .inc();
    }
}

/// The verdict on an object.
pub(super) fn answer(request: &Request, admission: &Admission, metrics: &ValidateMetrics) -> Verdict {
    if !["CREATE", "UPDATE"].contains(&request.operation.as_str()) {
        metrics.pass(request);
        return Verdict::default();
    }
    let (reason, verdict) = judge(request, admission);
    match reason {
        None => metrics.pass(request),
        Some(reason) => {
            metrics.fail(request, reason);
            tracing::info!(
                kind = request.kind.kind,
                namespace = request.namespace,
                reason,
                dry_run = request.dry_run.unwrap_or_default(),
                "configuration refused"
            );
        }
    }
    verdict
}

/// The verdict, with the reason that the metric knows where the object is refused.
fn judge(request: &Request, admission: &Admission) -> (Option<&'static str>, Verdict) {
    let raw = &request.object;
    let kind = &request.kind;
    let marked = ["annotations", "labels"];
    if marked
        .iter()
        .any(|key| raw["metadata"][key].get(ALWAYS_REJECT).is_some())
    {
        let verdict = invalid(request, "this object is made to be refused".to_owned(), &[]);
        return (Some("invalid_resource"), verdict);
    }
    let Some(known) = Kind::find(&kind.group, &kind.kind) else {
        let message = format!("{}/{} is no kind of configuration", kind.group, kind.kind);
        return (Some("unknown_type"), Verdict::refuse(400, "BadRequest", message));
    };
    let decoded = match Object::decode(known, raw) {
        Ok(decoded) => decoded,
        Err(error) => {
            let cause = cause(&error.path, &error.message);
            return (
                Some("crd_conversion_error"),
                invalid(request, error.to_string(), &[cause]),
            );
        }
    };
    // Which versions are served, the cluster's own definitions say.
    let findings = admission.check(raw, &decoded.value, &decoded.unknown);
    let findings = findings.iter().filter(|finding| finding.field != "apiVersion");
    let (errors, warnings): (Vec<&Finding>, Vec<&Finding>) =
        findings.partition(|finding| finding.level == Level::Error);
    let warnings: Vec<String> = warnings.into_iter().map(ToString::to_string).collect();
    if errors.is_empty() {
        let verdict = Verdict {
            warnings,
            ..Verdict::default()
        };
        return (None, verdict);
    }
    let message = errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
    let causes: Vec<Value> = errors
        .iter()
        .map(|finding| cause(&finding.field, &finding.message))
        .collect();
    let mut verdict = invalid(request, message, &causes);
    verdict.warnings = warnings;
    (Some("invalid_resource"), verdict)
}

fn invalid(request: &Request, message: String, causes: &[Value]) -> Verdict {
    let mut verdict = Verdict::refuse(422, "Invalid", message);
    if let Some(status) = &mut verdict.refused {
        status["details"] = json!({
            "group": request.kind.group,
            "kind": request.kind.kind,
            "name": request.object["metadata"]["name"],
            "causes": causes,
        });
    }
    verdict
}

fn cause(field: &str, message: &str) -> Value {
    json!({ "reason": "FieldValueInvalid", "field": field, "message": message })
}
