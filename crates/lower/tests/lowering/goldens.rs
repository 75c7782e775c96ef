//! What Istio makes of Gateway API objects, compared with what Lateen does: Istio's result is read as Istio's own kinds,
//! lowered, and put beside.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use lateen_lower::{Object, Settings};
use lateen_model::destination::{ClientTls, TrafficPolicy};
use lateen_model::gateway::Server;
use lateen_model::route::*;
use lateen_names::{Hostname, ObjectKey};
use serde_json::{Value, json};

use crate::world::{object, objects, reference, snapshot_with};

/// Cases about what Lateen does not do yet (InferencePools and XBackends), and two in which it does otherwise: behind a
/// listener that ends TLS there are no server names left to match, so that each host is a route of bytes of its own; and a
/// backend that no ReferenceGrant allows is one that refuses, as the Gateway API wants, where Istio names none.
const ELSEWHERE: [&str; 4] = ["http", "xbackend", "tls-terminate", "reference-policy-tcp"];
/// Cases in which Istio merges BackendTLSPolicies with the experimental XBackendTrafficPolicy into one rule.
const MIXED: [&str; 1] = ["mix-backend-policy"];

pub(crate) fn text<'v>(value: &'v Value, name: &str) -> &'v str {
    value.get(name).and_then(Value::as_str).unwrap_or_default()
}

/// Services, Secrets and ConfigMaps that stand only in the table of Istio's test.
pub(crate) fn fixtures(cases: &Value) -> Vec<Object> {
    let mut made = Vec::new();
    for service in cases["services"].as_array().unwrap() {
        let Some(host) = service["hostname"].as_str() else {
            continue;
        };
        let gateway = host.starts_with("istio-ingressgateway.");
        let names = ["http/80", "tcp/34000", "tcp-other/34001"].into_iter();
        let ports: Vec<Value> = names
            .chain(gateway.then_some("https/443"))
            .map(|port| port.split_once('/').unwrap())
            .map(|(name, port)| json!({"name": name, "port": port.parse::<u32>().unwrap(), "protocol": "TCP", "number": port.parse::<u32>().unwrap()}))
            .collect();
        let namespace = text(service, "namespace");
        let document = match host
            .strip_suffix(".svc.domain.suffix")
            .and_then(|name| name.split_once('.'))
        {
            Some((name, namespace)) => {
                made.extend(object(endpoints(name, namespace, &ports)).unwrap());
                let external = if gateway { json!(["1.2.3.4"]) } else { json!([]) };
                json!({
                    "apiVersion": "v1", "kind": "Service",
                    "metadata": {"name": name, "namespace": namespace},
                    "spec": {"clusterIP": "10.0.0.1", "ports": ports, "externalIPs": external},
                })
            }
            None => json!({
                "apiVersion": "networking.istio.io/v1", "kind": "ServiceEntry",
                "metadata": {"name": format!("fixture-{}", host.replace(['.', '*'], "-")), "namespace": namespace},
                "spec": {"hosts": [host], "resolution": "DNS", "ports": ports.iter().map(|port| json!({"name": port["name"], "number": port["number"], "protocol": "HTTP"})).collect::<Vec<_>>()},
            }),
        };
        made.extend(object(document).unwrap());
    }
    for entry in cases["secretsAndConfigMaps"].as_array().unwrap() {
        let secret = text(entry, "kind") == "Secret";
        let data = entry["data"].as_object().unwrap().iter().map(|(name, value)| {
            let value = value.as_str().unwrap();
            let content = cases["pem"].get(value).and_then(Value::as_str).unwrap_or(value);
            (
                name.clone(),
                json!(if secret {
                    base64(content.as_bytes())
                } else {
                    content.to_owned()
                }),
            )
        });
        let document = json!({
            "apiVersion": "v1", "kind": text(entry, "kind"),
            "metadata": {"name": entry["name"], "namespace": entry["namespace"]},
            "data": data.collect::<serde_json::Map<_, _>>(),
        });
        made.extend(object(document).unwrap());
    }
    made
}

