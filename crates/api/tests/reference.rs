//! The types against Istio's own objects, which are read through `LATEEN_REFERENCE`.

#![expect(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::{env, fs};

use lateen_api::crd::ObjectSchema;
use lateen_api::mesh::{MeshConfig, MeshNetworks};
use lateen_api::{
    DecodeError, Decoded, KINDS, decode_object, decode_proto, extensions, gateway_api, kind, networking, security,
    telemetry,
};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Where the reference is, or `None` after saying so.
fn reference(test: &str) -> Option<PathBuf> {
    let path = env::var_os("LATEEN_REFERENCE").map(PathBuf::from);
    if path.is_none() {
        println!("skipped: {test}: LATEEN_REFERENCE is not set");
    }
    path
}

fn documents(path: &Path) -> Vec<Value> {
    // A plain scalar that ends in a colon before a bracket is YAML to Go, and not to libyaml.
    let text = fs::read_to_string(path).unwrap().replace("001:db8::]", "'001:db8::']");
    let documents = serde_yaml::Deserializer::from_str(&text);
    let values = documents.map(|document| Value::deserialize(document).unwrap_or_else(|e| panic!("{path:?}: {e}")));
    values.filter(Value::is_object).collect()
}

fn scenarios(reference: &Path) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = fs::read_dir(reference.join("corpus"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.join("input.yaml").exists())
        .collect();
    found.sort();
    found
}

/// The schemas of all kinds, which take a while to make.
fn schemas() -> BTreeMap<String, ObjectSchema> {
    KINDS
        .iter()
        .map(|info| (info.crd_name(), ObjectSchema::of(info)))
        .collect()
}

/// Reads an object as its type, and writes it again: what comes out must read as the same.
fn round_trip<K>(json: &Value) -> Result<Vec<String>, DecodeError>
where
    K: kube::Resource<DynamicType = ()> + serde::de::DeserializeOwned + Serialize + PartialEq + std::fmt::Debug,
{
    let Decoded { value, unknown } = decode_object::<K>(json)?;
    let written = serde_json::to_value(&value).unwrap();
    let again = decode_object::<K>(&written)?;
    assert_eq!(again.value, value);
    assert!(again.unknown.is_empty(), "{:?}", again.unknown);
    Ok(unknown)
}

/// `None` when the object is none of ours.
fn decode_any(json: &Value) -> Option<Result<Vec<String>, DecodeError>> {
    let group = json["apiVersion"].as_str()?.split_once('/')?.0;
    Some(match (group, json["kind"].as_str()?) {
        ("networking.istio.io", "VirtualService") => round_trip::<networking::VirtualService>(json),
        ("networking.istio.io", "DestinationRule") => round_trip::<networking::DestinationRule>(json),
        ("networking.istio.io", "Gateway") => round_trip::<networking::Gateway>(json),
        ("networking.istio.io", "ServiceEntry") => round_trip::<networking::ServiceEntry>(json),
        ("networking.istio.io", "WorkloadEntry") => round_trip::<networking::WorkloadEntry>(json),
        ("networking.istio.io", "WorkloadGroup") => round_trip::<networking::WorkloadGroup>(json),
        ("networking.istio.io", "Sidecar") => round_trip::<networking::Sidecar>(json),
        ("networking.istio.io", "EnvoyFilter") => round_trip::<networking::EnvoyFilter>(json),
        ("networking.istio.io", "ProxyConfig") => round_trip::<networking::ProxyConfig>(json),
        ("security.istio.io", "PeerAuthentication") => round_trip::<security::PeerAuthentication>(json),
        ("security.istio.io", "RequestAuthentication") => round_trip::<security::RequestAuthentication>(json),
        ("security.istio.io", "AuthorizationPolicy") => round_trip::<security::AuthorizationPolicy>(json),
        ("telemetry.istio.io", "Telemetry") => round_trip::<telemetry::Telemetry>(json),
        ("extensions.istio.io", "WasmPlugin") => round_trip::<extensions::WasmPlugin>(json),
        ("extensions.istio.io", "TrafficExtension") => round_trip::<extensions::TrafficExtension>(json),
        (gateway_api::GROUP, "GatewayClass") => round_trip::<gateway_api::GatewayClass>(json),
        (gateway_api::GROUP, "Gateway") => round_trip::<gateway_api::Gateway>(json),
        (gateway_api::GROUP, "HTTPRoute") => round_trip::<gateway_api::HttpRoute>(json),
        (gateway_api::GROUP, "GRPCRoute") => round_trip::<gateway_api::GrpcRoute>(json),
        (gateway_api::GROUP, "TCPRoute") => round_trip::<gateway_api::TcpRoute>(json),
        (gateway_api::GROUP, "TLSRoute") => round_trip::<gateway_api::TlsRoute>(json),
        (gateway_api::GROUP, "UDPRoute") => round_trip::<gateway_api::UdpRoute>(json),
        (gateway_api::GROUP, "ReferenceGrant") => round_trip::<gateway_api::ReferenceGrant>(json),
        (gateway_api::GROUP, "BackendTLSPolicy") => round_trip::<gateway_api::BackendTlsPolicy>(json),
        (gateway_api::GROUP, "ListenerSet") => round_trip::<gateway_api::ListenerSet>(json),
        (group, other) if group.ends_with("istio.io") || group == gateway_api::GROUP => panic!("no type for {other}"),
        _ => return None,
    })
}

