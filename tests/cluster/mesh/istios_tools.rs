//! What Istio's tools ask is answered as istiod answers it. With `ISTIOCTL=path` that istioctl is run; the requests that it
//! and Kiali make are made in any case.

use std::path::PathBuf;
use std::process::Stdio;

use anyhow::{Context as _, Result, ensure};
use lateen_proto::envoy::config::core::v3::Node;
use lateen_proto::envoy::service::discovery::v3::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use lateen_proto::envoy::service::discovery::v3::{DiscoveryRequest, DiscoveryResponse};
use lateen_proto::envoy::service::status::v3::{ClientConfig, ConfigStatus};
use lateen_testkit::{eventually, http};
use prost::Message as _;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};
use tonic::Request;
use tonic::transport::{Certificate, ClientTlsConfig, Endpoint};

use crate::mesh::{Mesh, PATIENCE};
use crate::shop::SHOP;

const SYSTEM: &str = "istio-system";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn istioctl_and_kiali_are_answered() -> Result<()> {
    Mesh::run("tools", async |mesh| {
        mesh.apply_sample("reviews-versions.yaml").await?;
        mesh.apply_sample("reviews-route.yaml").await?;
        mesh.distributed("virtualservice/reviews").await?;
        let istiod = istiod(mesh).await?;
        proxies_over_ads(mesh, &istiod).await?;
        over_http(mesh, &istiod).await?;
        envoys_own_word(mesh).await?;
        match std::env::var_os("ISTIOCTL").filter(|path| !path.is_empty()) {
            Some(path) => istioctl(mesh, &PathBuf::from(path)).await?,
            None => {
                println!("skipped: ISTIOCTL is unset, so that no istioctl is run; the requests that it makes are made")
            }
        }
        mesh.delete_sample("reviews-route.yaml").await?;
        mesh.delete_sample("reviews-versions.yaml").await
    })
    .await
}

/// The control plane's only pod, by the labels that istioctl looks for.
async fn istiod(mesh: &Mesh) -> Result<String> {
    let query = ["-n", SYSTEM, "get", "pods", "-l", "app=istiod,istio.io/rev=default"];
    let running = [
        "--field-selector",
        "status.phase=Running",
        "-o",
        "jsonpath={.items[*].metadata.name}",
    ];
    let name = mesh.cluster.kubectl(query.iter().chain(&running)).await?;
    ensure!(!name.is_empty() && !name.contains(' '), "not one istiod: {name:?}");
    Ok(name)
}

/// The names of the shop's pods, as istiod calls their proxies.
async fn proxies(mesh: &Mesh) -> Result<Vec<String>> {
    let query = ["get", "pods", "-o", "jsonpath={.items[*].metadata.name}"];
    let names = mesh.kubectl(&query).await?;
    Ok(names.split_whitespace().map(|name| format!("{name}.{SHOP}")).collect())
}

