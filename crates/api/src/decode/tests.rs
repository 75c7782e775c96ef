//! Decoding: unknown fields, paths of errors, protobuf's JSON rules.

use serde_json::json;

use super::*;
use crate::mesh::MeshConfig;
use crate::networking::{EnvoyFilter, VirtualService, VirtualServiceSpec};

#[test]
fn unknown_fields_are_reported_with_their_paths() {
    let json =
        json!({ "hosts": ["a"], "http": [{ "tiemout": "1s", "match": [{ "headers": { "x.y/z": { "exat": "" } } }] }] });
    let decoded = decode::<VirtualServiceSpec>(&json).unwrap();
    assert_eq!(decoded.value.hosts, ["a"]);
    assert_eq!(
        decoded.unknown,
        ["http[0].tiemout", "http[0].match[0].headers[\"x.y/z\"].exat"]
    );
}

#[test]
fn wrong_types_have_paths() {
    for (json, error) in [
        (
            json!({ "http": [{ "timeout": "soon" }] }),
            "http[0].timeout: invalid value: string \"soon\"",
        ),
        (
            json!({ "http": [{ "timeout": 5 }] }),
            "http[0].timeout: invalid type: integer `5`",
        ),
        (
            json!({ "hosts": "a" }),
            "hosts: invalid type: string \"a\", expected a sequence",
        ),
        (json!({ "hosts": [null] }), "hosts[0]: invalid type: unit value"),
        (
            json!({ "http": [{ "retries": { "attempts": "3" } }] }),
            "http[0].retries.attempts: invalid type: string \"3\"",
        ),
        (
            json!({ "http": [{ "match": [{ "port": -1 }] }] }),
            "http[0].match[0].port: invalid value: integer `-1`",
        ),
        (
            json!({ "http": [{ "redirect": { "derivePort": "X" } }] }),
            "http[0].redirect.derivePort: unknown variant `X`",
        ),
        (json!([]), "invalid type: sequence"),
    ] {
        let message = decode::<VirtualServiceSpec>(&json).unwrap_err().to_string();
        assert!(message.starts_with(error), "{message}");
    }
}

#[test]
fn null_is_absence_except_in_free_form_values() {
    let json = json!({ "hosts": null, "http": [{ "timeout": null, "mirrorPercent": null, "match": null }] });
    let decoded = decode::<VirtualServiceSpec>(&json).unwrap();
    assert_eq!(decoded.value.http.len(), 1);
    assert_eq!(decoded.value.http[0], Default::default());

    let json = json!({
        "apiVersion": "networking.istio.io/v1alpha3", "kind": "EnvoyFilter", "metadata": { "name": "f" },
        "spec": { "configPatches": [{ "patch": { "value": { "a": null } } }] },
    });
    let decoded = decode_object::<EnvoyFilter>(&json).unwrap();
    let patch = decoded.value.spec.config_patches[0].patch.as_ref().unwrap();
    assert_eq!(patch.value.as_ref().unwrap().to_value(), json!({ "a": null }));
    assert!(decoded.unknown.is_empty(), "{:?}", decoded.unknown);
}

#[test]
fn objects_are_checked_for_kind_and_group() {
    let object = |version: &str, kind: &str| json!({ "apiVersion": version, "kind": kind, "metadata": { "name": "a", "nmae": "b" } });
    let decoded = decode_object::<VirtualService>(&object("networking.istio.io/v1beta1", "VirtualService")).unwrap();
    assert_eq!(decoded.value.metadata.name.as_deref(), Some("a"));
    assert_eq!(decoded.unknown, ["metadata.nmae"]);
    assert_eq!(
        decode_object::<VirtualService>(&object("networking.istio.io/v1", "Gateway"))
            .unwrap_err()
            .path,
        "kind"
    );
    assert_eq!(
        decode_object::<VirtualService>(&object("example.com/v1", "VirtualService"))
            .unwrap_err()
            .path,
        "apiVersion"
    );
}

#[test]
fn mesh_config_is_read_as_protobuf_reads_it() {
    let json = json!({
        "proxy_listen_port": "15001", "defaultConfig": { "proxy_metadata": { "A_B": "c" }, "concurrency": 2.0 },
        "accessLogEncoding": 1, "extensionProviders": [{ "name": "x", "nope": {} }], "mesh_mTLS": { "minProtocolVersion": "TLSV1_3" },
    });
    let decoded = decode_proto::<MeshConfig>(&json).unwrap();
    assert_eq!(decoded.value.proxy_listen_port, 15001);
    let proxy = decoded.value.default_config.unwrap();
    assert_eq!(proxy.proxy_metadata["A_B"], "c");
    assert_eq!(proxy.concurrency, Some(2));
    assert_eq!(decoded.value.access_log_encoding.as_str(), "JSON");
    assert_eq!(
        decoded.value.mesh_mtls.unwrap().min_protocol_version.as_str(),
        "TLSV1_3"
    );
    assert_eq!(decoded.unknown, ["extensionProviders[0].nope"]);
}
