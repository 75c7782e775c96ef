//! Modules and scripts in filter chains.

use lateen_validate::Level;
use serde_json::json;

use crate::{check, table};

#[test]
fn plugins() {
    let digest = "0".repeat(64);
    table(
        "WasmPlugin",
        "{PART}",
        &[
            ("url: registry.test:5000/plugin:v1", "ok"),
            ("url: HTTPS://site.test/a.wasm", "ok"),
            ("phase: AUTHN", "spec.url"),
            ("url: 'ftp://site.test/a.wasm'", "spec.url"),
            (&format!("url: a, sha256: '{digest}'"), "ok"),
            (&format!("url: a, sha256: '{}'", &digest[1..]), "spec.sha256"),
            (&format!("url: a, sha256: 'A{}'", &digest[1..]), "spec.sha256"),
            (
                "url: a, vmConfig: {env: [{name: A, value: b}, {name: A}]}",
                "spec.vmConfig.env[1].name",
            ),
            ("url: a, vmConfig: {env: [{value: b}]}", "spec.vmConfig.env[0].name"),
            (
                "url: a, vmConfig: {env: [{name: A, valueFrom: HOST, value: b}]}",
                "spec.vmConfig.env[0].value",
            ),
            (
                "url: a, match: [{ports: [{number: 0}]}]",
                "spec.match[0].ports[0].number",
            ),
            (
                "url: a, selector: {matchLabels: {a: b}}, targetRefs: [{kind: Gateway, name: g}]",
                "spec",
            ),
        ],
    );
    let advice = |spec: &str| {
        let findings = check("WasmPlugin", spec, json!({}));
        let advice = findings.into_iter().filter(|finding| finding.level == Level::Advice);
        advice.map(|finding| finding.field).collect::<Vec<_>>()
    };
    assert_eq!(
        advice(&format!("{{url: 'file:///a.wasm', sha256: '{digest}'}}")),
        ["spec.sha256"]
    );
    assert_eq!(advice("{url: a, verificationKey: k}"), ["spec.verificationKey"]);
}

#[test]
fn extensions() {
    table(
        "TrafficExtension",
        "{PART}",
        &[
            ("wasm: {url: a}", "ok"),
            ("lua: {inlineCode: x = 1}", "ok"),
            ("phase: AUTHN", "spec"),
            ("wasm: {url: a}, lua: {inlineCode: x = 1}", "spec"),
            ("wasm: {sha256: ''}", "spec.wasm.url"),
            ("lua: {}", "spec.lua.inlineCode"),
        ],
    );
}