/// `istioctl proxy-status`: one question over ADS, with a token of the control plane's namespace.
async fn proxies_over_ads(mesh: &Mesh, istiod: &str) -> Result<()> {
    let kubectl = async |arguments: &[&str]| mesh.cluster.kubectl(["-n", SYSTEM].iter().chain(arguments)).await;
    let token = kubectl(&["create", "token", "default", "--audience", "istio-ca"]).await?;
    let root = kubectl(&[
        "get",
        "configmap",
        "istio-ca-root-cert",
        "-o",
        r"jsonpath={.data.root-cert\.pem}",
    ])
    .await?;
    let forward = Forward::start(mesh, SYSTEM, istiod, 15012).await?;
    let tls = ClientTlsConfig::new()
        .ca_certificate(Certificate::from_pem(root))
        .domain_name("istiod.istio-system.svc");
    let channel = Endpoint::from_shared(format!("https://127.0.0.1:{}", forward.port))?
        .tls_config(tls)?
        .connect()
        .await?;
    let ask = async |what: &str, names: &[&str]| -> Result<DiscoveryResponse> {
        let question = DiscoveryRequest {
            node: Some(Node {
                id: "sidecar~0.0.0.0~debug~cluster.local".to_owned(),
                ..Node::default()
            }),
            type_url: format!("istio.io/debug/{what}"),
            resource_names: names.iter().map(|name| (*name).to_owned()).collect(),
            ..DiscoveryRequest::default()
        };
        let mut request = Request::new(tokio_stream::once(question));
        let bearer = format!("Bearer {}", token.trim()).parse()?;
        request.metadata_mut().insert("authorization", bearer);
        let mut client = AggregatedDiscoveryServiceClient::new(channel.clone());
        let answers = client.stream_aggregated_resources(request).await?;
        answers.into_inner().message().await?.context("no answer")
    };
    let known = proxies(mesh).await?;
    eventually("every proxy is in sync", PATIENCE, async || {
        let answer = ask("syncz", &[]).await.ok()?;
        let configs = answer.resources.iter().map(|any| ClientConfig::decode(&any.value[..]));
        let configs: Vec<ClientConfig> = configs.collect::<Result<_, _>>().ok()?;
        let synced = |name: &String| {
            let named = |config: &&ClientConfig| config.node.as_ref().is_some_and(|node| node.id == *name);
            configs.iter().find(named).is_some_and(|config| {
                ["Cluster", "Listener", "ClusterLoadAssignment", "RouteConfiguration"]
                    .iter()
                    .all(|kind| {
                        let mut all = config.generic_xds_configs.iter();
                        all.any(|one| one.type_url.ends_with(kind) && one.config_status() == ConfigStatus::Synced)
                    })
            })
        };
        known.iter().all(synced).then_some(())
    })
    .await?;
    let proxy = known.first().context("the shop has no pod")?;
    let dump = ask("config_dump", &[proxy]).await?;
    ensure!(
        dump.resources
            .iter()
            .any(|part| part.type_url.ends_with("ClustersConfigDump")),
        "no clusters are dumped of {proxy}"
    );
    Ok(())
}

/// What Kiali reads: the version, and how proxies stand; `istioctl version` reads the former.
async fn over_http(mesh: &Mesh, istiod: &str) -> Result<()> {
    let forward = Forward::start(mesh, SYSTEM, istiod, 15014).await?;
    let version = forward.get("/version").await?;
    ensure!(version.split('.').count() >= 3, "{version}");
    let rows: Vec<Value> = serde_json::from_str(&forward.get("/debug/syncz").await?)?;
    for proxy in proxies(mesh).await? {
        let row = rows.iter().find(|row| row["proxy"] == *proxy);
        let row = row.with_context(|| format!("{proxy} is none of {rows:#?}"))?;
        for kind in ["cluster", "listener", "endpoint", "route"] {
            let (sent, acked) = (&row[format!("{kind}_sent")], &row[format!("{kind}_acked")]);
            ensure!(sent.is_string() && sent == acked, "{row:#}");
        }
    }
    Ok(())
}

/// `istioctl proxy-config` and `x describe`: what an Envoy says of itself at its sidecar's admin port.
async fn envoys_own_word(mesh: &Mesh) -> Result<()> {
    let pod = pod_of_reviews(mesh).await?;
    let forward = Forward::start(mesh, SHOP, &pod, 15000).await?;
    let dump: Value = serde_json::from_str(&forward.get("/config_dump?include_eds=true").await?)?;
    let text = dump.to_string();
    for wanted in [
        "BootstrapConfigDump",
        "outbound|9080|v1|reviews.shop.svc.cluster.local",
        "virtualOutbound",
        "/apis/networking.istio.io/v1/namespaces/shop/virtual-service/reviews",
    ] {
        ensure!(text.contains(wanted), "{wanted} is not in the dump");
    }
    // Scripts of users run it in the container.
    let exec = [
        "exec",
        &pod,
        "-c",
        "istio-proxy",
        "--",
        "pilot-agent",
        "request",
        "GET",
        "server_info",
    ];
    let info: Value = serde_json::from_str(&mesh.kubectl(&exec).await?)?;
    ensure!(info["state"] == "LIVE", "{info:#}");
    Ok(())
}

async fn pod_of_reviews(mesh: &Mesh) -> Result<String> {
    let query = [
        "get",
        "pods",
        "-l",
        "app=reviews,version=v1",
        "-o",
        "jsonpath={.items[*].metadata.name}",
    ];
    mesh.kubectl(&query).await
}

