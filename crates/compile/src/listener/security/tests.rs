//! Filters of policies built by hand and of the reference cases.

use lateen_model::proxy::ProxyKind;
use lateen_proto::to_json;
use serde_json::{Value, json};

use super::PolicyInput;
use crate::facts::Policies;
use crate::testing::world;

/// Filters for every policy there is: HTTP, then TCP.
fn filters(mesh: Value, documents: &str) -> (Vec<Value>, Vec<Value>) {
    let snapshot = world(mesh, documents, false);
    let policies = Policies {
        peer: Vec::new(),
        request: snapshot
            .request_authentications
            .iter()
            .map(|(key, _)| key.clone())
            .collect(),
        authorization: snapshot
            .authorization_policies
            .iter()
            .map(|(key, _)| key.clone())
            .collect(),
    };
    let input = PolicyInput::select(&snapshot, &policies);
    let http = input.http_stages(&snapshot.mesh, ProxyKind::Sidecar).concat();
    let tcp = input.tcp_stages(&snapshot.mesh).concat();
    (
        http.iter().map(|one| to_json(one).unwrap()).collect(),
        tcp.iter().map(|one| to_json(one).unwrap()).collect(),
    )
}

fn policy(name: &str, spec: Value) -> String {
    let document = json!({
        "apiVersion": "security.istio.io/v1", "kind": "AuthorizationPolicy",
        "metadata": {"name": name, "namespace": "foo"}, "spec": spec,
    });
    format!("---\n{document}\n")
}

fn names(filters: &[Value]) -> Vec<&str> {
    filters.iter().map(|filter| filter["name"].as_str().unwrap()).collect()
}

#[test]
fn refuses_before_it_allows() {
    let documents = policy("yes", json!({"rules": [{"to": [{"operation": {"methods": ["GET"]}}]}]}))
        + &policy(
            "no",
            json!({"action": "DENY", "rules": [{"from": [{"source": {"namespaces": ["dev-*"]}}]}]}),
        );
    let (http, tcp) = filters(json!({}), &documents);
    assert_eq!(names(&http), ["envoy.filters.http.rbac"; 2]);
    let refused = &http[0]["typedConfig"]["rules"];
    assert_eq!(refused["action"], "DENY");
    assert_eq!(
        refused["policies"]["ns[foo]-policy[no]-rule[0]"]["principals"],
        json!([{"andIds": {"ids": [{"orIds": {"ids": [
            {"authenticated": {"principalName": {"safeRegex": {"regex": ".*/ns/dev-.*/.*"}}}}]}}]}}]),
    );
    assert!(http[1]["typedConfig"]["rules"]["policies"]["ns[foo]-policy[yes]-rule[0]"].is_object());
    // A connection has no method: the rule allows none.
    assert_eq!(tcp[1]["typedConfig"]["rules"], json!({}));
}

#[test]
fn allows_nothing_without_rules() {
    let (http, tcp) = filters(json!({}), &policy("none", json!({})));
    let never = json!({"policies": {"ns[foo]-policy[none]-rule[0]": {
        "permissions": [{"notRule": {"any": true}}], "principals": [{"notId": {"any": true}}]}}});
    assert_eq!(http[0]["typedConfig"]["rules"], never);
    assert_eq!(tcp[0]["typedConfig"]["rules"], never);
    assert_eq!(tcp[0]["typedConfig"]["statPrefix"], "tcp.");
}

#[test]
fn refuses_connections_by_what_they_have() {
    let rules = json!([{"to": [{"operation": {"methods": ["POST"], "ports": ["6379"]}}]}]);
    let (_, tcp) = filters(json!({}), &policy("no", json!({"action": "DENY", "rules": rules})));
    assert_eq!(
        tcp[0]["typedConfig"]["rules"]["policies"]["ns[foo]-policy[no]-rule[0]"]["permissions"],
        json!([{"andRules": {"rules": [{"orRules": {"rules": [{"destinationPort": 6379}]}}]}}]),
    );
}

#[test]
fn refuses_what_a_missing_authorizer_should_decide() {
    let spec = json!({"action": "CUSTOM", "provider": {"name": "nowhere"}, "rules": [{}]});
    let mesh = json!({"extensionProviders": [
        {"name": "nowhere", "envoyExtAuthzGrpc": {"service": "gone.foo.svc.cluster.local", "port": 9000}}]});
    let (http, tcp) = filters(mesh, &policy("ask", spec));
    let name = "istio-ext-authz-nowhere-ns[foo]-policy[ask]-rule[0]-deny-due-to-bad-CUSTOM-action";
    for filter in [&http[0], &tcp[0]] {
        assert_eq!(filter["typedConfig"]["rules"]["action"], "DENY");
        assert!(filter["typedConfig"]["rules"]["policies"][name].is_object(), "{filter}");
    }
}

