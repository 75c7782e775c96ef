//! What is found in objects that are wrong in one way each.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a failed test is meant to say so"
)]

mod destination_rule;
mod extension;
mod gateway;
mod policy;
mod virtual_service;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use lateen_api::extensions::{TrafficExtension, WasmPlugin};
use lateen_api::networking::{DestinationRule, EnvoyFilter, Gateway, Sidecar, VirtualService};
use lateen_api::security::{AuthorizationPolicy, PeerAuthentication, RequestAuthentication};
use lateen_api::telemetry::Telemetry;
use lateen_validate::{Finding, Level, Subject};
use serde_json::{Value, json};

/// Findings of an object of that kind with that spec.
pub(crate) fn check(kind: &str, spec: &str, annotations: Value) -> Vec<Finding> {
    let spec: Value = serde_yaml::from_str(spec).unwrap();
    let group = match kind {
        "PeerAuthentication" | "RequestAuthentication" | "AuthorizationPolicy" => "security.istio.io/v1",
        "Telemetry" => "telemetry.istio.io/v1",
        "TrafficExtension" | "WasmPlugin" => "extensions.istio.io/v1alpha1",
        "EnvoyFilter" => "networking.istio.io/v1alpha3",
        _ => "networking.istio.io/v1",
    };
    let metadata = json!({"name": "x", "namespace": "shop", "annotations": annotations});
    let object = json!({"apiVersion": group, "kind": kind, "metadata": metadata, "spec": spec});
    let meta: ObjectMeta = serde_json::from_value(object["metadata"].clone()).unwrap();
    let subject = Subject::new(&meta);
    macro_rules! of {
        ($type:ty, $module:ident) => {
            of!($type, $module, check)
        };
        ($type:ty, $module:ident, $check:ident) => {{
            let decoded = lateen_api::decode_object::<$type>(&object).unwrap();
            assert!(decoded.unknown.is_empty(), "{:?}", decoded.unknown);
            lateen_validate::$module::$check(&decoded.value.spec, &subject)
        }};
    }
    match kind {
        "VirtualService" => of!(VirtualService, virtual_service),
        "DestinationRule" => of!(DestinationRule, destination_rule),
        "Gateway" => of!(Gateway, gateway),
        "Sidecar" => of!(Sidecar, sidecar),
        "EnvoyFilter" => of!(EnvoyFilter, envoy_filter),
        "PeerAuthentication" => of!(PeerAuthentication, peer_authentication),
        "RequestAuthentication" => of!(RequestAuthentication, request_authentication),
        "AuthorizationPolicy" => of!(AuthorizationPolicy, authorization_policy),
        "Telemetry" => of!(Telemetry, telemetry),
        "TrafficExtension" => of!(TrafficExtension, extension),
        "WasmPlugin" => of!(WasmPlugin, extension, check_plugin),
        other => panic!("{other}"),
    }
}

/// Each line: the part of the spec, then the field that an error must name; `ok` where there must be none.
pub(crate) fn table(kind: &str, frame: &str, lines: &[(&str, &str)]) {
    for (part, expected) in lines {
        let spec = frame.replace("PART", part);
        let errors: Vec<Finding> = check(kind, &spec, json!({}))
            .into_iter()
            .filter(|finding| finding.level == Level::Error)
            .collect();
        let fields: Vec<&str> = errors.iter().map(|finding| finding.field.as_str()).collect();
        if *expected == "ok" {
            assert!(fields.is_empty(), "{part}: {errors:?}");
        } else {
            assert!(fields.contains(expected), "{part}: {expected} is not among {fields:?}");
        }
    }
}

/// Each line: the part of the spec, and the code and field of the warning.
pub(crate) fn warnings(kind: &str, frame: &str, lines: &[(&str, &str, &str)]) {
    for (part, code, field) in lines {
        let findings = check(kind, &frame.replace("PART", part), json!({}));
        let found = findings
            .iter()
            .any(|finding| finding.level == Level::Warning && finding.code == *code && finding.field == *field);
        assert!(found, "{part}: {findings:?}");
    }
}