#[test]
fn accepted_objects_are_understood_whole() {
    let Some(reference) = reference("accepted_objects_are_understood_whole") else {
        return;
    };
    let schemas = schemas();
    let mut counts = BTreeMap::<String, u32>::new();
    let mut problems = Vec::new();
    for scenario in scenarios(&reference) {
        let verdicts: Vec<Value> = fs::read_to_string(scenario.join("expected/validation.json"))
            .map_or_else(|_| Vec::new(), |text| serde_json::from_str(&text).unwrap());
        for object in documents(&scenario.join("input.yaml")) {
            let metadata = &object["metadata"];
            let namespace = metadata["namespace"].as_str().unwrap_or("default");
            let refused = verdicts.iter().any(|verdict| {
                verdict["accepted"] == false
                    && verdict["kind"] == object["kind"]
                    && verdict["name"] == metadata["name"]
                    && verdict["namespace"].as_str().is_none_or(|other| other == namespace)
            });
            if refused {
                continue;
            }
            let name = format!("{}: {} {}", scenario.display(), object["kind"], metadata["name"]);
            if let Some(info) = kind(object["apiVersion"].as_str().unwrap(), object["kind"].as_str().unwrap()) {
                let violations = schemas[&info.crd_name()].check(&object);
                problems.extend(violations.iter().map(|violation| format!("{name}: {violation}")));
            }
            match decode_any(&object) {
                None => continue,
                Some(Err(error)) => problems.push(format!("{name}: {error}")),
                Some(Ok(unknown)) => problems.extend(unknown.iter().map(|path| format!("{name}: unknown {path}"))),
            }
            *counts.entry(object["kind"].as_str().unwrap().to_owned()).or_default() += 1;
        }
    }
    println!("understood: {counts:?}");
    assert!(problems.is_empty(), "{}", problems.join("\n"));
    assert!(counts.values().sum::<u32>() > 100);
}

#[test]
fn mesh_configurations_layer_as_in_istio() {
    let Some(reference) = reference("mesh_configurations_layer_as_in_istio") else {
        return;
    };
    // What the chart adds to Istio's defaults, as corpus/FORMAT.md has it.
    let chart = serde_json::json!({ "defaultProviders": { "metrics": ["prometheus"] } });
    let mut layered = 0;
    for scenario in scenarios(&reference) {
        let path = scenario.join("expected/effective-mesh.json");
        let expected: Value = serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap();
        let expected = decode_proto::<MeshConfig>(&expected).unwrap();
        assert!(expected.unknown.is_empty(), "{scenario:?}: {:?}", expected.unknown);
        let mut mesh = MeshConfig::default_istio();
        let file = scenario.join("mesh.yaml");
        let user = if file.exists() {
            documents(&file).remove(0)
        } else {
            Value::Null
        };
        if user["defaultProviders"].is_null() {
            mesh = mesh.merge(&chart).unwrap().value;
        }
        let merged = mesh.merge(&user).unwrap();
        assert!(merged.unknown.is_empty(), "{scenario:?}: {:?}", merged.unknown);
        assert_eq!(merged.value, expected.value, "{scenario:?}");
        layered += u32::from(!user.is_null());

        let networks = scenario.join("meshNetworks.yaml");
        if networks.exists() {
            let decoded = decode_proto::<MeshNetworks>(&documents(&networks)[0]).unwrap();
            assert!(decoded.unknown.is_empty() && !decoded.value.networks.is_empty());
        }
    }
    assert!(layered > 10, "{layered}");
}

