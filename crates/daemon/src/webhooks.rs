//! What the API server asks before it stores an object: `/inject` gives pods their sidecars, `/validate` lets
//! configuration in or refuses it.
//!
//! Both read and answer an AdmissionReview, in version v1 or v1beta1 as it was asked. What is no AdmissionReview is
//! answered with an error of HTTP; everything else with a review that says what is wrong.

mod inject;
mod settings;
mod validate;

use std::sync::Arc;

use anyhow::Result;
use axum::Json;
use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, Path, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use lateen_injector::InjectionSettings;
use lateen_lower::admission::Admission;
use lateen_runtime::metrics::Metrics;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::watch;

use self::inject::InjectMetrics;
use self::validate::ValidateMetrics;

pub(crate) use self::settings::Injection;

/// Twice what etcd stores: a review of an update holds the object twice.
const BODY_LIMIT: usize = 6 * 1024 * 1024;

/// What the handlers work with.
#[derive(Clone)]
struct Webhooks {
    settings: watch::Receiver<Arc<InjectionSettings>>,
    admission: Arc<Admission>,
    inject: InjectMetrics,
    validate: ValidateMetrics,
}

/// The webhooks' routes.
///
/// # Errors
/// When a metric of the same name is registered already.
pub(crate) fn router(settings: watch::Receiver<Arc<InjectionSettings>>, metrics: &Metrics) -> Result<Router> {
    let webhooks = Webhooks {
        settings,
        admission: Arc::new(Admission::new()),
        inject: InjectMetrics::new(metrics)?,
        validate: ValidateMetrics::new(metrics)?,
    };
    Ok(Router::new()
        .route("/inject", post(inject_here))
        .route("/inject/", post(inject_here))
        .route("/inject/{*variables}", post(inject_elsewhere))
        .route("/validate", post(validate_object))
        .route("/validate/{*rest}", post(validate_object))
        .layer(DefaultBodyLimit::max(BODY_LIMIT))
        .with_state(webhooks))
}

/// What the API server sends.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Review {
    api_version: String,
    request: Request,
}

/// What it asks.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Request {
    uid: String,
    kind: GroupVersionKind,
    namespace: String,
    operation: String,
    object: Value,
    dry_run: Option<bool>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct GroupVersionKind {
    group: String,
    version: String,
    kind: String,
}

/// What it is told.
#[derive(Debug, Default, PartialEq)]
struct Verdict {
    /// Why not; `None` where the object is let in.
    refused: Option<Value>,
    /// A JSON Patch.
    patch: Option<Value>,
    warnings: Vec<String>,
}

impl Verdict {
    fn refuse(code: u16, reason: &str, message: impl Into<String>) -> Self {
        let status = json!({ "status": "Failure", "code": code, "reason": reason, "message": message.into() });
        Self {
            refused: Some(status),
            ..Self::default()
        }
    }
}

async fn inject_here(State(webhooks): State<Webhooks>, headers: HeaderMap, body: Bytes) -> Response {
    inject_at(&webhooks, "", &headers, &body)
}

async fn inject_elsewhere(
    State(webhooks): State<Webhooks>,
    Path(variables): Path<String>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    inject_at(&webhooks, &variables, &headers, &body)
}

fn inject_at(webhooks: &Webhooks, variables: &str, headers: &HeaderMap, body: &Bytes) -> Response {
    let settings = Arc::clone(&webhooks.settings.borrow());
    match read(headers, body) {
        Ok(review) => {
            let verdict = webhooks
                .inject
                .time(|| inject::answer(&review.request, variables, &settings));
            webhooks.inject.count(&verdict);
            write(&review, verdict.unwrap_or_default())
        }
        Err((status, message)) => {
            webhooks.inject.count_unreadable();
            (status, message).into_response()
        }
    }
}

async fn validate_object(State(webhooks): State<Webhooks>, headers: HeaderMap, body: Bytes) -> Response {
    match read(&headers, &body) {
        Ok(review) => {
            let verdict = validate::answer(&review.request, &webhooks.admission, &webhooks.validate);
            write(&review, verdict)
        }
        Err((status, message)) => {
            webhooks.validate.http_error(status);
            (status, message).into_response()
        }
    }
}

fn read(headers: &HeaderMap, body: &[u8]) -> Result<Review, (StatusCode, String)> {
    let content_type = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let media_type = content_type.unwrap_or_default().split(';').next().unwrap_or_default();
    if media_type.trim() != "application/json" {
        let message = format!("Content-Type `{media_type}`: must be application/json\n");
        return Err((StatusCode::UNSUPPORTED_MEDIA_TYPE, message));
    }
    let bad = |reason: String| (StatusCode::BAD_REQUEST, format!("no AdmissionReview: {reason}\n"));
    let review: Review = serde_json::from_slice(body).map_err(|error| bad(error.to_string()))?;
    match review.api_version.as_str() {
        "admission.k8s.io/v1" | "admission.k8s.io/v1beta1" => Ok(review),
        other => Err(bad(format!("apiVersion `{other}` is not known; v1 and v1beta1 are"))),
    }
}

fn write(review: &Review, verdict: Verdict) -> Response {
    use base64::Engine as _;
    let mut response = json!({ "uid": review.request.uid, "allowed": verdict.refused.is_none() });
    if let Some(status) = verdict.refused {
        response["status"] = status;
    }
    if let Some(patch) = verdict.patch {
        response["patchType"] = "JSONPatch".into();
        response["patch"] = base64::engine::general_purpose::STANDARD
            .encode(patch.to_string())
            .into();
    }
    if !verdict.warnings.is_empty() {
        response["warnings"] = json!(verdict.warnings);
    }
    Json(json!({ "apiVersion": review.api_version, "kind": "AdmissionReview", "response": response })).into_response()
}

#[cfg(test)]
mod tests;
