//! The binary as its users meet it: output, exit codes, errors.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Output};

use axum::extract::RawQuery;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::get;
use axum::{Json, Router};
use base64::Engine as _;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

fn lateen(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_lateen"))
        .args(arguments)
        .env_remove("LATEEN_ADDRESS")
        .env_remove("LATEEN_TOKEN_FILE")
        .env_remove("LATEEN_DATA_DIR")
        .output()
        .unwrap()
}

fn stdout(output: &Output) -> String {
    let text = String::from_utf8(output.stdout.clone()).unwrap();
    assert_eq!(output.status.code(), Some(0), "{text}\n{}", stderr(output));
    text
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

fn json_of(output: &Output) -> Value {
    serde_json::from_str(&stdout(output)).unwrap()
}

/// What the binary answers while a control plane answers it.
async fn against(router: Router, arguments: &[&str]) -> Output {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address: SocketAddr = listener.local_addr().unwrap();
    let mut tasks = JoinSet::new();
    tasks.spawn(async move { axum::serve(listener, router).await });
    let mut arguments: Vec<String> = arguments.iter().map(|&text| text.to_owned()).collect();
    arguments.extend(["--address".to_owned(), format!("http://{address}")]);
    let run = move || lateen(&arguments.iter().map(String::as_str).collect::<Vec<_>>());
    tokio::task::spawn_blocking(run).await.unwrap()
}

fn syncz() -> Router {
    let answer = json!([{
        "cluster_id": "Kubernetes",
        "proxy": "sidecar~10.0.0.1~ratings-1.shop~shop.svc.cluster.local",
        "proxy_type": "sidecar",
        "istio_version": "1.32.0",
        "istiod": "istiod-1",
        "settled": 3,
        "resources": {
            "type.googleapis.com/envoy.config.cluster.v3.Cluster": {"sent": "a", "acked": "a"},
            "type.googleapis.com/envoy.config.listener.v3.Listener": {"sent": "b", "lastError": "no such filter"},
        },
    }]);
    Router::new().route("/debug/syncz", get(move || async move { Json(answer) }))
}

#[tokio::test]
async fn proxy_status_in_every_format() {
    let text = stdout(&against(syncz(), &["proxy-status"]).await);
    let lines: Vec<&str> = text.lines().collect();
    assert!(lines[0].starts_with("NAME"), "{text}");
    let cells: Vec<&str> = lines[1]
        .split("  ")
        .map(str::trim)
        .filter(|cell| !cell.is_empty())
        .collect();
    assert_eq!(
        cells,
        [
            "ratings-1.shop",
            "Kubernetes",
            "SYNCED",
            "ERROR",
            "IGNORED",
            "IGNORED",
            "IGNORED",
            "istiod-1",
            "1.32.0"
        ]
    );
    assert!(text.contains("rejected LDS: no such filter"), "{text}");

    let rows = json_of(&against(syncz(), &["ps", "ratings-1.shop", "-o", "json"]).await);
    assert_eq!(rows[0]["status"]["cds"], "SYNCED");
    assert_eq!(rows[0]["errors"]["LDS"], "no such filter");
    assert_eq!(rows[0]["settled"], 3);
    let rows: Value = serde_yaml::from_str(&stdout(&against(syncz(), &["ps", "-o", "yaml"]).await)).unwrap();
    assert_eq!(rows[0]["proxy"], "ratings-1.shop");
}

#[tokio::test]
async fn a_proxy_that_is_not_connected_is_an_error() {
    let output = against(syncz(), &["proxy-status", "reviews-1.shop"]).await;
    assert_eq!(output.status.code(), Some(1));
    assert!(
        stderr(&output).contains("no proxy `reviews-1.shop` is connected"),
        "{}",
        stderr(&output)
    );
}

#[tokio::test]
async fn what_the_control_plane_says_to_a_bad_question_is_shown() {
    let answer = |RawQuery(query): RawQuery| async move {
        (StatusCode::NOT_FOUND, format!("no proxy for {}\n", query.unwrap()))
    };
    let router = Router::new().route("/debug/config_dump", get(answer));
    let output = against(router, &["proxy-config", "cluster", "a-1.shop"]).await;
    assert_eq!(output.status.code(), Some(1));
    let said = stderr(&output);
    assert!(
        said.contains("a-1.shop") && said.contains("no proxy for proxyID=a-1.shop"),
        "{said}"
    );
}

#[tokio::test]
async fn something_else_than_a_control_plane_is_recognised() {
    let router = Router::new().route("/debug/syncz", get(|| async { "hello" }));
    let output = against(router, &["proxy-status"]).await;
    assert_eq!(output.status.code(), Some(1));
    assert!(
        stderr(&output).contains("is not JSON; is --address that of a lateend?"),
        "{}",
        stderr(&output)
    );
    let output = against(Router::new(), &["proxy-status"]).await;
    assert!(stderr(&output).contains("404"), "{}", stderr(&output));
}

fn certificate() -> String {
    let params = rcgen::CertificateParams::new(vec!["proxy.test".to_owned()]).unwrap();
    let key = rcgen::KeyPair::generate().unwrap();
    params.self_signed(&key).unwrap().pem()
}

/// A dump as the control plane writes it, and with field names as Envoy writes them.
fn dumps() -> [Value; 2] {
    let certificate = base64::engine::general_purpose::STANDARD.encode(certificate());
    let camel = json!({"configs": [
        {
            "@type": "type.googleapis.com/envoy.admin.v3.ClustersConfigDump",
            "dynamic_active_clusters": [
                {"cluster": {
                    "@type": "type.googleapis.com/envoy.config.cluster.v3.Cluster",
                    "name": "outbound|9080|v1|ratings.shop.svc.cluster.local", "type": "EDS", "connectTimeout": "5s",
                    "metadata": {"filterMetadata": {"istio": {
                        "config": "/apis/networking.istio.io/v1/namespaces/shop/destination-rule/ratings",
                    }}},
                }},
                {"cluster": {"name": "PassthroughCluster", "type": "ORIGINAL_DST"}},
            ],
        },
        {
            "@type": "type.googleapis.com/envoy.admin.v3.ListenersConfigDump",
            "dynamic_listeners": [{"name": "virtualInbound", "active_state": {"listener": {
                "name": "virtualInbound",
                "address": {"socketAddress": {"address": "0.0.0.0", "portValue": 15006}},
                "filterChains": [
                    {
                        "filterChainMatch": {"destinationPort": 9080, "transportProtocol": "tls"},
                        "filters": [{"typedConfig": {
                            "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
                            "rds": {"routeConfigName": "9080"},
                        }}],
                    },
                    {"filters": [{"typedConfig": {
                        "@type": "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
                        "cluster": "InboundPassthroughCluster",
                    }}]},
                ],
            }}}],
        },
        {
            "@type": "type.googleapis.com/envoy.admin.v3.RoutesConfigDump",
            "dynamic_route_configs": [{"route_config": {"name": "9080", "virtualHosts": [{
                "name": "ratings:9080",
                "domains": ["ratings", "ratings:9080", "ratings.shop", "ratings.shop.svc", "ratings.shop.svc.cluster.local", "ratings.shop.svc.cluster.local."],
                "routes": [{
                    "match": {"prefix": "/api", "headers": [{"name": "end-user"}]},
                    "metadata": {"filterMetadata": {"istio": {
                        "config": "/apis/networking.istio.io/v1/namespaces/shop/virtual-service/ratings",
                    }}},
                    "route": {"weightedClusters": {"clusters": [{"name": "v1", "weight": 90}, {"name": "v2", "weight": 10}]}},
                }],
            }]}}],
        },
        {
            "@type": "type.googleapis.com/envoy.admin.v3.EndpointsConfigDump",
            "dynamic_endpoint_configs": [{"endpoint_config": {
                "clusterName": "outbound|9080|v1|ratings.shop.svc.cluster.local",
                "endpoints": [{
                    "locality": {"region": "r1", "zone": "z1"},
                    "lbEndpoints": [{
                        "endpoint": {"address": {"socketAddress": {"address": "fd00::1", "portValue": 9080}}},
                        "healthStatus": "UNHEALTHY",
                    }],
                }],
            }}],
        },
        {
            "@type": "type.googleapis.com/envoy.admin.v3.SecretsConfigDump",
            "dynamic_active_secrets": [{"name": "default", "secret": {"name": "default", "tlsCertificate": {
                "certificateChain": {"inlineBytes": certificate}, "privateKey": {"inlineString": "hidden"},
            }}}],
            "dynamic_warming_secrets": [{"name": "kubernetes://late"}],
        },
    ]});
    let mut text = camel.to_string();
    for (from, to) in [
        ("connectTimeout", "connect_timeout"),
        ("filterMetadata", "filter_metadata"),
        ("socketAddress", "socket_address"),
        ("portValue", "port_value"),
        ("filterChains", "filter_chains"),
        ("filterChainMatch", "filter_chain_match"),
        ("destinationPort", "destination_port"),
        ("transportProtocol", "transport_protocol"),
        ("typedConfig", "typed_config"),
        ("routeConfigName", "route_config_name"),
        ("virtualHosts", "virtual_hosts"),
        ("weightedClusters", "weighted_clusters"),
        ("clusterName", "cluster_name"),
        ("lbEndpoints", "lb_endpoints"),
        ("healthStatus", "health_status"),
        ("tlsCertificate", "tls_certificate"),
        ("certificateChain", "certificate_chain"),
        ("inlineBytes", "inline_bytes"),
        ("privateKey", "private_key"),
        ("inlineString", "inline_string"),
    ] {
        text = text.replace(from, to);
    }
    [camel, serde_json::from_str(&text).unwrap()]
}

#[test]
fn proxy_config_shows_dumps_of_both_kinds() {
    let directory = tempfile::tempdir().unwrap();
    for (index, dump) in dumps().iter().enumerate() {
        let path = directory.path().join(format!("{index}.json"));
        fs::write(&path, dump.to_string()).unwrap();
        let path = path.to_str().unwrap();
        let show = |what: &str| {
            let text = stdout(&lateen(&["proxy-config", what, "-f", path]));
            text.lines()
                .skip(1)
                .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
                .collect::<Vec<_>>()
        };
        assert_eq!(
            show("cluster"),
            [
                "PassthroughCluster - - - ORIGINAL_DST",
                "ratings.shop.svc.cluster.local 9080 v1 outbound EDS ratings.shop",
            ]
        );
        assert_eq!(
            show("listener"),
            [
                "0.0.0.0 15006 Trans: tls; Addr: *:9080 Route: 9080",
                "0.0.0.0 15006 ALL InboundPassthroughCluster",
            ]
        );
        assert_eq!(
            show("route"),
            ["9080 ratings:9080 ratings, ratings.shop /api* ratings.shop"]
        );
        assert_eq!(
            show("endpoint"),
            ["[fd00::1]:9080 UNHEALTHY r1/z1 outbound|9080|v1|ratings.shop.svc.cluster.local"]
        );
        let secrets = show("secret");
        assert!(secrets[0].starts_with("default Cert Chain ACTIVE true "), "{secrets:?}");
        assert!(secrets[1].starts_with("kubernetes://late WARMING false"), "{secrets:?}");

        let all = stdout(&lateen(&["proxy-config", "all", "-f", path]));
        for part in [
            "# clusters",
            "# listeners",
            "# routes",
            "# endpoints",
            "# secrets",
            "PassthroughCluster",
        ] {
            assert!(all.contains(part), "{all}");
        }
        for format in ["json", "yaml", "table"] {
            let text = stdout(&lateen(&["proxy-config", "all", "-f", path, "-o", format]));
            assert!(!text.contains("hidden"), "a private key is shown: {text}");
        }
        let one = json_of(&lateen(&[
            "proxy-config",
            "cluster",
            "-f",
            path,
            "--name",
            "ratings",
            "-o",
            "json",
        ]));
        assert_eq!(one.as_array().unwrap().len(), 1);
        // Whatever the dump's spelling was, JSON is proto-JSON.
        assert_eq!(one[0]["connectTimeout"], "5s");
    }
}

#[test]
fn proxy_config_takes_istioctls_filters() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("dump.json");
    fs::write(&path, dumps()[1].to_string()).unwrap();
    let lines = |arguments: &str| {
        let arguments: Vec<&str> = arguments.split(' ').collect();
        let text = stdout(&lateen(
            &[&["pc"], &arguments[..], &["-f", path.to_str().unwrap()]].concat(),
        ));
        text.lines().count() - 1
    };
    for (arguments, expected) in [
        ("cluster", 2),
        ("cluster --fqdn ratings", 1),
        ("cluster --port 9080", 1),
        ("cluster --port 80", 0),
        ("cluster --subset v1 --direction outbound", 1),
        ("cluster --direction inbound", 0),
        ("listener --port 15006", 2),
        ("listener --port 15006 --verbose=false -o short", 1),
        ("listener --type HTTP+TCP", 2),
        ("listener --type tcp", 0),
        ("listener --ip 0.0.0.0", 2),
        ("route --name 9080 --verbose=false", 1),
        ("endpoint --status unhealthy", 1),
        ("endpoint --status healthy", 0),
        ("endpoint --ip fd00::1 --port 9080", 1),
        ("endpoint --ip [fd00::1]:9080", 1),
        ("endpoint --cluster outbound|9080|v1|ratings.shop.svc.cluster.local", 1),
        ("endpoint --cluster other", 0),
    ] {
        assert_eq!(lines(arguments), expected, "{arguments}");
    }
}

