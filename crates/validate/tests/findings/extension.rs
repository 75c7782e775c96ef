//! Modules and scripts in filter chains.

use crate::{table, warnings};

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
    warnings(
        "WasmPlugin",
        "{PART}",
        &[
            (
                &format!("url: 'file:///a.wasm', sha256: '{digest}'"),
                "IST0133",
                "spec.sha256",
            ),
            ("url: a, verificationKey: k", "IST0133", "spec.verificationKey"),
        ],
    );
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
