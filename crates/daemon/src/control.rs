//! The levels of logging while the process runs, in the form that `istioctl admin log` reads and writes: scopes.

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use lateen_runtime::admin::elsewhere;
use lateen_runtime::logging::Levels;
use serde::{Deserialize, Serialize};

/// A part of what is logged.
struct Scope {
    name: &'static str,
    description: &'static str,
    /// The target of its events; empty for all that are in no other scope.
    target: &'static str,
}

const fn scope(name: &'static str, target: &'static str, description: &'static str) -> Scope {
    Scope {
        name,
        description,
        target,
    }
}

/// By name.
const SCOPES: &[Scope] = &[
    scope("ads", "lateen_xds", "streams of proxies"),
    scope("ca", "lateen_ca", "the certificate authority"),
    scope("controllers", "lateen_controllers", "what is written to the cluster"),
    scope("default", "", "everything that is in no other scope"),
    scope(
        "distribute",
        "lateen_distribute",
        "what proxies should hold, and how far they have come",
    ),
    scope("model", "lateen_lower", "what is made of configuration"),
    scope(
        "sources",
        "lateen_sources",
        "what is read from the cluster, from files and of token issuers",
    ),
    scope("webhooks", "lateend::webhooks", "injection and validation"),
];

/// A scope as it is written. Traces of the stack and callers are never logged.
#[derive(Debug, Serialize)]
struct Shown {
    name: &'static str,
    description: &'static str,
    output_level: String,
    stack_trace_level: &'static str,
    log_callers: bool,
}

/// What is to be changed; other fields have no effect.
#[derive(Debug, Deserialize)]
struct Wanted {
    #[serde(default)]
    output_level: String,
}

/// `/scopej`: all scopes, and each by its name.
pub(crate) fn router(levels: Levels) -> Router {
    Router::new()
        .route("/scopej", get(all))
        .route("/scopej/", get(all))
        .route("/scopej/{name}", get(one).put(change))
        .fallback(elsewhere)
        .with_state(levels)
}

async fn all(State(levels): State<Levels>) -> Json<Vec<Shown>> {
    Json(SCOPES.iter().map(|scope| shown(scope, &levels)).collect())
}

async fn one(State(levels): State<Levels>, Path(name): Path<String>) -> Response {
    match find(&name) {
        Some(scope) => Json(shown(scope, &levels)).into_response(),
        None => unknown(&name),
    }
}

async fn change(State(levels): State<Levels>, Path(name): Path<String>, Json(wanted): Json<Wanted>) -> Response {
    let Some(scope) = find(&name) else {
        return unknown(&name);
    };
    let level = match &*wanted.output_level {
        // Only what is of no effect is to be changed.
        "" => return StatusCode::ACCEPTED.into_response(),
        "none" => "off",
        level => level,
    };
    match levels.set(scope.target, level) {
        Ok(()) => {
            tracing::info!(scope = scope.name, level, "level of logging changed");
            StatusCode::ACCEPTED.into_response()
        }
        Err(error) => (StatusCode::BAD_REQUEST, format!("{error}\n")).into_response(),
    }
}

fn find(name: &str) -> Option<&'static Scope> {
    SCOPES.iter().find(|scope| scope.name == name)
}

fn shown(scope: &Scope, levels: &Levels) -> Shown {
    let level = levels.of(scope.target);
    Shown {
        name: scope.name,
        description: scope.description,
        output_level: if level == "off" { "none".to_owned() } else { level },
        stack_trace_level: "none",
        log_callers: false,
    }
}

fn unknown(name: &str) -> Response {
    let known: Vec<&str> = SCOPES.iter().map(|scope| scope.name).collect();
    let text = format!("unknown scope name: {name}; there are {}\n", known.join(", "));
    (StatusCode::BAD_REQUEST, text).into_response()
}