#[tokio::test]
async fn proxies_are_named_as_for_istioctl() {
    for arguments in [&["a-1.shop"][..], &["pod/a-1.shop"], &["a-1", "-n", "shop"]] {
        let echo = |RawQuery(query): RawQuery| async move { (StatusCode::NOT_FOUND, query.unwrap()) };
        let router = Router::new().route("/debug/config_dump", get(echo));
        let output = against(router, &[&["pc", "all"][..], arguments].concat()).await;
        assert!(
            stderr(&output).contains("proxyID=a-1.shop&"),
            "{arguments:?}: {}",
            stderr(&output)
        );
    }
    let output = lateen(&["pc", "all", "deployment/a"]);
    assert!(
        stderr(&output).contains("a deployment is no proxy"),
        "{}",
        stderr(&output)
    );
}

#[tokio::test]
async fn proxy_status_of_one_proxy_compares_what_envoy_holds() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("envoy.json");
    let [wanted, held] = dumps();
    let held = held
        .to_string()
        .replace("\"connect_timeout\":\"5s\"", "\"connect_timeout\":\"6s\"");
    fs::write(&path, held).unwrap();
    let router = syncz().route("/debug/config_dump", get(move || async move { Json(wanted) }));
    let output = against(router, &["ps", "ratings-1.shop", "--file", path.to_str().unwrap()]).await;
    let text = stdout(&output);
    assert!(
        text.contains("Clusters Don't Match\n  outbound|9080|v1|ratings.shop.svc.cluster.local differs\n"),
        "{text}"
    );
}

