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
    let verdict = judge(request, admission);
    match &verdict {
        Ok(_) => metrics.pass(request),
        Err((reason, _)) => {
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
    verdict.unwrap_or_else(|(_, verdict)| verdict)
}

/// The verdict, with the reason that the metric knows where the object is refused.
fn judge(request: &Request, admission: &Admission) -> Result<Verdict, (&'static str, Verdict)> {
    let raw = &request.object;
    let kind = &request.kind;
    let invalid = |message: String, causes: &[Value]| {
        let mut verdict = Verdict::refuse(422, "Invalid", message);
        if let Some(status) = &mut verdict.refused {
            status["details"] = json!({
                "group": kind.group, "kind": kind.kind, "name": raw["metadata"]["name"], "causes": causes,
            });
        }
        verdict
    };
    let marked = ["annotations", "labels"];
    if marked
        .iter()
        .any(|key| raw["metadata"][key].get(ALWAYS_REJECT).is_some())
    {
        return Err((
            "invalid_resource",
            invalid("this object is made to be refused".to_owned(), &[]),
        ));
    }
    let Some(known) = Kind::find(&kind.group, &kind.kind) else {
        let message = format!("{}/{} is no kind of configuration", kind.group, kind.kind);
        return Err(("unknown_type", Verdict::refuse(400, "BadRequest", message)));
    };
    let decoded = Object::decode(known, raw).map_err(|error| {
        let cause = cause(&error.path, &error.message);
        ("crd_conversion_error", invalid(error.to_string(), &[cause]))
    })?;
    // Which versions are served, the cluster's own definitions say.
    let findings = admission.check(raw, &decoded.value, &decoded.unknown);
    let findings: Vec<Finding> = findings
        .into_iter()
        .filter(|finding| finding.field != "apiVersion")
        .collect();
    let (errors, warnings): (Vec<&Finding>, Vec<&Finding>) =
        findings.iter().partition(|finding| finding.level == Level::Error);
    let warnings: Vec<String> = warnings.into_iter().map(ToString::to_string).collect();
    if errors.is_empty() {
        return Ok(Verdict {
            warnings,
            ..Verdict::default()
        });
    }
    let message = errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
    let causes: Vec<Value> = errors
        .iter()
        .map(|finding| cause(&finding.field, &finding.message))
        .collect();
    let mut verdict = invalid(message, &causes);
    verdict.warnings = warnings;
    Err(("invalid_resource", verdict))
}

fn cause(field: &str, message: &str) -> Value {
    json!({ "reason": "FieldValueInvalid", "field": field, "message": message })
}