#[test]
fn takes_no_token_whose_keys_are_not_to_be_had() {
    let document = json!({
        "apiVersion": "security.istio.io/v1", "kind": "RequestAuthentication",
        "metadata": {"name": "tokens", "namespace": "foo"},
        "spec": {"jwtRules": [{"issuer": "https://a.example", "jwksUri": "https://a.example/keys"}]},
    });
    let (http, tcp) = filters(json!({}), &format!("---\n{document}\n"));
    assert_eq!(names(&http), ["envoy.filters.http.jwt_authn"]);
    let keys = &http[0]["typedConfig"]["providers"]["origins-0"]["localJwks"]["inlineString"];
    let keys: Value = serde_json::from_str(keys.as_str().unwrap()).unwrap();
    assert_eq!(keys["keys"][0]["kty"], "EC");
    assert!(tcp.is_empty());
}

/// Builds what Istio's own cases of policies build.
#[test]
fn builds_what_istio_builds() {
    let Some(root) = std::env::var_os("LATEEN_REFERENCE") else {
        eprintln!("skipped: LATEEN_REFERENCE is not set");
        return;
    };
    let root = std::path::Path::new(&root).join("goldens/authz");
    let read = |path: &str| std::fs::read_to_string(root.join(path)).unwrap();
    let cases: Value = serde_json::from_str(&read("cases.json")).unwrap();
    let service = "---\n{\"apiVersion\": \"v1\", \"kind\": \"Service\", \"metadata\": {\"name\": \"my-custom-ext-authz\", \
                   \"namespace\": \"foo\"}, \"spec\": {\"ports\": [{\"name\": \"grpc\", \"port\": 9000}]}}\n";
    let mut wrong = Vec::new();
    for kind in ["http", "tcp"] {
        for case in cases[kind].as_array().unwrap() {
            let mut mesh = match case["meshConfig"].as_str() {
                Some(name) => cases["meshConfigs"][name].clone(),
                None => json!({}),
            };
            for field in ["trustDomain", "trustDomainAliases"] {
                if !case[field].is_null() {
                    mesh[field] = case[field].clone();
                }
            }
            let input: String =
                lateen_lower::yaml::documents(&read(&format!("{kind}/{}", case["input"].as_str().unwrap())))
                    .map(Result::unwrap)
                    .filter(|document| !document.is_null())
                    .map(|document| format!("---\n{document}\n"))
                    .collect();
            let (http, tcp) = filters(mesh, &format!("{input}\n{service}"));
            let built = if kind == "http" { http } else { tcp };
            let wanted = case["want"].as_array().unwrap().iter();
            let wanted: Vec<Value> = wanted
                .map(|file| lateen_lower::yaml::parse(&read(&format!("{kind}/{}", file.as_str().unwrap()))).unwrap())
                .collect();
            if built != wanted {
                wrong.push(format!(
                    "{kind} {}:\n{}\nnot\n{}",
                    case["name"],
                    json!(built),
                    json!(wanted)
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn who_fetches_keys_is_the_meshs_choice() {
    let service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "keys", "namespace": "foo"},
        "spec": {"clusterIP": "10.96.0.9", "ports": [{"name": "http", "port": 80}]},
    });
    let tokens = json!({
        "apiVersion": "security.istio.io/v1", "kind": "RequestAuthentication",
        "metadata": {"name": "tokens", "namespace": "foo"},
        "spec": {"jwtRules": [
            {"issuer": "a", "jwksUri": "http://keys.foo.svc.cluster.local/jwks", "timeout": "7s"},
            {"issuer": "b", "jwksUri": "https://issuer.example/jwks"},
            {"issuer": "https://issuer.example"},
            {"issuer": "d", "jwks": "{}"},
        ]},
    });
    let documents = format!("---\n{service}\n---\n{tokens}\n");
    let mut snapshot = lateen_model::Snapshot::clone(&world(json!({}), &documents, false));
    let mut asked = |mode: Option<&str>| -> Vec<(String, u64)> {
        let mut mesh = lateen_model::mesh::Mesh::clone(&snapshot.mesh);
        mesh.environment.clear();
        if let Some(mode) = mode {
            mesh.environment
                .insert("PILOT_JWT_ENABLE_REMOTE_JWKS".into(), mode.into());
        }
        snapshot.mesh = lateen_model::Shared::new(mesh);
        let sources = crate::key_sources(&snapshot).into_iter();
        sources
            .map(|(source, within)| (source.to_string(), within.as_secs()))
            .collect()
    };
    let inside = ("http://keys.foo.svc.cluster.local/jwks".to_owned(), 7);
    let outside = ("https://issuer.example/jwks".to_owned(), 5);
    let discovered = ("OpenID configuration of https://issuer.example".to_owned(), 5);
    assert_eq!(asked(None), [inside, outside.clone(), discovered.clone()]);
    assert_eq!(asked(Some("hybrid")), [outside, discovered.clone()]);
    assert_eq!(asked(Some("envoy")), [discovered]);
}