#[tokio::test]
async fn proxy_config_asks_the_control_plane() {
    let [dump, _] = dumps();
    let router = Router::new().route("/debug/config_dump", get(move || async move { Json(dump) }));
    let text = stdout(&against(router, &["proxy-config", "endpoint", "a-1.shop"]).await);
    assert!(text.contains("[fd00::1]:9080"), "{text}");
}

#[test]
fn proxy_config_says_what_is_wrong_with_its_input() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("dump.json");
    for (text, part) in [("{", "is not JSON"), ("{}", "no configuration dump")] {
        fs::write(&path, text).unwrap();
        let output = lateen(&["proxy-config", "all", "-f", path.to_str().unwrap()]);
        assert_eq!(output.status.code(), Some(1));
        assert!(stderr(&output).contains(part), "{}", stderr(&output));
    }
    let output = lateen(&["proxy-config", "all", "pod-without-namespace"]);
    assert!(stderr(&output).contains("<pod>.<namespace>"), "{}", stderr(&output));
    assert_eq!(lateen(&["proxy-config"]).status.code(), Some(2));
}

#[test]
fn tokens_are_signed_with_one_key_and_name_the_account() {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().to_str().unwrap();
    let create = [
        "token",
        "create",
        "--namespace",
        "shop",
        "--service-account",
        "ratings",
        "--data-dir",
        data,
    ];
    let first = lateen(&create);
    assert!(stderr(&first).contains("new signing key"), "{}", stderr(&first));
    let second = lateen(&[&create[..], &["--ttl", "10m", "-o", "json"]].concat());
    assert!(stderr(&second).is_empty(), "{}", stderr(&second));
    let second = json_of(&second);
    assert_eq!(second["subject"], "system:serviceaccount:shop:ratings");

    let first = stdout(&first);
    let part = |token: &str, index: usize| -> Value {
        let part = token.trim().split('.').nth(index).unwrap();
        serde_json::from_slice(&base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(part).unwrap()).unwrap()
    };
    let second = second["token"].as_str().unwrap();
    assert_eq!(part(&first, 0)["kid"], part(second, 0)["kid"]);
    assert_eq!(part(&first, 1)["sub"], "system:serviceaccount:shop:ratings");
    let seconds = |token: &str, key: &str| part(token, 1)[key].as_u64().unwrap();
    assert_eq!(seconds(&first, "exp") - seconds(&first, "iat"), 3600);
    assert_eq!(seconds(second, "exp") - seconds(second, "iat"), 600);
}