/// The real one.
async fn istioctl(mesh: &Mesh, binary: &PathBuf) -> Result<()> {
    let run = async |arguments: &[&str]| {
        let mut command = Command::new(binary);
        command.env("KUBECONFIG", mesh.cluster.kubeconfig()).args(arguments);
        let printed = mesh.cluster.printed(&mut command).await?;
        println!("$ istioctl {}\n{printed}", arguments.join(" "));
        anyhow::Ok(printed)
    };
    let pod = format!("{}.{SHOP}", pod_of_reviews(mesh).await?);
    let says = |printed: &str, wanted: &[&str]| {
        for text in wanted {
            ensure!(printed.contains(text), "`{text}` is not in: {printed}");
        }
        Ok(())
    };
    let status = run(&["proxy-status"]).await?;
    for proxy in proxies(mesh).await? {
        let line = status.lines().find(|line| line.starts_with(&proxy));
        let line = line.with_context(|| format!("{proxy} has no line: {status}"))?;
        says(line, &["CDS,LDS,EDS,RDS"])?;
    }
    // A listener that has just been removed drains for a while, and Envoy shows its routes until it is gone.
    eventually("the proxy holds what it was sent", PATIENCE, async || {
        let printed = run(&["proxy-status", &pod]).await.ok()?;
        says(&printed, &["Clusters Match", "Listeners Match", "Routes Match"]).ok()
    })
    .await?;
    says(
        &run(&["proxy-config", "cluster", &pod]).await?,
        &["reviews.shop.svc.cluster.local", "outbound", "PassthroughCluster"],
    )?;
    says(
        &run(&["proxy-config", "listener", &pod]).await?,
        &["15001", "15006", "0.0.0.0"],
    )?;
    says(&run(&["proxy-config", "route", &pod]).await?, &["reviews.shop"])?;
    says(
        &run(&["proxy-config", "endpoint", &pod]).await?,
        &["HEALTHY", "outbound|9080||ratings.shop.svc.cluster.local"],
    )?;
    says(
        &run(&["proxy-config", "secret", &pod]).await?,
        &["default", "ROOTCA", "ACTIVE"],
    )?;
    // That nothing was found is not said where findings are.
    let findings = run(&["analyze", "-n", SHOP]).await?;
    ensure!(!findings.contains("[IST"), "{findings}");
    says(
        &run(&["experimental", "describe", "pod", &pod]).await?,
        &[
            "Service: reviews.shop",
            "DestinationRule: reviews.shop",
            "VirtualService: reviews.shop",
            "mTLS mode: PERMISSIVE",
        ],
    )?;
    says(
        &run(&["version"]).await?,
        &["control plane version", "data plane version"],
    )
}

/// A port of a pod, reached through the API server as istioctl and Kiali do it.
struct Forward {
    port: u16,
    _kubectl: Child,
    /// kubectl ends when nobody reads what it prints.
    _printed: Lines<BufReader<ChildStdout>>,
}

impl Forward {
    async fn start(mesh: &Mesh, namespace: &str, pod: &str, port: u16) -> Result<Self> {
        let mut command = mesh.cluster.tool("kubectl");
        command.args([
            "-n",
            namespace,
            "port-forward",
            "--address",
            "127.0.0.1",
            pod,
            &format!(":{port}"),
        ]);
        let mut kubectl = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let printed = kubectl.stdout.take().context("kubectl prints nothing")?;
        // Forwarding from 127.0.0.1:40001 -> 15012
        let mut printed = BufReader::new(printed).lines();
        let line = printed.next_line().await?.context("kubectl forwards nothing")?;
        let from = line.split(" -> ").next().and_then(|from| from.rsplit_once(':'));
        let port = from.with_context(|| format!("kubectl says {line:?}"))?.1.parse()?;
        Ok(Self {
            port,
            _kubectl: kubectl,
            _printed: printed,
        })
    }

    async fn get(&self, path: &str) -> Result<String> {
        let answer = http::get(([127, 0, 0, 1], self.port).into(), "localhost", path).await?;
        ensure!(answer.status == 200, "{path}: {answer:?}");
        Ok(answer.body)
    }
}