#[test]
fn schemas_refuse_what_istios_refuse() {
    let Some(reference) = reference("schemas_refuse_what_istios_refuse") else {
        return;
    };
    let schemas = schemas();
    let (mut valid, mut refused, mut left_to_cel) = (0, 0, 0);
    let mut problems = Vec::new();
    let mut files: Vec<PathBuf> = fs::read_dir(reference.join("goldens/validation/crds"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    for file in files {
        for mut object in documents(&file) {
            let expected = object
                .as_object_mut()
                .unwrap()
                .remove("_err")
                .and_then(|e| e.as_str().map(str::to_owned));
            let name = format!("{} {}", object["kind"], object["metadata"]["name"]);
            let Some(info) = kind(object["apiVersion"].as_str().unwrap(), object["kind"].as_str().unwrap()) else {
                panic!("{name}: no such kind");
            };
            let found: Vec<String> = schemas[&info.crd_name()]
                .check(&object)
                .iter()
                .map(ToString::to_string)
                .collect();
            match expected {
                None if found.is_empty() => valid += 1,
                None => problems.push(format!("{name}: refused: {found:?}")),
                Some(text) if found.iter().any(|violation| violation.contains(&text)) => refused += 1,
                Some(_) if found.is_empty() => left_to_cel += 1,
                Some(text) => problems.push(format!("{name}: expected {text:?}, found {found:?}")),
            }
        }
    }
    println!("{valid} accepted, {refused} refused, {left_to_cel} left to the rules in CEL");
    assert!(problems.is_empty(), "{}", problems.join("\n"));
    assert!(valid > 20 && refused > 30, "{valid} {refused}");
}

/// An object in which every field of a schema is set.
fn full(schema: &Value) -> Value {
    if schema["x-kubernetes-int-or-string"] == true {
        return 1.into();
    }
    if let Some(value) = schema["enum"].as_array().and_then(|values| values.first()) {
        return value.clone();
    }
    match schema["type"].as_str() {
        Some("boolean") => true.into(),
        Some("integer" | "number") => schema["minimum"].as_u64().unwrap_or(1).max(1).into(),
        Some("string") if schema["format"] == "date-time" => "2026-01-02T03:04:05Z".into(),
        Some("string") if schema["format"] == "byte" => "YQ==".into(),
        // A duration wherever one is wanted, and a text everywhere else.
        Some("string") => "10s".into(),
        Some("array") => vec![full(&schema["items"])].into(),
        _ => {
            let properties = schema["properties"].as_object().into_iter().flatten();
            // The older names of fields, which exclude the newer ones.
            let mut object: serde_json::Map<String, Value> = properties
                .filter(|(name, _)| !["mirror_percent", "jwks_uri"].contains(&name.as_str()))
                .map(|(name, property)| (name.clone(), full(property)))
                .collect();
            if schema["additionalProperties"].is_object() {
                object.insert("key".to_owned(), full(&schema["additionalProperties"]));
            }
            object.into()
        }
    }
}

#[test]
fn every_field_of_the_definitions_in_clusters_is_known() {
    let Some(reference) = reference("every_field_of_the_definitions_in_clusters_is_known") else {
        return;
    };
    let mut read = 0;
    for file in ["istio-crds.yaml", "gateway-api-crds.yaml"] {
        for crd in documents(&reference.join("reference").join(file)) {
            let (group, kind) = (crd["spec"]["group"].as_str(), crd["spec"]["names"]["kind"].as_str());
            let (Some(group), Some(kind)) = (group, kind) else {
                continue;
            };
            for version in crd["spec"]["versions"].as_array().unwrap() {
                let mut object = full(&version["schema"]["openAPIV3Schema"]);
                object["apiVersion"] = format!("{group}/{}", version["name"].as_str().unwrap()).into();
                object["kind"] = kind.into();
                object["metadata"] = serde_json::json!({ "name": "full" });
                match decode_any(&object) {
                    None => println!("no type for {kind}.{group}"),
                    Some(Err(error)) => panic!("{kind}: {error}"),
                    Some(Ok(unknown)) => {
                        assert!(unknown.is_empty(), "{kind}: {unknown:?}");
                        read += 1;
                    }
                }
            }
        }
    }
    assert!(read > 40, "{read}");
}

/// Fields of messages by their name and type, as the list of MeshConfig's, ProxyConfig's and MeshNetworks' fields has
/// them: the message's own name counts, whatever it is nested in.
fn listed(text: &str) -> BTreeMap<String, Vec<(String, String)>> {
    let from = text.find("### 8.2 ").unwrap();
    let to = text.find("### 8.5 ").unwrap();
    let mut messages = BTreeMap::<String, Vec<(String, String)>>::new();
    for line in text[from..to].lines() {
        let Some((name, rest)) = line.strip_prefix("- ").and_then(|line| line.split_once(" — ")) else {
            continue;
        };
        let name = name.trim_matches('`').trim_start_matches("meshNetworks ");
        let (owner, field) = name.rsplit_once('.').unwrap();
        let owner = match owner {
            "meshConfig" => "MeshConfig",
            "defaultConfig" => "ProxyConfig",
            other => other,
        };
        let kind = rest.split([':', '—', '{', '[']).next().unwrap();
        let kind = kind.split(" oneof ").next().unwrap();
        let field = field.trim_end_matches("[]").trim_end_matches("{}");
        messages
            .entry(owner.to_owned())
            .or_default()
            .push((field.to_owned(), kind.trim().to_owned()));
    }
    messages
}

/// A value in which every listed field of a message is there, though it says nothing.
fn empty(
    messages: &BTreeMap<String, Vec<(String, String)>>,
    owner: &str,
    seen: &mut std::collections::BTreeSet<String>,
    depth: usize,
) -> Value {
    seen.insert(owner.to_owned());
    let value = |(field, kind): &(String, String), seen: &mut std::collections::BTreeSet<String>| {
        let name = kind.rsplit([' ', ',', '.']).next().unwrap().trim_end_matches('>');
        // Nested in this message, or beside it, or anywhere.
        let outer = owner.rsplit_once('.').map_or("", |(outer, _)| outer);
        let nested = [format!("{owner}.{name}"), format!("{outer}.{name}")];
        let anywhere = messages.keys().find(|other| other.rsplit('.').next() == Some(name));
        let message = nested.iter().find(|name| messages.contains_key(*name)).or(anywhere);
        let inner = match message {
            Some(message) if depth < 8 => empty(messages, message, seen, depth + 1),
            _ => Value::Null,
        };
        let inner = match inner {
            Value::Null => Value::Null,
            inner if kind.starts_with("repeated") => vec![inner].into(),
            inner if kind.starts_with("map<") => serde_json::json!({ "key": inner }),
            inner => inner,
        };
        (field.clone(), inner)
    };
    let fields = &messages[owner];
    Value::Object(fields.iter().map(|field| value(field, seen)).collect())
}

#[test]
fn every_listed_field_of_the_mesh_settings_is_known() {
    let Some(reference) = reference("every_listed_field_of_the_mesh_settings_is_known") else {
        return;
    };
    let messages = listed(&fs::read_to_string(reference.join("reference/features.md")).unwrap());
    let mut seen = std::collections::BTreeSet::new();
    let mesh = decode_proto::<MeshConfig>(&empty(&messages, "MeshConfig", &mut seen, 0)).unwrap();
    assert!(mesh.unknown.is_empty(), "{:?}", mesh.unknown);
    let networks = decode_proto::<MeshNetworks>(&empty(&messages, "MeshNetworks", &mut seen, 0)).unwrap();
    assert!(networks.unknown.is_empty(), "{:?}", networks.unknown);
    let missed: Vec<&String> = messages.keys().filter(|name| !seen.contains(*name)).collect();
    println!(
        "{} fields of {} messages, not reached: {missed:?}",
        messages.values().map(Vec::len).sum::<usize>(),
        messages.len()
    );
    assert!(missed.len() <= 2, "{missed:?}");
    assert!(seen.len() > 60, "{seen:?}");
}