#[test]
fn a_directory_that_holds_no_key_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("file");
    fs::write(&file, "").unwrap();
    let output = lateen(&[
        "token",
        "create",
        "-n",
        "a",
        "-s",
        "b",
        "--data-dir",
        file.to_str().unwrap(),
    ]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("--data-dir"), "{}", stderr(&output));
    assert_eq!(
        lateen(&["token", "create", "-n", "NOT A NAME", "-s", "b"])
            .status
            .code(),
        Some(2)
    );
}

#[test]
fn version_and_completion() {
    assert!(stdout(&lateen(&["version"])).starts_with("lateen 0."));
    assert_eq!(
        json_of(&lateen(&["version", "-o", "json"]))["version"],
        env!("CARGO_PKG_VERSION")
    );
    for shell in ["bash", "zsh", "fish"] {
        assert!(stdout(&lateen(&["completion", shell])).contains("proxy-status"));
    }
}

const SHOP: &str = r#"
apiVersion: v1
kind: Service
metadata: {name: ratings, namespace: shop}
spec: {clusterIP: 10.96.0.9, selector: {app: ratings}, ports: [{name: http, port: 9080}]}
---
apiVersion: v1
kind: Pod
metadata: {name: ratings-1, namespace: shop, labels: {app: ratings, security.istio.io/tlsMode: istio}}
spec: {serviceAccountName: ratings, containers: [{name: app, ports: [{containerPort: 9080}]}]}
status: {podIP: 10.0.0.1, podIPs: [{ip: 10.0.0.1}], conditions: [{type: Ready, status: "True"}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: ratings-a, namespace: shop, labels: {kubernetes.io/service-name: ratings}}
addressType: IPv4
ports: [{name: http, port: 9080, protocol: TCP}]
endpoints:
- {addresses: [10.0.0.1], conditions: {ready: true}, targetRef: {kind: Pod, name: ratings-1, namespace: shop}}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: ratings, namespace: shop}
spec: {host: ratings, subsets: [{name: v1, labels: {version: v1}}]}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: wrong, namespace: shop}
spec: {hots: ratings}
"#;