/// One endpoint for each port of a service; the first port leads to 8080 there.
fn endpoints(name: &str, namespace: &str, ports: &[Value]) -> Value {
    let ports = ports.iter().enumerate().map(|(at, port)| {
        let target = if at == 0 { json!(8080) } else { port["port"].clone() };
        json!({"name": port["name"], "port": target, "protocol": "TCP"})
    });
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {"name": name, "namespace": namespace, "labels": {"kubernetes.io/service-name": name}},
        "addressType": "IPv4",
        "ports": ports.collect::<Vec<_>>(),
        "endpoints": [{"addresses": ["10.1.0.1"], "conditions": {"ready": true}}],
    })
}

fn base64(bytes: &[u8]) -> String {
    const SIGNS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let encode = |chunk: &[u8]| {
        let bits = chunk
            .iter()
            .chain([0, 0].iter())
            .take(3)
            .fold(0_u32, |bits, byte| bits << 8 | u32::from(*byte));
        let sign = |at: usize| {
            if at <= chunk.len() {
                char::from(SIGNS[(bits >> (18 - 6 * at)) as usize & 63])
            } else {
                '='
            }
        };
        [sign(0), sign(1), sign(2), sign(3)]
    };
    bytes.chunks(3).flat_map(encode).collect()
}

pub(crate) fn settings() -> Settings {
    Settings {
        domain: "domain.suffix".to_owned(),
        ..Settings::new("").unwrap()
    }
}

/// Says the same things in the same words, whichever API they came from.
fn normal(service: &VirtualService) -> VirtualService {
    let mut service = service.clone();
    service.semantics = Semantics::GatewayApi;
    service.created = 0;
    for route in &mut service.http {
        route.field = "".into();
        // Istio's own API has no word for it.
        route.grpc = false;
        if route.retries.as_ref().is_some_and(|retries| retries.attempts == 0) {
            route.retries = None;
        }
        for matched in &mut route.matches {
            if let Some(PathMatch::Prefix(path)) = &matched.path {
                // `/` is the schema's default, which Istio's test does not fill in.
                let path = path.trim_end_matches('/');
                matched.path = (!path.is_empty()).then(|| PathMatch::PathPrefix(path.into()));
            }
        }
        route.matches.retain(|matched| *matched != HttpMatch::default());
        if let Some(PathRewrite::Regex { pattern, substitution }) = &route.rewrite.path
            && &**pattern == "/.*"
        {
            route.rewrite.path = Some(PathRewrite::Full(substitution.clone()));
        }
        if let HttpAction::Forward(to) = &mut route.action
            && let [only] = to.as_mut_slice()
        {
            only.weight = 1;
        }
    }
    for destinations in service
        .tls
        .iter_mut()
        .map(|route| (&mut route.field, &mut route.destinations))
        .chain(
            service
                .tcp
                .iter_mut()
                .map(|route| (&mut route.field, &mut route.destinations)),
        )
    {
        *destinations.0 = "".into();
        if let [only] = destinations.1.as_mut_slice() {
            only.weight = 1;
        }
    }
    service
}

fn services(snapshot: &lateen_model::Snapshot) -> BTreeMap<ObjectKey, VirtualService> {
    snapshot
        .virtual_services
        .iter()
        .map(|(key, service)| (key.clone(), normal(service)))
        .collect()
}

fn gateways(snapshot: &lateen_model::Snapshot) -> BTreeMap<ObjectKey, Vec<Server>> {
    snapshot
        .gateways
        .iter()
        .map(|(key, gateway)| (key.clone(), gateway.servers.clone()))
        .collect()
}

/// Rules that are made of BackendTLSPolicies alone.
fn is_of_tls_policies(rule: &Object) -> bool {
    let annotations = rule.metadata().annotations.as_ref();
    let made_of = annotations.and_then(|all| all.get("internal.istio.io/parents"));
    made_of.is_some_and(|parents| parents.split(',').all(|parent| parent.starts_with("BackendTLSPolicy/")))
}