fn names(path: &Path) -> Vec<String> {
    let resources: Vec<Value> = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    resources
        .iter()
        .map(|one| one["name"].as_str().or(one["clusterName"].as_str()).unwrap().to_owned())
        .collect()
}

#[test]
fn render_writes_what_a_pod_would_get() {
    let directory = tempfile::tempdir().unwrap();
    let (input, out) = (directory.path().join("shop.yaml"), directory.path().join("a/b"));
    fs::write(&input, SHOP).unwrap();
    let (input, output) = (input.to_str().unwrap(), out.to_str().unwrap());
    let ran = lateen(&["render", "-f", input, "--proxy", "ratings-1.shop", "-o", output]);
    assert!(stdout(&ran).is_empty());
    // The object that is refused is named with its place.
    assert!(
        stderr(&ran).contains("shop.yaml:") && stderr(&ran).contains("wrong"),
        "{}",
        stderr(&ran)
    );

    let file = |kind: &str| out.join(format!("ratings-1.shop.{kind}.json"));
    let clusters = names(&file("clusters"));
    for name in [
        "outbound|9080||ratings.shop.svc.cluster.local",
        "outbound|9080|v1|ratings.shop.svc.cluster.local",
        "inbound|9080||",
        "BlackHoleCluster",
    ] {
        assert!(
            clusters.iter().any(|cluster| cluster == name),
            "{name} is not in {clusters:?}"
        );
    }
    assert!(clusters.is_sorted(), "{clusters:?}");
    assert!(names(&file("listeners")).contains(&"virtualInbound".to_owned()));
    assert_eq!(names(&file("routes")), ["9080"]);
    assert!(names(&file("endpoints")).contains(&"outbound|9080||ratings.shop.svc.cluster.local".to_owned()));
    assert_eq!(names(&file("secrets-names")), ["ROOTCA", "default"]);
    assert!(!file("nametable").exists() && !file("extensions").exists());
    let text = fs::read_to_string(file("clusters")).unwrap();
    assert!(
        text.starts_with("[\n {\n  \"@type\": \"type.googleapis.com/envoy.config.cluster.v3.Cluster\""),
        "{}",
        &text[..200]
    );

    let verdicts: Value = serde_json::from_slice(&fs::read(out.join("validation.json")).unwrap()).unwrap();
    let accepted: Vec<_> = verdicts
        .as_array()
        .unwrap()
        .iter()
        .map(|one| (one["name"].as_str().unwrap(), one["accepted"].as_bool().unwrap()))
        .collect();
    assert_eq!(accepted, [("ratings", true), ("wrong", false)]);
}

#[test]
fn render_takes_the_node_that_a_proxy_sends_and_the_mesh_settings() {
    let directory = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = directory.path().join(name);
        fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let input = write("shop.yaml", SHOP);
    let mesh = write("mesh.yaml", "accessLogFile: /dev/fd/1\n");
    let node = json!({
        "id": "sidecar~10.0.0.1~ratings-1.shop~shop.svc.cluster.local",
        "metadata": {"NAMESPACE": "shop", "NAME": "ratings-1", "CLUSTER_ID": "Kubernetes", "DNS_CAPTURE": "true"},
    });
    let node = write("node.json", &node.to_string());
    let out = directory.path().join("out");
    stdout(&lateen(&[
        "render",
        "-f",
        &input,
        "--mesh-config",
        &mesh,
        "--node",
        &node,
        "-o",
        out.to_str().unwrap(),
    ]));
    let listeners = fs::read_to_string(out.join("ratings-1.shop.listeners.json")).unwrap();
    assert!(listeners.contains("/dev/fd/1"), "{listeners}");
    let table = fs::read_to_string(out.join("ratings-1.shop.nametable.json")).unwrap();
    assert!(table.contains("ratings.shop.svc.cluster.local"), "{table}");
}

#[test]
fn render_says_what_is_wrong() {
    let directory = tempfile::tempdir().unwrap();
    let (input, out) = (directory.path().join("shop.yaml"), directory.path().join("out"));
    fs::write(&input, SHOP).unwrap();
    let fails = |arguments: &[&str]| {
        let output = lateen(&[&["render", "-o", out.to_str().unwrap()], arguments].concat());
        assert_eq!(output.status.code(), Some(1), "{arguments:?}");
        stderr(&output)
    };
    let input = input.to_str().unwrap();
    let said = fails(&["-f", input, "--proxy", "nobody.shop"]);
    assert!(
        said.contains("no Pod shop/nobody") && said.contains("ratings-1.shop"),
        "{said}"
    );
    let said = fails(&["-f", "/does/not/exist.yaml", "--proxy", "ratings-1.shop"]);
    assert!(said.contains("/does/not/exist.yaml"), "{said}");
    let broken = directory.path().join("broken.yaml");
    fs::write(&broken, "a: [\n").unwrap();
    let broken = broken.to_str().unwrap();
    let said = fails(&["-f", input, "-f", broken, "--proxy", "ratings-1.shop"]);
    assert!(said.contains("broken.yaml:"), "{said}");
    let said = fails(&["-f", input, "--mesh-config", broken, "--proxy", "ratings-1.shop"]);
    assert!(said.contains("broken.yaml"), "{said}");
    let said = fails(&["-f", input, "--node", input]);
    assert!(said.contains("is not JSON"), "{said}");
    assert!(!out.exists(), "something was written");
}