/// Istio does not verify the name that a policy's hostname demands.
fn without_implied_name(tls: &mut Option<ClientTls>) {
    if let Some(tls) = tls
        && let [only] = tls.subject_alt_names.as_slice()
        && Some(only) == tls.sni.as_ref()
    {
        tls.subject_alt_names.clear();
    }
}

fn rules(snapshot: &lateen_model::Snapshot) -> BTreeMap<ObjectKey, (Hostname, TrafficPolicy)> {
    snapshot
        .destination_rules
        .iter()
        .map(|(key, rule)| {
            let mut policy = rule.policy.clone();
            std::iter::once(&mut policy.tls).for_each(without_implied_name);
            policy
                .ports
                .values_mut()
                .for_each(|port| without_implied_name(&mut port.tls));
            (key.clone(), (rule.host.clone(), policy))
        })
        .collect()
}

fn differences<V: PartialEq + std::fmt::Debug>(
    ours: &BTreeMap<ObjectKey, V>,
    theirs: &BTreeMap<ObjectKey, V>,
) -> Vec<String> {
    let keys: BTreeSet<_> = ours.keys().chain(theirs.keys()).collect();
    let differing = keys.into_iter().filter(|key| ours.get(key) != theirs.get(key));
    differing
        .map(|key| format!("{key}\n  ours:   {:?}\n  theirs: {:?}", ours.get(key), theirs.get(key)))
        .collect()
}

/// The objects of a case, with what stands only in the table of Istio's test.
pub(crate) fn case_objects(folder: &Path, case: &str, fixtures: &[Object]) -> Vec<Object> {
    let input = std::fs::read_to_string(folder.join(format!("{case}.yaml"))).unwrap();
    let given = objects(&input);
    // Every namespace that is used is there, with a label made of its name.
    let namespaces: BTreeSet<String> = given
        .iter()
        .filter_map(|object| object.metadata().namespace.clone())
        .collect();
    let mut all: Vec<Object> = fixtures.iter().cloned().chain(given).collect();
    for namespace in namespaces {
        let labels = json!({"istio.io/test-name-part": namespace.split('-').next()});
        let document =
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace, "labels": labels}});
        all.extend(object(document).unwrap());
    }
    all
}

fn compare(folder: &Path, case: &str, fixtures: &[Object]) -> Vec<String> {
    let golden = std::fs::read_to_string(folder.join(format!("{case}.yaml.golden"))).unwrap();
    let ours = snapshot_with(settings(), case_objects(folder, case, fixtures));
    // Istio's result has kinds of its own; what was among the input is not a result.
    let made = objects(&golden).into_iter().filter(|object| match object {
        Object::VirtualService(_) | Object::Gateway(_) => true,
        Object::DestinationRule(_) => is_of_tls_policies(object),
        _ => false,
    });
    let theirs = snapshot_with(settings(), made.collect());
    let mut found = differences(&services(&ours), &services(&theirs));
    found.extend(differences(&gateways(&ours), &gateways(&theirs)));
    if !MIXED.contains(&case) {
        found.extend(differences(&rules(&ours), &rules(&theirs)));
    }
    found
}

#[test]
fn gateways_and_routes_are_those_of_istio() {
    let Some(folder) = reference("goldens/gateway-api") else {
        return;
    };
    let cases: Value = serde_json::from_str(&std::fs::read_to_string(folder.join("cases.json")).unwrap()).unwrap();
    let fixtures = fixtures(&cases);
    let mut wrong = Vec::new();
    let mut right = 0;
    for case in cases["cases"]
        .as_array()
        .unwrap()
        .iter()
        .map(|case| case.as_str().unwrap())
    {
        let found = compare(&folder, case, &fixtures);
        if ELSEWHERE.contains(&case) {
            println!(
                "{case}: {} differences, for known reasons\n{}",
                found.len(),
                found.join("\n")
            );
        } else if found.is_empty() {
            right += 1;
        } else {
            wrong.push(format!("=== {case}\n{}", found.join("\n")));
        }
    }
    println!("{right} cases are as Istio has them");
    assert!(wrong.is_empty(), "{} cases differ:\n{}", wrong.len(), wrong.join("\n"));
}