#[test]
fn render_keeps_rejected_objects_when_told_to() {
    let directory = tempfile::tempdir().unwrap();
    let input = directory.path().join("shop.yaml");
    // It can be read, but no share is larger than 100.
    let rejected = "---\n{apiVersion: networking.istio.io/v1, kind: DestinationRule, metadata: {name: late, namespace: shop}, spec: \
        {host: ratings, subsets: [{name: v2, labels: {version: v2}}], trafficPolicy: {outlierDetection: {maxEjectionPercent: 200}}}}\n";
    fs::write(&input, SHOP.to_owned() + rejected).unwrap();
    let rendered = |more: &[&str], out: &str| {
        let out = directory.path().join(out);
        let arguments = [
            "render",
            "-f",
            input.to_str().unwrap(),
            "--proxy",
            "ratings-1.shop",
            "-o",
            out.to_str().unwrap(),
        ];
        stdout(&lateen(&[&arguments[..], more].concat()));
        names(&out.join("ratings-1.shop.clusters.json"))
    };
    let v2 = "outbound|9080|v2|ratings.shop.svc.cluster.local".to_owned();
    assert!(!rendered(&[], "left-out").contains(&v2));
    assert!(rendered(&["--keep-rejected"], "kept").contains(&v2));
}

#[tokio::test]
async fn a_token_is_presented_where_one_is_wanted() {
    let answer = |headers: HeaderMap| async move {
        match headers.get("authorization").map(|value| value.as_bytes()) {
            Some(b"Bearer a.b.c") => Ok(Json(json!([]))),
            _ => Err((StatusCode::UNAUTHORIZED, "no proof of identity\n")),
        }
    };
    let router = Router::new().route("/debug/syncz", get(answer));
    let output = against(router.clone(), &["proxy-status"]).await;
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("no proof of identity"), "{}", stderr(&output));
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("token");
    fs::write(&file, "a.b.c\n").unwrap();
    let output = against(router, &["proxy-status", "--token-file", file.to_str().unwrap()]).await;
    assert_eq!(stdout(&output), "no proxy is connected\n");
}
